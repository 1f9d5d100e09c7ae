"""Workers that die, and user code that does to its process what it should not.

A batch holds eight items, of which seven are innocent: they are run again and answered.
"""

from __future__ import annotations

import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.e2e.conftest import Serve, Served, eventually
from tests.faults.client import Load, Log
from tests.faults.conftest import IS_LONG, rounds
from tests.faults.contract import LATE_S, Client, Contract
from tests.faults.eight import (
    CANARY,
    EIGHT,
    MODELS,
    TOLD,
    at_once,
    eight,
    fail_alone,
    served,
    told,
    undefended,
)
from tests.faults.models import ON_LOAD
from tests.faults.watch import children, kill, lives, noted, workers

pytestmark = pytest.mark.slow


RESTARTS = "headrace_replica_restarts_total"
BATCHES = "headrace_batches_total"
LOST = (500, "replica_lost")
EXPECTED = ("a worker ended", "replica not ready")
NOTICED_S = 0.05
HEALED_S = 1.0
ROOT = Path(__file__).parents[2]
MANY_DEATHS = 12
"""Of workers that answer nothing; long before there has to be a pause."""
STAGES = ("decode", "preprocess", "predict", "postprocess")


@contextmanager
def killing(server: Served) -> Iterator[None]:
    """Kill each worker that names itself, until the end."""
    is_over = threading.Event()

    def watch() -> None:
        done = len(noted(server, "victims"))
        while not is_over.wait(0.01):
            for pid in noted(server, "victims")[done:]:
                done += 1
                kill(pid)

    thread = threading.Thread(target=watch)
    thread.start()
    try:
        yield
    finally:
        is_over.set()
        thread.join()


@contextmanager
def deadly(replicas: int) -> Iterator[Contract]:
    with served("Told", CANARY, replicas=replicas) as server:
        contract = Contract(server, "fast", expects=EXPECTED)
        yield contract
        contract.close()


@pytest.fixture(scope="module")
def contract() -> Iterator[Contract]:
    """One server, with one worker, for all deaths, each of which must leave it as it was."""
    with deadly(1) as contract:
        yield contract


@pytest.fixture(scope="module")
def pair() -> Iterator[Contract]:
    """Two workers."""
    with deadly(2) as contract:
        yield contract


def overdue(server: Served) -> int:
    """How often a worker took much longer to start than the one before."""
    return sum("it takes longer to get ready" in line for line in list(server.log_lines))


def again_if_overdue(client: Client, act: Callable[[], object]) -> None:
    """Do something; again where nobody could have waited for the next worker.

    On a machine that is as much slower than a moment ago, who waits is told so, as is promised.
    """
    for _ in range(3):
        before = overdue(client.server)
        try:
            act()
        except AssertionError:
            if overdue(client.server) == before:
                raise
            eventually(lambda: client.server.get("/readyz").status_code == 200, "ready again")
        else:
            return
    act()


def costs(client: Client, do: str, deaths: tuple[int, int], code: tuple[int, str] = LOST) -> None:
    """One of eight ends a worker, at least and at most so many of them; the others are answered."""
    again_if_overdue(client, lambda: costs_once(client, do, deaths, code))
    fail_alone(client, [], [])


def costs_once(client: Client, do: str, deaths: tuple[int, int], code: tuple[int, str]) -> None:
    restarts = client.server.metric(RESTARTS, model="told")
    with killing(client.server):
        fail_alone(client, ["", "", "", do], [code])
        died = client.server.metric(RESTARTS, model="told") - restarts
    assert deaths[0] <= died <= deaths[1], f"{died} deaths"


# E7

DEATHS = {
    # A mark convicts the item that was at hand: one death.
    **{
        f"{stage}-{fault.replace(' ', '-')}": (f"{stage}: {fault}", (1, 1))
        for stage in ("decode", "preprocess", "postprocess")
        for fault in ("exit", "segfault", "abort")
    },
    **{
        f"predict-{fault}": (f"predict: {fault}", (1, 2)) for fault in ("exit", "segfault", "abort")
    },
    # What looks like an act from outside is pardoned to each item once.
    **{
        f"{stage}-{fault.replace(' ', '-')}": (f"{stage}: {fault}", (1, 3))
        for stage, fault in (
            ("decode", "kills itself"),
            ("preprocess", "killed"),
            ("predict", "kills itself"),
            ("predict", "killed"),
            ("postprocess", "kills itself"),
        )
    },
}


@pytest.mark.row("E7")
@pytest.mark.parametrize(("do", "deaths"), DEATHS.values(), ids=DEATHS)
def test_seven_of_eight_are_answered_when_one_ends_its_worker(
    contract: Contract, do: str, deaths: tuple[int, int]
) -> None:
    with contract.watch() as client:
        costs(client, do, deaths)
        eventually(lambda: client.server.get("/readyz").status_code == 200, "ready again")


@pytest.mark.row("E7")
@pytest.mark.parametrize("do", ["decode: abort", "predict: segfault", "predict: killed"])
def test_seven_of_eight_are_answered_with_two_workers_too(pair: Contract, do: str) -> None:
    with pair.watch() as client:
        costs(client, do, (1, 3))


@pytest.mark.row("E7", "E8")
def test_deaths_leave_nothing_behind(pair: Contract) -> None:
    def act(client: Client) -> None:
        for do in ("predict: exit", "preprocess: segfault", "predict: memory death"):
            costs(client, do, (1, 2))
        name = "headrace_replicas_ready"
        eventually(lambda: client.server.metric(name, model="told") == 2, "both")

    pair.hold(act, rounds=rounds(1))


@pytest.mark.row("E7")
@pytest.mark.parametrize("stage", STAGES)
def test_a_sigint_is_the_fronts_to_pass_on(contract: Contract, stage: str) -> None:
    with contract.watch(reaches=EIGHT) as client:
        restarts = client.server.metric(RESTARTS)
        _, answers = eight(client, [f"{stage}: interrupt"])
        assert told(answers) == [(200, "")] * EIGHT
        assert client.server.metric(RESTARTS) == restarts


BARE_WORKER = "import headrace.workers.main, tests.faults.item_models"
"""What a worker imports, its model included, before it can be ready."""


def start_s() -> float:
    """What a worker's start takes on the machine as it is now."""
    began = time.monotonic()
    subprocess.run([sys.executable, "-c", BARE_WORKER], check=True, cwd=ROOT)
    return time.monotonic() - began


def is_noticed_soon(server: Served) -> None:
    """Every worker dies: the server says that it is not ready, and is so again after a start."""
    kills = [pid for pid in workers(server) if pid in noted(server, "loads")]
    began = time.monotonic()
    for pid in kills:
        kill(pid)
    eventually(lambda: server.get("/readyz").status_code == 503, "it to be noticed", 5.0)
    assert time.monotonic() - began < NOTICED_S + LATE_S
    eventually(lambda: server.get("/readyz").status_code == 200, "ready again")
    healed_s = time.monotonic() - began
    assert healed_s < start_s() + HEALED_S + LATE_S, "a start, and a second"


@pytest.mark.row("E7", "E10")
def test_a_death_is_noticed_at_once_and_healed(contract: Contract) -> None:
    with contract.watch(reaches=EIGHT) as client:
        is_noticed_soon(client.server)
        fail_alone(client, [], [])


@pytest.mark.counter("E7")
@pytest.mark.parametrize("do", ["predict: exit", "predict: segfault"])
def test_innocents_that_are_not_run_again_are_noticed(do: str) -> None:
    with undefended("", "ToldOnce") as client:
        with pytest.raises(AssertionError):
            fail_alone(client, ["", "", "", do], [LOST], "/models/told-once/predict")


@pytest.mark.row("E7")
@pytest.mark.parametrize("fault", ["exit", "segfault", "abort"])
def test_a_death_in_preprocess_does_not_accuse_the_batch_in_predict(
    serve: Serve, fault: str
) -> None:
    server = serve("Faulty", batching__max_batch_delay_s=0.2)
    log = Log(server)
    overlap(log)
    running = log.send([{"s": 1.0}] * 8)
    eventually(lambda: server.metric("headrace_running_items") == 8, "it to run")
    poison = [{"do": f"preprocess: {fault}" if n == 4 else ""} for n in range(8)]
    others = log.answers(log.send(poison))
    assert [got.code for got in others] == [""] * 4 + ["replica_lost"] + [""] * 3
    assert [got for got in log.answers(running) if not got.is_right] == []
    assert server.metric(RESTARTS) == 1
    assert server.metric(BATCHES, reason="suspect") == 0
    log.check()


@pytest.mark.row("E7")
@pytest.mark.parametrize("fault", ["exit", "segfault", "abort"])
def test_a_death_in_predict_does_not_accuse_the_item_in_preprocess(
    serve: Serve, fault: str
) -> None:
    server = serve("Faulty", batching__max_batch_delay_s=0.2)
    (server.folder / "fault").write_text(fault)
    log = Log(server)
    overlap(log)
    running = log.send([{"do": "after the lingering" if n == 4 else ""} for n in range(8)])
    eventually(lambda: server.metric("headrace_running_items") == 8, "it to run")
    others = log.answers(log.send([{"do": "linger in preprocess"}] * 8))
    assert [got for got in others if not got.is_right] == []
    codes = [got.code for got in log.answers(running)]
    assert codes == [""] * 4 + ["replica_lost"] + [""] * 3
    assert server.metric(RESTARTS) == 2
    assert server.metric(BATCHES, reason="suspect") <= 8
    log.check()


def overlap(log: Log) -> None:
    """Have the worker prepare a batch while another is in predict, as it does for slow ones."""
    for _ in range(5):
        assert log.ask([{"s": 0.01}])[0].is_right


# E8

MEMORY = {
    "as-an-exception": ("predict: memory error", (0, 0), (500, "model_error")),
    "as-an-exception-in-preprocess": ("preprocess: memory error", (0, 0), (500, "model_error")),
    "as-a-death": ("predict: memory death", (1, 2), LOST),
    "as-a-death-in-preprocess": ("preprocess: memory death", (1, 1), LOST),
}


@pytest.mark.row("E8")
@pytest.mark.parametrize(("do", "deaths", "code"), MEMORY.values(), ids=MEMORY)
def test_an_item_that_runs_out_of_memory_fails_alone(
    contract: Contract, do: str, deaths: tuple[int, int], code: tuple[int, str]
) -> None:
    with contract.watch() as client:
        costs(client, do, deaths, code)


@pytest.mark.counter("E8")
@pytest.mark.parametrize("what", ["as-an-exception", "as-a-death"])
def test_a_batch_that_is_not_run_again_without_memory_is_noticed(what: str) -> None:
    do, _, code = MEMORY[what]
    with undefended("", "ToldOnce") as client:
        with pytest.raises(AssertionError):
            fail_alone(client, ["", do], [code], "/models/told-once/predict")


# E9

POISONS = {
    f"{stage}-{fault}": (f"{stage}: {fault}", 2 if stage == "predict" else 1)
    for stage, fault in (*((stage, "exit") for stage in STAGES), ("predict", "segfault"))
}


@pytest.mark.row("E9")
@pytest.mark.parametrize(("do", "most"), POISONS.values(), ids=POISONS)
def test_a_poison_item_costs_one_death_where_a_mark_convicts_it_and_two_at_most(
    contract: Contract, do: str, most: int
) -> None:
    with contract.watch() as client:
        for _ in range(rounds(3)):
            costs(client, do, (1, most))


@pytest.mark.row("E9")
def test_while_poison_comes_other_replicas_go_on(serve: Serve) -> None:
    server = serve("Faulty", replicas=3)
    log = Log(server)
    eventually(lambda: server.metric("headrace_replicas_ready") == 3, "all three")
    with Load(log, 4) as innocent:
        for _ in range(rounds(3)):
            before = server.metric(RESTARTS)
            [got] = log.ask([{"do": "predict: exit"}])
            assert got.code == "replica_lost"
            ready = server.get("/readyz")
            assert ready.status_code == 200, (ready.text, server.log_lines)
            assert 1 <= server.metric(RESTARTS) - before <= 2
            eventually(lambda: server.metric("headrace_replicas_ready") == 3, "all three")
    innocent.check()
    log.check()


def backs_off(client: Client) -> None:
    """Poison alone, again and again: soon there is a pause before the next worker."""
    server = client.server
    began, pauses, deaths = time.monotonic(), 0, 0
    while pauses < 2 and deaths < MANY_DEATHS:
        [answer] = at_once(client, ['{"n": 1, "do": "preprocess: exit"}'], TOLD)
        assert told([answer]) in ([LOST], [(503, "not_ready")])
        if answer.status == 503:
            assert int(answer.headers["retry-after"]) >= 1
            pauses += 1
            eventually(lambda: server.get("/readyz").status_code == 200, "the next worker")
        deaths += answer.status == 500
    assert pauses == 2, f"{deaths} deaths, {pauses} pauses"
    assert time.monotonic() - began > 1.0, "half a second, then one"


@pytest.mark.row("E9", "E10")
def test_poison_and_nothing_else_is_met_with_back_off() -> None:
    with served("Told", CANARY) as server:
        contract = Contract(server, "fast", expects=EXPECTED)
        with contract.watch() as client:
            backs_off(client)
        contract.close()


@pytest.mark.counter("E9")
def test_restarts_without_a_pause_are_noticed() -> None:
    with undefended("a seat whose workers answer nothing backs off", "Told") as client:
        with pytest.raises(AssertionError):
            backs_off(client)


@pytest.mark.counter("E9")
def test_marks_that_nobody_reads_are_noticed() -> None:
    with undefended("a mark convicts the item at hand", "Told") as client:
        with pytest.raises(AssertionError):
            costs(client, "preprocess: exit", (1, 1))


# E12

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


MISUSES = [
    (fault, stage)
    for at, fault in enumerate(HARMLESS)
    for stage in (STAGES if IS_LONG else (STAGES[at % len(STAGES)],))
]
"""In the short version each at one stage, and at each stage some."""


@pytest.fixture(scope="module")
def misused() -> Iterator[Contract]:
    """A server whose worker is misused in all ways, and that ends well all the same."""
    with served("Told", CANARY) as server:
        contract = Contract(server, "fast", expects=EXPECTED, is_noisy=True)
        yield contract
        contract.close()


@pytest.mark.row("E12")
@pytest.mark.parametrize(
    ("fault", "stage"), MISUSES, ids=[f"{s}-{f.replace(' ', '-')}" for f, s in MISUSES]
)
def test_what_does_not_end_a_worker_changes_no_answer(
    misused: Contract, fault: str, stage: str
) -> None:
    with misused.watch(reaches=EIGHT) as client:
        asked, answers = eight(client, ["", f"{stage}: {fault}"])
        assert [each.json() for each in answers] == [2 * n for n in asked]
        assert client.server.metric(RESTARTS) == 0


@pytest.mark.row("E12")
def test_load_may_do_all_of_it() -> None:
    with served(
        f"{MODELS.with_name('models.py')}:Faulty", CANARY, env={ON_LOAD: ", ".join(HARMLESS)}
    ) as server:
        contract = Contract(server, "fast", is_noisy=True)
        with contract.watch(reaches=EIGHT) as client:
            asked, answers = eight(client, [], "/models/faulty/predict")
            assert [each.json() for each in answers] == [2 * n for n in asked]
        contract.close()


@pytest.mark.row("E12")
@pytest.mark.parametrize("stage", ["preprocess", "predict"])
def test_one_that_closes_the_worker_protocols_descriptors_is_replaced(stage: str) -> None:
    with served("Told", CANARY, limits__predict_timeout_s=2.0) as server:
        contract = Contract(server, "fast", expects=EXPECTED, is_noisy=True)

        def act(client: Client) -> None:
            restarts = server.metric(RESTARTS)
            _, answers = eight(client, ["", f"{stage}: close descriptors"])
            assert told(answers[:1] + answers[2:]) == [(200, "")] * 7
            assert told(answers[1:2]) in ([(200, "")], [LOST])
            assert 1 <= server.metric(RESTARTS) - restarts <= 2
            fail_alone(client, [], [])

        contract.hold(act, rounds=rounds(1), reaches=2 * EIGHT)
        contract.close()


def leaves_no_orphan(client: Client, fault: str) -> None:
    server = client.server
    eight(client, ["", f"predict: {fault}"])
    left_behind = noted(server, "children")
    assert left_behind and all(lives(pid) for pid in left_behind)
    for pid in children(server).keys() & set(noted(server, "loads")):
        kill(pid)
    eventually(lambda: not any(lives(pid) for pid in left_behind), "no orphan", 5.0)
    fail_alone(client, [], [])


@pytest.mark.row("E12")
@pytest.mark.parametrize("fault", ["spawn", "fork"])
def test_the_children_of_a_worker_die_with_it(fault: str) -> None:
    with served("Told", CANARY) as server:
        contract = Contract(server, "fast", expects=EXPECTED)
        with contract.watch(reaches=2 * EIGHT) as client:
            leaves_no_orphan(client, fault)
        contract.close()


@pytest.mark.counter("E12")
@pytest.mark.parametrize("fault", ["spawn", "fork"])
def test_orphans_are_noticed(fault: str) -> None:
    with undefended("a worker's children are ended with it", "Told") as client:
        try:
            with pytest.raises(AssertionError, match="no orphan"):
                leaves_no_orphan(client, fault)
        finally:
            for pid in noted(client.server, "children"):
                kill(pid)
