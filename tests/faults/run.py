"""Runs the fault suite, long and side by side, and reports: see `scripts/faults --help`."""

from __future__ import annotations

import argparse
import os
import platform
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

from tests.faults.report import failing, in_part, read, render
from tests.faults.rows import SECTIONS

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
NO_TESTS = 5
"""The exit code of pytest where no test was chosen."""
MEASURING = ("test_g_overload.py", "test_f_fairness.py", "test_overlap.py", "test_recycling.py")
"""Those that compare how much is served in a second: nothing may run beside them."""
SHARING = (
    "test_a_http.py",
    "test_a_requests.py",
    "test_b_bodies.py",
    "test_c_limits.py",
    "test_h_clients.py",
)
"""Those whose tests have one server in common, which takes a while to start."""
FULL = {"FAULT_ROUNDS": "100", "FAULT_SECONDS": "60"}
"""What the long profile sets, where the environment does not."""


class Piece(NamedTuple):
    """What one run of pytest runs.

    Attributes:
        paths: Test files.
        tests: Which of their tests, as `-k` takes it; all if it is empty.
    """

    paths: Sequence[Path]
    tests: str = ""

    @property
    def name(self) -> str:
        return f"{self.paths[0].stem} {self.tests}".strip().replace(" ", "-")

    @property
    def is_measuring(self) -> bool:
        return any(path.name in MEASURING for path in self.paths)


def main(arguments: Sequence[str]) -> int:
    """Run what was asked for; the exit code is 1 if anything fails, or a row was not run."""
    options = _options(arguments)
    profile = {} if options.quick else {**FULL, **_own(os.environ)}
    began = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="hr-faults-") as folder:
        out = options.out or Path(folder)
        out.mkdir(parents=True, exist_ok=True)
        if not options.merge:
            files = _files(options.sections, is_alone=options.alone)
            run_all(_pieces(files, is_quick=options.quick), out, profile, jobs=options.jobs)
        ran = read(sorted(out.glob("*.json")))
        broken = [path.stem for path in sorted(out.glob("*.exit")) if not is_well(path)]
    took_s = time.monotonic() - began
    wanted = [] if options.alone else options.sections or [*SECTIONS]
    failed = [row for row in failing(ran) if row[0] in wanted]
    failed_tests = [each.test for each in ran if each.outcome == "failed"]
    for row, how_far in in_part(ran).items():
        if row[0] in wanted:
            print(f"{row} {how_far}")
    if wanted:
        print(f"rows that are not shown to hold: {', '.join(failed) or 'none'}")
    print(f"runs that ended badly: {', '.join(broken) or 'none'}")
    print(f"tests that failed: {', '.join(failed_tests) or 'none'}, of {len(ran)}")
    print(f"{took_s:.0f} s, and {_cpu_s():.0f} s of processor time")
    if options.report is not None:
        told = ", ".join(f"{name}={value}" for name, value in profile.items()) or "quick"
        heading = (
            f"Made by `scripts/faults` ({told}) in {took_s / 60:.0f} minutes, with"
            f" {options.jobs} at a time on {os.cpu_count()} cores, Python"
            f" {platform.python_version()}."
        )
        options.report.write_text(render(ran, heading=heading), encoding="utf-8")
    return int(bool(failed or failed_tests or broken))


def is_well(path: Path) -> bool:
    """Whether a run of pytest ended well, by what is written of its end."""
    return int(path.read_text()) in (0, NO_TESTS)


def run_all(pieces: Sequence[Piece], out: Path, profile: Mapping[str, str], *, jobs: int) -> None:
    """Run so many at a time, and those that measure speed one after another.

    What a run says is shown if it ends badly.
    """

    def run(piece: Piece) -> None:
        stem = out / piece.name
        json_path, log_path, exit_path = (
            stem.with_suffix(suffix) for suffix in (".json", ".log", ".exit")
        )
        for path_of_before in (json_path, exit_path):
            path_of_before.unlink(missing_ok=True)
        command = [sys.executable, "-m", "pytest", "-p", "tests.faults.report", "--quiet"]
        command += [*map(str, piece.paths), "-k", piece.tests, "-p", "no:cacheprovider"]
        with log_path.open("wb") as log:
            done = subprocess.run(
                [*command, "--faults-json", str(json_path)],
                cwd=ROOT,
                env={**os.environ, **profile},
                stdout=log,
                stderr=subprocess.STDOUT,
                check=False,
            )
        exit_path.write_text(str(done.returncode))
        said = log_path.read_text(errors="replace")
        if not is_well(exit_path):
            print(said, flush=True)
        last = said.splitlines()[-1:] or ["no output"]
        if done.returncode != NO_TESTS:
            print(f"{piece.name}: exit {done.returncode}, {last[0]}", flush=True)

    with ThreadPoolExecutor(jobs) as pool:
        list(pool.map(run, [piece for piece in pieces if not piece.is_measuring]))
    for piece in pieces:
        if piece.is_measuring:
            run(piece)


def _files(sections: Sequence[str], *, is_alone: bool) -> list[Path]:
    """The test files of these sections, or of all, and those elsewhere with marks of them."""
    names = "".join(sections).lower() or "*"
    own = sorted(HERE.glob(f"test_[{names}]_*.py" if sections else "test_*.py"))
    if is_alone:
        return own
    marks = tuple(f'mark.row("{letter}' for letter in sections or SECTIONS)
    elsewhere = (path for path in HERE.parent.rglob("test_*.py") if path.parent != HERE)
    more = (path for path in elsewhere if any(m in path.read_text("utf-8") for m in marks))
    return [*own, *sorted(more)]


def _pieces(files: Sequence[Path], *, is_quick: bool) -> list[Piece]:
    """The larger ones first; where they are long, each way by itself."""
    if not is_quick:
        return [Piece([path], tests) for path in files for tests in ("asgi", "not asgi")]
    together = [path for path in files if path.name in SHARING]
    others = [path for path in files if path.name not in SHARING]
    pieces = [[path] for path in sorted(others, key=lambda path: -path.stat().st_size)]
    return [Piece(paths) for paths in (together, *pieces) if paths]


def _cpu_s() -> float:
    """What the runs have used; servers that were killed are not all in it."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def _own(environ: Mapping[str, str]) -> dict[str, str]:
    return {name: value for name, value in environ.items() if name.startswith("FAULT_")}


def _options(arguments: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="scripts/faults", description=_ABOUT)
    parser.add_argument("sections", nargs="*", choices=[*SECTIONS, []], metavar="SECTION")
    parser.add_argument("--quick", action="store_true", help="as short as in scripts/test")
    parser.add_argument(
        "--alone", action="store_true", help="no tests of other folders, and no verdicts of rows"
    )
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
