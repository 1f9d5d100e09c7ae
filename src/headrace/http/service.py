"""What the pages tell of a server: alive, ready, healthy, and what it serves."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any

from prometheus_client.registry import Collector

from ..call import Call, Failure
from ..clock import Clock, Instant
from ..config import Fairness, Limits
from ..dialects import Dialect
from ..engine import Engine
from ..errors import HeadraceError
from ..metrics import HttpCounts
from .predict import ROUTES, Predict

MAX_REASON = 200
"""Characters of a reason that the pages show: it may quote what the model's code raised."""
HEALTH_TIMEOUT_S = 5.0
HEALTH_CACHE_S = 1.0


class Service:
    """The models of one server, as the HTTP face sees them. They may become known one by one.

    Attributes:
        engines: Of the models that are known, in order; the same list for ever.
        predict: Serves the predict requests.
        counts: Of the HTTP face.
        collectors: Of further metrics, which stand after headrace's own.
        refresh: Awaited before each scrape; it must end soon by itself, and not raise.
        is_live: Whether no replica hangs.
        is_draining: Whether the server has been told to stop.
        is_complete: Whether all models are known.
        phase: What the server does until all models are known, for people; not empty.

    Args:
        limits: Of requests.
        clock: Tells the time.
        version: Of headrace.
        dialect: As in `Predict`.
        fairness: As in `Predict`.
    """

    def __init__(
        self,
        *,
        limits: Limits,
        clock: Clock,
        version: str,
        dialect: Dialect | None = None,
        fairness: Fairness | None = None,
    ) -> None:
        self.limits = limits
        self.clock = clock
        self.version = version
        self.engines: list[Engine] = []
        self.counts = HttpCounts()
        self.predict = Predict(
            limits=limits, counts=self.counts, clock=clock, dialect=dialect, fairness=fairness
        )
        self.collectors: list[Collector] = []
        self.refresh: Callable[[], Awaitable[None]] | None = None
        self.is_live = True
        self.is_draining = False
        self.is_complete = False
        self.phase = "starting"
        self._health: tuple[Instant, Mapping[str, str]] | None = None
        self._health_lock = asyncio.Lock()

    def set_engines(self, engines: Sequence[Engine]) -> None:
        """Serve these models, in place of those before; the first will be the default model."""
        self.engines[:] = engines
        self._route()

    def complete(self) -> None:
        """All models are known: a name that is not among them leads nowhere from now on."""
        self.is_complete = True
        self._route()

    def _route(self) -> None:
        self.predict.route(self.engines, is_complete=self.is_complete)

    @property
    def is_ready(self) -> bool:
        """Whether every model is known, and would answer a request now."""
        return self.reason == ""

    @property
    def reason(self) -> str:
        """Why it is not ready, for people; empty if it is."""
        if not self.is_live:
            return "a replica hangs"
        if self.is_draining:
            return "draining"
        if not self.is_complete:
            return clip_reason(self.phase)
        if not all(engine.is_ready for engine in self.engines):
            return "not every model is ready"
        return ""

    def readiness(self) -> dict[str, Any]:
        """Whether a request would be answered now: in all, by model and by replica."""
        models = {engine.card.name: self._readiness(engine) for engine in self.engines}
        return {"ready": self.is_ready, "reason": self.reason, "models": models}

    def _readiness(self, engine: Engine) -> dict[str, Any]:
        reason = "draining" if self.is_draining else engine.reason
        return {
            "ready": engine.is_ready and not self.is_draining,
            "reason": clip_reason(reason),
            "replicas": [
                {"replica": number, "state": status.state, "reason": clip_reason(status.reason)}
                for number, status in sorted(engine.replicas.items())
            ],
        }

    def overview(self) -> dict[str, Any]:
        """What is served here, for programs."""
        return {
            "server": "headrace",
            "version": self.version,
            "live": self.is_live,
            "ready": self.is_ready,
            "reason": self.reason,
            "docs": "/docs",
            "openapi": "/openapi.json",
            "metrics": "/metrics",
            "models": [self.describe(engine) for engine in self.engines],
        }

    def describe(self, engine: Engine) -> dict[str, Any]:
        """One model, for programs: what it is, how it is, and what it has done."""
        card, counts = engine.card, engine.counts
        batch_items = counts.batch_items
        return {
            "name": card.name,
            "version": card.version,
            "description": card.description,
            **self._readiness(engine),
            "routes": [r.replace("{name}", card.name) for r in ROUTES if "{name}" in r],
            "reads": card.reads,
            "writes": card.writes,
            "max_batch_size": card.batching.max_batch_size,
            "items": dict(counts.items),
            "batches": dict(counts.batches),
            "mean_batch_items": round(batch_items.total / max(1, batch_items.count), 2),
            "queued_items": engine.queued_items,
            "running_items": engine.running_items,
        }

    async def health(self) -> Mapping[str, str]:
        """Each model's answer to its first example: "ok", or what is wrong; cached briefly."""
        async with self._health_lock:
            now = self.clock()
            if self._health is None or now - self._health[0] > HEALTH_CACHE_S:
                engines = list(self.engines)  # others may become known while these are asked
                states = await asyncio.gather(*(self._check(engine) for engine in engines))
                names = (engine.card.name for engine in engines)
                self._health = self.clock(), dict(zip(names, states, strict=True))
            return self._health[1]

    async def _check(self, engine: Engine) -> str:
        if not engine.is_ready:
            return clip_reason(engine.reason) or "not ready"
        if not engine.card.examples:
            return "ok"
        deadline = self.clock() + HEALTH_TIMEOUT_S
        try:
            outcomes = await engine.ask(Call(payloads=engine.card.examples[:1], deadline=deadline))
        except HeadraceError as error:
            return error.message
        outcome = outcomes[0]
        return outcome.message if isinstance(outcome, Failure) else "ok"


def clip_reason(reason: str) -> str:
    r"""A reason as the pages show it: escaped and short.

    >>> print(clip_reason("one\ntwo"), len(clip_reason("a" * 300)))
    one\ntwo 200
    """
    text = repr(reason[: MAX_REASON + 1])[1:-1]
    return text if len(text) <= MAX_REASON else text[: MAX_REASON - 1] + "…"
