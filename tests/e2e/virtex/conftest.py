"""Servers of virtex that tests start."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.e2e.virtex.served import Launch, Service


@pytest.fixture
def launch(short_folder: Path) -> Iterator[Launch]:
    """Starts servers that this test ends."""
    launch = Launch(short_folder)
    yield launch
    launch.stop()


# gunicorn is no part of every environment that runs the quick tests.
SERVERS = ["uvicorn", pytest.param("gunicorn", marks=pytest.mark.slow)]


@pytest.fixture(scope="session", params=SERVERS)
def scripted(request: pytest.FixtureRequest, short_folder: Path) -> Iterator[Service]:
    """One server for all tests that leave it as it was."""
    launch = Launch(short_folder)
    start = launch.uvicorn if request.param == "uvicorn" else launch.gunicorn
    yield start("scripted", env={"OPTIONS": '{"max_body_bytes": 100000}'})
    launch.stop()
