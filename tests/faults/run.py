"""Runs the fault suite, long and side by side, and reports: see `scripts/faults --help`."""

from __future__ import annotations

import argparse
import os
import platform
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from tests.faults.report import failing, read, render
from tests.faults.rows import SECTIONS

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
NO_TESTS = 5
"""The exit code of pytest where no test was chosen."""
FULL = {"FAULT_ROUNDS": "100", "FAULT_SECONDS": "60"}
"""What the long profile sets, where the environment does not."""


def main(arguments: Sequence[str]) -> int:
    """Run what was asked for; the exit code is 1 if a row fails or was not run."""
    options = _options(arguments)
    profile = {} if options.quick else {**FULL, **_own(os.environ)}
    began = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="hr-faults-") as folder:
        out = options.out or Path(folder)
        out.mkdir(parents=True, exist_ok=True)
        if not options.merge:
            run_all(_files(options.sections), out, profile, jobs=options.jobs)
        ran = read(sorted(out.glob("*.json")))
    took_s = time.monotonic() - began
    wanted = options.sections or [*SECTIONS]
    failed = [row for row in failing(ran) if row[0] in wanted]
    print(f"{len(ran)} tests; rows that fail or were not run: {', '.join(failed) or 'none'}")
    if options.report is not None:
        told = ", ".join(f"{name}={value}" for name, value in profile.items()) or "quick"
        heading = (
            f"Made by `scripts/faults` ({told}) in {took_s / 60:.0f} minutes, with"
            f" {options.jobs} at a time on {os.cpu_count()} cores, Python"
            f" {platform.python_version()}."
        )
        options.report.write_text(render(ran, heading=heading), encoding="utf-8")
    return int(bool(failed))


def run_all(files: Sequence[Path], out: Path, profile: Mapping[str, str], *, jobs: int) -> None:
    """Run test files, so many at a time, each way of requests of each in a process of its own."""

    def run(piece: tuple[Path, str]) -> None:
        path, tests = piece
        name = f"{path.stem}-{tests.replace(' ', '-')}"
        json_path, log_path = out / f"{name}.json", out / f"{name}.log"
        command = [sys.executable, "-m", "pytest", "-p", "tests.faults.report", "-q", str(path)]
        with log_path.open("wb") as log:
            done = subprocess.run(
                [*command, "-k", tests, "-p", "no:cacheprovider", "--faults-json", str(json_path)],
                cwd=ROOT,
                env={**os.environ, **profile},
                stdout=log,
                stderr=subprocess.STDOUT,
                check=False,
            )
        last = log_path.read_text(errors="replace").splitlines()[-1:] or ["no output"]
        if done.returncode != NO_TESTS:
            print(f"{path.name}, {tests}: exit {done.returncode}, {last[0]}", flush=True)

    with ThreadPoolExecutor(jobs) as pool:
        list(pool.map(run, [(path, tests) for path in files for tests in ("asgi", "not asgi")]))


def _files(sections: Sequence[str]) -> list[Path]:
    """The test files of these sections, or of all, and those elsewhere with marks of them."""
    names = "".join(sections).lower() or "*"
    pattern = f"test_[{names}]_*.py" if sections else "test_*.py"
    marks = tuple(f'mark.row("{letter}' for letter in sections or SECTIONS)
    elsewhere = (path for path in HERE.parent.rglob("test_*.py") if path.parent != HERE)
    more = (path for path in elsewhere if any(m in path.read_text("utf-8") for m in marks))
    return [*sorted(HERE.glob(pattern)), *sorted(more)]


def _own(environ: Mapping[str, str]) -> dict[str, str]:
    return {name: value for name, value in environ.items() if name.startswith("FAULT_")}


def _options(arguments: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="scripts/faults", description=_ABOUT)
    parser.add_argument("sections", nargs="*", choices=[*SECTIONS, []], metavar="SECTION")
    parser.add_argument("--quick", action="store_true", help="as short as in scripts/test")
    parser.add_argument("--jobs", type=int, default=1, help="files at a time; times suffer")
    parser.add_argument("--out", type=Path, help="keep what each file's run wrote in this folder")
    parser.add_argument("--merge", action="store_true", help="only report what is in --out")
    parser.add_argument("--report", type=Path, help="write the page, such as docs/faults.md")
    return parser.parse_args(arguments)


_ABOUT = (
    "Run the fault suite, all of it or some sections (A to M), as long as FAULT_ROUNDS (100) and"
    " FAULT_SECONDS (60) say, and report each row."
)

if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
