"""The regression check of `benchmarks/instructions.py`: what it says, and that its cases run."""

from __future__ import annotations

import pytest
from _hot import CASES, yardstick
from instructions import ROOM, YARDSTICK, compared

FIGURES = {YARDSTICK: 1000.0, "a": 100.0, "b": 200.0}


def test_what_is_as_it_was_passes() -> None:
    lines, grown = compared(FIGURES, FIGURES)
    assert grown == []
    assert lines[1] == "a: 100 instructions an item, 1.000 of the committed figure"


def test_growth_within_the_room_passes_and_more_fails_by_name() -> None:
    most = 100.0 * (1 + ROOM)
    assert compared(FIGURES | {"a": most - 0.1}, FIGURES)[1] == []
    assert compared(FIGURES | {"a": most + 0.1}, FIGURES)[1] == ["a (+10.1%)"]


def test_a_slower_interpreter_is_no_growth_and_hides_none() -> None:
    slower = {name: 1.2 * instructions for name, instructions in FIGURES.items()}
    assert compared(slower, FIGURES)[1] == []
    assert compared(slower | {"b": 1.2 * 230}, FIGURES)[1] == ["b (+15.0%)"]


def test_a_case_without_a_figure_fails() -> None:
    assert compared(FIGURES | {"new": 1.0}, FIGURES)[1] == ["new (no figure)"]


def test_a_cheaper_case_says_how_to_hold_it() -> None:
    lines, grown = compared(FIGURES | {"a": 50.0}, FIGURES)
    assert grown == []
    assert "--update" in lines[1]


@pytest.mark.parametrize("name", CASES)
def test_a_case_does_its_work_in_every_pass(name: str) -> None:
    once = CASES[name].make()
    for _ in range(3):
        once()


def test_the_yardstick_does_its_work() -> None:
    yardstick()
