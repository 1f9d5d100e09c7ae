"""Workers that hang, never get ready, or are all gone, and one that is slow."""

from __future__ import annotations

import os
import subprocess
import time
from pathlib import Path

import pytest

from tests.e2e.conftest import Serve, Served, eventually
from tests.faults.client import Load, Log
from tests.faults.conftest import rounds, seconds
from tests.faults.contract import LATE_S, Client, Contract, message
from tests.faults.eight import CANARY, EIGHT, fail_alone, served, told, undefended
from tests.faults.models import ON_IMPORT, ON_LOAD
from tests.faults.watch import kill, lives, noted, tree, workers

pytestmark = pytest.mark.slow

FAULTY = str(Path(__file__).with_name("models.py"))
RESTARTS = "headrace_replica_restarts_total"
ANSWER_LATE_S = 0.05
"""After its deadline, by what is promised."""
EXPECTED = ("a worker ended", "replica not ready")
PREDICT_TIMEOUT_S = 2.0

# E5


def is_late_by(client: Client, order: str, deadline_s: float = 0.3) -> float:
    """How long after its caller's deadline a request was answered with 504."""
    wire = client.wire()
    began = time.monotonic()
    wire.send(message("/models/faulty/predict", order, f"x-request-timeout: {deadline_s}\r\n"))
    answer = wire.answer()
    took_s = time.monotonic() - began
    assert told([answer]) == [(504, "deadline_exceeded")]
    return took_s - deadline_s


OUTLIVE = {
    "sleeps": '{"n": 1, "s": 0.8}',
    "sleeps-long": '{"n": 1, "s": 1.5}',
}


@pytest.mark.row("E5")
@pytest.mark.parametrize("order", OUTLIVE.values(), ids=OUTLIVE)
def test_a_callers_deadline_is_a_504_then_and_leaves_the_worker_alone(order: str) -> None:
    with served(f"{FAULTY}:Faulty", CANARY, limits__predict_timeout_s=PREDICT_TIMEOUT_S) as server:
        contract = Contract(server, "fast")
        before = workers(server)
        with contract.watch(reaches=1) as client:
            assert is_late_by(client, order) < ANSWER_LATE_S + LATE_S
        assert workers(server) == before
        assert server.metric(RESTARTS) == 0
        contract.close()


def is_replaced(client: Client, hang: str) -> None:
    """One hangs: 504 at its deadline, the worker's end at the operator's, others are served."""
    server = client.server
    before, hung_before = workers(server), len(noted(server, "hung"))
    log = Log(server)
    with Load(log, 4) as load:
        began = time.monotonic()
        late_s = is_late_by(client, hang)
        pid = eventually(lambda: noted(server, "hung")[hung_before:], "it to hang")[0]
        served_meanwhile = load.rate(max(0.1, began + PREDICT_TIMEOUT_S - 0.7 - time.monotonic()))
        is_early = time.monotonic() - began < PREDICT_TIMEOUT_S
        assert lives(pid) or not is_early, "a caller's deadline ends no worker"
        eventually(lambda: not lives(pid), "the hung one to be replaced", PREDICT_TIMEOUT_S + 3.0)
        replaced_after_s = time.monotonic() - began
        ready = "headrace_replicas_ready"
        eventually(lambda: server.metric(ready, model="faulty") == 2, "another in its place")
    load.check()
    client.statuses += log.statuses
    assert late_s < ANSWER_LATE_S + LATE_S
    assert served_meanwhile > 20
    assert replaced_after_s > PREDICT_TIMEOUT_S - 0.1
    assert len(before - workers(server)) == 1, "the other one is the same"


HANGS = {
    "holding-the-lock": '{"n": 1, "do": "predict: hang"}',
    "sleeping": '{"n": 1, "do": "predict: sleep"}',
    "in-preprocess": '{"n": 1, "do": "preprocess: hang"}',
}


@pytest.mark.row("E5")
def test_a_hang_is_504_at_the_callers_deadline_and_replaced_at_the_operators() -> None:
    with served(
        f"{FAULTY}:Faulty", CANARY, replicas=2, limits__predict_timeout_s=PREDICT_TIMEOUT_S
    ) as server:
        contract = Contract(server, "fast", expects=EXPECTED)
        for hang in HANGS.values():
            with contract.watch() as client:
                is_replaced(client, hang)
        assert server.metric(RESTARTS, reason="hung") == len(HANGS)
        assert server.metric(RESTARTS) == len(HANGS)
        contract.close()


@pytest.mark.row("E5")
def test_the_mates_of_an_item_that_hangs_are_answered_and_it_alone_fails() -> None:
    with served("Told", CANARY, limits__predict_timeout_s=1.0) as server:
        contract = Contract(server, "fast", expects=EXPECTED)
        with contract.watch(reaches=EIGHT) as client:
            fail_alone(client, ["", "", "", "predict: hang"], [(500, "replica_lost")])
        assert server.metric(RESTARTS, reason="hung") == 2
        contract.close()


@pytest.mark.row("E5")
def test_callers_with_a_millisecond_end_no_worker(serve: Serve) -> None:
    server = serve("Faulty")
    log, before = Log(server), workers(server)
    for n in range(rounds(100)):
        [got] = log.ask([{"s": 0.004 * (n % 2)}], "x-request-timeout: 0.001\r\n")
        assert got.is_right or got.status == 504
    assert log.statuses[504] >= rounds(100) // 4
    assert log.ask([{}])[0].is_right
    assert workers(server) == before
    assert server.metric(RESTARTS) == 0
    log.check()


@pytest.mark.counter("E5")
def test_a_hang_that_nobody_ends_is_noticed() -> None:
    with undefended("", f"{FAULTY}:Faulty", replicas=2, limits__predict_timeout_s=600) as client:
        with pytest.raises(AssertionError, match="the hung one to be replaced"):
            is_replaced(client, HANGS["holding-the-lock"])


@pytest.mark.counter("E5")
def test_a_deadline_that_nobody_watches_while_it_runs_is_noticed() -> None:
    with undefended("a deadline ends what runs", f"{FAULTY}:Faulty") as client:
        with pytest.raises(AssertionError):
            assert is_late_by(client, OUTLIVE["sleeps-long"]) < ANSWER_LATE_S + LATE_S


# E6

MOST_SPAWNS = 3
HANGS_FOR = "start_timeout_s"
STARTS = {
    "import-exits": ("Faulty", {ON_IMPORT: "exit"}, "exited with code 7", MOST_SPAWNS),
    "import-crashes": ("Faulty", {ON_IMPORT: "segfault"}, "SIGSEGV", MOST_SPAWNS),
    "load-exits": ("Faulty", {ON_LOAD: "exit"}, "exited with code 7", MOST_SPAWNS),
    "load-crashes": ("Faulty", {ON_LOAD: "segfault"}, "SIGSEGV", MOST_SPAWNS),
    "load-asks-to-exit": ("Faulty", {ON_LOAD: "sys.exit"}, "SystemExit: 3", 1),
    "load-raises": ("Faulty", {ON_LOAD: "raise"}, "ValueError: as it was told", 1),
    "load-hangs": ("HangsOnLoad", {}, HANGS_FOR, 1),
    "warm-up-raises": ("FailsToWarmUp", {}, "examples[0]: the model failed in predict", 1),
    "warm-up-exits": ("DiesInWarmUp", {}, "exited with code 7", MOST_SPAWNS),
    "warm-up-hangs": ("SlowToWarmUp", {}, HANGS_FOR, 1),
}


def ends_with_4(server: Served, reason: str, spawns: int, *, within_s: float = 30.0) -> None:
    """It ends and says why, after few tries."""
    assert server.exit_code(within_s) == 4
    said = [r["reason"] for r in server.records() if r["message"].startswith("a model did not")]
    assert reason in str(said)
    assert 1 <= len(noted(server, "imports")) <= spawns
    assert server.output == []
    assert not tree(server)


@pytest.mark.row("E6", "E10")
@pytest.mark.parametrize(("model", "env", "reason", "spawns"), STARTS.values(), ids=STARTS)
def test_a_model_that_never_gets_ready_ends_the_server_with_4_and_a_reason(
    serve: Serve, model: str, env: dict[str, str], reason: str, spawns: int
) -> None:
    server = serve(model, is_ready=False, env=env, start_timeout_s=3 if reason == HANGS_FOR else 60)
    ends_with_4(server, reason, spawns)


@pytest.mark.row("E6")
def test_a_module_that_asks_to_exit_is_a_wrong_target(serve: Serve) -> None:
    server = serve("Faulty", is_ready=False, env={ON_IMPORT: "sys.exit"})
    assert server.exit_code() == 2
    assert "importing it raised SystemExit" in "".join(server.log_lines)


@pytest.mark.row("E6")
def test_a_wrong_target_ends_with_2_after_one_try_and_takes_the_others_along(serve: Serve) -> None:
    server = serve("Faulty", "Fulty", is_ready=False)
    assert server.exit_code() == 2
    assert "has no Fulty; did you mean Faulty?" in "".join(server.log_lines)
    assert not tree(server)


@pytest.mark.row("E6")
@pytest.mark.parametrize("model", ["SlowToLoad", "SlowToWarmUp"])
def test_until_it_is_ready_readyz_says_no_and_why(serve: Serve, tmp_path: Path, model: str) -> None:
    server = serve(model, is_ready=False, uds=Path(os.path.relpath(tmp_path / "s")))
    file = {"SlowToLoad": "loads", "SlowToWarmUp": "warms up"}[model]
    eventually(lambda: noted(server, file), "it to be at it")
    answer = server.get("/readyz")
    assert answer.status_code == 503
    [replica] = next(iter(answer.json()["models"].values()))["replicas"]
    assert (replica["state"], replica["reason"]) == ("starting", "loading")
    server.set({"SlowToLoad": "loaded", "SlowToWarmUp": "warm"}[model])
    server.wait_ready()
    assert server.predict(3).json() == 6


@pytest.mark.counter("E6")
def test_a_load_that_may_take_for_ever_is_noticed(serve: Serve) -> None:
    server = serve("HangsOnLoad", is_ready=False, start_timeout_s=600)
    with pytest.raises(subprocess.TimeoutExpired):
        ends_with_4(server, "start_timeout_s", 1, within_s=6.0)


# E10


@pytest.mark.row("E10")
def test_with_no_worker_left_requests_wait_for_the_next_if_they_have_the_time(
    serve: Serve,
) -> None:
    server = serve("Faulty", replicas=2)
    log = Log(server)
    for pid in workers(server):
        kill(pid)
    began = time.monotonic()
    eventually(lambda: server.get("/readyz").status_code == 503, "not ready", 5.0)
    assert time.monotonic() - began < 0.1 + LATE_S
    [hasty] = log.ask([{}], "x-request-timeout: 0.05\r\n")
    patient = log.send([{}] * 4)
    assert (hasty.status, hasty.code) == (503, "not_ready")
    assert int(hasty.retry_after) >= 1
    assert hasty.took_s < 0.1 + LATE_S
    assert [got for got in log.answers(patient) if not got.is_right] == []
    log.check()


def is_refused_at_once_and_heals(client: Client) -> None:
    """Its only worker dies, and the next ones die while they load, until they are told not to."""
    server = client.server
    kill(noted(server, "loads")[0])
    eventually(lambda: "the next start is in" in server.get("/readyz").text, "the back-off")
    began = time.monotonic()
    answer = client.ask("/models/fails-later/predict", '{"n": 1}')
    assert time.monotonic() - began < 0.1 + LATE_S
    assert (answer.status, answer.code) == (503, "not_ready")
    assert int(answer.headers["retry-after"]) >= 1
    server.set("healed")
    eventually(lambda: server.get("/readyz").status_code == 200, "it to heal")
    assert client.ask("/models/fails-later/predict", '{"n": 4}').json() == 8
    assert len(noted(server, "loads")) < 8, "no spin"


@pytest.mark.row("E10")
def test_in_back_off_all_get_503_at_once_until_it_heals_by_itself() -> None:
    with served(f"{FAULTY}:FailsLater", CANARY) as server:
        contract = Contract(server, "fast", expects=EXPECTED)
        with contract.watch() as client:
            is_refused_at_once_and_heals(client)
        contract.close()


@pytest.mark.counter("E10")
def test_requests_that_wait_through_a_back_off_are_noticed() -> None:
    name = "in back-off nobody waits"
    with undefended(name, f"{FAULTY}:FailsLater") as client, pytest.raises(AssertionError):
        is_refused_at_once_and_heals(client)


# E11


def batches(server: Served, name: str) -> int:
    """How many a replica of a name has had, but for its example's."""
    return sum(n != 0 for n in noted(server, name))


def gets_fewer(server: Served) -> int:
    """Of two replicas one takes ten times as long: it gets a small part of the batches."""
    with Load(Log(server), 8) as load:
        load.rate(seconds(2.0))
    load.check()
    slow, quick = batches(server, "slow"), batches(server, "quick")
    assert slow >= 1 and quick >= 20
    assert slow < quick / 4, (slow, quick)
    return slow + quick


@pytest.mark.row("E11")
def test_a_replica_that_is_ten_times_slower_gets_fewer_batches() -> None:
    with served("SlowFirst", CANARY, replicas=2) as server:
        contract = Contract(server, "fast")
        with contract.watch() as client:
            client.statuses[200] += gets_fewer(server)
        contract.close()


@pytest.mark.counter("E11")
def test_batches_that_are_dealt_out_in_turn_are_noticed() -> None:
    with undefended("who is free gets the next batch", "SlowFirst", replicas=2) as client:
        with pytest.raises(AssertionError):
            gets_fewer(client.server)
