"""What the comparison in benchmarks/ rests on: whose time is counted, and what is made of it."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from _bars import Bar
from _processes import ProcessTree, wait_until
from _results import ratio, share
from _tables import write

BURN_S = 0.2
ORPHAN = f"""
import os, pathlib, subprocess, sys, time
burn = '''
import pathlib, os, sys, time
while time.process_time() < {BURN_S}: pass
pathlib.Path("orphan").write_text(str(os.getpid()))
time.sleep(60)
'''
middle = f"import subprocess, sys; subprocess.Popen([sys.executable, '-c', {{burn!r}}])"
subprocess.run([sys.executable, "-c", middle], start_new_session=True)
time.sleep(60)
"""


@pytest.fixture
def tree(tmp_path: Path) -> Iterator[ProcessTree]:
    tree = ProcessTree([sys.executable, "-c", ORPHAN], env={}, cwd=tmp_path, log=tmp_path / "log")
    yield tree
    tree.stop()


def test_a_process_that_left_for_another_parent_is_counted_and_ended(
    tree: ProcessTree, tmp_path: Path
) -> None:
    orphan = tmp_path / "orphan"
    wait_until(lambda: orphan.exists() and bool(orphan.read_text()), within_s=30)
    pid = int(orphan.read_text())

    assert pid in tree.pids
    assert tree.cpu_s >= BURN_S
    assert tree.pss_bytes > 0
    tree.stop()
    wait_until(lambda: is_gone(pid), within_s=30)


def is_gone(pid: int) -> bool:
    """Whether it ended, though nobody may have waited for it."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except OSError:
        return True


def test_what_this_process_did_is_not_counted(tree: ProcessTree) -> None:
    assert os.getpid() not in tree.pids


def result(**rates: list[float]) -> dict[str, Any]:
    servers = {
        name: {"rounds": [{"64": {"per_second": rate}} for rate in found], "failed": None}
        for name, found in rates.items()
    }
    return {"servers": servers, "alone": [{"per_second": 10.0}, {"per_second": 40.0}]}


def test_a_ratio_is_of_figures_of_the_same_round() -> None:
    found = result(one=[10, 200, 3], other=[10, 100, 1])
    assert ratio(found, "one", "other", "64") == 2
    assert share(found, "other", "64") == (10 / 10 + 100 / 40) / 2


def test_a_ratio_to_a_server_that_did_not_run_is_none() -> None:
    assert ratio(result(one=[10], other=[]), "one", "other", "64") is None


@pytest.mark.parametrize(
    ("is_least", "measured", "verdict"),
    [
        (True, 0.97, "held"),
        (True, 0.9699, "**missed**"),
        (False, 0.97, "held"),
        (False, 0.9701, "**missed**"),
        (True, None, "not measured"),
    ],
)
def test_a_bar_is_compared_exactly(is_least: bool, measured: float | None, verdict: str) -> None:
    assert Bar("served", 0.97, is_least, measured).verdict == verdict


def test_a_server_that_failed_stands_in_the_report_with_its_reason(tmp_path: Path) -> None:
    load = {"per_second": 9.0, "cpu_us": 1.0, "p50_us": 1.0, "p99_us": 1.0}
    echo = {
        "date": "2026-01-01",
        "machine": dict.fromkeys(("cpu", "cores", "memory_gib", "kernel", "python"), 1),
        "settings": {"rounds": 1, "seconds": 1},
        "commit": "0",
        "is_changed": False,
        "alone": [],
        "servers": {
            "ours": {
                "rounds": [{"64": load, "1": load, "pss_bytes": 1, "processes": 1}],
                "failed": None,
            },
            "theirs": {"rounds": [], "failed": "pip: no | such package"},
        },
    }
    write(tmp_path, {"echo": echo})
    text = (tmp_path / "README.md").read_text()
    assert "| theirs | echo | pip: no \\| such package |" in text
    assert "requests/s" in (tmp_path / "echo.svg").read_text()
