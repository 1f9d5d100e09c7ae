"""A service over engines whose executors do only what a test says."""

from __future__ import annotations

import asyncio

import httpx

from headrace import Limits, Model
from headrace.engine import Engine
from headrace.http import App, Service
from headrace.replica import Replica
from headrace.testing import ManualClock, ScriptedExecutor


class House:
    """Models of one server; none is open, and the service knows of none.

    Args:
        models: By their order.
        replicas: Of each model.
        limits: Of requests.
    """

    def __init__(self, *models: Model, replicas: int = 1, limits: Limits | None = None) -> None:
        self.clock = ManualClock()
        self.service = Service(limits=limits or Limits(), clock=self.clock, version="0")
        cards = [Replica(model).card for model in models]
        self.executors = [ScriptedExecutor(card, replicas=replicas) for card in cards]
        self.engines = [
            Engine(card, executor, loop=asyncio.get_running_loop(), clock=self.clock)
            for card, executor in zip(cards, self.executors, strict=True)
        ]

    def settle(self) -> None:
        """All models are known."""
        self.service.set_engines(self.engines)
        self.service.complete()

    def open(self) -> None:
        """All models are known and ready."""
        self.settle()
        for engine in self.engines:
            engine.open()

    def client(self) -> httpx.AsyncClient:
        """A client of the service's application, without sockets."""
        # httpx is stricter than servers are: a scope is any mapping to it, and a dict in fact.
        transport = httpx.ASGITransport(App(self.service))  # type: ignore[arg-type]
        return httpx.AsyncClient(transport=transport, base_url="http://house")
