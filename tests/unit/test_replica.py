from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Annotated, Any, ClassVar

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel, Field

from headrace.call import Failure, Outcome, Payload, Value
from headrace.codecs import JSON, MSGPACK
from headrace.config import Batching, Limits
from headrace.errors import ConfigError, ItemError, ReplicaStartFailed
from headrace.model import Model, model
from headrace.replica import MAX_LOG, Replica


class Order(BaseModel):
    what: str
    count: int = 1


class Receipt(BaseModel):
    text: str = Field(serialization_alias="theText")


class Moody(Model):
    """Fails where the order says so."""

    examples: ClassVar = [{"what": "example"}]

    def preprocess(self, order: Order) -> str:
        if order.what == "preprocess":
            raise KeyError("/etc/secret")
        if order.what == "refuse":
            raise ItemError("not this one", status=409, details=[{"why": "so"}])
        return order.what

    def predict(self, batch: list[str]) -> list[Any]:
        if "predict" in batch:
            raise RuntimeError("/etc/secret")
        return [ItemError("no answer") if text == "item" else text for text in batch]

    def postprocess(self, text: str) -> Any:
        if text == "postprocess":
            raise SystemExit(3)
        return object() if text == "encode" else {"text": text}


def payload(value: Any, media_type: str = "application/json") -> Payload:
    codec = JSON if media_type == "application/json" else MSGPACK
    return Payload(body=codec.encode(value), input_type=media_type, output_type=media_type)


def serve(replica: Replica, payloads: Sequence[Payload]) -> list[Outcome]:
    """The outcome of each, which all have exactly one."""
    outcomes: dict[int, Outcome] = {}

    def emit(answer: tuple[int, Outcome]) -> None:
        index, outcome = answer
        assert index not in outcomes
        outcomes[index] = outcome

    isolation = replica.run(list(enumerate(payloads)), emit)
    while isolation is not None and isolation.step(emit):
        pass
    assert sorted(outcomes) == list(range(len(payloads)))
    return [outcomes[index] for index in range(len(payloads))]


def ask(made: Model, *values: Any) -> list[Outcome]:
    return serve(Replica(made), [payload(value) for value in values])


def answer(outcome: Outcome) -> Any:
    assert isinstance(outcome, Value), outcome
    return json.loads(outcome.body)


def failure(outcome: Outcome) -> Failure:
    assert isinstance(outcome, Failure), outcome
    assert "/etc/secret" not in JSON.encode([outcome.message, outcome.details]).decode()
    return outcome


def of_function(function: Callable[[list[Any]], Any], **attributes: Any) -> Model:
    function.__annotations__ = {}
    return model(**{"name": "function", **attributes})(function)


# One item's fault


@pytest.mark.parametrize("media_type", ["application/json", "application/msgpack"])
def test_every_item_gets_its_own_answer_or_its_own_failure(media_type: str) -> None:
    bad: dict[int, Payload] = {
        3: Payload(body=b"{", input_type="application/json", output_type=media_type),
        5: payload({"what": 1}, media_type),
        8: payload({}, media_type),
    }
    for place, what in {
        11: "preprocess",
        14: "refuse",
        17: "predict",
        20: "item",
        23: "postprocess",
        26: "encode",
    }.items():
        bad[place] = payload({"what": what}, media_type)
    outcomes = serve(
        Replica(Moody()),
        [bad.get(place) or payload({"what": f"w{place}"}, media_type) for place in range(32)],
    )
    for place in set(range(32)) - set(bad):
        found = outcomes[place]
        assert isinstance(found, Value)
        codec = JSON if media_type == "application/json" else MSGPACK
        assert codec.decode(found.body, max_depth=4) == {"text": f"w{place}"}
    assert {place: failure(outcomes[place]).code for place in bad} == {
        3: "malformed",
        5: "invalid",
        8: "invalid",
        11: "model_error",
        14: "item_error",
        17: "model_error",
        20: "item_error",
        23: "model_error",
        26: "output_error",
    }
    assert failure(outcomes[11]).message == "the model failed in preprocess"
    assert "KeyError: '/etc/secret'" in (failure(outcomes[11]).log or "")
    assert failure(outcomes[14]).status == 409
    assert failure(outcomes[14]).details == ({"why": "so"},)
    assert failure(outcomes[17]).details == ({"stage": "predict"},)
    assert "SystemExit: 3" in (failure(outcomes[23]).log or "")


def test_a_batch_in_which_no_item_can_be_prepared_is_not_predicted() -> None:
    class Never(Moody):
        examples: ClassVar = []

        def predict(self, batch: list[str]) -> list[Any]:
            raise AssertionError

    found = ask(Never(), {"what": "refuse"}, {"what": 1})
    assert [failure(outcome).code for outcome in found] == ["item_error", "invalid"]


class Strict(BaseModel):
    text: Annotated[str, Field(min_length=1)]


@model
def strict(batch: list[Strict]) -> list[str]:
    return [item.text for item in batch]


def test_items_are_validated_before_predict() -> None:
    good, bad = ask(strict, {"text": "a"}, {"text": ""})
    assert answer(good) == "a"
    assert failure(bad).details[0]["path"] == "$.text"


def test_an_item_error_that_is_no_plain_data_is_the_models_fault() -> None:
    def refuse(batch: list[Any]) -> Any:
        return [ItemError("no", details=[{"a": object()}]) for _ in batch]

    assert failure(ask(of_function(refuse), 1)[0]).code == "model_error"


def test_the_log_of_a_huge_exception_is_cut() -> None:
    def fail(batch: list[Any]) -> Any:
        raise ValueError("x" * 10_000_000)

    log = failure(ask(of_function(fail), 1)[0]).log or ""
    assert log.startswith("Traceback")
    assert len(log) < MAX_LOG + 100


@pytest.mark.parametrize(
    "raised",
    [ValueError, MemoryError, RecursionError, SystemExit, KeyboardInterrupt, GeneratorExit],
)
@pytest.mark.parametrize("stage", ["preprocess", "predict", "postprocess"])
def test_whatever_is_raised_stays_with_its_item(raised: type[BaseException], stage: str) -> None:
    class Raising(Model):
        def preprocess(self, item: int) -> int:
            if stage == "preprocess" and item == 1:
                raise raised
            return item

        def predict(self, batch: list[int]) -> list[int]:
            if stage == "predict" and 1 in batch:
                raise raised
            return batch

        def postprocess(self, output: int) -> int:
            if stage == "postprocess" and output == 1:
                raise raised
            return output

    first, second, third = ask(Raising(), 0, 1, 2)
    assert (answer(first), answer(third)) == (0, 2)
    assert failure(second).message == f"the model failed in {stage}"


# What predict returns


class Text(str):
    pass


@pytest.mark.parametrize(
    ("outputs", "found"),
    [
        (lambda batch: batch[:-1], "2 outputs for a batch of 3"),
        (lambda batch: [*batch, 1], "4 outputs for a batch of 3"),
        (lambda batch: None, "NoneType for a batch of 3, expected a sequence of outputs"),
        (lambda batch: (item for item in batch), "generator for a batch of 3"),
        (lambda batch: dict.fromkeys(batch), "dict for a batch of 3"),
        (lambda batch: set(batch), "set for a batch of 3"),
        (lambda batch: "abc", "str for a batch of 3"),
        (lambda batch: b"abc", "bytes for a batch of 3"),
        (lambda batch: bytearray(b"abc"), "bytearray for a batch of 3"),
        (lambda batch: np.array(1), "ndarray for a batch of 3"),
        (lambda batch: np.float32(1), "float32 for a batch of 3"),
        (lambda batch: list, "type for a batch of 3"),
        (lambda batch: Counter("abc"), "Counter for a batch of 3"),
        (lambda batch: Lying(), "3 outputs for a batch of 3"),
        (lambda batch: Breaking(), "Breaking for a batch of 3"),
    ],
    ids=map(str, range(15)),
)
def test_anything_but_one_output_an_item_fails_the_batch(
    outputs: Callable[[Any], Any], found: str
) -> None:
    for outcome in ask(of_function(lambda batch: outputs(batch)), 1, 2, 3):
        assert failure(outcome).code == "batch_contract"
        assert failure(outcome).message.startswith(f"predict returned {found}")


class Lying:
    """Has three elements, of which two can be had."""

    def __len__(self) -> int:
        return 3

    def __getitem__(self, place: int) -> int:
        return [1, 2][place]


class Breaking:
    def __len__(self) -> int:
        raise SystemExit

    def __getitem__(self, place: int) -> int:
        return place


@pytest.mark.parametrize(
    ("output", "written"),
    [
        (lambda batch: np.array(batch) * 2, [2, 4, 6]),
        (lambda batch: np.array([[item, 0] for item in batch]), [[1, 0], [2, 0], [3, 0]]),
        (lambda batch: tuple(np.float32(item) for item in batch), [1.0, 2.0, 3.0]),
        (
            lambda batch: [Receipt(text=str(item)) for item in batch],
            [{"theText": "1"}, {"theText": "2"}, {"theText": "3"}],
        ),
        (lambda batch: Series(batch), [1, 2, 3]),
    ],
    ids=["vector", "matrix", "scalars", "pydantic", "series"],
)
def test_arrays_scalars_and_models_are_outputs_too(
    output: Callable[[Any], Any], written: list[Any]
) -> None:
    outcomes = ask(of_function(lambda batch: output(batch)), 1, 2, 3)
    assert [answer(outcome) for outcome in outcomes] == written


class Series(list[Any]):
    """Like a pandas series: one dimension, and keys."""

    ndim = 1

    def keys(self) -> range:
        return range(len(self))


def test_a_nan_is_an_error_of_its_item_or_null_as_the_model_says() -> None:
    def half(batch: list[Any]) -> Any:
        return np.array(batch) / np.array([1.0, np.nan])[: len(batch)]

    good, bad = ask(of_function(half), 1, 2)
    assert answer(good) == 1.0
    assert failure(bad).code == "output_error"
    good, null = ask(of_function(half, nan_as_null=True), 1, 2)
    assert (answer(good), answer(null)) == (1.0, None)


def test_an_answer_too_large_or_too_deep_fails_its_item_alone() -> None:
    deep: list[Any] = []
    for _ in range(100_000):
        deep = [deep]

    def grow(batch: list[Any]) -> Any:
        return ["x" * 1000 if item == "large" else deep if item == "deep" else 1 for item in batch]

    replica = Replica(of_function(grow), Limits(max_response_bytes=100))
    good, large, bottomless = serve(replica, [payload(item) for item in ("ok", "large", "deep")])
    assert answer(good) == 1
    assert failure(large).message == "expected an answer of at most 100 bytes, got 1002"
    assert failure(bottomless).message.endswith("it nests too deeply, or holds itself")


def test_a_request_nested_beyond_the_limit_is_refused() -> None:
    replica = Replica(of_function(lambda batch: batch), Limits(max_depth=2))
    good, bad = serve(replica, [payload([[1]]), payload([[[1]]])])
    assert answer(good) == [[1]]
    assert failure(bad).code == "too_deep"


class Thumbnail(Model):
    response_media_type: ClassVar = "image/png"
    examples: ClassVar = [b"example"]

    def predict(self, batch: list[bytes]) -> list[bytes]:
        return [b"PNG" + item for item in batch]


def test_bytes_are_answered_as_they_are_or_in_base64_where_json_is_asked_for() -> None:
    replica = Replica(Thumbnail())
    replica.load()
    raw = Payload(body=b"\xff", input_type="image/jpeg", output_type="image/png")
    text = Payload(body=b'"/w=="', input_type="application/json", output_type="application/json")
    picture, written = serve(replica, [raw, text])
    assert picture == Value(b"PNG\xff", "image/png")
    assert answer(written) == "UE5H/w=="


# Isolation


@given(st.sets(st.integers(0, 31), max_size=32), st.booleans())
def test_bisection_finds_all_guilty_items_and_answers_all_others(
    guilty: set[int], by_item_error: bool
) -> None:
    def fail(batch: list[Any]) -> Any:
        if guilty & set(batch):
            raise ItemError("you") if by_item_error else ValueError
        return batch

    outcomes = ask(of_function(fail), *range(32))
    assert {place for place, found in enumerate(outcomes) if isinstance(found, Failure)} == guilty
    assert [answer(outcomes[place]) for place in range(32) if place not in guilty] == [
        place for place in range(32) if place not in guilty
    ]
    code = "item_error" if by_item_error else "model_error"
    assert {failure(outcomes[place]).code for place in guilty} <= {code}


def test_one_guilty_item_of_32_costs_at_most_eleven_more_predicts() -> None:
    calls = Counter[int]()

    def fail(batch: list[Any]) -> Any:
        calls[len(batch)] += 1
        if 7 in batch:
            raise ValueError
        return batch

    ask(of_function(fail), *range(32))
    assert sum(calls.values()) - 1 <= 10


def test_a_broken_model_fails_the_batch_after_one_canary() -> None:
    calls: list[int] = []

    def broken(batch: list[Any]) -> Any:
        calls.append(len(batch))
        raise ItemError("of one, not for all")

    replica = Replica(of_function(broken, examples=[1]))
    answers: list[tuple[int, Outcome]] = []
    isolation = replica.run([(place, payload(place)) for place in range(4)], answers.append)
    assert isolation is not None
    assert not isolation.broken
    assert not answers
    assert not isolation.step(answers.append)
    assert isolation.broken
    assert not isolation.step(answers.append)
    assert calls == [4, 1]
    assert [failure(outcome).message for _, outcome in answers] == [
        "the model failed in predict"
    ] * 4


def test_a_flaw_that_passes_leaves_no_failure() -> None:
    calls: list[int] = []

    def flaky(batch: list[Any]) -> Any:
        calls.append(len(batch))
        if len(calls) == 1:
            raise ValueError
        return batch

    outcomes = ask(of_function(flaky), 1)
    assert answer(outcomes[0]) == 1


def test_items_that_may_not_run_twice_are_not_isolated() -> None:
    calls: list[int] = []

    def fail(batch: list[Any]) -> Any:
        calls.append(len(batch))
        raise ItemError("about one of them")

    made = of_function(fail, idempotent=False)
    assert [failure(found).code for found in ask(made, 1, 2)] == ["model_error"] * 2
    assert failure(ask(made, 1)[0]).message == "about one of them"
    assert calls == [2, 1]


# Start


def test_examples_are_run_alone_and_as_a_full_batch() -> None:
    calls: list[list[Any]] = []

    def record(batch: list[Any]) -> Any:
        calls.append(batch)
        return batch

    made = of_function(record, examples=[1, 2], batching=Batching(max_batch_size=3))
    Replica(made).load()
    assert calls == [[1], [1, 2, 1]]


def test_without_examples_a_model_is_ready_once_loaded() -> None:
    replica = Replica(of_function(lambda batch: 1 / 0))
    replica.load()
    replica.warm_up(1)
    replica.unload()


class Unloadable(Moody):
    def load(self) -> None:
        raise SystemExit("no weights")


def test_a_load_that_raises_is_told_with_its_cause() -> None:
    with pytest.raises(ReplicaStartFailed) as caught:
        Replica(Unloadable()).load()
    assert str(caught.value) == "load raised SystemExit: no weights"
    assert isinstance(caught.value.__cause__, SystemExit)


@pytest.mark.parametrize(
    ("examples", "message", "in_log"),
    [
        (
            [{"what": "a"}, {"what": "preprocess"}],
            "warm-up with a batch of 4: examples[1]: the model failed in preprocess",
            "KeyError",
        ),
        (
            [{"what": "predict"}],
            "warm-up with a batch of 1: examples[0]: the model failed in predict",
            "RuntimeError",
        ),
        (
            [{"wat": "a"}],
            "warm-up with a batch of 1: examples[0]: $.what: expected this field, found none",
            None,
        ),
    ],
    ids=["one-item", "predict", "invalid"],
)
def test_a_warm_up_that_fails_names_the_example_and_has_the_traceback_as_its_cause(
    examples: list[Any], message: str, in_log: str | None
) -> None:
    made = Moody()
    made.examples = examples  # type: ignore[misc]
    with pytest.raises(ReplicaStartFailed) as caught:
        Replica(made, batching={"max_batch_size": 4}).load()
    assert str(caught.value) == message
    assert in_log is None or in_log in str(caught.value.__cause__)


@pytest.mark.parametrize(
    ("made", "message"),
    [
        (of_function(lambda batch: batch, examples=[1, object()]), "FunctionModel.examples[1]: "),
        (of_function(lambda batch: batch, examples="text"), "FunctionModel.examples: expected a"),
        (of_function(lambda batch: batch, name="a b"), "FunctionModel.name: expected letters"),
    ],
    ids=["unwritable", "text", "name"],
)
def test_a_model_that_cannot_be_served_is_a_configuration_error(made: Model, message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        Replica(made)
    assert str(caught.value).startswith(message)


# The card


def test_the_card_holds_all_that_the_outside_needs() -> None:
    card = Replica(Moody(), batching={"max_batch_size": 5}).card
    assert (card.name, card.version, card.description) == (
        "moody",
        "1",
        "Fails where the order says so.",
    )
    assert list(card.request_schema["properties"]) == ["what", "count"]
    assert card.response_schema == {}
    assert card.reads == card.writes == ("application/json", "application/msgpack")
    assert card.examples[0].body == b'{"what":"example"}'
    assert (card.batching.max_batch_size, card.idempotent) == (5, True)


def test_the_card_of_a_model_of_bytes_reads_any_picture_and_writes_its_own_type() -> None:
    card = Replica(Thumbnail()).card
    assert card.reads[0] == "application/octet-stream"
    assert "image/*" in card.reads
    assert card.writes[0] == "image/png"
    assert card.examples[0].input_type == "application/octet-stream"


@model
def receipts(batch: list[str]) -> list[Receipt]:
    return [Receipt(text=text) for text in batch]


@model
def arrays(batch: list[str]) -> list[np.ndarray]:
    return [np.zeros(2) for _ in batch]


def test_answers_are_described_as_they_are_written_and_not_at_all_where_that_is_unknown() -> None:
    assert list(Replica(receipts).card.response_schema["properties"]) == ["theText"]
    assert Replica(arrays).card.response_schema == {}
    assert answer(ask(arrays, "a")[0]) == [0.0, 0.0]


# Unload


class Leaves(Model):
    def __init__(self) -> None:
        self.left = 0

    def predict(self, batch: list[Any]) -> list[Any]:
        return batch

    def unload(self) -> None:
        self.left += 1
        raise AttributeError("no session to close")


def test_what_was_loaded_is_unloaded_once_and_what_unload_raises_is_logged(
    caplog: pytest.LogCaptureFixture,
) -> None:
    made = Leaves()
    replica = Replica(made)
    replica.unload()
    assert made.left == 0, "it was not loaded"
    replica.load()
    replica.unload()
    replica.unload()
    assert made.left == 1
    assert [record.message for record in caplog.records] == ["unload raised"]


# The mark


class Watched(Model):
    """Writes down what its replica has noted while each of its methods runs."""

    examples: ClassVar = ["example"]

    def __init__(self) -> None:
        self.mark = [0, 0]
        self.seen: list[tuple[str, int, int]] = []

    def see(self, method: str) -> None:
        self.seen.append((method, self.mark[0], self.mark[1]))

    def preprocess(self, text: str) -> str:
        self.see("preprocess")
        return text

    def predict(self, batch: list[str]) -> list[str]:
        self.see("predict")
        if "bad" in batch:
            raise RuntimeError
        return batch

    def postprocess(self, text: str) -> str:
        self.see("postprocess")
        return text


def test_what_a_replica_is_at_is_noted_by_the_index_of_the_item() -> None:
    made = Watched()
    replica = Replica(made, mark=made.mark)
    answers: list[tuple[int, Outcome]] = []
    replica.run([(4, payload("a")), (7, payload("b"))], answers.append)
    assert [index for index, _ in answers] == [4, 7]
    assert made.seen == [
        ("preprocess", 5, 0),
        ("preprocess", 8, 0),
        ("predict", 0, 1),
        ("postprocess", 5, 0),
        ("postprocess", 8, 0),
    ]
    assert made.mark == [0, 0]


def test_the_canary_is_noted_as_a_predict_as_its_example_is_no_item_of_the_batch() -> None:
    made = Watched()
    replica = Replica(made, mark=made.mark)
    isolation = replica.run([(0, payload("bad")), (1, payload("b"))], lambda _: None)
    assert isolation is not None and made.mark == [0, 0]
    made.seen.clear()
    isolation.step(lambda _: None)
    assert made.seen == [("preprocess", 0, 1), ("predict", 0, 1), ("postprocess", 0, 1)]
    assert made.mark == [0, 0]
