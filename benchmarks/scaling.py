"""What a request costs as things grow, one axis at a time, and two bars for many connections.

    python benchmarks/scaling.py                           # all of it: about half an hour
    python benchmarks/scaling.py --only connections idle --rounds 1
    python benchmarks/scaling.py --executor inline

Each round goes through all points of an axis, each with a new server; the figures are medians over
the rounds. The tables are printed, and written with the raw figures to results/scaling.json, where
axes that were not asked for stay as they were. wrk drives the closed loops, with a request at a
time on each connection; the open loop is headrace's own load test.
"""

from __future__ import annotations

import argparse
import json
import statistics
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import _results
from _cost import Cost, Headrace, headrace
from _idle import idle, most_connections
from _many import MANY
from _models import FIXED_S, ITEM_S
from _serving import ROOT, post
from _tables import table

from headrace import LoadSettings, run_load_test

RESULTS = ROOT / "benchmarks" / "results"
BODY = b'{"id": 7, "text": "water to the wheel", "values": [0.25, 0.5, 0.75, 1.0]}'
JSON, BYTES = "application/json", "application/octet-stream"
ECHO = f"{ROOT / 'examples' / 'echo.py'}:Echo"
GPU = f"{ROOT / 'benchmarks' / '_models.py'}:Gpu"
MODELS = f"{ROOT / 'benchmarks' / '_many.py'}"
REQUEST = post("/predict", BODY, JSON)
ROOMY = ("--set=limits.keep_alive_s=600", "--set=limits.max_queue_items=20000")
"""For more connections than wait by default."""
MANY_CONNECTIONS, ACTIVE = 10_000, 1_000
IDLE_BAR_BYTES = 8 * 1024
ACTIVE_BAR = 0.90

Row = dict[str, float]
"""One point's figures of one round, by their names."""


@dataclass(frozen=True)
class Settings:
    """How much is measured.

    Attributes:
        executor: Of the axes that do not ask for one of their own.
        rounds: Of each axis.
        seconds: Of each point.
    """

    executor: str
    rounds: int
    seconds: int


@dataclass(frozen=True)
class Axis:
    """Something that grows.

    Attributes:
        title: Above its table.
        grows: The head of the first column.
        points: What the first column has.
        measure: The figures at a point.
    """

    title: str
    grows: str
    points: Mapping[str, Any]
    measure: Callable[[Any, Settings], Row]


def row_of(server: Headrace, cost: Cost) -> Row:
    """The figures of a closed loop."""
    return {
        "per_second": cost.per_second,
        "front_us": cost.front_us,
        "workers_us": cost.workers_us,
        "p50_ms": cost.p50_us / 1e3,
        "p99_ms": cost.p99_us / 1e3,
        "rss_mb": server.rss_bytes / 1e6,
    }


# The axes


def connections(count: int, settings: Settings) -> Row:
    with headrace([ECHO], f"--executor={settings.executor}", *ROOMY) as server:
        cost = server.settled_cost([REQUEST], connections=count, seconds=settings.seconds)
        return row_of(server, cost)


def body(size: int, settings: Settings) -> Row:
    request = post("/predict", bytes(size), BYTES)
    with headrace([f"{MODELS}:Bytes"], f"--executor={settings.executor}") as server:
        return row_of(server, server.cost([request], connections=8, seconds=settings.seconds))


def batch(size: int, settings: Settings) -> Row:
    options = (f"--executor={settings.executor}", f"--max-batch-size={size}")
    with headrace([ECHO], *options) as server:
        return row_of(server, server.cost([REQUEST], connections=512, seconds=settings.seconds))


def replicas(count: int, settings: Settings) -> Row:
    with headrace([GPU], "--executor=process", f"--replicas={count}") as server:
        row = row_of(
            server, server.cost([REQUEST], connections=96 * count, seconds=settings.seconds)
        )
    ideal = 32 / (FIXED_S + 32 * ITEM_S) * count
    return {**row, "of_ideal": row["per_second"] / ideal}


def models(asked: tuple[int, int], settings: Settings) -> Row:
    """So many on the server, of which so many are asked in turn."""
    on_server, in_turn = asked
    targets = [f"{MODELS}:Echo{number}" for number in range(on_server)]
    requests = [post(f"/models/echo{n}/predict", BODY, JSON) for n in range(in_turn)]
    with headrace(targets, "--executor=inline") as server:
        return row_of(server, server.cost(requests, connections=64, seconds=settings.seconds))


def rate(share: float, settings: Settings) -> Row:
    """An open loop at a share of what full batches back to back would serve."""
    capacity = 32 / (FIXED_S + 32 * ITEM_S)
    count = round(share * capacity * settings.seconds)
    with headrace([GPU], f"--executor={settings.executor}") as server:
        front_s, workers_s = server.front_s, server.workers_s
        load = LoadSettings(
            requests_per_second=share * capacity,
            poisson_seed=7,
            max_connections=4000,
            timeout_s=10.0,
        )
        url = f"http://127.0.0.1:{server.port}/predict"
        found = run_load_test(url, [BODY] * count, load, progress=False)
        refused = sum(status == 503 for status in found.statuses)
        if len(found.errors) != refused:
            raise RuntimeError(f"expected answers and 503, got {set(found.errors.values())}")
        return {
            "asked_per_second": found.sent_per_second,
            "per_second": found.answered_per_second,
            "refused": refused / count,
            "front_us": 1e6 * (server.front_s - front_s) / count,
            "workers_us": 1e6 * (server.workers_s - workers_s) / count,
            "p50_ms": 1e3 * found.latency_s.p50,
            "p99_ms": 1e3 * found.latency_s.p99,
            "rss_mb": server.rss_bytes / 1e6,
            "lag_ms": 1e3 * found.send_lag_mean_s,
        }


def counts(values: Iterable[int]) -> dict[str, int]:
    return {f"{value:,}": value for value in values}


SIZES = {"100 B": 100, "1 KB": 1000, "10 KB": 10**4, "100 KB": 10**5, "1 MB": 10**6}
SIZES["10 MB"] = 10**7
AXES = {
    "connections": Axis(
        "Connections, each with a request at a time",
        "connections",
        counts((1, 8, 64, 256, 1000, 4000, MANY_CONNECTIONS)),
        connections,
    ),
    "body": Axis("Bytes in and the same out, 8 connections", "body", SIZES, body),
    "batch": Axis(
        "Largest batch, 512 connections",
        "max_batch_size",
        counts((1, 2, 4, 8, 16, 32, 64, 128, 256)),
        batch,
    ),
    "replicas": Axis(
        "Replicas of the stand-in for a GPU, 96 connections for each",
        "replicas",
        counts((1, 2, 3, 4)),
        replicas,
    ),
    "models": Axis(
        "Models on a server, inline, 64 connections",
        "models (asked)",
        {
            f"{all_of} ({asked})": (all_of, asked)
            for all_of, asked in (
                (1, 1),
                (5, 1),
                (5, 5),
                (20, 1),
                (20, 20),
                (MANY, 1),
                (MANY, MANY),
            )
        },
        models,
    ),
    "rate": Axis(
        "Open loop of the stand-in for a GPU, as a share of full batches back to back",
        "rate",
        {f"{share:.0%}": share for share in (0.25, 0.5, 0.8, 0.95, 1.2, 1.5, 2.0, 3.0)},
        rate,
    ),
}


# The bars


def idle_memory(settings: Settings) -> Iterator[Row]:
    """What a connection takes that is kept after its answer."""
    for _ in range(settings.rounds):
        with headrace([ECHO], f"--executor={settings.executor}", *ROOMY) as server:
            server.cost([REQUEST], connections=64, seconds=1)
            before = server.rss_bytes
            with idle(server.port, MANY_CONNECTIONS, REQUEST):
                after = server.rss_bytes
        yield {"idle_connection_bytes": (after - before) / MANY_CONNECTIONS}


def active_of_many(settings: Settings) -> Iterator[Row]:
    """Active connections beside idle ones, against as many alone, in turn."""
    options = (f"--executor={settings.executor}", *ROOMY)
    with (
        headrace([ECHO], *options) as alone,
        headrace([ECHO], *options) as full,
        idle(full.port, MANY_CONNECTIONS - ACTIVE, REQUEST),
    ):
        # Single rounds are far apart where others share the machine.
        for number in range(4 * settings.rounds + 1):
            rates = {}
            for server in (alone, full) if number % 2 else (full, alone):
                cost = server.cost([REQUEST], connections=ACTIVE, seconds=settings.seconds)
                rates[server] = cost
            if number:  # the first warms up
                one, other = rates[alone], rates[full]
                yield {
                    "alone_per_second": one.per_second,
                    "full_per_second": other.per_second,
                    "rate_ratio": other.per_second / one.per_second,
                    "cpu_ratio": other.cpu_us / one.cpu_us,
                }


def idle_verdict(row: Row) -> str:
    size = row["idle_connection_bytes"]
    return (
        f"{MANY_CONNECTIONS:,} idle connections: {size:,.0f} bytes of RSS each,"
        f" at most {IDLE_BAR_BYTES:,} wanted: {verdict(size <= IDLE_BAR_BYTES)}"
    )


def active_verdict(row: Row) -> str:
    ratio = row["rate_ratio"]
    return (
        f"{ACTIVE:,} active of {MANY_CONNECTIONS:,} connections: {ratio:.3f} of the throughput of"
        f" {ACTIVE:,} alone ({row['cpu_ratio']:.3f} of their CPU), at least {ACTIVE_BAR:.2f}"
        f" wanted: {verdict(ratio >= ACTIVE_BAR)}"
    )


def verdict(is_met: bool) -> str:
    return "met" if is_met else "MISSED"


BARS = {"idle": (idle_memory, idle_verdict), "active": (active_of_many, active_verdict)}


# Running


HEADS = {
    "asked_per_second": ("sent/s", ",.0f"),
    "per_second": ("answers/s", ",.0f"),
    "of_ideal": ("of full batches", ".3f"),
    "refused": ("refused", ".1%"),
    "front_us": ("front, us a request", ",.1f"),
    "workers_us": ("workers, us", ",.1f"),
    "p50_ms": ("p50, ms", ",.2f"),
    "p99_ms": ("p99, ms", ",.2f"),
    "rss_mb": ("front's RSS, MB", ",.1f"),
    "lag_ms": ("generator late, ms", ",.1f"),
}


def swept(axis: Axis, settings: Settings) -> dict[str, list[Row]]:
    """The rows of each point, one a round."""
    rows: dict[str, list[Row]] = {point: [] for point in axis.points}
    for _ in range(settings.rounds):
        for point, value in axis.points.items():
            rows[point].append(axis.measure(value, settings))
    return rows


def medians(rows: list[Row]) -> Row:
    return {name: statistics.median(row[name] for row in rows) for name in rows[0]}


def printed(axis: Axis, points: Mapping[str, list[Row]]) -> str:
    """An axis as a table."""
    middle = {point: medians(rows) for point, rows in points.items()}
    names = list(next(iter(middle.values())))
    head = [axis.grows, *(HEADS[name][0] for name in names)]
    cells = [
        [point, *(format(row[name], HEADS[name][1]) for name in names)]
        for point, row in middle.items()
    ]
    return f"{axis.title}\n\n{table(head, cells)}\n"


def save(found: Mapping[str, Any], settings: Settings, file: Path) -> None:
    """Write what was found, beside what the file has of other axes."""
    before = json.loads(file.read_text())["axes"] if file.exists() else {}
    of_now = {"settings": vars(settings), **_results.machine()}
    axes = before | {name: {**of_now, "rows": rows} for name, rows in found.items()}
    file.parent.mkdir(parents=True, exist_ok=True)
    whole = {"workload": "scaling", **of_now, "axes": axes}
    file.write_text(json.dumps(whole, indent=1) + "\n")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--only", nargs="+", choices=[*AXES, *BARS])
    parser.add_argument("--executor", default="process", choices=["inline", "thread", "process"])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=int, default=3, help="a point")
    parser.add_argument("--results", type=Path, default=RESULTS)
    arguments = parser.parse_args()
    settings = Settings(arguments.executor, arguments.rounds, arguments.seconds)
    if (most := most_connections()) < MANY_CONNECTIONS:
        parser.error(f"expected {MANY_CONNECTIONS:,} connections, `ulimit -Hn` lets {most:,} be")
    file = arguments.results / "scaling.json"
    for name in arguments.only or [*AXES, *BARS]:
        if name in AXES:
            points = swept(AXES[name], settings)
            print(printed(AXES[name], points), flush=True)
            save({name: points}, settings, file)
        else:
            measure, say = BARS[name]
            rows = list(measure(settings))
            print(say(medians(rows)) + "\n", flush=True)
            save({name: rows}, settings, file)


if __name__ == "__main__":
    main()
