"""Clients and priorities: from the head and the connection to the items in the queue."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from headrace import ConfigError, Fairness, Limits, Model
from headrace.batching import Item
from headrace.config import Auth
from headrace.credentials import read_keys
from headrace.errors import InvalidHeader
from headrace.http import App
from headrace.http.fairness import client_at, client_of, priority_of
from tests.unit.http.peers import Peer, Peers, post

NAMED = Fairness(client_header="X-Client")
RANKED = Fairness(lowest_priority=-2, highest_priority=3)
BY_PEER = Fairness(peer_address=True)


class Sized(Model):
    """A model whose calls are submitted at once, not at the end of the turn."""

    def predict(self, batch: list[Any]) -> list[Any]:
        return batch

    def cost(self, payload: Any) -> float:
        return 1.0


def items(peers: Peers) -> list[Item]:
    """Those that run or wait for a replica, in order of admission."""
    peers.loop.run()
    live = peers.engine._batcher._live
    return [live[number] for number in sorted(live)]


def sent(peers: Peers, peer: Peer, headers: str = "") -> Item:
    """The item of a request that is sent now."""
    peer.send(post(b"[1]", headers))
    return items(peers)[-1]


def refusal(peers: Peers, headers: str) -> tuple[int, bytes]:
    peer = peers.connect()
    peer.send(post(b"[1]", headers))
    peers.run()
    (answer,) = peer.answers
    return answer.status, answer.body


def test_by_default_nobody_is_told_apart_and_no_priority_is_looked_at() -> None:
    with Peers() as peers:
        item = sent(peers, peers.connect(), "x-request-priority: high\r\nx-client: a\r\n")
        assert (item.client, item.priority) == (None, 0)


@pytest.mark.parametrize("remembered", [False, True])
def test_a_client_is_named_by_its_header(remembered: bool) -> None:
    with Peers(fairness=NAMED) as peers:
        peer = peers.connect()
        for _ in range(3 if remembered else 0):
            assert sent(peers, peer, "x-client: a\r\n").client == "a"
            peers.run()
        assert sent(peers, peer, "x-client: a\r\n").client == "a"
        peers.run()
        assert sent(peers, peer, "x-client: b\r\n").client == "b"
        assert sent(peers, peers.connect()).client is None


@pytest.mark.parametrize("fairness", [NAMED, Fairness(client_header="x-client", peer_address=True)])
def test_the_clients_of_one_api_key_are_told_apart_and_those_of_two_are_two(
    fairness: Fairness,
) -> None:
    keys = read_keys(Auth(keys=("gate:" + "g" * 16, "other:" + "o" * 16)))
    with Peers(fairness=fairness) as peers:
        peers.service.predict.take_keys(keys)
        peer = peers.connect()
        found = []
        for key, name in [("g", "a"), ("g", "b"), ("o", "a"), ("g", ""), ("g", "a"), ("g", "a")]:
            headers = f"x-api-key: {key * 16}\r\nx-client: {name}\r\n"
            found.append(sent(peers, peer, headers).client)
            peers.run()
        assert found == ["gate a", "gate b", "other a", "gate", "gate a", "gate a"]


def test_by_default_each_api_key_is_a_client() -> None:
    keys = read_keys(Auth(keys=("gate:" + "g" * 16,)))
    with Peers() as peers:
        peers.service.predict.take_keys(keys)
        headers = f"x-api-key: {'g' * 16}\r\nx-client: a\r\n"
        assert sent(peers, peers.connect(), headers).client == "gate"


def test_an_empty_name_is_none_and_a_giant_one_is_refused() -> None:
    assert client_of({"x-client": " "}, NAMED) is None
    assert client_of({"x-client": "a" * 256}, NAMED) == "a" * 256
    with pytest.raises(InvalidHeader, match="expected at most 256 characters, got 257"):
        client_of({"x-client": "a" * 257}, NAMED)
    with Peers(fairness=NAMED) as peers:
        assert refusal(peers, f"x-client: {'a' * 257}\r\n")[0] == 400


@pytest.mark.parametrize(
    ("text", "expected"),
    [("0", 0), ("2", 2), ("+3", 3), (" 1 ", 1), ("-1", -1), ("999", 3), ("-999", -2)],
)
def test_a_priority_is_cut_to_the_operators_bounds(text: str, expected: int) -> None:
    assert priority_of({"x-request-priority": text}, RANKED) == expected


@pytest.mark.parametrize("text", ["", "high", "1.5", "1e3", "٣", "1" * 10, "1 2", "1_0", "--1"])
def test_what_is_no_priority_is_refused_where_priorities_count(text: str) -> None:
    with pytest.raises(InvalidHeader, match="X-Request-Priority: expected an integer"):
        priority_of({"x-request-priority": text}, RANKED)
    assert priority_of({"x-request-priority": text}, Fairness()) == 0


def test_a_priority_reaches_the_item_over_new_and_remembered_heads() -> None:
    with Peers(fairness=RANKED) as peers:
        peer = peers.connect()
        for _ in range(4):
            assert sent(peers, peer, "x-request-priority: 2\r\n").priority == 2
            peers.run()
        assert refusal(peers, "x-request-priority: urgent\r\n")[0] == 400


def test_an_address_is_a_client_where_the_head_names_none() -> None:
    with Peers(fairness=Fairness(peer_address=True, client_header="x-client")) as peers:
        peer = peers.connect(address=("192.0.2.7", 1))
        for _ in range(4):
            assert sent(peers, peer).client == "192.0.2.7"
            peers.run()
        assert sent(peers, peers.connect(address=("2001:db8::1", 1))).client == "2001:db8::/64"
        assert sent(peers, peers.connect(address="")).client is None
        assert sent(peers, peer, "x-client: a\r\n").client == "a"


@pytest.mark.parametrize(
    ("host", "client"),
    [
        ("2001:db8:0:1::1", "2001:db8:0:1::/64"),
        ("2001:db8:0:1:ffff::1", "2001:db8:0:1::/64"),
        ("fe80::1%eth0", "fe80::/64"),
        ("testclient", "testclient"),
    ],
)
def test_an_ipv6_client_is_its_network(host: str, client: str) -> None:
    assert client_at(host) == client


def test_a_call_that_is_cut_apart_or_sized_by_its_model_has_them_too() -> None:
    fairness = Fairness(client_header="x-client", highest_priority=5)
    headers = "x-client: a\r\nx-request-priority: 4\r\n"
    with Peers(fairness=fairness) as peers:
        several = post(b'{"instances":[1,2]}', headers, path="/v1/models/echo:predict")
        peers.connect().send(several)
        assert [(item.client, item.priority) for item in items(peers)] == [("a", 4)] * 2
    with Peers(fairness=fairness, model=Sized) as peers:
        peers.engine._sizing = Sized()
        item = sent(peers, peers.connect(), headers)
        assert (item.client, item.priority) == ("a", 4)


@pytest.mark.parametrize("scope", [{"client": ["192.0.2.7", 1]}, {"client": None}, {}])
def test_over_asgi_the_address_is_the_scopes(scope: dict[str, Any]) -> None:
    async def ask() -> str | None:
        with Peers(fairness=BY_PEER, limits=Limits()) as peers:
            asked = [{"type": "http.request", "body": b"[1]", "more_body": False}]

            async def receive() -> dict[str, Any]:
                if asked:
                    return asked.pop()
                await asyncio.Event().wait()
                raise AssertionError

            async def send(message: dict[str, Any]) -> None:
                """Nobody reads it."""

            whole = {"type": "http", "method": "POST", "path": "/predict", "query_string": b""}
            headers = {"headers": [(b"content-type", b"application/json")]}
            app = App(peers.service)
            task = asyncio.create_task(app(whole | headers | scope, receive, send))
            await asyncio.sleep(0)
            (item,) = items(peers)
            peers.run()
            await task
            return item.client

    assert asyncio.run(ask()) == ("192.0.2.7" if scope.get("client") else None)


@pytest.mark.parametrize("name", ["x client", "", "x:y", "X-Request-Id", "traceparent", "a" * 65])
def test_a_header_that_cannot_name_clients_is_refused(name: str) -> None:
    with pytest.raises(ConfigError, match="client_header: expected the name of a header"):
        Fairness(client_header=name)
    assert NAMED.client_header == "x-client"
