"""A worker prepares the next batch while it predicts one."""

from __future__ import annotations

import logging
import time

import pytest

from tests.e2e.conftest import Serve
from tests.faults.client import Load, Log
from tests.faults.conftest import seconds

pytestmark = pytest.mark.slow

_log = logging.getLogger(__name__)

PREDICT_S = 0.005
MOST = 6.2 / 5.06
"""Of a sleep's own time; taking turns would be 1.4 of it."""


def slept_s() -> float:
    """How long a sleep of predict's length takes here and now."""
    began, count = time.monotonic(), 60
    for _ in range(count):
        time.sleep(PREDICT_S)
    return (time.monotonic() - began) / count


def test_preprocess_costs_no_time_where_predict_leaves_the_interpreter_alone(serve: Serve) -> None:
    server = serve("Paced")
    log = Log(server)
    ratios = []
    with Load(log, 10) as load:
        load.rate(0.5)
        for _ in range(10):
            began, batches = time.monotonic(), server.metric("headrace_batches_total")
            sleep_s = slept_s()
            time.sleep(seconds(0.7))
            ran = server.metric("headrace_batches_total") - batches
            ratios.append((time.monotonic() - began) / ran / sleep_s)
            if ratios[-1] < MOST:
                break
    load.check()
    _log.info("batch period over sleep %s, a sleep %.2f ms", ratios, sleep_s * 1e3)
    assert min(ratios) < MOST, ratios
