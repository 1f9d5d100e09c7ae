"""Servers whose models misbehave.

FAULT_ROUNDS and FAULT_SECONDS make the tests that repeat something, or go on for a while, long:
`FAULT_ROUNDS=200 pytest tests/faults/test_deaths.py`. What they measured is logged at level info.
"""

from __future__ import annotations

import os
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.e2e.conftest import Serve, Served, starter
from tests.faults.watch import kill, tree

MODELS = Path(__file__).with_name("models.py")
GONE_S = 3.0
"""How soon nothing of a killed server may be left, on a busy machine."""


def rounds(few: int) -> int:
    """How often to repeat something: a few times, or FAULT_ROUNDS times in the long version."""
    return int(os.environ.get("FAULT_ROUNDS", few))


def seconds(few: float) -> float:
    """How long to go on: a few seconds, or FAULT_SECONDS in the long version."""
    return float(os.environ.get("FAULT_SECONDS", few))


IS_LONG = not {"FAULT_ROUNDS", "FAULT_SECONDS"}.isdisjoint(os.environ)
LONG_TIMEOUT_S = 3600


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if IS_LONG and item.path.is_relative_to(Path(__file__).parent):
            item.add_marker(pytest.mark.timeout(LONG_TIMEOUT_S))


@pytest.fixture
def serve() -> Iterator[Serve]:
    """Starts servers that this test ends, and looks that nothing of them is left."""
    servers: list[Served] = []
    with tempfile.TemporaryDirectory(prefix="hr-") as folder:
        yield starter(Path(folder), servers, MODELS)
        for server in servers:
            server.process.kill()
        left = [end_what_is_left(server) for server in servers]
        for server in servers:
            server.stop()
        assert not any(left)


def end_what_is_left(server: Served) -> set[int]:
    """The processes that outlive a server that was killed; they would hold its output open."""
    ends = time.monotonic() + GONE_S
    while (left := tree(server)) and time.monotonic() < ends:
        time.sleep(0.01)
    for pid in left:
        kill(pid)
    return left
