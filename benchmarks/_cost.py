"""What a request costs a headrace of its own process: processor time, to the nanosecond."""

from __future__ import annotations

import contextlib
import json
import os
import re
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from _processes import ProcessTree, children, free_port, rss_bytes, running, wait_until
from _serving import ROOT, Connection, get
from _wrk import Load, load

START_S = 60.0
AT_ONCE = 1000
"""Connections that one wrk opens."""
OPENING_S = 5
"""What the last of them may take: one that found no place in the listener's queue tries again."""
_ANSWERED = re.compile(r'^headrace_http_requests_total\{.*status="200"\} (\S+)$', re.MULTILINE)


@dataclass(frozen=True)
class Cost:
    """What came of a closed loop.

    Attributes:
        answers: How many.
        per_second: The same, a second.
        p50_us: Half of them took at most this.
        p99_us: 99 % of them.
        front_us: Processor time an answer of the process that speaks HTTP.
        workers_us: That of the processes that it started.
    """

    answers: int
    per_second: float
    p50_us: float
    p99_us: float
    front_us: float
    workers_us: float

    @property
    def cpu_us(self) -> float:
        """Of all the server's processes."""
        return self.front_us + self.workers_us


@dataclass(frozen=True)
class Headrace:
    """A server that is ready.

    Attributes:
        tree: Its processes.
        port: On 127.0.0.1.
    """

    tree: ProcessTree
    port: int

    @property
    def rss_bytes(self) -> int:
        """Of the process that speaks HTTP."""
        return rss_bytes(self.tree.pid)

    @property
    def front_s(self) -> float:
        """User and system time so far of the process that speaks HTTP."""
        return cpu_s(self.tree.pid)

    @property
    def workers_s(self) -> float:
        """User and system time so far of the processes that it started."""
        return sum(map(cpu_s, children(self.tree.pid)))

    def get(self, path: str) -> bytes:
        """The page at a path."""
        with urllib.request.urlopen(f"http://127.0.0.1:{self.port}{path}", timeout=30) as page:
            body: bytes = page.read()
            return body

    def cost(self, requests: Sequence[bytes], *, connections: int, seconds: int) -> Cost:
        """What requests cost, in a closed loop of so many connections."""
        before = Mark(0, time.monotonic(), self.front_s, self.workers_s)
        found = self._load(requests, connections, seconds)
        after = Mark(found.answers, before.at + found.took_s, self.front_s, self.workers_s)
        return between(before, after, found)

    def settled_cost(self, requests: Sequence[bytes], *, connections: int, seconds: int) -> Cost:
        """The same, once all connections are open, of which there may be very many.

        Each thousand has a wrk of its own, a second after the one before: a listener's queue does
        not hold many more. Answers are counted by the server, whose metrics are read at both ends.

        Raises:
            Failed: A request failed, or not all connections could be opened.
        """
        shares = [AT_ONCE] * (connections // AT_ONCE) + [connections % AT_ONCE]
        shares = [share for share in shares if share]
        # Made first: a new connection would wait behind those of the load.
        with closing(Connection(self.port)) as own, ThreadPoolExecutor(len(shares)) as others:
            self._mark(own)  # one that has not been used is closed soon
            loads = []
            for number, share in enumerate(shares):
                left_s = len(shares) - number + OPENING_S + seconds + 1
                loads.append(others.submit(self._load, requests, share, left_s))
                time.sleep(1)
            wait_until(lambda: self._open_files > connections, within_s=OPENING_S)
            before = self._mark(own)
            time.sleep(seconds)
            after = self._mark(own)
            return between(before, after, loads[0].result())

    @property
    def _open_files(self) -> int:
        return len(os.listdir(f"/proc/{self.tree.pid}/fd"))

    def _load(self, requests: Sequence[bytes], connections: int, seconds: int) -> Load:
        return load(
            self.port,
            requests,
            connections=connections,
            seconds=seconds,
            cpu_s=lambda: 0.0,  # it is read here, and more finely
        )

    def _mark(self, connection: Connection) -> Mark:
        _, page = connection.ask(get("/metrics"))
        counts = _ANSWERED.findall(page.decode())
        return Mark(sum(map(float, counts)), time.monotonic(), self.front_s, self.workers_s)


class Mark(NamedTuple):
    """What a server has done and taken by an instant."""

    answers: float
    at: float
    front_s: float
    workers_s: float


def between(before: Mark, after: Mark, found: Load) -> Cost:
    """What the answers between two marks cost; latencies are those of one whole load."""
    answers = after.answers - before.answers
    return Cost(
        answers=round(answers),
        per_second=answers / (after.at - before.at),
        p50_us=1e6 * found.p50_s,
        p99_us=1e6 * found.p99_s,
        front_us=1e6 * (after.front_s - before.front_s) / answers,
        workers_us=1e6 * (after.workers_s - before.workers_s) / answers,
    )


def cpu_s(pid: int) -> float:
    """User and system time of a living process so far."""
    return time.clock_gettime(~pid << 3 | 2)  # its clock's id, as clock_getcpuclockid has it


@contextlib.contextmanager
def headrace(targets: Sequence[str], *options: str) -> Iterator[Headrace]:
    """`headrace serve` until the block ends.

    Raises:
        Failed: It did not become ready.
    """
    with tempfile.NamedTemporaryFile() as log:
        port = free_port()
        command = [sys.executable, "-m", "headrace", "serve", *targets, f"--port={port}", *options]
        with running(command, env={}, cwd=ROOT, log=Path(log.name)) as tree:
            server = Headrace(tree, port)
            wait_until(lambda: _is_ready(server), within_s=START_S)
            yield server


def _is_ready(server: Headrace) -> bool:
    server.tree.check()
    with contextlib.suppress(OSError):  # it does not listen, or says that it is not ready
        return bool(json.loads(server.get("/readyz"))["ready"])
    return False
