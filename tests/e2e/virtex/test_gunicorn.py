"""gunicorn's options do what they say, and no request is lost by them."""

from __future__ import annotations

import json
import signal
import time
from collections import Counter

import pytest

from tests.e2e.conftest import WAIT_S, eventually
from tests.e2e.virtex.served import ClosedLoop, Launch, Service, free_port, scrape
from virtex import HttpClient, HttpMessage

pytestmark = pytest.mark.slow

MANY = 100_000
"""More requests than any test sends: what it waits for comes before."""


def answers_of(load: ClosedLoop) -> Counter[int]:
    """Run a load to its end: how often each number was answered, rightly."""
    answered: Counter[int] = Counter()
    for number, answer in load:
        assert answer.status == 200, answer.body
        assert answer.json() == {"data": [2 * number], "error": None}
        answered[number] += 1
    return answered


def no_traceback(service: Service) -> bool:
    return not any("Traceback" in line for line in service.log_lines)


def test_the_documented_command_serves_and_each_worker_is_scraped(launch: Launch) -> None:
    first = free_port()
    service = launch.gunicorn(
        "service_x",
        workers=4,
        env={"SPELLING": "metrics", "METRICS_MODE": "scrape", "METRICS_PORT": str(first)},
    )

    def scraped() -> dict[int, dict[str, float]]:
        # Somebody else may be on a port of these: theirs are skipped.
        found = [scrape(first + n) for n in range(8)]
        mine = service.workers()
        return {int(one["pid"]): one for one in found if one.get("pid") in mine}

    eventually(lambda: len(scraped()) == 4, "four ports")
    assert answers_of(ClosedLoop(service, 16, 9_900)) == Counter(range(9_900))
    for n in range(100):
        assert service.ask(*range(n)).json()["data"] == [2 * i for i in range(n)]
    by_worker = scraped()
    assert len(by_worker) == 4

    def total(name: str) -> float:
        return sum(one[name] for one in by_worker.values())

    assert total("requests_total") == 10_000
    assert total("queries_total") == 9_900 + sum(range(100))
    assert total("queries_per_request_sum") == total("queries_total")
    assert total("queries_per_request_count") == total("server_latency_milliseconds_count")
    assert total("server_latency_milliseconds_count") == 10_000
    assert total("inference_batch_size_sum") == total("queries_total")
    for stage in ("process_request", "run_inference", "process_response"):
        count = total(f"{stage}_latency_milliseconds_count")
        assert count == total("inference_batch_size_count") > 0
        assert total(f"{stage}_latency_milliseconds_sum") > 0
    service.terminate()
    assert service.exit_code() == 0
    assert service.log_lines == []


def test_max_requests_replaces_workers_and_loses_nothing(launch: Launch) -> None:
    service = launch.gunicorn(
        "scripted", "--max-requests", "200", "--max-requests-jitter", "50", workers=2
    )
    load = ClosedLoop(service, 12, MANY)
    answered: Counter[int] = Counter()
    workers: set[int] = set()
    for number, answer in load:
        assert answer.status == 200, answer.body
        assert answer.json() == {"data": [2 * number], "error": None}
        answered[number] += 1
        if load.answered % 100 == 0:
            workers |= service.workers()
            if len(workers) >= 6:
                load.end()
    assert len(workers) >= 6
    assert answered == Counter(range(load.answered))
    assert Counter(n for call in service.calls() for n in call) == answered, "each was run once"
    service.terminate()
    assert service.exit_code() == 0
    assert no_traceback(service)


def test_max_requests_with_a_connection_a_request_loses_nothing(launch: Launch) -> None:
    service = launch.gunicorn("scripted", "--max-requests", "50", workers=2)
    workers: set[int] = set()
    number = 0
    while len(workers) < 5 and number < MANY:
        with service.wire() as wire:
            wire.post("/", json.dumps({"data": [number]}), "connection: close\r\n")
            assert wire.answer().json()["data"] == [2 * number]
        number += 1
        workers |= service.workers()
    assert len(workers) >= 5


def test_max_requests_costs_a_client_with_idle_connections_nothing(launch: Launch) -> None:
    service = launch.gunicorn("scripted", "--max-requests", "150", workers=2)
    workers: set[int] = set()
    with HttpClient(service.address) as client:
        for _ in range(12):
            # Threads leave their connections idle at instants of all kinds.
            bundle = client.post_bundle([HttpMessage(data=[n]) for n in range(200)])
            assert [answer.error for answer in bundle] == [None] * 200
            assert [answer.data for answer in bundle] == [[2 * n] for n in range(200)]
            workers |= service.workers()
    assert len(workers) >= 4


def test_sigterm_under_load_answers_all_that_was_sent(launch: Launch) -> None:
    service = launch.gunicorn("scripted", workers=2)
    load = ClosedLoop(service, 16, MANY, reconnects=False)
    answered: Counter[int] = Counter()
    for number, answer in load:
        assert answer.status == 200
        assert answer.json()["data"] == [2 * number]
        answered[number] += 1
        if load.answered == 1_000:
            service.terminate()
    assert answered == Counter(range(load.answered))
    assert 1_000 <= load.answered < MANY
    assert service.exit_code() == 0
    assert no_traceback(service)


def test_sigterm_while_the_handler_works_answers_what_waits(launch: Launch) -> None:
    service = launch.gunicorn("scripted")
    wires = service.open_wires(8)
    blocked = service.block()
    # The system has accepted these, and the worker has not.
    wires += [service.wire() for _ in range(8)]
    for n, wire in enumerate(wires):
        wire.post("/", json.dumps({"data": [n]}))
    service.terminate()
    time.sleep(0.2)  # so that the worker most likely knows of its end
    service.set("go")
    assert blocked.answer().json()["data"] == ["waitwait"]
    for n, wire in enumerate(wires):
        answer = wire.answer()
        assert (answer.status, answer.json()["data"]) == (200, [2 * n])
    assert service.exit_code() == 0


def test_sighup_reloads_the_program_under_load_and_loses_nothing(launch: Launch) -> None:
    service = launch.gunicorn("reloaded", workers=2)
    assert service.ask(1).json()["data"] == [2]
    program = service.folder / "server.py"
    program.write_text(program.read_text().replace("FACTOR = 2", "FACTOR = 3"))
    before: set[int] = set()
    factors: Counter[int] = Counter()
    load = ClosedLoop(service, 8, MANY)
    for number, answer in load:
        assert answer.status == 200
        (product,) = answer.json()["data"]
        if number:
            factors[product // number] += 1
            assert product in (2 * number, 3 * number)
        if load.answered == 300:
            before = service.workers()
            service.signal(signal.SIGHUP)
        if factors[3] > 500 and load.answered % 100 == 0 and not before & service.workers():
            load.end()
        assert load.answered < MANY
    assert set(factors) == {2, 3}
    assert service.process.poll() is None
    assert no_traceback(service)


def test_preloaded_nothing_runs_before_the_workers_do(launch: Launch) -> None:
    first = free_port()
    service = launch.gunicorn("preloaded", "--preload", workers=2, env={"METRICS_PORT": str(first)})
    text = (service.folder / "imports").read_text()
    imported = [json.loads(line) for line in text.splitlines()]
    assert imported == [[service.process.pid, 1]], "once, with no thread but the main one"

    def scraped() -> list[float]:
        # Somebody else may be on a port of these, too.
        found = [scrape(first + n).get("pid") for n in range(6)]
        return [pid for pid in found if pid in service.workers()]

    eventually(lambda: len(set(scraped())) == len(scraped()) == 2, "two ports")
    assert answers_of(ClosedLoop(service, 8, 200)) == Counter(range(200))


def test_bounds_of_connections(launch: Launch) -> None:
    service = launch.gunicorn("scripted", "--worker-connections", "4", "--keep-alive", "4")
    began = time.monotonic()
    service.open_wires(1)  # first, so that the probe which found it listening is gone
    *_, last = service.open_wires(3)
    with service.wire() as beyond:
        beyond.post("/", '{"data": [1]}')
        assert beyond.answer().status == 503
    assert last.is_closed()
    assert time.monotonic() - began > 3.8, "gunicorn's own is two seconds"
    assert service.ask(2).json()["data"] == [4]


def test_graceful_timeout_ends_what_does_not_end(launch: Launch) -> None:
    service = launch.gunicorn("scripted", "--graceful-timeout", "1", workers=2)
    with service.wire() as slow, service.wire() as hung:
        (fast,) = service.open_wires(1)
        slow.send('POST / HTTP/1.1\r\nhost: x\r\ncontent-length: 100\r\n\r\n{"data": ')
        hung.post("/", '{"data": ["hang"]}')
        eventually(lambda: ["hang"] in service.calls(), "the handler to hang")
        began = time.monotonic()
        service.terminate()
        # Thirty seconds are gunicorn's own.
        assert service.exit_code(WAIT_S) == 0
        assert time.monotonic() - began > 0.9
        assert fast.is_closed()


def test_a_worker_that_hangs_is_replaced_after_the_timeout(launch: Launch) -> None:
    service = launch.gunicorn("scripted", "--timeout", "4")
    (hung,) = service.open_wires(1)
    before = service.workers()
    assert len(before) == 1
    hung.post("/", '{"data": ["hang"]}')
    eventually(lambda: service.workers() and not service.workers() & before, "another worker")
    assert hung.is_closed()
    assert service.ask(2).json()["data"] == [4]


def test_a_worker_that_dies_is_replaced(launch: Launch) -> None:
    service = launch.gunicorn("scripted")
    (fatal,) = service.open_wires(1)
    before = service.workers()
    fatal.post("/", '{"data": ["die"]}')
    assert fatal.is_closed()
    eventually(lambda: service.workers() and not service.workers() & before, "another worker")
    assert service.ask(2).json()["data"] == [4]


def test_limit_request_fields_bounds_the_headers(launch: Launch) -> None:
    service = launch.gunicorn("scripted", "--limit-request-fields", "12")
    few = {f"x-{n}": "1" for n in range(3)}
    many = {f"x-{n}": "1" for n in range(12)}
    assert service.request("POST", "/", json={"data": [1]}, headers=few).status_code == 200
    assert service.request("POST", "/", json={"data": [1]}, headers=many).status_code == 431


def test_metrics_that_cannot_be_served_end_gunicorn_at_its_start(launch: Launch) -> None:
    service = launch.gunicorn(
        "service_x",
        "--log-level",
        "error",
        env={
            "SPELLING": "metrics",
            "METRICS_MODE": "scrape",
            "METRICS_HOST": "192.0.2.1",  # of no machine
            "METRICS_PORT": str(free_port()),
        },
    )
    assert service.exit_code() == 3
    assert any("metrics_host" in line for line in service.log_lines)
