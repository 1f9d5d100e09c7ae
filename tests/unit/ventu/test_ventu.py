"""The class that users inherit: examples and the health check, in all their cases."""

from __future__ import annotations

import logging
import subprocess
import sys
import warnings
from typing import Any

import numpy as np
import pytest
from prometheus_client import CollectorRegistry
from pydantic import BaseModel, ConfigDict, RootModel, ValidationError

from tests.unit.ventu.models import Batched, Length, Text
from ventu import Ventu
from ventu.examples import extra_of


class Number(BaseModel):
    n: float
    note: str = ""


class Answer(BaseModel):
    n: float
    note: str = ""


class Double(Ventu):
    def inference(self, data: Any) -> Any:
        return {"n": 2 * data.n}

    def batch_inference(self, batch: list[Any]) -> Any:
        self.sizes = [*getattr(self, "sizes", []), len(batch)]
        return [{"n": 2 * each.n} for each in batch]


def of_v1(schema: type[BaseModel], _extra: Any = None, **extra: Any) -> type[BaseModel]:
    """A schema with examples as pydantic 1 has them."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # pydantic's advice to whoever writes that

        class Made(schema):  # type: ignore[misc, valid-type]  # a variable
            class Config:
                schema_extra = staticmethod(_extra) if _extra else extra

    return Made


def of_v2(schema: type[BaseModel], **extra: Any) -> type[BaseModel]:
    own = {"model_config": ConfigDict(json_schema_extra=extra), "__module__": __name__}
    return type(schema.__name__, (schema,), own)


STYLES = pytest.mark.parametrize("style", [of_v1, of_v2])


def test_the_published_names() -> None:
    import ventu.config
    import ventu.protocol
    import ventu.service
    import ventu.ventu

    assert ventu.Ventu is ventu.ventu.Ventu
    assert issubclass(ventu.config.Config, BaseModel)
    assert [(each.name, each.value) for each in ventu.service.StatusEnum] == [
        ("ok", "OK"),
        ("error", "Error"),
    ]
    status = ventu.service.ServiceStatus(inference=ventu.service.StatusEnum.error)
    assert status.model_dump(mode="json") == {"inference": "Error", "service": "OK"}
    assert callable(ventu.service.create_app)
    assert ventu.protocol.BatchProtocol is ventu.BatchProtocol
    for name in ventu.__all__:
        assert getattr(ventu, name) is not None
        assert name in dir(ventu)
    with pytest.raises(AttributeError, match="no attribute 'Vento'"):
        ventu.Vento  # noqa: B018  (looking it up is the test)


def test_importing_it_imports_nothing_heavy() -> None:
    source = "import sys, ventu; print(*sys.modules)"
    ran = subprocess.run([sys.executable, "-c", source], capture_output=True, text=True, timeout=30)
    assert ran.stderr == ""
    assert {"pydantic", "falcon", "prometheus_client", "headrace"}.isdisjoint(ran.stdout.split())


@pytest.mark.parametrize("style", [of_v1, of_v2, None])
def test_the_attributes(style: Any) -> None:
    request, response = Number, Answer
    if style is not None:
        request, response = (
            style(Number, example={"n": 1}, batch_size=7),
            style(Answer, example={"n": 2}),
        )
    model = Double(request, response, True, port=9000)
    assert model.req_schema is request
    assert model.resp_schema is response
    assert model.use_msgpack is True
    assert model.req_example == (None if style is None else {"n": 1})
    assert model.resp_example == (None if style is None else {"n": 2})
    assert model.warmup_size == (1 if style is None else 7)
    assert model.config.port == 9000
    assert isinstance(model.logger, logging.Logger)
    assert isinstance(model.metric_registry, CollectorRegistry)
    assert model.metric_registry is not Double(request, response).metric_registry
    for metric, label in (
        (model.SINGLE_PROCESS_TIME, "process"),
        (model.BATCH_PROCESS_TIME, "process"),
        (model.WORKER, "protocol"),
    ):
        assert metric._labelnames == (label,)


def test_positional_arguments_beyond_the_third_are_let_pass() -> None:
    assert Double(Number, Answer, False, "more", name="x").config.name == "x"


def test_all_methods_are_the_identity() -> None:
    model = Ventu(Number, Number)
    data = Number(n=1)
    for method in (model.preprocess, model.inference, model.postprocess):
        assert method(data) is data
    items = [data]
    assert model.batch_inference(items) is items


@STYLES
def test_extras_may_be_a_function(style: Any) -> None:
    def only_schema(schema: dict[str, Any]) -> None:
        schema["example"] = {"n": len(schema["properties"])}

    def with_class(schema: dict[str, Any], cls: type) -> None:
        schema["example"] = {"name": cls.__name__}

    def made(function: Any) -> Any:
        if style is of_v1:
            return of_v1(Number, function)
        own = {"model_config": ConfigDict(json_schema_extra=function)}
        return type("Made", (Number,), own | {"__module__": __name__})

    assert extra_of(made(only_schema)) == {"example": {"n": 2}}
    assert extra_of(made(with_class)) == {"example": {"name": "Made"}}


@STYLES
def test_extras_are_inherited(style: Any) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")

        class Sub(style(Number, example={"n": 1})):  # type: ignore[misc]  # made at run time
            more: int = 0

    assert extra_of(Sub) == {"example": {"n": 1}}


@STYLES
@pytest.mark.parametrize(
    ("request_extra", "response_extra"),
    [
        ({}, {"example": {"n": 2}}),
        ({}, {"examples": [{"n": 2}]}),
        ({"examples": [{"n": 1}]}, {"examples": [{"n": 2}, {"n": 4}]}),
        ({"examples": [{"n": 1}]}, {"example": {"n": 2}}),
    ],
)
def test_a_response_without_a_request_is_an_error(
    style: Any, request_extra: dict[str, Any], response_extra: dict[str, Any]
) -> None:
    with pytest.raises(AssertionError, match="expected a request for each response"):
        Double(style(Number, **request_extra), style(Answer, **response_extra))


@pytest.mark.parametrize("size", [0, -1, "2", 1.5, True])
def test_a_batch_size_that_is_none_is_refused(size: Any) -> None:
    with pytest.raises(ValueError, match="batch_size: expected at least 1, got"):
        Double(of_v2(Number, batch_size=size), Answer)


# The health check


def checked(request: dict[str, Any], response: dict[str, Any], cls: type[Ventu] = Double) -> Any:
    return cls(of_v2(Number, **request), of_v2(Answer, **response))


@pytest.mark.parametrize("batch", [False, True])
def test_without_an_example_there_is_nothing_to_check(
    batch: bool, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    assert Double(Number, Answer).health_check(batch) is None
    assert "has no example" in caplog.text


@pytest.mark.parametrize("batch", [False, True])
@pytest.mark.parametrize("response", [{}, {"example": {"n": 2.0}}, {"example": {"n": 2}}])
def test_an_example_that_runs_through(batch: bool, response: dict[str, Any]) -> None:
    assert checked({"example": {"n": 1}}, response).health_check(batch=batch) is True


@pytest.mark.parametrize("batch", [False, True])
def test_another_result_than_the_example_is_told_with_both(batch: bool) -> None:
    model = checked({"example": {"n": 1}}, {"example": {"n": 3}})
    with pytest.raises(AssertionError, match=r"expected \{'n': 3\}, got \{'n': 2.0\}"):
        model.health_check(batch)


@pytest.mark.parametrize("batch", [False, True])
@pytest.mark.parametrize("number", [0, 1, 2])
def test_examples_are_paired_by_their_index(batch: bool, number: int) -> None:
    requests = [{"n": 1}, {"n": 2}, {"n": 3}]
    responses = [{"n": 2}, {"n": 4}, {"n": 6}]
    for size in (1, 2, 3, 5):
        request = {"examples": requests, "batch_size": size}
        assert checked(request, {"examples": responses}).health_check(batch) is True
        assert checked(request, {}).health_check(batch) is True
        assert checked(request, {"examples": responses[:1]}).health_check(batch) is True
        wrong = [*responses]
        wrong[number] = {"n": -1}
        with pytest.raises(AssertionError, match=r"expected \{'n': -1\}"):
            checked(request, {"examples": wrong}).health_check(batch)


def test_a_batch_has_the_warm_up_size() -> None:
    model = checked({"example": {"n": 1}, "batch_size": 4}, {"example": {"n": 2}})
    model.health_check(batch=True)
    assert model.sizes == [4]
    model = checked({"examples": [{"n": 1}] * 3, "batch_size": 2}, {})
    model.health_check(batch=True)
    assert model.sizes == [2, 2]


def test_a_list_of_responses_is_compared_element_by_element_in_a_batch() -> None:
    class Numbered(Double):
        def batch_inference(self, batch: list[Any]) -> Any:
            return [{"n": number} for number in range(len(batch))]

    request = {"example": {"n": 1}, "batch_size": 3}
    each = [{"n": 0}, {"n": 1}, {"n": 2}]
    assert checked(request, {"example": each}, Numbered).health_check(batch=True) is True
    assert checked(request, {"example": each[:2]}, Numbered).health_check(batch=True) is True
    with pytest.raises(AssertionError, match=r"expected \{'n': 0\}, got \{'n': 2\}"):
        wrong = {"example": [*each[:2], {"n": 0}]}
        checked(request, wrong, Numbered).health_check(batch=True)
    with pytest.raises(AssertionError, match="batch_size of at least 4"):
        checked(request, {"example": [*each, {"n": 3}]}, Numbered).health_check(batch=True)
    with pytest.raises(ValidationError):
        checked(request, {"example": [{"n": "x"}]}, Numbered).health_check(batch=True)
    with pytest.raises(AssertionError):
        checked(request, {"example": each}, Numbered).health_check()


def test_a_response_that_is_a_list_is_one_response() -> None:
    class Pair(RootModel[list[float]]):
        model_config = ConfigDict(json_schema_extra={"example": [1, 2]})

    class Both(Ventu):
        def inference(self, data: Any) -> Any:
            return [data.n, 2 * data.n]

        def batch_inference(self, batch: list[Any]) -> Any:
            return np.array([self.inference(each) for each in batch])

    model = Both(of_v2(Number, example={"n": 1}, batch_size=2), Pair)
    assert model.health_check() is True
    assert model.health_check(batch=True) is True


@pytest.mark.parametrize(
    "result",
    [
        Answer(n=2),
        Answer(n=2, note=""),
        {"n": np.float64(2)},
        {"n": np.float32(2)},
        {"n": np.array(2)},
        {"n": 2},
    ],
)
@pytest.mark.parametrize("batch", [False, True])
def test_models_and_dicts_are_compared_as_plain_data(result: Any, batch: bool) -> None:
    class Fixed(Double):
        def postprocess(self, data: Any) -> Any:
            return result

    assert checked({"example": {"n": 1}}, {"example": {"n": 2}}, Fixed).health_check(batch) is True
    with pytest.raises(AssertionError):
        checked({"example": {"n": 1}}, {"example": {"n": 3}}, Fixed).health_check(batch)


def test_what_cannot_be_written_is_compared_as_it_is() -> None:
    class NoNumber(Double):
        def postprocess(self, data: Any) -> Any:
            return {"n": float("nan")}

    with pytest.raises(AssertionError, match=r"got \{'n': nan\}"):
        checked({"example": {"n": 1}}, {"example": {"n": 2}}, NoNumber).health_check()


@pytest.mark.parametrize("batch", [False, True])
@pytest.mark.parametrize("step", ["preprocess", "inference", "postprocess"])
def test_what_the_model_raises_is_raised(batch: bool, step: str) -> None:
    def fail(*_: Any) -> Any:
        raise LookupError(step)

    name = "batch_inference" if batch and step == "inference" else step
    model = type("Failing", (Double,), {name: fail})(of_v2(Number, example={"n": 1}), Answer)
    with pytest.raises(LookupError, match=step):
        model.health_check(batch)


@pytest.mark.parametrize("batch", [False, True])
def test_an_example_that_is_none_is_raised(batch: bool) -> None:
    with pytest.raises(ValidationError):
        checked({"example": {"n": "x"}}, {}).health_check(batch)
    with pytest.raises(ValidationError):
        checked({"example": {"n": 1}}, {"example": {"n": "x"}}).health_check(batch)


def test_an_example_may_be_empty() -> None:
    class Nothing(BaseModel):
        model_config = ConfigDict(json_schema_extra={"example": {}})

    class Constant(Ventu):
        def inference(self, data: Any) -> Any:
            return {"n": 1}

    assert Constant(Nothing, Answer).health_check() is True


@pytest.mark.parametrize("name", ["app", "asgi_app", "sock"])
def test_the_first_use_checks_the_health_and_the_object_is_kept(name: str) -> None:
    class Counting(Batched):
        checks: list[bool]

        def health_check(self, batch: bool = False) -> bool | None:
            self.checks = [*getattr(self, "checks", []), batch]
            return super().health_check(batch)

    model = Counting(Text, Length)
    assert getattr(model, name) is getattr(model, name)
    assert model.checks == [name != "app"]  # the others run batches


@pytest.mark.parametrize("name", ["app", "asgi_app", "sock"])
def test_no_use_of_a_model_that_is_not_well(name: str) -> None:
    class Wrong(Batched):
        def postprocess(self, data: int) -> Any:
            return {"length": -1}

    model = Wrong(Text, Length)
    for _ in range(2):
        with pytest.raises(AssertionError, match=r"expected \{'length': 5\}, got \{'length': -1\}"):
            getattr(model, name)
