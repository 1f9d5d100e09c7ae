"""Servers whose models misbehave.

FAULT_ROUNDS and FAULT_SECONDS make the tests that repeat something, or go on for a while, long:
`FAULT_ROUNDS=200 pytest tests/faults/test_kills.py`. What they measured is logged at level info.
FAULT_LATE_S is what a busy machine may be late by: 0 on one that nothing else uses.
"""

from __future__ import annotations

import os
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.conftest import Serve, Served, starter
from tests.faults.contract import LONG_ROUNDS, WAYS, Contract, by
from tests.faults.report import repeated
from tests.faults.stages import CELLS, Cell
from tests.faults.watch import kill, tree

MODELS = Path(__file__).with_name("models.py")
HTTP_MODELS = Path(__file__).with_name("http_models.py")
ECHO = f"{Path(__file__).parents[2] / 'examples' / 'echo.py'}:Echo"
MIB = 1 << 20
TIGHT = {
    "limits__max_json_bytes": MIB // 2,
    "limits__max_body_bytes": MIB,
    "limits__max_response_bytes": 12 * MIB,
    "limits__max_queue_bytes": 8 * MIB,
    "limits__head_timeout_s": 1.0,
    "limits__body_timeout_s": 1.0,
    "limits__write_timeout_s": 1.0,
    "limits__keep_alive_s": 600,
}
"""Limits that a test reaches soon."""
LOOSE = {
    "limits__max_json_bytes": 1 << 40,
    "limits__max_body_bytes": 1 << 40,
    "limits__max_queue_bytes": 1 << 40,
    "limits__max_inflight_bytes": 1 << 40,
    "limits__max_head_bytes": 1 << 40,
    "limits__max_headers": 1 << 40,
    "limits__max_depth": 512,
    "limits__head_timeout_s": 600.0,
    "limits__body_timeout_s": 600.0,
    "limits__keep_alive_s": 600,
}
"""No limits to speak of: what the others defend from gets through."""
GONE_S = 3.0
"""How soon nothing of a killed server may be left, on a busy machine."""


def rounds(few: int) -> int:
    """How often to repeat something: a few times, or FAULT_ROUNDS times if those are more."""
    return repeated(max(few, LONG_ROUNDS))


def seconds(few: float) -> float:
    """How long to go on: a few seconds, or FAULT_SECONDS if those are more."""
    return max(few, float(os.environ.get("FAULT_SECONDS", 0)))


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


@pytest.fixture(scope="session", params=WAYS)
def way(request: pytest.FixtureRequest) -> str:
    """The way of predict requests."""
    return str(request.param)


@pytest.fixture(scope="session")
def contract(way: str) -> Iterator[Contract]:
    """One server for all rows, each of which must leave it as it was."""
    with served_http(way, **TIGHT) as server:
        contract = Contract(server, way)
        yield contract
        contract.close()


@pytest.fixture(scope="session")
def undefended(way: str) -> Iterator[Served]:
    """A server without limits, where a row fails if it tests its limit."""
    with served_http(way, executor="thread", **LOOSE) as server:
        yield server


@pytest.fixture(scope="session")
def served_cell(request: pytest.FixtureRequest) -> Iterator[Cell]:
    """One server of `stages.CELLS` for all tests, each of which leaves it as it was."""
    with CELLS[request.param]() as cell:
        yield cell


@pytest.fixture
def cell(served_cell: Cell) -> Iterator[Cell]:
    """That server, for one test."""
    served_cell.begin()
    yield served_cell
    served_cell.release()


@contextmanager
def served_http(way: str, **settings: Any) -> Iterator[Served]:
    """A server of all models of `http_models.py` and of examples/echo.py, its first."""
    servers: list[Served] = []
    with tempfile.TemporaryDirectory(prefix="hr-") as folder:
        names = (ECHO, "Canary", "Typed", "Size", "Held", "Large")
        settings |= by(way)
        try:
            server = starter(Path(folder), servers, HTTP_MODELS)(*names, **settings)
            yield server
            server.terminate()
            assert server.exit_code() == 0
        finally:
            for each in servers:
                each.stop()


@contextmanager
def served_anyhow(models: Path, *names: str, **settings: Any) -> Iterator[Served]:
    """A server of models of a file that may be broken: it ends as it likes."""
    servers: list[Served] = []
    with tempfile.TemporaryDirectory(prefix="hr-") as folder:
        server = starter(Path(folder), servers, models)(*names, **settings)
        try:
            yield server
        finally:
            server.process.kill()
            end_what_is_left(server)
            server.stop()


def end_what_is_left(server: Served) -> set[int]:
    """The processes that outlive a server that was killed; they would hold its output open."""
    ends = time.monotonic() + GONE_S
    while (left := tree(server)) and time.monotonic() < ends:
        time.sleep(0.01)
    for pid in left:
        kill(pid)
    return left
