"""Overload: what can be answered in time is, and who goes without learns it at once."""

from __future__ import annotations

import json
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from headrace import LoadResult, LoadSettings, run_load_test
from tests.e2e.conftest import Served, eventually, starter
from tests.faults.conftest import HTTP_MODELS, IS_LONG, MIB, seconds
from tests.faults.contract import LATE_S, Client, Contract, by, message
from tests.faults.defences import without
from tests.faults.report import repeated
from tests.faults.watch import rss_bytes

pytestmark = pytest.mark.slow

MODELS = Path(__file__).with_name("overload_models.py")
CANARY = f"{HTTP_MODELS}:Canary"
BATCH_ITEMS, PER_SECOND = 8, 100.0
DEADLINE_S = 1.0
LOAD = 10.0
WARM_S = 1.5
"""Until the queue is as long as it will be."""
ROOM = 1.0 if IS_LONG else 0.7
"""How much of the capacity a short run may use, of which a busy machine takes its share."""
EXPIRED = 0.1
"""How many of those that are let wait may wait in vain."""
SOON_S = 0.01


@contextmanager
def served(way: str, *names: str, env: Any = None, **settings: Any) -> Iterator[Served]:
    servers: list[Served] = []
    with tempfile.TemporaryDirectory(prefix="hr-") as folder:
        try:
            start = starter(Path(folder), servers, MODELS)
            yield start(*names, CANARY, env=env, **settings | by(way))
            servers[0].terminate()
            assert servers[0].exit_code() == 0
        finally:
            for each in servers:
                each.stop()


@contextmanager
def contracted(way: str, *names: str, **settings: Any) -> Iterator[Contract]:
    with served(way, *names, **settings) as server:
        contract = Contract(server, way)
        try:
            yield contract
        except BaseException:
            with suppress(AssertionError):
                contract.close()
            raise
        contract.close()


# Ten times the capacity


def flood(server: Served, for_s: float) -> LoadResult:
    """Ask ten times what the model can do, open loop."""
    rate = LOAD * PER_SECOND
    settings = LoadSettings(
        requests_per_second=rate,
        poisson_seed=1,
        max_connections=500,
        timeout_s=60.0,
        headers={"X-Request-Timeout": f"{DEADLINE_S:g}"},
    )
    bodies = [b"%d" % n for n in range(int(rate * for_s))]
    return run_load_test(f"{server.address}/models/slow/predict", bodies, settings, progress=False)


class Work(NamedTuple):
    """What a model has done: the time of its batches, how many there were, and their items."""

    seconds: float
    batches: float
    items: float


def work(server: Served) -> Work:
    names = (
        "headrace_batch_seconds_sum",
        "headrace_batch_seconds_count",
        "headrace_batch_items_sum",
    )
    return Work(*(server.metric(name, model="slow") for name in names))


def check_overload(server: Served, for_s: float) -> LoadResult:
    """What the row promises, but for memory."""
    before = work(server)
    found = flood(server, for_s)
    done = Work(*(new - old for new, old in zip(work(server), before, strict=True)))
    good, expired, refused = 0, 0, []
    for n, (planned, ended) in enumerate(zip(found.planned_s, found.ended_s, strict=True)):
        answer = found[n]
        if answer.status != 503:
            assert ended - found.sent_s[n] <= DEADLINE_S + LATE_S, "past its deadline"
        if answer.status == 200:
            assert json.loads(answer.body) == n
            good += ended - planned <= DEADLINE_S + LATE_S
            continue
        code = json.loads(answer.body)["code"]
        if answer.status == 504:
            assert code == "deadline_exceeded"
            expired += 1
        else:
            assert (answer.status, code) == (503, "overloaded")
            refused.append(ended - planned)
    assert expired <= EXPIRED * (good + expired), (good, expired)
    # What the model did was for somebody, and it did as much as it could; how long a batch takes
    # is measured, and that the machine may have other work between two of them is allowed for.
    capacity = BATCH_ITEMS * done.batches / done.seconds
    assert good >= 0.9 * done.items, (good, done)
    assert good / max(found.ended_s) >= 0.9 * ROOM * capacity, (good, capacity)
    assert sorted(refused)[len(refused) // 2] <= SOON_S + LATE_S / 10
    assert sorted(refused)[int(0.99 * len(refused))] <= SOON_S + LATE_S
    return found


@pytest.mark.row("G1")
def test_ten_times_the_capacity_is_answered_as_far_as_it_goes(way: str) -> None:
    with contracted(way, "Slow") as contract, contract.watch() as client:
        server = contract.server
        for_s = WARM_S + seconds(2.5)
        account(client, flood(server, WARM_S))
        memory = rss_bytes(server)
        account(client, check_overload(server, for_s))
        assert rss_bytes(server) - memory <= 8 * MIB
        check_refusal(client)


def check_refusal(client: Client) -> None:
    """Who has no time for what waits is refused soon, and told when to come again."""
    wires = [client.wire() for _ in range(8 * BATCH_ITEMS)]
    for wire in wires:
        wire.send(message("/models/slow/predict", "1"))
    name = "headrace_queue_items"
    eventually(lambda: client.server.metric(name, model="slow") > BATCH_ITEMS, "items to wait")
    hasty, began = client.wire(), time.monotonic()
    hasty.send(message("/models/slow/predict", "2", "x-request-timeout: 0.05\r\n") * BATCH_ITEMS)
    for _ in range(BATCH_ITEMS):
        refused = hasty.answer()
        assert (refused.status, refused.code) == (503, "overloaded")
        assert int(refused.headers["retry-after"]) >= 1
    assert time.monotonic() - began <= SOON_S + LATE_S
    for wire in wires:
        assert wire.answer().status == 200


def account(client: Client, found: LoadResult) -> None:
    """Put a load test into a row's log."""
    repeated(len(found))
    for answer in found:
        client.statuses[answer.status] += 1
        if answer.status >= 400:
            client.codes[json.loads(answer.body)["code"]] += 1
    client.abandon(0, len(found.errors))  # their records have ids that we do not know


@pytest.mark.counter("G1")
def test_without_an_estimate_of_the_wait_nearly_nothing_is_in_time() -> None:
    env = without("who would be late is refused")
    with served("fast", "Slow", env=env) as server:
        with pytest.raises(AssertionError):
            check_overload(server, WARM_S + 2.0)


# Five thousand at once

CONNECTIONS, EACH = 500, 10


def ask_at_once(client: Client, timeout_s: float | None = None) -> None:
    """Send ten requests on each of 500 connections, and read an answer to each."""
    wires = [client.wire() for _ in range(CONNECTIONS)]
    ten = b"".join(message("/models/flooded/predict", str(n)) for n in range(EACH))
    for wire in wires:
        wire.send(ten)
    for wire in wires:
        if timeout_s is not None:
            wire.socket.settimeout(timeout_s)
        for n in range(EACH):
            answer = wire.answer()
            assert answer.status == 503 or (answer.status, answer.json()) == (200, n)


@pytest.mark.row("G2")
def test_five_thousand_at_once_are_each_answered(way: str) -> None:
    with contracted(way, "Flooded") as contract, contract.watch() as client:
        ask_at_once(client)
        assert client.statuses[200] >= 1000
        # Their records name ids that only the answers had: those are known.
        repeated(CONNECTIONS * EACH)


@pytest.mark.counter("G2")
def test_if_nobody_tells_the_refused_they_wait_for_ever() -> None:
    env = without("who is refused is told")
    with served("fast", "Flooded", env=env, limits__max_queue_items=64) as server:
        with Client(server) as client, pytest.raises(TimeoutError):
            ask_at_once(client, timeout_s=3.0)
