"""What the pages tell of a server."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any, ClassVar

from headrace import Limits, Model
from headrace.call import Failure
from headrace.engine import Engine
from headrace.http import Service
from headrace.replica import Replica
from headrace.testing import ManualClock, ScriptedExecutor


class Echo(Model):
    examples: ClassVar = [1]

    def predict(self, batch: list[int]) -> list[int]:
        return batch


class Bare(Model):
    def predict(self, batch: list[int]) -> list[int]:
        return batch


class House:
    def __init__(self, model: Model) -> None:
        self.clock = ManualClock()
        card = Replica(model).card
        self.executor = ScriptedExecutor(card)
        self.engine = Engine(card, self.executor, loop=asyncio.get_running_loop(), clock=self.clock)
        self.service = Service([self.engine], limits=Limits(), clock=self.clock, version="0")

    async def health(self, failure: Failure | None = None) -> dict[str, str]:
        """The health, once the executor has answered what it was asked."""
        asked = asyncio.create_task(self.service.health())
        for _ in range(10):
            await asyncio.sleep(0)
            if self.executor.batches:
                self.executor.begin()
                self.executor.finish(None if failure is None else {0: failure})
        return dict(await asked)


def run(test: Callable[[], Coroutine[Any, Any, None]]) -> None:
    asyncio.run(test())


def test_a_model_is_unready_until_its_replica_is_and_while_it_drains() -> None:
    async def test() -> None:
        house = House(Echo())
        assert house.service.readiness() == {"echo": "loading"}
        house.engine.open()
        assert house.service.readiness() == {"echo": "ready"}
        house.service.is_draining = True
        assert house.service.readiness() == {"echo": "draining"}

    run(test)


def test_health_is_the_answer_to_the_first_example() -> None:
    async def test() -> None:
        house = House(Echo())
        assert await house.health() == {"echo": "loading"}
        house.engine.open()
        house.clock.advance(2.0)
        assert await house.health() == {"echo": "ok"}
        house.clock.advance(2.0)
        failure = Failure(code="model_error", message="the model failed in predict")
        assert await house.health(failure) == {"echo": "the model failed in predict"}

    run(test)


def test_health_is_asked_again_only_after_a_second() -> None:
    async def test() -> None:
        house = House(Echo())
        house.engine.open()
        for _ in range(5):
            await house.health()
            house.clock.advance(0.2)
        assert house.engine.counts.items["ok"] == 1
        house.clock.advance(0.2)
        await house.health()
        assert house.engine.counts.items["ok"] == 2

    run(test)


def test_a_model_without_examples_is_healthy_when_it_is_ready() -> None:
    async def test() -> None:
        house = House(Bare())
        house.engine.open()
        assert await house.health() == {"bare": "ok"}

    run(test)


def test_the_overview_tells_what_is_served() -> None:
    async def test() -> None:
        house = House(Echo())
        house.engine.open()
        found = house.service.overview()
        assert (found["live"], found["ready"]) == (True, True)
        [model] = found["models"]
        assert model["routes"] == ["/models/echo/predict", "/v1/models/echo:predict"]
        assert model["replicas"] == [{"replica": 0, "state": "ready", "reason": ""}]

    run(test)
