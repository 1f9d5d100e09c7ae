"""Clients that vanish or crawl: nothing is done for them, and nothing of them is left."""

from __future__ import annotations

import json
import math
import selectors
import socket
import time
from collections.abc import Callable, Collection, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest

from headrace.http.sockets import has_gone
from tests.e2e.conftest import WAIT_S, Serve, Served, Wire, eventually
from tests.e2e.test_tls import Certificate, TlsWire
from tests.faults.conftest import ECHO, HTTP_MODELS, IS_LONG, MIB, TIGHT
from tests.faults.contract import LATE_S, Client, Contract, LoggedWire, is_within, message
from tests.faults.defences import without
from tests.faults.watch import held, peak_bytes, rss_bytes

pytestmark = pytest.mark.slow

MANY = 10_000 if IS_LONG else 1000
SLOW_CLIENTS = 100 if IS_LONG else 10
SOON: dict[str, Any] = {**TIGHT, "limits__keep_alive_s": 0.5}
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
    def act(client: Client) -> None:
        server = client.server
        server.get("/livez")  # so that the connection of the probes is open each time
        before, began = held(server), time.monotonic()
        come_and_go(client, go)
        assert time.monotonic() - began < MANY / RATE + LATE_S
        eventually(lambda: is_within(held(server), before), "all to be freed", 1.0 + LATE_S)

    contract.hold(act, rounds=1, each=MANY, reaches=0)


RATE = 1000
"""Connections a second."""


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
def test_clients_that_crawl_are_closed_at_their_deadline(contract: Contract) -> None:
    """What they send meanwhile, however often, is no reason to wait for longer."""
    with contract.watch(reaches=0) as client:
        names = [name for name in SLOW for _ in range(SLOW_CLIENTS)]
        for name, (took_s, wire) in zip(names, crawl(client, names), strict=True):
            assert 0.9 * HEAD_S < took_s < HEAD_S + GRAIN_S + LATE_S, name
            status = SLOW[name][2]
            assert [each.status for each in wire.rest()] == [status] * bool(status), name


GRAIN_S = 0.2
"""How late a deadline may be: the server looks no more often than ten times in the shortest one."""
MAX_CRAWL_S = 2.5 * HEAD_S


def crawl(client: Client, names: Iterable[str]) -> list[tuple[float, LoggedWire]]:
    """Clients that begin as `SLOW` says, and send their piece again and again.

    Returns:
        How long each of them waited until the server said something, and its connection.
    """
    wires: dict[LoggedWire, tuple[float, bytes]] = {}
    took_s: dict[LoggedWire, float] = {}
    for name in names:
        began, (begin, drip, _) = time.monotonic(), SLOW[name]
        wire = client.wire()
        wire.send(begin)
        if name == "second-head":
            assert wire.answer().status == 200
        wires[wire] = began, drip
    ends = time.monotonic() + MAX_CRAWL_S
    with selectors.DefaultSelector() as selector:
        for wire in wires:
            selector.register(wire.socket, selectors.EVENT_READ, wire)
        while selector.get_map() and time.monotonic() < ends:
            drips = time.monotonic() + HEAD_S / 10
            while (left_s := drips - time.monotonic()) > 0 and selector.get_map():
                for key, _ in selector.select(left_s):
                    selector.unregister(key.fileobj)
                    took_s[key.data] = time.monotonic() - wires[key.data][0]
            for key in list(selector.get_map().values()):
                with suppress(ConnectionError):  # it has just been closed
                    key.data.send(wires[key.data][1])
    return [(took_s.get(wire, math.inf), wire) for wire in wires]


@pytest.mark.row("H4")
def test_what_is_done_for_a_client_that_does_not_read_is_bounded(contract: Contract) -> None:
    memory = rss_bytes(contract.server)
    with contract.watch() as client:
        assert done_unread(client, 10) <= 10 * MAX_HELD
        assert rss_bytes(contract.server) - memory < 10 * MAX_HELD * MIB
        assert client.ask("/predict", "1").json() == 1


def done_unread(client: Client, count: int) -> float:
    """How much is done for clients that ask for 60 answers each and read none."""

    def done() -> float:
        return client.server.metric("headrace_items_total", model="large") - before

    before = 0.0
    before = done()
    for _ in range(count):
        wire = client.wire()
        wire.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        wire.send(message("/models/large/predict", str(MIB)) * 60)
    client.abandon(0, count * 60)
    eventually(lambda: done() >= count, "answers")
    time.sleep(0.5)  # for those that nobody shall work on
    return done()


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


READERS = 100 if IS_LONG else 10
LARGE_BYTES = 11 * MIB
"""What is left of it when more than half was read is more than the system holds."""
WRITE_S = float(TIGHT["limits__write_timeout_s"])
MAX_SPANS = 4
"""In each span of the write deadline a client has to read half of what waits for it."""


@pytest.mark.row("H4")
def test_clients_that_read_slowly_are_reset_and_their_answers_are_held_once(
    contract: Contract,
) -> None:
    """They read 1 KiB each tenth of a second: it would take them a quarter of an hour."""
    server = contract.server
    with contract.watch() as client:
        assert client.ask("/models/large/predict", str(LARGE_BYTES)).status == 200
        memory = rss_bytes(server)
        Path(f"/proc/{server.process.pid}/clear_refs").write_text("5")  # forget the peak
        wires = [client.wire() for _ in range(READERS)]
        for wire in wires:
            wire.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            wire.send(message("/models/large/predict", str(LARGE_BYTES)))
        client.abandon(READERS, READERS)
        read_slowly(wires, MAX_SPANS * WRITE_S + READERS * ANSWER_S + LATE_S)
        grown = peak_bytes(server) - memory
        assert grown < READERS * LARGE_BYTES + 4 * LARGE_BYTES, "each is held once"


ANSWER_S = 0.1
"""For the model to make one, on a busy machine."""


def read_slowly(wires: Collection[Wire], within_s: float) -> None:
    """Read little by little until the server has reset all of them."""
    ends, left = time.monotonic() + within_s, list(wires)
    while left := [wire for wire in left if not has_gone(wire.socket.fileno())]:
        assert time.monotonic() < ends, f"{len(left)} of {len(wires)} are waited for"
        time.sleep(0.1)
        for wire in left:
            wire.socket.settimeout(0.001)
            with suppress(TimeoutError, ConnectionResetError):
                assert wire.socket.recv(1024), "an end in the middle of an answer"


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Certificate:
    return Certificate(tmp_path_factory.mktemp("tls"))


def ask_large(wire: Wire, headers: str = "") -> None:
    """Ask for an answer of which the system itself holds little."""
    wire.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 16)
    wire.post("/predict", str(LARGE_BYTES), headers)


TLS_WRITE_S = 2 * WRITE_S
"""Enough for clients to be early, and servers late, by half a second."""


def serve_tls(serve: Serve, certificate: Certificate, **settings: Any) -> Served:
    """A server of large answers over TLS."""
    settings |= {"tls_cert": certificate.cert, "tls_key": certificate.key}
    settings |= SOON | {"limits__write_timeout_s": TLS_WRITE_S}
    return serve(f"{HTTP_MODELS}:Large", executor="inline", **settings)


@pytest.mark.row("H4")
def test_over_tls_who_reads_slowly_is_reset_and_who_reads_enough_gets_all(
    serve: Serve, certificate: Certificate
) -> None:
    over_tls = serve_tls(serve, certificate)
    with ExitStack() as stack:
        slow, enough, last = (stack.enter_context(TlsWire(over_tls, certificate)) for _ in "123")
        for wire, headers in ((slow, ""), (enough, ""), (last, "connection: close\r\n")):
            ask_large(wire, headers)
        began = time.monotonic()
        with ThreadPoolExecutor(2) as pool:
            wholes = [pool.submit(read_by_halves, wire) for wire in (enough, last)]
            read_slowly([slow], MAX_SPANS * TLS_WRITE_S + LATE_S)
            assert all(whole.result() > LARGE_BYTES for whole in wholes)
        assert time.monotonic() - began > 2 * TLS_WRITE_S, "more than an end over TLS may take"


@pytest.mark.row("I1")
@pytest.mark.parametrize("is_tls", [False, True])
def test_who_reads_its_answer_at_a_drain_gets_all_of_it(
    serve: Serve, certificate: Certificate, is_tls: bool
) -> None:
    settings = {"executor": "inline", **SOON}
    server = serve_tls(serve, certificate) if is_tls else serve(f"{HTTP_MODELS}:Large", **settings)
    with TlsWire(server, certificate) if is_tls else Wire(server) as wire:
        ask_large(wire)
        taken = len(wire.socket.recv(1000))
        server.terminate()
        assert read_by_halves(wire, taken, 0.2) > LARGE_BYTES
    assert server.exit_code() == 0


def read_by_halves(wire: Wire, taken: int = 0, pause_s: float = 0.7 * TLS_WRITE_S) -> int:
    """Read an answer, more than half of what is left of it at a time; how much that was."""
    while taken <= LARGE_BYTES:
        time.sleep(pause_s)
        goal = taken + max(0.55 * (LARGE_BYTES - taken), MIB)
        while taken < goal and taken <= LARGE_BYTES:
            piece = wire.socket.recv(1 << 16)
            assert piece, f"cut off after {taken}"
            taken += len(piece)
    return taken


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
def test_where_each_byte_gives_more_time_a_client_may_crawl(serve: Serve) -> None:
    models = (ECHO, f"{HTTP_MODELS}:Typed")
    server = serve(*models, executor="inline", env=without("a deadline is not put off"), **SOON)
    names = ("slow-head", "slow-lines", "slow-body", "slow-chunks")
    with Client(server) as client:
        assert min(took_s for took_s, _ in crawl(client, names)) > HEAD_S + GRAIN_S + LATE_S


@pytest.mark.counter("H4")
def test_where_tls_takes_all_that_it_is_given_who_reads_enough_is_cut_off(
    serve: Serve, certificate: Certificate
) -> None:
    """Nobody sees that it reads."""
    server = serve_tls(serve, certificate, env=without("TLS has flow control"))
    with TlsWire(server, certificate) as enough:
        ask_large(enough, "connection: close\r\n")
        with pytest.raises((AssertionError, ConnectionError)):
            read_by_halves(enough)


@pytest.mark.counter("H4")
def test_where_unread_answers_hold_nobody_up_all_is_done_for_who_reads_none(serve: Serve) -> None:
    env = without("who does not read is asked nothing more")
    server = serve(f"{HTTP_MODELS}:Large", executor="inline", env=env)
    with Client(server) as client:
        assert done_unread(client, 1) > MAX_HELD


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
        given_up(client, 2.0)
