from __future__ import annotations

from typing import Any

import pytest

from headrace.batching import Batch, Cut, Item, Rules

from .driver import Driver


def settled_driver(**fields: Any) -> Driver:
    """A busy server that has measured batches of 5 ms: it settles for 0.6 ms."""
    driver = Driver(rules=Rules(**fields), max_batch_size=8)
    driver.measure(0.005, size=4)
    busy(driver, 4)
    return driver


def busy(driver: Driver, size: int) -> None:
    """A batch of this size, cut at once on a server that is not idle, has just ended."""
    driver.several(size)
    driver.finish(cut_now(driver), 0.005)


def cut_now(driver: Driver) -> Batch:
    batches = driver.runs()
    if not batches:
        driver.now = driver.wake
        batches = driver.runs()
    return batches[0]


def test_after_a_batch_an_underfull_one_waits_for_its_senders() -> None:
    driver = settled_driver()
    driver.submit(Item())
    assert driver.runs() == []
    assert driver.wake == pytest.approx(driver.now + 0.12 * 0.005, abs=1e-9)


def test_settling_ends_when_as_many_came_as_were_sent() -> None:
    driver = settled_driver()
    driver.several(3)
    assert driver.runs() == []
    driver.pass_time(0.0003)
    driver.submit(Item())
    batch = driver.run()
    assert (batch.count, batch.cut) == (4, Cut.SETTLED)


def test_settling_ends_when_the_batch_is_full() -> None:
    driver = settled_driver()
    driver.submit(*(Item(count=4) for _ in range(2)))
    assert driver.run().cut is Cut.FULL


def test_settling_ends_at_its_instant() -> None:
    driver = settled_driver()
    driver.submit(Item(), Item())
    assert driver.runs() == []
    driver.now = driver.wake
    assert driver.run().cut is Cut.SETTLED


def test_settling_lasts_ten_milliseconds_at_most() -> None:
    driver = Driver(rules=Rules())
    driver.measure(0.5)
    busy(driver, 2)
    driver.submit(Item())
    driver.tick()
    assert driver.wake == pytest.approx(driver.now + 0.01, abs=1e-9)


def test_one_that_came_alone_has_not_settled() -> None:
    driver = settled_driver()
    driver.pass_time(0.0003)
    driver.submit(Item())
    driver.tick()
    driver.now = driver.wake
    assert driver.run().cut is Cut.IDLE


def test_who_comes_after_the_window_does_not_wait() -> None:
    driver = settled_driver()
    driver.pass_time(0.002)
    driver.submit(Item())
    assert driver.run().cut is Cut.IDLE


def test_a_server_that_was_idle_does_not_settle_after_its_first_batch() -> None:
    driver = settled_driver()
    driver.pass_time(0.006)
    busy(driver, 4)
    driver.submit(Item())
    assert driver.run().cut is Cut.IDLE


def test_settling_stops_when_it_brings_nobody_and_is_tried_again() -> None:
    driver = settled_driver(settle_retry=4)
    driver.several(2)
    running, waits = cut_now(driver), []
    for _ in range(24):
        driver.several(2)
        driver.finish(running, 0.005)
        before = driver.now
        running = cut_now(driver)
        waits.append(driver.now > before)
    given_up = waits.index(False)
    assert 1 <= given_up <= 8
    assert waits[given_up:].count(True) == (24 - given_up) // 4


def test_settling_goes_on_while_it_brings_somebody() -> None:
    driver = settled_driver()
    driver.several(2)
    running = cut_now(driver)
    for _ in range(24):
        driver.several(2)
        driver.finish(running, 0.005)
        assert driver.runs() == []
        driver.submit(Item())
        running = cut_now(driver)
        assert running.cut is Cut.SETTLED


def test_a_batch_that_was_full_at_once_teaches_nothing() -> None:
    driver = settled_driver()
    driver.submit(Item(count=4))
    running = cut_now(driver)
    for _ in range(24):
        driver.submit(Item(count=4))
        driver.pass_time(0.005)
        driver.batcher.started(driver.now - 0.005, running)
        driver.finish(running, 0.0)
        driver.submit(Item(count=4))
        running = driver.run()
    driver.finish(running, 0.005)
    driver.submit(Item())
    assert driver.runs() == []


def test_a_batch_that_nobody_was_answered_from_is_not_settled_for() -> None:
    driver = settled_driver()
    (item,) = driver.submit(Item())
    batch = cut_now(driver)
    driver.start(batch)
    driver.cancel(item)
    driver.pass_time(0.001)
    driver.batcher.ended(driver.now, batch)
    driver.submit(Item())
    assert driver.run().cut is Cut.IDLE


def test_a_batch_that_is_set_aside_is_not_settled_for() -> None:
    driver = settled_driver()
    driver.submit(Item(), Item())
    batch = cut_now(driver)
    driver.start(batch)
    driver.batcher.set_aside(driver.now, batch)
    driver.submit(Item())
    assert driver.run().cut is Cut.IDLE
