"""A Ventu as headrace serves it: `headrace serve module:model`."""

from __future__ import annotations

import datetime
import logging
from typing import Any

import msgspec
import pytest
from pydantic import BaseModel, ConfigDict, RootModel

from headrace import Batching, Model
from headrace.call import Failure, Outcome, Payload, Value
from headrace.errors import ReplicaStartFailed
from headrace.replica import Replica
from headrace.targets import models_of
from headrace.testing import check
from tests.unit.ventu.models import DECODE, ENCODE, Batched, Length, Single, Text
from ventu import Ventu

MEDIA_TYPES = {"application/json": False, "application/msgpack": True}


def model_of(ventu: Any) -> Model:
    (make,) = models_of(ventu, where="app:model")
    return make()


def run(
    ventu: Ventu, *values: Any, media_type: str = "application/json"
) -> tuple[list[Outcome], bool]:
    """The outcomes, and whether the batch raised and is run again in parts."""
    use_msgpack = MEDIA_TYPES[media_type]
    payloads = [
        Payload(body=ENCODE[use_msgpack](value), input_type=media_type, output_type=media_type)
        for value in values
    ]
    replica = Replica(model_of(ventu))
    replica.load()
    answers: list[tuple[int, Outcome]] = []
    isolation = replica.run(list(enumerate(payloads)), answers.append)
    while isolation is not None and isolation.step(answers.append):
        pass
    outcomes = dict(answers)
    return [outcomes[index] for index in range(len(values))], isolation is not None


def decoded(outcome: Outcome) -> Any:
    if isinstance(outcome, Value):
        return DECODE[MEDIA_TYPES[outcome.media_type]](outcome.body)
    return (outcome.code, outcome.status)


def test_the_card_says_what_the_schemas_and_the_class_say() -> None:
    card = Replica(model_of(Batched(Text, Length))).card
    assert (card.name, card.version, card.description) == (
        "batched",
        "latest",
        "How long are they?",
    )
    assert card.request_schema["properties"]["text"]["minLength"] == 1
    assert card.request_schema["example"] == {"text": "hello"}
    assert card.response_schema["required"] == ["length"]
    assert card.batching == Batching(max_batch_size=32)
    assert [msgspec.json.decode(each.body) for each in card.examples] == [{"text": "hello"}]


def test_the_configured_name_and_version() -> None:
    card = Replica(model_of(Single(Text, Length, name="My (2nd) Service", version="7"))).card
    assert (card.name, card.version) == ("my-2nd-service", "7")


def test_a_class_that_needs_no_arguments_is_a_target() -> None:
    class Ready(Single):
        def __init__(self) -> None:
            super().__init__(Text, Length)

    assert Replica(model_of(Ready)).card.name == "ready"
    assert check(model_of(Ready)) is not None


@pytest.mark.parametrize("media_type", MEDIA_TYPES)
@pytest.mark.parametrize("cls", [Single, Batched])
def test_items_have_outcomes_of_their_own(
    media_type: str, cls: type[Single], caplog: pytest.LogCaptureFixture
) -> None:
    texts = ["one", "", "raise", "three", "a broken one", "raise in preprocess"]
    values = [{"text": text} for text in texts]
    outcomes, was_run_again = run(cls(Text, Length), *values, media_type=media_type)
    assert [decoded(each) for each in outcomes] == [
        {"length": 3},
        ("invalid", None),
        ("item_error", 500),
        {"length": 5},
        ("item_error", 500),
        ("item_error", 500),
    ]
    assert was_run_again is (cls is Batched)
    assert "a response was not sent" in caplog.text
    assert "no such word" in caplog.text


def test_one_invalid_and_one_that_raises_among_32() -> None:
    texts = [f"{number:03}" for number in range(32)]
    texts[3], texts[30] = "", "raise"
    outcomes, _ = run(Batched(Text, Length), *({"text": text} for text in texts))
    found = [decoded(each) for each in outcomes]
    assert found.pop(30) == ("item_error", 500)
    assert found.pop(3) == ("invalid", None)
    assert found == [{"length": 3}] * 30


def test_an_error_names_the_field() -> None:
    (outcome,), _ = run(Single(Text, Length), {"text": ""})
    assert isinstance(outcome, Failure)
    assert outcome.details[0]["path"] == "$.text"


def test_a_model_that_is_not_idempotent_is_not_run_again() -> None:
    class Once(Batched):
        idempotent = False

    outcomes, was_run_again = run(Once(Text, Length), {"text": "raise"}, {"text": "one"})
    assert [decoded(each) for each in outcomes] == [("item_error", 500)] * 2
    assert not was_run_again


class Inner(BaseModel):
    when: datetime.datetime
    data: bytes = b""


class Strict(BaseModel):
    model_config = ConfigDict(strict=True)
    inner: list[Inner]


class Lax(BaseModel):
    n: int
    inner: Inner | None = None


def test_the_same_requests_are_valid_as_elsewhere() -> None:
    """By pydantic's rules, not headrace's: text may be a number, unknown fields are let pass."""

    class Echo(Ventu):
        pass

    outcomes, _ = run(Echo(Lax, Lax), {"n": "3", "other": 1}, {"n": "x"}, {"n": 3.0})
    assert [decoded(each) for each in outcomes] == [
        {"n": 3, "inner": None},
        ("invalid", None),
        {"n": 3, "inner": None},
    ]
    when = "2020-01-01T00:00:00Z"
    for media_type in MEDIA_TYPES:
        (outcome,), _ = run(
            Echo(Strict, Strict), {"inner": [{"when": when}]}, media_type=media_type
        )
        assert isinstance(outcome, Value)


def test_a_schema_need_not_be_an_object() -> None:
    class Numbers(RootModel[list[float]]):
        model_config = ConfigDict(json_schema_extra={"example": [1, 2]})

    class Total(RootModel[float]):
        pass

    class Sum(Ventu):
        def inference(self, data: Any) -> Any:
            return sum(data.root)

    model = Sum(Numbers, Total)
    card = Replica(model_of(model)).card
    assert card.request_schema["example"] == [1, 2]
    (outcome,), _ = run(model, [1, 2, 3])
    assert decoded(outcome) == 6.0


def test_examples_that_json_does_not_carry_are_left_out() -> None:
    extra: Any = {"example": {"data": b"\xff", "when": object()}}

    class Picture(BaseModel):
        data: bytes
        when: datetime.datetime
        model_config = ConfigDict(json_schema_extra=extra)

    assert Replica(model_of(Ventu(Picture, Picture, True))).card.examples == ()


@pytest.mark.filterwarnings("ignore:Valid config keys have changed:UserWarning")
@pytest.mark.filterwarnings("ignore:Support for class-based")
def test_examples_in_the_style_of_pydantic_1() -> None:
    class Old(BaseModel):
        text: str

        class Config:
            schema_extra = {"example": {"text": "hi"}}  # noqa: RUF012

    card = Replica(model_of(Ventu(Old, Old))).card
    assert card.request_schema["example"] == card.response_schema["example"] == {"text": "hi"}
    assert len(card.examples) == 1


def test_failures_are_logged_a_few_times_a_second(caplog: pytest.LogCaptureFixture) -> None:
    run(Single(Text, Length), *[{"text": "raise"}] * 100)
    records = [each for each in caplog.records if each.name == "ventu.models"]
    assert 0 < len(records) < 50
    assert all(each.levelno == logging.ERROR for each in records)


def test_a_model_that_answers_its_examples_wrongly_is_not_served() -> None:
    class Longer(Single):
        def postprocess(self, data: Any) -> Any:
            return {"length": 99}

    with pytest.raises(ReplicaStartFailed, match="load raised AssertionError: expected") as raised:
        Replica(model_of(Longer(Text, Length))).load()
    assert isinstance(raised.value.__cause__, AssertionError)
