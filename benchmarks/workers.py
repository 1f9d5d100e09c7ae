"""What a worker process costs, and what it hides.

    python benchmarks/workers.py                  # all of it
    python benchmarks/workers.py --only echo --seconds 10

echo: CPU time a request of the server and of its worker, each by itself, and the system calls
that the worker makes a batch (where strace is installed). gpu: a stand-in for an accelerator, 5 ms
a batch and 0.1 ms an item, served against the ideal of full batches back to back. overlap: what a
batch takes of a model with 2 ms of preprocess a batch and 5 ms of predict.
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
from pathlib import Path

from _load import quick_closed_loop
from _models import FIXED_S, ITEM_S
from _serving import ROOT, Running, post, serving

from headrace import Batching

BODY = b'{"id": 7, "text": "water to the wheel", "values": [0.25, 0.5, 0.75, 1.0]}'
MODELS = ROOT / "benchmarks" / "_models.py"
FULL = Batching().max_batch_size
_CALL = re.compile(r"^\s*[\d.]+\s+[\d.]+\s+\d+\s+(\d+)(?:\s+\d+)?\s+(\w+)$", re.MULTILINE)


def worker_of(server: Running) -> Running:
    """The server's one worker process."""
    children = Path(f"/proc/{server.pid}/task/{server.pid}/children").read_text().split()
    return Running(server.port, int(children[0]))


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


def echo(seconds: float) -> None:
    """CPU time a request, and system calls a batch."""
    request = post("/predict", BODY, "application/json")
    with serving("examples/echo.py:Echo", "--executor", "process") as server:
        worker = worker_of(server)
        cpu: list[float] = []

        def mark() -> None:
            cpu[:] = [server.cpu_s, worker.cpu_s]

        answered, took_s = quick_closed_loop(
            server.port, request, connections=64, seconds=seconds, on_warm=mark
        )
        front_us = 1e6 * (server.cpu_s - cpu[0]) / answered
        worker_us = 1e6 * (worker.cpu_s - cpu[1]) / answered
        print(
            f"echo, 64 connections: {answered / took_s:.0f} requests/s,"
            f" CPU a request: front {front_us:.1f} us, worker {worker_us:.1f} us"
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
        quick_closed_loop(server.port, request, connections=64, seconds=2.0)
        tracer.send_signal(signal.SIGINT)
        tracer.wait(timeout=10)
        after = batches_of(server)
        batches, items = after[0] - before[0], after[1] - before[1]
        calls = {name: int(count) for count, name in _CALL.findall(table.read())}
    print(f"  system calls of the worker in {batches:.0f} batches of {items / batches:.1f} items:")
    for name, count in sorted(calls.items(), key=lambda call: -call[1]):
        if name != "total" and count > batches / 100:
            print(f"    {name:14} {count / batches:.2f} a batch")


def gpu(seconds: float) -> None:
    """The share of the ideal that the stand-in for an accelerator serves."""
    request = post("/predict", BODY, "application/json")
    ideal = FULL / (FIXED_S + ITEM_S * FULL)
    with serving(f"{MODELS}:Gpu", "--executor", "process") as server:
        for connections in (8, 32, 64, 256):
            answered, took_s = quick_closed_loop(
                server.port, request, connections=connections, seconds=seconds
            )
            share = answered / took_s / ideal
            print(f"gpu, {connections} connections: {answered / took_s:.0f} items/s, {share:.3f}")


def overlap(seconds: float) -> None:
    """The time a batch, against the sleeps themselves on this machine now."""
    request = post("/predict", BODY, "application/json")
    with serving(f"{MODELS}:Handled", "--executor", "process") as server:
        before: list[tuple[float, float]] = []

        def mark() -> None:
            before.append(batches_of(server))

        _, took_s = quick_closed_loop(
            server.port, request, connections=96, seconds=seconds, on_warm=mark
        )
        batches = batches_of(server)[0] - before[0][0]
    began, rounds = time.perf_counter(), 100
    for _ in range(rounds):
        time.sleep(0.005)
    sleep_ms = 1e3 * (time.perf_counter() - began) / rounds
    print(f"overlap: {1e3 * took_s / batches:.2f} ms a batch; predict alone {sleep_ms:.2f} ms")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", choices=["echo", "gpu", "overlap"])
    parser.add_argument("--seconds", type=float, default=5.0)
    arguments = parser.parse_args()
    os.environ.setdefault("HEADRACE_LOG_LEVEL", "error")
    for name, benchmark in (("echo", echo), ("gpu", gpu), ("overlap", overlap)):
        if arguments.only in (None, name):
            benchmark(arguments.seconds)


if __name__ == "__main__":
    main()
