"""When a worker that has ended is started again."""

from __future__ import annotations

import pytest

from headrace.executors.restarts import (
    ESTIMATE_FACTOR,
    ESTIMATE_MARGIN_S,
    FIRST_TRIES,
    FREE_KILLS,
    LAST_DELAY_S,
    Restarts,
)

BACK_OFF = [0.5, 1.0, 2.0, 4.0, 8.0, 16.0, 30.0, 30.0]


@pytest.mark.parametrize(
    ("lives", "delays"),
    [
        # Each life: did it get ready, and how many items it answered.
        ([(False, 0)] * 8, BACK_OFF),
        ([(True, 1)] * 5, [0.0] * 5),
        ([(True, 0)] * 8, [0.0, 0.0, 0.0, *BACK_OFF[:5]]),
        ([(True, 0), (True, 0), (True, 1), (True, 0)], [0.0] * 4),
        ([(False, 0), (False, 0), (True, 0), (False, 0)], [0.5, 1.0, 0.0, 0.5]),
        ([(True, 0)] * 4 + [(True, 9), (True, 0)], [0.0, 0.0, 0.0, 0.5, 0.0, 0.0]),
        ([(True, 1), (False, 0), (False, 0), (True, 1)], [0.0, 0.5, 1.0, 0.0]),
    ],
    ids=["no start", "answering", "idle", "idle, one not", "mended", "idle, mended", "once ready"],
)
def test_the_waits_between_starts(lives: list[tuple[bool, int]], delays: list[float]) -> None:
    restarts = Restarts()
    found = []
    for was_ready, items in lives:
        if was_ready:
            restarts.was_ready(1.0)
        found.append(restarts.ended(was_ready=was_ready, items=items))
    assert found == delays


def test_however_often_it_fails_the_wait_is_the_longest() -> None:
    restarts = Restarts()
    delays = [restarts.ended(was_ready=False, items=0) for _ in range(3000)]
    assert delays[-1] == max(delays) == LAST_DELAY_S


def test_nothing_is_hopeless_before_enough_have_tried() -> None:
    restarts = Restarts()
    for _ in range(FIRST_TRIES):
        assert not restarts.is_hopeless
        restarts.ended(was_ready=False, items=0)
    assert restarts.is_hopeless


def test_a_seat_that_was_ever_ready_is_never_hopeless() -> None:
    restarts = Restarts()
    restarts.was_ready(1.0)
    for _ in range(10 * FIRST_TRIES):
        restarts.ended(was_ready=False, items=0)
    assert restarts.was_ever_ready
    assert not restarts.is_hopeless


def test_recovery_is_expected_to_take_as_long_as_the_last_start_and_a_margin() -> None:
    restarts = Restarts()
    assert restarts.recovery_s is None
    for start_s in (2.0, 0.5):
        restarts.was_ready(start_s)
        assert restarts.recovery_s == start_s * ESTIMATE_FACTOR + ESTIMATE_MARGIN_S
        restarts.ended(was_ready=True, items=1)
        assert restarts.recovery_s is not None


def test_nothing_is_expected_of_a_start_after_one_that_failed() -> None:
    restarts = Restarts()
    restarts.was_ready(1.0)
    restarts.ended(was_ready=False, items=0)
    assert restarts.recovery_s is None
    restarts.was_ready(3.0)
    assert restarts.recovery_s == 3.0 * ESTIMATE_FACTOR + ESTIMATE_MARGIN_S


def test_kills_from_outside_say_nothing_of_the_model_unless_they_go_on() -> None:
    restarts = Restarts()
    restarts.was_ready(1.0)
    kill = {"was_ready": False, "is_outside": True}
    assert [restarts.ended(items=0, **kill) for _ in range(FREE_KILLS)] == [0.0] * FREE_KILLS
    assert restarts.recovery_s is not None
    assert restarts.ended(items=0, **kill) == BACK_OFF[0]
    assert restarts.recovery_s is None


def test_kills_of_workers_that_have_answered_are_not_in_a_row() -> None:
    restarts = Restarts()
    for _ in range(2 * FREE_KILLS):
        restarts.was_ready(1.0)
        assert restarts.ended(was_ready=True, items=1, is_outside=True) == 0.0


def test_a_life_that_answered_and_was_killed_from_outside_ends_a_row_of_idle_ones() -> None:
    restarts = Restarts()
    for _ in range(8):
        restarts.was_ready(1.0)
        assert restarts.ended(was_ready=True, items=0) == 0.0
        restarts.was_ready(1.0)
        assert restarts.ended(was_ready=True, items=3, is_outside=True) == 0.0
