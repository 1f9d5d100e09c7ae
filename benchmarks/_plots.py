"""The plots of the results."""

from __future__ import annotations

import statistics
from collections.abc import Iterator, Mapping, Sequence

from _results import figure, running
from _svg import Axis, Series, plot
from _workloads import CONNECTIONS, LOADS, Row

PERCENTS = tuple(f"{load:.0%}" for load in LOADS)


def plots(results: Mapping[str, Row]) -> Iterator[tuple[str, str]]:
    """Each plot that there are results for: its file's name, and the SVG."""
    if found := results.get("echo"):
        yield "echo.svg", _echo(found)
    if found := results.get("gpu"):
        yield "gpu-closed.svg", _gpu_closed(found)
        yield "gpu-open.svg", _gpu_open(found)


def _echo(found: Row) -> str:
    points = {
        name: [(figure(found, name, "64", "per_second"), _ms(found, name, "1", "p50_us"))]
        for name in running(found)
    }
    title = "Echo: requests/s at 64 connections, and median latency at one"
    x, y = Axis("requests/s, 64 connections", True), Axis("median ms, 1 connection", True)
    return plot(title, _series(points), x, y)


def _gpu_closed(found: Row) -> str:
    loads = [str(connections) for connections in CONNECTIONS]
    points = {
        name: [
            (figure(found, name, load, "per_second"), _ms(found, name, load, "p99_us"))
            for load in loads
        ]
        for name in running(found)
    }
    title = f"Stand-in for a GPU, closed loops of {', '.join(loads)} connections"
    alone = statistics.median(row["per_second"] for row in found["alone"])
    limit = (alone, "full batches back to back")
    x, y = Axis("items/s", False), Axis("p99, ms", True)
    return plot(title, _series(points), x, y, limit=limit)


def _gpu_open(found: Row) -> str:
    points = {
        name: [
            (100 * load, _ms(found, name, percent, "p99_us"))
            for load, percent in zip(LOADS, PERCENTS, strict=True)
        ]
        for name in running(found)
    }
    title = "Stand-in for a GPU, open loop: p99 from the planned instant"
    x = Axis("load, % of full batches back to back", False, low=40.0)
    return plot(title, _series(points), x, Axis("p99, ms", True))


def _series(points: Mapping[str, Sequence[tuple[float, float]]]) -> list[Series]:
    return [Series(name, at, name.startswith("headrace")) for name, at in points.items()]


def _ms(found: Row, server: str, load: str, name: str) -> float:
    return figure(found, server, load, name) / 1000
