"""Models that die before they are ready, at the first start or at a later one."""

from __future__ import annotations

import time

import pytest

from tests.e2e.conftest import Serve, Served, eventually
from tests.faults.client import Log
from tests.faults.models import ON_IMPORT, ON_LOAD
from tests.faults.watch import kill, noted, tree, workers

pytestmark = pytest.mark.slow

MOST_SPAWNS = 3
REASONS = {"exit": "exited with code 7", "segfault": "SIGSEGV", "sys.exit": "SystemExit: 3"}


def said(server: Served) -> str:
    """Why it says that it did not become ready."""
    records = [r for r in server.records() if r["message"] == "a model did not become ready"]
    return str([record["reason"] for record in records])


@pytest.mark.parametrize("fault", ["exit", "segfault"])
@pytest.mark.parametrize("at", [ON_IMPORT, ON_LOAD])
def test_a_crash_loop_at_the_start_ends_with_4_and_a_reason_after_few_tries(
    serve: Serve, at: str, fault: str
) -> None:
    began = time.monotonic()
    server = serve("Faulty", is_ready=False, env={at: fault})
    assert server.exit_code() == 4
    assert time.monotonic() - began < 20.0
    assert 1 <= len(noted(server, "imports")) <= MOST_SPAWNS
    assert REASONS[fault] in said(server)
    assert server.output == []
    assert not tree(server)


def test_a_load_that_asks_to_exit_is_a_load_that_raises(serve: Serve) -> None:
    server = serve("Faulty", is_ready=False, env={ON_LOAD: "sys.exit"})
    assert server.exit_code() == 4
    assert REASONS["sys.exit"] in said(server)
    assert len(noted(server, "imports")) == 1, "a second try would bring the same"


def test_a_module_that_asks_to_exit_is_a_wrong_target(serve: Serve) -> None:
    server = serve("Faulty", is_ready=False, env={ON_IMPORT: "sys.exit"})
    assert server.exit_code() == 2
    assert "importing it raised SystemExit" in "".join(server.log_lines)


def test_a_wrong_target_ends_with_2_after_one_try_and_takes_the_others_along(serve: Serve) -> None:
    server = serve("Faulty", "Fulty", is_ready=False)
    assert server.exit_code() == 2
    assert "has no Fulty; did you mean Faulty?" in "".join(server.log_lines)
    assert not tree(server)


def test_with_no_worker_left_requests_wait_for_the_next_if_they_have_the_time(
    serve: Serve,
) -> None:
    server = serve("Faulty", replicas=2)
    log = Log(server)
    for pid in workers(server):
        kill(pid)
    began = time.monotonic()
    eventually(lambda: server.get("/readyz").status_code == 503, "not ready", 5.0)
    assert time.monotonic() - began < 1.0
    patient = log.send([{}] * 4)
    [hasty] = log.ask([{}], "x-request-timeout: 0.05\r\n")
    assert hasty.status in (503, 504)
    assert hasty.took_s < 1.0
    assert [got for got in log.answers(patient) if not got.is_right] == []
    log.check()


def test_in_back_off_all_get_503_at_once_until_it_heals_by_itself(serve: Serve) -> None:
    server = serve("FailsLater")
    log = Log(server)
    kill(noted(server, "loads")[0])
    eventually(lambda: "the next start is in" in server.get("/readyz").text, "the back-off")
    wire = server.wire()
    wire.post("/predict", '{"n": 1}')
    began = time.monotonic()
    answer = wire.answer()
    assert time.monotonic() - began < 1.0
    assert (answer.status, answer.code) == (503, "not_ready")
    assert int(answer.headers["retry-after"]) >= 1
    log.statuses[503] += 1
    server.set("healed")
    eventually(lambda: server.get("/readyz").status_code == 200, "it to heal")
    assert log.ask([{}])[0].is_right
    assert len(noted(server, "loads")) < 8, "no spin"
    log.check()
