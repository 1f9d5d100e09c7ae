"""What the pages tell of a server."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any, ClassVar

import pytest

from headrace import Model
from headrace.call import Failure
from headrace.http.service import MAX_REASON
from tests.unit.http.house import House


class Echo(Model):
    examples: ClassVar = [1]

    def predict(self, batch: list[int]) -> list[int]:
        return batch


class Bare(Model):
    def predict(self, batch: list[int]) -> list[int]:
        return batch


async def health(house: House, failure: Failure | None = None) -> dict[str, str]:
    """The health, once the executor has answered what it was asked."""
    asked = asyncio.create_task(house.service.health())
    [executor] = house.executors
    for _ in range(10):
        await asyncio.sleep(0)
        if executor.batches:
            executor.begin()
            executor.finish(None if failure is None else {0: failure})
    return dict(await asked)


def run(test: Callable[[], Coroutine[Any, Any, None]]) -> None:
    asyncio.run(test())


def models_of(house: House) -> dict[str, Any]:
    """Each model's readiness, without its replicas."""
    models = house.service.readiness()["models"]
    return {name: (model["ready"], model["reason"]) for name, model in models.items()}


def test_a_model_is_unready_until_its_replica_is_and_while_it_drains() -> None:
    async def test() -> None:
        house = House(Echo())
        house.settle()
        assert models_of(house) == {"echo": (False, house.engines[0].reason)}
        house.open()
        assert models_of(house) == {"echo": (True, "")}
        assert house.service.is_ready
        house.service.is_draining = True
        assert models_of(house) == {"echo": (False, "draining")}
        assert not house.service.is_ready

    run(test)


def test_readiness_tells_of_each_replica() -> None:
    async def test() -> None:
        house = House(Echo(), replicas=2)
        house.open()
        house.engines[0].unready(1, "ended by signal 9")
        assert house.service.readiness() == {
            "ready": True,
            "reason": "",
            "models": {
                "echo": {
                    "ready": True,
                    "reason": "",
                    "replicas": [
                        {"replica": 0, "state": "ready", "reason": ""},
                        {"replica": 1, "state": "unready", "reason": "ended by signal 9"},
                    ],
                }
            },
        }

    run(test)


@pytest.mark.parametrize(
    ("reason", "shown"),
    [
        ("OSError: no such file\n\x1b[31m", r"OSError: no such file\n\x1b[31m"),
        ("a" * MAX_REASON, "a" * MAX_REASON),
        ("a" * (MAX_REASON + 1), "a" * (MAX_REASON - 1) + "…"),
        ("\n" * MAX_REASON, (r"\n" * MAX_REASON)[: MAX_REASON - 1] + "…"),
    ],
    ids=["escaped", "whole", "clipped", "escaped and clipped"],
)
def test_reasons_are_escaped_and_short_wherever_they_are_shown(reason: str, shown: str) -> None:
    async def test() -> None:
        house = House(Bare())
        house.open()
        house.engines[0].unready(0, reason)
        model = house.service.readiness()["models"]["bare"]
        [described] = house.service.overview()["models"]
        for found in (model, described):
            assert (found["reason"], found["replicas"][0]["reason"]) == (shown, shown)
        assert await house.service.health() == {"bare": shown}

    run(test)


@pytest.mark.parametrize(
    ("attribute", "value", "reason"),
    [
        ("is_live", False, "a replica hangs"),
        ("is_draining", True, "draining"),
        ("is_complete", False, "starting"),
    ],
)
def test_a_server_that_is_not_ready_says_why(attribute: str, value: bool, reason: str) -> None:
    async def test() -> None:
        house = House(Echo())
        house.settle()
        assert house.service.reason == "not every model is ready"
        house.open()
        assert house.service.reason == ""
        setattr(house.service, attribute, value)
        assert house.service.reason == reason
        overview = house.service.overview()
        assert (overview["ready"], overview["reason"]) == (False, reason)

    run(test)


def test_models_that_become_known_while_health_is_asked_are_asked_the_next_time() -> None:
    async def test() -> None:
        house = House(Bare(), Echo())
        house.service.set_engines(house.engines[:1])
        house.engines[0].open()
        asked = asyncio.create_task(house.service.health())
        await asyncio.sleep(0)
        house.settle()
        assert dict(await asked) == {"bare": "ok"}
        house.clock.advance(2.0)
        assert set(await house.service.health()) == {"bare", "echo"}

    run(test)


def test_health_is_the_answer_to_the_first_example() -> None:
    async def test() -> None:
        house = House(Echo())
        house.settle()
        assert await health(house) == {"echo": house.engines[0].reason}
        house.open()
        house.clock.advance(2.0)
        assert await health(house) == {"echo": "ok"}
        house.clock.advance(2.0)
        failure = Failure(code="model_error", message="the model failed in predict")
        assert await health(house, failure) == {"echo": "the model failed in predict"}

    run(test)


def test_health_is_asked_again_only_after_a_second() -> None:
    async def test() -> None:
        house = House(Echo())
        house.open()
        for _ in range(5):
            await health(house)
            house.clock.advance(0.2)
        assert house.engines[0].counts.items["ok"] == 1
        house.clock.advance(0.2)
        await health(house)
        assert house.engines[0].counts.items["ok"] == 2

    run(test)


def test_a_model_without_examples_is_healthy_when_it_is_ready() -> None:
    async def test() -> None:
        house = House(Bare())
        house.open()
        assert await health(house) == {"bare": "ok"}

    run(test)


def test_the_overview_tells_what_is_served() -> None:
    async def test() -> None:
        house = House(Echo())
        house.open()
        found = house.service.overview()
        assert (found["live"], found["ready"]) == (True, True)
        [model] = found["models"]
        assert model["routes"] == [
            "/models/echo/predict",
            "/v1/models/echo:predict",
            "/models/echo/messages",
        ]
        assert model["replicas"] == [{"replica": 0, "state": "ready", "reason": ""}]

    run(test)
