"""A replica's work, unit by unit."""

from __future__ import annotations

from typing import Any, ClassVar

import pytest

from headrace import Limits, Model
from headrace.call import Failure, Outcome, Payload, Value
from headrace.lane import Lane, Report
from headrace.replica import Replica

JSON = "application/json"


class Picky(Model):
    """Cannot do 13, and nothing at all while it is ill."""

    examples: ClassVar = [1]
    is_ill: ClassVar = False

    def predict(self, batch: list[int]) -> list[int]:
        if self.is_ill or 13 in batch:
            raise ValueError("no")
        return batch


def lane_of() -> Lane[str]:
    replica = Replica(Picky(), Limits())
    replica.load()
    return Lane(replica)


def payloads(*numbers: int) -> list[tuple[int, Payload]]:
    return [
        (index, Payload(body=b"%d" % number, input_type=JSON, output_type=JSON))
        for index, number in enumerate(numbers)
    ]


def told(parts: list[tuple[int, Outcome]]) -> dict[int, str]:
    return {i: o.code if isinstance(o, Failure) else o.body.decode() for i, o in parts}


def isolate(lane: Lane[str]) -> list[Report[str]]:
    """All that is left of the isolations."""
    reports = []
    while lane.next_isolated is not None:
        reports.append(lane.isolate())
    return reports


def test_a_batch_that_succeeds_is_one_unit() -> None:
    lane = lane_of()
    report = lane.run("a", payloads(1, 2))
    assert (report.batch, told(report.parts)) == ("a", {0: "1", 1: "2"})
    assert (report.is_set_aside, report.broken, lane.next_isolated) == (False, None, None)


def test_a_batch_that_fails_is_set_aside_and_ends_in_later_units() -> None:
    lane = lane_of()
    report = lane.run("a", payloads(1, 13, 3, 4))
    assert (report.is_set_aside, lane.next_isolated) == (True, "a")
    reports = isolate(lane)
    assert [each.is_set_aside for each in reports] == [True] * (len(reports) - 1) + [False]
    parts = [part for each in [report, *reports] for part in each.parts]
    assert told(parts) == {0: "1", 1: "model_error", 2: "3", 3: "4"}
    assert not any(each.broken for each in reports)


def test_isolations_take_turns() -> None:
    lane = lane_of()
    lane.run("a", payloads(1, 13))
    lane.run("b", payloads(13, 2))
    turns = [report.batch for report in isolate(lane)]
    assert turns[:2] == ["a", "b"] and sorted(turns) != turns


def test_one_that_fails_on_its_own_example_is_broken_until_that_passes(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    lane = lane_of()
    monkeypatch.setattr(Picky, "is_ill", True)
    lane.run("a", payloads(1, 2))
    [report] = isolate(lane)
    assert report.broken is not None and not report.is_set_aside
    assert told(report.parts) == {0: "model_error", 1: "model_error"}
    assert not lane.recover()
    monkeypatch.setattr(Picky, "is_ill", False)
    assert lane.recover()


def test_a_batch_whose_predict_raised_elsewhere_is_taken_over() -> None:
    lane = lane_of()
    outcomes: list[Any] = []
    isolation = lane.replica.run(payloads(13, 2), outcomes.append)
    assert isolation is not None and outcomes == []
    lane.set_aside("a", isolation)
    parts = [part for report in isolate(lane) for part in report.parts]
    assert told(parts) == {0: "model_error", 1: "2"}
    assert isinstance(dict(parts)[1], Value)


def test_what_is_not_wanted_any_more_leaves_an_isolation(monkeypatch: pytest.MonkeyPatch) -> None:
    lane, seen = lane_of(), []

    def predict(model: Picky, batch: list[int]) -> list[int]:
        seen.append(batch)
        return batch

    lane.run("a", payloads(1, 13, 3, 4))
    lane.isolate()  # the canary
    monkeypatch.setattr(Picky, "predict", predict)
    report = lane.isolate({1})
    assert (told(report.parts), report.skipped) == ({0: "1"}, [1])
    report = lane.isolate({1, 2, 3})
    assert (report.parts, report.skipped, report.is_set_aside) == ([], [2, 3], False)
    assert seen == [[1]], "nobody is run for whom nobody waits"
