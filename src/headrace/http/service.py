"""What the pages tell of a server: alive, ready, healthy, and what it serves."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from typing import Any

from ..call import Call, Failure
from ..clock import Clock, Instant
from ..config import Limits
from ..engine import Engine
from ..errors import HeadraceError
from ..metrics import HttpCounts

READY = "ready"
HEALTH_TIMEOUT_S = 5.0
HEALTH_CACHE_S = 1.0


class Service:
    """The models of one server, as its pages see them.

    Args:
        engines: In the order of their models.
        limits: Of requests.
        clock: Tells the time.
        version: Of headrace.
    """

    def __init__(
        self, engines: Sequence[Engine], *, limits: Limits, clock: Clock, version: str
    ) -> None:
        self.engines = engines
        self.limits = limits
        self.clock = clock
        self.version = version
        self.counts = HttpCounts()
        self.is_live = True
        self.is_draining = False
        self._health: tuple[Instant, Mapping[str, str]] | None = None
        self._health_lock = asyncio.Lock()

    @property
    def is_ready(self) -> bool:
        """Whether every model would answer a request now."""
        return self.is_live and all(state == READY for state in self.readiness().values())

    def readiness(self) -> dict[str, str]:
        """For each model, that it would answer a request now, or why not."""
        if self.is_draining:
            return {engine.card.name: "draining" for engine in self.engines}
        return {e.card.name: READY if e.is_ready else e.reason for e in self.engines}

    def overview(self) -> dict[str, Any]:
        """What is served here, for programs."""
        return {
            "server": "headrace",
            "version": self.version,
            "live": self.is_live,
            "ready": self.is_ready,
            "docs": "/docs",
            "openapi": "/openapi.json",
            "metrics": "/metrics",
            "models": [_describe(engine) for engine in self.engines],
        }

    async def health(self) -> Mapping[str, str]:
        """Each model's answer to its first example: "ok", or what is wrong; cached briefly."""
        async with self._health_lock:
            now = self.clock()
            if self._health is None or now - self._health[0] > HEALTH_CACHE_S:
                checks = (self._check(engine) for engine in self.engines)
                states = await asyncio.gather(*checks)
                names = (engine.card.name for engine in self.engines)
                self._health = self.clock(), dict(zip(names, states, strict=True))
            return self._health[1]

    async def _check(self, engine: Engine) -> str:
        if not engine.is_ready:
            return engine.reason or "not ready"
        if not engine.card.examples:
            return "ok"
        deadline = self.clock() + HEALTH_TIMEOUT_S
        try:
            outcomes = await engine.ask(Call(payloads=engine.card.examples[:1], deadline=deadline))
        except HeadraceError as error:
            return error.message
        outcome = outcomes[0]
        return outcome.message if isinstance(outcome, Failure) else "ok"


def _describe(engine: Engine) -> dict[str, Any]:
    card, counts = engine.card, engine.counts
    return {
        "name": card.name,
        "version": card.version,
        "description": card.description,
        "ready": engine.is_ready,
        "reason": engine.reason,
        "routes": [f"/models/{card.name}/predict", f"/v1/models/{card.name}:predict"],
        "reads": card.reads,
        "writes": card.writes,
        "max_batch_size": card.batching.max_batch_size,
        "replicas": [
            {"replica": number, "state": status.state, "reason": status.reason}
            for number, status in sorted(engine.replicas.items())
        ],
        "items": dict(counts.items),
        "batches": dict(counts.batches),
        "mean_batch_items": round(counts.batch_items.total / max(1, counts.batch_items.count), 2),
        "queued_items": engine.queued_items,
        "running_items": engine.running_items,
    }
