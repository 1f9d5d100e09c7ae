"""No replica is ready, and one is expected again: who waits, and who is told at once."""

from __future__ import annotations

import pytest

from headrace.batching import Answer, Item
from headrace.clock import NEVER
from headrace.errors import NotReady, PayloadTooLarge, QueueFull

from .driver import Driver, ends, only


def expecting(seconds: float = 1.0, *, max_items: int = 1000) -> Driver:
    """No replica is ready, and one should be in so many seconds."""
    driver = Driver(replicas=0, max_items=max_items)
    driver.batcher.expect(driver.now, driver.now + seconds)
    return driver


def retries(driver: Driver) -> list[float | None]:
    """Tick, and when each item that has ended should be tried again."""
    return [answer.failure.retry_after_s for answer in only(Answer, driver.tick())]


def test_what_waits_goes_on_waiting_if_it_is_wanted_until_then() -> None:
    driver = Driver()
    for timeout_s in (0.5, 1.0, NEVER):
        driver.submit(Item(deadline=driver.now + timeout_s))
    driver.batcher.unready(driver.now, 0, back_at=driver.now + 1)
    assert ends(driver.tick()) == {1: "not_ready"}
    driver.batcher.ready(driver.now, 1)
    assert [item.number for item in driver.run().items] == [2, 3]


@pytest.mark.parametrize("has_begun", [True, False])
def test_what_was_on_the_lost_replica_waits_or_is_lost_at_once(has_begun: bool) -> None:
    """It is lost with it if it had begun, and never ran otherwise."""
    driver = Driver()
    for timeout_s in (0.5, 1.0, 0.5, 1.0):
        driver.submit(Item(deadline=driver.now + timeout_s))
    batch = driver.run()
    if has_begun:
        driver.start(batch)
    driver.submit(Item(deadline=driver.now + 0.5))
    driver.batcher.lost(driver.now, 0, back_at=driver.now + 1)
    late = dict.fromkeys([1, 3], "replica_lost" if has_begun else "not_ready")
    assert ends(driver.tick()) == {**late, 5: "not_ready"}
    driver.batcher.ready(driver.now, 0)
    assert [item.number for item in driver.run().items] == ([2] if has_begun else [2, 4])


def test_suspects_wait_too() -> None:
    driver = Driver()
    driver.submit(Item(deadline=driver.now + 2), Item(deadline=driver.now + 3))
    driver.start(driver.run())
    driver.batcher.lost(driver.now, 0, back_at=driver.now + 1)
    assert driver.tick() == []
    driver.batcher.expect(driver.now, driver.now + 2.5)
    assert ends(driver.tick()) == {1: "not_ready"}
    driver.batcher.ready(driver.now, 0)
    assert [item.number for item in driver.run().items] == [2]


def test_who_is_sent_away_is_told_when_to_come_back() -> None:
    driver = Driver()
    driver.several(1, deadline=driver.now + 0.5)
    driver.batcher.unready(driver.now, 0, back_at=driver.now + 2)
    assert retries(driver) == [2.0]
    with pytest.raises(NotReady) as caught:
        driver.submit(Item(deadline=driver.now + 0.5))
    assert caught.value.retry_after_s == 2.0


def test_a_newcomer_waits_if_it_is_wanted_until_then() -> None:
    driver = expecting(1.0)
    with pytest.raises(NotReady):
        driver.submit(Item(), Item(deadline=driver.now + 0.9))
    items = driver.several(1, deadline=driver.now + 1) + driver.several(1)
    assert driver.tick() == []
    driver.batcher.ready(driver.now, 0)
    assert driver.run().items == items


def test_waiting_items_keep_their_own_deadlines() -> None:
    driver = expecting(1.0)
    driver.several(1, deadline=driver.now + 2)
    driver.tick()
    assert driver.wake == driver.now + 2
    driver.pass_time(2)
    assert ends(driver.tick()) == {1: "deadline_exceeded"}


def test_when_the_instant_passes_waiting_goes_on_and_newcomers_are_admitted() -> None:
    driver = expecting(1.0)
    items = driver.several(1)
    driver.pass_time(5)
    assert driver.tick() == []
    items += driver.several(1, deadline=driver.now + 0.1)
    with pytest.raises(NotReady) as caught:
        driver.submit(Item(deadline=100.5))
    assert 0 < caught.value.retry_after_s < 0.1
    driver.batcher.ready(driver.now, 0)
    assert driver.run().items == items


def test_a_later_word_replaces_an_earlier_one() -> None:
    driver = expecting(1.0)
    driver.several(1, deadline=driver.now + 2)
    driver.batcher.expect(driver.now, driver.now + 3)
    assert ends(driver.tick()) == {1: "not_ready"}
    with pytest.raises(NotReady):
        driver.submit(Item(deadline=driver.now + 2))
    driver.batcher.expect(driver.now, driver.now + 1)
    driver.submit(Item(deadline=driver.now + 2))


def test_when_nothing_is_expected_any_more_nobody_waits() -> None:
    driver = expecting(1.0)
    driver.several(2)
    assert driver.batcher.is_expected
    driver.batcher.expect(driver.now, NEVER)
    assert ends(driver.tick()) == dict.fromkeys([1, 2], "not_ready")
    assert not driver.batcher.is_expected
    with pytest.raises(NotReady) as caught:
        driver.submit(Item())
    assert caught.value.retry_after_s == 1.0


def test_while_a_replica_is_ready_the_estimate_means_nothing() -> None:
    driver = Driver(replicas=3)
    driver.batcher.expect(driver.now, driver.now + 9)
    driver.batcher.unready(driver.now, 0, back_at=driver.now + 9)
    driver.batcher.lost(driver.now, 1, back_at=driver.now + 9)
    assert not driver.batcher.is_expected
    driver.several(1, deadline=driver.now + 1)
    driver.batcher.unready(driver.now, 2)
    assert ends(driver.tick()) == {1: "not_ready"}


def test_what_is_lost_while_another_is_ready_goes_there_whatever_its_deadline() -> None:
    driver = Driver(replicas=2)
    driver.several(2, deadline=driver.now + 1)
    driver.run()
    driver.batcher.lost(driver.now, 0, back_at=driver.now + 9)
    assert driver.run().replica == 1


def test_a_replica_that_is_ready_ends_the_estimate() -> None:
    driver = expecting(1.0)
    driver.batcher.ready(driver.now, 0)
    assert not driver.batcher.is_expected
    driver.several(1)
    driver.batcher.lost(driver.now, 0)
    assert ends(driver.tick()) == {1: "not_ready"}


def test_the_queue_stays_bounded_and_its_pace_counts_from_the_recovery() -> None:
    driver = expecting(2.0, max_items=4)
    driver.several(4)
    with pytest.raises(QueueFull) as caught:
        driver.submit(Item())
    assert caught.value.retry_after_s == pytest.approx(2.0 + 4 * 0.001)
    with pytest.raises(PayloadTooLarge):
        driver.submit(*(Item() for _ in range(5)))


def test_what_runs_goes_on_while_no_replica_is_ready() -> None:
    driver = Driver()
    batch = driver.start_one(deadline=driver.now + 0.5)
    driver.batcher.unready(driver.now, 0, back_at=driver.now + 1)
    assert driver.tick() == []
    driver.finish(batch)
    assert driver.batcher.empty
