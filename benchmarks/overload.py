"""Half to ten times what a model can do, open loop: what is answered in time, and what is told.

    python benchmarks/overload.py                    # three servers, two rounds: about ten minutes
    python benchmarks/overload.py --only headrace --rounds 1 --seconds 4
    python benchmarks/overload.py --tables           # writes table and plot anew from the JSON

Requests are due at Poisson instants, whatever became of those before, and everything counts from
those instants. An answer is good if it is a 200 within `DEADLINE_S`, which each server is told in
the way that it has: headrace by X-Request-Timeout, Mosec and LitServe by their own timeout. Clients
leave after `GIVE_UP_S`, and there are no more than `CLIENTS` connections; who finds none free
waits for one. In each round each server is started anew and goes through all loads.

The model sleeps 40 ms and 0.8 ms an item in batches of at most 32, which is 488 items a second: a
capacity that leaves the processors to the servers and to the generator at ten times as much.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import _results
from _overloaded import CAPACITY, MAX_BATCH_SIZE
from _processes import Failed, Surroundings
from _servers import Server, Started, Task, headrace, litserve, mosec, started
from _serving import ROOT
from _svg import Axis, Series, plot

from headrace import LoadResult, LoadSettings, run_load_test
from headrace.loadtest.report import percentile

RESULTS = ROOT / "benchmarks" / "results"
NAME = "overload"
LOADS = (0.5, 0.8, 1.0, 1.5, 2.0, 3.0, 5.0, 10.0)
DEADLINE_S = 1.0
GIVE_UP_S = 2.0
CLIENTS = 2000
WARM_S = 1.5
"""At the beginning of each load, not counted."""
SETTLED_S = 0.2
"""An answer that takes less shows that what came before has gone."""
BODIES = [json.dumps({"id": n, "text": "water to the wheel"}).encode() for n in range(64)]

Row = dict[str, float]
"""Figures by name; one that there is none of is left out."""


def is_answer(place: int, answer: bytes) -> bool:
    expected = json.loads(BODIES[place])
    return bool(json.loads(answer) == expected)


TASK = Task(
    f"{ROOT / 'benchmarks' / '_overloaded.py'}:Slow",
    BODIES,
    is_answer,
    max_batch_size=MAX_BATCH_SIZE,
    env={"BENCH_TIMEOUT_S": f"{DEADLINE_S:g}"},
)
SERVERS = {
    "headrace": headrace("process"),
    "mosec": mosec(5),
    "litserve": litserve(),
}


def measured(server: Started, load: float, seconds: float, seed: int) -> Row:
    """The figures of one load."""
    rate = load * CAPACITY
    count = int(rate * (WARM_S + seconds))
    settings = LoadSettings(
        requests_per_second=rate,
        poisson_seed=seed,
        max_connections=CLIENTS,
        timeout_s=GIVE_UP_S,
        headers={"X-Request-Timeout": f"{DEADLINE_S:g}"},
    )
    bodies = [BODIES[n % len(BODIES)] for n in range(count)]
    url = f"http://127.0.0.1:{server.port}{server.server.path}"
    before, surroundings = server.tree.cpu_s, Surroundings()
    result = run_load_test(url, bodies, settings, progress=False)
    cpu_s = server.tree.cpu_s - before
    row = figures(result)
    row["cpu_us"] = 1e6 * cpu_s / count
    row["pss_mb"] = server.tree.pss_bytes / 1e6
    row["others_cores"] = surroundings.others_cores(cpu_s)
    return row


def figures(result: LoadResult) -> Row:
    """What became of the requests after the warm-up."""
    good, refused, late = [], [], 0
    counted = 0
    for index, planned in enumerate(result.planned_s):
        if planned < WARM_S:
            continue
        counted += 1
        took_s = result.ended_s[index] - planned
        status = result.statuses[index]
        if status == 200 and took_s <= DEADLINE_S:
            good.append(took_s)
        elif status in (429, 503) and took_s < DEADLINE_S:
            refused.append(took_s)
        else:
            late += 1  # answered late, told that it is late, or not told anything
    span_s = result.planned_s[-1] - WARM_S
    row = {
        "asked": counted,
        "good": len(good),
        "refused": len(refused),
        "late": late,
        "goodput": len(good) / span_s / CAPACITY,
        "lag_max_ms": 1000 * result.send_lag_max_s,
        "lag_mean_ms": 1000 * result.send_lag_mean_s,
        "generator_cpu_us": 1e6 * result.cpu_s / len(result),
    }
    for kind, durations_s in (("", sorted(good)), ("refused_", sorted(refused))):
        if durations_s:
            for percent in (50, 99):
                row[f"{kind}p{percent}_ms"] = 1000 * percentile(durations_s, percent)
    return row


def settle(server: Started) -> None:
    """Wait until what was asked before has gone."""
    for _ in range(100):
        begun = time.monotonic()
        status, _ = server.ask(BODIES[0])
        if status == 200 and time.monotonic() - begun < SETTLED_S:
            return
        time.sleep(0.2)
    raise Failed("it still works off what was asked before")


def one_round(server: Server, seconds: float, seed: int) -> dict[str, Row]:
    rows = {}
    with started(server, TASK) as running:
        for load in LOADS:
            settle(running)
            rows[f"{load:g}"] = row = measured(running, load, seconds, seed)
            print(
                "  " + ", ".join([f"{load:g}", *(f"{k} {v:.3g}" for k, v in row.items())]),
                flush=True,
            )
        settle(running)
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", nargs="+", choices=SERVERS, default=list(SERVERS))
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--seconds", type=float, default=5.0, help="a load, beside the warm-up")
    parser.add_argument("--out", type=Path, default=RESULTS)
    parser.add_argument("--tables", action="store_true", help="from the JSON that is there")
    arguments = parser.parse_args()
    if not arguments.tables:
        found = run(arguments.only, arguments.rounds, arguments.seconds)
        settings = {"rounds": arguments.rounds, "seconds": arguments.seconds}
        _results.save(arguments.out, NAME, found, settings)
    write(arguments.out)


def run(names: Sequence[str], rounds: int, seconds: float) -> dict[str, Any]:
    servers: dict[str, Any] = {}
    for number in range(rounds):
        for name in names:
            server = SERVERS[name]
            print(f"round {number + 1}: {server.name}", flush=True)
            entry = servers.setdefault(server.name, {"version": server.version(), "rounds": []})
            try:
                entry["rounds"].append(one_round(server, seconds, seed=number + 1))
            except Failed as error:
                entry.setdefault("failed", []).append(str(error))
                print(f"  failed: {error}", flush=True)
    return {"capacity_per_second": CAPACITY, "deadline_s": DEADLINE_S, "servers": servers}


COLUMNS = {
    "goodput": "{:.2f}",
    "p50_ms": "{:.0f}",
    "p99_ms": "{:.0f}",
    "refused_p99_ms": "{:.1f}",
    "late": "{:.0f}",
    "pss_mb": "{:.0f}",
    "cpu_us": "{:.0f}",
}
HEADS = (
    "server",
    "load",
    "goodput",
    "p50 ms",
    "p99 ms",
    "refusals: p99 ms",
    "late or untold",
    "PSS MB",
    "CPU µs a request",
)


def write(folder: Path) -> None:
    """Table and plot of the JSON in this folder."""
    found = json.loads((folder / f"{NAME}.json").read_text())
    machine, settings = found["machine"], found["settings"]
    lines = [
        f"Written by `python benchmarks/overload.py`, {found['date']}, commit {found['commit']}, on"
        f" {machine['cpu']}, {machine['cores']} cores; {settings['rounds']} rounds of"
        f" {settings['seconds']:g} s a load, figures are medians. Capacity:"
        f" {found['capacity_per_second']:.0f} items/s; deadline: {found['deadline_s']:g} s. Others"
        f" took up to {worst_others(found):.2f} cores.",
        "",
        "| " + " | ".join(HEADS) + " |",
        "|---" * len(HEADS) + "|",
    ]
    goodput, tails = [], []
    for name in _results.running(found):
        is_ours = name.startswith("headrace")
        points = {load: medians(found, name, load) for load in map("{:g}".format, LOADS)}
        for load, row in points.items():
            cells = [
                form.format(row[column]) if column in row else ""
                for column, form in COLUMNS.items()
            ]
            lines.append(f"| {name} | {load} | " + " | ".join(cells) + " |")
        at = [(float(load), row["goodput"]) for load, row in points.items()]
        goodput.append(Series(name, at, is_ours))
        at = [(float(load), row["p99_ms"]) for load, row in points.items() if "p99_ms" in row]
        if at:
            tails.append(Series(name, at, is_ours))
    (folder / f"{NAME}.md").write_text("\n".join(["# Overload", "", *lines, ""]))
    x = Axis("load, times the capacity", True)
    y = Axis("answered in time, of the capacity", False)
    title = "Overload, open loop: what is answered within the deadline of 1 s"
    (folder / f"{NAME}.svg").write_text(plot(title, goodput, x, y))
    title = "Overload, open loop: p99 of what is answered in time"
    (folder / f"{NAME}-p99.svg").write_text(plot(title, tails, x, Axis("p99, ms", True)))


def medians(found: Any, name: str, load: str) -> Row:
    rows = [row[load] for row in _results.rounds(found, name) if load in row]
    names = {figure for row in rows for figure in row}
    return {n: statistics.median(row[n] for row in rows if n in row) for n in names}


def worst_others(found: Any) -> float:
    every: list[dict[str, Row]] = [
        row for name in _results.running(found) for row in _results.rounds(found, name)
    ]
    return max(cell["others_cores"] for row in every for cell in row.values())


if __name__ == "__main__":
    main()
