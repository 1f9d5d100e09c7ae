"""The pages, and the predict routes beside them, while the models become known and after."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Iterator
from typing import Any

import httpx
import pytest
from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from headrace import Model
from tests.unit.http.house import House


class First(Model):
    def predict(self, batch: list[int]) -> list[int]:
        return batch


class Second(Model):
    def predict(self, batch: list[int]) -> list[int]:
        return batch


def run(test: Callable[[House, httpx.AsyncClient], Coroutine[Any, Any, None]]) -> None:
    async def whole() -> None:
        house = House(First(), Second())
        async with house.client() as client:
            await test(house, client)

    asyncio.run(whole())


def know_the_second(house: House) -> None:
    """The second model is known and ready, the first is not known yet."""
    house.service.set_engines(house.engines[1:])
    house.engines[1].open()


async def post(house: House, client: httpx.AsyncClient, path: str) -> httpx.Response:
    """The answer to a prediction, which the executors echo."""
    asked = asyncio.create_task(client.post(path, json=7))
    for _ in range(20):
        await asyncio.sleep(0)
        for executor in house.executors:
            if executor.batches:
                executor.begin()
                executor.finish()
    return await asked


def told(answer: httpx.Response) -> tuple[int, str]:
    """Status and code of an error in our form."""
    assert set(answer.json()) == {"error", "code", "details"}
    return answer.status_code, answer.json()["code"]


# While not all models are known


@pytest.mark.parametrize(
    "path",
    ["/predict", "/models/first/predict", "/v1/models/first:predict", "/models/nope/predict"],
)
def test_a_prediction_of_a_model_that_is_not_known_yet_is_to_be_tried_again(path: str) -> None:
    async def test(house: House, client: httpx.AsyncClient) -> None:
        for _ in range(2):
            answer = await client.post(path, json=1)
            assert told(answer) == (503, "not_ready")
            assert answer.headers["retry-after"] == "1"
            know_the_second(house)

    run(test)


def test_a_model_is_served_as_soon_as_it_is_known_and_ready() -> None:
    async def test(house: House, client: httpx.AsyncClient) -> None:
        know_the_second(house)
        assert (await post(house, client, "/models/second/predict")).json() == 7
        assert (await client.get("/models/second")).json()["ready"] is True

    run(test)


@pytest.mark.parametrize("path", ["/openapi.json", "/docs", "/redoc", "/models/first"])
def test_pages_that_tell_of_models_wait_until_all_are_known(path: str) -> None:
    async def test(house: House, client: httpx.AsyncClient) -> None:
        know_the_second(house)
        answer = await client.get(path)
        assert told(answer) == (503, "not_ready")
        assert answer.headers["retry-after"] == "1"
        house.open()
        assert (await client.get(path)).status_code == 200

    run(test)


def test_a_starting_server_lives_is_not_ready_and_says_what_it_does() -> None:
    async def test(house: House, client: httpx.AsyncClient) -> None:
        assert (await client.get("/livez")).status_code == 200
        ready = await client.get("/readyz")
        assert (ready.status_code, ready.headers["retry-after"]) == (503, "1")
        assert ready.json() == {"ready": False, "reason": "starting", "models": {}}
        know_the_second(house)
        house.service.phase = "importing\napp:First"
        found = (await client.get("/readyz")).json()
        assert (found["ready"], found["reason"]) == (False, r"importing\napp:First")
        assert found["models"]["second"]["ready"] is True
        overview = (await client.get("/")).json()
        assert (overview["ready"], overview["reason"]) == (False, r"importing\napp:First")
        assert [model["name"] for model in overview["models"]] == ["second"]

    run(test)


def test_a_starting_server_is_not_healthy_whatever_its_known_models_are() -> None:
    async def test(house: House, client: httpx.AsyncClient) -> None:
        know_the_second(house)
        health = await client.get("/health")
        assert health.status_code == 503
        assert health.json() == {"status": "failing", "models": {"second": "ok"}}

    run(test)


# Once all models are known


def test_the_first_model_has_the_short_route_whenever_it_became_known() -> None:
    async def test(house: House, client: httpx.AsyncClient) -> None:
        know_the_second(house)
        house.settle()
        house.engines[0].open()
        assert (await post(house, client, "/predict")).json() == 7
        assert house.engines[0].counts.items["ok"] == 1

    run(test)


@pytest.mark.parametrize("path", ["/models/nope/predict", "/v1/models/nope:predict"])
def test_an_unknown_name_is_not_found(path: str) -> None:
    async def test(house: House, client: httpx.AsyncClient) -> None:
        house.open()
        assert told(await client.post(path, json=1)) == (404, "model_not_found")
        assert told(await client.get("/models/nope")) == (404, "model_not_found")

    run(test)


def test_readyz_is_200_when_every_model_is_ready() -> None:
    async def test(house: House, client: httpx.AsyncClient) -> None:
        house.settle()
        house.engines[0].open()
        assert (await client.get("/readyz")).status_code == 503
        house.engines[1].open()
        ready = await client.get("/readyz")
        assert ready.status_code == 200
        replicas = [{"replica": 0, "state": "ready", "reason": ""}]
        model = {"ready": True, "reason": "", "replicas": replicas}
        assert ready.json() == {
            "ready": True,
            "reason": "",
            "models": {"first": model, "second": model},
        }

    run(test)


def test_the_live_page_is_for_browsers() -> None:
    async def test(house: House, client: httpx.AsyncClient) -> None:
        page = await client.get("/", headers={"accept": "text/html"})
        assert page.headers["content-type"].startswith("text/html")
        assert "<html" in page.text

    run(test)


# Metrics


class Workers(Collector):
    """What workers told when they were last asked."""

    def __init__(self) -> None:
        self.asked = 0
        self.told = 0

    async def ask(self) -> None:
        self.asked += 1
        await asyncio.sleep(0)
        self.told = self.asked

    def collect(self) -> Iterator[Metric]:
        yield GaugeMetricFamily("worker_told", "what a worker told last", value=self.told)


def test_a_scrape_asks_first_and_shows_what_it_brought_after_our_own() -> None:
    async def test(house: House, client: httpx.AsyncClient) -> None:
        workers = Workers()
        house.service.refresh = workers.ask
        house.service.collectors.append(workers)
        for time in (1, 2):
            text = (await client.get("/metrics")).text
            assert f"\nworker_told {time}.0\n" in text
        assert text.index("headrace_replicas_ready") < text.index("worker_told")
        assert text.index("worker_told") < text.index("python_info")

    run(test)


def test_a_scrape_without_workers_asks_nobody() -> None:
    async def test(house: House, client: httpx.AsyncClient) -> None:
        assert (await client.get("/metrics")).status_code == 200

    run(test)


def test_models_are_counted_from_when_they_are_known() -> None:
    async def test(house: House, client: httpx.AsyncClient) -> None:
        assert "headrace_replicas_ready{" not in (await client.get("/metrics")).text
        know_the_second(house)
        text = (await client.get("/metrics")).text
        assert 'headrace_replicas_ready{model="second"} 1.0' in text
        house.open()
        text = (await client.get("/metrics")).text
        assert 'headrace_replicas_ready{model="first"} 1.0' in text

    run(test)
