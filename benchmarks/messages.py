"""What virtex's server does: an echo under gunicorn, one worker process with virtex.VirtexWorker.

    python benchmarks/messages.py                   # all of it
    python benchmarks/messages.py --only metrics --rounds 9

echo: messages of one element from 1, 8 and 64 connections. elements: longer messages, from 8
connections. metrics: each way for metrics to get out against none, in one interleaved run: with a
push gateway that answers, one that is absent, one that never answers and one that answers 500.
CPU is that of the worker process, whatever thread of it, a request.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import shutil
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from _processes import children, free_port
from _serving import ROOT, Connection, Running, post
from _wrk import Load, load

ELEMENT = '{"id": 7, "text": "water to the wheel", "values": [0.25, 0.5, 0.75, 1.0]}'


def message(elements: int) -> bytes:
    """A POST of so many elements."""
    body = '{"data": [' + ", ".join([ELEMENT] * elements) + '], "error": null}'
    return post("/", body.encode(), "application/json")


@contextlib.contextmanager
def gunicorn(mode: str = "off", metrics_port: int = 9090) -> Iterator[Running]:
    """The echo in one worker process of gunicorn; the pid is the worker's."""
    port = free_port()
    command = [sys.executable, "-m", "gunicorn", "_messages:app", "--workers", "1"]
    command += ["--worker-class", "virtex.VirtexWorker", "--bind", f"127.0.0.1:{port}"]
    command += ["--log-level", "critical", "--worker-connections", "10000", "--keep-alive", "60"]
    with tempfile.TemporaryDirectory() as home:
        process = subprocess.Popen(
            command,
            cwd=ROOT / "benchmarks",
            env={
                **os.environ,
                "HOME": home,  # gunicorn keeps a control socket there
                "METRICS_MODE": mode,
                "METRICS_PORT": str(metrics_port),
            },
        )
        try:
            until = time.monotonic() + 30
            while True:
                try:
                    connection = Connection(port)
                    break
                except OSError:
                    if time.monotonic() > until or process.poll() is not None:
                        raise
                    time.sleep(0.05)
            status, answer = connection.ask(message(1))
            connection.close()
            if status != 200 or not answer.startswith(b'{"data":[{"id":7,'):
                raise RuntimeError(f"not an echo: {status} {answer!r}")
            yield Running(port, children(process.pid)[0])
        finally:
            process.send_signal(signal.SIGTERM)
            process.wait(timeout=30)


def drive(server: Running, request: bytes, connections: int, seconds: int) -> Load:
    """A closed loop."""
    return load(
        server.port,
        [request],
        connections=connections,
        seconds=seconds,
        cpu_s=lambda: server.cpu_s,
    )


def medians(found: Iterable[Load]) -> tuple[float, float]:
    """Answers a second, and CPU microseconds an answer."""
    rates, cpu = zip(*((one.per_second, one.cpu_us) for one in found), strict=True)
    return statistics.median(rates), statistics.median(cpu)


def echo(rounds: int, seconds: int) -> None:
    with gunicorn() as server:
        for connections in (1, 8, 64):
            found = [drive(server, message(1), connections, seconds) for _ in range(rounds)]
            rate, cpu_us = medians(found)
            print(f"{connections:3} connections: {rate:8,.0f} messages/s, {cpu_us:5.0f} us of CPU")
        one = drive(server, message(1), 1, seconds)
        print(
            f"one connection: median {1e3 * one.p50_s:.2f} ms,"
            f" 99 % {1e3 * one.p99_s:.2f} ms (virtex 0.1: median 6.3 ms)"
        )


def elements(rounds: int, seconds: int) -> None:
    with gunicorn() as server:
        for count in (1, 16, 128):
            rate, cpu_us = medians(drive(server, message(count), 8, seconds) for _ in range(rounds))
            print(
                f"{count:3} elements a message: {count * rate:9,.0f} elements/s,"
                f" {cpu_us / count:5.1f} us of CPU an element"
            )


class _Failing(BaseHTTPRequestHandler):
    def do_PUT(self) -> None:
        self.rfile.read(int(self.headers["content-length"]))
        self.send_response(500)
        self.end_headers()

    do_DELETE = do_POST = do_PUT

    def log_message(self, *_: object) -> None:
        """Quiet."""


@contextlib.contextmanager
def gateway(kind: str) -> Iterator[int]:
    """The port of a push gateway, or of what stands in its place."""
    port = free_port()
    if kind == "absent":
        yield port
    elif kind == "hanging":
        with socket.create_server(("127.0.0.1", port)):
            yield port
    elif kind == "failing":
        with ThreadingHTTPServer(("127.0.0.1", port), _Failing) as server:
            threading.Thread(target=server.serve_forever, daemon=True).start()
            yield port
            server.shutdown()
    else:
        program = shutil.which("prometheus-pushgateway")
        if program is None:
            raise SystemExit("install Debian's prometheus-pushgateway first")
        process = subprocess.Popen(
            [program, f"--web.listen-address=127.0.0.1:{port}", "--log.level=error"]
        )
        try:
            yield port
        finally:
            process.terminate()
            process.wait(timeout=30)


def metrics(rounds: int, seconds: int) -> None:
    kinds = ("off", "scrape", "real", "absent", "hanging", "failing")
    with contextlib.ExitStack() as stack:
        servers = {}
        for kind in kinds:
            if kind in ("off", "scrape"):
                servers[kind] = stack.enter_context(gunicorn(kind, free_port()))
            else:
                port = stack.enter_context(gateway(kind))
                servers[kind] = stack.enter_context(gunicorn("push", port))
        found: dict[str, list[Load]] = {kind: [] for kind in kinds}
        for number in range(rounds):
            for place in range(len(kinds)):
                kind = kinds[(place + number) % len(kinds)]
                # The others' threads push meanwhile, to each kind's loss alike.
                found[kind].append(drive(servers[kind], message(1), 16, seconds))
    for kind in kinds:
        what = kind if kind in ("off", "scrape") else f"push, gateway {kind}"
        rate, cpu_us = medians(found[kind])
        pairs = list(zip(found[kind], found["off"], strict=True))
        against = statistics.median(mine.per_second / none.per_second for mine, none in pairs)
        cpu_against = statistics.median(mine.cpu_us / none.cpu_us for mine, none in pairs)
        print(
            f"{what:22} {rate:8,.0f} messages/s ({against:.2f} of off),"
            f" {cpu_us:5.0f} us of CPU ({cpu_against:.2f} of off)"
        )


PARTS = {"echo": echo, "elements": elements, "metrics": metrics}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", choices=PARTS)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=int, default=2, help="a round")
    arguments = parser.parse_args()
    for name, part in PARTS.items():
        if arguments.only in (None, name):
            print(f"{name}:", flush=True)
            part(arguments.rounds, arguments.seconds)


if __name__ == "__main__":
    main()
