from __future__ import annotations

from typing import Any

import pytest

from headrace.batching import Batch, Cut, Item, Rules, State
from headrace.clock import NEVER

from .driver import PLAIN, Driver, ends


def numbers(batch: Batch) -> list[int]:
    return [item.number for item in batch.items]


def at(instant: float) -> object:
    return pytest.approx(instant, abs=1e-9)


def test_an_idle_replica_gets_what_waits_at_once() -> None:
    driver = Driver()
    items = driver.several(2)
    batch = driver.run()
    assert (batch.items, batch.cut, batch.count, driver.wake) == (items, Cut.IDLE, 2, NEVER)
    assert [item.state for item in items] == [State.RUNNING] * 2


def test_a_full_batch_is_cut_as_full_and_the_rest_waits() -> None:
    driver = Driver()
    driver.several(6)
    batch = driver.run()
    assert (numbers(batch), batch.cut) == ([1, 2, 3, 4], Cut.FULL)
    assert driver.batcher.queue.count == 2


def test_a_busy_replica_gets_a_full_batch_in_its_second_slot() -> None:
    driver = Driver()
    first = driver.start_one()
    driver.several(4)
    second = driver.run()
    assert (second.cut, {first.slot, second.slot}) == (Cut.FULL, {0, 1})


def test_a_busy_replica_gets_no_underfull_batch() -> None:
    driver = Driver()
    driver.start_one()
    driver.several(3)
    assert driver.runs() == []


def test_a_replica_with_two_batches_gets_no_third() -> None:
    driver = Driver()
    driver.several(20)
    assert len(driver.runs()) == 2


def test_without_the_second_slot_a_busy_replica_gets_nothing() -> None:
    driver = Driver(rules=Rules(second_slot=False, settling=False))
    driver.several(20)
    assert len(driver.runs()) == 1


def test_the_greedy_rule_gives_the_second_slot_an_underfull_batch() -> None:
    driver = Driver(rules=Rules(second_slot_needs_full=False, settling=False))
    driver.start_one()
    driver.several(2)
    assert driver.run().count == 2


def test_an_idle_replica_comes_before_a_second_slot() -> None:
    driver = Driver(replicas=2)
    driver.several(4)
    assert driver.run().replica == 0
    driver.several(4)
    assert driver.run().replica == 1


def test_the_second_slot_is_filled_where_the_work_is_oldest() -> None:
    driver = Driver(replicas=2)
    driver.several(12)
    a0, b0, a1 = driver.runs()
    assert [batch.replica for batch in (a0, b0, a1)] == [0, 1, 0]
    driver.finish(a0, 0.009)
    driver.several(4)
    # Replica 0 has just begun on a1, which was cut as early as b0.
    assert driver.run().replica == 1


@pytest.mark.parametrize("field", ["count", "cost"])
def test_size_and_cost_of_a_batch_are_bounded(field: str) -> None:
    driver = Driver(max_batch_size=4, max_batch_cost=4.0)
    item: dict[str, Any] = {field: 3}
    driver.submit(*(Item(**item) for _ in range(2)))
    batch = driver.run()
    assert (numbers(batch), batch.cut) == ([1], Cut.FULL)


def test_an_item_larger_than_a_batch_runs_alone() -> None:
    driver = Driver()
    driver.submit(Item(), Item(count=9), Item())
    assert [numbers(batch) for batch in driver.runs()] == [[1], [2]]


def test_as_many_bytes_as_may_wait_are_a_full_batch() -> None:
    driver = Driver(max_bytes=10)
    driver.start_one()
    driver.several(1, size_bytes=9)
    assert driver.runs() == []
    driver.several(1, size_bytes=1)
    batch = driver.run()
    assert (batch.count, batch.cut) == (2, Cut.FULL)


def test_a_batch_holds_no_more_bytes_than_may_wait_though_more_came_back() -> None:
    driver = Driver(replicas=2, max_bytes=10)
    driver.several(2, size_bytes=4)
    driver.run()
    driver.several(2, size_bytes=4)
    driver.run()
    for replica in (0, 1):
        driver.batcher.lost(driver.now, replica, back_at=driver.now + 1)
    driver.batcher.ready(driver.now, 2)
    first = driver.run()
    assert (numbers(first), first.cut) == ([1, 2], Cut.FULL)
    # What is left fits, and is no full batch any more.
    driver.finish(first)
    second = driver.run()
    assert (numbers(second), second.cut) == ([3, 4], Cut.IDLE)


def test_items_of_different_keys_share_no_batch() -> None:
    driver = Driver(replicas=2)
    driver.submit(Item(key="a"), Item(key="b"), Item(key="a"))
    assert [numbers(batch) for batch in driver.runs()] == [[1, 3], [2]]


def test_the_bucket_with_the_oldest_head_goes_first() -> None:
    driver = Driver()
    batch = driver.start_one()
    driver.submit(Item(key="b"))
    driver.pass_time(0.001)
    driver.submit(Item(key="a"))
    driver.finish(batch)
    assert driver.run().items[0].key == "b"


def test_a_full_bucket_passes_an_underfull_one_that_is_a_little_older() -> None:
    driver = Driver()
    driver.measure(0.010)
    batch = driver.start_one()
    driver.submit(Item(key="small"))
    driver.pass_time(0.009)
    driver.several(4, key="large")
    assert [b.items[0].key for b in driver.runs()] == ["large"]
    driver.finish(batch, 0.001)
    assert driver.runs() == []


def test_an_underfull_bucket_waits_no_longer_than_a_batch_time_for_full_ones() -> None:
    driver = Driver()
    driver.measure(0.010)
    batch = driver.start_one()
    driver.submit(old := Item(key="small"))
    driver.pass_time(0.011)
    driver.several(4, key="large")
    # The second slot stays empty, so that the replica is idle soon.
    assert driver.runs() == []
    driver.finish(batch, 0.001)
    assert next(batch.items for batch in driver.runs()) == [old]


@pytest.mark.parametrize("rules", [PLAIN, Rules()], ids=["plain", "settling"])
def test_a_saturated_key_does_not_starve_another(rules: Rules) -> None:
    driver = Driver(rules=rules)
    driver.several(12, key="large")
    batches = driver.runs()
    driver.submit(rare := Item(key="rare"))
    for _ in range(6):
        driver.finish(batches.pop(0), 0.010)
        driver.several(4, key="large")
        batches += driver.runs()
    assert rare.state is not State.QUEUED


def test_what_is_cut_together_comes_out_in_order_of_the_heads() -> None:
    driver = Driver(replicas=4)
    driver.several(4, key="a")
    driver.several(4, key="b")
    assert [batch.items[0].key for batch in driver.runs()] == ["a", "b"]


def test_a_delay_waits_for_company() -> None:
    driver = Driver(max_batch_delay_s=0.005)
    driver.submit(Item())
    assert (driver.runs(), driver.wake) == ([], at(100.005))
    driver.pass_time(0.003)
    driver.submit(Item())
    assert driver.runs() == []
    driver.now = driver.wake
    batch = driver.run()
    assert (batch.count, batch.cut) == (2, Cut.DELAY)


def test_a_full_batch_does_not_wait_for_the_delay() -> None:
    driver = Driver(max_batch_delay_s=0.005)
    driver.several(4)
    assert driver.run().cut is Cut.FULL


def test_a_delay_counts_from_the_first_to_arrive_whoever_is_at_the_head() -> None:
    driver = Driver(max_batch_delay_s=0.005)
    driver.submit(Item())
    driver.pass_time(0.003)
    driver.submit(Item(priority=1))
    assert (driver.runs(), driver.wake) == ([], at(100.005))


def test_a_delay_ends_while_two_batch_times_are_left() -> None:
    driver = Driver(max_batch_delay_s=0.5)
    driver.several(4)
    driver.finish(driver.run(), 0.010)
    driver.submit(Item(deadline=driver.now + 0.1))
    assert driver.runs() == []
    assert driver.wake == at(driver.now + 0.08)


def test_a_delayed_bucket_does_not_hold_up_another() -> None:
    driver = Driver(max_batch_delay_s=0.005)
    driver.submit(Item(key="a"))
    driver.several(4, key="b")
    assert driver.run().items[0].key == "b"


def test_two_delayed_buckets_wake_for_the_first() -> None:
    driver = Driver(max_batch_delay_s=0.005)
    driver.submit(Item(key="a"))
    driver.pass_time(0.002)
    driver.submit(Item(key="b"))
    assert (driver.runs(), driver.wake) == ([], at(100.005))


def test_a_hopeless_item_is_answered_before_it_takes_a_place() -> None:
    driver = Driver()
    driver.measure(0.010)
    batch = driver.start_one()
    items = [Item(deadline=driver.now + 0.015), *(Item() for _ in range(3))]
    driver.submit(*items)
    driver.pass_time(0.006)
    # Without it the batch is not full: nothing for the second slot.
    actions = driver.tick()
    assert ends(actions) == {items[0].number: "deadline_exceeded"}
    assert items[0].state is State.EXPIRED
    driver.finish(batch, 0.001)
    assert driver.run().items == items[1:]


def test_an_item_that_may_just_make_it_is_run() -> None:
    driver = Driver()
    driver.measure(0.010)
    driver.measure(0.030)
    batch = driver.start_one()
    driver.submit(Item(deadline=driver.now + 0.016))
    driver.finish(batch, 0.005)
    assert driver.run().count == 1


def test_an_idle_server_calls_nothing_hopeless() -> None:
    driver = Driver()
    driver.measure(0.010)
    driver.pass_time(0.010)
    driver.submit(Item(deadline=driver.now + 0.001))
    assert driver.run().count == 1


def test_only_recent_batches_say_what_is_hopeless() -> None:
    driver = Driver()
    driver.measure(0.001)
    for _ in range(16):
        driver.measure(0.010)
    driver.submit(Item(deadline=driver.now + 0.009))
    assert ends(driver.tick()) == {18: "deadline_exceeded"}


def test_a_server_of_which_one_replica_works_is_not_idle() -> None:
    driver = Driver(replicas=2)
    driver.measure(0.010)
    batch = driver.start_one()
    driver.start_one()
    driver.finish(batch, 0.010)
    driver.pass_time(0.050)
    driver.submit(Item(deadline=driver.now + 0.001))
    assert ends(driver.tick()) == {4: "deadline_exceeded"}


def test_a_backlog_from_before_anything_was_measured_counts_by_what_is_measured_then() -> None:
    driver = Driver()
    many = driver.several(40, client="many", priority=1)
    plain = driver.several(2)
    first, second = driver.runs()
    driver.finish(first, seconds=4.0)  # an item takes 1 s, not 1 ms
    (one,) = driver.submit(Item(client="one"))
    (last,) = driver.submit(Item(client="many", priority=1))
    (third,) = driver.runs()
    assert third.items == [*plain, one, many[8]]
    order = []
    for batch in (second, third):
        driver.finish(batch, seconds=4.0)
    while batches := driver.runs():
        for batch in batches:
            order += batch.items
            driver.finish(batch, seconds=4.0)
    assert order == [*many[9:], last]


def test_a_first_batch_that_is_heard_of_only_at_its_end_has_taken_time_all_the_same() -> None:
    driver = Driver()
    many = driver.several(40, client="many")
    first, _ = driver.runs()
    driver.pass_time(4.0)
    driver.finish(first, seconds=0.0)
    (one,) = driver.submit(Item(client="one"))
    (third,) = driver.runs()
    assert third.items == [one, *many[8:11]]
