"""Workers replaced on purpose, and more or fewer of them, under load."""

from __future__ import annotations

import logging
import signal
import statistics
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import pytest

from tests.e2e.conftest import Serve, Served, eventually
from tests.faults.client import Load, Log
from tests.faults.conftest import rounds, seconds
from tests.faults.watch import held, noted, workers

pytestmark = pytest.mark.slow

_log = logging.getLogger(__name__)

RESTARTS = "headrace_replica_restarts_total"
LEAST_RATIO = 0.75
"""Of the throughput without recycling; on a quiet machine it is above 0.9."""


@contextmanager
def counting(server: Served) -> Iterator[list[int]]:
    """How many workers there are, again and again until the end."""
    counts: list[int] = []
    is_over = threading.Event()

    def watch() -> None:
        while not is_over.wait(0.01):
            counts.append(len(workers(server)))

    thread = threading.Thread(target=watch)
    thread.start()
    try:
        yield counts
    finally:
        is_over.set()
        thread.join()


def roll(serve: Serve) -> None:
    """Replace workers under load."""
    server = serve("Steady", replicas=2, workers__recycle_after_items=200)
    log, before = Log(server), held(server)
    with counting(server) as counts, Load(log, 32) as load:
        load.rate(seconds(3.0))
    load.check()
    log.check()
    recycled = server.metric(RESTARTS, reason="recycled")
    _log.info("%d answers, %d recycled, at most %d", len(load.got), recycled, max(counts))
    assert recycled >= 3
    assert max(counts) == 3, "of two replicas"
    assert server.metric(RESTARTS) == recycled
    eventually(lambda: len(workers(server)) == 2, "the old one to be gone")
    eventually(lambda: held(server) == before, f"as before: {before}")


@pytest.mark.row("I8")
def test_rolling_replacement_fails_no_request_and_takes_one_worker_more_at_most(
    serve: Serve,
) -> None:
    roll(serve)


def test_rolling_replacement_costs_little_throughput(serve: Serve) -> None:
    more: dict[str, Any] = {"replicas": 2, "batching__max_batch_size": 1}
    servers = [serve("Steady", workers__recycle_after_items=items, **more) for items in (0, 300)]
    rates: list[list[float]] = [[], []]
    for _ in range(3):
        for server, its_rates in zip(servers, rates, strict=True):
            with Load(Log(server), 8) as load:
                load.rate(0.2)
                its_rates.append(load.rate(seconds(3.0) / 4))
            load.check()
    without, recycled = map(statistics.median, rates)
    _log.info("%.0f a second, with recycling %.0f: %.2f", without, recycled, recycled / without)
    assert servers[1].metric(RESTARTS, reason="recycled") >= 1
    assert recycled > LEAST_RATIO * without


def test_one_that_leaks_is_replaced_when_it_has_grown_too_large(serve: Serve) -> None:
    server = serve("Leaky", workers__recycle_memory_bytes=150 << 20)
    log = Log(server)
    with Load(log, 16) as load:
        eventually(lambda: server.metric(RESTARTS, reason="recycled") >= 2, "two to be replaced")
    load.check()
    log.check()
    assert server.metric(RESTARTS) == server.metric(RESTARTS, reason="recycled")
    assert len(set(noted(server, "loads"))) == len(noted(server, "unloads")) + 1


def states(server: Served) -> list[str]:
    replicas: list[dict[str, Any]] = server.get("/readyz").json()["models"]["faulty"]["replicas"]
    return [replica["state"] for replica in replicas]


def are(server: Served, wanted: list[str]) -> bool:
    return states(server) == wanted


def test_replicas_grow_and_shrink_by_signal_and_no_request_fails(serve: Serve) -> None:
    server = serve("Faulty")
    log, before = Log(server), held(server)
    with Load(log, 32, {"s": 0.005}) as load:
        for _ in range(rounds(2)):
            for number, count in ((signal.SIGTTIN, 2), (signal.SIGTTIN, 3)):
                server.signal(number)
                eventually(partial(are, server, ["ready"] * (count - 1) + ["starting"]), "more")
                eventually(partial(are, server, ["ready"] * count), "ready")
            for number, count in ((signal.SIGTTOU, 2), (signal.SIGTTOU, 1)):
                server.signal(number)
                eventually(partial(are, server, ["ready"] * count), "one fewer")
        server.signal(signal.SIGTTOU)
        load.rate(0.2)
        assert states(server) == ["ready"], "never none"
    load.check()
    log.check()
    eventually(lambda: len(workers(server)) == 1, "the others to be gone")
    assert server.metric(RESTARTS) == server.metric(RESTARTS, reason="scaled") == 2 * rounds(2)
    eventually(lambda: held(server) == before, f"as before: {before}")


def test_a_worker_that_starts_when_it_is_no_longer_wanted_is_gone(serve: Serve) -> None:
    server = serve("SlowSecond")
    server.signal(signal.SIGTTIN)
    eventually(lambda: len(noted(server, "loads")) == 2, "it to load")
    server.signal(signal.SIGTTOU)
    eventually(lambda: len(workers(server)) == 1, "it to be gone")
    assert server.predict(3).json() == 6
    eventually(lambda: server.metric(RESTARTS, reason="scaled") == 1, "its count")
    time.sleep(0.1)
    assert server.get("/readyz").json()["models"]["slow-second"]["replicas"] == [
        {"replica": 0, "state": "ready", "reason": ""}
    ]
