"""Servers replaced one after another behind a balancer, in the order of Kubernetes.

A pod that is to go is told so at once, while the proxies hear of it some time later: until then
they send it requests. `drain_delay_s` covers that.
"""

from __future__ import annotations

import logging
import tempfile
import time
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.conftest import Serve
from tests.faults.conftest import rounds
from tests.faults.contract import by
from tests.faults.nginx import Nginx, Traffic

pytestmark = pytest.mark.slow

_log = logging.getLogger(__name__)

HEARD_AFTER_S = 0.5
"""How long after a server was told to go the balancer hears of it."""
DELAY_S = 1.5


def roll(serve: Serve, times: int, **settings: Any) -> Traffic:
    """Replace each of two servers so many times, under load."""
    servers = [serve("Faulty", **settings) for _ in range(2)]
    with tempfile.TemporaryDirectory(prefix="hr-") as folder:
        nginx = Nginx(Path(folder), servers)
        try:
            with Traffic(nginx.path, closed=16, rate=50.0) as traffic:
                for _ in range(times):
                    for place in range(2):
                        old, new = servers[place], serve("Faulty", **settings)
                        servers[place] = new
                        old.terminate()
                        time.sleep(HEARD_AFTER_S)
                        nginx.use(servers)
                        assert old.exit_code() == 0
                        assert old.log_lines == []
                        old.stop()
                time.sleep(0.2)
            _log.info(
                "%d right, %d failed; %s", traffic.right, len(traffic.failed), nginx.told()[:500]
            )
        finally:
            nginx.close()
    return traffic


@pytest.mark.row("I1", "I2")
def test_no_request_fails_while_each_server_is_replaced(serve: Serve, way: str) -> None:
    traffic = roll(serve, rounds(1), drain_delay_s=DELAY_S, **by(way))
    assert traffic.failed[:5] == []
    assert traffic.right > 100


@pytest.mark.counter("I1")
def test_without_a_delay_requests_reach_a_server_that_is_gone(serve: Serve) -> None:
    failed = roll(serve, 1, drain_delay_s=0.0).failed
    assert any("502 Bad Gateway" in text for text in failed)
