"""What the fault suite showed, row by row.

As a plugin, `pytest -p tests.faults.report --faults-json FILE tests/faults`, it writes what became
of each test; `render` makes a page of one or several of those files.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import msgspec
import pytest

from tests.faults.rows import NO_COUNTER, NOT_APPLICABLE, OTHERWISE, ROWS, SECTIONS, STATED

HOLDS = "holds"
FAILING = ("FAILS", "not run", "no counter-test ran")
"""What is said of rows that are not shown to hold."""

_repeated: Counter[str] = Counter()


def repeated(times: int) -> int:
    """Note that the running test does its row so many times; gives the number back."""
    test, _, _ = os.environ.get("PYTEST_CURRENT_TEST", "").rpartition(" ")
    _repeated[test] += times
    return times


class Ran(msgspec.Struct, frozen=True):
    """One test and what became of it.

    Attributes:
        test: Its node id.
        rows: That it proves.
        counters: Rows that it shows to fail without their defence.
        outcome: passed, failed or skipped.
        seconds: That it took, with its fixtures.
        times: How often it did its row.
        reason: Why it was skipped.
    """

    test: str
    rows: list[str]
    counters: list[str]
    outcome: str
    seconds: float
    times: int
    reason: str = ""


class Recorder:
    """Collects what becomes of the tests of one run."""

    def __init__(self) -> None:
        self._marks: dict[str, tuple[list[str], list[str]]] = {}
        self._reports: dict[str, list[pytest.TestReport]] = {}

    def pytest_collection_modifyitems(self, items: list[pytest.Item]) -> None:
        for item in items:
            self._marks[item.nodeid] = (_rows_of(item, "row"), _rows_of(item, "counter"))

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        self._reports.setdefault(report.nodeid, []).append(report)

    def ran(self) -> Iterator[Ran]:
        """What has become of each test, whether it is marked with a row or not."""
        for test, reports in self._reports.items():
            rows, counters = self._marks[test]
            outcomes = {report.outcome for report in reports}
            outcome = next((o for o in ("failed", "skipped") if o in outcomes), "passed")
            skipped = next((r.longrepr for r in reports if r.skipped), None)
            reason = str(skipped[2]) if isinstance(skipped, tuple) else ""
            seconds = sum(report.duration for report in reports)
            times = max(1, _repeated[test])
            yield Ran(test, rows, counters, outcome, round(seconds, 3), times, reason)


def _rows_of(item: pytest.Item, kind: str) -> list[str]:
    return [str(row) for mark in item.iter_markers(kind) for row in mark.args]


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--faults-json", type=Path, help="where to write what became of each row")


def pytest_configure(config: pytest.Config) -> None:
    config.pluginmanager.register(Recorder(), "faults-recorder")


def pytest_sessionfinish(session: pytest.Session) -> None:
    path = session.config.getoption("--faults-json")
    recorder: Any = session.config.pluginmanager.get_plugin("faults-recorder")
    if path is not None:
        path.write_bytes(msgspec.json.encode(list(recorder.ran())))


def read(paths: Iterable[Path]) -> list[Ran]:
    """What several runs have written; of a test that ran twice, its failure or its longer run."""
    found: dict[str, Ran] = {}
    for path in paths:
        for each in msgspec.json.decode(path.read_bytes(), type=list[Ran]):
            found[each.test] = max(found.get(each.test, each), each, key=_weight)
    return [*found.values()]


def _weight(ran: Ran) -> tuple[int, int]:
    return ("skipped", "passed", "failed").index(ran.outcome), ran.times


def failing(ran: Sequence[Ran]) -> list[str]:
    """Rows with a failed test or counter-test, or without one of either kind that passed."""
    return [row for row in ROWS if _verdict(row, ran) in FAILING]


def in_part(ran: Sequence[Ran]) -> dict[str, str]:
    """Rows that hold as far as they were run, and how far that is."""
    verdicts = {row: _verdict(row, ran) for row in ROWS}
    return {row: told for row, told in verdicts.items() if told.startswith(f"{HOLDS},")}


def render(ran: Sequence[Ran], *, heading: str) -> str:
    """The page: one table a section, one line a row."""
    verdicts = Counter(_verdict(row, ran) for row in ROWS)
    lines = ["# What headrace survives", "", heading, ""]
    lines.append(", ".join(f"{n} rows: {what}" for what, n in sorted(verdicts.items())) + ".")
    for letter, title in SECTIONS.items():
        lines += ["", f"## {letter}. {title}", ""]
        lines += ["| row | fault and promise | tests | times | counter-tests | s | |"]
        lines += ["|---|---|--:|--:|--:|--:|---|"]
        lines += [_line(row, ran) for row in ROWS if row[0] == letter]
    reasons = [*NOT_APPLICABLE.items(), *NO_COUNTER.items(), *OTHERWISE.items()]
    lines += ["", "## Reasons", ""]
    lines += [f"- {row}: {reason}" for row, reason in sorted(reasons)]
    skipped = {
        each.test.partition("[")[0]: each.reason for each in ran if each.outcome == "skipped"
    }
    lines += [f"- skipped, `{test}`: {reason}" for test, reason in skipped.items()]
    return "\n".join(lines) + "\n"


def _line(row: str, ran: Sequence[Ran]) -> str:
    tests = [each for each in ran if row in each.rows and each.outcome != "skipped"]
    counters = [each for each in ran if row in each.counters and each.outcome != "skipped"]
    seconds = sum(each.seconds for each in (*tests, *counters))
    times = str(_times(row, ran))
    if row in STATED:
        times += f" of {STATED[row]}"
    cells = (row, ROWS[row], _share(tests), times, _share(counters), f"{seconds:.0f}")
    return f"| {' | '.join(map(str, cells))} | {_verdict(row, ran)} |"


def _share(tests: Sequence[Ran]) -> str:
    passed = sum(each.outcome == "passed" for each in tests)
    return str(passed) if passed == len(tests) else f"{passed} of {len(tests)}"


def _times(row: str, ran: Sequence[Ran]) -> int:
    return sum(each.times for each in ran if row in each.rows and each.outcome != "skipped")


def _verdict(row: str, ran: Sequence[Ran]) -> str:
    """What may be said of a row: no more than what was run has shown."""
    if row in NOT_APPLICABLE:
        return "not applicable"
    own = [each for each in ran if row in each.rows or row in each.counters]
    if any(each.outcome == "failed" for each in own):
        return "FAILS"
    passed = [each for each in own if each.outcome == "passed"]
    if not any(row in each.rows for each in passed):
        return "not run"
    if row not in NO_COUNTER and not any(row in each.counters for each in passed):
        return "no counter-test ran"
    if _times(row, ran) < STATED.get(row, 0):
        return f"{HOLDS}, fewer times than stated"
    return HOLDS if len(passed) == len(own) else f"{HOLDS}, where it was not skipped"
