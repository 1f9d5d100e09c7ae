"""What each feature costs: CPU time of the server a request, with it and without it in turn.

    python benchmarks/features.py                          # all of them, inline
    python benchmarks/features.py --only all-on --rounds 30
    python benchmarks/features.py --executor process

In each round wrk drives the server without the feature and the one with it, in alternating order
(where only the request differs, it is one server). The figures are medians over the rounds, and so
is the ratio, of each round's own two.
"""

from __future__ import annotations

import argparse
import contextlib
import statistics
import sys
import threading
from collections.abc import Iterator
from dataclasses import dataclass

import msgspec
from _cost import Headrace, headrace
from _serving import ROOT
from _tables import table

BODY = b'{"id": 7, "text": "water to the wheel", "values": [0.25, 0.5, 0.75, 1.0]}'
MSGPACK_BODY = msgspec.msgpack.encode(msgspec.json.decode(BODY))
JSON, MSGPACK = "application/json", "application/msgpack"
MODELS = f"{ROOT / 'benchmarks' / '_typed.py'}"
SCRAPE_S = 1.0
BAR = 1.05
"""What observability and deadlines together may cost, as a ratio."""

TIMEOUT = ("X-Request-Timeout", "5")
IDS = 5000
"""Requests with ids of their own, sent in turn: those that are soon after each other differ."""


def request(
    *headers: tuple[str, str], path: str = "/predict", body: bytes = BODY, media: str = JSON
) -> bytes:
    """A POST request's bytes."""
    fields = [("Host", "localhost"), ("Content-Type", media), *headers]
    lines = [f"POST {path} HTTP/1.1", *(f"{name}: {value}" for name, value in fields)]
    return "\r\n".join([*lines, f"Content-Length: {len(body)}", "", ""]).encode() + body


def identified(*headers: tuple[str, str]) -> tuple[bytes, ...]:
    """Requests of a client that gives each an id of its own."""
    return tuple(request(("X-Request-ID", f"{n:032x}"), *headers) for n in range(IDS))


@dataclass(frozen=True)
class Way:
    """One way to serve the echo and to ask it.

    Attributes:
        requests: What is sent, in turn.
        model: Of `_typed.py`.
        log_level: Of the server.
        is_scraped: Whether somebody reads its metrics each second.
    """

    requests: tuple[bytes, ...] = (request(),)
    model: str = "Untyped"
    log_level: str = "warning"
    is_scraped: bool = False


PLAIN = Way()
V1_BODY = b'{"instances": [%b]}' % BODY
FEATURES = {
    "request-id": ("a request id by the client, another each time", PLAIN, Way(identified())),
    "timeout": ("X-Request-Timeout", PLAIN, Way((request(TIMEOUT),))),
    "typed-dict": ("validation by a TypedDict", PLAIN, Way(model="ByTypedDict")),
    "dataclass": ("validation by a dataclass", PLAIN, Way(model="ByDataclass")),
    "struct": ("validation by a msgspec.Struct", PLAIN, Way(model="ByStruct")),
    "pydantic": ("validation by pydantic", PLAIN, Way(model="ByPydantic")),
    "metrics": ("metrics scraped each second", PLAIN, Way(is_scraped=True)),
    "log": ("log level info", PLAIN, Way(log_level="info")),
    "msgpack": (
        "msgpack in place of JSON",
        PLAIN,
        Way((request(body=MSGPACK_BODY, media=MSGPACK),)),
    ),
    "v1": (
        "the v1 dialect in place of the native",
        PLAIN,
        Way((request(path="/v1/models/echo:predict", body=V1_BODY),)),
    ),
    "all-on": (
        "log level info, metrics scraped, a timeout, and the server's request ids",
        PLAIN,
        Way((request(TIMEOUT),), log_level="info", is_scraped=True),
    ),
    "all-on-ids": (
        "the same, with the client's request ids",
        PLAIN,
        Way(identified(TIMEOUT), log_level="info", is_scraped=True),
    ),
}
BARS = ("all-on", "all-on-ids")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", choices=FEATURES, nargs="+")
    parser.add_argument("--executor", default="inline", choices=["inline", "thread", "process"])
    parser.add_argument("--connections", type=int, default=64)
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--seconds", type=int, default=1, help="a side of a round")
    arguments = parser.parse_args()
    rows, verdicts = [], []
    for name in arguments.only or FEATURES:
        what, without, with_it = FEATURES[name]
        with both(arguments.executor, without, with_it) as servers:
            found = compared(
                servers, (without, with_it), arguments.rounds, arguments.connections,
                arguments.seconds,
            )  # fmt: skip
        before, after = (statistics.median(side) for side in zip(*found, strict=True))
        ratio = statistics.median(on / off for off, on in found)
        spread = statistics.quantiles([on / off for off, on in found])
        rows.append(
            [what, f"{before:.1f}", f"{after:.1f}", f"{before * (ratio - 1):+.1f}", f"{ratio:.3f}",
             f"{spread[0]:.3f} to {spread[2]:.3f}"]
        )  # fmt: skip
        print(" | ".join(rows[-1]), file=sys.stderr, flush=True)
        if name in BARS:
            verdicts.append(
                f"{what}: {ratio:.3f} of the CPU without them, at most {BAR:.2f} wanted:"
                f" {'met' if ratio <= BAR else 'MISSED'}"
            )
    head = ["feature", "without, us", "with, us", "costs, us", "ratio", "half of the rounds"]
    print(f"CPU of the server a request, executor {arguments.executor}\n\n{table(head, rows)}\n")
    print("\n".join(verdicts))


@contextlib.contextmanager
def both(executor: str, without: Way, with_it: Way) -> Iterator[tuple[Headrace, Headrace]]:
    """The servers of both sides: one, where they do not differ."""
    with contextlib.ExitStack() as stack:
        started: dict[tuple[str, str], Headrace] = {}
        for way in (without, with_it):
            kind = (way.model, way.log_level)
            if kind not in started:
                options = (f"--executor={executor}", f"--log-level={way.log_level}")
                server = headrace([f"{MODELS}:{way.model}"], *options)
                started[kind] = stack.enter_context(server)
        sides = [started[way.model, way.log_level] for way in (without, with_it)]
        yield sides[0], sides[1]


def compared(
    servers: tuple[Headrace, Headrace],
    ways: tuple[Way, Way],
    rounds: int,
    connections: int,
    seconds: int,
) -> list[tuple[float, float]]:
    """The CPU time a request of both sides, in each round."""
    found = []
    for number in range(-1, rounds):  # the first warms up
        sides = [0.0, 0.0]
        for side in (0, 1) if number % 2 else (1, 0):
            server, way = servers[side], ways[side]
            with scraped(server) if way.is_scraped else contextlib.nullcontext():
                cost = server.cost(way.requests, connections=connections, seconds=seconds)
            sides[side] = cost.cpu_us
        if number >= 0:
            found.append((sides[0], sides[1]))
    return found


@contextlib.contextmanager
def scraped(server: Headrace) -> Iterator[None]:
    """Somebody reads the server's metrics each second."""
    is_over = threading.Event()

    def scrape() -> None:
        while not is_over.wait(SCRAPE_S):
            assert b"headrace_" in server.get("/metrics")

    thread = threading.Thread(target=scrape)
    thread.start()
    try:
        yield
    finally:
        is_over.set()
        thread.join()


if __name__ == "__main__":
    main()
