"""One replica's work, a unit at a time: batches in turn with the steps of isolations.

Knows no thread, no loop and no socket: its owner calls it where the model shall run.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Container, Sequence
from typing import Generic, NamedTuple, TypeVar

from .call import Outcome, Payload
from .errors import ReplicaStartFailed
from .replica import Isolation, Replica

B = TypeVar("B")
"""What the owner calls a batch by."""


class Report(NamedTuple, Generic[B]):
    """What one unit of a replica's work brought.

    Attributes:
        batch: Whose.
        parts: Outcomes with the indexes of their items.
        is_set_aside: Whether the rest follows in later units.
        broken: Why the replica fails on its own example, if it does.
        skipped: Indexes of items that an isolation left out, as nobody wanted them any more.
    """

    batch: B
    parts: list[tuple[int, Outcome]]
    is_set_aside: bool = False
    broken: str | None = None
    skipped: Sequence[int] = ()


class Lane(Generic[B]):
    """Runs batches on a replica.

    Args:
        replica: Whose work it is.
    """

    def __init__(self, replica: Replica) -> None:
        self.replica = replica
        self._isolating: deque[tuple[B, Isolation]] = deque()

    @property
    def next_isolated(self) -> B | None:
        """The batch whose isolation is to be continued, if there is one."""
        return self._isolating[0][0] if self._isolating else None

    def run(self, batch: B, payloads: Sequence[tuple[int, Payload]]) -> Report[B]:
        """Run the items of a batch that somebody wants."""
        parts: list[tuple[int, Outcome]] = []
        isolation = self.replica.run(payloads, parts.append)
        if isolation is not None:
            self.set_aside(batch, isolation)
        return Report(batch, parts, isolation is not None)

    def set_aside(self, batch: B, isolation: Isolation) -> None:
        """Take over a batch whose predict raised elsewhere than in `run`."""
        self._isolating.append((batch, isolation))

    def isolate(self, unwanted: Container[int] = ()) -> Report[B]:
        """Take the next step of an isolation, that of `next_isolated`.

        Args:
            unwanted: Indexes of items that shall not run any more.
        """
        batch, isolation = self._isolating.popleft()
        parts: list[tuple[int, Outcome]] = []
        goes_on = isolation.step(parts.append, unwanted)
        skipped, isolation.skipped = isolation.skipped, []
        if goes_on:
            self._isolating.append((batch, isolation))
        broken = isolation.failure.message if isolation.broken else None
        return Report(batch, parts, goes_on, broken, skipped)

    def recover(self) -> bool:
        """Try the canary; whether it passed."""
        try:
            self.replica.warm_up(1)
        except ReplicaStartFailed:
            return False
        return True
