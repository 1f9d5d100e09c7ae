"""Connections and requests that are too many, over both ways; refusals and their traces."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Coroutine
from typing import Any

import httpx
import pytest

from headrace import Limits
from headrace.http.places import RESERVE, SURPLUS_TIMEOUT_S, Places
from tests.unit.http.house import House
from tests.unit.http.peers import Echo, Peer, Peers, get, post
from tests.unit.http.test_keys import BOTH, SENT

WAYS = [True, False]
CHUNKED = b"POST /predict HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\n"


def settled(test: Callable[[Peers], Coroutine[Any, Any, None]], **options: Any) -> None:
    """Run a test whose peers' applications may run."""

    async def whole() -> None:
        with Peers(**options) as peers:
            await test(peers)

    asyncio.run(whole())


def refused(peers: Peers) -> dict[str, int]:
    return dict(peers.service.counts.refused)


# Connections


def test_places_are_taken_and_left_and_a_few_more_are_told_why() -> None:
    places = Places(2, None)
    taken = [places.enter("") for _ in range(2)]
    assert all(place is not None and place.refusal is None for place in taken)
    surplus = [places.enter("") for _ in range(RESERVE)]
    assert all(place is not None and place.refusal is not None for place in surplus)
    assert places.enter("") is None
    for place in (taken[0], taken[0], surplus[0]):
        assert place is not None
        place.leave()
    within, beyond, last = places.enter(""), places.enter(""), places.enter("")
    assert within is not None and within.refusal is None
    assert beyond is not None and beyond.refusal is not None and last is None


def test_each_client_has_its_own_places_and_nothing_is_kept_of_who_has_left() -> None:
    places = Places(None, 1)
    mine, mine_too, other = (places.enter(client) for client in ("a", "a", "b"))
    assert mine is not None and mine.refusal is None
    assert other is not None and other.refusal is None
    assert mine_too is not None and mine_too.refusal is not None
    assert mine_too.refusal.code == "rate_limited"
    for place in (mine, mine_too, other):
        place.leave()
    assert not places._by_client


@pytest.mark.parametrize("fast", WAYS)
def test_beyond_the_limit_requests_are_refused_and_probes_answered(fast: bool) -> None:
    async def test(peers: Peers) -> None:
        first = peers.connect()
        second, third = peers.connect(), peers.connect()
        second.send(post(b"[1]"))
        third.send(get("/readyz") + post(b"[1]"))
        await peers.settle()
        assert second.statuses == [503] and second.has_end
        assert second.answers[0].headers["retry-after"] == "1"
        assert third.statuses == [200] and third.has_end, "one answer, and the end"
        first.send(post(b"[1]"))
        await peers.settle()
        assert first.statuses == [200]
        assert refused(peers) == {"503": 1}
        first.reset()
        last = peers.connect()
        last.send(post(b"[1]"))
        await peers.settle()
        assert last.statuses == [200]

    settled(test, fast=fast, limits=Limits(max_connections=1))


@pytest.mark.parametrize("path", ["/livez?x", "/metrics", "/", "/livez/"])
def test_beyond_the_limit_nothing_else_counts_as_a_probe(path: str) -> None:
    with Peers(limits=Limits(max_connections=1)) as peers:
        _, surplus = peers.connect(), peers.connect()
        surplus.send(get(path))
        assert surplus.statuses == [503]


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "OPTIONS"])
def test_beyond_the_limit_a_probe_is_one_that_only_reads(method: str) -> None:
    """A server whose models take any path would predict."""
    with Peers(limits=Limits(max_connections=1)) as peers:
        _, surplus = peers.connect(), peers.connect()
        surplus.send(post(b"[1]", path="/livez").replace(b"POST", method.encode()))
        peers.run()
        assert surplus.statuses == [503]
        assert surplus.has_end


def test_who_is_beyond_the_reserve_is_closed_at_once_and_counted() -> None:
    with Peers(limits=Limits(max_connections=1)) as peers:
        for _ in range(1 + RESERVE):
            peers.connect()
        last = peers.connect()
        peers.loop.run()
        assert last.is_closed and last.got == b""
        assert refused(peers) == {"closed": 1}


def test_who_is_beyond_the_limit_and_says_nothing_is_closed_soon() -> None:
    with Peers(limits=Limits(max_connections=1, head_timeout_s=10)) as peers:
        first, silent, slow = (peers.connect() for _ in range(3))
        slow.send(b"GET /livez HTTP/1.1\r\n")
        peers.loop.advance(SURPLUS_TIMEOUT_S + 0.5)
        assert silent.has_end and slow.statuses == [408] and not first.has_end


def test_who_has_got_its_end_has_no_place_any_more() -> None:
    with Peers(limits=Limits(max_connections=1)) as peers:
        first = peers.connect()
        first.send(b"nonsense\r\n\r\n")
        assert first.statuses == [400] and not first.is_closed
        second = peers.connect()
        second.send(post(b"[1]"))
        peers.run()
        assert second.statuses == [200]


def test_the_connections_of_one_client_are_bounded_by_themselves() -> None:
    with Peers(limits=Limits(max_connections_per_client=1)) as peers:
        first, second = peers.connect(), peers.connect()  # both have no address
        second.send(post(b"[1]"))
        assert second.statuses == [429]
        assert second.answers[0].headers["retry-after"] == "1"
        first.send(post(b"[1]"))
        peers.run()
        assert first.statuses == [200]


# Requests


@pytest.mark.parametrize("headers", ["", SENT["own"]])
def test_a_client_that_asks_too_often_is_told_when_to_come_again(headers: str) -> None:
    with Peers(limits=Limits(max_client_rate=0.1, max_client_burst=3)) as peers:
        if headers:
            peers.service.predict.take_keys(BOTH)
        peer = peers.connect()
        for _ in range(5):  # the last two are remembered
            peer.send(post(b"[1]", headers))
            peers.run()
        assert peer.statuses == [200, 200, 200, 429, 429], "and its connection stays open"
        answer = peer.answers[-1]
        assert json.loads(answer.body)["code"] == "rate_limited"
        assert answer.headers["retry-after"] == "10"
        other = peers.connect()
        other.send(post(b"[1]", headers))
        assert other.statuses == [429], "another connection of one client is no way out"
        peers.clock.advance(10.1)
        peer.send(post(b"[1]", headers))
        peers.run()
        assert peer.statuses[-1] == 200
        assert peers.in_flight == 0


def test_each_key_has_a_rate_of_its_own() -> None:
    with Peers(limits=Limits(max_client_rate=0.1, max_client_burst=1)) as peers:
        peers.service.predict.take_keys(BOTH)
        peer = peers.connect()
        for secret in ("alice-" + "a" * 16, "bob-" + "b" * 16):
            peer.send(post(b"[1]", f"x-api-key: {secret}\r\n"))
            peers.run()
        assert peer.statuses == [200, 200]


def test_what_is_refused_for_another_reason_takes_nothing() -> None:
    with Peers(limits=Limits(max_client_rate=0.1, max_client_burst=1)) as peers:
        for _ in range(3):
            peer = peers.connect()
            peer.send(post(b"[1]", path="/models/nope/predict"))
            assert peer.statuses == [404]
        peer = peers.connect()
        peer.send(post(b"[1]"))
        peers.run()
        assert peer.statuses == [200]


def test_over_asgi_as_well() -> None:
    async def test() -> None:
        house = House(Echo(), limits=Limits(max_client_rate=0.1, max_client_burst=1))
        house.open()
        async with house.client() as client:
            statuses = []
            for _ in range(3):
                asked = asyncio.create_task(client.post("/predict", json=[1]))
                for _ in range(20):
                    await asyncio.sleep(0)
                    if house.executors[0].batches:
                        house.executors[0].begin()
                        house.executors[0].finish()
                answer: httpx.Response = await asked
                statuses.append(answer.status_code)
            assert statuses == [200, 429, 429]
            assert answer.headers["retry-after"] == "10"

    asyncio.run(test())


# What is refused before it is a request


@pytest.mark.parametrize("fast", WAYS)
@pytest.mark.parametrize(
    ("sent", "status", "code"),
    [
        (b"\x16\x03\x01\x02\x00", 400, "bad_request"),
        (b"GET / HTTP/1.1\r\nhost: x\r\nx: " + b"y" * 40_000 + b"\r\n\r\n", 431, "head_too_large"),
        (b"GET / HTTP/1.1\r\n\r\n", 400, "bad_request"),
        (b"GET / HTTP/1.1\r\nhost: a\r\nHost: b\r\n\r\n", 400, "bad_request"),
        (b"GET / HTTP/1.0\r\nhost: a\r\nHost: b\r\n\r\n", 400, "bad_request"),
    ],
)
def test_it_is_counted_recorded_and_has_an_id(
    fast: bool, sent: bytes, status: int, code: str, caplog: pytest.LogCaptureFixture
) -> None:
    async def test(peers: Peers) -> None:
        peer = peers.connect()
        peer.send(sent)
        await peers.settle()
        assert peer.statuses == [status]
        name = peer.answers[0].headers["x-request-id"]
        assert name.startswith("refused-")
        [record] = [vars(record) for record in caplog.records]
        assert (record["request_id"], record["status"]) == (name, str(status))
        assert record["code"] == code
        assert refused(peers) == {str(status): 1}

    settled(test, fast=fast)


def test_a_flood_of_them_is_counted_whole_and_recorded_in_part(
    caplog: pytest.LogCaptureFixture,
) -> None:
    with Peers() as peers:
        names = set()
        for _ in range(30):
            peer = peers.connect()
            peer.send(b"\0\0")
            names.add(peer.answers[0].headers["x-request-id"])
        assert (len(names), refused(peers)) == (30, {"400": 30})
        assert len(caplog.records) == 10
        peers.clock.advance(1.5)
        peers.connect().send(b"\0\0")
        assert vars(caplog.records[-1])["held_back"] == 20


def test_http_1_0_needs_no_host() -> None:
    with Peers() as peers:
        peer = peers.connect()
        peer.send(b"POST /predict HTTP/1.0\r\ncontent-length: 3\r\n\r\n[1]")
        peers.run()
        assert peer.statuses == [200]


# What stands around the chunks of a body


def chunked(peers: Peers, *pieces: bytes) -> Peer:
    peer = peers.connect()
    peer.send(CHUNKED)
    for piece in pieces:
        peer.send(piece)
    peers.run()
    return peer


AROUND = {
    "an endless extension": [b"1;x="] + [b"y" * 1000] * 100,
    "long extensions of short chunks": [b"1;" + b"y" * 500 + b"\r\n1\r\n"] * 100,
    "an endless trailer": [b"3\r\n[1]\r\n0\r\nx: "] + [b"y" * 1000] * 100,
    "endless trailers": [b"3\r\n[1]\r\n0\r\n"] + [b"x: " + b"y" * 100 + b"\r\n"] * 1000,
}


@pytest.mark.parametrize("what", AROUND)
def test_it_is_bounded_as_a_head_is(what: str) -> None:
    with Peers() as peers:
        peer = chunked(peers, *AROUND[what])
        assert peer.statuses == [431]
        assert peer.has_end
        assert peers.in_flight == 0
        assert refused(peers) == {"431": 1}


def test_short_chunks_are_no_reason_to_refuse() -> None:
    with Peers() as peers:
        digits = [b"1;a=b\r\n1\r\n"] * 40_000
        peer = chunked(peers, b"1\r\n[\r\n", *digits, b"1\r\n]\r\n0\r\nx-sum: 5\r\n\r\n")
        assert peer.statuses == [200]
        assert len(peer.answers[0].body) == 40_002


def test_short_pieces_are_put_together_as_they_come() -> None:
    with Peers() as peers:
        peer = chunked(peers, b"1\r\n[\r\n", *[b"1\r\n1\r\n"] * 100)
        turn: Any = peer.connection.oldest
        assert [len(piece) for piece in turn.pieces] == [1, 100]
        long = b" " * 2000
        peer.send(b"7d0\r\n" + long + b"\r\n1\r\n]\r\n0\r\n\r\n")
        peers.run()
        assert peer.statuses == [200]
        assert peer.answers[0].body == b"[" + b"1" * 100 + long + b"]"


@pytest.mark.parametrize("size", [1, 100, 100_000])
def test_a_body_of_known_length_has_nothing_around_it(size: int) -> None:
    with Peers() as peers:
        body = b"[1" + b" " * 200_000 + b"]"
        peer = peers.connect()
        data = post(body)
        for at in range(0, len(data), size):
            peer.send(data[at : at + size])
        peers.run()
        assert peer.statuses == [200]
