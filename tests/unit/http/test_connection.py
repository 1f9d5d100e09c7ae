"""Connections: requests in order, answers in order, and an end to every wait."""

from __future__ import annotations

import asyncio
import gc
import json
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from headrace import Limits
from headrace.http.asgi import Message, Receive, Scope, Send
from headrace.http.connection import (
    GRACE_S,
    LINGER_S,
    MAX_AHEAD,
    MAX_DROPPED_BYTES,
    Connection,
)
from headrace.http.turns import AsgiTurn
from tests.unit.http.peers import HIGH_BYTES, Peer, Peers, get, post

KIB = 1024


class Application:
    """An ASGI application that does what the path says.

    Attributes:
        scopes: Of its requests, in order.
        messages: All that it received.
        gate: What `/wait` waits for.
    """

    def __init__(self) -> None:
        self.scopes: list[Scope] = []
        self.messages: list[Message] = []
        self.gate = asyncio.Event()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> Any:
        self.scopes.append(scope)
        what = scope["path"].strip("/")
        if what == "nothing":
            return None
        if what == "raise":
            raise ValueError("a secret")
        body = b""
        if what in ("read", "chunks"):
            while True:
                message = await receive()
                self.messages.append(message)
                body += message.get("body", b"")
                if not message.get("more_body"):
                    break
        if what == "wait":
            await self.gate.wait()
        if what == "leave":
            self.messages.append(await receive())
            self.messages.append(await receive())
            return None
        headers = [] if what == "chunks" else [(b"content-length", b"%d" % (len(body) + 2))]
        if what == "close":
            headers.append((b"connection", b"close"))
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        if what == "half":
            return None
        if what == "half-raise":
            raise ValueError("a secret")
        if what == "half-wait":
            await self.gate.wait()
        await send({"type": "http.response.body", "body": body, "more_body": True})
        await send({"type": "http.response.body", "body": b"ok"})
        if what == "raise-after":
            await self.gate.wait()
            raise ValueError("a secret")
        return 1 if what == "return" else None


def serving(
    test: Callable[[Peers, Application], Awaitable[None]],
    *,
    limits: Limits | None = None,
    **settings: Any,
) -> None:
    """Run a test over connections of an application."""

    async def run() -> None:
        app = Application()
        with Peers(app, fast=False, limits=limits, **settings) as peers:
            try:
                await test(peers, app)
            finally:
                app.gate.set()
                for connection in list(peers.state.connections):
                    connection.connection_lost(None)
                await peers.settle()
                assert peers.state.tasks == set()

    asyncio.run(run())


# Requests and answers


def test_a_request_has_the_scope_that_asgi_says() -> None:
    async def test(peers: Peers, app: Application) -> None:
        peer = peers.connect()
        peer.send(get("/a%20b%2Fc?x=%20&y", "X-One: 1\r\nx-one: 2\r\n"))
        await peers.settle()
        [scope] = app.scopes
        assert (scope["type"], scope["method"], scope["http_version"]) == ("http", "GET", "1.1")
        assert (scope["path"], scope["raw_path"]) == ("/root/a b/c", b"/root/a%20b%2Fc")
        assert scope["query_string"] == b"x=%20&y"
        assert scope["headers"] == [(b"host", b"x"), (b"x-one", b"1"), (b"x-one", b"2")]
        assert (scope["scheme"], scope["root_path"]) == ("http", "/root")
        assert peer.statuses == [200]

    serving(test, root_path="/root")


@pytest.mark.parametrize("size", [1, 7, 10_000])
def test_requests_are_answered_in_order_however_they_are_cut(size: int) -> None:
    async def test(peers: Peers, app: Application) -> None:
        peer = peers.connect()
        chunked = b"POST /read HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\n"
        data = (
            get("/")
            + post(b"one", path="/read")
            + (chunked + b"3\r\ntwo\r\n5\r\nthree\r\n0\r\nx-trailer: 9\r\n\r\n")
            + get("/", method="HEAD")
            + post(b"", path="/chunks")
        )
        for at in range(0, len(data), size):
            peer.send(data[at : at + size])
        await peers.settle()
        # A parser of answers alone cannot know that one has no body.
        head, behind = peer.got.rsplit(b"content-length: 2\r\n\r\nHTTP", 1)
        assert head.count(b" 200 OK") == 4
        assert b"oneok" in head and b"twothreeok" in head
        assert behind.endswith(b"2\r\nok\r\n0\r\n\r\n")
        assert not peer.has_end

    serving(test)


def test_a_thousand_requests_in_one_read_are_answered_and_few_are_held() -> None:
    async def test(peers: Peers, app: Application) -> None:
        peer = peers.connect()
        peer.send(b"".join(get(f"/{n}") for n in range(1000)))
        assert not peer.is_reading
        while len(peer.answers) < 1000:
            later = peer.connection._later
            assert later is None or len(later) <= MAX_AHEAD + 4096 // len(get("/1"))
            await peers.settle()
        assert [scope["path"] for scope in app.scopes] == [f"/{n}" for n in range(1000)]
        assert peer.is_reading

    serving(test)


def test_a_large_body_is_taken_as_far_as_the_application_reads() -> None:
    async def test(peers: Peers, app: Application) -> None:
        peer = peers.connect()
        size = 256 * KIB
        peer.send(post(b"x" * size, path="/read"))
        assert not peer.is_reading, "nobody has read yet"
        await peers.settle()
        assert len(peer.answers[0].body) == size + 2
        assert max(len(message["body"]) for message in app.messages) < 160 * KIB
        assert peer.is_reading

    serving(test)


def test_a_large_body_that_nobody_reads_is_passed_over() -> None:
    async def test(peers: Peers, app: Application) -> None:
        peer = peers.connect()
        peer.send(post(b"x" * 256 * KIB) + get("/"))
        for _ in range(3):
            await peers.settle()
        assert peer.statuses == [200, 200]
        assert app.messages == []

    serving(test)


@pytest.mark.parametrize(
    "request_",
    [
        get("/", "connection: close\r\n"),
        get("/close"),
        b"GET / HTTP/1.0\r\n\r\n",
        b"GET / HTTP/1.0\r\nconnection: keep-alive\r\n\r\n",
    ],
)
def test_the_last_request_is_the_last(request_: bytes) -> None:
    async def test(peers: Peers, app: Application) -> None:
        peer = peers.connect()
        peer.send(get("/") + request_ + get("/"))
        await peers.settle()
        assert peer.statuses == [200, 200]
        assert peer.answers[1].headers["connection"] == "close"
        assert peer.has_end and not peer.is_closed
        peer.send(get("/"))
        peers.loop.advance(LINGER_S)
        await peers.settle()
        assert peer.is_closed
        assert len(peer.answers) == 2

    serving(test)


def test_what_comes_behind_the_last_request_is_dropped_up_to_a_bound() -> None:
    async def test(peers: Peers, app: Application) -> None:
        peer = peers.connect()
        peer.send(get("/wait", "connection: close\r\n"))
        for _ in range(5):
            peer.send(b"x" * (MAX_DROPPED_BYTES // 4))
        assert not peer.is_reading
        app.gate.set()
        await peers.settle()
        assert peer.statuses == [200]
        assert peer.has_end

    serving(test)


def test_a_body_is_asked_for_when_the_application_wants_it() -> None:
    async def test(peers: Peers, app: Application) -> None:
        expecting = "expect: 100-continue\r\n"
        peer = peers.connect()
        peer.send(post(b"abc", expecting, path="/read")[:-3])
        await peers.settle()
        assert peer.statuses == [100]
        peer.send(b"abc")
        await peers.settle()
        assert peer.statuses == [100, 200]
        assert b"connection: close" not in peer.got
        assert not peer.has_end

    serving(test)


def test_a_body_that_was_awaited_and_is_not_wanted_ends_the_connection() -> None:
    """The client may send it or not: what comes next cannot be told."""

    async def test(peers: Peers, app: Application) -> None:
        peer = peers.connect()
        peer.send(post(b"abc", "expect: 100-continue\r\n")[:-3])
        await peers.settle()
        assert peer.statuses == [200]
        assert b"connection: close\r\n" in peer.got.partition(b"\r\n\r\n")[0] + b"\r\n"
        assert peer.has_end

    serving(test)


def test_one_that_was_awaited_and_is_there_already_ends_nothing() -> None:
    async def test(peers: Peers, app: Application) -> None:
        peer = peers.connect()
        peer.send(post(b"abc", "expect: 100-continue\r\n"))
        await peers.settle()
        assert peer.statuses == [200]
        assert b"connection: close" not in peer.got
        assert not peer.has_end

    serving(test)


@pytest.mark.parametrize("path", ["/predict", "/read"])
def test_a_client_of_http_1_0_is_not_told_to_send_what_it_has(path: str) -> None:
    async def test() -> None:
        with Peers(Application()) as peers:
            peer = peers.connect()
            request = post(b"[1]", "expect: 100-continue\r\n", path=path, version="1.0")
            peer.send(request[:-1])
            await peers.settle()
            assert peer.got == b""
            peer.send(request[-1:])
            await peers.settle()
            assert peer.statuses == [200]

    asyncio.run(test())


# Offers to leave HTTP


OFFER = "connection: Upgrade, HTTP2-Settings\r\nupgrade: h2c\r\nhttp2-settings: AAMA\r\n"


@pytest.mark.parametrize("size", [1, 50, 10_000])
@pytest.mark.parametrize("is_fast", [True, False])
def test_an_offer_is_passed_over_and_its_request_served_with_its_body(
    size: int, is_fast: bool
) -> None:
    chunked = (
        f"POST /read HTTP/1.1\r\nhost: x\r\n{OFFER}transfer-encoding: chunked\r\n\r\n".encode()
    )

    async def test() -> None:
        app = Application()
        with Peers(app, fast=is_fast) as peers:
            peer = peers.connect()
            data = (
                get("/read", OFFER)
                + post(b"[12345]", OFFER, path="/read")
                + (chunked + b"3\r\none\r\n0\r\nx-trailer: 1\r\n\r\n")
                + post(b"[67]", OFFER)
                + get("/read")
            )
            for at in range(0, len(data), size):
                peer.send(data[at : at + size])
            await peers.settle()
            bodies = [answer.body for answer in peer.answers]
            assert bodies == [b"ok", b"[12345]ok", b"oneok", b"[67]" if is_fast else b"ok", b"ok"]
            assert not peer.has_end
            assert peers.in_flight == 0
            peer.reset()

    asyncio.run(test())


def test_a_head_with_an_offer_is_remembered_as_any_other() -> None:
    with Peers() as peers:
        peer = peers.connect()
        for body in (b"[1]", b"[2]", b"[3]"):
            peer.send(post(body, OFFER))
            peers.run()
        assert [answer.body for answer in peer.answers] == [b"[1]", b"[2]", b"[3]"]


def test_offers_without_number_are_passed_over() -> None:
    async def test(peers: Peers, app: Application) -> None:
        peer = peers.connect()
        peer.send(post(b"x" * 70 * KIB) + get("/", "connection: upgrade\r\nupgrade: a\r\n") * 1500)
        for _ in range(200):
            await peers.settle()
        assert peer.statuses == [200] * 1501

    serving(test)


def test_a_tunnel_is_refused_and_what_it_carries_is_not_read() -> None:
    async def test(peers: Peers, app: Application) -> None:
        for target in ("example.org:443", "/"):
            peer = peers.connect()
            peer.send(get(target, method="CONNECT") + get("/"))
            await peers.settle()
            assert peer.statuses == [400 if target != "/" else 200]
            assert peer.has_end

    serving(test)


# What is refused


@pytest.mark.parametrize(
    ("data", "status"),
    [
        (b"NONSENSE\r\n\r\n", 400),
        (b"GET / HTTP/2.0\r\n\r\n", 400),
        (b"GET /\xff HTTP/1.1\r\nhost: x\r\n\r\n", 400),
        (get("/", "x: " + "y" * 2000 + "\r\n"), 431),
        (get("/" + "y" * 2000), 431),
        (get("/", "".join(f"x{n}: 1\r\n" for n in range(5))), 431),
    ],
)
@pytest.mark.parametrize("before", [0, 2])
def test_what_cannot_be_served_is_answered_last(data: bytes, status: int, before: int) -> None:
    async def test(peers: Peers, app: Application) -> None:
        peer = peers.connect()
        peer.send(get("/wait") * before + data + get("/"))
        peer.send(get("/"))
        assert len(peer.answers) == (0 if before else 1)
        app.gate.set()
        await peers.settle()
        assert peer.statuses == [200] * before + [status]
        assert set(json.loads(peer.answers[-1].body)) == {"error", "code", "details"}
        assert peer.answers[-1].headers["connection"] == "close"
        assert peer.has_end

    serving(test, limits=Limits(max_headers=3, max_head_bytes=1000))


@pytest.mark.parametrize("size", [64, 10_000])
def test_a_head_without_end_is_refused_though_no_part_of_it_is_whole(size: int) -> None:
    async def test(peers: Peers, app: Application) -> None:
        peer = peers.connect()
        peer.send(b"GET / HTTP/1.1\r\nhost: x\r\nx: ")
        for _ in range(3000 // size + 1):
            peer.send(b"y" * size)
        assert peer.statuses == [431]

    serving(test, limits=Limits(max_head_bytes=1000))


@pytest.mark.parametrize("size", [1, 7, 64, 10_000])
@pytest.mark.parametrize(("value_bytes", "status"), [(85, 200), (86, 431)])
def test_a_head_up_to_its_limit_is_taken_however_it_is_cut(
    size: int, value_bytes: int, status: int
) -> None:
    # Names, values and the target count; what stands around them does not.
    headers = "".join(f"h{n}: {'v' * 97}\r\n" for n in range(9))
    head = f"GET /read HTTP/1.1\r\nhost: x\r\n{headers}last: {'v' * value_bytes}\r\n\r\n".encode()
    limits = Limits(max_head_bytes=5 + 5 + 9 * 99 + 4 + 85)

    async def test(peers: Peers, app: Application) -> None:
        peer = peers.connect()
        for at in range(0, len(head), size):
            peer.send(head[at : at + size])
        await peers.settle()
        assert peer.statuses == [status]

    serving(test, limits=limits)


def test_trailers_count_to_the_head() -> None:
    async def test(peers: Peers, app: Application) -> None:
        peer = peers.connect()
        peer.send(
            b"POST /read HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\n1\r\nx\r\n0\r\n"
        )
        peer.send(b"".join(b"x%d: 1\r\n" % n for n in range(500)))
        await peers.settle()
        assert peer.statuses == [431]
        assert app.messages[-1]["type"] == "http.disconnect"

    serving(test, limits=Limits(max_head_bytes=1000))


@pytest.mark.parametrize("before", [0, 1])
def test_a_body_that_is_malformed_ends_its_request(before: int) -> None:
    async def test(peers: Peers, app: Application) -> None:
        peer = peers.connect()
        if before:
            peer.send(get("/wait"))
        peer.send(b"POST /read HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\n1\r\nx\r\n")
        await peers.settle()
        peer.send(b"NONSENSE\r\n")
        app.gate.set()
        await peers.settle()
        assert peer.statuses == [200] * before + [400]
        assert peer.has_end
        if not before:
            assert [message["type"] for message in app.messages] == [
                "http.request",
                "http.disconnect",
            ]

    serving(test)


@pytest.mark.parametrize("path", ["/", "/half-wait"])
def test_a_body_that_is_malformed_is_not_answered_behind_or_within_an_answer(path: str) -> None:
    async def test(peers: Peers, app: Application) -> None:
        peer = peers.connect()
        peer.send(
            b"POST %b HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\n" % path.encode()
        )
        await peers.settle()
        peer.send(b"NONSENSE\r\n")
        app.gate.set()
        await peers.settle()
        assert peer.got.count(b"HTTP/1.1") == 1
        assert peer.has_end

    serving(test)


def test_a_connection_too_many_is_told_so_and_the_others_are_served() -> None:
    async def test(peers: Peers, app: Application) -> None:
        first, second = peers.connect(), peers.connect()
        for peer in (first, second):
            peer.send(get("/"))
        await peers.settle()
        assert (first.statuses, second.statuses) == ([200], [503])
        assert "retry-after" in second.answers[0].headers
        assert second.has_end
        first.send(get("/"))
        await peers.settle()
        assert first.statuses == [200, 200]

    serving(test, most=1)


def test_an_error_of_ours_while_a_request_is_taken_is_no_fault_of_the_client(
    caplog: pytest.LogCaptureFixture,
) -> None:
    class Broken(Connection):
        __slots__ = ()

        def take_turn(self, head: Any) -> None:
            raise KeyError("a secret")

    async def test(peers: Peers, app: Application) -> None:
        peers.protocol = Broken.limited(Limits(), clock=peers.clock)
        peer = peers.connect()
        peer.send(get("/"))
        assert peer.statuses == [500]
        assert b"secret" not in peer.got
        assert "a secret" in caplog.text

    serving(test)


def test_more_requests_at_once_than_uvicorn_may_run_are_told_so() -> None:
    async def test(peers: Peers, app: Application) -> None:
        first, second = peers.connect(), peers.connect()
        first.send(get("/"))
        await peers.settle()
        assert first.statuses == [503]
        second.reset()

    serving(test, limit_concurrency=2)


# Applications that fail


@pytest.mark.parametrize(
    ("path", "status"), [("/nothing", 500), ("/raise", 500), ("/half", None), ("/half-raise", None)]
)
def test_an_application_that_does_not_answer_ends_the_connection(
    path: str, status: int | None, caplog: pytest.LogCaptureFixture
) -> None:
    async def test(peers: Peers, app: Application) -> None:
        peer = peers.connect()
        peer.send(get(path) + get("/"))
        await peers.settle()
        assert peer.statuses == ([] if status is None else [status])
        assert peer.has_end
        assert peer.is_closed == (status is None), "an answer without end is cut off"
        assert [scope["path"] for scope in app.scopes] == [path]

    serving(test)


@pytest.mark.parametrize("path", ["/raise-after", "/return"])
def test_what_an_application_does_behind_its_answer_harms_no_other_request(
    path: str, caplog: pytest.LogCaptureFixture
) -> None:
    async def test(peers: Peers, app: Application) -> None:
        peer = peers.connect()
        peer.send(get(path) + get("/wait"))
        await peers.settle()
        app.gate.set()
        await peers.settle()
        assert peer.statuses == [200, 200]
        assert not peer.has_end
        assert caplog.records != []

    serving(test)


# Waits


LIMITS = Limits(
    head_timeout_s=2.0,
    body_timeout_s=4.0,
    keep_alive_s=8.0,
    write_timeout_s=5.0,
    max_head_bytes=KIB,
)


@pytest.mark.parametrize("sent", [b"", b"G", b"GET / HTTP/1.1\r\nhost: x\r\nx"])
@pytest.mark.parametrize("is_first", [True, False])
def test_a_head_has_to_come_in_time_and_a_connection_may_be_idle_for_longer(
    sent: bytes, is_first: bool
) -> None:
    async def test(peers: Peers, app: Application) -> None:
        peer = peers.connect()
        if not is_first:
            peer.send(get("/"))
            await peers.settle()
        if sent:
            peer.send(sent)
        wait_s = 2.0 if sent or is_first else 8.0
        peers.loop.advance(wait_s - 0.1)
        assert not peer.has_end
        peers.loop.advance(0.4)
        assert peer.has_end
        assert peer.statuses == [200] * (not is_first) + [408] * bool(sent)
        peers.loop.advance(LINGER_S + 0.1)
        assert peer.is_closed
        peers.loop.advance(100.0)

    serving(test, limits=LIMITS)


def test_a_request_that_crosses_the_end_of_an_idle_connection_is_answered() -> None:
    async def test(peers: Peers, app: Application) -> None:
        peer = peers.connect()
        peer.send(get("/"))
        await peers.settle()
        peer.other.send(b"GET")  # is in the socket, and not read yet
        peers.loop.advance(8.5)
        assert not peer.has_end
        peer.own.recv(3)
        peer.send(get("/"))
        await peers.settle()
        assert peer.statuses == [200, 200]

    serving(test, limits=LIMITS)


def test_a_slow_body_is_the_applications_to_judge_unless_it_has_answered() -> None:
    async def test(peers: Peers, app: Application) -> None:
        reads, answers = peers.connect(), peers.connect()
        reads.send(post(b"abc", path="/read")[:-1])
        answers.send(post(b"abc", path="/")[:-1])
        await peers.settle()
        peers.loop.advance(5.0)
        await peers.settle()
        assert not reads.has_end
        assert answers.statuses == [200] and answers.has_end
        reads.send(b"c")
        await peers.settle()
        assert reads.answers[0].body == b"abcok"

    serving(test, limits=LIMITS)


def large(peers: Peers, peer: Peer, size: int) -> None:
    """The client does not read, and is sent this much as the last part of an answer."""
    peer.is_stalled = True
    peer.connection.write(b"x" * size)


def test_a_client_that_reads_nothing_is_waited_for_no_longer_than_it_may_take() -> None:
    async def test(peers: Peers, app: Application) -> None:
        peer = peers.connect()
        peer.send(get("/"))
        await peers.settle()
        large(peers, peer, 2 * HIGH_BYTES)
        assert not peer.is_reading, "no more of its requests are taken"
        peers.loop.advance(4.9)
        assert not peer.is_closed
        peers.loop.advance(0.5)
        assert peer.is_closed

    serving(test, limits=LIMITS)


def test_a_client_that_reads_half_in_each_span_is_waited_for() -> None:
    async def test(peers: Peers, app: Application) -> None:
        peer = peers.connect()
        peer.send(get("/"))
        await peers.settle()
        large(peers, peer, 1000 * KIB)
        for left in (500, 250, 125, 62, 31):
            peer.read((peer.get_write_buffer_size() + 1) // 2)
            assert peer.get_write_buffer_size() // KIB == left
            peers.loop.advance(5.0)
            assert not peer.is_closed
        peer.read()
        assert peer.is_reading
        peer.is_stalled = False
        peer.send(get("/"))
        await peers.settle()
        assert peer.got.endswith(b"ok")

    serving(test, limits=LIMITS)


def test_what_is_written_meanwhile_is_not_what_the_client_should_have_read() -> None:
    async def test(peers: Peers, app: Application) -> None:
        peer = peers.connect()
        peer.send(get("/"))
        await peers.settle()
        large(peers, peer, 100 * KIB)
        peer.read(50 * KIB)
        peer.connection.write(b"y" * 500 * KIB, b"z" * 500 * KIB)
        peers.loop.advance(5.3)
        assert not peer.is_closed
        peer.read(400 * KIB)
        peers.loop.advance(5.3)
        assert peer.is_closed

    serving(test, limits=LIMITS)


def test_an_application_waits_for_a_client_that_does_not_read() -> None:
    async def test(peers: Peers, app: Application) -> None:
        peer = peers.connect()
        peer.is_stalled = True
        peer.send(post(b"x" * 10, path="/half-wait"))
        await peers.settle()
        large(peers, peer, 2 * HIGH_BYTES)
        waits = peer.get_write_buffer_size()
        app.gate.set()
        await peers.settle()
        assert peer.get_write_buffer_size() == waits
        peer.is_stalled = False
        peer.read()
        await peers.settle()
        assert len(peer.got) > waits

    serving(test, limits=LIMITS)


@pytest.mark.parametrize("size", [100, 2 * HIGH_BYTES])
@pytest.mark.parametrize("is_tls", [True, False])
def test_an_ended_connection_whose_client_does_not_read_is_aborted(size: int, is_tls: bool) -> None:
    async def test(peers: Peers, app: Application) -> None:
        peer = peers.connect(is_tls=is_tls)
        peer.send(get("/wait", "connection: close\r\n"))
        await peers.settle()
        large(peers, peer, size)
        app.gate.set()
        await peers.settle()
        if size <= HIGH_BYTES:
            assert peer.is_closing() == is_tls
            peers.loop.advance(LINGER_S)
            assert peer.is_closing() and not peer.is_closed
        peers.loop.advance(12.0)
        assert peer.is_closed

    serving(test, limits=LIMITS)


@pytest.mark.parametrize("path", ["/half", "/"])
def test_an_answer_that_is_not_read_holds_no_connection_for_ever(path: str) -> None:
    async def test(peers: Peers, app: Application) -> None:
        peer = peers.connect()
        peer.is_stalled = True
        peer.send(get(path))
        await peers.settle()
        assert peer.get_write_buffer_size()
        peers.loop.advance(20.0)
        assert peer.is_closed

    serving(test, limits=LIMITS)


def test_an_answer_that_is_read_in_time_is_followed_by_the_end() -> None:
    async def test(peers: Peers, app: Application) -> None:
        peer = peers.connect()
        peer.is_stalled = True
        peer.send(get("/", "connection: close\r\n"))
        await peers.settle()
        peers.loop.advance(1.0)
        assert not peer.is_closed
        peer.read()
        peers.loop.advance(1.0)
        assert peer.statuses == [200]
        assert peer.has_end and peer.is_closed

    serving(test, limits=LIMITS)


def test_requests_are_not_parsed_while_the_client_does_not_read() -> None:
    async def test(peers: Peers, app: Application) -> None:
        peer = peers.connect()
        peer.send(get("/") * 200)
        large(peers, peer, 2 * HIGH_BYTES)
        for _ in range(10):
            await peers.settle()
        taken = len(app.scopes)
        assert taken < 200
        peer.is_stalled = False
        peer.read()
        for _ in range(10):
            await peers.settle()
        assert len(app.scopes) == 200

    serving(test, limits=LIMITS)


def test_over_tls_an_answer_before_its_body_is_not_torn_by_the_close() -> None:
    async def test(peers: Peers, app: Application) -> None:
        refused, last = peers.connect(is_tls=True), peers.connect(is_tls=True)
        refused.send(b"NONSENSE\r\n\r\n")
        last.send(get("/", "connection: close\r\n"))
        await peers.settle()
        assert last.is_closed, "nothing more will come"
        refused.send(b"more")
        assert (refused.statuses, refused.is_closing()) == ([400], False)
        peers.loop.advance(LINGER_S)
        assert refused.is_closed

    serving(test)


# Ends


@pytest.mark.parametrize(
    "sent",
    [
        b"",
        b"GET",
        get("/wait"),
        get("/wait") * 3,
        post(b"abc", path="/read")[:-1],
        get("/half-wait"),
    ],
)
def test_a_client_that_vanishes_is_told_to_every_application_that_works_for_it(sent: bytes) -> None:
    async def test(peers: Peers, app: Application) -> None:
        peer = peers.connect()
        if sent:
            peer.send(sent)
        await peers.settle()
        got = peer.got
        peer.reset()
        app.gate.set()
        await peers.settle()
        assert peers.state.connections == set()
        assert peers.state.tasks == set()
        assert peer.got == got
        assert len(app.scopes) == (1 if b"HTTP" in sent else 0)
        if b"/read" in sent:
            assert app.messages[-1]["type"] == "http.disconnect"

    serving(test)


def test_a_client_that_leaves_ends_the_wait_of_an_application() -> None:
    async def test(peers: Peers, app: Application) -> None:
        peer = peers.connect()
        peer.send(get("/leave"))
        await peers.settle()
        peer.reset()
        await peers.settle()
        assert [m["type"] for m in app.messages] == ["http.request", "http.disconnect"]

    serving(test)


@pytest.mark.parametrize("sent", [b"", b"GET"])
def test_an_end_before_a_request_is_whole_closes_the_connection(sent: bytes) -> None:
    async def test(peers: Peers, app: Application) -> None:
        peer = peers.connect()
        if sent:
            peer.send(sent)
        await peers.settle()
        peer.finish()
        await peers.settle()
        assert peer.is_closed
        assert peer.got == b""

    serving(test)


UNFINISHED = {
    "length": post(b"abc", path="/read")[:-1],
    "chunks": b"POST /read HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\n5\r\nab",
    "predict": post(b"abc")[:-1],
}


@pytest.mark.parametrize("sent", UNFINISHED.values(), ids=UNFINISHED)
@pytest.mark.parametrize("fast", [True, False])
@pytest.mark.parametrize("before", [0, 2])
def test_an_end_within_a_body_is_answered(sent: bytes, fast: bool, before: int) -> None:
    async def test() -> None:
        app = Application()
        with Peers(app, fast=fast) as peers:
            peer = peers.connect()
            peer.send(get("/") * before + sent)
            peer.finish()
            await peers.settle()
            finals = [answer for answer in peer.answers if answer.status != 100]
            assert [answer.status for answer in finals] == [200] * before + [400]
            assert json.loads(finals[-1].body)["code"] == "bad_request"
            assert peer.is_closed
            assert peers.in_flight == 0

    asyncio.run(test())


def test_an_end_within_a_body_that_was_refused_does_not_cost_the_refusal() -> None:
    async def test() -> None:
        app = Application()
        with Peers(app, limits=Limits(max_json_bytes=10)) as peers:
            for rest in (b"", b"x" * 49 + b"ZZ"):
                peer = peers.connect()
                refused = post(b"x" * 99, "transfer-encoding: chunked\r\n").replace(
                    b"content-length: 99\r\n", b""
                )
                body = b"63\r\n" + b"x" * 50
                peer.send(get("/wait") + refused.removesuffix(b"x" * 99) + body + rest)
                peer.finish()
                app.gate.set()
                await peers.settle()
                assert [status for status in peer.statuses if status != 100] == [200, 413]
                assert peer.is_closed
                assert peers.in_flight == 0

    asyncio.run(test())


@pytest.mark.parametrize("rest", [b"", b"GET", post(b"abc", path="/read")[:-1]])
def test_an_end_behind_requests_does_not_cost_their_answers(rest: bytes) -> None:
    async def test(peers: Peers, app: Application) -> None:
        peer = peers.connect()
        peer.send(get("/wait") * 2 + rest)
        peer.finish()
        await peers.settle()
        assert not peer.has_end
        app.gate.set()
        await peers.settle()
        # An interim answer finds out whether the client is there.
        assert peer.statuses == [100, 200, 200] + [400] * (b"abc"[:-1] in rest)
        assert peer.is_closed

    serving(test)


def test_an_end_behind_what_is_kept_counts_when_that_is_answered() -> None:
    async def test(peers: Peers, app: Application) -> None:
        peer = peers.connect()
        peer.send(get("/wait") + get("/") * 300)
        large(peers, peer, 2 * HIGH_BYTES)
        assert not peer.is_reading
        assert peer.connection.eof_received(), "some transports tell it nevertheless"
        app.gate.set()
        peer.is_stalled = False
        peer.read()
        for _ in range(100):
            await peers.settle()
        assert len(app.scopes) == 301
        assert peer.has_end and not peer.is_reading

    serving(test)


# Drains


def test_an_idle_connection_is_ended_at_a_drain_once_nothing_crosses() -> None:
    async def test(peers: Peers, app: Application) -> None:
        idle, used = peers.connect(), peers.connect()
        used.send(get("/"))
        await peers.settle()
        for peer in (idle, used):
            peer.connection.shutdown()
        peers.loop.advance(GRACE_S / 2)
        assert not idle.has_end and not used.has_end
        peers.loop.advance(GRACE_S)
        assert idle.has_end and used.has_end
        assert idle.other.recv(1) == b"", "it is sent at once, not in the loop's next turn"
        peers.loop.advance(LINGER_S)
        assert peers.state.connections == set()

    serving(test)


@pytest.mark.parametrize("is_used", [False, True])
@pytest.mark.parametrize("size", [10 * KIB, 1000 * KIB])
def test_a_client_that_reads_its_last_answer_at_a_drain_gets_all_of_it(
    size: int, is_used: bool
) -> None:
    async def test(peers: Peers, app: Application) -> None:
        peer = peers.connect()
        peer.send(get("/"))
        await peers.settle()
        large(peers, peer, size)
        peer.other.setblocking(False)
        peer.connection.shutdown()
        for _ in range(4):
            peers.loop.advance(2 * GRACE_S)
            with pytest.raises(BlockingIOError):
                peer.other.recv(1)  # the socket has no end before the transport is empty
            assert not peer.has_end
            peer.read(peer.get_write_buffer_size() // 2)
        if is_used and size > HIGH_BYTES:
            peer.send(get("/"))
            peer.is_stalled = False
        peer.read()
        await peers.settle()
        peers.loop.advance(2 * GRACE_S)
        assert peer.got.count(b"x") >= size
        assert peer.has_end
        if is_used and size > HIGH_BYTES:
            assert peer.got.endswith(b"ok"), "it had not got its end yet"

    serving(test, limits=LIMITS)


def test_what_crosses_a_drain_is_answered_and_is_the_last() -> None:
    async def test(peers: Peers, app: Application) -> None:
        parsed, unread = peers.connect(), peers.connect()
        for peer in (parsed, unread):
            peer.connection.shutdown()
        parsed.send(get("/") + get("/"))
        unread.other.send(b"GET")
        await peers.settle()
        peers.loop.advance(2 * GRACE_S)
        assert parsed.statuses == [200]
        assert parsed.answers[0].headers["connection"] == "close"
        assert not unread.has_end
        unread.send(get("/"))
        await peers.settle()
        assert unread.statuses == [200] and unread.has_end

    serving(test)


@pytest.mark.parametrize(
    ("sent", "then", "statuses"),
    [
        (b"GET", b" / HTTP/1.1\r\nhost: x\r\n\r\n", [200]),
        (post(b"abc", path="/read")[:-1], b"c", [200]),
        (get("/wait"), b"", [200]),
        (get("/wait") * 3, get("/"), [200, 200, 200]),
        (get("/wait") + b"GET", b" / HTTP/1.1\r\nhost: x\r\n\r\n" + get("/"), [200, 200]),
        (get("/half-wait"), b"", [200]),
        (get("/close"), b"", [200]),
    ],
)
def test_a_drain_answers_what_has_begun_and_closes(
    sent: bytes, then: bytes, statuses: list[int]
) -> None:
    async def test(peers: Peers, app: Application) -> None:
        peer = peers.connect()
        peer.send(sent)
        await peers.settle()
        peer.connection.shutdown()
        peers.loop.advance(2 * GRACE_S)
        if then:
            peer.send(then)
        app.gate.set()
        await peers.settle()
        assert peer.statuses == statuses
        last = peer.answers[-1].headers.get("connection")
        assert peer.has_end == (last == "close"), "who was not told may still ask for a moment"
        peers.loop.advance(GRACE_S)
        assert peer.has_end
        peers.loop.advance(1.0)
        assert peers.state.connections == set()

    serving(test)


def test_before_a_drain_each_answer_is_the_last_of_its_connection() -> None:
    async def test(peers: Peers, app: Application) -> None:
        idle, busy, half, told = (peers.connect() for _ in range(4))
        busy.send(get("/wait"))
        half.send(b"GET")
        told.send(get("/half-wait"))
        await peers.settle()
        peers.protocol.is_leaving = True
        for peer in (idle, busy, half, told):
            peer.connection.finish()
        late = peers.connect()
        peers.loop.advance(2 * GRACE_S)
        assert not any(peer.has_end for peer in (idle, busy, half, told, late))
        app.gate.set()
        for peer, rest in (
            (idle, get("/")),
            (half, b" / HTTP/1.1\r\nhost: x\r\n\r\n"),
            (late, get("/")),
        ):
            peer.send(rest)
        await peers.settle()
        for peer in (idle, busy, half, late):
            assert peer.statuses == [200] and peer.has_end
            assert peer.answers[0].headers["connection"] == "close"
        assert told.statuses == [200] and not told.has_end
        told.send(get("/"))
        await peers.settle()
        assert told.statuses == [200, 200] and told.has_end
        assert told.answers[1].headers["connection"] == "close"

    serving(test)


def test_what_came_before_the_end_of_an_idle_connection_is_answered() -> None:
    async def test(peers: Peers, app: Application) -> None:
        peer = peers.connect()
        peer.connection.shutdown()
        peer.other.send(b"GET")  # the system has it, and the loop does not know yet
        peers.loop.advance(2 * GRACE_S)
        peer.other.setblocking(False)
        with pytest.raises(BlockingIOError):
            peer.other.recv(1)
        assert not peer.has_end
        peer.own.recv(3)
        peer.send(get("/"))
        await peers.settle()
        assert peer.statuses == [200]

    serving(test)


def test_a_request_and_its_body_are_gone_with_the_answer_not_with_a_collection() -> None:
    async def test(peers: Peers, app: Application) -> None:
        peer = peers.connect()
        gc.collect()
        gc.disable()
        try:
            peer.send(post(b"x" * 1000, path="/read"))
            await peers.settle()
            peers.loop.advance(1.0)
            assert [o for o in gc.get_objects() if isinstance(o, AsgiTurn)] == []
        finally:
            gc.enable()

    serving(test)
