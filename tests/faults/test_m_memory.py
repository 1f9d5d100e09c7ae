"""Memory over many requests and many clients that vanish, and what proves that growth is noticed.

FAULT_REQUESTS and FAULT_DISCONNECTS say how many: a few thousand by default, 8,000,000 and
100,000 in the long version: of fewer requests, a byte for each is less than the usual slack.
"""

from __future__ import annotations

import json
import logging
import os
import subprocess
import sys
from collections import Counter
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.conftest import Serve, Served, eventually
from tests.faults.conftest import ECHO, IS_LONG
from tests.faults.contract import WAYS, by, is_within, told
from tests.faults.defences import without
from tests.faults.report import repeated
from tests.faults.watch import SLACK_BYTES, Held, held, rss_bytes, workers

pytestmark = pytest.mark.slow

_log = logging.getLogger(__name__)

FLOOD = Path(__file__).with_name("flood.py")
CLIENTS = max(2, min(8, (os.cpu_count() or 2) // 2))
STEPS = 8
"""Memory is looked at so often; the first quarter is for warmth."""
MAX_SLOPE = 1.0
"""Bytes a request, where that is more than the usual slack."""


def times(name: str, few: int, many: int) -> int:
    """How many each way: their sum is told by a variable, or by the version."""
    in_all = int(os.environ.get(name, many if IS_LONG else few))
    return repeated(in_all // len(WAYS))


def flood(server: Served, how: str, count: int, step: int) -> Counter[str]:
    """Let several clients do so many together; what they tell, together."""
    host, port = server.host_and_port
    share = max(1, count // CLIENTS)
    processes = [
        subprocess.Popen(
            [sys.executable, FLOOD, how, host, str(port), str(share), str(step * CLIENTS + seed)],
            stdout=subprocess.PIPE,
            text=True,
        )
        for seed in range(CLIENTS)
    ]
    outputs = [process.communicate()[0] for process in processes]
    assert [process.returncode for process in processes] == [0] * CLIENTS
    return sum((Counter(json.loads(output)) for output in outputs), Counter[str]())


def memory(server: Served) -> dict[str, int]:
    """Of the server and of its workers."""
    each = {"server": rss_bytes(server)}
    for pid in workers(server):
        pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
        each["workers"] = each.get("workers", 0) + pages * os.sysconf("SC_PAGE_SIZE")
    return each


def grows_by(server: Served, how: str, count: int) -> tuple[Counter[str], dict[str, float]]:
    """Flood in steps; what was told, and the growth of memory from a quarter on to the end."""
    done, samples = Counter[str](), []
    for step in range(STEPS):
        done += flood(server, how, count // STEPS, step)
        eventually(lambda: not told(server).in_flight, "none in flight")
        samples.append(memory(server))
    first, last = samples[STEPS // 4 - 1], samples[-1]
    grown = {name: last[name] - first[name] for name in first}
    _log.info("%s %s: %s, memory %s, grown by %s", how, count, dict(done), last, grown)
    return done, dict(grown)


def check_flat(grown: dict[str, float], count: int) -> None:
    allowed = max(SLACK_BYTES, MAX_SLOPE * count * (1 - 1 / 4))
    assert all(size <= allowed for size in grown.values()), f"memory grows by {grown}"


WARM = Counter({"200": 1, "400": 1})
"""The answers that a server has given before."""


def started(serve: Serve, way: str) -> Served:
    """A server that has all that it makes when it is asked first."""
    settings: dict[str, Any] = by(way)
    server = serve(ECHO, **settings)
    assert server.post("/predict", 1).status_code == 200
    assert server.request("POST", "/predict", content=b"{").status_code == 400
    return server


def check_freed(server: Served, before: Held) -> None:
    with suppress(AssertionError):
        eventually(lambda: is_within(held(server), before), "all to be freed")
    assert is_within(now := held(server), before), (now, before)


@pytest.mark.row("M1")
@pytest.mark.parametrize("way", WAYS)
def test_memory_is_flat_over_as_many_good_requests_as_bad_ones(serve: Serve, way: str) -> None:
    count = times("FAULT_REQUESTS", 8_000, 8_000_000)
    server = started(serve, way)
    before = held(server)
    done, grown = grows_by(server, "ask", count)
    assert set(done) == {"200", "400"}
    assert {str(status): n for status, n in told(server).statuses.items()} == done + WARM
    check_flat(grown, count)
    check_freed(server, before)


@pytest.mark.row("M3")
@pytest.mark.parametrize("way", WAYS)
def test_of_clients_that_vanish_anywhere_nothing_is_left(serve: Serve, way: str) -> None:
    count = times("FAULT_DISCONNECTS", 2_000, 100_000)
    server = started(serve, way)
    before = held(server)
    _, grown = grows_by(server, "vanish", count)
    check_freed(server, before)
    now = told(server)
    assert (now.in_flight, any(now.gauges.values())) == (0, False)
    check_flat(grown, count)
    assert server.post("/predict", 7).json() == 7


# They fail where something is kept


@pytest.mark.counter("M1", "M4")
def test_a_build_that_keeps_requests_is_noticed(serve: Serve) -> None:
    server = serve(ECHO, env=without("an answered request is forgotten"))
    _, grown = grows_by(server, "ask", 8_000)
    with pytest.raises(AssertionError, match="memory grows"):
        check_flat(grown, 8_000)


@pytest.mark.counter("M3", "M4")
def test_a_build_that_keeps_connections_is_noticed(serve: Serve) -> None:
    server = serve(ECHO, env=without("a connection is forgotten"))
    _, grown = grows_by(server, "vanish", 2_000)
    with pytest.raises(AssertionError, match="memory grows"):
        check_flat(grown, 2_000)
