"""Clients that vanish or crawl: nothing is done for them, and nothing of them is left."""

from __future__ import annotations

import json
import socket
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

import pytest

from tests.e2e.conftest import WAIT_S, Serve, Served, eventually
from tests.faults.conftest import ECHO, HTTP_MODELS, IS_LONG, MIB, TIGHT
from tests.faults.contract import Client, Contract, LoggedWire, message
from tests.faults.defences import without
from tests.faults.watch import held, rss_bytes

pytestmark = pytest.mark.slow

MANY = 10_000 if IS_LONG else 1000
SLOW_CLIENTS = 500 if IS_LONG else 50
HEAD_S = float(TIGHT["limits__head_timeout_s"])
HEAD = b"POST /models/typed/predict HTTP/1.1\r\nhost: x\r\ncontent-length: 9\r\n\r\n"
WAYS_TO_GO: dict[str, Callable[[LoggedWire], None]] = {
    "closes": lambda wire: wire.socket.close(),
    "resets": LoggedWire.reset,
}
go = pytest.mark.parametrize("go", WAYS_TO_GO.values(), ids=WAYS_TO_GO)

PARTS = {
    "nothing": (b"", 0),
    "a-byte": (b"P", 0),
    "half-a-head": (HEAD[:30], 0),
    "a-head": (HEAD, 1),
    "half-a-body": (HEAD + b'{"n"', 1),
    "half-a-chunk": (
        HEAD.replace(b"content-length: 9", b"transfer-encoding: chunked") + b"5\r\nab",
        1,
    ),
    "expecting": (HEAD.replace(b"\r\n\r\n", b"\r\nexpect: 100-continue\r\n\r\n"), 1),
    "half-a-head-behind-a-request": (message("/livez", "", method="GET") + HEAD[:30], 0),
}


@pytest.mark.row("H1")
@go
@pytest.mark.parametrize(("part", "taken"), PARTS.values(), ids=PARTS)
def test_a_client_that_goes_before_its_request_is_whole(
    contract: Contract, go: Callable[[LoggedWire], None], part: bytes, taken: int
) -> None:
    def act(client: Client) -> None:
        wire = client.wire()
        wire.send(part)
        go(wire)
        client.abandon(0, taken)

    contract.hold(act, reaches=0)


@contextmanager
def occupied(client: Client) -> Iterator[list[LoggedWire]]:
    """Requests that keep both slots of the replica of `typed` busy for as long as it takes."""
    flag = f"flag-{time.monotonic_ns()}"
    wires: list[LoggedWire] = []

    def do_run() -> bool:
        return client.server.metric("headrace_running_items", model="typed") == len(wires)

    try:
        for count in (1, 4):
            for _ in range(count):
                wire = client.wire()
                wire.send(message("/models/typed/predict", json.dumps({"n": 5, "wait": flag})))
                wires.append(wire)
            eventually(do_run, "them to run")
        yield wires
    finally:
        client.server.set(flag)


@pytest.mark.row("H1")
@pytest.mark.parametrize("count", [1, 3])
@go
def test_what_nobody_waits_for_leaves_the_queue(
    contract: Contract, go: Callable[[LoggedWire], None], count: int
) -> None:
    queued = "headrace_queue_items"
    server = contract.server
    right = server.metric("headrace_items_total", model="typed", code="ok")
    with contract.watch() as client:
        with occupied(client) as wires:
            leaving = [client.wire() for _ in range(20)]
            for wire in leaving:
                wire.send(message("/models/typed/predict", '{"n":1}') * count)
            eventually(lambda: server.metric(queued, model="typed") >= len(leaving), "a queue")
            for wire in leaving:
                go(wire)
            client.abandon(len(leaving), count * len(leaving))
            eventually(lambda: server.metric(queued, model="typed") == 0, "them to leave", 5.0)
        assert [wire.answer().json() for wire in wires] == [10] * 5
    assert server.metric("headrace_items_total", model="typed", code="ok") == right + 5


@pytest.mark.row("H1")
def test_a_client_that_is_far_ahead_and_vanishes_leaves_the_queue(contract: Contract) -> None:
    server, queued = contract.server, "headrace_queue_items"
    with contract.watch() as client:
        with occupied(client):
            wire = client.wire()
            wire.send(message("/models/typed/predict", '{"n":1}') * 60)
            eventually(lambda: server.metric(queued, model="typed") > 0, "a queue")
            wire.reset()
            client.abandon(1, 60)
            eventually(lambda: server.metric(queued, model="typed") == 0, "it to leave", 3.0)


@pytest.mark.row("H1")
@go
def test_a_client_that_goes_while_it_runs_changes_nothing_for_its_mates(
    contract: Contract, go: Callable[[LoggedWire], None]
) -> None:
    server = contract.server
    gone = "headrace_http_disconnects_total"
    with contract.watch(reaches=5) as client:
        with occupied(client) as wires:
            first, *mates = wires
            before = server.metric(gone)
            go(first)
            go(mates.pop())
            client.abandon(2)
            eventually(lambda: server.metric(gone) == before + 2, "the news", 5.0)
        assert [wire.answer().json() for wire in mates] == [10] * 3


@pytest.mark.row("H1")
@go
def test_a_client_that_goes_in_the_middle_of_its_answer(
    contract: Contract, go: Callable[[LoggedWire], None]
) -> None:
    def act(client: Client) -> None:
        wire = client.wire()
        wire.send(message("/models/large/predict", str(4 * MIB)))
        assert wire.socket.recv(1000)
        go(wire)
        client.abandon(1)

    contract.hold(act, rounds=5, reaches=1)


@pytest.mark.row("H2")
@go
def test_connections_that_come_and_go_leave_nothing(
    contract: Contract, go: Callable[[LoggedWire], None]
) -> None:
    contract.hold(lambda client: come_and_go(client, go), rounds=1, reaches=0)


def come_and_go(client: Client, go: Callable[[LoggedWire], None]) -> None:
    for _ in range(MANY):
        go(LoggedWire(client.server, client))


SLOW: dict[str, tuple[bytes, bytes, int | None]] = {
    "says-nothing": (b"", b"", None),
    "slow-head": (b"POST /predict HTTP/1.1\r\nhost: x\r\nx-slow: ", b"a", 408),
    "slow-lines": (b"POST /predict HTTP/1.1\r\nhost: x\r\n", b"x: a\r\n", 408),
    "slow-body": (message("/predict", " " * 1000)[:-999], b" ", 408),
    "slow-chunks": (
        HEAD.replace(b"content-length: 9", b"transfer-encoding: chunked"),
        b"1\r\n \r\n",
        408,
    ),
    "no-body": (HEAD, b"", 408),
    "second-head": (message("/livez", "", method="GET") + b"POST /pre", b"a", 408),
}


@pytest.mark.row("H3")
@pytest.mark.parametrize(("begin", "drip", "status"), SLOW.values(), ids=SLOW)
def test_a_client_that_crawls_is_closed_at_its_deadline(
    contract: Contract, begin: bytes, drip: bytes, status: int | None
) -> None:
    with contract.watch(reaches=0) as client:
        wires = [client.wire() for _ in range(SLOW_CLIENTS)]
        for wire in wires:
            wire.send(begin)
        began = time.monotonic()
        while time.monotonic() - began < 0.8 * HEAD_S:
            time.sleep(HEAD_S / 10)
            for wire in wires:
                if drip:
                    wire.send(drip)
        for wire in wires:
            answers = wire.rest()
            assert [each.status for each in answers if each.status != 200] == [status] * bool(
                status
            )
        assert HEAD_S * 0.9 < time.monotonic() - began < HEAD_S * 5


@pytest.mark.row("H4")
def test_what_is_done_for_a_client_that_does_not_read_is_bounded(contract: Contract) -> None:
    server, count = contract.server, 10
    items = "headrace_items_total"
    before, memory = server.metric(items, model="large"), rss_bytes(server)
    with contract.watch() as client:
        wires = []
        for _ in range(count):
            wire = client.wire()
            wire.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            wire.send(message("/models/large/predict", str(MIB)) * 60)
            wires.append(wire)
        eventually(lambda: server.metric(items, model="large") >= before + count, "answers")
        time.sleep(0.5)  # for those that nobody shall work on
        assert server.metric(items, model="large") - before <= count * MAX_HELD
        assert rss_bytes(server) - memory < count * MAX_HELD * MIB
        assert client.ask("/predict", "1").json() == 1
        for wire in wires:
            wire.reset()
        client.abandon(0, count * 60)


MAX_HELD = 30
"""Answers that one connection may hold at most, of the 60 that it asked for."""


@pytest.mark.row("H4")
def test_a_client_that_never_reads_is_closed(contract: Contract) -> None:
    with contract.watch() as client:
        given_up(client, WAIT_S)


def given_up(client: Client, within_s: float) -> None:
    wire = client.wire()
    wire.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    assert client.server.get("/livez").status_code == 200
    before = held(client.server).fds
    wire.send(message("/models/large/predict", str(11 * MIB)))
    client.abandon(0, 1)
    eventually(lambda: held(client.server).fds < before, "the server to give it up", within_s)


@pytest.mark.row("F1")
def test_many_clients_at_once_each_get_their_own_answer(contract: Contract) -> None:
    with contract.watch() as client, ThreadPoolExecutor(16) as pool:

        def ask(worker: int) -> None:
            wire = client.wire()
            kinds = {0: ("{", 400), 1: ('{"n":"x"}', 422), 2: ("", 400)}
            for n in range(worker * 1000, worker * 1000 + 60):
                body, status = kinds.get(n % 10, (json.dumps({"n": n}), 200))
                wire.send(message("/models/typed/predict", body))
                if n % 10 == 3:  # and go away
                    wire.reset()
                    wire = client.wire()
                    continue
                answer = wire.answer()
                assert answer.status == status
                assert status != 200 or answer.json() == 2 * n

        list(pool.map(ask, range(1, 17)))
        client.abandon(0, 16 * 6)


# The rows fail where nothing is limited


@pytest.mark.counter("H3")
def test_without_a_deadline_a_slow_head_waits(undefended: Served) -> None:
    with Client(undefended) as client:
        wire = client.wire()
        wire.socket.settimeout(HEAD_S * 2)
        wire.send(b"GET")
        with pytest.raises(TimeoutError):
            wire.rest()


@pytest.mark.counter("H2")
def test_where_something_of_each_connection_is_kept_it_is_noticed(serve: Serve) -> None:
    canary = f"{HTTP_MODELS}:Canary"
    server = serve(ECHO, canary, env=without("a connection is forgotten"))
    contract = Contract(server, "fast")
    with pytest.raises(AssertionError, match="memory grows"):
        contract.hold(lambda client: come_and_go(client, LoggedWire.reset), rounds=1)
    contract.close()


@pytest.mark.counter("H4")
def test_without_a_write_deadline_who_never_reads_keeps_its_connection(serve: Serve) -> None:
    server = serve(f"{HTTP_MODELS}:Large", limits__write_timeout_s=60.0)
    with Client(server) as client, pytest.raises(AssertionError, match="give it up"):
        given_up(client, 3.0)
