"""What the batcher moves about: items and batches. Plain records; the rules are elsewhere."""

from __future__ import annotations

import enum
from collections.abc import Hashable
from typing import Any, Final

import msgspec

from ..clock import NEVER, Deadline, Instant


class State(enum.Enum):
    """Where an item is. All but the first two are ends, and an item ends once."""

    QUEUED = "queued"
    RUNNING = "running"
    DONE = "done"
    FAILED = "failed"
    EXPIRED = "expired"
    CANCELLED = "cancelled"


class Cut(enum.Enum):
    """Why a batch was cut when it was."""

    FULL = "full"
    """It held as much as it may."""
    IDLE = "idle"
    """A replica was idle, and there was nothing to wait for."""
    SETTLED = "settled"
    """It had waited for the senders of the batch before."""
    DELAY = "delay"
    """It had waited for `max_batch_delay_s`, or as long as its deadlines allow."""
    SUSPECT = "suspect"
    """One item alone, because a replica died while it ran."""


# On Python 3.11 an enum's members are slow to look up through their class.
QUEUED, RUNNING, DONE, FAILED = State.QUEUED, State.RUNNING, State.DONE, State.FAILED
EXPIRED, CANCELLED = State.EXPIRED, State.CANCELLED


class Item(msgspec.Struct, eq=False):
    """One unit of admission and dispatch: what one payload stands for.

    Attributes:
        payload: What it stands for; the batcher does not look at it.
        owner: Who waits for its answer; the batcher does not look at it.
        place: Which of the owner's items it is.
        count: How many items it counts as, at least 1.
        cost: What it adds to a batch's cost, at least 0.
        size_bytes: What it adds to the queue's bytes.
        key: Items with different keys never share a batch.
        deadline: The instant at which it expires.
        priority: Steps of `priority_step_s`.
        client: Whom the order is fair to, or None.
        state: Where it is.
        arrived: When it was admitted.
        rank: Its place in the order, fixed at admission: the lower, the earlier.
        number: Breaks ties of rank by admission; 0 before that.
        suspect: Whether a replica died while it ran.
        pardoned: Whether one died so by an act from outside, which was pardoned to it.
        batch: Where it runs, while it does.
        index: Its place in that batch.
    """

    payload: Any = None
    owner: Any = None
    place: int = 0
    count: int = 1
    cost: float = 1.0
    size_bytes: int = 0
    key: Hashable = None
    deadline: Deadline = NEVER
    priority: int = 0
    client: str | None = None
    state: State = QUEUED
    arrived: Instant = 0.0
    rank: float = 0.0
    number: int = 0
    suspect: bool = False
    pardoned: bool = False
    batch: Batch | None = None
    index: int = 0

    def __lt__(self, other: Item) -> bool:
        rank, other_rank = self.rank, other.rank
        return rank < other_rank or (rank == other_rank and self.number < other.number)

    @property
    def live(self) -> bool:
        """Whether it has not ended."""
        return self.state is QUEUED or self.state is RUNNING


SLOTS: Final = 2
"""Batches that a replica holds at once: one runs, one is at hand."""


class Batch:
    """Items that run together; making one notes in each item where it runs.

    Attributes:
        id: Unique within its batcher.
        replica: The replica that it was given to.
        slot: Which of the replica's slots it holds.
        items: In order; an item's index is its name from here on.
        count: What its items count as.
        cut: Why it was cut when it was.
        cut_at: When.
        started_at: Since when the replica works on it; None before that, and while it is set
            aside.
        isolated: Whether its predict failed and its items are run in parts.
        holds_slot: Whether the replica's slot is still taken.
        was_stopped: Whether the process was stopped meanwhile, and `started_at` is when it went on.
        overrun: Whether it was reported as past `predict_timeout_s`.
        leaves_others: Whether more waited when it was cut.
        answered: What those of its items count as that the replica has answered.
    """

    __slots__ = (
        "answered",
        "count",
        "cut",
        "cut_at",
        "holds_slot",
        "id",
        "isolated",
        "items",
        "leaves_others",
        "overrun",
        "replica",
        "slot",
        "started_at",
        "was_stopped",
    )

    def __init__(
        self, number: int, replica: int, slot: int, items: list[Item], cut: Cut, now: Instant
    ) -> None:
        self.id = number
        self.replica = replica
        self.slot = slot
        self.items = items
        self.count = 0
        for index, item in enumerate(items):
            item.state = RUNNING
            item.batch = self
            item.index = index
            self.count += item.count
        self.cut = cut
        self.cut_at = now
        self.started_at: Instant | None = None
        self.isolated = False
        self.holds_slot = True
        self.was_stopped = False
        self.overrun = False
        self.leaves_others = False
        self.answered = 0
