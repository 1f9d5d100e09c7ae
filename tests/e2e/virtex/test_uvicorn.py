"""A program of virtex under plain uvicorn, as it comes."""

from __future__ import annotations

import json
import signal
import socket
from collections import Counter

import pytest

from tests.e2e.conftest import eventually
from tests.e2e.virtex.served import ClosedLoop, Launch, free_port, scrape

pytestmark = pytest.mark.slow

OPTIONS = [
    (),
    ("--factory",),
    ("--lifespan", "off"),
    ("--loop", "asyncio", "--http", "h11"),
    ("--interface", "asgi2"),
]


@pytest.mark.parametrize("options", OPTIONS, ids=" ".join)
def test_it_serves(launch: Launch, options: tuple[str, ...]) -> None:
    service = launch.uvicorn("scripted", *options)
    answered: Counter[int] = Counter()
    for number, answer in ClosedLoop(service, 8, 200):
        assert (answer.status, answer.json()) == (200, {"data": [2 * number], "error": None})
        answered[number] += 1
    assert answered == Counter(range(200))
    assert service.request("GET", "/").status_code == 400
    service.signal(signal.SIGINT)
    service.exit_code()
    assert not any("Traceback" in line for line in service.log_lines)


def test_sigterm_while_the_handler_works_answers_what_waits(launch: Launch) -> None:
    service = launch.uvicorn("scripted")
    wires = service.open_wires(8)
    blocked = service.block()
    for n, wire in enumerate(wires):
        wire.post("/", json.dumps({"data": [n]}))
    service.terminate()
    service.set("go")
    assert blocked.answer().json()["data"] == ["waitwait"]
    for n, wire in enumerate(wires):
        assert wire.answer().json()["data"] == [2 * n]
    assert service.exit_code() in (0, -signal.SIGTERM)


@pytest.mark.parametrize(("spelling", "lifespan"), [("prom", "on"), ("metrics", "off")])
def test_metrics_are_scraped_while_it_serves(launch: Launch, spelling: str, lifespan: str) -> None:
    first = free_port()
    env = {"SPELLING": spelling, "METRICS_MODE": "scrape", "METRICS_PORT": str(first)}
    service = launch.uvicorn("service_x", "--lifespan", lifespan, env=env)
    for _ in range(5):
        assert service.ask(1, 2).json()["data"] == [2.0, 4.0]
    found = eventually(lambda: scrape(first), "its metrics")
    assert found["pid"] == service.process.pid
    assert (found["requests_total"], found["queries_total"]) == (5, 10)
    service.terminate()
    service.exit_code()
    assert scrape(first) == {}


def test_an_occupied_port_for_metrics_is_skipped(launch: Launch) -> None:
    first = free_port()
    env = {"SPELLING": "prom", "METRICS_MODE": "scrape", "METRICS_PORT": str(first)}
    with socket.socket() as somebody:
        somebody.bind(("127.0.0.1", first))
        somebody.listen()
        service = launch.uvicorn("service_x", env=env)
        found = eventually(lambda: scrape(first + 1), "its metrics")
    assert found["pid"] == service.process.pid


def test_workers_of_uvicorn_have_a_port_each(launch: Launch) -> None:
    first = free_port()
    env = {"SPELLING": "metrics", "METRICS_MODE": "scrape", "METRICS_PORT": str(first)}
    service = launch.uvicorn("service_x", "--workers", "2", env=env)
    assert service.ask(1).json()["data"] == [2.0]
    ports = (first, first + 1)
    eventually(lambda: all(map(scrape, ports)), "both workers' metrics")
    assert len({scrape(port)["pid"] for port in ports}) == 2


def test_with_metrics_off_it_listens_nowhere_else(launch: Launch) -> None:
    first = free_port()
    env = {"SPELLING": "prom", "METRICS_MODE": "off", "METRICS_PORT": str(first)}
    service = launch.uvicorn("service_x", env=env)
    assert service.ask(1).json()["data"] == [2.0]
    assert scrape(first) == {}


def test_metrics_that_cannot_be_served_end_uvicorn_at_its_start(launch: Launch) -> None:
    env = {"SPELLING": "metrics", "METRICS_MODE": "scrape", "METRICS_PORT": str(free_port())}
    service = launch.uvicorn("service_x", env={**env, "METRICS_HOST": "192.0.2.1"}, is_ready=False)
    assert service.exit_code() == 3
    assert any("metrics_host" in line for line in service.log_lines)
