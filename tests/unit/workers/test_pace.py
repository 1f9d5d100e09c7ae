"""When a worker overlaps batches, and when it goes back to taking turns."""

from __future__ import annotations

from headrace.workers.pace import IN_TURN_S, OVERLAP_S, Pace


def test_the_first_batches_are_taken_in_turn() -> None:
    assert not Pace().overlaps


def test_slow_batches_are_overlapped_from_the_first_on() -> None:
    pace = Pace()
    pace.took(2 * OVERLAP_S)
    assert pace.overlaps


def test_quick_batches_never_are() -> None:
    pace = Pace()
    for _ in range(100):
        pace.took(OVERLAP_S)
        assert not pace.overlaps


def test_between_the_two_bounds_it_stays_as_it_is() -> None:
    between_s = (OVERLAP_S + IN_TURN_S) / 2
    quick, slow = Pace(), Pace()
    slow.took(2 * OVERLAP_S)
    for _ in range(100):
        quick.took(between_s)
        slow.took(between_s)
    assert not quick.overlaps
    assert slow.overlaps


def test_one_slow_batch_among_quick_ones_does_not_overlap_them() -> None:
    pace = Pace()
    for _ in range(10):
        pace.took(IN_TURN_S / 10)
    pace.took(3 * OVERLAP_S)
    assert not pace.overlaps


def test_it_follows_a_model_that_became_quick() -> None:
    pace = Pace()
    pace.took(10 * OVERLAP_S)
    for _ in range(50):
        pace.took(IN_TURN_S / 10)
    assert not pace.overlaps
