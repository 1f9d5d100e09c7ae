"""What all codecs promise of outputs that are not plain."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import msgspec
import numpy as np
import pytest
from pydantic import BaseModel, Field, HttpUrl, RootModel, SecretStr

from headrace.codecs import JSON, MSGPACK, RAW, Codec
from headrace.codecs.base import holds_nan
from headrace.errors import OutputError

both = pytest.mark.parametrize("codec", [JSON, MSGPACK], ids=["json", "msgpack"])


class Answer(BaseModel):
    label: str = Field(serialization_alias="theLabel")
    score: float = 0.5


class Odd(BaseModel):
    url: HttpUrl = HttpUrl("http://a/")
    secret: SecretStr = SecretStr("s")


@dataclasses.dataclass(slots=True)
class Slotted:
    score: Any


class Structured(msgspec.Struct):
    score: Any


def again(codec: Codec, value: Any) -> Any:
    return codec.decode(codec.encode(value), max_depth=64)


@both
@pytest.mark.parametrize(
    ("output", "value"),
    [
        (Answer(label="a"), {"theLabel": "a", "score": 0.5}),
        ([Answer(label="a")], [{"theLabel": "a", "score": 0.5}]),
        (RootModel[list[int]]([1, 2]), [1, 2]),
        (Odd(), {"url": "http://a/", "secret": "**********"}),
        (Slotted(1), {"score": 1}),
        (Structured(1), {"score": 1}),
        (np.array([[1, 2], [3, 4]]), [[1, 2], [3, 4]]),
        (np.array(7), 7),
        (np.float32(1.5), 1.5),
        (np.int64(3), 3),
        (np.bool_(True), True),
        (np.str_("a"), "a"),
        ({"a": np.arange(2)}, {"a": [0, 1]}),
        ((1, "a"), [1, "a"]),
    ],
    ids=lambda part: type(part).__name__,
)
def test_foreign_objects_are_written_in_their_plain_form(
    codec: Codec, output: Any, value: Any
) -> None:
    assert again(codec, output) == value


@both
@pytest.mark.parametrize(
    ("output", "name"),
    [
        (object(), "object"),
        (1j, "complex"),
        ((i for i in range(3)), "generator"),
        (ValueError("/etc/secret"), "ValueError"),
        (np.longdouble(1), "longdouble"),
        ([{"a": range(3)}], "range"),
    ],
    ids=lambda part: part if isinstance(part, str) else "",
)
def test_an_object_without_a_plain_form_is_told_by_its_type_alone(
    codec: Codec, output: Any, name: str
) -> None:
    with pytest.raises(OutputError) as caught:
        codec.encode(output)
    assert caught.value.message.endswith(f"a value of type {name}")


@both
def test_an_objects_own_exception_is_the_cause_and_not_shown(codec: Codec) -> None:
    class Failing:
        def tolist(self) -> Any:
            raise ValueError("/etc/secret")

    with pytest.raises(OutputError) as caught:
        codec.encode([Failing()])
    assert caught.value.message.endswith("Failing raised while it was written")
    assert isinstance(caught.value.__cause__, ValueError)


@both
def test_nesting_without_end_is_refused(codec: Codec) -> None:
    deep: list[Any] = []
    for _ in range(100_000):
        deep = [deep]
    itself: list[Any] = []
    itself.append(itself)
    for output in (deep, itself):
        with pytest.raises(OutputError, match="it nests too deeply, or holds itself"):
            codec.encode(output)


@both
def test_a_lone_surrogate_cannot_be_written(codec: Codec) -> None:
    with pytest.raises(OutputError, match="surrogates not allowed"):
        codec.encode("\ud800")


@pytest.mark.parametrize(
    "wrap",
    [
        lambda number: [[number]],
        lambda number: {"a": (number,)},
        lambda number: Slotted(number),
        lambda number: Structured([number]),
        lambda number: Answer(label="a", score=number),
        lambda number: np.array([1.0, number]),
        lambda number: {"a": np.float32(number)},
        lambda number: Slotted(Structured({number})),
    ],
    ids=["list", "dict", "dataclass", "struct", "pydantic", "array", "scalar", "nested"],
)
def test_nan_is_found_wherever_it_hides(wrap: Any) -> None:
    assert holds_nan(wrap(math.nan))
    assert not holds_nan(wrap(1.0))
    with pytest.raises(OutputError, match="NaN"):
        JSON.encode(wrap(math.nan))
    assert b"null" in JSON.encode(wrap(math.nan), nan_as_null=True)


def test_raw_bytes_go_through_unchanged() -> None:
    assert RAW.decode(b"\xff", max_depth=1) == b"\xff"
    for output in (b"\xff", bytearray(b"\xff"), memoryview(b"\xff")):
        assert RAW.encode(output) == b"\xff"


def test_raw_takes_nothing_but_bytes() -> None:
    with pytest.raises(OutputError, match="cannot be written as raw bytes: a value of type str"):
        RAW.encode("text")


def test_codecs_say_what_they_are() -> None:
    assert [(codec.structured, codec.text_keys) for codec in (JSON, MSGPACK, RAW)] == [
        (True, True),
        (True, False),
        (False, False),
    ]
