"""API keys over both ways of a request: who is let in, and for how long."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Coroutine
from typing import Any

import httpx
import pytest

from headrace import Auth
from headrace.auth import Keys
from headrace.credentials import read_keys
from headrace.http.fastpath import FastExchange, QuickExchange
from tests.unit.http.house import House
from tests.unit.http.peers import Echo, Peer, Peers, post

ALICE, BOB = "alice-" + "a" * 16, "bob-" + "b" * 16
SENT = {
    "authorization": f"Authorization: Bearer {ALICE}\r\n",
    "lower": f"authorization: bearer  {ALICE}\r\n",
    "own": f"X-API-Key: {ALICE}\r\n",
}
WRONG = {
    "missing": "",
    "basic": "authorization: Basic YTpi\r\n",
    "empty": "authorization: Bearer \r\n",
    "unknown": f"x-api-key: {ALICE}x\r\n",
    "name": "x-api-key: alice\r\n",
    "twice": f"x-api-key: {ALICE}\r\nx-api-key: {ALICE}\r\n",
    "not ascii": "x-api-key: \xe4\xe4\xe4\xe4\xe4\xe4\xe4\xe4\xe4\xe4\xe4\xe4\xe4\xe4\xe4\xe4\r\n",
}


def keys_of(*entries: str) -> Keys:
    keys = read_keys(Auth(keys=entries))
    assert keys is not None
    return keys


BOTH = keys_of(f"alice:{ALICE}", f"bob:{BOB}")


def locked() -> Peers:
    peers = Peers()
    peers.service.predict.take_keys(BOTH)
    return peers


def ask(peers: Peers, peer: Peer, headers: str) -> int:
    """The status of a further request on a connection."""
    peer.send(post(b"[1]", headers))
    peers.run()
    return peer.statuses[-1]


@pytest.mark.parametrize("sent", SENT)
def test_a_key_is_taken_in_either_header(sent: str) -> None:
    with locked() as peers:
        assert ask(peers, peers.connect(), SENT[sent]) == 200
        assert peers.service.counts.client_requests == {("alice", 200): 1}
        assert peers.service.counts.requests == {("/predict", 200): 1}


@pytest.mark.parametrize("sent", WRONG)
def test_without_one_the_answer_is_401_and_says_how_to_send_it(sent: str) -> None:
    with locked() as peers:
        peer = peers.connect()
        assert ask(peers, peer, WRONG[sent]) == 401
        [answer] = peer.answers
        assert answer.headers["www-authenticate"] == 'Bearer realm="headrace"'
        assert b'"code":"unauthenticated"' in answer.body and b"X-API-Key" in answer.body
        assert ALICE.encode() not in answer.body
        assert peers.engine.counts.items.total() == 0, "it reached no model"
        reason = "missing" if sent in ("missing", "basic") else "unknown"
        assert peers.service.counts.auth_failures == {reason: 1}


def test_a_client_without_a_key_does_not_learn_which_models_there_are() -> None:
    with locked() as peers:
        for path in ("/models/echo/predict", "/models/nope/predict", "/v1/models/nope:predict"):
            peer = peers.connect()
            peer.send(post(b"[1]", path=path))
            assert peer.statuses == [401]


def test_a_remembered_head_needs_no_look_at_its_key() -> None:
    with locked() as peers:
        peer = peers.connect()
        for number in range(4):
            peer.send(post(b"[1]", SENT["own"]))
            turn: Any = peer.connection.oldest
            assert type(turn) is (FastExchange if number < 2 else QuickExchange)
            assert turn.plan.client == turn.plan.key == "alice"
            peers.run()
        assert peer.statuses == [200] * 4
        assert peers.service.counts.client_requests == {("alice", 200): 4}


@pytest.mark.parametrize("keys", [keys_of(f"bob:{BOB}"), keys_of(f"alice:{BOB}")])
def test_a_key_that_is_taken_away_opens_nothing_on_a_connection_that_used_it(keys: Keys) -> None:
    with locked() as peers:
        peer = peers.connect()
        assert [ask(peers, peer, SENT["own"]) for _ in range(3)] == [200] * 3
        peers.service.predict.take_keys(keys)
        assert ask(peers, peer, SENT["own"]) == 401
        assert ask(peers, peers.connect(), SENT["own"]) == 401
        peers.service.predict.take_keys(BOTH)
        assert ask(peers, peers.connect(), SENT["own"]) == 200


def test_keys_that_come_while_it_serves_void_the_heads_without_one() -> None:
    with Peers() as peers:
        peer = peers.connect()
        assert [ask(peers, peer, "") for _ in range(3)] == [200] * 3
        peers.service.predict.take_keys(BOTH)
        assert ask(peers, peer, "") == 401


def test_what_one_client_is_remembered_by_is_no_pass_for_another() -> None:
    with locked() as peers:
        alice = peers.connect()
        assert [ask(peers, alice, SENT["own"]) for _ in range(3)] == [200] * 3
        same = SENT["own"].replace(ALICE, "x" * len(ALICE))
        for headers in (same, same, ""):
            assert ask(peers, peers.connect(), headers) == 401
        assert ask(peers, alice, same) == 401


def test_clients_are_told_apart_on_one_connection() -> None:
    with locked() as peers:
        peer = peers.connect()
        for secret in (ALICE, BOB, ALICE, ALICE, ALICE, BOB):
            assert ask(peers, peer, f"x-api-key: {secret}\r\n") == 200
        assert peers.service.counts.client_requests == {("alice", 200): 4, ("bob", 200): 2}
        [seconds] = peers.service.counts.request_s.values()
        assert seconds.count == 6


def test_a_refusal_is_recorded_with_the_code_and_never_the_secret(
    caplog: pytest.LogCaptureFixture,
) -> None:
    with locked() as peers:
        for _ in range(50):
            assert ask(peers, peers.connect(), WRONG["unknown"]) == 401
    records = [vars(record) for record in caplog.records]
    assert 0 < len(records) <= 10
    assert {record["code"] for record in records} == {"unauthenticated"}
    assert ALICE not in str(records)


def test_a_failed_requests_record_names_the_client(caplog: pytest.LogCaptureFixture) -> None:
    with locked() as peers:
        peer = peers.connect()
        peer.send(post(b"{}", SENT["own"], path="/v1/models/echo:predict"))
        peers.run()
        assert peer.statuses == [422]
    [record] = caplog.records
    assert (vars(record)["client"], record.levelno) == ("alice", logging.WARNING)
    assert ALICE not in str(vars(record))


# Over ASGI, and the pages


def run(test: Callable[[House, httpx.AsyncClient], Coroutine[Any, Any, None]]) -> None:
    async def whole() -> None:
        house = House(Echo())
        house.open()
        house.service.predict.take_keys(BOTH)
        async with house.client() as client:
            await test(house, client)

    asyncio.run(whole())


async def predict(house: House, client: httpx.AsyncClient, **headers: str) -> httpx.Response:
    asked = asyncio.create_task(client.post("/predict", json=[1], headers=headers))
    for _ in range(20):
        await asyncio.sleep(0)
        if house.executors[0].batches:
            house.executors[0].begin()
            house.executors[0].finish()
    return await asked


def test_over_asgi_a_key_is_asked_for_and_taken_away_as_well() -> None:
    async def test(house: House, client: httpx.AsyncClient) -> None:
        answer = await predict(house, client)
        assert (answer.status_code, answer.json()["code"]) == (401, "unauthenticated")
        assert "Bearer" in answer.headers["www-authenticate"]
        assert (await predict(house, client, authorization=f"Bearer {BOB}")).json() == [1]
        house.service.predict.take_keys(keys_of(f"alice:{ALICE}"))
        refused = await predict(house, client, authorization=f"Bearer {BOB}")
        assert refused.status_code == 401
        assert house.service.counts.client_requests == {("bob", 200): 1}

    run(test)


PAGES = ["/", "/metrics", "/health", "/docs", "/redoc", "/openapi.json", "/models/echo", "/nope"]


@pytest.mark.parametrize("path", PAGES)
def test_pages_ask_for_a_key(path: str, caplog: pytest.LogCaptureFixture) -> None:
    async def test(house: House, client: httpx.AsyncClient) -> None:
        for method in ("GET", "HEAD", "OPTIONS"):
            answer = await client.request(method, path)
            assert answer.status_code == 401
            assert "Bearer" in answer.headers["www-authenticate"]
        with_key = await client.get(path, headers={"x-api-key": BOB})
        assert with_key.status_code not in (401, 500)
        assert house.service.counts.auth_failures == {"missing": 3}

    if path in ("/health", "/docs", "/redoc"):
        pytest.importorskip("offapi")
    run(test)
    told = [record for record in caplog.records if record.name.startswith("headrace")]
    assert [vars(record)["code"] for record in told] == ["unauthenticated"] * 3


@pytest.mark.parametrize("path", ["/livez", "/readyz"])
def test_probes_ask_for_none(path: str) -> None:
    async def test(house: House, client: httpx.AsyncClient) -> None:
        assert (await client.get(path)).status_code == 200

    run(test)


def test_the_metrics_tell_of_clients_and_failures_by_name() -> None:
    async def test(house: House, client: httpx.AsyncClient) -> None:
        await predict(house, client, authorization=f"Bearer {BOB}")
        await predict(house, client)
        text = (await client.get("/metrics", headers={"x-api-key": BOB})).text
        assert 'headrace_http_client_requests_total{client="bob",status="200"} 1.0' in text
        assert 'headrace_auth_failures_total{reason="missing"} 1.0' in text
        assert 'headrace_http_requests_total{route="/predict",status="401"} 1.0' in text
        assert BOB not in text

    run(test)
