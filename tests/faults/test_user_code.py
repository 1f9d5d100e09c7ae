"""User code that does to its process what it should not: the server and its protocol go on."""

from __future__ import annotations

import pytest

from tests.e2e.conftest import Serve, Served, eventually
from tests.faults.client import Log
from tests.faults.models import ON_LOAD
from tests.faults.watch import held, kill, lives, noted, tree, workers

pytestmark = pytest.mark.slow

RESTARTS = "headrace_replica_restarts_total"
STAGES = ("decode", "preprocess", "predict")
HARMLESS = (
    "flood",
    "ignore signals",
    "threads",
    "asyncio",
    "locale",
    "folder",
    "spawn",
    "fork",
)


def goes_on(server: Served, log: Log) -> None:
    """Good items are answered, and SIGTERM leaves nothing of the server."""
    assert [got for got in log.ask([{}] * 16) if not got.is_right] == []
    log.check()
    server.terminate()
    assert server.exit_code() == 0
    assert not tree(server)


@pytest.mark.parametrize("fault", HARMLESS)
def test_what_does_not_end_a_worker_changes_no_answer(serve: Serve, fault: str) -> None:
    server = serve("Faulty")
    log = Log(server)
    for stage in STAGES:
        got = log.ask([{"do": f"{stage}: {fault}"}, *[{}] * 7])
        assert [each for each in got if not each.is_right] == []
    assert server.metric(RESTARTS) == 0
    goes_on(server, log)


def test_load_may_do_all_of_it(serve: Serve) -> None:
    server = serve("Faulty", env={ON_LOAD: ", ".join(HARMLESS)})
    goes_on(server, Log(server))


@pytest.mark.parametrize(("fault", "code"), [("sys.exit", "model_error"), ("interrupt", "")])
def test_what_asks_the_interpreter_to_exit_fails_its_own_item_at_most(
    serve: Serve, fault: str, code: str
) -> None:
    server = serve("Faulty", batching__max_batch_delay_s=0.05)
    log = Log(server)
    for stage in STAGES:
        [got, *others] = log.ask([{"do": f"{stage}: {fault}"}, *[{}] * 7])
        assert [each for each in others if not each.is_right] == []
        assert got.code == code
    assert server.metric(RESTARTS) == 0
    goes_on(server, log)


@pytest.mark.parametrize("stage", ["preprocess", "predict"])
def test_one_that_closes_the_worker_protocols_descriptors_is_replaced(
    serve: Serve, stage: str
) -> None:
    server = serve("Faulty", "Quiet", limits__predict_timeout_s=2.0)
    log = Log(server)
    assert log.ask([{}])[0].is_right
    before = held(server)
    [got] = log.ask([{"do": f"{stage}: close descriptors"}])
    assert got.is_right or got.code == "replica_lost"
    log.check()
    assert 1 <= server.metric(RESTARTS) <= 2
    eventually(lambda: held(server) == before, f"as before: {before}")
    goes_on(server, log)


@pytest.mark.parametrize("fault", ["spawn", "fork"])
def test_the_children_of_a_worker_die_with_it(serve: Serve, fault: str) -> None:
    server = serve("Faulty")
    log = Log(server)
    assert log.ask([{"do": f"predict: {fault}"}])[0].is_right
    before = held(server)
    left_behind = noted(server, "children")
    assert all(lives(pid) for pid in left_behind)
    [worker] = workers(server)
    kill(worker)
    eventually(lambda: not any(lives(pid) for pid in left_behind), "no orphan", 5.0)
    assert log.ask([{}])[0].is_right
    eventually(lambda: held(server) == before, f"as before: {before}")
    goes_on(server, log)
