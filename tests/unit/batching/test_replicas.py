"""Replicas that become ready and unready, are lost, isolate, and are kept in quarantine."""

from __future__ import annotations

from collections.abc import Collection

from headrace.batching import Batch, Cut, Item, Overrun, State
from headrace.clock import NEVER

from .driver import Driver, ends


def lose(
    driver: Driver,
    replica: int,
    guilty: Item | None = None,
    suspects: Collection[Item] | None = None,
    is_outside: bool = False,
    back_at: float = NEVER,
) -> dict[int, str]:
    """Lose a replica, and what ends by that."""
    driver.batcher.lost(
        driver.now,
        replica,
        guilty=guilty,
        suspects=suspects,
        is_outside=is_outside,
        back_at=back_at,
    )
    return ends(driver.tick())


def with_suspects(size: int) -> tuple[Driver, list[Item]]:
    """Items that ran when replica 0 died; replica 1 is there, busy with nothing."""
    driver = Driver()
    items = driver.several(size)
    driver.start(driver.run())
    driver.batcher.ready(driver.now, 1)
    driver.batcher.lost(driver.now, 0)
    return driver, items


def test_an_unready_replica_gets_no_batch_until_it_is_ready_again() -> None:
    driver = Driver(replicas=2)
    driver.batcher.unready(driver.now, 0)
    driver.batcher.unready(driver.now, 0)
    driver.submit(Item())
    assert driver.run().replica == 1
    driver.batcher.ready(driver.now, 0)
    driver.batcher.ready(driver.now, 0)
    driver.batcher.unready(driver.now, 1)
    driver.submit(Item())
    assert driver.run().replica == 0


def test_when_no_replica_is_ready_what_waits_fails_and_what_runs_goes_on() -> None:
    driver = Driver()
    batch = driver.start_one()
    driver.submit(Item())
    driver.batcher.unready(driver.now, 0)
    assert ends(driver.tick()) == {2: "not_ready"}
    assert driver.batcher.part(driver.now, batch, 0)


def test_losing_the_last_replica_fails_what_was_to_run_again() -> None:
    driver = Driver()
    driver.several(2)
    driver.run()
    driver.several(1)
    assert lose(driver, 0) == {1: "not_ready", 2: "not_ready", 3: "not_ready"}


def test_losing_the_last_replica_fails_suspects_too() -> None:
    driver, _ = with_suspects(2)
    assert lose(driver, 1) == {1: "not_ready", 2: "not_ready"}
    assert driver.batcher.empty


def test_a_batch_that_had_not_begun_goes_back_to_its_place() -> None:
    driver = Driver(replicas=2)
    items = driver.several(8)
    driver.runs()
    driver.several(1)
    driver.batcher.lost(driver.now, 1)
    batch = driver.run()
    assert (batch.items, batch.cut) == (items[4:], Cut.FULL)


def test_what_comes_back_may_exceed_the_bound_and_newcomers_wait_outside() -> None:
    driver = Driver(replicas=2, max_items=4)
    for _ in range(3):
        driver.submit(*(Item() for _ in range(4)))
        driver.tick()
    driver.batcher.lost(driver.now, 1)
    assert driver.batcher.queue.count == 4


def test_after_a_loss_each_item_runs_alone_and_one_at_a_time() -> None:
    driver, items = with_suspects(3)
    for item in items:
        batch = driver.run()
        assert (batch.items, batch.cut) == ([item], Cut.SUSPECT)
        driver.finish(batch)
    assert [item.state for item in items] == [State.DONE] * 3


def test_a_suspect_takes_nobody_with_it() -> None:
    driver, items = with_suspects(2)
    batch = driver.run()
    driver.several(8)
    assert driver.runs() == []
    driver.start(batch)
    driver.batcher.ready(driver.now, 2)
    assert [run.replica for run in driver.runs()] == [2, 2]
    assert lose(driver, 1) == {1: "replica_lost"}
    assert items[1].state is State.QUEUED


def test_a_suspect_that_was_set_aside_still_takes_nobody_with_it() -> None:
    driver, _ = with_suspects(2)
    batch = driver.run()
    driver.start(batch)
    driver.batcher.set_aside(driver.now, batch)
    driver.several(8)
    assert driver.runs() == []
    driver.start(batch)
    driver.finish(batch)
    assert driver.run().cut is Cut.SUSPECT


def test_a_suspect_runs_only_where_nothing_else_is_open() -> None:
    driver = Driver(replicas=2)
    aside = driver.start_one()
    driver.batcher.set_aside(driver.now, aside)
    driver.batcher.unready(driver.now, 0)
    driver.several(2)
    batch = driver.run()
    driver.start(batch)
    driver.batcher.ready(driver.now, 0)
    driver.batcher.lost(driver.now, 1)
    driver.several(8)
    assert driver.runs() == []
    driver.finish(aside)
    assert driver.run().cut is Cut.SUSPECT


def test_a_suspect_does_not_starve_on_a_saturated_server() -> None:
    driver = Driver(replicas=2)
    driver.several(16)
    batches = driver.runs()
    suspects = batches[1].items
    driver.start(batches[1])
    driver.batcher.lost(driver.now, 1)
    batches = [batch for batch in batches if batch.replica == 0]
    for _ in range(3):
        driver.several(8)
        batches += driver.runs()
        driver.finish(batches.pop(0))
    assert suspects[0].state is State.DONE


def test_other_replicas_go_on_while_one_is_kept_for_a_suspect() -> None:
    driver = Driver(replicas=3)
    driver.several(12)
    for batch in driver.runs():
        driver.start(batch)
    driver.batcher.lost(driver.now, 2)
    driver.several(8)
    assert [batch.replica for batch in driver.runs()] == [1]


def test_a_suspect_may_be_cancelled_while_it_waits() -> None:
    driver, items = with_suspects(2)
    assert driver.cancel(items[0])
    assert driver.run().items == items[1:]
    assert driver.runs() == []


def test_a_suspect_keeps_its_deadline() -> None:
    driver = Driver()
    driver.several(2, deadline=driver.now + 1)
    driver.start(driver.run())
    driver.batcher.ready(driver.now, 1)
    driver.batcher.lost(driver.now, 0)
    driver.pass_time(1)
    assert ends(driver.tick()) == {1: "deadline_exceeded", 2: "deadline_exceeded"}


def test_a_suspects_time_is_not_a_batchs_time() -> None:
    driver, _ = with_suspects(2)
    driver.finish(driver.run(), 0.001)
    driver.cancel(driver.run().items[0])
    driver.submit(Item(deadline=driver.now + 0.0005))
    assert ends(driver.tick()) == {}


def test_an_item_that_was_alone_is_guilty() -> None:
    driver = Driver(replicas=2)
    driver.start_one()
    assert lose(driver, 0) == {1: "replica_lost"}


def test_a_mate_that_was_given_up_may_be_the_guilty_one() -> None:
    driver = Driver(replicas=2)
    items = driver.several(2)
    driver.start(driver.run())
    driver.cancel(items[0])
    assert lose(driver, 0) == {}
    assert items[1].suspect


def test_a_mate_that_was_answered_is_not() -> None:
    driver = Driver(replicas=2)
    driver.several(2)
    batch = driver.run()
    driver.start(batch)
    driver.batcher.part(driver.now, batch, 0)
    assert lose(driver, 0) == {2: "replica_lost"}


def test_where_the_guilty_item_is_known_it_alone_fails() -> None:
    driver = Driver(replicas=2)
    items = driver.several(8)
    first, second = driver.runs()
    third_items = driver.several(4)
    (third,) = driver.runs()
    driver.start(first)
    assert third.replica == first.replica
    assert lose(driver, 0, guilty=third_items[1]) == {10: "replica_lost"}
    assert not any(item.suspect for item in items + third_items)
    driver.finish(second)
    driver.tick()
    assert items[0].batch is not None
    assert items[0].batch.items == items[:4]


def two_batches(*, idempotent: bool = True) -> tuple[Driver, list[Item]]:
    """Eight items on replica 0, in two batches of which the first has begun, and replica 1."""
    driver = Driver(idempotent=idempotent)
    items = driver.several(8)
    first, _ = driver.runs()
    driver.start(first)
    driver.batcher.ready(driver.now, 1)
    return driver, items


def suspected(items: list[Item]) -> list[int]:
    return [item.number for item in items if item.suspect and item.live]


def test_only_the_named_items_are_suspects() -> None:
    driver, items = two_batches()
    assert lose(driver, 0, suspects=items[1:3]) == {}
    assert suspected(items) == [2, 3]


def test_an_item_may_be_named_before_its_batch_began() -> None:
    driver, items = two_batches()
    assert lose(driver, 0, suspects=items[3:5]) == {}
    assert suspected(items) == [4, 5]


def test_the_only_named_item_is_guilty_whatever_ran_beside_it() -> None:
    driver, items = two_batches()
    assert lose(driver, 0, suspects=[items[6]]) == {7: "replica_lost"}
    assert suspected(items) == []


def test_where_nobody_is_to_blame_all_go_back_unsuspected() -> None:
    driver, items = two_batches()
    assert lose(driver, 0, suspects=()) == {}
    assert suspected(items) == []
    assert items[0].batch is not None
    assert items[0].batch.items == items[:4]


def test_an_item_that_was_alone_runs_again_where_nobody_is_to_blame() -> None:
    driver = Driver(replicas=2)
    batch = driver.start_one()
    assert lose(driver, 0, suspects=[]) == {}
    assert batch.items[0].live


def test_a_suspect_stays_one_though_its_next_loss_is_not_its_doing() -> None:
    driver, items = with_suspects(2)
    batch = driver.run()
    driver.start(batch)
    driver.batcher.ready(driver.now, 2)
    assert lose(driver, 1, suspects=()) == {}
    assert suspected(items) == [1, 2]


def test_a_named_item_that_was_given_up_may_be_the_guilty_one() -> None:
    driver, items = two_batches()
    driver.cancel(items[0])
    assert lose(driver, 0, suspects=items[:2]) == {}
    assert suspected(items) == [2]


def test_where_the_only_named_item_was_given_up_nobody_else_is_suspected() -> None:
    driver, items = two_batches()
    driver.cancel(items[0])
    assert lose(driver, 0, suspects=items[:1]) == {}
    assert suspected(items) == []


def test_a_named_item_that_was_answered_is_no_suspect() -> None:
    driver, items = two_batches()
    assert items[0].batch is not None
    driver.batcher.part(driver.now, items[0].batch, 0)
    assert lose(driver, 0, suspects=items[:2]) == {2: "replica_lost"}


def test_items_of_other_replicas_cannot_be_suspects() -> None:
    driver, items = two_batches()
    (other,) = driver.several(1)
    assert driver.run().replica == 1
    assert lose(driver, 0, suspects=[items[0], other]) == {1: "replica_lost"}
    assert not other.suspect


def begin_again(driver: Driver, item: Item) -> Batch:
    """The batch that an item of a lost replica runs in by now, begun."""
    driver.tick()
    assert item.batch is not None
    driver.start(item.batch)
    return item.batch


def test_an_act_from_outside_is_pardoned_to_each_item_once() -> None:
    driver = Driver(replicas=3)
    items = driver.several(2)
    driver.start(driver.run())
    assert lose(driver, 0, is_outside=True) == {}
    assert suspected(items) == []
    again = begin_again(driver, items[0])
    assert (again.items, again.cut) == (items, Cut.IDLE)
    assert lose(driver, again.replica, is_outside=True) == {}
    assert suspected(items) == [1, 2]


def test_one_that_each_act_from_outside_meets_costs_three_replicas_with_mates() -> None:
    driver = Driver(replicas=4)
    items = driver.several(2)
    for code in ({}, {}, {1: "replica_lost"}):
        replica = begin_again(driver, items[0]).replica
        assert lose(driver, replica, is_outside=True) == code
    assert begin_again(driver, items[1]).cut is Cut.SUSPECT


def test_one_that_is_alone_costs_two() -> None:
    driver = Driver(replicas=2)
    (item,) = driver.start_one().items
    assert lose(driver, 0, is_outside=True) == {}
    assert begin_again(driver, item).cut is Cut.IDLE
    assert lose(driver, 1, is_outside=True, back_at=driver.now) == {1: "replica_lost"}


def test_what_an_item_does_itself_is_not_pardoned() -> None:
    driver = Driver(replicas=2)
    driver.start_one()
    assert lose(driver, 0, is_outside=False) == {1: "replica_lost"}


def test_a_pardon_says_nothing_of_what_an_item_does_itself() -> None:
    driver = Driver(replicas=2)
    (item,) = driver.start_one().items
    lose(driver, 0, is_outside=True)
    begin_again(driver, item)
    assert lose(driver, 1, back_at=driver.now) == {1: "replica_lost"}


def test_a_suspect_is_pardoned_once_and_stays_a_suspect() -> None:
    driver, items = with_suspects(2)
    for replica, code in ((2, {}), (3, {1: "replica_lost"})):
        driver.batcher.ready(driver.now, replica)
        alone = begin_again(driver, items[0])
        assert alone.cut is Cut.SUSPECT
        assert lose(driver, alone.replica, is_outside=True) == code
        assert items[0].suspect


def test_a_mate_that_meets_it_for_the_first_time_is_pardoned_beside_a_suspect() -> None:
    driver = Driver(replicas=2)
    (old,) = driver.start_one().items
    driver.batcher.lost(driver.now, 0, is_outside=True)
    (new,) = driver.submit(Item())
    assert begin_again(driver, old).items == [old, new]
    driver.batcher.ready(driver.now, 2)
    assert lose(driver, 1, is_outside=True) == {}
    assert suspected([old, new]) == [1]


def test_where_the_guilty_item_is_known_there_is_no_pardon() -> None:
    driver, items = two_batches()
    assert lose(driver, 0, guilty=items[0], is_outside=True) == {1: "replica_lost"}
    assert not any(item.pardoned for item in items)


def test_of_two_batches_that_had_begun_nobody_was_alone() -> None:
    driver = Driver(replicas=2, max_batch_size=1)
    driver.batcher.unready(driver.now, 1)
    items = driver.several(2)
    for batch in driver.runs():
        driver.start(batch)
    driver.batcher.ready(driver.now, 1)
    assert lose(driver, 0) == {}
    assert suspected(items) == [1, 2]


def test_where_the_guilty_item_is_known_nobody_named_is_suspected() -> None:
    driver, items = two_batches()
    assert lose(driver, 0, guilty=items[0], suspects=items[:4]) == {1: "replica_lost"}
    assert suspected(items) == []


def test_what_may_not_be_repeated_fails_if_it_had_begun_whoever_is_named() -> None:
    driver, items = two_batches(idempotent=False)
    assert lose(driver, 0, suspects=items[3:6]) == dict.fromkeys([1, 2, 3, 4], "replica_lost")
    assert suspected(items) == [5, 6]


def test_a_poison_item_costs_two_replicas_and_its_mates_are_answered() -> None:
    driver = Driver()
    items = driver.several(4)
    poison, losses = items[2], 0
    while not driver.batcher.empty:
        batch = driver.run()
        driver.start(batch)
        if poison in batch.items:
            losses += 1
            driver.batcher.ready(driver.now, losses)
            driver.batcher.lost(driver.now, batch.replica, suspects=batch.items)
        else:
            driver.finish(batch)
    assert losses == 2
    assert [item.number for item in items if item.state is State.DONE] == [1, 2, 4]


def test_a_batch_that_overran_is_lost_like_another() -> None:
    driver = Driver(replicas=2, predict_timeout_s=1.0)
    items = driver.several(2)
    batch = driver.run()
    driver.start(batch)
    driver.pass_time(1.0)
    assert driver.tick() == [Overrun(batch)]
    assert lose(driver, 0) == {}
    assert suspected(items) == [1, 2]
    (alone,) = (item.batch for item in items if item.batch is not None)
    driver.start(alone)
    driver.pass_time(1.0)
    assert driver.tick() == [Overrun(alone)]
    assert lose(driver, 1, back_at=driver.now) == {1: "replica_lost"}


def test_an_innocent_item_that_was_alone_runs_again() -> None:
    driver = Driver(replicas=2)
    batch = driver.start_one()
    driver.several(8)
    driver.runs()
    assert lose(driver, 0, guilty=Item()) == {}
    assert batch.items[0].live


def test_what_may_not_be_repeated_fails_if_it_had_begun() -> None:
    driver = Driver(replicas=2, idempotent=False)
    driver.several(12)
    first, _, third = driver.runs()
    driver.start(first)
    assert lose(driver, 0) == dict.fromkeys([1, 2, 3, 4], "replica_lost")
    assert all(item.live for item in third.items)


def test_a_batch_that_is_set_aside_had_begun_but_is_no_suspect() -> None:
    for idempotent in (True, False):
        driver = Driver(replicas=2, idempotent=idempotent)
        items = driver.several(2)
        batch = driver.run()
        driver.start(batch)
        driver.batcher.set_aside(driver.now, batch)
        driver.batcher.unready(driver.now, 1)
        lost = lose_keeping(driver, batch)
        assert lost == ({} if idempotent else dict.fromkeys([1, 2], "replica_lost"))
        assert not any(item.suspect for item in items)


def lose_keeping(driver: Driver, batch: Batch) -> dict[int, str]:
    driver.batcher.ready(driver.now, 1)
    return lose(driver, batch.replica)


def test_a_batch_that_is_set_aside_frees_its_slot_and_no_measure() -> None:
    driver = Driver()
    batch = driver.start_one()
    driver.batcher.set_aside(driver.now, batch)
    driver.submit(Item())
    other = driver.run()
    driver.finish(other)
    driver.start(batch)
    driver.batcher.set_aside(driver.now, batch)
    driver.several(8)
    assert len(driver.runs()) == 2
    driver.start(batch)
    driver.finish(batch, 5.0)
    assert batch.items[0].state is State.DONE
    assert driver.runs() == []


def test_events_of_what_is_gone_change_nothing() -> None:
    driver = Driver(replicas=2)
    batch = driver.start_one()
    driver.batcher.lost(driver.now, 0)
    driver.batcher.ready(driver.now, 0)
    driver.several(8)
    driver.runs()
    for _ in range(2):
        driver.batcher.started(driver.now, batch)
        driver.batcher.set_aside(driver.now, batch)
        driver.batcher.ended(driver.now, batch)
        assert not driver.batcher.part(driver.now, batch, 0)
    driver.batcher.unready(driver.now, 7)
    driver.batcher.lost(driver.now, 7)
    driver.several(12)
    assert sorted(run.replica for run in driver.runs()) == [0, 1]


def test_a_batch_ends_once() -> None:
    driver = Driver()
    batch = driver.start_one()
    driver.finish(batch)
    driver.several(8)
    assert len(driver.runs()) == 2
    driver.batcher.ended(driver.now, batch)
    driver.several(4)
    assert driver.runs() == []
