"""What a worker is told when it is started."""

from __future__ import annotations

import os

import pytest

from headrace.workers.start import VARIABLE, Start

FULL = Start(
    secret=bytes(range(256)),
    fd=3,
    mark_fd=4,
    crash_fd=5,
    memory_fd=6,
    address=("front.example", 8070),
    tls="system",
    parent=1,
    cpus=(0, 2),
    niceness=5,
    devices="0+1",
    seat=7,
    log_level="warning",
    log_format="json",
)


@pytest.mark.parametrize("start", [FULL, Start(secret=b"s")], ids=["full", "least"])
def test_it_comes_through_an_environment_as_it_was(start: Start) -> None:
    assert Start.take(start.to_environment()) == start


def test_taking_it_leaves_nothing_for_children(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(VARIABLE, FULL.to_environment()[VARIABLE])
    assert Start.take() == FULL
    assert VARIABLE not in os.environ
    assert Start.take() is None


def test_it_is_text_that_an_environment_can_hold() -> None:
    [(name, value)] = FULL.to_environment().items()
    assert name == VARIABLE
    assert value.isascii() and "\0" not in value
