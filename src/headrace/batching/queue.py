"""Items that wait: bounded, ordered, in one bucket for each key."""

from __future__ import annotations

import bisect
import heapq
import math
from collections.abc import Hashable, Iterator, Mapping, Sequence
from itertools import accumulate

from ..clock import NEVER, Instant
from ..errors import HeadraceError, PayloadTooLarge, QueueFull
from .item import Item

LEAST_RETRY_S = 0.001
"""No refusal asks for another try sooner than this."""

MAX_POPS = 8
"""Ended items that one look at the deadlines takes away."""

_COMPACT_MIN = 1024
"""Fewer entries than this are not worth a search for ended ones."""


class Bucket:
    """The waiting items of one key, in order of rank."""

    __slots__ = ("count", "items", "key")

    def __init__(self, key: Hashable) -> None:
        self.key = key
        self.items: list[Item] = []
        self.count = 0

    def insert(self, item: Item) -> None:
        items = self.items
        # Nearly every item belongs at the end.
        if items and item.rank <= items[-1].rank and item < items[-1]:
            bisect.insort(items, item)
        else:
            items.append(item)
        self.count += item.count

    def remove(self, item: Item) -> None:
        del self.items[bisect.bisect_left(self.items, item)]
        self.count -= item.count

    def fills(self, max_count: int, max_cost: float, max_bytes: float) -> bool:
        """Whether one batch can hold no more than, or not even, what waits here."""
        if self.count >= max_count:
            return True
        if max_bytes < math.inf and sum(item.size_bytes for item in self.items) >= max_bytes:
            return True
        if max_cost == math.inf:
            return False
        # Added up anew each time: floats that are added and taken away again leave a rest.
        cost = 0.0
        for item in self.items:
            cost += item.cost
            if cost >= max_cost:
                return True
        return False

    def fitting(self, max_count: int, max_cost: float, max_bytes: float) -> int:
        """How many items from the front fit into one batch; at least one, whatever its size."""
        if max_cost == max_bytes == math.inf and self.count == len(self.items):
            return min(self.count, max_count)  # each counts as one
        taken = self._fitting(max_count, max_cost)
        if max_bytes == math.inf:
            return taken
        sizes = accumulate(item.size_bytes for item in self.items[:taken])
        return max(1, bisect.bisect_right(list(sizes), max_bytes))

    def _fitting(self, max_count: int, max_cost: float) -> int:
        count = cost = 0.0
        for taken, item in enumerate(self.items):
            count += item.count
            cost += item.cost
            if taken and (count > max_count or cost > max_cost):
                return taken
        return len(self.items)


class Queue:
    """The bound, the order and the buckets.

    Order is one number fixed at admission: the arrival, pushed back by what the same client has
    waiting, less the priority's head start. Nothing is sorted again, and nothing starves: an item
    is passed by those alone that arrive within its push-back or their own head start.

    Items that come back from a lost replica were admitted before: they may exceed the bounds,
    and newcomers are refused until they do not. A batch never exceeds the bound in bytes.

    Args:
        max_items: Items that may wait.
        max_bytes: Bytes of payload that may wait.
        priority_step_s: The head start of one step of priority.
    """

    def __init__(self, *, max_items: int, max_bytes: int, priority_step_s: float) -> None:
        self.max_items = max_items
        self.max_bytes = max_bytes
        self.count = 0
        self.size_bytes = 0
        self.buckets: dict[Hashable, Bucket] = {}
        self._priority_step_s = priority_step_s
        self._clients: dict[str, _Backlog] = {}
        self._admitted = 0

    def __iter__(self) -> Iterator[Item]:
        for bucket in self.buckets.values():
            yield from bucket.items

    def __bool__(self) -> bool:
        return bool(self.buckets)

    def admit(
        self, now: Instant, items: Sequence[Item], *, item_s: float, wait_s: float = 0.0
    ) -> int:
        """Take all the items in, or none.

        Args:
            now: The instant of their arrival.
            items: In the order of their call.
            item_s: The measured time between two items that leave, for fairness and for
                `retry_after_s`.
            wait_s: How long it takes until any item leaves, for `retry_after_s`.

        Returns:
            How many they count as.

        Raises:
            PayloadTooLarge: They would not fit into the empty queue.
            QueueFull: They do not fit now.
        """
        count, size = _together(items)
        if not self._has_room(count, size):
            self._refuse(count, size, wait_s + self.count * item_s)
        for item in items:
            item.arrived = now
        self._enter(items, item_s, count, size)
        return count

    def admit_each(
        self, items: Sequence[Item], *, item_s: float, wait_s: float = 0.0
    ) -> tuple[Sequence[Item], Sequence[tuple[Item, HeadraceError]]]:
        """Take in each item that there is room for, as a call of its own, at its own arrival.

        Args:
            items: In the order of their arrival.
            item_s: As in `admit`.
            wait_s: As in `admit`.

        Returns:
            The admitted items, and the refused ones with the errors that `admit` would raise.
        """
        count, size = _together(items)
        if self._has_room(count, size):
            self._enter(items, item_s, count, size)
            return items, ()
        admitted, refused = [], []
        for item in items:
            try:
                self.admit(item.arrived, (item,), item_s=item_s, wait_s=wait_s)
            except HeadraceError as error:
                refused.append((item, error))
            else:
                admitted.append(item)
        return admitted, refused

    def rescale(self, factor: float) -> None:
        """The time between two items is so many times what it was taken for, before any was known.

        What waits was pushed back by that, and nothing else: else one client's backlog at a
        server's start would count as if it had been worked off by now.
        """
        for backlog in self._clients.values():
            backlog.starts.clear()
        for bucket in self.buckets.values():
            for item in bucket.items:
                if item.client is not None:
                    start = item.arrived + factor * (self._start_of(item) - item.arrived)
                    item.rank = start - item.priority * self._priority_step_s
                    self._clients[item.client].starts.append(self._start_of(item))
            bucket.items.sort()
        for backlog in self._clients.values():
            backlog.starts.sort()

    def ahead(self, item: Item, now: Instant, *, item_s: float, before: int = 0) -> int:
        """How many items go before this one, if it is admitted now.

        All buckets are counted as one queue, and an item among others of several as their mean.

        Args:
            item: Not admitted yet.
            now: The instant of its arrival.
            item_s: As in `admit`.
            before: What those of its call count as that come before it: they go before it, too,
                and push it back if it has a client.
        """
        start = now
        if item.client is not None:
            start = self._start(now, self._clients.get(item.client), before, item_s)
        rank = start - item.priority * self._priority_step_s
        count = before
        for bucket in self.buckets.values():
            waiting = bucket.items
            if rank >= waiting[-1].rank:
                count += bucket.count
            else:
                before = bisect.bisect_right(waiting, rank, key=_rank_of)
                count += before * bucket.count // len(waiting)
        return count

    def _has_room(self, count: int, size: int) -> bool:
        return self.count + count <= self.max_items and self.size_bytes + size <= self.max_bytes

    def _enter(self, items: Sequence[Item], item_s: float, count: int, size_bytes: int) -> None:
        """Give items, which together are so many and so large, their place in the order."""
        buckets, step_s, number = self.buckets, self._priority_step_s, self._admitted
        for item in items:
            number += 1
            item.number = number
            item.rank = item.arrived - item.priority * step_s
            if item.client is not None:
                backlog = self._clients.setdefault(item.client, _Backlog())
                start = self._start(item.arrived, backlog, 0, item_s)
                item.rank = start - item.priority * step_s
                backlog.add(item, self._start_of(item))
            # As `insert`, without its calls: this is what each item goes through.
            bucket = buckets.get(item.key)
            if bucket is None:
                bucket = buckets[item.key] = Bucket(item.key)
            waiting = bucket.items
            if waiting and item.rank <= waiting[-1].rank:
                bucket.insert(item)
            else:
                waiting.append(item)
                bucket.count += item.count
        self._admitted = number
        self.count += count
        self.size_bytes += size_bytes

    def insert(self, item: Item) -> None:
        """Put an item at its rank: a new one, or one that comes back from a lost replica."""
        bucket = self.buckets.get(item.key)
        if bucket is None:
            bucket = self.buckets[item.key] = Bucket(item.key)
        bucket.insert(item)
        self.count += item.count
        self.size_bytes += item.size_bytes
        if item.client is not None:
            backlog = self._clients.setdefault(item.client, _Backlog())
            backlog.add(item, self._start_of(item))

    def remove(self, item: Item) -> None:
        """Take a waiting item out, wherever it stands."""
        bucket = self.buckets[item.key]
        bucket.remove(item)
        if not bucket.items:
            del self.buckets[item.key]
        self._left(item)

    @property
    def batch_bytes(self) -> float:
        """The most bytes of a batch; infinite while even all that waits is less than that."""
        return math.inf if self.size_bytes < self.max_bytes else self.max_bytes

    def take(self, bucket: Bucket, size: int) -> list[Item]:
        """Take so many items from the front of a bucket."""
        taken = bucket.items[:size]
        if size == len(bucket.items):
            del self.buckets[bucket.key]
        else:
            del bucket.items[:size]
            for item in taken:
                bucket.count -= item.count
        count = size_bytes = 0
        for item in taken:
            count += item.count
            size_bytes += item.size_bytes
            if item.client is not None:
                self._left_client(item.client, item)
        self.count -= count
        self.size_bytes -= size_bytes
        return taken

    def _refuse(self, count: int, size: int, retry_after_s: float) -> None:
        if count > self.max_items:
            raise PayloadTooLarge(f"expected at most {self.max_items} items a call, got {count}")
        if size > self.max_bytes:
            raise PayloadTooLarge(f"expected at most {self.max_bytes} bytes a call, got {size}")
        raise QueueFull("the queue is full", retry_after_s=max(retry_after_s, LEAST_RETRY_S))

    @staticmethod
    def _start(now: Instant, backlog: _Backlog | None, before: int, item_s: float) -> Instant:
        """When an item starts whose client has this waiting, and so much before it in its call."""
        if backlog is None:
            return now + before * item_s
        # Never before the client's last one, whatever the measured time has become since.
        return max(now + (backlog.count + before) * item_s, backlog.last)

    def _start_of(self, item: Item) -> Instant:
        return item.rank + item.priority * self._priority_step_s

    def _left(self, item: Item) -> None:
        self.count -= item.count
        self.size_bytes -= item.size_bytes
        if item.client is not None:
            self._left_client(item.client, item)

    def _left_client(self, client: str, item: Item) -> None:
        backlog = self._clients[client]
        backlog.remove(item, self._start_of(item))
        if not backlog.count:
            # A client with nothing waiting is forgotten: it owes nothing.
            del self._clients[client]


class _Backlog:
    """What one client has waiting, and where each of that starts.

    Start-time fair queueing, but counted from what waits now and not summed up over all that was
    ever booked: what was cancelled, or ran faster than was thought, leaves no debt.

    Attributes:
        count: What its items count as.
        starts: Of its items, in order.
    """

    __slots__ = ("count", "starts")

    def __init__(self) -> None:
        self.count = 0
        self.starts: list[Instant] = []

    @property
    def last(self) -> Instant:
        """The latest start of those that wait."""
        return self.starts[-1] if self.starts else -NEVER

    def add(self, item: Item, start: Instant) -> None:
        self.count += item.count
        bisect.insort(self.starts, start)

    def remove(self, item: Item, start: Instant) -> None:
        self.count -= item.count
        del self.starts[bisect.bisect_left(self.starts, start)]


def _rank_of(item: Item) -> float:
    return item.rank


def _together(items: Sequence[Item]) -> tuple[int, int]:
    """What items count as, and their bytes."""
    count = size = 0
    for item in items:
        count += item.count
        size += item.size_bytes
    return count, size


class Deadlines:
    """The instants at which items expire, waiting or running.

    What has ended is left in the heap until it comes up or is half of it: an entry costs a push,
    and removing it costs nothing. An entry does not hold its item, so that payloads are let go.

    Args:
        live: The items that have not ended, by number.
    """

    def __init__(self, live: Mapping[int, Item]) -> None:
        self._live = live
        self._heap: list[tuple[Instant, int]] = []
        self._compact_at = _COMPACT_MIN

    def add(self, item: Item) -> None:
        self.add_all((item,))

    def add_all(self, items: Sequence[Item]) -> None:
        heap, push = self._heap, heapq.heappush
        for item in items:
            if item.deadline != NEVER:
                push(heap, (item.deadline, item.number))
        if len(heap) > self._compact_at:
            self._heap = [entry for entry in self._heap if entry[1] in self._live]
            heapq.heapify(self._heap)
            self._compact_at = max(_COMPACT_MIN, 2 * len(self._heap))

    def passed(self, now: Instant) -> Sequence[Item]:
        """The live items whose deadline is now or was before; each is told once."""
        heap = self._heap
        if not heap or heap[0][0] > now:
            return ()
        items = []
        while heap and heap[0][0] <= now:
            item = self._live.get(heapq.heappop(heap)[1])
            if item is not None:
                items.append(item)
        return items

    def next(self) -> Instant:
        """When to look again: no item expires before, though perhaps none does then.

        A look costs a few pops at most: nearly all that has ended goes when the heap is compacted.
        """
        heap, live = self._heap, self._live
        if not live:
            heap.clear()
        for _ in range(MAX_POPS):
            if not heap or heap[0][1] in live:
                break
            heapq.heappop(heap)
        return heap[0][0] if heap else NEVER

    def __len__(self) -> int:
        return len(self._heap)
