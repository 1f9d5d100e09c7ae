"""`headrace batching` with echo workers against mosec with the same, in one interleaved run.

    python benchmarks/jobs.py                    # 64 connections, five rounds
    python benchmarks/jobs.py --rounds 9 --seconds 5 --connections 256

CPU is user and system time a request of all the processes of a server, its workers included; the
load's own is not. The rounds of all servers alternate; the figures are medians.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import re
import statistics
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from _processes import Failed, ProcessTree, free_port, running, wait_until
from _servers import Task, mosec, started
from _serving import ROOT, Connection, get, post
from _workloads import ITEM
from _wrk import load

BATCH = 32
HERE = ROOT / "benchmarks"
START_S = 30.0
REQUEST = post("/inference", ITEM, "application/json")
# Bytes: neither side's JSON is what is measured.
TASK = Task(
    f"{HERE}/_models.py:Tensor",
    [ITEM],
    lambda _, answer: answer == ITEM,
    takes="bytes",
    gives="bytes",
    max_batch_size=BATCH,
)


class Served(NamedTuple):
    """A server with its workers.

    Attributes:
        port: On 127.0.0.1.
        trees: Its processes.
    """

    port: int
    trees: tuple[ProcessTree, ...]

    @property
    def cpu_s(self) -> float:
        """User and system time of all processes so far."""
        return sum(tree.cpu_s for tree in self.trees)


@contextlib.contextmanager
def headrace(kind: str, workers: int) -> Iterator[Served]:
    """The batching service with so many workers."""
    with tempfile.TemporaryDirectory(prefix="hr-") as name, contextlib.ExitStack() as stack:
        folder, port = Path(name), free_port()

        def start(what: str, *command: str) -> ProcessTree:
            log = folder / what
            program = [sys.executable, *command]
            return stack.enter_context(running(program, env={}, cwd=ROOT, log=log))

        path = folder / "s"
        options = ["--host", "127.0.0.1", "--port", str(port), "--address", str(path)]
        options += ["--batch", str(BATCH), "--log-level", "error"]
        trees = [start("log", "-m", "headrace", "batching", *options)]
        wait_until(path.exists, within_s=START_S)
        trees += [
            start(f"log-{number}", str(HERE / "_jobs.py"), str(path), kind)
            for number in range(workers)
        ]
        wait_until(lambda: ready_workers(port) == workers, within_s=START_S)
        check(port)
        yield Served(port, tuple(trees))


@contextlib.contextmanager
def peer(workers: int, wait_ms: int) -> Iterator[Served]:
    """Mosec with so many workers and such a window."""
    with started(mosec(wait_ms, workers), TASK) as up:
        yield Served(up.port, (up.tree,))


def ready_workers(port: int) -> int:
    try:
        connection = Connection(port)
    except OSError:
        return 0
    with contextlib.closing(connection):
        _, text = connection.ask(get("/metrics"))
    found = re.search(rb"^headrace_replicas_ready\{.*\} (\d+)", text, re.MULTILINE)
    return 0 if found is None else int(found[1])


def check(port: int) -> None:
    """Raise unless it is an echo."""
    with contextlib.closing(Connection(port)) as connection:
        status, body = connection.ask(REQUEST)
    if status != 200 or json.loads(body) != json.loads(ITEM):
        raise Failed(f"no echo: {status} {body!r}")


def drive(server: Served, connections: int, seconds: int) -> tuple[float, float, float]:
    """Answers a second, CPU microseconds an answer, and the median in milliseconds."""
    found = load(
        server.port,
        [REQUEST],
        connections=connections,
        seconds=seconds,
        cpu_s=lambda: server.cpu_s,
    )
    return found.per_second, found.cpu_us, 1e3 * found.p50_s


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=int, default=3)
    parser.add_argument("--connections", type=int, default=64)
    arguments = parser.parse_args()
    with contextlib.ExitStack() as stack:
        servers = {
            "headrace batching, 1 worker": stack.enter_context(headrace("bytes", 1)),
            "headrace batching, 2 workers": stack.enter_context(headrace("bytes", 2)),
            "headrace batching, 1 of ventu": stack.enter_context(headrace("ventu", 1)),
            "mosec, 1 worker, 5 ms": stack.enter_context(peer(1, 5)),
            "mosec, 2 workers, 5 ms": stack.enter_context(peer(2, 5)),
            "mosec, 1 worker, no window": stack.enter_context(peer(1, 0)),
        }
        names = list(servers)
        found: dict[str, list[tuple[float, float, float]]] = {name: [] for name in names}
        for number in range(arguments.rounds):
            for place in range(len(names)):
                name = names[(place + number) % len(names)]
                rate, cpu_us, _ = drive(servers[name], arguments.connections, arguments.seconds)
                found[name].append((rate, cpu_us, drive(servers[name], 1, 1)[2]))
    first = statistics.median(cpu_us for _, cpu_us, _ in found[names[0]])
    print(f"{arguments.connections} connections, batches of at most {BATCH}; medians of rounds")
    for name in names:
        rate, cpu_us, one_ms = map(statistics.median, zip(*found[name], strict=True))
        print(
            f"{name:30} {rate:8,.0f} requests/s, {cpu_us:6.1f} us of CPU a request"
            f" ({cpu_us / first:4.2f}), {one_ms:6.3f} ms at one connection"
        )


if __name__ == "__main__":
    main()
