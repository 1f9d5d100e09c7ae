"""The request handler: its unit-test helper, and what it is as a model of headrace."""

from __future__ import annotations

import logging
from collections.abc import Iterable
from typing import Any, ClassVar

import pytest

from headrace import ItemError
from headrace.call import Failure, Outcome, Payload, Value
from headrace.lane import Lane
from headrace.replica import Replica
from virtex import HttpMessage, RequestHandler
from virtex.inference import Stages, model_of


class Twice(RequestHandler):
    """Doubles numbers."""

    def __init__(self) -> None:  # without super(), as the published API allows
        self.calls: list[list[Any]] = []

    def process_request(self, data: list[Any]) -> Any:
        self.calls.append(list(data))
        if "raise" in data:
            raise ValueError("no number")
        return data

    def run_inference(self, model_input: Any) -> Iterable[Any]:
        return (2 * number for number in model_input)

    def process_response(self, model_output_item: Any) -> Any:
        if model_output_item == 26:
            raise KeyError("unlucky")
        return model_output_item


class Fixed(RequestHandler):
    """Returns what it is told."""

    def __init__(self, outputs: Any) -> None:
        self.outputs = outputs

    def process_request(self, data: list[Any]) -> Any:
        return data

    def run_inference(self, model_input: Any) -> Iterable[Any]:
        outputs: Iterable[Any] = self.outputs
        return self.outputs(model_input) if callable(self.outputs) else outputs

    def process_response(self, model_output_item: Any) -> Any:
        return model_output_item


def run(handler: RequestHandler, *bodies: bytes, **options: Any) -> list[Outcome]:
    """The outcomes of one batch, its isolation included."""
    replica = Replica(model_of(handler, **options))
    replica.load()
    json = "application/json"
    payloads = [Payload(body=body, input_type=json, output_type=json) for body in bodies]
    lane: Lane[int] = Lane(replica)
    report = lane.run(0, list(enumerate(payloads)))
    parts = dict(report.parts)
    while report.is_set_aside:
        report = lane.isolate()
        parts |= dict(report.parts)
    return [parts[index] for index in range(len(bodies))]


def texts(outcomes: list[Outcome]) -> list[str]:
    return [
        outcome.body.decode() if isinstance(outcome, Value) else outcome.message
        for outcome in outcomes
    ]


# In a unit test of the user's


def test_a_message_is_run_as_the_server_would() -> None:
    handler = Twice()
    response = handler.validate(HttpMessage(data=[1, (2, 3)]))
    assert response == HttpMessage(data=[2, [2, 3, 2, 3]])
    assert handler.calls == [[1, [2, 3]]]


def test_a_message_without_elements_runs_nothing() -> None:
    handler = Twice()
    assert handler.validate(HttpMessage()) == HttpMessage()
    assert handler.calls == []


@pytest.mark.parametrize(
    ("handler", "data", "error", "method"),
    [
        (Twice(), ["raise"], ValueError, "process_request"),
        (Twice(), [{"a": 1}], TypeError, "run_inference"),
        (Fixed([]), [1], ValueError, "run_inference"),
        (Fixed([1, 2]), [1], ValueError, "run_inference"),
        (Fixed(None), [1], TypeError, "run_inference"),
        (Twice(), [13], KeyError, "process_response"),
        (Fixed([float("nan")]), [1], ValueError, "the answer of process_response"),
        (Fixed([object()]), [1], TypeError, "the answer of process_response"),
        (Twice(), "abc", ValueError, "the message"),
        (Twice(), [float("inf")], ValueError, "the message"),
        (Twice(), [object()], TypeError, "the message"),
    ],
)
def test_what_is_wrong_is_logged_or_raised(
    handler: RequestHandler,
    data: Any,
    error: type[Exception],
    method: str,
    caplog: pytest.LogCaptureFixture,
) -> None:
    message = HttpMessage(data=data)
    with caplog.at_level(logging.ERROR, "virtex"):
        assert handler.validate(message) is None
    (record,) = caplog.records
    assert record.getMessage().startswith(f"{method}: ")
    with pytest.raises(error):
        handler.validate(message, raise_errors=True)


def test_the_three_methods_are_due() -> None:
    class Half(RequestHandler):
        def process_request(self, data: list[Any]) -> Any:
            return data

    with pytest.raises(TypeError, match="process_response"):
        Half()  # type: ignore[abstract]  # that is the point


# As a model


def test_it_is_named_and_described_by_its_class() -> None:
    card = Replica(Twice().__headrace_model__()).card
    assert (card.name, card.description) == ("twice", "Doubles numbers.")
    assert (card.batching.max_batch_size, card.idempotent) == (512, True)
    card = Replica(model_of(Twice(), name="x", max_batch_size=3, max_batch_delay_s=0.5)).card
    assert (card.name, card.batching.max_batch_size, card.batching.max_batch_delay_s) == (
        "x",
        3,
        0.5,
    )


def test_a_batch_is_one_call() -> None:
    handler = Twice()
    assert texts(run(handler, b"1", b'"ab"', b"[1]")) == ["2", '"abab"', "[1,1]"]
    assert handler.calls == [[1, "ab", [1]]]


def test_only_the_guilty_element_fails_and_the_others_are_run_again() -> None:
    handler = Twice()
    outcomes = run(handler, b"1", b"2", b'"raise"', b"4")
    assert texts(outcomes) == ["2", "4", "ValueError: no number", "8"]
    assert [isinstance(outcome, Failure) for outcome in outcomes] == [False, False, True, False]
    assert isinstance(outcomes[2], Failure) and outcomes[2].status == 500
    assert sorted(map(len, handler.calls)) == [1, 1, 2, 2, 4]


def test_one_that_is_not_idempotent_runs_a_batch_once() -> None:
    class Once(Twice):
        idempotent: ClassVar[bool] = False

    handler = Once()
    assert texts(run(handler, b"1", b'"raise"')) == ["ValueError: no number"] * 2
    assert len(handler.calls) == 1


def test_an_answer_that_fails_is_its_own_elements_affair() -> None:
    handler = Twice()
    assert texts(run(handler, b"1", b"13", b"2")) == ["2", "KeyError: 'unlucky'", "4"]
    assert len(handler.calls) == 1


@pytest.mark.parametrize(
    ("outputs", "error"),
    [
        ([1], "expected 2 outputs of run_inference, got 1"),
        ([], "expected 2 outputs of run_inference, got 0"),
        ([1, 2, 3], "expected 2 outputs of run_inference, got more"),
        (lambda data: iter(int, 1), "expected 2 outputs of run_inference, got more"),
    ],
)
def test_a_wrong_number_of_outputs_fails_the_batch(outputs: Any, error: str) -> None:
    assert texts(run(Fixed(outputs), b"1", b"2")) == [error] * 2


def test_an_output_that_is_no_json_fails_alone() -> None:
    found = texts(run(Fixed([1, object(), [object()], float("nan")]), b"1", b"2", b"3", b"4"))
    assert found[0] == "1"
    assert all("TypeError" in text for text in found[1:3])
    assert found[3] == "ValueError: $: expected a number that JSON has, got nan"


def test_an_exit_in_a_handler_is_its_elements_affair(caplog: pytest.LogCaptureFixture) -> None:
    def leave(data: list[Any]) -> Any:
        raise SystemExit("bye")

    assert texts(run(Fixed(leave), b"1")) == ["SystemExit: bye"]
    assert [record.levelname for record in caplog.records] == ["ERROR"]


def test_what_the_handler_says_of_an_element_reaches_the_caller_as_it_is() -> None:
    def refuse(data: list[Any]) -> Any:
        raise ItemError("too dark", status=422)

    (outcome,) = run(Fixed(refuse), b"1")
    assert isinstance(outcome, Failure)
    assert (outcome.status, outcome.message) == (422, "too dark")


def test_failures_are_logged_a_few_times_a_second(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.ERROR, "virtex"):
        run(Twice(), *[b'"raise"'] * 64)
    assert 0 < len(caplog.records) <= 20
    assert all(record.exc_info for record in caplog.records)


def test_a_batch_is_observed_with_its_stages() -> None:
    observed: list[Stages] = []
    run(Twice(), b"1", b"2", observe=observed.append)
    run(Twice(), b'"raise"', observe=observed.append)
    (stages,) = observed
    assert stages.size == 2
    assert min(stages[1:]) >= 0
