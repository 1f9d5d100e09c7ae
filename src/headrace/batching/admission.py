"""Whether what comes now would be answered in time: an estimate of its wait."""

from __future__ import annotations

import math
from collections.abc import Sequence

from ..clock import Instant
from ..errors import HeadraceError, Overloaded
from .fleet import Fleet
from .item import Item
from .policy import Policy
from .queue import LEAST_RETRY_S, Queue

SPARE_BATCHES = 1
"""Full batches a replica that may wait whatever the estimate says.

While so many wait no replica runs dry, and each batch that it runs mends the estimate: what was
refused without need, after a slow batch for instance, has cost the server no time.
"""

HEADROOM = 1.5
"""How much longer than estimated the wait is taken to be.

Under lasting overload the queue is as long as the estimate allows, and so the margin of everyone in
it is what is left here: without any, all of them are late by a little when batches vary.
docs/decisions/0013 has what was simulated.
"""

_WEIGHT = 0.2


class Admission:
    """Refuses what would be answered after its deadline.

    The wait of an item is what the replicas' present batches still take, then a batch time for each
    whole batch that goes before it, and one for its own. What goes before it is told by the rank
    that it would get, so its client's backlog, the rest of its call and its priority count. Batches
    are taken to hold what those held of late that left others waiting; before that, as much as they
    may. The estimate errs to the long side, but nobody is refused where time would be lost by it:
    while less waits than a batch, on a server that was idle, that has measured no batch, or has no
    replica ready.

    Args:
        max_size: The most items of a batch.
        queue: What waits.
        policy: What was measured.
        fleet: What runs.

    Attributes:
        batch_items: Items of a batch that leaves others waiting, smoothed.
    """

    def __init__(self, max_size: int, queue: Queue, policy: Policy, fleet: Fleet) -> None:
        self.batch_items = float(max_size)
        self._spare = SPARE_BATCHES * max_size
        self._queue = queue
        self._policy = policy
        self._fleet = fleet

    def measured(self, count: int) -> None:
        """A batch ran to its end that left others waiting, or took more than those did."""
        self.batch_items += _WEIGHT * (count - self.batch_items)

    def is_needed(self, now: Instant, items: Sequence[Item]) -> bool:
        """Whether any of these newcomers may be too late: nearly always, one look says no."""
        replicas = self._fleet.ready_count
        if not (replicas and self._policy.batch_s and self._policy.was_busy(now)):
            return False
        ahead = self._queue.count + sum([item.count for item in items])
        if ahead <= self._spare * replicas:
            return False
        return now + self.wait_s(now, ahead) > min([item.deadline for item in items])

    def wait_s(self, now: Instant, ahead: int) -> float:
        """How long it takes, and rarely more, to answer an item that so many go before."""
        batch_s = self._policy.batch_s
        batches = math.floor(ahead / self.batch_items)
        before_s = (self._begun_s(now) + batches * batch_s) / self._fleet.ready_count
        return HEADROOM * (before_s + batch_s)

    def check(self, now: Instant, items: Sequence[Item], *, item_s: float) -> None:
        """Judge a call by its last item.

        Args:
            now: The instant of their arrival.
            items: Of the call; not admitted yet.
            item_s: As in `Queue.admit`.

        Raises:
            Overloaded: It would be answered after its deadline.
        """
        queue, last = self._queue, items[-1]
        count = sum(item.count for item in items)
        size = sum(item.size_bytes for item in items)
        if count > queue.max_items or size > queue.max_bytes:
            return  # it is refused for that
        ahead = queue.ahead(last, now, item_s=item_s, before=count - last.count)
        if ahead + last.count <= self._spare * self._fleet.ready_count:
            return
        late_s = now + self.wait_s(now, ahead) - last.deadline
        if late_s > 0:
            raise Overloaded(
                "too much waits: the answer would come after the deadline",
                retry_after_s=max(late_s, LEAST_RETRY_S),
            )

    def admit_each(
        self, now: Instant, items: Sequence[Item], *, item_s: float
    ) -> tuple[Sequence[Item], Sequence[tuple[Item, HeadraceError]]]:
        """As `Queue.admit_each`, but for those that would be answered after their deadline."""
        admitted: list[Item] = []
        refused: list[tuple[Item, HeadraceError]] = []
        for item in items:
            try:
                self.check(now, (item,), item_s=item_s)
            except Overloaded as error:
                refused.append((item, error))
            else:
                taken, left = self._queue.admit_each((item,), item_s=item_s)
                admitted += taken
                refused += left
        return admitted, refused

    def _begun_s(self, now: Instant) -> float:
        """What the batches that replicas were given still take, added up."""
        batch_s, left_s = self._policy.batch_s, 0.0
        for batch in self._fleet.open_batches():
            if batch.started_at is None:
                left_s += batch_s
            else:
                left_s += max(batch_s - (now - batch.started_at), 0.0)
        return left_s
