"""Nobody is starved: neither a client by another, nor a model by another of its server."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from tests.e2e.conftest import Served
from tests.faults.conftest import seconds
from tests.faults.contract import LATE_S, Client, message
from tests.faults.defences import without
from tests.faults.test_g_overload import contracted, served

pytestmark = pytest.mark.slow

# One client and another

MANY, AHEAD = 500, 16
BATCH_S = 0.08


def ask_beside_many(client: Client) -> None:
    """While one client has 500 requests in flight, another asks one at a time."""
    many = [client.wire() for _ in range(MANY)]
    for wire in many:
        wire.send(message("/models/slow/predict", "1", "x-client: many\r\n"))
    for _ in range(3):
        began = time.monotonic()
        answer = client.ask("/models/slow/predict", "2", "x-client: one\r\n")
        assert (answer.status, answer.json()) == (200, 2)
        # What runs, what is at hand, and its own batch; and as much for a machine on which batches
        # follow each other less soon than their own time says.
        assert time.monotonic() - began <= 2 * 4 * BATCH_S + LATE_S
    for wire in many:
        assert wire.answer().status == 200


@pytest.mark.row("F4")
def test_a_client_with_one_request_goes_before_the_backlog_of_another(way: str) -> None:
    settings = {"fairness__client_header": "x-client"}
    with contracted(way, "Slow", **settings) as contract:
        with contract.watch(reaches=MANY + 3) as client:
            ask_beside_many(client)


@pytest.mark.counter("F4")
def test_without_turns_it_waits_for_all_of_them() -> None:
    with served("fast", "Slow") as server, Client(server) as client:
        with pytest.raises(AssertionError):
            ask_beside_many(client)


# One model and another


class Load:
    """Keeps connections busy, each with so many requests at a time.

    Attributes:
        answered: How many requests were.
    """

    def __init__(self, client: Client, model: str, connections: int, ahead: int) -> None:
        self.answered = 0
        self._statuses: set[int] = set()
        self._request = message(f"/models/{model}/predict", "1")
        self._wires = [client.wire() for _ in range(connections)]
        self._ahead = ahead
        self._stop = threading.Event()
        self._threads = [
            threading.Thread(target=self._run, args=(wire,), daemon=True) for wire in self._wires
        ]
        for thread in self._threads:
            thread.start()

    def _run(self, wire: Any) -> None:
        wire.send(self._request * self._ahead)
        while not self._stop.is_set():
            wire.answer()
            self.answered += 1
            wire.send(self._request)
        for _ in range(self._ahead):
            wire.answer()

    def stop(self) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join(60.0)
            assert not thread.is_alive()


@contextmanager
def loaded(client: Client, model: str, connections: int, ahead: int) -> Iterator[Load]:
    load = Load(client, model, connections, ahead)
    try:
        yield load
    finally:
        load.stop()


def rate(client: Client, for_s: float) -> float:
    """Answers a second of the brisk model to eight connections."""
    with loaded(client, "brisk", 8, 1) as load:
        time.sleep(0.3)
        before, began = load.answered, time.monotonic()
        time.sleep(for_s)
        return (load.answered - before) / (time.monotonic() - began)


def check_share(server: Served, client: Client) -> None:
    """The flood of one model leaves another its half of what they share."""
    alone = rate(client, seconds(1.0))
    with loaded(client, "flooded", 16, AHEAD):
        beside = rate(client, seconds(1.0))
    # Half, and room for the machine's other work.
    assert beside >= 0.35 * alone, (beside, alone)


@pytest.mark.row("F5")
@pytest.mark.parametrize("executor", ["process", "thread", "inline"])
def test_a_flooded_model_leaves_another_its_share(executor: str) -> None:
    with contracted("fast", "Brisk", "Flooded", executor=executor) as contract:
        with contract.watch() as client:
            check_share(contract.server, client)


@pytest.mark.counter("F5")
def test_a_model_that_runs_all_its_batches_in_one_turn_starves_others() -> None:
    env = without("a replica on the loop runs one batch a turn")
    with served("fast", "Brisk", "Flooded", executor="inline", env=env) as server:
        with Client(server) as client, pytest.raises(AssertionError):
            check_share(server, client)
