"""Who is refused because the answer would come too late, and who never is."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from headrace.batching import Item, Rules
from headrace.batching.admission import HEADROOM
from headrace.errors import HeadraceError, Overloaded, PayloadTooLarge, QueueFull

from .driver import Driver

BATCH_S = 0.1
"""The time of the measured batches, which hold 4 items."""


def busy(waiting: int = 0, *, replicas: int = 1, max_items: int = 1000) -> Driver:
    """A server that has measured a full batch, and now runs one that has just begun."""
    driver = Driver(replicas=replicas, max_items=max_items)
    driver.measure(BATCH_S, size=4)
    for _ in range(replicas):
        driver.several(4)
        driver.start(driver.run())
    driver.several(waiting)
    assert not driver.runs() or waiting >= 4
    return driver


def refused(driver: Driver, timeout_s: float, **fields: object) -> Overloaded | None:
    """Why an item with so much time is not admitted, if so; the same one by one and posted."""
    item = Item(deadline=driver.now + timeout_s, **fields)  # type: ignore[arg-type]
    posted = Item(deadline=driver.now + timeout_s, arrived=driver.now, **fields)  # type: ignore[arg-type]
    try:
        driver.submit(item)
    except Overloaded as error:
        (refusal,) = driver.batcher.submit_each(driver.now, [posted])
        assert refusal[0] is posted
        assert isinstance(refusal[1], Overloaded)
        assert refusal[1].retry_after_s == error.retry_after_s
        return error
    driver.cancel(item)
    assert not driver.batcher.submit_each(driver.now, [posted])
    driver.cancel(posted)
    return None


@pytest.mark.parametrize(
    ("ahead", "batches"),
    # One runs, one is at hand, then those that wait, and its own.
    [(4, 4), (7, 4), (8, 5), (11, 5), (12, 6), (400, 103)],
)
def test_the_wait_is_what_runs_and_whole_batches_before_and_its_own(
    ahead: int, batches: int
) -> None:
    driver = busy(4 + ahead)  # four of them are at hand
    needed_s = HEADROOM * BATCH_S * batches
    assert refused(driver, needed_s - 0.001) is not None
    assert refused(driver, needed_s + 0.001) is None


def test_what_has_run_of_a_batch_is_not_waited_for_again() -> None:
    driver = busy(8)
    needed_s = HEADROOM * BATCH_S * 4
    driver.pass_time(0.06)
    assert refused(driver, needed_s - HEADROOM * 0.06 - 0.001) is not None
    assert refused(driver, needed_s - HEADROOM * 0.06 + 0.001) is None
    driver.pass_time(5.0)  # it takes longer than was thought: that is no credit
    assert refused(driver, needed_s - HEADROOM * BATCH_S - 0.001) is not None
    assert refused(driver, needed_s - HEADROOM * BATCH_S + 0.001) is None


def test_it_is_told_when_there_would_have_been_time() -> None:
    error = refused(busy(8), 0.05)
    assert error is not None
    assert (error.code, error.retryable) == ("overloaded", True)
    assert error.retry_after_s == pytest.approx(HEADROOM * BATCH_S * 4 - 0.05)
    nearly = refused(busy(8), HEADROOM * BATCH_S * 4 - 1e-6)
    assert nearly is not None
    assert nearly.retry_after_s == 0.001


def test_while_less_than_a_batch_waits_nobody_is_refused() -> None:
    driver = busy(4)
    driver.several(3)
    assert refused(driver, 0.0) is None
    driver.several(1)
    assert refused(driver, 0.0) is not None


def test_who_goes_before_nearly_all_is_among_those_that_may_always_wait() -> None:
    driver = busy(4 + 40)
    assert refused(driver, 0.0, priority=1000) is None


def test_before_a_batch_was_measured_nobody_is_refused() -> None:
    driver = Driver()
    driver.start_one()
    driver.several(900)
    assert refused(driver, 0.001) is None


def test_a_server_that_was_idle_refuses_nobody() -> None:
    driver = Driver()
    driver.measure(BATCH_S, size=4)
    driver.pass_time(BATCH_S)
    driver.several(100)
    assert refused(driver, 0.001) is None


def test_while_no_replica_is_ready_the_estimate_is_silent() -> None:
    driver = busy(20)
    driver.batcher.lost(driver.now, 0, back_at=driver.now + 0.01)
    assert refused(driver, 0.02) is None


def test_with_more_replicas_the_queue_moves_faster() -> None:
    one, two = busy(4 + 40), busy(8 + 40, replicas=2)
    needed_s = HEADROOM * BATCH_S * (2 + 10 + 1)
    assert refused(one, needed_s - 0.001) is not None
    assert refused(two, needed_s - 0.001) is None
    needed_s = HEADROOM * BATCH_S * (2 + 10 / 2 + 1)
    assert refused(two, needed_s - 0.001) is not None
    assert refused(two, needed_s + 0.001) is None


def test_after_a_slow_batch_it_recovers_as_batches_are_quick_again() -> None:
    driver = busy(8)
    running = driver.batcher._fleet.open_batches

    def end_one(seconds: float) -> None:
        driver.finish(min(running(), key=lambda batch: batch.id), seconds)
        driver.tick()

    end_one(100 * BATCH_S)
    driver.several(3)
    assert refused(driver, 8 * BATCH_S) is None  # so there is always work, and it is measured
    driver.several(1)
    assert refused(driver, 8 * BATCH_S) is not None
    for _ in range(20):
        driver.several(4)
        end_one(BATCH_S)
    assert driver.batcher.queue.count == 4
    assert refused(driver, 8 * BATCH_S) is None


def test_batches_that_hold_less_than_they_may_are_counted_as_they_are() -> None:
    driver = Driver(max_batch_cost=2.0)
    driver.several(40)
    for _ in range(12):
        driver.tick()
        driver.finish(next(driver.batcher._fleet.open_batches()), BATCH_S)
    driver.tick()
    assert driver.batcher._admission.batch_items == pytest.approx(2.0, abs=0.2)
    waiting = driver.batcher.queue.count
    batches = 2 + waiting // driver.batcher._admission.batch_items + 1
    assert refused(driver, HEADROOM * BATCH_S * (batches - 1)) is not None
    assert refused(driver, HEADROOM * BATCH_S * (batches + 1)) is None


def test_what_batches_hold_is_learned_again_when_they_hold_more() -> None:
    driver = Driver()
    driver.batcher._admission.batch_items = 1.0
    for _ in range(30):
        driver.measure(BATCH_S, size=4)  # none of them leaves others
    assert driver.batcher._admission.batch_items == pytest.approx(4.0, abs=0.1)


def test_a_small_last_batch_says_nothing_of_what_batches_hold() -> None:
    driver = Driver()
    for _ in range(30):
        driver.measure(BATCH_S, size=1)
    assert driver.batcher._admission.batch_items == 4.0


def test_priority_goes_before_and_is_judged_so() -> None:
    driver = busy(4 + 40)
    assert refused(driver, 6 * BATCH_S) is not None
    assert refused(driver, 6 * BATCH_S, priority=1000) is None
    assert refused(driver, 60 * BATCH_S, priority=-1000) is None


def test_a_client_is_judged_by_its_own_backlog() -> None:
    driver = busy(4)
    for _ in range(200):
        driver.submit(Item(client="many"))
    assert refused(driver, 10 * BATCH_S, client="many") is not None
    # It goes before all but the first few of the other's.
    assert refused(driver, 10 * BATCH_S, client="one") is None


def test_other_keys_count_as_well() -> None:
    driver = busy(4)
    driver.several(400, key="other")
    assert refused(driver, 10 * BATCH_S) is not None


def test_an_item_that_counts_as_several_is_counted_so() -> None:
    driver = busy(4)
    driver.several(10, count=4)
    needed_s = HEADROOM * BATCH_S * (2 + 10 + 1)
    assert refused(driver, needed_s - 0.001) is not None
    assert refused(driver, needed_s + 0.001) is None
    # Beside those that rank behind, as their mean.
    assert refused(driver, 1.0, priority=1000, count=4) is None


def error_of(driver: Driver, items: Sequence[Item]) -> type[HeadraceError] | None:
    try:
        driver.submit(*items)
    except HeadraceError as error:
        return type(error)
    return None


def test_a_call_is_judged_by_its_last_item_and_whole() -> None:
    driver = busy(8)
    before = driver.batcher.queue.count
    deadline = driver.now + HEADROOM * BATCH_S * 5 - 0.001
    assert error_of(driver, [Item(deadline=deadline) for _ in range(9)]) is Overloaded
    assert driver.batcher.queue.count == before
    assert error_of(driver, [Item(deadline=deadline) for _ in range(4)]) is None


def test_a_clients_call_is_judged_with_what_pushes_it_back_itself() -> None:
    driver = busy(4)
    driver.submit(*(Item(client="many") for _ in range(400)))
    # Before its last item are its others, and as many of the other client's.
    needed_s = HEADROOM * BATCH_S * (2 + 100 + 1)
    before = driver.batcher.queue.count
    call = [Item(client="one", deadline=driver.now + needed_s - 0.001) for _ in range(201)]
    assert error_of(driver, call) is Overloaded
    assert driver.batcher.queue.count == before
    patient = [Item(client="one", deadline=driver.now + needed_s + BATCH_S) for _ in range(201)]
    assert error_of(driver, patient) is None


def test_a_call_of_which_nothing_is_left_is_admitted_whatever_waits() -> None:
    driver = busy(40)
    before = driver.batcher.queue.count
    driver.batcher.submit(driver.now, [])
    assert driver.batcher.queue.count == before


def test_a_call_that_never_fits_is_told_that() -> None:
    driver = busy(8, max_items=20)
    late = driver.now + 0.001
    assert error_of(driver, [Item(deadline=late) for _ in range(21)]) is PayloadTooLarge
    assert error_of(driver, [Item(deadline=late, size_bytes=10**7)]) is PayloadTooLarge
    assert error_of(driver, [Item() for _ in range(20)]) is QueueFull
    assert error_of(driver, [Item(deadline=late)]) is Overloaded


def test_posted_items_are_judged_one_after_the_other() -> None:
    driver = busy(4)
    deadline = driver.now + HEADROOM * BATCH_S * 4 + 0.001
    items = [Item(deadline=deadline, arrived=driver.now) for _ in range(20)]
    refusals = driver.batcher.submit_each(driver.now, items)
    assert [item for item, _ in refusals] == items[8:]
    assert driver.batcher.queue.count == 8
    patient = [Item(arrived=driver.now) for _ in range(5)]
    assert not driver.batcher.submit_each(driver.now, patient)


def test_without_the_rule_all_wait() -> None:
    driver = Driver(rules=Rules(settling=False, admission=False))
    driver.measure(BATCH_S, size=4)
    driver.several(4)
    driver.start(driver.run())
    driver.several(400)
    assert refused(driver, 0.001) is None
