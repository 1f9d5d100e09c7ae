"""Nobody is starved: neither a client by another, nor a model by another of its server."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any, NamedTuple

import pytest

from tests.e2e.conftest import WAIT_S, Served
from tests.faults.conftest import IS_LONG, seconds
from tests.faults.contract import LATE_S, WAYS, Client, message
from tests.faults.defences import without
from tests.faults.test_g_overload import contracted, served

pytestmark = pytest.mark.slow

# One client and another

MANY, AHEAD = 500 if IS_LONG else 250, 16
BATCH_S = 0.08
KEYS = {"one": "one-" * 4, "many": "many-" * 4}


class Apart(NamedTuple):
    """How two clients are told apart: the settings, and what is in the heads of either."""

    settings: Mapping[str, str]
    header: str = ""
    env: Mapping[str, str] = {}


APART = {
    "header": Apart({"fairness__client_header": "x-client"}, "x-client: {name}\r\n"),
    "address": Apart({"fairness__peer_address": "true"}),
    "key": Apart(
        {},
        "x-api-key: {key}\r\n",
        {"HEADRACE_AUTH_KEYS": " ".join(f"{name}:{key}" for name, key in KEYS.items())},
    ),
}


def ask_beside_many(client: Client, header: str) -> None:
    """While one client has hundreds of requests in flight, another asks one at a time."""
    headers = {name: header.format(name=name, key=key) for name, key in KEYS.items()}
    many, one = [client.wire() for _ in range(MANY)], client.wire()
    one.socket.close()
    one.socket = socket.create_connection(  # from another address
        client.server.host_and_port, timeout=WAIT_S, source_address=("127.0.0.2", 0)
    )
    for wire in many:
        wire.send(message("/models/slow/predict", "1", headers["many"]))
    for _ in range(3):
        began = time.monotonic()
        one.send(message("/models/slow/predict", "2", headers["one"]))
        answer = one.answer()
        assert (answer.status, answer.json()) == (200, 2)
        # What runs, what is at hand, and its own batch; and as much for a machine on which batches
        # follow each other less soon than their own time says.
        assert time.monotonic() - began <= 2 * 4 * BATCH_S + LATE_S
    for wire in many:
        assert wire.answer().status == 200


CASES = [("fast", "header"), ("asgi", "address"), ("fast", "key")]
if IS_LONG:
    CASES = [(way, apart) for way in WAYS for apart in APART]


@pytest.mark.row("F4")
@pytest.mark.parametrize(("way", "apart"), CASES)
def test_a_client_with_one_request_goes_before_the_backlog_of_another(way: str, apart: str) -> None:
    settings, header, env = APART[apart]
    if env:  # the canaries have no key
        with served(way, "Slow", env=env, **settings) as server, Client(server) as client:
            ask_beside_many(client, header)
            assert client.statuses == {200: MANY + 3}
        return
    with contracted(way, "Slow", **settings) as contract:
        with contract.watch(reaches=MANY + 3) as client:
            ask_beside_many(client, header)


@pytest.mark.counter("F4")
def test_without_turns_it_waits_for_all_of_them() -> None:
    with served("fast", "Slow") as server, Client(server) as client:
        with pytest.raises(AssertionError):
            ask_beside_many(client, APART["header"].header)


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
    shares: list[float] = []
    for _ in range(2):  # other work of the machine may fall into one half of a look
        alone = rate(client, seconds(1.0))
        with loaded(client, "flooded", 16, AHEAD):
            shares.append(rate(client, seconds(1.0)) / alone)
        if shares[-1] >= 0.35:  # half, and room for that work
            return
    raise AssertionError(f"starved: {shares}")


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
        with Client(server) as client, pytest.raises(AssertionError, match="starved"):
            check_share(server, client)
