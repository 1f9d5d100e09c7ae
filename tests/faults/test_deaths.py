"""Workers that die of one item: the others of its batch are answered, and it alone fails."""

from __future__ import annotations

import logging
import random
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from tests.e2e.conftest import Serve, Served, eventually
from tests.faults.client import Got, Load, Log
from tests.faults.conftest import rounds
from tests.faults.watch import SLACK_BYTES, held, kill, noted, rss_bytes

pytestmark = pytest.mark.slow

_log = logging.getLogger(__name__)

RESTARTS = "headrace_replica_restarts_total"
BATCHES = "headrace_batches_total"
WARM_UP = 2


@contextmanager
def killing(server: Served) -> Iterator[None]:
    """Kill each worker that names itself, until the end."""
    is_over = threading.Event()

    def watch() -> None:
        done = 0
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


def batch_with(log: Log, do: str) -> tuple[Got, list[Got]]:
    """One batch of eight with a guilty item in it: its answer, and those of the others."""
    place = random.randrange(8)
    got = log.ask([{"do": do if place == each else ""} for each in range(8)])
    guilty = got.pop(place)
    return guilty, got


@pytest.mark.parametrize(
    ("fault", "deaths"),
    [
        ("exit", 2),
        ("segfault", 2),
        ("abort", 2),
        ("memory death", 2),
        ("killed", 3),
        ("memory error", 0),
    ],
)
def test_seven_of_eight_are_answered_when_one_ends_the_only_worker_and_nothing_is_left_of_it(
    serve: Serve, fault: str, deaths: int
) -> None:
    server = serve("Faulty", "Quiet", batching__max_batch_delay_s=0.05)
    log, count = Log(server), rounds(2) + WARM_UP
    code = "replica_lost" if deaths else "model_error"
    with killing(server):
        for done in range(count):
            before = server.metric(RESTARTS)
            guilty, innocent = batch_with(log, f"predict: {fault}")
            assert [got for got in innocent if not got.is_right] == []
            assert (guilty.status, guilty.code) == (500, code)
            assert server.metric(RESTARTS) - before <= deaths
            assert log.ask([{}])[0].is_right, "the next is served"
            if done == WARM_UP - 1:
                held_before, rss_before = held(server), rss_bytes(server)
    eventually(lambda: held(server) == held_before, f"as before: {held_before}")
    grown = rss_bytes(server) - rss_before
    _log.info("%s: %d restarts, memory +%d KiB", fault, server.metric(RESTARTS), grown >> 10)
    assert grown < SLACK_BYTES
    assert server.metric(RESTARTS) >= deaths // 2 * count
    log.check()


@pytest.mark.parametrize("stage", ["decode", "preprocess", "predict"])
def test_a_poison_item_costs_one_death_where_a_mark_convicts_it_and_two_at_most(
    serve: Serve, stage: str
) -> None:
    server = serve("Faulty", "Quiet", batching__max_batch_delay_s=0.05)
    log, most = Log(server), 2 if stage == "predict" else 1
    for fault in (["exit", "segfault", "abort"] * rounds(2))[: max(3, rounds(2))]:
        before = server.metric(RESTARTS)
        guilty, innocent = batch_with(log, f"{stage}: {fault}")
        assert [got for got in innocent if not got.is_right] == []
        assert guilty.code == "replica_lost"
        assert 1 <= server.metric(RESTARTS) - before <= most
    _log.info("%s: %d items, %d restarts", stage, log.statuses[500], server.metric(RESTARTS))
    log.check()


def test_a_poison_item_of_a_model_changes_nothing_for_another_model(serve: Serve) -> None:
    server = serve("Quiet", "Faulty")
    log = Log(server)
    with Load(log, 2) as canaries:
        for _ in range(rounds(3)):
            poison = {"n": 1, "do": "predict: exit"}
            answer = server.post("/models/faulty/predict", poison)
            assert answer.json()["code"] == "replica_lost"
            log.statuses[500] += 1
    canaries.check()
    log.check()
    assert server.metric(RESTARTS, model="quiet") == 0


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
