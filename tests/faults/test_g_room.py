"""Room: a full queue that empties takes again at once, and large bodies find a budget."""

from __future__ import annotations

import json
import time
from contextlib import suppress
from typing import NamedTuple

import pytest

from tests.e2e.conftest import WAIT_S, Served, Wire, eventually
from tests.faults.conftest import HTTP_MODELS, IS_LONG, MIB
from tests.faults.contract import LATE_S, Client, message
from tests.faults.defences import without
from tests.faults.test_g_overload import SOON_S, contracted, served
from tests.faults.watch import rss_bytes

pytestmark = pytest.mark.slow

TYPED, HELD = (f"{HTTP_MODELS}:{name}" for name in ("Typed", "Held"))
BUDGET = 16 * MIB


# A full queue that empties

QUEUE_ITEMS = 8


def fill_and_empty(client: Client, gate: str, within_s: float = WAIT_S) -> None:
    """Fill the queue behind a batch that waits for a gate, open that, and be taken at once."""
    server = client.server
    held = client.wire()
    held.send(message("/models/typed/predict", json.dumps({"n": 1, "wait": gate})))
    eventually(lambda: queued(server) == (0, 1), "it to run", within_s)
    others = [client.wire() for _ in range(4 + QUEUE_ITEMS)]
    for wire in others[:4]:
        wire.send(message("/models/typed/predict", '{"n":2}'))
    eventually(lambda: queued(server) == (0, 5), "a full batch to be at hand")
    for wire in others[4:]:
        wire.send(message("/models/typed/predict", '{"n":2}'))
    eventually(lambda: queued(server) == (QUEUE_ITEMS, 5), "the queue to be full")
    refused = client.ask("/models/typed/predict", '{"n":3}')
    assert (refused.status, refused.code) == (503, "queue_full")
    assert int(refused.headers["retry-after"]) >= 1
    server.set(gate)
    assert held.answer().status == 200
    for wire in others[:4]:
        assert wire.answer().status == 200
    began = time.monotonic()  # now there is room
    assert client.ask("/models/typed/predict", '{"n":4}').status == 200, "not taken again"
    assert time.monotonic() - began <= SOON_S + LATE_S, "not taken at once"
    for wire in others[4:]:
        assert wire.answer().status == 200


def queued(server: Served) -> tuple[float, float]:
    names = ("headrace_queue_items", "headrace_running_items")
    waiting, running = (server.metric(name, model="typed") for name in names)
    return waiting, running


@pytest.mark.row("G5")
def test_a_full_queue_that_empties_takes_again_at_once(way: str) -> None:
    gates = iter(map("gate-{}".format, range(10**6)))
    with contracted(way, TYPED, limits__max_queue_items=QUEUE_ITEMS) as contract:
        contract.hold(lambda client: fill_and_empty(client, next(gates)), rounds=4, reaches=14)


@pytest.mark.counter("G5")
def test_room_that_is_not_given_back_is_noticed() -> None:
    env = without("what leaves the queue gives its room back")
    with served("fast", TYPED, env=env, limits__max_queue_items=QUEUE_ITEMS) as server:
        with Client(server) as client, pytest.raises(AssertionError, match="it to run"):
            fill_and_empty(client, "gate", within_s=3.0)


@pytest.mark.counter("G5")
def test_a_queue_that_takes_again_later_is_noticed() -> None:
    env = without("a queue that was full takes again at once")
    with served("fast", TYPED, env=env, limits__max_queue_items=QUEUE_ITEMS) as server:
        with Client(server) as client, pytest.raises(AssertionError, match="not taken again"):
            fill_and_empty(client, "gate")


# Many large bodies at once

CLIENTS, BODY = 200, MIB
IN_FLIGHT, QUEUED = "headrace_http_inflight_bytes", "headrace_queue_bytes"


class Peak(NamedTuple):
    """The most that a server held: of bodies by its own account, and of memory."""

    bodies: float
    memory: float


def send_large(client: Client, account: str = IN_FLIGHT, *, at_least: int = 0) -> Peak:
    """Send 200 bodies of a MiB to a model that does not answer yet.

    Args:
        client: Whose they are.
        account: The gauge of what is held.
        at_least: How much the server must come to hold.
    """
    server = client.server
    body = b" " * BODY
    wires = [client.wire() for _ in range(CLIENTS)]
    memory = most = rss_bytes(server)
    held = 0.0
    for n, wire in enumerate(wires):
        with suppress(ConnectionError):  # it does not read what it refuses
            wire.send(message("/models/held/predict", body))
        most = max(most, rss_bytes(server))
        if n % 10 == 0:
            held = max(held, server.metric(account))
    eventually(lambda: server.metric(account) >= at_least, "them to be held")
    most, held = max(most, rss_bytes(server)), max(held, server.metric(account))
    server.set("size")
    refused = sum(is_refused(client, wire) for wire in wires)
    assert CLIENTS - refused >= BUDGET // BODY - 1
    (server.folder / "size").unlink()
    return Peak(held, most - memory)


def is_refused(client: Client, wire: Wire) -> bool:
    """Whether the answer says that there is no room; the body's size is the other one."""
    try:
        answer = wire.answer()
    except ConnectionError:
        client.abandon(1)  # what was not read it may throw away, with the answer
        assert client.abandoned[0] <= CLIENTS // 10
        return True
    if answer.status == 503:
        # By the time of the batch that was held up, others may seem to come too late.
        assert answer.code in ("queue_full", "overloaded")
        assert int(answer.headers["retry-after"]) >= 1
        return True
    assert (answer.status, answer.json()) == (200, BODY)
    return False


def check_budget(peak: Peak) -> None:
    assert peak.bodies <= BUDGET, peak
    assert peak.memory <= 2 * BUDGET, peak


LARGE = {
    "limits__max_body_bytes": BODY,
    "limits__max_queue_bytes": 1 << 40,
    "limits__max_inflight_bytes": 1 << 40,
    "workers__shared_memory_bytes": 0,
}


ACCOUNTS = {"limits__max_inflight_bytes": IN_FLIGHT}
if IS_LONG:  # 40 bodies find this one in the short suite
    ACCOUNTS["limits__max_queue_bytes"] = QUEUED


@pytest.mark.row("C6")
@pytest.mark.parametrize("limit", ACCOUNTS)
def test_two_hundred_large_bodies_at_once_find_a_budget(way: str, limit: str) -> None:
    account = ACCOUNTS[limit]
    with contracted(way, HELD, **LARGE | {limit: BUDGET}) as contract:
        with contract.watch() as client:
            peak = send_large(client, account)
            assert client.statuses[503] > 0
        assert contract.server.metric(account) == 0
    assert peak.bodies <= BUDGET
    if account == IN_FLIGHT:
        check_budget(peak)


@pytest.mark.counter("C6")
def test_without_a_budget_all_of_them_are_held() -> None:
    with served("fast", HELD, **LARGE) as server:
        with Client(server) as client:
            peak = send_large(client, at_least=CLIENTS * BODY // 2)
        assert peak.memory > 4 * BUDGET
        with pytest.raises(AssertionError):
            check_budget(peak)
