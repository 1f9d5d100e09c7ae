"""Ten thousand workers die, one after another, and nothing of them is left.

FAULT_DEATHS says how many, FAULT_SERVERS on how many servers side by side. Workers are killed with
SIGKILL, or told by an item to end themselves, under light traffic: whoever had an item of theirs
gets its answer all the same.
"""

from __future__ import annotations

import logging
import math
import os
import random
import time
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from typing import Any, NamedTuple

import pytest

from tests.e2e.conftest import Served, eventually
from tests.faults.client import Got, Load, Log
from tests.faults.conftest import IS_LONG, LONG_TIMEOUT_S, MODELS, served_anyhow
from tests.faults.contract import is_within
from tests.faults.defences import without
from tests.faults.report import repeated
from tests.faults.watch import (
    SLACK_BYTES,
    Held,
    held,
    kill,
    lives,
    rss_bytes,
    state_of,
    tree,
    workers,
)

pytestmark = pytest.mark.slow

_log = logging.getLogger(__name__)

RESTARTS = "headrace_replica_restarts_total"
REPLICAS = 4
WARM = 4
BYTES_A_DEATH = 128
"""What the server's memory may grow by for each death, beyond the slack."""
ORDER = {"s": 0.02}
POISON_EACH = 4
"""Of so many deaths one is by an item."""


def deaths(few: int) -> int:
    """How many workers are to die: a few, 10,000 in the long version, or FAULT_DEATHS."""
    return int(os.environ.get("FAULT_DEATHS", 10_000 if IS_LONG else few))


def servers() -> int:
    """On how many servers at once: half as many as there are processors, or FAULT_SERVERS."""
    return int(os.environ.get("FAULT_SERVERS", max(1, len(os.sched_getaffinity(0)) // 2)))


class State(NamedTuple):
    """What a server holds when all of its workers are there and idle."""

    held: Held
    rss: int


def at_rest(server: Served) -> State:
    """What it holds, once every replica is ready, and nothing runs."""
    ready = "headrace_replicas_ready"
    eventually(lambda: server.metric(ready) == REPLICAS, "all to be ready", 60.0)
    eventually(lambda: server.metric("headrace_running_items") == 0, "nothing to run")
    eventually(lambda: len(workers(server)) == REPLICAS, "no worker more")
    return State(held(server), rss_bytes(server))


class Reaper:
    """Ends workers of one server, and keeps account.

    Args:
        server: Whose workers.
        seed: Of its choices.

    Attributes:
        killed: How many it has killed.
        poisoned: How many have ended themselves, told to by an item.
    """

    def __init__(self, server: Served, seed: int) -> None:
        self._server = server
        self._random = random.Random(seed)
        self._ended: set[int] = set()
        self._loaded: set[int] = set()
        self._read = 0
        self.killed = 0
        self.poisoned = 0

    def end(self, count: int) -> None:
        """End so many, one after another, while at least half of them are there."""
        for number in range(count):
            pids = eventually(self._enough, "workers to be there", 60.0)
            if number % POISON_EACH == 0:
                answer = self._server.predict(1, do="preprocess: exit")
                assert (answer.status_code, answer.json()["code"]) == (500, "replica_lost")
                self.poisoned += 1
            else:
                pid = self._random.choice(pids)
                kill(pid)
                self._ended.add(pid)
                self.killed += 1

    def _enough(self) -> list[int] | None:
        """The workers that have loaded their model, if they are more than half."""
        self._read_loads()
        # A number may come again. The system's list of children can miss one while others end.
        self._loaded = set(filter(state_of, self._loaded))
        self._ended = set(filter(state_of, self._ended))
        alive = sorted(filter(lives, self._loaded - self._ended))
        return alive if len(alive) > REPLICAS // 2 else None

    def _read_loads(self) -> None:
        """Which workers have loaded their model since it was last asked."""
        with (self._server.folder / "loads").open("rb") as file:
            file.seek(self._read)
            lines = file.read()
        whole = lines[: lines.rfind(b"\n") + 1]
        self._read += len(whole)
        self._loaded |= {int(pid) for pid in whole.split()}


def soak(
    count: int, seed: int, env: Mapping[str, str] | None = None, settle_s: float = 10.0
) -> float:
    """So many deaths on one server; how many there were in a second."""
    # One item to a batch, so that each worker has its share.
    settings: dict[str, Any] = {"replicas": REPLICAS, "batching__max_batch_size": 1, "env": env}
    with served_anyhow(MODELS, "Faulty", **settings) as server:
        log, reaper = Log(server), Reaper(server, seed)
        with Load(log, REPLICAS, ORDER) as load:
            reaper.end(WARM)
        before = at_rest(server)
        began = time.monotonic()
        with Load(log, REPLICAS, ORDER) as more:
            reaper.end(count)
        took_s = time.monotonic() - began
        after = eventually_as(server, before, settle_s)
        check_answers([*load.got, *more.got], [*load.lost, *more.lost], WARM + count)
        log.statuses[500] += reaper.poisoned
        log.check()
        check_counters(server, reaper)
        grown = after.rss - before.rss
        _log.info("%d deaths in %.0f s, memory %+d KiB", count, took_s, grown >> 10)
        assert grown <= SLACK_BYTES + BYTES_A_DEATH * count, "memory grows"
        server.terminate()
        assert server.exit_code(60.0) == 0
        assert not tree(server)
    return count / took_s


def eventually_as(server: Served, before: State, settle_s: float) -> State:
    """What it holds in the end: no zombie, descriptor, thread or file more than before."""
    with suppress(AssertionError):
        eventually(lambda: is_within(at_rest(server).held, before.held), "as before", settle_s)
    after = at_rest(server)
    assert is_within(after.held, before.held), (after.held, before.held)
    return after


def check_answers(got: list[Got], lost: list[str], died: int) -> None:
    """All were answered; only an item that met two deaths, of a few, was not served."""
    wrong = [each for each in got if not each.is_right]
    assert lost == []
    assert {each.code for each in wrong} <= {"replica_lost"}, wrong[:5]
    assert len(wrong) <= 2 + died // 20, wrong[:5]


def check_counters(server: Served, reaper: Reaper) -> None:
    told = {reason: server.metric(RESTARTS, reason=reason) for reason in ("killed", "exited")}
    assert told == {"killed": reaper.killed, "exited": reaper.poisoned}
    assert server.metric(RESTARTS) == reaper.killed + reaper.poisoned


@pytest.mark.row("M2")
@pytest.mark.timeout(4 * LONG_TIMEOUT_S)  # as long as it is told
def test_thousands_of_deaths_leave_nothing_behind() -> None:
    count, side_by_side = deaths(12), servers()
    each = max(8, math.ceil(count / side_by_side))
    repeated(each * side_by_side)
    with ThreadPoolExecutor(side_by_side) as pool:
        rates = [*pool.map(soak, [each] * side_by_side, range(side_by_side))]
    _log.info(
        "%d deaths on %d servers, %.1f a second", each * side_by_side, side_by_side, sum(rates)
    )


@pytest.mark.counter("M2")
def test_descriptors_of_the_dead_are_noticed() -> None:
    with pytest.raises(AssertionError):
        soak(8, 0, without("what was shared with a dead worker is given back"), settle_s=1.0)
