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


def test_every_request_is_answered_rightly_while_workers_are_killed_at_random(
    serve: Serve,
) -> None:
    server = serve("Faulty", replicas=2)
    log = Log(server)
    random_ = random.Random(20)
    held_before, rss_before = held(server), 0
    with Load(log, 64) as load:
        load.rate(0.5)
        began, kills = time.monotonic(), 0
        while time.monotonic() < began + seconds(10.0):
            if not rss_before and time.monotonic() > began + seconds(10.0) / 3:
                rss_before = rss_bytes(server)
            # Only those that have got as far as to load: the others kill no request.
            ready = sorted(workers(server) & set(noted(server, "loads")))
            if len(ready) == 2:
                kill(random_.choice(ready))
                kills += 1
            time.sleep(EVERY_S * random_.uniform(0.5, 1.5))
    _log.info("%d kills, %d answers, statuses %s", kills, len(load.got), log.statuses)
    load.check()
    assert kills > seconds(10.0) / 3
    log.check()
    eventually(lambda: server.metric("headrace_replicas_ready") == 2, "both")
    eventually(lambda: held(server) == held_before, f"as before: {held_before}")
    assert rss_bytes(server) - rss_before < SLACK_BYTES
    assert server.metric("headrace_replica_restarts_total", reason="killed") == kills
