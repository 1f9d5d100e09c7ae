"""What an executor is: a place where batches run, and what it tells the engine."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import NamedTuple, Protocol

from ..batching import Batch
from ..call import Outcome
from ..card import ModelCard
from ..errors import ReplicaStartFailed
from ..replica import Isolation, Replica

MakeReplica = Callable[[], Replica]
"""Makes one replica, not loaded yet."""

FIRST_RETRY_S = 0.5
LAST_RETRY_S = 30.0
"""A broken replica tries its canary again after the first, doubled up to the last."""


class Events(Protocol):
    """What an executor tells the engine, always on the event loop's thread."""

    def ready(self, replica: int, card: ModelCard) -> None:
        """A replica takes batches, for the first time or again."""

    def unready(self, replica: int, reason: str) -> None:
        """A replica takes no more batches for now."""

    def start_failed(self, replica: int, reason: str) -> None:
        """A replica will never be ready."""

    def started(self, batch: Batch) -> None:
        """A replica works on a batch from now on, or again on one that it had set aside."""

    def part(self, batch: Batch, index: int, outcome: Outcome, last: bool) -> None:
        """An item's outcome, or a part of it where `last` is false."""

    def set_aside(self, batch: Batch) -> None:
        """A batch's predict failed: its slot is free, its items follow in turn with others."""

    def ended(self, batch: Batch) -> None:
        """All of a batch's items have been answered."""

    def lost(self, replica: int, guilty: tuple[Batch, int] | None) -> None:
        """A replica is gone, and which item ended it, if that is known."""


class Executor(Protocol):
    """A place where batches run. None of its methods blocks, or calls back before it returns."""

    def open(self, events: Events) -> None:
        """Begin to get the replicas ready; called once, on the event loop."""

    def start(self, batch: Batch) -> None:
        """Run a batch on its replica, after what the replica already has."""

    def cancel(self, batch: Batch, index: int) -> None:
        """Nobody wants this item: it may be skipped if it has not begun."""

    def close(self) -> None:
        """Unload and stop. Batches that still run are not told of."""

    def join(self, timeout_s: float) -> bool:
        """Wait until everything has stopped; False if it has not by then. Blocks."""


class Report(NamedTuple):
    """What one unit of a replica's work brought."""

    batch: Batch
    parts: list[tuple[int, Outcome]]
    is_set_aside: bool
    broken: str | None


class Lane:
    """One in-process replica's work, a unit at a time: batches in turn with isolation steps.

    Knows no thread and no loop: its owner calls it where the model shall run.
    """

    def __init__(self, replica: Replica) -> None:
        self.replica = replica
        self._isolating: deque[tuple[Batch, Isolation]] = deque()

    @property
    def next_isolated(self) -> Batch | None:
        """The batch whose isolation is to be continued, if there is one."""
        return self._isolating[0][0] if self._isolating else None

    def run(self, batch: Batch) -> Report:
        """Run a batch; the items that nobody wants any more are left out."""
        parts: list[tuple[int, Outcome]] = []
        payloads = [
            (index, item.payload)
            for index, item in enumerate(batch.items)
            if item.live and item.batch is batch
        ]
        isolation = self.replica.run(payloads, lambda i, outcome: parts.append((i, outcome)))
        if isolation is not None:
            self._isolating.append((batch, isolation))
        return Report(batch, parts, isolation is not None, None)

    def isolate(self) -> Report:
        """Take the next step of an isolation."""
        batch, isolation = self._isolating.popleft()
        parts: list[tuple[int, Outcome]] = []
        goes_on = isolation.step(lambda i, outcome: parts.append((i, outcome)))
        if goes_on:
            self._isolating.append((batch, isolation))
        broken = isolation.failure.message if isolation.broken else None
        return Report(batch, parts, goes_on, broken)

    def recover(self) -> bool:
        """Try the canary; whether it passed."""
        try:
            self.replica.warm_up(1)
        except ReplicaStartFailed:
            return False
        return True


def tell(events: Events, replica: int, report: Report) -> None:
    """Pass a report on to the engine."""
    for index, outcome in report.parts:
        events.part(report.batch, index, outcome, True)
    if report.is_set_aside:
        events.set_aside(report.batch)
    else:
        events.ended(report.batch)
    if report.broken is not None:
        events.unready(replica, f"broken: {report.broken}, and so did it on its own example")
