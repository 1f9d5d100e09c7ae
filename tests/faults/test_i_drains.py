"""Servers that are told to stop at a random moment under load, again and again.

FAULT_DRAINS says how often in all; several runs may go side by side.
"""

from __future__ import annotations

import asyncio
import logging
import os
import random
import tempfile
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.conftest import Serve
from tests.faults.conftest import IS_LONG
from tests.faults.contract import by
from tests.faults.defences import without
from tests.faults.drains import Asker, Tally
from tests.faults.watch import noted, tree

pytestmark = pytest.mark.slow

_log = logging.getLogger(__name__)

DRAINS = int(os.environ.get("FAULT_DRAINS", 1000 if IS_LONG else 4))
PLACES = ("tcp", "unix")
MAX_NUMBER = 1 << 20
SLEEPY_S = (0.02, 0.3)


def drain(serve: Serve, way: str, place: str, *, s: float | None = None) -> Tally:
    """One server from its start to its end, told to stop at any moment of it.

    64 clients ask without a pause, and 16 with pauses as long as the grace of an idle connection.
    """
    settings: dict[str, Any] = {
        "drain_delay_s": random.choice((0.0, 0.2)),
        "replicas": random.choice((1, 2)),
        **by(way),
    }
    with tempfile.TemporaryDirectory(prefix="hr-") as folder:
        if place == "unix":
            settings["uds"] = Path(folder) / "s"
        server = serve("Faulty", **settings)
        tally = Tally()

        async def load() -> None:
            numbers = [range(n, MAX_NUMBER, 80) for n in range(1, 81)]
            order = {"do": "note", "s": random.choice((0.0, 0.02)) if s is None else s}
            askers = [
                Asker(server, tally, own, (0.0, 0.0) if n < 64 else SLEEPY_S, order)
                for n, own in enumerate(numbers)
            ]
            asyncio.get_running_loop().call_later(random.uniform(0.1, 0.6), server.terminate)
            await asyncio.gather(*(asker.run() for asker in askers))

        asyncio.run(load())
        assert server.exit_code() == 0
        check(tally, noted(server, "ran"))
        assert not tree(server)
        assert list((server.folder / "tmp").iterdir()) == []
        assert server.log_lines == []
    return tally


def check(tally: Tally, ran: list[int]) -> None:
    """Each accepted request was run and answered, once, and nothing was run for nobody."""
    assert (tally.lost[:5], tally.wrong[:5]) == ([], [])
    assert len(tally.right) > 10
    assert sorted(ran) == sorted(tally.right)


@pytest.mark.row("I1", "I2")
@pytest.mark.parametrize("place", PLACES)
def test_no_drain_loses_a_request_that_was_accepted(serve: Serve, way: str, place: str) -> None:
    right = crossed = raced = last = 0
    count = max(1, DRAINS // 4)
    for _ in range(count):
        tally = drain(serve, way, place)
        right += len(tally.right)
        crossed += tally.crossed
        raced += tally.raced
        last += tally.last
    _log.info(
        "%d drains (%s, %s): %d accepted and answered, 0 lost, %d told to go, %d behind an end,"
        " %d while it came",
        count,
        way,
        place,
        right,
        last,
        crossed,
        raced,
    )
    assert raced <= 1 + count // 100


@pytest.mark.counter("I1")
def test_drains_that_wait_for_nothing_are_noticed(serve: Serve) -> None:
    hasty = partial(serve, env=without("a drain waits for what was accepted"))
    with pytest.raises(AssertionError):
        for _ in range(5):
            drain(hasty, "fast", "tcp", s=0.05)
