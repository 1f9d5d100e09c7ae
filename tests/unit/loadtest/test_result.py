"""What is made of the instants of a load test."""

from __future__ import annotations

import math

import pytest

from headrace.loadtest.result import Answer, LoadResult


def result(
    planned: list[float], sent: list[float], ended: list[float], errors: dict[int, str]
) -> LoadResult:
    return LoadResult(
        planned_s=planned,
        sent_s=sent,
        ended_s=ended,
        statuses=[0 if index in errors else 200 for index in range(len(planned))],
        bodies=[b"%d" % index for index in range(len(planned))],
        errors=errors,
        connections=1,
        send_lag_mean_s=0.0,
        send_lag_max_s=0.0,
        cpu_s=0.0,
    )


def test_latencies_count_from_the_planned_instants() -> None:
    found = result([0.0, 1.0, 2.0], [0.0, 3.0, 3.0], [0.5, 4.0, 4.5], {})
    assert [answer.latency_s for answer in found] == [0.5, 3.0, 2.5]
    assert (found.latency_s.mean, found.latency_s.p50, found.latency_s.max) == (2.0, 2.5, 3.0)
    assert (len(found), found.duration_s) == (3, 4.5)


def test_rates_count_what_was_sent_and_what_was_answered() -> None:
    nan = math.nan
    found = result(
        [0.0, 1.0, 2.0, 3.0, 4.0],
        [1.0, 1.5, nan, 3.0, 5.0],
        [9.0, 2.0, 2.0, 5.0, 6.0],
        {0: "late", 2: "refused"},
    )
    assert found.sent_per_second == 3 / 4  # three more in the four seconds after the first
    assert found.answered_per_second == 3 / 5  # three until the last of them came
    assert found.latency_s.max == 2.0
    assert found.duration_s == 9.0


def test_errors_are_found_from_both_ends() -> None:
    found = result([0.0, 1.0], [0.0, 1.0], [1.0, 2.0], {1: "lost"})
    assert found[1] == found[-1] == Answer(0, b"1", "lost", 1.0)
    assert found[0] == found[-2] == Answer(200, b"0", None, 1.0)
    with pytest.raises(IndexError):
        found[2]


def test_where_nothing_was_answered_rates_are_zero_and_latencies_are_none() -> None:
    found = result([0.0], [math.nan], [1.0], {0: "refused"})
    assert (found.sent_per_second, found.answered_per_second) == (0.0, 0.0)
    assert math.isnan(found.latency_s.p99)


def test_one_request_has_no_rate_of_sending() -> None:
    assert result([0.0], [0.0], [0.25], {}).sent_per_second == 0.0
    assert result([0.0], [0.0], [0.25], {}).answered_per_second == 4.0
