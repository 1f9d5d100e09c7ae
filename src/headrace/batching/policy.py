"""When to cut a batch: the measurements and the waiting rules. Knows nothing of replicas."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass

from ..clock import NEVER, Instant
from ..config import Batching
from .item import Cut
from .queue import Bucket

DEFAULT_ITEM_S = 0.001
"""The time an item is taken to need before any was measured."""


@dataclass(frozen=True, kw_only=True)
class Rules:
    """Which of the rules are in force; the simulator switches them off one by one."""

    second_slot: bool = True
    """A busy replica gets a second batch while the first one runs."""
    second_slot_needs_full: bool = True
    """That second batch must be a full one."""
    admission: bool = True
    """An item that would be answered after its deadline is refused."""
    settling: bool = True
    """After a batch, an underfull one waits for that batch's senders to come back."""
    settle_limit_s: float = 0.01
    settle_share: float = 0.12
    """The longest settling: the lesser of these, as a time and as a share of the batch time."""
    settle_worth: float = 0.5
    """Settling goes on while its mean gain, newcomers for each who waited, is at least this."""
    settle_weight: float = 0.2
    """How much the latest wait counts in that mean."""
    settle_retry: int = 20
    """When it does not pay, it is tried again once in so many chances."""


class Policy:
    """Measures batches, and says whether an underfull one should wait.

    Attributes:
        batch_s: Smoothed time of a batch, 0 before any was measured.
        item_s: Smoothed time between two items that one replica finishes.
        lowest_batch_s: The shortest of the recent batches: what even a lucky item takes.
    """

    def __init__(self, batching: Batching, rules: Rules) -> None:
        self._batching = batching
        self._rules = rules
        self._recent: deque[float] = deque(maxlen=16)
        self._settling = _Settling(rules)
        self._idle_since: Instant | None = -NEVER
        self._batch_items = 0.0
        self.batch_s = 0.0
        self.item_s = DEFAULT_ITEM_S
        self.lowest_batch_s = 0.0

    @property
    def is_measured(self) -> bool:
        """Whether any batch was."""
        return bool(self._recent)

    def was_busy(self, now: Instant) -> bool:
        """Whether the server has not been idle for a batch time."""
        return self._idle_since is None or now - self._idle_since < self.batch_s

    def arrived(self, now: Instant, count: int) -> None:
        """Items were admitted."""
        if self._settling.is_open:
            self._settling.arrived(now, count)

    def cut(self, now: Instant) -> None:
        """A batch was cut: settling is over, and the server is busy."""
        self._settling.close(now, after_idle=not self.was_busy(now))
        self._idle_since = None

    def measured(self, duration_s: float, count: int) -> None:
        """A batch ran to its end."""
        weight = 0.2 if self._recent else 1.0
        self._recent.append(duration_s)
        self.lowest_batch_s = min(self._recent)
        self.batch_s += weight * (duration_s - self.batch_s)
        self._batch_items += weight * (count - self._batch_items)
        # Of the means, not a mean of ratios: small batches would count as much as large ones.
        self.item_s = self.batch_s / self._batch_items

    def freed(self, now: Instant, *, sent: int, waiting: int) -> None:
        """A replica has become idle, and `sent` items were answered, while `waiting` are queued."""
        if sent:
            self._settling.open(now, batch_s=self.batch_s, goal=sent, waiting=waiting)

    def idle(self, now: Instant) -> None:
        """Nothing runs."""
        self._idle_since = now

    def due(self, bucket: Bucket) -> Instant:
        """Until when an underfull bucket may wait for company, as its setting allows."""
        delay_s = self._batching.max_batch_delay_s
        if not delay_s:
            return -NEVER
        margin_s = 2 * self.batch_s
        return min(min(i.arrived + delay_s, i.deadline - margin_s) for i in bucket.items)

    def settled(self, now: Instant) -> Instant:
        """Until when an underfull batch waits for senders to come back; `now` if it does not."""
        return self._settling.until(now)

    def underfull_cut(self, now: Instant) -> Cut:
        """What to call the cut of an underfull batch now."""
        if self._settling.has_waited(now):
            return Cut.SETTLED
        return Cut.DELAY if self._batching.max_batch_delay_s else Cut.IDLE


class _Settling:
    """The wait, right after a batch, for its senders to come back."""

    def __init__(self, rules: Rules) -> None:
        self._rules = rules
        self._worth = 1.0
        self._chances = 0
        self._after_idle = True
        self._opened: Instant = -NEVER
        self._until: Instant | None = None
        self._goal = 0
        self._waiting = 0
        self._came = 0

    @property
    def is_open(self) -> bool:
        """Whether a window was opened and nothing was cut since."""
        return self._until is not None

    def has_waited(self, now: Instant) -> bool:
        """Whether somebody has waited in the present window."""
        return self.is_open and now > self._opened and (self._waiting > 0 or self._came > 1)

    def open(self, now: Instant, *, batch_s: float, goal: int, waiting: int) -> None:
        """A replica is idle again: perhaps begin to wait."""
        self.close(now, after_idle=self._after_idle)
        if not self._rules.settling or self._after_idle:
            return
        if self._worth < self._rules.settle_worth:
            self._chances += 1
            if self._chances % self._rules.settle_retry:
                return
        self._opened = now
        self._until = now + min(self._rules.settle_limit_s, self._rules.settle_share * batch_s)
        self._goal, self._waiting, self._came = goal, waiting, 0

    def arrived(self, now: Instant, count: int) -> None:
        if self._until is not None and now <= self._until:
            self._came += count

    def until(self, now: Instant) -> Instant:
        """When the wait ends; `now` if there is none, or as many came as were sent."""
        if self._until is None or self._came >= self._goal:
            return now
        return max(now, self._until)

    def close(self, now: Instant, *, after_idle: bool) -> None:
        """The wait is over: learn what it brought."""
        self._after_idle = after_idle
        if self.has_waited(now):
            waited = max(self._waiting, 1)
            newcomers = self._came - (self._waiting == 0)
            # A gain beyond 2 says no more than 2: one lucky wait shall not pay for many.
            self._worth += self._rules.settle_weight * (min(newcomers / waited, 2.0) - self._worth)
        self._until = None
