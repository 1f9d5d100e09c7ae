"""The budget of bodies: what is counted, what is refused, and that all of it comes back."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from typing import Any

import pytest

from headrace import Limits
from headrace.call import Value
from headrace.errors import QueueFull
from headrace.http import App
from headrace.http.budget import COUNTED_BYTES, Budget
from headrace.metrics import HttpCounts
from tests.unit.http.peers import Peer, Peers, post

KIB = 1024
LIMITS = Limits(max_inflight_bytes=256 * KIB)
CHUNKED = b"POST /predict HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\n"


def body(size: int) -> bytes:
    """JSON of so many bytes."""
    return b'"' + b"x" * (size - 2) + b'"'


def chunk(size: int) -> bytes:
    return b"%x\r\n%b\r\n" % (size, b" " * size)


@pytest.fixture
def peers() -> Iterator[Peers]:
    with Peers(limits=LIMITS) as peers:
        yield peers
        peers.run()
        assert used(peers) == 0


def used(peers: Peers) -> int:
    return peers.service.counts.inflight_bytes


def refusal(peer: Peer) -> tuple[int, bool, bool]:
    """The status of the last answer, whether it says when to come again, and the end."""
    answer = peer.answers[-1]
    assert answer.status != 503 or b'"queue_full"' in answer.body
    return answer.status, "retry-after" in answer.headers, peer.has_end


def test_a_budget_takes_what_fits_and_gives_it_back() -> None:
    counts = HttpCounts()
    budget = Budget(10, counts)
    budget.take(10)
    for act in (budget.check, budget.take):
        with pytest.raises(QueueFull):
            act(1)
    budget.add(5)
    budget.give_back(15)
    budget.check(10)
    assert counts.inflight_bytes == 0


def test_a_body_counts_until_it_is_answered(peers: Peers) -> None:
    peer = peers.connect()
    peer.send(post(body(100 * KIB)))
    peers.loop.run()
    assert used(peers) == 100 * KIB
    peers.run()
    assert (peer.statuses, used(peers)) == ([200], 0)


def test_small_bodies_are_not_counted(peers: Peers) -> None:
    for size, counted in ((COUNTED_BYTES, 0), (COUNTED_BYTES + 1, COUNTED_BYTES + 1)):
        peer = peers.connect()
        for _ in range(4):  # remembered at the end
            peer.send(post(body(size)))
            peers.loop.run()
            assert used(peers) == counted
            peers.run()


def test_beyond_the_budget_a_body_is_refused_unread(peers: Peers) -> None:
    first, second = peers.connect(), peers.connect()
    first.send(post(body(200 * KIB)))
    second.send(post(body(60 * KIB))[:200])
    assert refusal(second) == (503, True, True)
    assert used(peers) == 200 * KIB
    third = peers.connect()
    third.send(post(body(56 * KIB)))
    peers.run()
    assert (first.statuses, third.statuses) == ([200], [200])


def test_a_body_that_was_only_announced_holds_nothing(peers: Peers) -> None:
    for _ in range(20):
        peers.connect().send(post(body(200 * KIB))[:200])
    assert used(peers) == 0
    peer = peers.connect()
    peer.send(post(body(200 * KIB)))
    peers.run()
    assert peer.statuses == [200]


def test_bodies_that_grow_past_it_are_cut_off(peers: Peers) -> None:
    first, second = peers.connect(), peers.connect()
    first.send(post(body(200 * KIB)))
    second.send(CHUNKED)
    for _ in range(7):
        second.send(chunk(8 * KIB))
    assert (second.answers, used(peers)) == ([], 256 * KIB)
    second.send(chunk(1))
    assert refusal(second) == (503, True, True)
    assert used(peers) == 200 * KIB


def test_remembered_heads_are_counted_as_well(peers: Peers) -> None:
    clients = [peers.connect() for _ in range(4)]
    for peer in clients:
        for _ in range(3):
            peer.send(post(body(100 * KIB)))
            peers.run()
    for peer in clients:
        peer.send(post(body(100 * KIB)))
    peers.loop.run()
    assert used(peers) == 200 * KIB
    peers.run()
    assert sorted(peer.statuses[-1] for peer in clients) == [200, 200, 503, 503]
    # It had come whole, so the connection goes on.
    assert not any(peer.has_end for peer in clients)


def test_one_larger_than_the_budget_need_not_try_again(peers: Peers) -> None:
    peer = peers.connect()
    peer.send(post(body(257 * KIB))[:200])
    assert refusal(peer) == (413, False, True)


def test_a_client_that_leaves_holds_nothing(peers: Peers) -> None:
    while_read, while_queued = peers.connect(), peers.connect()
    while_read.send(post(body(100 * KIB))[: 50 * KIB])
    while_queued.send(post(body(100 * KIB)))
    peers.loop.run()
    assert used(peers) > 140 * KIB
    while_read.reset()
    assert used(peers) == 100 * KIB
    while_queued.reset()
    assert used(peers) == 0


def test_a_body_that_does_not_come_in_time_holds_nothing(peers: Peers) -> None:
    peer = peers.connect()
    peer.send(post(body(100 * KIB))[: 50 * KIB])
    assert used(peers) > 40 * KIB
    peers.clock.advance(LIMITS.body_timeout_s + 1)
    peers.run()
    assert (peer.statuses, used(peers)) == ([408], 0)


def test_an_answer_that_waits_for_those_before_it_counts(peers: Peers) -> None:
    for end in ("answered", "reset"):
        peer = peers.connect()
        peer.send(post(b"[1]") + post(b"[2]"))
        peers.loop.run()
        first, second = list(peers.engine._batcher._live.values())
        second.owner.part(0, Value(b"x" * 100_000, "text/plain"), True)
        assert used(peers) == 100_000
        if end == "reset":
            peer.reset()
        else:
            first.owner.part(0, Value(b"[1]", "text/plain"), True)
            assert [len(answer.body) for answer in peer.answers] == [3, 100_000]
        assert used(peers) == 0
        peers.run()


async def over_asgi(peers: Peers, pieces: list[bytes], *headers: tuple[bytes, bytes]) -> Any:
    """A request over ASGI: the task that serves it, and what it has sent."""
    sent: list[dict[str, Any]] = []
    messages = [
        {"type": "http.request", "body": piece, "more_body": number < len(pieces)}
        for number, piece in enumerate(pieces, start=1)
    ]

    async def receive() -> dict[str, Any]:
        if messages:
            return messages.pop(0)
        await asyncio.Event().wait()
        raise AssertionError

    async def send(message: dict[str, Any]) -> None:
        sent.append(message)

    scope = {"type": "http", "method": "POST", "path": "/predict", "query_string": b""}
    scope["headers"] = [(b"content-type", b"application/json"), *headers]
    task = asyncio.create_task(App(peers.service)(scope, receive, send))
    for _ in range(5):
        await asyncio.sleep(0)
    return task, sent


def test_over_asgi_it_is_the_same() -> None:
    async def ask() -> None:
        with Peers(limits=LIMITS) as peers:
            first, sent = await over_asgi(peers, [body(100 * KIB), b" " * 100 * KIB])
            peers.loop.run()
            assert used(peers) == 200 * KIB
            declared = (b"content-length", b"100000")
            for pieces, headers in (([b""], [declared]), ([b" " * 50 * KIB] * 2, [])):
                refused, told = await over_asgi(peers, pieces, *headers)
                await refused
                assert told[0]["status"] == 503
                assert (b"connection", b"close") in told[0]["headers"]
            assert used(peers) == 200 * KIB
            peers.run()
            await first
            assert (sent[0]["status"], used(peers)) == (200, 0)
            given_up, _ = await over_asgi(peers, [body(100 * KIB)])
            assert used(peers) == 100 * KIB
            given_up.cancel()
            with pytest.raises(asyncio.CancelledError):
                await given_up
            assert used(peers) == 0

    asyncio.run(ask())
