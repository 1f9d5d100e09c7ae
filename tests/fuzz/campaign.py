"""Searches with every target for some minutes, and prints what it came to.

    python tests/fuzz/campaign.py 30               # or scripts/fuzz 30
    JOBS=8 python tests/fuzz/campaign.py 10 json wire

As many targets at once as JOBS says, else as there are cores. What a search learns is kept in
`.fuzz/corpus`, where the next one goes on; what it finds is in `.fuzz/findings`. The exit code is
1 if anything was found, and 2 if a search did not come to its end.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import subprocess
import sys
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

sys.path.insert(0, str(Path(__file__).parents[2]))

from tests.fuzz import runner

FOLDER = runner.ROOT / ".fuzz"
MEASURE_S = 600


class Search(NamedTuple):
    """What became of one search.

    Attributes:
        target: Its name.
        stats: libFuzzer's final figures, by their names; those of its last line among them.
        corpus: Inputs that were learned, all searches so far taken together.
        lines: The share of each measured module's lines that they reach.
        findings: Files that break the target.
        problem: The end of the output of a search that did not end as it should.
    """

    target: str
    stats: Mapping[str, int]
    corpus: int
    lines: Mapping[str, float]
    findings: Sequence[Path]
    problem: str


def main(arguments: Sequence[str]) -> int:
    """Run all searches; the exit code."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("minutes", type=float)
    parser.add_argument("targets", nargs="*", choices=[*runner.TARGETS, []], metavar="target")
    parser.add_argument("--log", type=Path, help="a file to which a line is added for each search")
    options = parser.parse_args(arguments)
    jobs = int(os.environ.get("JOBS") or len(os.sched_getaffinity(0)))
    names = options.targets or runner.TARGETS
    with ThreadPoolExecutor(jobs) as pool:
        searches = list(pool.map(lambda name: search(name, options.minutes, options.log), names))
    print(table(searches))  # noqa: T201  (a program)
    for each in searches:
        for line in (*each.findings, *filter(None, [each.problem])):
            print(f"{each.target}: {line}")  # noqa: T201
    if any(each.findings for each in searches):
        return 1
    return 2 if any(each.problem for each in searches) else 0


def search(name: str, minutes: float, log: Path | None = None) -> Search:
    """One search, and a look at what it has learned by now."""
    corpus, findings = FOLDER / "corpus" / name, FOLDER / "findings" / name
    for folder in (corpus, findings):
        folder.mkdir(parents=True, exist_ok=True)
    program = [sys.executable, str(runner.HERE / "runner.py"), name]
    places = ["--corpus", str(corpus), "--findings", str(findings)]
    done = subprocess.run(
        [*program, "--seconds", str(round(60 * minutes)), *places],
        capture_output=True,
        text=True,
        errors="replace",
        check=False,
    )
    stats = stats_of(done.stderr)
    found = sorted(findings.iterdir())
    is_whole = done.returncode == 0 and "DONE" in done.stderr
    if log is not None:
        with log.open("a") as file:
            file.write(f"{name} {minutes:g} min, exit {done.returncode}: {json.dumps(stats)}\n")
    return Search(
        name,
        stats,
        len(list(corpus.iterdir())),
        {} if found else _lines([*program, "--measure", str(corpus)]),
        found,
        "" if is_whole or found else done.stderr[-4000:],
    )


def stats_of(output: str) -> dict[str, int]:
    """libFuzzer's figures, from what it printed."""
    figures = re.findall(r"^stat::(\w+):\s+(\d+)$", output, re.MULTILINE)
    reached = re.findall(r"^#\d+\s.*\bcov: (\d+) ft: (\d+)", output, re.MULTILINE)
    for name, value in zip(("cov", "ft"), reached[-1] if reached else (), strict=False):
        figures.append((name, value))
    return {name: int(value) for name, value in figures}


def _lines(program: Sequence[str]) -> dict[str, float]:
    done = subprocess.run(
        program, capture_output=True, text=True, check=False, timeout=MEASURE_S, errors="replace"
    )
    if done.returncode:
        return {}
    shares: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return shares


def table(searches: Sequence[Search]) -> str:
    """The searches, one a row."""
    head = ("target", "executions", "exec/s", "edges", "features", "corpus", "findings", "lines")
    rows: list[tuple[str, ...]] = [head]
    for each in searches:
        stats = each.stats
        lines = ", ".join(
            f"{module.partition('.')[2]} {100 * share:.0f} %"
            for module, share in each.lines.items()
        )
        keys = ("number_of_executed_units", "average_exec_per_sec", "cov", "ft")
        figures = (f"{stats[key]:,}" if key in stats else "?" for key in keys)
        rows.append((each.target, *figures, str(each.corpus), str(len(each.findings)), lines))
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return "\n".join(
        "  ".join(
            cell.ljust(width) if number in (0, 7) else cell.rjust(width)
            for number, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in rows
    )


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
