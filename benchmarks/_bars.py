"""The bars that headrace has set itself, each against what was measured."""

from __future__ import annotations

import statistics
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from _results import median, ratio, share
from _workloads import Row

PROCESS, INLINE = "headrace, process", "headrace, inline"
WINDOW, NO_WINDOW, NGINX = "mosec, 5 ms window", "mosec, no window", "nginx, fixed answer"
BARE = "bare asyncio echo"
KB, MB = 1000, 1000**2


@dataclass(frozen=True)
class Bar:
    """A line of the table.

    Attributes:
        what: Is measured.
        wanted: At most, or at least, this.
        is_least: Whether more is better.
        measured: The figure; None if it was not measured.
        unit: Of both.
    """

    what: str
    wanted: float
    is_least: bool
    measured: float | None
    unit: str = ""

    @property
    def verdict(self) -> str:
        """Whether it is held; a bar is compared exactly, whatever the table rounds to."""
        if self.measured is None:
            return "not measured"
        is_held = self.measured >= self.wanted if self.is_least else self.measured <= self.wanted
        return "held" if is_held else "**missed**"


def bars(results: Mapping[str, Row]) -> list[Bar]:
    """All of them, in the order of the design."""
    return [
        *_echo(results.get("echo", {})),
        *_gpu(results.get("gpu", {})),
        *_real(results),
        *_tensor(results.get("tensor", {})),
        *_start(results.get("start", {})),
    ]


def _echo(found: Row) -> Iterator[Bar]:
    for mosec in (WINDOW, NO_WINDOW):
        name = f"echo, process, 64 connections, against {mosec}"
        cpu = ratio(found, PROCESS, mosec, "64", "cpu_us")
        yield Bar(f"{name}: CPU a request", 1 / 3, False, cpu, "of it")
        rate = ratio(found, PROCESS, mosec, "64")
        yield Bar(f"{name}: requests/s", 3.0, True, rate, "times")
    cpu = ratio(found, INLINE, NGINX, "64", "cpu_us")
    yield Bar(
        f"echo, inline, 64 connections, against {NGINX}: CPU a request", 2.0, False, cpu, "times"
    )
    for mosec in (WINDOW, NO_WINDOW):
        idle = ratio(found, PROCESS, mosec, "1", "p50_us")
        yield Bar(
            f"echo, process, 1 connection, against {mosec}: median", 1 / 20, False, idle, "of it"
        )


def _gpu(found: Row) -> Iterator[Bar]:
    for connections, wanted in ((32, 0.85), (64, 0.97), (256, 0.97)):
        served = share(found, PROCESS, str(connections))
        name = f"stand-in GPU, process, {connections} connections: served"
        yield Bar(name, wanted, True, served, "of full batches back to back")
    p99_us = median(found, PROCESS, "80%", "p99_us")
    batch_us = [row["batch_us"] for row in found.get("alone", [])]
    full = p99_us / statistics.median(batch_us) if p99_us is not None else None
    yield Bar("stand-in GPU, process, 80 % load: p99", 3.0, False, full, "full-batch times")


def _real(results: Mapping[str, Row]) -> Iterator[Bar]:
    for model in ("filetype", "embedding", "digits"):
        served = share(results.get(f"real-{model}", {}), PROCESS, "64")
        name = f"{model}, process, 64 connections: served"
        yield Bar(name, 0.97, True, served, "of full batches offline")


def _tensor(found: Row) -> Iterator[Bar]:
    served = ratio(found, PROCESS, BARE, "8")
    yield Bar(
        f"600 KB tensor, process, 8 connections, against {BARE}: requests/s",
        0.5,
        True,
        served,
        "of it",
    )


def _start(found: Row) -> Iterator[Bar]:
    rows = found.get("rounds", [])

    def figure(name: str, unit: float = 1) -> float | None:
        return statistics.median(row[name] for row in rows) / unit if rows else None

    yield Bar("`import headrace`", 0.15, False, figure("import_s"), "s")
    name = "`headrace serve` of an empty model: first answer"
    yield Bar(name, 0.8, False, figure("first_answer_s"), "s")
    heavy = [row["front_has_numpy"] + row["front_has_pydantic"] for row in rows]
    name = "of numpy and pydantic, loaded by the front"
    yield Bar(name, 0, False, max(heavy) if heavy else None)
    yield Bar("front process, idle: RSS", 60, False, figure("front_rss_bytes", MB), "MB")
    name = "idle connection that was answered once: RSS"
    yield Bar(name, 8, False, figure("connection_bytes", KB), "KB")
