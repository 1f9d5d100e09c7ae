"""How items end: answered, cancelled, expired, failed."""

from __future__ import annotations

import pytest

from headrace.batching import Answer, Batcher, Cancel, Item, Overrun, State
from headrace.call import Failure, Value
from headrace.clock import NEVER
from headrace.config import Batching
from headrace.errors import Draining, NotReady, PayloadTooLarge, QueueFull

from .driver import Driver, ends, only


def test_without_a_ready_replica_nothing_is_admitted() -> None:
    with pytest.raises(NotReady):
        Driver(replicas=0).submit(Item())


def test_the_queues_refusals_reach_the_caller() -> None:
    driver = Driver(max_items=2)
    with pytest.raises(PayloadTooLarge):
        driver.submit(Item(count=3))
    driver.several(2)
    with pytest.raises(QueueFull):
        driver.submit(Item())


def test_room_that_expired_items_hold_is_free() -> None:
    driver = Driver(max_items=1)
    driver.submit(Item(deadline=driver.now + 1))
    driver.pass_time(1)
    driver.submit(Item())
    assert driver.batcher.queue.count == 1


def test_retry_after_follows_the_measured_drain_rate_of_all_replicas() -> None:
    driver = Driver(replicas=2, max_items=8)
    driver.several(4)
    driver.finish(driver.run(), 0.040)
    driver.submit(*(Item() for _ in range(8)))
    with pytest.raises(QueueFull) as refused:
        driver.submit(Item())
    assert refused.value.retry_after_s == pytest.approx(8 * 0.010 / 2)


def test_small_batches_do_not_distort_the_drain_rate() -> None:
    driver = Driver(max_items=4)
    for _ in range(30):
        driver.measure(0.006, size=1)
        driver.measure(0.006, size=4)
    driver.several(4)
    with pytest.raises(QueueFull) as refused:
        driver.submit(Item())
    assert refused.value.retry_after_s == pytest.approx(4 * 0.006 / 2.5, rel=0.1)


def test_an_answer_is_wanted_once() -> None:
    driver = Driver()
    batch = driver.start_one()
    assert driver.batcher.part(driver.now, batch, 0)
    assert not driver.batcher.part(driver.now, batch, 0)
    assert batch.items[0].state is State.DONE


def test_a_part_of_an_answer_does_not_end_its_item() -> None:
    driver = Driver()
    batch = driver.start_one()
    assert driver.batcher.part(driver.now, batch, 0, last=False)
    assert driver.batcher.part(driver.now, batch, 0, failed=True)
    assert batch.items[0].state is State.FAILED


def test_an_item_without_an_answer_fails_when_its_batch_ends() -> None:
    driver = Driver()
    batch = driver.start_one()
    driver.batcher.ended(driver.now, batch)
    assert ends(driver.tick()) == {1: "internal_error"}
    assert driver.batcher.empty


def test_a_waiting_item_that_is_cancelled_is_never_run() -> None:
    driver = Driver()
    first, second = driver.submit(Item(), Item())
    assert driver.cancel(first)
    batch = driver.run()
    assert (batch.items, batch.count, first.state) == ([second], 1, State.CANCELLED)


def test_a_running_item_that_is_cancelled_touches_no_other() -> None:
    driver = Driver()
    items = driver.several(3)
    batch = driver.run()
    assert driver.cancel(items[1])
    assert only(Cancel, driver.tick()) == [Cancel(batch, 1)]
    assert [driver.batcher.part(driver.now, batch, i) for i in range(3)] == [True, False, True]


def test_cancelling_again_or_too_late_does_nothing() -> None:
    driver = Driver()
    batch = driver.start_one()
    driver.finish(batch)
    (waiting,) = driver.submit(Item())
    assert driver.cancel(waiting)
    assert not driver.cancel(waiting)
    assert not driver.cancel(batch.items[0])
    assert not driver.cancel(Item())
    assert driver.tick() == []


def test_a_waiting_item_expires_at_its_deadline() -> None:
    driver = Driver()
    driver.start_one()
    driver.submit(item := Item(deadline=driver.now + 1.5))
    assert (driver.runs(), driver.wake) == ([], 101.5)
    driver.now = driver.wake
    (answer,) = only(Answer, driver.tick())
    assert item.state is State.EXPIRED
    assert answer.failure.message == "there was no answer by the deadline"
    assert answer.failure.details == ({"stage": "queued"},)
    assert driver.wake == NEVER


def test_what_expires_is_told_no_time_that_nobody_asked_for() -> None:
    driver = Driver()
    driver.start_one()
    # A part of the time went by while the body was read; of the other all of it.
    driver.submit(Item(deadline=driver.now + 0.25), Item(deadline=driver.now - 0.25))
    driver.pass_time(0.25)
    texts = [answer.failure.message for answer in only(Answer, driver.tick())]
    assert texts == ["there was no answer by the deadline"] * 2


def test_a_running_item_expires_too_and_is_cancelled() -> None:
    driver = Driver()
    batch = driver.start_one(deadline=driver.now + 1)
    driver.pass_time(1)
    actions = driver.tick()
    assert only(Cancel, actions) == [Cancel(batch, 0)]
    (answer,) = only(Answer, actions)
    assert answer.failure.details == ({"stage": "running"},)
    assert not driver.batcher.part(driver.now, batch, 0)


def test_an_item_that_its_replica_passed_over_as_expired_has_expired() -> None:
    driver = Driver()
    batch = driver.start_one(deadline=driver.now + 1)
    driver.pass_time(1)
    driver.batcher.ended(driver.now, batch)
    assert batch.items[0].state is State.EXPIRED
    assert list(ends(driver.tick()).values()) == ["deadline_exceeded"]


def test_the_wake_instant_ignores_the_deadline_of_what_has_ended() -> None:
    driver = Driver()
    driver.start_one()
    item, _ = driver.submit(Item(deadline=driver.now + 1), Item(deadline=driver.now + 2))
    driver.cancel(item)
    driver.tick()
    assert driver.wake == 102.0


def test_a_batch_that_runs_too_long_is_told_once() -> None:
    driver = Driver(predict_timeout_s=2.0)
    driver.submit(Item())
    batch = driver.run()
    driver.pass_time(1)
    driver.start(batch)
    driver.tick()
    assert driver.wake == 103.0
    driver.now = driver.wake
    assert driver.tick() == [Overrun(batch)]
    assert (driver.tick(), driver.wake) == ([], NEVER)


def test_a_batch_that_its_replica_does_not_begin_on_overruns_too() -> None:
    driver = Driver(predict_timeout_s=2.0)
    batch = driver.start_one()
    driver.several(4)
    (second,) = driver.runs()
    driver.pass_time(1)
    driver.finish(batch)
    driver.tick()
    assert driver.wake == driver.now + 2.0, "it counts from its turn"
    driver.now = driver.wake
    assert driver.tick() == [Overrun(second)]
    assert (driver.tick(), driver.wake) == ([], NEVER)


def test_who_was_stopped_gets_its_time_anew_whether_it_had_begun_or_not() -> None:
    driver = Driver(replicas=2, predict_timeout_s=2.0)
    driver.start_one()
    driver.submit(Item())
    driver.run()
    driver.now += 10
    driver.batcher.resumed(driver.now)
    assert driver.tick() == []
    assert driver.wake == driver.now + 2.0


def test_of_two_running_batches_the_earlier_limit_counts() -> None:
    driver = Driver(replicas=2, predict_timeout_s=2.0)
    driver.start_one()
    driver.pass_time(1)
    driver.start_one()
    driver.tick()
    assert driver.wake == 102.0


def test_the_limit_counts_anew_after_a_batch_was_set_aside() -> None:
    driver = Driver(predict_timeout_s=2.0)
    batch = driver.start_one()
    driver.pass_time(1)
    driver.batcher.set_aside(driver.now, batch)
    driver.tick()
    assert driver.wake == 103.0
    driver.pass_time(1)
    driver.start(batch)
    driver.tick()
    assert driver.wake == 104.0


def test_the_running_items_are_those_that_somebody_waits_for() -> None:
    driver = Driver()
    items = driver.several(4)
    driver.several(1)
    batch = driver.run()
    driver.cancel(items[0])
    driver.batcher.part(driver.now, batch, 1)
    assert list(driver.batcher.running) == items[2:]


def test_it_is_empty_when_every_item_has_ended() -> None:
    driver = Driver()
    told = [driver.batcher.empty]
    driver.submit(Item())
    told.append(driver.batcher.empty)
    batch = driver.run()
    told.append(driver.batcher.empty)
    driver.finish(batch)
    told.append(driver.batcher.empty)
    assert told == [True, False, False, True]


def test_closing_ends_what_waits_and_what_runs() -> None:
    driver = Driver()
    running = driver.start_one()
    driver.several(2)
    driver.batcher.close(driver.now, Draining("the server is shutting down"))
    assert ends(driver.tick()) == {1: "draining", 2: "draining", 3: "draining"}
    assert driver.batcher.empty
    assert not driver.batcher.part(driver.now, running, 0)
    driver.batcher.ended(driver.now, running)
    assert driver.tick() == []


def test_all_rules_are_in_force_unless_told_otherwise() -> None:
    batcher = Batcher(Batching(), max_items=1, max_bytes=1)
    batcher.ready(0.0, 0)
    batcher.submit(0.0, [Item()])
    actions, wake = batcher.tick(0.0)
    assert (len(actions), wake) == (1, NEVER)


def test_the_room_of_an_expired_item_is_free_for_one_that_comes_by_itself() -> None:
    driver = Driver(max_items=1)
    driver.start_one()
    driver.submit(Item(deadline=driver.now + 1))
    driver.pass_time(1)
    newcomer = Item(arrived=driver.now)
    assert driver.batcher.submit_each(driver.now, [newcomer]) == []
    assert newcomer.number


def test_answers_of_a_batch_whose_items_went_elsewhere_are_wanted_by_nobody() -> None:
    driver = Driver(replicas=1)
    batch = driver.start_one()
    driver.batcher.lost(driver.now, 0, suspects=(), back_at=driver.now + 1)
    assert driver.batcher.queue.count == 1
    assert driver.batcher.parts(driver.now, batch, [(0, Value(b"", ""))]) == []
    assert driver.batcher.queue.count == 1


def test_answers_told_together_are_those_that_somebody_waits_for() -> None:
    driver = Driver()
    items = driver.several(3)
    batch = driver.run()
    driver.start(batch)
    driver.cancel(items[1])
    value, failure = Value(b"1", ""), Failure(code="error", message="")
    told = driver.batcher.parts(driver.now, batch, [(0, value), (1, value), (2, failure)])
    assert told == [(items[0], value), (items[2], failure)]
    assert [item.state for item in items] == [State.DONE, State.CANCELLED, State.FAILED]
    assert driver.batcher.parts(driver.now, batch, [(0, value)]) == []
