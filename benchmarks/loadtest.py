"""The load generator of ours at fixed rates, beside wrk, against one echo server in one run.

    python benchmarks/loadtest.py                       # a bare echo server, so that it is no limit
    python benchmarks/loadtest.py --server uvicorn      # a plain ASGI application
    python benchmarks/loadtest.py --seconds 10 --rates 1000,5000,15000

The judge is the generator's own CPU time a request; wrk is closed-loop (each connection sends
again once it is answered), so its latencies are those of a server at its limit, and belong beside
the line `all at once`: as many connections kept busy, and latencies from a request's sending.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import math
import re
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import uvloop
from _serving import ROOT, Running

from headrace import LoadSettings, run_load_test
from headrace.loadtest.report import summarize

BODY = b'{"data": ["' + b"x" * 59 + b'"]}'
MICRO = 1e6


class BareEcho(asyncio.Protocol):
    """As little as an answer takes: each read is one whole request, which our clients see to."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport: asyncio.Transport = transport  # type: ignore[assignment]

    def data_received(self, data: bytes) -> None:
        body = data[data.find(b"\r\n\r\n") + 4 :]
        head = b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(body)
        self._transport.write(head + body)


async def bare() -> None:
    server = await asyncio.get_running_loop().create_server(BareEcho, "127.0.0.1", 0)
    print(f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}", flush=True)
    await server.serve_forever()


async def asgi_echo(scope: Any, receive: Any, send: Any) -> None:
    event = await receive()
    body = event["body"]
    while event["more_body"]:
        event = await receive()
        body += event["body"]
    headers = [(b"content-length", b"%d" % len(body)), (b"content-type", b"application/json")]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": body})


async def plain_uvicorn() -> None:
    import uvicorn

    config = uvicorn.Config(
        asgi_echo, port=0, http="httptools", lifespan="off", access_log=False, log_level="error"
    )
    server = uvicorn.Server(config)
    serving = asyncio.ensure_future(server.serve())
    while not server.started:  # noqa: ASYNC110  (uvicorn tells in no other way)
        await asyncio.sleep(0.01)
    print(f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}", flush=True)
    await serving


SERVERS = {"bare": bare, "uvicorn": plain_uvicorn}


@contextlib.contextmanager
def echoing(name: str) -> Iterator[Running]:
    """An echo server in a process of its own, until the block ends."""
    command = [sys.executable, __file__, "--serve", name]
    process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        yield Running(int(process.stdout.readline().rpartition(":")[2]), process.pid)
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(timeout=30)


def row(name: str, *cells: object) -> None:
    print(f"{name:>22}" + "".join(f"{cell:>11}" for cell in cells), flush=True)


def ours(server: Running, rate: float, *, count: int, connections: int) -> None:
    settings = LoadSettings(requests_per_second=rate, max_connections=connections)
    before_s = server.cpu_s
    found = run_load_test(
        f"http://127.0.0.1:{server.port}/", [BODY] * count, settings, progress=False
    )
    assert not found.errors, next(iter(found.errors.items()))
    assert found.bodies[0] == BODY
    is_closed = math.isinf(rate)
    # With all due at once, the time since then is mostly the wait for a connection.
    begun = found.sent_s if is_closed else found.planned_s
    latency = summarize(e - b for b, e in zip(begun, found.ended_s, strict=True))
    row(
        "all at once" if is_closed else f"ours, {rate:.0f}/s",
        f"{found.answered_per_second:.0f}",
        f"{found.cpu_s / count * MICRO:.1f}",
        f"{(server.cpu_s - before_s) / count * MICRO:.1f}",
        ms(latency.p50),
        ms(latency.p99),
        "" if is_closed else f"{found.send_lag_mean_s * MICRO:.0f}",
        "" if is_closed else f"{found.send_lag_max_s * MICRO:.0f}",
        found.connections,
    )


def ms(seconds: float) -> str:
    return f"{seconds * 1000:.3f}"


def wrk(server: Running, *, connections: int, seconds: float) -> None:
    program = shutil.which("wrk")
    if program is None:
        print("wrk is not installed: left out")
        return
    with tempfile.TemporaryDirectory() as folder:
        script = Path(folder) / "post.lua"
        script.write_text(
            f"wrk.method = 'POST'\nwrk.body = '{BODY.decode()}'\n"
            "wrk.headers['Content-Type'] = 'application/json'\n"
            "done = function(_, latency, _)\n"
            "  print('percentiles ' .. latency:percentile(50) .. ' ' .. latency:percentile(99))\n"
            "end\n"
        )
        options = ["-t1", f"-c{connections}", f"-d{max(1, round(seconds))}s", "-s", str(script)]
        before_s, own_s = server.cpu_s, _children_s()
        out = subprocess.run(
            [program, *options, f"http://127.0.0.1:{server.port}/"],
            capture_output=True,
            text=True,
            check=True,
        ).stdout
    count = int(re.findall(r"(\d+) requests in", out)[0])
    rate = float(re.findall(r"Requests/sec:\s+([\d.]+)", out)[0])
    p50, p99 = (float(found) / MICRO for found in re.findall(r"percentiles (\S+) (\S+)", out)[0])
    row(
        f"wrk, {connections} connections",
        f"{rate:.0f}",
        f"{(_children_s() - own_s) / count * MICRO:.1f}",
        f"{(server.cpu_s - before_s) / count * MICRO:.1f}",
        ms(p50),
        ms(p99),
        "",
        "",
        connections,
    )


def _children_s() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--serve", choices=SERVERS, help=argparse.SUPPRESS)
    parser.add_argument("--server", choices=SERVERS, default="bare")
    parser.add_argument("--rates", default="1000,5000,15000")
    parser.add_argument("--connections", type=int, default=64)
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--seconds", type=float, default=4.0, help="a line")
    arguments = parser.parse_args()
    if arguments.serve:
        with contextlib.suppress(KeyboardInterrupt):
            uvloop.run(SERVERS[arguments.serve]())
        return
    rates = [float(rate) for rate in arguments.rates.split(",")]
    connections, seconds = arguments.connections, arguments.seconds
    print(f"{len(BODY)}-byte bodies, {arguments.server} echo server; CPU in µs a request")
    row("", "answers/s", "own CPU", "server CPU", "p50 ms", "p99 ms", "lag µs", "max lag", "conns")
    with echoing(arguments.server) as server:
        for _ in range(arguments.rounds):
            for rate in rates:
                ours(server, rate, count=int(rate * seconds), connections=connections)
            ours(server, math.inf, count=int(20_000 * seconds), connections=connections)
            wrk(server, connections=1, seconds=seconds)
            wrk(server, connections=connections, seconds=seconds)


if __name__ == "__main__":
    main()
