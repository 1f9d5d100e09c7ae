"""What an executor tells, written down."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

from headrace.batching import Batch
from headrace.call import Outcome
from headrace.card import ModelCard
from headrace.clock import NEVER, Instant
from headrace.executors import Loss, ReplicaStatus

WAIT_S = 10.0
"""For what should happen soon; a busy machine may be late."""


class Record:
    """Writes down what an executor tells, and lets a test wait for it."""

    def __init__(self) -> None:
        self.events: list[tuple[Any, ...]] = []
        self.card: ModelCard | None = None
        self._told = asyncio.Event()

    def ready(self, replica: int, card: ModelCard) -> None:
        self.card = card
        self._tell("ready", replica)

    def unready(self, replica: int, reason: str, back_at: Instant = NEVER) -> None:
        self._tell("unready", replica, reason)

    def start_failed(self, replica: int, reason: str) -> None:
        self._tell("start_failed", replica, reason)

    def started(self, batch: Batch) -> None:
        self._tell("started", batch.id)

    def part(self, batch: Batch, index: int, outcome: Outcome, last: bool) -> None:
        self._tell("part", batch.id, index, outcome, last)

    def parts(self, batch: Batch, outcomes: Sequence[tuple[int, Outcome]]) -> None:
        for index, outcome in outcomes:
            self.part(batch, index, outcome, True)

    def set_aside(self, batch: Batch) -> None:
        batch.isolated = True  # as the batcher does
        self._tell("set_aside", batch.id)

    def ended(self, batch: Batch) -> None:
        self._tell("ended", batch.id)

    def lost(self, replica: int, loss: Loss, back_at: Instant = NEVER) -> None:
        self._tell("lost", replica, loss)

    def withdrawn(self, replica: int, cause: str) -> None:
        self._tell("withdrawn", replica, cause)

    def retired(self, replica: int, cause: str) -> None:
        self._tell("retired", replica, cause)

    def expected(self, back_at: Instant) -> None:
        self._tell("expected", back_at)

    def status(self, replica: int, status: ReplicaStatus) -> None:
        """For people: no test of what an executor does looks at it."""

    async def until(self, *event: Any) -> None:
        """Wait for an event that begins like this."""
        async with asyncio.timeout(WAIT_S):
            while not any(told[: len(event)] == event for told in self.events):
                self._told.clear()
                await self._told.wait()

    def of(self, *kinds: str) -> list[tuple[Any, ...]]:
        return [event for event in self.events if event[0] in kinds]

    def outcomes(self, batch: Batch) -> dict[int, Outcome]:
        """A batch's outcomes by index; each came once and was the last."""
        parts = [event[2:] for event in self.of("part") if event[1] == batch.id]
        assert all(last for _, _, last in parts)
        outcomes = {index: outcome for index, outcome, _ in parts}
        assert len(outcomes) == len(parts)
        return outcomes

    def _tell(self, *event: Any) -> None:
        self.events.append(event)
        self._told.set()
