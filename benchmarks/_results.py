"""Raw results: one JSON file for each workload, with the machine and the date of its run."""

from __future__ import annotations

import datetime
import json
import os
import platform
import re
import statistics
import subprocess
from collections.abc import Callable
from pathlib import Path

from _serving import ROOT
from _workloads import Row


def save(folder: Path, name: str, found: Row, settings: Row) -> None:
    """Write a workload's results in place of older ones."""
    folder.mkdir(parents=True, exist_ok=True)
    whole = {"workload": name, "settings": settings, **machine(), **found}
    (folder / f"{name}.json").write_text(json.dumps(whole, indent=1) + "\n")


def read(folder: Path) -> dict[str, Row]:
    """All results of a folder, by workload."""
    return {file.stem: json.loads(file.read_text()) for file in sorted(folder.glob("*.json"))}


def machine() -> Row:
    """What ran it, and when."""
    cpu = re.search(r"model name\s*: (.*)", Path("/proc/cpuinfo").read_text())
    memory = re.search(r"MemTotal: +(\d+) kB", Path("/proc/meminfo").read_text())
    return {
        "date": datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%d %H:%M UTC"),
        "machine": {
            "cpu": cpu[1] if cpu else platform.machine(),
            "cores": len(os.sched_getaffinity(0)),
            "memory_gib": round(int(memory[1]) / 2**20) if memory else 0,
            "kernel": platform.release(),
            "python": platform.python_version(),
        },
        "commit": _git("rev-parse", "--short", "HEAD"),
        "is_changed": bool(_git("status", "--porcelain", "src", "examples")),
    }


def rounds(found: Row, server: str) -> list[Row]:
    """The rounds of a server; empty if it was not run or failed."""
    rows: list[Row] = found.get("servers", {}).get(server, {}).get("rounds", [])
    return rows


def median(found: Row, server: str, load: str, figure: str) -> float | None:
    """The median over the rounds of a figure of a load."""
    values = [row[load][figure] for row in rounds(found, server) if load in row]
    return statistics.median(values) if values else None


def figure(found: Row, server: str, load: str, name: str) -> float:
    """The same of a server that has rounds."""
    value = median(found, server, load, name)
    assert value is not None, f"{server} has no rounds"
    return value


def running(found: Row) -> list[str]:
    """The servers that have rounds, as they were first started: each keeps its colour."""
    return [name for name in found["servers"] if rounds(found, name)]


def ratio(found: Row, one: str, other: str, load: str, figure: str = "per_second") -> float | None:
    """The median over the rounds of one server's figure divided by the other's in that round."""
    return _median_of(
        lambda mine, theirs: mine[load][figure] / theirs[load][figure],
        rounds(found, one),
        rounds(found, other),
    )


def share(found: Row, server: str, load: str) -> float | None:
    """The median of a server's rate divided by the model's own rate in that round."""
    return _median_of(
        lambda mine, alone: mine[load]["per_second"] / alone["per_second"],
        rounds(found, server),
        found.get("alone", []),
    )


def _median_of(
    divide: Callable[[Row, Row], float], ones: list[Row], others: list[Row]
) -> float | None:
    values = [divide(one, other) for one, other in zip(ones, others, strict=False)]
    return statistics.median(values) if values else None


def _git(*arguments: str) -> str:
    done = subprocess.run(["git", *arguments], cwd=ROOT, capture_output=True, text=True)
    return done.stdout.strip()
