"""`headrace batching` with echo workers against mosec with the same, in one interleaved run.

    python benchmarks/jobs.py                    # 64 connections, five rounds
    python benchmarks/jobs.py --rounds 9 --seconds 5 --connections 256

CPU is user and system time a request of all the processes of a server, its workers included; the
load's own is not. The rounds of all servers alternate; the figures are medians. mosec has an
environment of its own, `.venv-mosec`, which is made when it is not there.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import re
import signal
import statistics
import subprocess
import sys
import tempfile
import time
import venv
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

from _load import quick_closed_loop
from _serving import ROOT, Connection, post

BODY = b'{"id": 7, "text": "water to the wheel", "values": [0.25, 0.5, 0.75, 1.0]}'
REQUEST = post("/inference", BODY, "application/json")
BATCH = 32
MOSEC = ROOT / ".venv-mosec"
HERE = ROOT / "benchmarks"
TICKS = os.sysconf("SC_CLK_TCK")
START_S = 30.0


class Served(NamedTuple):
    """A server with its workers.

    Attributes:
        port: On 127.0.0.1.
        roots: The processes that were started; theirs count as well.
    """

    port: int
    roots: tuple[int, ...]

    @property
    def cpu_s(self) -> float:
        """User and system time of all processes so far."""
        return sum(_cpu_s(pid) for root in self.roots for pid in _family(root))


def _family(pid: int) -> list[int]:
    """A process and all that came of it."""
    found = [pid]
    for children in Path(f"/proc/{pid}/task").glob("*/children"):
        for child in children.read_text().split():
            found += _family(int(child))
    return found


def _cpu_s(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / TICKS


@contextlib.contextmanager
def running(command: list[str], env: Mapping[str, str] | None = None) -> Iterator[int]:
    """A process until the block ends; its pid."""
    process = subprocess.Popen(
        command, env={**os.environ, **(env or {})}, stdout=subprocess.DEVNULL
    )
    try:
        yield process.pid
    finally:
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(timeout=15)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


@contextlib.contextmanager
def headrace(kind: str, workers: int) -> Iterator[Served]:
    """The batching service with so many workers."""
    with tempfile.TemporaryDirectory(prefix="hr-") as folder, contextlib.ExitStack() as stack:
        path = f"{folder}/s"
        port = free_port()
        options = ["--host", "127.0.0.1", "--port", str(port), "--address", path]
        options += ["--batch", str(BATCH), "--log-level", "error"]
        command = [sys.executable, "-m", "headrace", "batching", *options]
        roots = [stack.enter_context(running(command))]
        wait_until(lambda: Path(path).exists())
        for _ in range(workers):
            worker = [sys.executable, str(HERE / "_jobs.py"), path, kind]
            roots.append(stack.enter_context(running(worker)))
        wait_until(lambda: ready_workers(port) == workers)
        check(port)
        yield Served(port, tuple(roots))


@contextlib.contextmanager
def mosec(workers: int, wait_ms: int) -> Iterator[Served]:
    """Mosec with so many workers and such a window."""
    port = free_port()
    command = [str(MOSEC / "bin/python"), str(HERE / "_mosec.py"), "--address", "127.0.0.1"]
    command += ["--port", str(port), "--log-level", "error"]
    env = {"WORKERS": str(workers), "BATCH": str(BATCH), "WAIT_MS": str(wait_ms)}
    # Beside the script lie modules that its own environment lacks.
    with running(command, {**env, "PYTHONSAFEPATH": "1"}) as pid:
        wait_until(lambda: answers(port))
        check(port)
        yield Served(port, (pid,))


def free_port() -> int:
    import socket

    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def wait_until(is_true: object) -> None:
    until = time.monotonic() + START_S
    assert callable(is_true)
    while not is_true():
        if time.monotonic() > until:
            raise RuntimeError("a server did not become ready")
        time.sleep(0.05)


def ready_workers(port: int) -> int:
    try:
        connection = Connection(port)
    except OSError:
        return 0
    try:
        _, text = connection.ask(b"GET /metrics HTTP/1.1\r\nhost: x\r\n\r\n")
    finally:
        connection.close()
    found = re.search(rb"^headrace_replicas_ready\{.*\} (\d+)", text, re.MULTILINE)
    return 0 if found is None else int(found[1])


def answers(port: int) -> bool:
    try:
        connection = Connection(port)
    except OSError:
        return False
    try:
        return connection.ask(REQUEST)[0] == 200
    except OSError:
        return False
    finally:
        connection.close()


def check(port: int) -> None:
    """Raise unless it is an echo."""
    import json

    connection = Connection(port)
    status, body = connection.ask(REQUEST)
    connection.close()
    if status != 200 or json.loads(body) != json.loads(BODY):
        raise RuntimeError(f"no echo: {status} {body!r}")


def load(server: Served, connections: int, seconds: float) -> tuple[float, float]:
    """Answers a second, and CPU microseconds an answer."""
    cpu: list[float] = []
    answered, took_s = quick_closed_loop(
        server.port,
        REQUEST,
        connections=connections,
        seconds=seconds,
        on_warm=lambda: cpu.append(server.cpu_s),
    )
    return answered / took_s, 1e6 * (server.cpu_s - cpu[0]) / answered


def median_ms(server: Served, seconds: float) -> float:
    """Of one connection that sends again once it is answered."""
    connection = Connection(server.port)
    found = []
    until = time.monotonic() + seconds
    while (began := time.perf_counter()) and time.monotonic() < until:
        connection.ask(REQUEST)
        found.append(1e3 * (time.perf_counter() - began))
    connection.close()
    return statistics.median(found)


def make_mosec() -> None:
    if (MOSEC / "bin/mosec").exists():
        return
    venv.create(MOSEC, with_pip=True)
    subprocess.run([str(MOSEC / "bin/python"), "-m", "pip", "-q", "install", "mosec"], check=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=3.0)
    parser.add_argument("--connections", type=int, default=64)
    arguments = parser.parse_args()
    make_mosec()
    with contextlib.ExitStack() as stack:
        servers = {
            "headrace batching, 1 worker": stack.enter_context(headrace("bytes", 1)),
            "headrace batching, 2 workers": stack.enter_context(headrace("bytes", 2)),
            "headrace batching, 1 of ventu": stack.enter_context(headrace("ventu", 1)),
            "mosec, 1 worker, 5 ms": stack.enter_context(mosec(1, 5)),
            "mosec, 2 workers, 5 ms": stack.enter_context(mosec(2, 5)),
            "mosec, 1 worker, 1 ms": stack.enter_context(mosec(1, 1)),
        }
        names = list(servers)
        found: dict[str, list[tuple[float, float, float]]] = {name: [] for name in names}
        for number in range(arguments.rounds):
            for place in range(len(names)):
                name = names[(place + number) % len(names)]
                rate, cpu_us = load(servers[name], arguments.connections, arguments.seconds)
                found[name].append((rate, cpu_us, median_ms(servers[name], 1.0)))
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
