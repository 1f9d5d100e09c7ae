"""The suite is whole: rows have tests, marks have rows, defences can be taken away."""

from __future__ import annotations

import ast
from collections import defaultdict
from pathlib import Path

import msgspec
import pytest

from tests.faults.defences import DEFENCES
from tests.faults.report import Ran, read
from tests.faults.rows import NO_COUNTER, NOT_APPLICABLE, OTHERWISE, ROWS, SECTIONS

HERE = Path(__file__).parent


def marked() -> dict[str, dict[str, list[str]]]:
    """The files with marks of each kind, by the row that they name."""
    found: dict[str, dict[str, list[str]]] = {
        "row": defaultdict(list),
        "counter": defaultdict(list),
    }
    for path in HERE.parent.rglob("test_*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
                if ast.unparse(node.func.value) == "pytest.mark" and node.func.attr in found:
                    for argument in node.args:
                        found[node.func.attr][ast.literal_eval(argument)].append(path.name)
    return found


MARKED = marked()


def test_each_row_has_a_section() -> None:
    assert {row[0] for row in ROWS} == set(SECTIONS)


@pytest.mark.parametrize("row", sorted(set(ROWS) - set(NOT_APPLICABLE)))
def test_a_row_is_proven(row: str) -> None:
    assert MARKED["row"][row], "no test is marked with it"


@pytest.mark.parametrize("row", sorted(set(ROWS) - set(NOT_APPLICABLE) - set(NO_COUNTER)))
def test_a_row_can_fail(row: str) -> None:
    assert MARKED["counter"][row], "no test takes its defence away"


def test_no_mark_names_a_row_that_is_not_there() -> None:
    assert {*MARKED["row"], *MARKED["counter"]} <= set(ROWS)


def test_what_is_excused_is_not_proven_elsewhere() -> None:
    assert not set(NOT_APPLICABLE) & set(MARKED["row"])
    assert not set(NO_COUNTER) & set(MARKED["counter"])
    assert {*NOT_APPLICABLE, *NO_COUNTER, *OTHERWISE} <= set(ROWS)


@pytest.mark.parametrize("name", DEFENCES)
def test_a_defence_is_where_it_was(name: str) -> None:
    for defence in DEFENCES[name]:
        source = defence.source()
        found = source.count(defence.old)
        assert found == 1, f"{defence.module}: its old text is there {found} times"
        compile(source.replace(defence.old, defence.new), defence.module, "exec")


@pytest.mark.parametrize(
    ("outcomes", "expected"),
    [
        ([("passed", 4), ("passed", 1000)], ("passed", 1000)),
        ([("passed", 1000), ("passed", 4)], ("passed", 1000)),
        ([("skipped", 1), ("passed", 1)], ("passed", 1)),
        ([("failed", 1), ("passed", 1000)], ("failed", 1)),
        ([("passed", 1000), ("failed", 1)], ("failed", 1)),
    ],
)
def test_of_a_test_that_ran_twice_its_failure_counts_or_its_longer_run(
    tmp_path: Path, outcomes: list[tuple[str, int]], expected: tuple[str, int]
) -> None:
    paths = []
    for number, (outcome, times) in enumerate(outcomes):
        paths.append(tmp_path / f"{number}.json")
        ran = Ran("a", ["A1"], [], outcome, 1.0, times, "")
        paths[-1].write_bytes(msgspec.json.encode([ran]))
    [found] = read(paths)
    assert (found.outcome, found.times) == expected
