"""A worker that reads completely, and does what each job says; a program with an address.

With the word `apart` behind the address it sends an answer's length by itself, as the published
worker does.

A job is JSON: `{"n": 3}` is answered with `{"double": 6}`, one without a number `n` is invalid.
More orders: `fail` (the model failed), `die` (the process ends), `wait` (until a file of this name
is in the folder), `sleep` (seconds), `pad` (is ignored). What came is noted in the folder's
`journal`, a number a line; beside it `batches` has the size of each batch.
"""

from __future__ import annotations

import json
import os
import socket
import sys
import time
from pathlib import Path
from typing import Any

from headrace.jobs import ASK, LENGTH_BYTES, JobFrames, JobResults, read_jobs, write_results

FOLDER = "BATCHING_FOLDER"
RETRY_S = 0.05


def answers(jobs: dict[str, bytes], folder: Path) -> bytes:
    """The message that answers a batch."""
    orders = {job: order_of(body) for job, body in jobs.items()}
    with (folder / "batches").open("a") as batches:
        batches.write(f"{len(jobs)}\n")
    with (folder / "journal").open("a") as journal:
        journal.writelines(f"{order['n']}\n" for order in orders.values() if order)
    bodies, errors, failed = {}, set(), set()
    for job, order in orders.items():
        if order is None:
            errors.add(job)
            bodies[job] = b"[invalid: " + jobs[job][:32] + b"]"
            continue
        if order.get("die"):
            os._exit(9)
        if "wait" in order:
            while not (folder / order["wait"]).exists():
                time.sleep(0.005)
        time.sleep(order.get("sleep", 0))
        bodies[job] = json.dumps({"double": 2 * order["n"]}).encode()
        if order.get("fail"):
            errors.add(job)
            failed.add(job)
            bodies[job] = b'"the model failed"'
    return write_results(JobResults(bodies, frozenset(errors), frozenset(failed)))


def order_of(body: bytes) -> dict[str, Any] | None:
    """None if it is invalid."""
    try:
        order = json.loads(body)
        return order if isinstance(order["n"], int) else None
    except (ValueError, KeyError, TypeError):
        return None


def work(sock: socket.socket, folder: Path) -> None:
    """Answer batches until the other end is gone."""
    sock.sendall(ASK)
    frames = JobFrames()
    while data := sock.recv(1 << 16):
        for message in frames.feed(data):
            answer = answers(read_jobs(message), folder)
            if "apart" in sys.argv:
                sock.sendall(answer[:LENGTH_BYTES])
                answer = answer[LENGTH_BYTES:]
            sock.sendall(answer)


def connected(address: str) -> socket.socket:
    """A path, or host:port."""
    if "/" in address:
        sock = socket.socket(socket.AF_UNIX)
        sock.connect(address)
        return sock
    host, _, port = address.rpartition(":")
    return socket.create_connection((host, int(port)))


def main() -> None:
    """Work, and connect again whenever the service is gone."""
    while True:
        try:
            with connected(sys.argv[1]) as sock:
                work(sock, Path(os.environ[FOLDER]))
        except OSError:
            pass
        time.sleep(RETRY_S)


if __name__ == "__main__":
    main()
