from __future__ import annotations

import functools
from collections.abc import AsyncIterator, Generator, Iterator, Sequence
from typing import Annotated, Any, ClassVar, Optional

import numpy as np
import numpy.typing as npt
import pytest

from headrace.call import Payload
from headrace.config import Batching
from headrace.errors import ConfigError, ItemError
from headrace.model import (
    _ATTRIBUTES,
    FunctionModel,
    Model,
    check_attributes,
    description_of,
    item_type,
    model,
    name_of,
    signature_of,
)


class Echo(Model):
    """Says it again.

    And again.
    """

    def predict(self, batch: list[str]) -> Sequence[str | ItemError]:
        return batch


class Whole(Model):
    def preprocess(self, item: bytes) -> int:
        return len(item)

    def predict(self, batch: list[int]) -> npt.NDArray[np.float32]:
        return np.array(batch, np.float32)

    def postprocess(self, output: np.float32) -> dict[str, float]:
        return {"score": float(output)}


class Static(Model):
    @staticmethod
    def predict(batch: list[int]) -> list[int]:
        return batch


class FileType2Model(Model):
    def predict(self, batch):  # type: ignore[no-untyped-def]
        return batch


def test_only_predict_is_required() -> None:
    echo = Echo()
    echo.load()
    assert echo.preprocess("a") == "a"
    assert echo.postprocess("a") == "a"
    echo.unload()
    with pytest.raises(NotImplementedError):
        Model().predict([])


def test_key_and_cost_are_the_payloads_own_unless_defined() -> None:
    payload = Payload(body=b"", input_type="a/b", output_type="a/b", key="k", cost=2.0)
    assert (Echo().key(payload), Echo().cost(payload)) == ("k", 2.0)


def test_the_item_types_are_those_of_predicts_batch() -> None:
    assert signature_of(Echo()) == (str, str)


def test_preprocess_says_what_a_request_is_and_postprocess_what_an_answer_is() -> None:
    assert signature_of(Whole()) == (bytes, dict[str, float])


def test_a_static_predict_is_one_too() -> None:
    assert signature_of(Static()) == (int, int)


def test_without_annotations_anything_is_taken() -> None:
    assert signature_of(FileType2Model()) == (Any, Any)


@pytest.mark.parametrize(
    ("annotation", "item"),
    [
        (list[int], int),
        (Sequence[str], str),
        (Iterator[str], str),
        (tuple[int, ...], int),
        (list[int | ItemError], int),
        (list[Optional[int]], Optional[int]),  # noqa: UP045  (the form under test)
        (list[Annotated[int, "m"]], Annotated[int, "m"]),
        (list[ItemError], Any),
        (tuple[int, str], Any),
        (dict[str, int], Any),
        (Generator[int, None, None], Any),
        (npt.NDArray[np.float32], Any),
        (np.ndarray, Any),
        (list, Any),
        (int, Any),
        (Any, Any),
    ],
    ids=map(str, range(16)),
)
def test_the_item_type_is_that_of_a_sequences_elements(annotation: Any, item: Any) -> None:
    assert item_type(annotation) == item


class NoPredict(Model):
    pass


class Async(Model):
    async def predict(self, batch: list[str]) -> list[str]:
        return batch


class AsyncLoad(Echo):
    async def load(self) -> None:  # type: ignore[override]
        pass


class Stream(Echo):
    async def postprocess(self, output: str) -> AsyncIterator[str]:
        yield output


class NoArgument(Model):
    def predict(self) -> list[str]:  # type: ignore[override]
        return []


class Unknown(Model):
    def predict(self, batch: list[Nowhere]) -> Any:  # type: ignore[name-defined]  # noqa: F821
        return batch


@pytest.mark.parametrize(
    ("cls", "message"),
    [
        (NoPredict, "NoPredict: expected a predict method, found none"),
        (Async, "Async.predict: expected a plain function, got an async one"),
        (AsyncLoad, "AsyncLoad.load: expected a plain function, got an async one"),
        (Stream, "Stream.postprocess: expected a plain function, got an async one"),
        (NoArgument, "NoArgument.predict: expected one argument, found none"),
        (Unknown, "Unknown.predict: annotation: name 'Nowhere' is not defined"),
    ],
)
def test_a_model_that_cannot_be_served_is_told_by_its_method(
    cls: type[Model], message: str
) -> None:
    with pytest.raises(ConfigError) as caught:
        signature_of(cls())
    assert str(caught.value) == message


def test_an_async_function_is_no_model() -> None:
    @model
    async def later(batch: list[str]) -> list[str]:
        return batch

    with pytest.raises(ConfigError, match="later: expected a plain function, got an async one"):
        signature_of(later)


def test_a_partial_has_no_annotations_to_read() -> None:
    made = model(functools.partial(sorted, reverse=True))
    assert name_of(made) == "function-model"
    with pytest.raises(ConfigError, match="partial: annotation: "):
        signature_of(made)


@pytest.mark.parametrize(
    ("attribute", "value", "message"),
    [
        ("batching", {"max_batch_size": 1}, "expected Batching(...), got {'max_batch_size': 1}"),
        ("examples", "hello", "expected a list, got 'hello'"),
        ("idempotent", 1, "expected True or False, got 1"),
        ("version", 2, "expected text, got 2"),
        ("name", None, "expected text, got None"),
        ("tolerance", "x", "expected a number, got 'x'"),
        (
            "response_media_type",
            "image/png\r\nx: y",
            "expected a media type such as image/png, got 'image/png\\r\\nx: y'",
        ),
    ],
)
def test_an_attribute_of_another_kind_is_refused(attribute: str, value: Any, message: str) -> None:
    echo = Echo()
    check_attributes(echo)
    setattr(echo, attribute, value)
    with pytest.raises(ConfigError) as caught:
        check_attributes(echo)
    assert str(caught.value) == f"Echo.{attribute}: {message}"


def test_the_name_is_the_classs_with_dashes_or_its_own() -> None:
    assert name_of(Echo()) == "echo"
    assert name_of(FileType2Model()) == "file-type2-model"

    class Named(Echo):
        name: ClassVar = "my.model_1"

    assert name_of(Named()) == "my.model_1"


@pytest.mark.parametrize("name", ["a/b", "-a", "ü", "a" * 129, "a\n"])
def test_a_name_that_would_not_do_in_a_path_is_refused(name: str) -> None:
    class Named(Echo):
        pass

    Named.name = name
    with pytest.raises(ConfigError, match="name: expected letters, digits, dots, dashes and"):
        name_of(Named())


def test_the_description_is_the_models_own_docstring() -> None:
    assert description_of(Echo()) == "Says it again.\n\nAnd again."
    assert description_of(Whole()) == ""


def test_a_function_is_a_model_and_can_still_be_called() -> None:
    @model
    def shout_loud(batch: list[str]) -> list[str]:
        """Louder."""
        return [text.upper() for text in batch]

    assert isinstance(shout_loud, FunctionModel)
    assert shout_loud(["a"]) == shout_loud.predict(["a"]) == ["A"]
    assert (name_of(shout_loud), description_of(shout_loud)) == ("shout-loud", "Louder.")
    assert signature_of(shout_loud) == (str, str)


def test_a_function_without_a_docstring_has_no_description() -> None:
    assert description_of(model(lambda batch: batch)) == ""


def test_a_function_model_takes_a_models_attributes() -> None:
    batching = Batching(max_batch_size=2)

    @model(name="twice", batching=batching, examples=[1], version="7")
    def double(batch: list[int]) -> list[int]:
        return [2 * item for item in batch]

    assert (double.name, double.batching, double.version) == ("twice", batching, "7")
    assert list(double.examples) == [1]
    check_attributes(double)


def test_an_attribute_that_models_do_not_have_is_refused() -> None:
    with pytest.raises(ConfigError, match="@model: colour: no such attribute of Model"):
        model(colour="red")(lambda batch: batch)


def test_every_attribute_of_a_model_is_checked() -> None:
    assert set(_ATTRIBUTES) == set(Model.__annotations__)
