"""What an executor is: a place where batches run, and what it tells the engine."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple, Protocol

from ..batching import Batch, State
from ..call import Outcome, Payload
from ..card import ModelCard
from ..clock import NEVER, Instant
from ..lane import Report
from ..replica import Replica

MakeReplica = Callable[[], Replica]
"""Makes one replica, not loaded yet."""

RUNNING = State.RUNNING

FIRST_RETRY_S = 0.5
LAST_RETRY_S = 30.0
"""A broken replica tries its canary again after the first, doubled up to the last."""


class ReplicaStatus(NamedTuple):
    """How a replica is: "starting", "ready", "draining", "restarting", "unready" or "failed"."""

    state: str
    reason: str = ""


class Loss(NamedTuple):
    """How a replica was lost, and by what.

    Attributes:
        cause: For the metric: "exited", "killed", "hung", "broken", "protocol", "disconnected".
        reason: For people.
        guilty: The item that is known to have ended it.
        suspects: Items of which one may have; None where nothing is known, which makes suspects
            of all that had begun; empty where none can have.
        begun: Batches whose predict has begun, or may have, whether it was told or not.
        is_outside: Whether it looks like an act from outside, which items are blamed for only
            when they meet it again.
    """

    cause: str
    reason: str
    guilty: tuple[Batch, int] | None = None
    suspects: tuple[tuple[Batch, int], ...] | None = None
    begun: tuple[Batch, ...] = ()
    is_outside: bool = False


class Events(Protocol):
    """What an executor tells the engine, always on the event loop's thread."""

    def ready(self, replica: int, card: ModelCard) -> None:
        """A replica takes batches, for the first time or again."""

    def unready(self, replica: int, reason: str, back_at: Instant = NEVER) -> None:
        """A replica takes no more batches for now; it is expected to be ready at `back_at`."""

    def start_failed(self, replica: int, reason: str) -> None:
        """A replica will never be ready."""

    def started(self, batch: Batch) -> None:
        """A replica works on a batch from now on, or again on one that it had set aside."""

    def part(self, batch: Batch, index: int, outcome: Outcome, last: bool) -> None:
        """An item's outcome, or a part of it where `last` is false."""

    def parts(self, batch: Batch, outcomes: Sequence[tuple[int, Outcome]]) -> None:
        """The whole outcomes of some of a batch's items, by their index."""

    def set_aside(self, batch: Batch) -> None:
        """A batch's predict failed: its slot is free, its items follow in turn with others."""

    def ended(self, batch: Batch) -> None:
        """All of a batch's items have been answered."""

    def lost(self, replica: int, loss: Loss, back_at: Instant = NEVER) -> None:
        """A replica is gone; another is expected to be ready at `back_at`."""

    def withdrawn(self, replica: int, cause: str) -> None:
        """A replica takes no more batches, as it is to be stopped: "recycled" or "scaled"."""

    def retired(self, replica: int, cause: str) -> None:
        """A replica has stopped that was withdrawn, or that was never ready."""

    def expected(self, back_at: Instant) -> None:
        """No replica is ready, and one should be at this instant: until then calls may wait."""

    def status(self, replica: int, status: ReplicaStatus) -> None:
        """How a replica that takes no batches is; for people."""


class Executor(Protocol):
    """A place where batches run. None of its methods blocks, or calls back before it returns."""

    def open(self, events: Events) -> None:
        """Begin to get the replicas ready; called once, on the event loop."""

    def start(self, batch: Batch) -> None:
        """Run a batch on its replica, after what the replica already has."""

    def cancel(self, batch: Batch, index: int) -> None:
        """Nobody wants this item: it may be skipped if it has not begun."""

    def replace(self, replica: int) -> bool:
        """Put another in the place of a replica that hangs; False if that is not possible."""

    def close(self) -> None:
        """Unload and stop. Batches that still run are not told of."""

    def join(self, timeout_s: float) -> bool:
        """Wait until everything has stopped; False if it has not by then. Blocks."""


def wanted(batch: Batch, now: Instant = -NEVER) -> list[tuple[int, Payload]]:
    """The items of a batch that have neither ended nor, by now, expired, by their index."""
    return [
        (index, item.payload)
        for index, item in enumerate(batch.items)
        if item.state is RUNNING and item.batch is batch and item.deadline > now
    ]


def items_of(batches: Iterable[Batch]) -> tuple[tuple[Batch, int], ...]:
    """All items of these batches, as a loss names them."""
    return tuple((batch, index) for batch in batches for index in range(len(batch.items)))


def unwanted(batch: Batch, now: Instant = -NEVER) -> set[int]:
    """The indexes of the others."""
    return {*range(len(batch.items))} - {index for index, _ in wanted(batch, now)}


def tell(events: Events, replica: int, report: Report[Batch]) -> None:
    """Pass a report on to the engine."""
    events.parts(report.batch, report.parts)
    if report.is_set_aside:
        events.set_aside(report.batch)
    else:
        events.ended(report.batch)
    if report.broken is not None:
        events.unready(replica, f"broken: {report.broken}, and so did it on its own example")
