"""What is measured, in rounds: each starts every server anew, in turn, so all share the luck."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from _models import FIXED_S, ITEM_S, TALLY, Gpu, tally
from _processes import Failed, Surroundings
from _servers import (
    Server,
    Started,
    Task,
    bare,
    bentoml,
    headrace,
    litserve,
    mlserver,
    mosec,
    nginx,
    pytriton,
    ray_serve,
    started,
    ventu,
    virtex,
)
from _serving import ROOT
from _wrk import load

from headrace import LoadSettings, run_load_test

ITEM = b'{"id": 7, "text": "water to the wheel", "values": [0.25, 0.5, 0.75, 1.0]}'
OURS = tuple(headrace(executor) for executor in ("process", "thread", "inline"))
WARM_S = 1
Row = dict[str, Any]


@dataclass(frozen=True)
class Workload:
    """Servers with the same task.

    Attributes:
        name: Of its results.
        task: What each serves.
        servers: In the order of the first round.
        measure: One round of one server, given what `alone` found in that round.
        alone: What is measured in each round without a server.
    """

    name: str
    task: Task
    servers: Sequence[Server]
    measure: Callable[[Started, Row, int], Row]
    alone: Callable[[int], Row] = lambda _: {}


def run(workload: Workload, rounds: int, seconds: int) -> Row:
    """All rounds; a server that fails in one is left out of those after it, and says why."""
    servers: dict[str, Row] = {s.name: {"rounds": [], "failed": None} for s in workload.servers}
    alone = []
    for number in range(rounds):
        surroundings = Surroundings()
        row = workload.alone(seconds)
        alone.append({**row, "others_cores": surroundings.others_cores()})
        at = number % len(workload.servers)
        for server in [*workload.servers[at:], *workload.servers[:at]]:
            found = servers[server.name]
            if found["failed"] is not None:
                continue
            try:
                with started(server, workload.task) as up:
                    row = workload.measure(up, alone[-1], seconds)
                    row["pss_bytes"] = up.tree.pss_bytes
                    row["processes"] = len(up.tree.pids)
                found["rounds"].append(row)
                found["version"] = server.version()
            except Failed as error:
                found["failed"] = str(error)
            _tell(workload.name, number, server.name, found)
    return {"alone": alone, "servers": servers}


def _tell(workload: str, number: int, server: str, found: Mapping[str, Any]) -> None:
    what = found["failed"]
    if what is None:
        row = found["rounds"][-1]
        what = ", ".join(
            f"{name}: {value['per_second']:,.0f}/s p50 {value['p50_us']:,.0f} us"
            for name, value in row.items()
            if isinstance(value, dict) and "per_second" in value
        )
    print(f"{workload}, round {number + 1}, {server}: {what}", flush=True)


def closed(up: Started, connections: int, seconds: int) -> Row:
    """A closed loop of so many connections."""
    try:
        found = load(
            up.port,
            up.requests,
            connections=connections,
            seconds=seconds,
            cpu_s=lambda: up.tree.cpu_s,
        )
    except Failed:
        up.tree.check()  # its own end is the better reason
        raise
    return found.to_json()


def warm(up: Started, connections: int) -> None:
    closed(up, connections, WARM_S)


def same_json(expected: bytes) -> Callable[[int, bytes], bool]:
    value = json.loads(expected)
    return lambda _, answer: bool(json.loads(answer) == value)


# The echo: what a server costs


def echo(_folder: Path) -> Workload:
    def measure(up: Started, _: Row, seconds: int) -> Row:
        warm(up, 64)
        return {"64": closed(up, 64, seconds), "1": closed(up, 1, seconds)}

    peers = (mosec(5), mosec(0), litserve(), bentoml(), ray_serve(), mlserver(), pytriton())
    task = Task(f"{ROOT}/examples/echo.py:Echo", [ITEM], same_json(ITEM))
    return Workload("echo", task, (*OURS, *peers, ventu(), virtex(), nginx()), measure)


# The stand-in for a GPU: how well the batches are filled

CONNECTIONS = (16, 32, 40, 64, 256)
LOADS = (0.5, 0.8, 0.95)
FULL = 32


def gpu(folder: Path) -> Workload:
    counts = folder / "tally"
    counts.write_bytes(bytes(16))
    counted = tally(str(counts))

    def with_batches(measure: Callable[[], Row]) -> Row:
        before = counted.tolist()
        row = measure()
        batches, items = (now - then for now, then in zip(counted.tolist(), before, strict=True))
        return {**row, "batches": batches, "mean_batch": round(items / max(1, batches), 2)}

    def measure(up: Started, alone: Row, seconds: int) -> Row:
        warm(up, 64)
        row: Row = {}
        for connections in CONNECTIONS:
            row[str(connections)] = with_batches(lambda c=connections: closed(up, c, seconds))  # type: ignore[misc]
        for share in LOADS:
            rate = share * alone["per_second"]
            row[f"{share:.0%}"] = with_batches(lambda r=rate: open_loop(up, r, seconds))  # type: ignore[misc]
        return row

    task = Task(
        f"{ROOT}/benchmarks/_models.py:Gpu",
        [ITEM],
        same_json(ITEM),
        max_batch_size=FULL,
        env={TALLY: str(counts)},
    )
    return Workload("gpu", task, (*OURS, mosec(5), mosec(0), litserve()), measure, _gpu_alone)


def _gpu_alone(seconds: int) -> Row:
    """The same predict, called back to back with full batches: as fast as it can be served."""
    model, batch = Gpu(), [json.loads(ITEM)] * FULL
    model.load()
    calls, begin = 0, time.perf_counter()
    while (now := time.perf_counter()) < begin + seconds:
        model.predict(batch)
        calls += 1
    batch_s = (now - begin) / calls
    return {
        "per_second": FULL / batch_s,
        "batch_us": 1e6 * batch_s,
        "nominal_per_second": FULL / (FIXED_S + ITEM_S * FULL),
    }


def open_loop(up: Started, rate: float, seconds: int) -> Row:
    """Requests at random instants with a mean rate, whether the server keeps up or not."""
    body, media_type = up.server.request(up.task, up.task.bodies[0])
    settings = LoadSettings(
        requests_per_second=rate,
        poisson_seed=int(rate),
        max_connections=512,
        timeout_s=5.0,
        headers={"Content-Type": media_type},
    )
    url = f"http://127.0.0.1:{up.port}{up.server.path}"
    before_s = up.tree.cpu_s
    found = run_load_test(url, [body] * int(rate * seconds), settings, progress=False)
    cpu_s = up.tree.cpu_s - before_s
    up.tree.check()
    answers = len(found) - len(found.errors)
    if not answers:
        raise Failed(f"open loop: {next(iter(found.errors.values()))}")
    latency = found.latency_s
    return {
        "planned_per_second": round(rate, 1),
        "per_second": round(found.answered_per_second, 1),
        "answers": answers,
        "failed": len(found.errors),
        "cpu_us": round(1e6 * cpu_s / answers, 2),
        "p50_us": round(1e6 * latency.p50, 1),
        "p90_us": round(1e6 * latency.p90, 1),
        "p99_us": round(1e6 * latency.p99, 1),
        "max_us": round(1e6 * latency.max, 1),
        "send_lag_mean_us": round(1e6 * found.send_lag_mean_s, 1),
        "send_lag_max_us": round(1e6 * found.send_lag_max_s, 1),
    }


# 600 KB in and out: what large bodies cost

TENSOR_BYTES = 4 * 3 * 224 * 224


def tensor(_folder: Path) -> Workload:
    body = os.urandom(TENSOR_BYTES)

    def measure(up: Started, _: Row, seconds: int) -> Row:
        warm(up, 8)
        return {"8": closed(up, 8, seconds), "1": closed(up, 1, seconds)}

    task = Task(
        f"{ROOT}/benchmarks/_models.py:Tensor",
        [body],
        lambda _, answer: answer == body,
        takes="bytes",
        gives="bytes",
    )
    return Workload("tensor", task, (*OURS, mosec(5), mosec(0), bare()), measure)
