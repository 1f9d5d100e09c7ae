"""Workers killed at any instant, under load."""

from __future__ import annotations

import logging
import random
import time

import pytest

from tests.e2e.conftest import Serve, eventually
from tests.faults.client import Load, Log
from tests.faults.conftest import seconds
from tests.faults.watch import SLACK_BYTES, held, kill, noted, rss_bytes, workers

pytestmark = pytest.mark.slow

_log = logging.getLogger(__name__)

EVERY_S = 0.2


@pytest.mark.row("F6")
@pytest.mark.parametrize(("spared", "connections", "s"), [(1, 64, 0.0), (0, 64, 0.0), (1, 2, 0.05)])
def test_every_request_is_answered_rightly_while_workers_are_killed_at_random(
    serve: Serve, spared: int, connections: int, s: float
) -> None:
    server = serve("Faulty", replicas=2)
    log = Log(server)
    random_, lasts_s = random.Random(20), seconds(2.5)
    held_before, rss_before = held(server), 0
    with Load(log, connections, {"s": s}) as load:
        load.rate(0.5)
        began, kills = time.monotonic(), 0
        while time.monotonic() < began + lasts_s:
            if not rss_before and time.monotonic() > began + lasts_s / 3:
                rss_before = rss_bytes(server)
            # Only those that have got as far as to load: the others have no request.
            ready = sorted(workers(server) & set(noted(server, "loads")))
            if len(ready) > spared:
                kill(random_.choice(ready))
                kills += 1
            time.sleep(EVERY_S * random_.uniform(0.5, 1.5))
    _log.info("%d spared: %d kills, statuses %s", spared, kills, dict(log.statuses))
    assert (load.lost, load.wrong[:5]) == ([], [])
    assert kills > lasts_s / 4
    log.check()
    eventually(lambda: server.metric("headrace_replicas_ready") == 2, "both")
    eventually(lambda: held(server) == held_before, f"as before: {held_before}")
    assert rss_bytes(server) - rss_before < SLACK_BYTES
    assert server.metric("headrace_replica_restarts_total", reason="killed") == kills
