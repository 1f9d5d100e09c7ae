"""Drives a batcher by hand: time moves when a test says so."""

from __future__ import annotations

from typing import Any, TypeVar

from headrace.batching import Action, Answer, Batch, Batcher, Cancel, Item, Overrun, Rules, Run
from headrace.clock import NEVER
from headrace.config import Batching

A = TypeVar("A", Run, Cancel, Answer, Overrun)

PLAIN = Rules(settling=False)
"""For tests of what has nothing to do with settling."""


class Driver:
    """A batcher, its replicas, and the present instant; `batching` are fields of `Batching`."""

    def __init__(
        self,
        *,
        replicas: int = 1,
        max_items: int = 1000,
        max_bytes: int = 10**6,
        predict_timeout_s: float = NEVER,
        idempotent: bool = True,
        rules: Rules | None = PLAIN,
        **batching: Any,
    ) -> None:
        self.now = 100.0
        self.wake = NEVER
        self.batcher = Batcher(
            Batching(**{"max_batch_size": 4, **batching}),
            max_items=max_items,
            max_bytes=max_bytes,
            predict_timeout_s=predict_timeout_s,
            idempotent=idempotent,
            rules=rules,
        )
        for replica in range(replicas):
            self.batcher.ready(self.now, replica)

    def submit(self, *items: Item) -> list[Item]:
        self.batcher.submit(self.now, items)
        return list(items)

    def several(self, size: int, **fields: Any) -> list[Item]:
        """Submit so many calls of one item."""
        return [item for _ in range(size) for item in self.submit(Item(**fields))]

    def cancel(self, item: Item) -> bool:
        return self.batcher.cancel(self.now, item)

    def pass_time(self, seconds: float) -> None:
        self.now += seconds

    def tick(self) -> list[Action]:
        actions, self.wake = self.batcher.tick(self.now)
        return actions

    def runs(self) -> list[Batch]:
        """Tick, and the batches that are to run."""
        return [action.batch for action in only(Run, self.tick())]

    def run(self) -> Batch:
        """Tick, and the one batch that is to run."""
        (batch,) = self.runs()
        return batch

    def start(self, batch: Batch) -> None:
        self.batcher.started(self.now, batch)

    def finish(self, batch: Batch, seconds: float = 0.01) -> None:
        """The replica works on the batch so long, and answers every item."""
        if batch.started_at is None:
            self.start(batch)
        self.pass_time(seconds)
        for index in range(len(batch.items)):
            self.batcher.part(self.now, batch, index)
        self.batcher.ended(self.now, batch)

    def start_one(self, **fields: Any) -> Batch:
        """Occupy an idle replica with a batch of one item, begun."""
        self.submit(Item(**fields))
        batch = self.run()
        self.start(batch)
        return batch

    def measure(self, seconds: float = 0.01, size: int = 1) -> None:
        """Let the batcher see one batch of this size and time."""
        self.several(size)
        self.finish(self.run(), seconds)


def only(kind: type[A], actions: list[Action]) -> list[A]:
    """The actions of one kind."""
    return [action for action in actions if isinstance(action, kind)]


def ends(actions: list[Action]) -> dict[int, str]:
    """The code of each answer, by the item's number."""
    return {answer.item.number: answer.failure.code for answer in only(Answer, actions)}
