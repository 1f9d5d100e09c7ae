from __future__ import annotations

import gc
import math
import weakref

import pytest

from headrace.batching import Batch, Item
from headrace.batching.queue import Deadlines, Queue
from headrace.errors import PayloadTooLarge, QueueFull

from .driver import Driver


def queue(max_items: int = 100, max_bytes: int = 1000, step_s: float = 0.1) -> Queue:
    return Queue(max_items=max_items, max_bytes=max_bytes, priority_step_s=step_s)


def admit(waiting: Queue, *items: Item, now: float = 0.0, item_s: float = 0.01) -> None:
    waiting.admit(now, items, item_s=item_s)


def ranks(waiting: Queue) -> list[float]:
    return [item.rank for item in waiting]


def test_items_wait_in_order_of_arrival() -> None:
    waiting, items = queue(), [Item() for _ in range(3)]
    for now, item in enumerate(items):
        admit(waiting, item, now=now)
    assert list(waiting) == items


def test_items_of_one_instant_keep_the_order_of_admission() -> None:
    waiting, items = queue(), [Item() for _ in range(5)]
    admit(waiting, *items)
    assert list(waiting) == items


def test_a_step_of_priority_counts_as_earlier_arrival() -> None:
    waiting = queue(step_s=0.5)
    first, urgent, later = Item(), Item(priority=1), Item(priority=1)
    admit(waiting, first, now=1.0)
    admit(waiting, urgent, now=1.4)
    admit(waiting, later, now=1.6)
    assert list(waiting) == [urgent, first, later]


def test_a_clients_items_start_one_after_the_other() -> None:
    waiting = queue()
    admit(waiting, Item(client="a"), Item(client="a", count=2), Item(client="a"), now=5.0)
    assert ranks(waiting) == pytest.approx([5.0, 5.01, 5.03])


def test_a_client_with_one_item_passes_the_backlog_of_another() -> None:
    waiting, guest = queue(), Item(client="b")
    admit(waiting, *(Item(client="a") for _ in range(10)), now=5.0)
    admit(waiting, guest, now=5.035)
    assert list(waiting).index(guest) == 4


def test_items_without_a_client_are_not_pushed_back() -> None:
    waiting = queue()
    admit(waiting, Item(), Item(), now=5.0)
    assert ranks(waiting) == [5.0, 5.0]


def test_a_client_whose_items_have_all_left_owes_nothing() -> None:
    waiting, items = queue(), [Item(client="a") for _ in range(3)]
    admit(waiting, *items, now=5.0)
    waiting.take(waiting.buckets[None], 1)
    for item in items[1:]:
        waiting.remove(item)
    assert not waiting._clients  # nor is its name kept
    admit(waiting, again := Item(client="a"), now=5.0)
    assert again.rank == 5.0


def test_what_a_client_cancelled_leaves_no_debt_that_grows() -> None:
    waiting = queue()
    for round_ in range(50):
        items = [Item(client="a") for _ in range(10)]
        admit(waiting, *items, now=float(round_))
        for item in items[1 if round_ == 0 else 0 :]:
            waiting.remove(item)
    admit(waiting, late := Item(client="a"), now=50.0)
    assert late.rank == pytest.approx(50.01)


@pytest.mark.parametrize("priority", [0, 1, 3])
def test_what_a_client_cancelled_does_not_push_its_next_item_back(priority: int) -> None:
    waiting = queue()
    items = [Item(client="a", priority=priority) for _ in range(100)]
    admit(waiting, *items, now=5.0)
    for item in items[1:]:
        waiting.remove(item)
    admit(waiting, late := Item(client="a"), now=5.0)
    assert late.rank == pytest.approx(5.01)


def test_what_a_client_has_left_waiting_goes_before_its_next_item() -> None:
    waiting = queue()
    items = [Item(client="a", key=number % 2) for number in range(100)]
    admit(waiting, *items, now=5.0)
    for item in [*items[:49], *items[50:]]:
        waiting.remove(item)
    admit(waiting, late := Item(client="a"), now=5.0)
    assert late.rank == items[49].rank == pytest.approx(5.49)
    assert items[49] < late


def test_a_clients_own_order_holds_when_the_measured_time_falls() -> None:
    waiting = queue()
    items = [Item(client="a") for _ in range(4)]
    admit(waiting, *items[:3], now=0.0, item_s=1.0)
    admit(waiting, items[3], now=0.1, item_s=0.001)
    assert list(waiting) == items


@pytest.mark.parametrize("waits", [0, 40])
def test_how_many_go_before_the_last_of_a_call_is_told_as_it_will_be(waits: int) -> None:
    waiting = queue(max_items=1000)
    admit(waiting, *(Item(client="b") for _ in range(300)), now=5.0)
    admit(waiting, *(Item(client="a") for _ in range(waits)), now=5.0)
    call = [Item(client="a", count=2) for _ in range(100)]
    ahead = waiting.ahead(call[-1], 5.0, item_s=0.01, before=198)
    admit(waiting, *call, now=5.0)
    before = sum(item.count for item in list(waiting)[: list(waiting).index(call[-1])])
    assert before == ahead == 198 + 199 + 2 * waits


def test_the_bound_in_items_is_exact() -> None:
    waiting = queue(max_items=5)
    admit(waiting, Item(count=2), Item(count=3))
    with pytest.raises(QueueFull):
        admit(waiting, Item())
    assert waiting.count == 5


def test_the_bound_in_bytes_is_exact() -> None:
    waiting = queue(max_bytes=10)
    admit(waiting, Item(size_bytes=4), Item(size_bytes=6))
    with pytest.raises(QueueFull):
        admit(waiting, Item(size_bytes=1))
    admit(waiting, Item(size_bytes=0))
    assert waiting.size_bytes == 10


def test_a_full_queue_says_when_it_will_have_drained() -> None:
    waiting = queue(max_items=5)
    admit(waiting, Item(count=5))
    with pytest.raises(QueueFull) as refused:
        admit(waiting, Item(), item_s=0.25)
    assert refused.value.retry_after_s == 1.25


@pytest.mark.parametrize("item", [Item(count=6), Item(size_bytes=11)], ids=["items", "bytes"])
def test_a_call_that_never_fits_is_too_large(item: Item) -> None:
    with pytest.raises(PayloadTooLarge, match="expected at most"):
        admit(queue(max_items=5, max_bytes=10), item)


def test_a_call_is_admitted_whole_or_not_at_all() -> None:
    waiting = queue(max_items=3)
    admit(waiting, Item())
    with pytest.raises(QueueFull):
        admit(waiting, Item(), Item(), Item())
    assert len(list(waiting)) == waiting.count == 1


def test_removing_an_item_frees_its_room_and_its_bucket() -> None:
    waiting = queue()
    a, b = Item(key="x", size_bytes=3, count=2), Item(key="x", size_bytes=4)
    admit(waiting, a, b)
    waiting.remove(a)
    assert (waiting.count, waiting.size_bytes, list(waiting)) == (1, 4, [b])
    waiting.remove(b)
    assert (waiting.count, waiting.size_bytes, waiting.buckets, bool(waiting)) == (0, 0, {}, False)


def test_taking_a_part_of_a_bucket_leaves_the_rest_in_order() -> None:
    waiting, items = queue(), [Item(count=2, size_bytes=3) for _ in range(3)]
    admit(waiting, *items)
    bucket = waiting.buckets[None]
    assert waiting.take(bucket, 2) == items[:2]
    assert (bucket.items, bucket.count) == (items[2:], 2)
    assert (waiting.count, waiting.size_bytes) == (2, 3)


def test_an_item_that_comes_back_stands_at_its_old_place() -> None:
    waiting, items = queue(), [Item() for _ in range(4)]
    admit(waiting, *items)
    taken = waiting.take(waiting.buckets[None], 2)
    for item in reversed(taken):
        waiting.insert(item)
    assert list(waiting) == items


@pytest.mark.parametrize(
    ("costs", "fills", "fitting"),
    [
        ([], False, 0),
        ([1.0, 1.0], False, 2),
        ([1.0, 1.0, 1.0], True, 3),
        ([1.0, 1.0, 1.5], True, 2),
        ([0.0, 0.0, 0.0], False, 3),
        ([math.inf, 1.0], True, 1),
        ([9.0], True, 1),
    ],
)
def test_a_bucket_is_full_by_cost_when_one_batch_can_hold_no_more(
    costs: list[float], fills: bool, fitting: int
) -> None:
    waiting = queue()
    admit(waiting, mark := Item(key="k"), *(Item(key="k", cost=cost) for cost in costs))
    bucket = waiting.buckets["k"]
    waiting.remove(mark)
    assert bucket.fills(9, 3.0, math.inf) is fills
    assert bucket.fitting(9, 3.0, math.inf) == fitting


@pytest.mark.parametrize(
    ("sizes", "fills", "fitting"),
    [
        ([9], False, 1),
        ([5, 5], True, 2),
        ([5, 5, 0], True, 3),
        ([5, 4, 2], True, 2),
        ([0, 0], False, 2),
        ([11, 0], True, 1),
    ],
)
def test_a_bucket_is_full_by_bytes_when_one_batch_can_hold_no_more(
    sizes: list[int], fills: bool, fitting: int
) -> None:
    waiting = queue()
    admit(waiting, *(Item(size_bytes=size) for size in sizes))
    bucket = waiting.buckets[None]
    assert bucket.fills(9, math.inf, 10) is fills
    assert bucket.fitting(9, math.inf, 10) == fitting


def test_bytes_let_no_more_items_into_a_batch_than_its_size_and_cost() -> None:
    waiting = queue()
    admit(waiting, *(Item(size_bytes=1) for _ in range(9)))
    bucket = waiting.buckets[None]
    assert (bucket.fitting(4, math.inf, 6), bucket.fitting(8, 3.0, 6)) == (4, 3)


def test_bytes_bound_a_batch_only_where_as_many_wait() -> None:
    waiting, items = queue(max_bytes=10), [Item(size_bytes=size) for size in (9, 1, 5)]
    admit(waiting, items[0])
    assert waiting.batch_bytes == math.inf
    admit(waiting, items[1])
    assert waiting.batch_bytes == 10
    waiting.insert(items[2])
    assert waiting.batch_bytes == 10


def test_a_cost_that_left_leaves_no_trace() -> None:
    waiting = queue()
    admit(waiting, huge := Item(cost=1e300), endless := Item(cost=math.inf), Item(cost=1.0))
    waiting.remove(huge)
    waiting.remove(endless)
    bucket = waiting.buckets[None]
    assert not bucket.fills(9, 1.5, math.inf)
    assert bucket.fills(9, 1.0, math.inf)


def test_without_a_limit_on_cost_no_cost_fills_a_bucket() -> None:
    waiting = queue()
    admit(waiting, Item(cost=math.inf))
    assert not waiting.buckets[None].fills(9, math.inf, math.inf)


def test_ended_items_do_not_pile_up_among_the_deadlines() -> None:
    live: dict[int, Item] = {}
    deadlines = Deadlines(live)
    for number in range(1, 20_000):
        item = live[number] = Item(number=number, deadline=float(number))
        deadlines.add(item)
        live.pop(number - 10, None)
    assert len(deadlines) < 3000
    assert [item.number for item in deadlines.passed(19_995.0)] == [*range(19_990, 19_996)]


def test_an_answered_batch_is_let_go_without_the_garbage_collector() -> None:
    class Body:
        """Stands for a payload, and can be watched."""

    driver = Driver()
    gone = [weakref.ref(body := Body())]
    driver.submit(Item(body, deadline=driver.now + 30))
    batch: Batch | None = driver.run()
    assert batch is not None
    gc.disable()
    try:
        driver.finish(batch)
        del body, batch
        assert gone[0]() is None
    finally:
        gc.enable()
