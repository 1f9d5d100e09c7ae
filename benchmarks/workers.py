"""What a worker process costs, and what it hides.

    python benchmarks/workers.py                  # all of it
    python benchmarks/workers.py --only echo --seconds 10

echo: CPU time a request of the server and of its worker, each by itself, and the system calls
that the worker makes a batch (where strace is installed). overlap: what a batch takes of a model
with 2 ms of preprocess a batch and 5 ms of predict. `run.py` compares whole servers.
"""

from __future__ import annotations

import argparse
import os
import re
import shutil
import signal
import subprocess
import tempfile
import time

from _processes import children
from _serving import ROOT, Running, post, serving
from _wrk import Load, load

BODY = b'{"id": 7, "text": "water to the wheel", "values": [0.25, 0.5, 0.75, 1.0]}'
MODELS = ROOT / "benchmarks" / "_models.py"
_CALL = re.compile(r"^\s*[\d.]+\s+[\d.]+\s+\d+\s+(\d+)(?:\s+\d+)?\s+(\w+)$", re.MULTILINE)


def drive(server: Running, request: bytes, *, connections: int, seconds: int) -> Load:
    """A closed loop; its CPU time is the front's."""
    return load(
        server.port,
        [request],
        connections=connections,
        seconds=seconds,
        cpu_s=lambda: server.cpu_s,
    )


def worker_of(server: Running) -> Running:
    """The server's one worker process."""
    return Running(server.port, children(server.pid)[0])


def batches_of(server: Running) -> tuple[float, float]:
    """Batches and items by now, as /metrics has them."""
    text = subprocess.run(
        ["curl", "-s", f"http://127.0.0.1:{server.port}/metrics"], capture_output=True, text=True
    ).stdout
    found = {
        kind: float(value)
        for kind, value in re.findall(r"^headrace_batch_items_(count|sum)\{.*\} (\S+)$", text, re.M)
    }
    return found["count"], found["sum"]


def echo(seconds: int) -> None:
    """CPU time a request, and system calls a batch."""
    request = post("/predict", BODY, "application/json")
    with serving("examples/echo.py:Echo", "--executor", "process") as server:
        worker = worker_of(server)
        drive(server, request, connections=64, seconds=1)
        before_s = worker.cpu_s
        found = drive(server, request, connections=64, seconds=seconds)
        worker_us = 1e6 * (worker.cpu_s - before_s) / found.answers
        print(
            f"echo, 64 connections: {found.per_second:.0f} requests/s,"
            f" CPU a request: front {found.cpu_us:.1f} us, worker {worker_us:.1f} us"
        )
        if shutil.which("strace"):
            system_calls(server, worker, request)


def system_calls(server: Running, worker: Running, request: bytes) -> None:
    """What strace counts on the worker, a batch."""
    with tempfile.NamedTemporaryFile("r") as table:
        before = batches_of(server)
        tracer = subprocess.Popen(
            ["strace", "-c", "-f", "-p", str(worker.pid), "-o", table.name],
            stderr=subprocess.DEVNULL,
        )
        time.sleep(0.5)
        drive(server, request, connections=64, seconds=2)
        tracer.send_signal(signal.SIGINT)
        tracer.wait(timeout=10)
        after = batches_of(server)
        batches, items = after[0] - before[0], after[1] - before[1]
        calls = {name: int(count) for count, name in _CALL.findall(table.read())}
    print(f"  system calls of the worker in {batches:.0f} batches of {items / batches:.1f} items:")
    for name, count in sorted(calls.items(), key=lambda call: -call[1]):
        if name != "total" and count > batches / 100:
            print(f"    {name:14} {count / batches:.2f} a batch")


def overlap(seconds: int) -> None:
    """The time a batch, against the sleeps themselves on this machine now."""
    request = post("/predict", BODY, "application/json")
    with serving(f"{MODELS}:Handled", "--executor", "process") as server:
        drive(server, request, connections=96, seconds=1)
        before = batches_of(server)[0]
        took_s = drive(server, request, connections=96, seconds=seconds).took_s
        batches = batches_of(server)[0] - before
    began, rounds = time.perf_counter(), 100
    for _ in range(rounds):
        time.sleep(0.005)
    sleep_ms = 1e3 * (time.perf_counter() - began) / rounds
    print(f"overlap: {1e3 * took_s / batches:.2f} ms a batch; predict alone {sleep_ms:.2f} ms")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", choices=["echo", "overlap"])
    parser.add_argument("--seconds", type=int, default=5)
    arguments = parser.parse_args()
    os.environ.setdefault("HEADRACE_LOG_LEVEL", "error")
    for name, benchmark in (("echo", echo), ("overlap", overlap)):
        if arguments.only in (None, name):
            benchmark(arguments.seconds)


if __name__ == "__main__":
    main()
