"""A predict that never returns and holds the interpreter's lock; callers whose time is short."""

from __future__ import annotations

import time

import pytest

from tests.e2e.conftest import Serve, Served, eventually
from tests.faults.client import Load, Log
from tests.faults.conftest import rounds
from tests.faults.watch import lives, noted, workers

pytestmark = pytest.mark.slow

DEADLINE_S = 0.3
PREDICT_TIMEOUT_S = 3.0
LATE_S = 0.25
"""How much later than on a quiet server an answer may be on a busy machine."""


def lateness(log: Log, do: str, s: float = 0.0) -> float:
    """How long after its caller's deadline a request was answered with 504."""
    [got] = log.ask([{"do": do, "s": s}], f"x-request-timeout: {DEADLINE_S}\r\n")
    assert (got.status, got.code) == (504, "deadline_exceeded")
    return got.took_s - DEADLINE_S


def test_a_hang_is_504_at_the_callers_deadline_and_replaced_at_the_operators_only(
    serve: Serve,
) -> None:
    server = serve("Faulty", replicas=2, limits__predict_timeout_s=PREDICT_TIMEOUT_S)
    log = Log(server)
    quiet_s = max(lateness(log, "", 1.0) for _ in range(3))
    eventually(lambda: server.metric("headrace_running_items") == 0, "both to be idle")
    time.sleep(1.0)
    before = workers(server)
    with Load(log, 4) as load:
        began = time.monotonic()
        late_s = lateness(log, "predict: hang")
        [hung] = noted(server, "hung")
        others = load.rate(PREDICT_TIMEOUT_S - DEADLINE_S - 0.7)
        assert time.monotonic() - began < PREDICT_TIMEOUT_S, "a machine as slow proves nothing"
        assert lives(hung), "a caller's deadline ends no worker"
        eventually(lambda: not lives(hung), "the hung one to be replaced")
        replaced_after_s = time.monotonic() - began
        eventually(lambda: server.metric("headrace_replicas_ready") == 2, "another in its place")
    load.check()
    assert others > 50
    assert late_s < quiet_s + LATE_S
    assert PREDICT_TIMEOUT_S - 0.1 < replaced_after_s < PREDICT_TIMEOUT_S + 2.0
    assert len(workers(server) & before) == 1, "the other one is the same"
    assert server.metric("headrace_replica_restarts_total", reason="hung") == 1
    assert server.metric("headrace_replica_restarts_total") == 1
    log.check()


def test_the_mates_of_an_item_that_hangs_are_answered_and_it_alone_fails(serve: Serve) -> None:
    server = serve("Faulty", limits__predict_timeout_s=1.0, batching__max_batch_delay_s=0.2)
    log = Log(server)
    got = log.ask([{"do": "predict: hang" if n == 3 else ""} for n in range(8)])
    assert [each.code for each in got] == [""] * 3 + ["replica_lost"] + [""] * 4
    assert server.metric("headrace_replica_restarts_total", reason="hung") == 2
    log.check()


def test_callers_with_a_millisecond_end_no_worker(serve: Serve) -> None:
    server = serve("Faulty")
    log, before = Log(server), workers(server)
    for n in range(rounds(100)):
        [got] = log.ask([{"s": 0.004 * (n % 2)}], "x-request-timeout: 0.001\r\n")
        assert got.is_right or got.status == 504
    assert log.statuses[504] >= rounds(100) // 4
    assert log.ask([{}])[0].is_right
    assert workers(server) == before
    assert server.metric("headrace_replica_restarts_total") == 0
    log.check()


def test_one_that_hangs_while_it_loads_is_given_up_at_the_start_timeout(serve: Serve) -> None:
    server: Served = serve("HangsOnLoad", is_ready=False, start_timeout_s=2)
    assert server.exit_code() == 4
    assert "start_timeout_s" in "".join(server.log_lines)
