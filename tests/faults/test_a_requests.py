"""Several requests of one connection: each has its own answer, and what follows changes none."""

from __future__ import annotations

import json
import random
import socket
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from typing import Any

import pytest

from tests.e2e.conftest import Answer, Serve, eventually
from tests.faults.conftest import ECHO, HTTP_MODELS
from tests.faults.contract import Client, Contract, by, message
from tests.faults.defences import without
from tests.faults.test_a_http import CHUNKED, GOOD, MIB, headed, sized
from tests.faults.watch import rss_bytes, takes_at_most

pytestmark = pytest.mark.slow

# Several at once


def numbered(count: int, filler: str = "") -> bytes:
    bodies = (json.dumps({"n": n, "filler": filler}) for n in range(count))
    return b"".join(
        message("/predict", body, f"x-request-id: row-{n}\r\n") for n, body in enumerate(bodies)
    )


@pytest.mark.row("A6")
@pytest.mark.parametrize("count", [2, 1000])
def test_requests_that_come_at_once_are_answered_in_order(contract: Contract, count: int) -> None:
    def act(client: Client) -> None:
        wire = client.wire()
        wire.send(numbered(count))
        for n in range(count):
            answer = wire.answer()
            assert (answer.json()["n"], answer.headers["x-request-id"]) == (n, f"row-{n}")

    contract.hold(act, rounds=2, reaches=count)


@pytest.mark.row("A6")
def test_predictions_and_pages_that_come_at_once_are_answered_in_order(contract: Contract) -> None:
    kinds: list[tuple[bytes, Callable[[bytes], bool]]] = [
        (message("/predict", '{"n":1}'), b'{"n":1}'.__eq__),
        (message("/livez", "", method="GET"), b"ok\n".__eq__),
        (message("/models/typed/predict", '{"n":2}'), b"4".__eq__),
        (message("/predict", "{"), lambda body: b'"malformed"' in body),
        (message("/openapi.json", "", method="GET"), lambda body: b'"openapi"' in body),
        (message("/v1/models/typed:predict", '{"instances":[{"n":3}]}'), lambda body: b"6" in body),
        (message("/nowhere", "", method="GET"), lambda body: b'"route_not_found"' in body),
        (message("/models/size/predict", b"\0" * 5000), b"5000".__eq__),
    ]
    order = random.Random(7).choices(kinds, k=200)

    def act(client: Client) -> None:
        wire = client.wire()
        wire.send(b"".join(data for data, _ in order))
        for _, is_its_own in order:
            assert is_its_own(wire.answer().body)

    contract.hold(act, rounds=3)


BAD = {
    "noise": b"NONSENSE\r\n\r\n",
    "length": sized(b"-1"),
    "head": headed(b"x : a\r\n"),
    "chunk": CHUNKED + b"zz\r\n",
}


@pytest.mark.row("A6")
@pytest.mark.parametrize("bad", BAD.values(), ids=BAD)
@pytest.mark.parametrize("good", [1, 2, 40])
def test_a_bad_request_behind_good_ones_is_refused_after_their_answers(
    contract: Contract, good: int, bad: bytes
) -> None:
    def act(client: Client) -> None:
        before = client.refusals[400]
        answers = client.talk(numbered(good) + bad + GOOD)
        assert [answer.json()["n"] for answer in answers[:good]] == list(range(good))
        assert all(answer.status == 400 for answer in answers[good:])
        assert len(answers) <= good + 1, "what follows is not executed"
        if bad.startswith(CHUNKED):
            client.abandon(0, client.refusals[400] - before or 1)

    contract.hold(act, rounds=10, reaches=good)


@pytest.mark.row("A6")
def test_what_is_read_ahead_of_an_answer_is_bounded(contract: Contract) -> None:
    """A server that read on would hold all that a client cares to send."""
    head = message("/models/typed/predict", '{"n":1,"wait":"ahead"}')
    follower = message("/models/typed/predict", '{"n":2}' + " " * 20_000)
    with contract.watch(reaches=None) as client:
        wire = client.wire()
        before = rss_bytes(contract.server)
        wire.send(head)
        wire.socket.settimeout(1.0)
        sent = 0
        with suppress(TimeoutError):
            while sent < 64 * MIB:
                sent += wire.socket.send(follower * 20)
        assert sent < 32 * MIB, "the client is made to wait"
        in_flight = contract.server.metric("headrace_http_requests_in_flight")
        assert in_flight <= 2 + 2 * MAX_AHEAD, "two canaries, and a bounded number ahead"
        assert rss_bytes(contract.server) - before < 8 * MIB
        wire.socket.settimeout(20.0)
        contract.server.set("ahead")
        for n in (2, *[4] * 50):
            assert wire.answer().json() == n
        client.abandon(0, sent // len(follower) + 1)


MAX_AHEAD = 64
"""Far above what is read ahead, and far below what was sent."""


@pytest.mark.row("A6")
def test_of_what_is_sent_without_a_pause_little_is_kept(serve: Serve, way: str) -> None:
    settings: dict[str, Any] = by(way)
    server = serve(ECHO, executor="inline", **settings)
    with Client(server) as client:
        send_without_a_pause(client)


def send_without_a_pause(client: Client) -> None:
    """Sixteen MiB of requests, each of which is answered soon."""
    wire, count = client.wire(), 16_000
    request = message("/predict", json.dumps({"n": 1, "filler": "x" * 1000}))
    with takes_at_most(client.server, 4 * MIB), ThreadPoolExecutor(1) as pool:
        sending = pool.submit(wire.send, request * count)
        for _ in range(count):
            assert wire.answer().status == 200
        sending.result()


# Bodies that are announced


@pytest.mark.row("A7")
def test_a_body_over_the_limit_is_refused_before_it_is_sent(contract: Contract) -> None:
    contract.hold(refused_unread, reaches=0)


def refused_unread(client: Client) -> None:
    wire = client.wire()
    wire.send(f"POST /predict HTTP/1.1\r\nhost: x\r\ncontent-length: {MIB}\r\n")
    wire.send("expect: 100-continue\r\n\r\n")
    answer = wire.answer()
    assert answer.status == 413
    assert answer.code == "too_large"
    assert wire.has_ended()


@pytest.mark.row("A7")
def test_a_body_that_fits_is_asked_for(contract: Contract) -> None:
    def act(client: Client) -> None:
        wire = client.wire()
        for _ in range(3):
            wire.send("POST /predict HTTP/1.1\r\nhost: x\r\n")
            wire.send("content-length: 7\r\nexpect: 100-continue\r\n\r\n")
            assert wire.answer().status == 100
            wire.send('{"n":5}')
            assert wire.answer().json() == {"n": 5}

    contract.hold(act, reaches=3)


@pytest.mark.row("A7")
def test_a_body_that_is_sent_unasked_is_taken_too(contract: Contract) -> None:
    def act(client: Client) -> None:
        wire = client.wire()
        wire.send(message("/predict", "5", "expect: 100-continue\r\n"))
        answer = wire.answer()
        if answer.status == 100:
            answer = wire.answer()
        assert answer.json() == 5
        wire.send(GOOD)
        assert wire.answer().json() == {"n": 1}

    contract.hold(act, reaches=2)


@pytest.mark.row("A8")
@pytest.mark.parametrize(
    "path", ["/predict", "/models/typed/predict", "/models/canary/predict", "/health"]
)
def test_a_client_that_has_sent_all_and_said_so_gets_the_whole_answer(
    contract: Contract, path: str
) -> None:
    body = {"/predict": "1", "/models/typed/predict": '{"n":1}', "/models/canary/predict": "1"}
    method = "POST" if path in body else "GET"

    def act(client: Client) -> None:
        [answer] = half_closed(client, message(path, body.get(path, ""), method=method))
        assert answer.status == 200

    contract.hold(act)


def half_closed(client: Client, request: bytes) -> list[Answer]:
    wire = client.wire()
    wire.send(request)
    wire.socket.shutdown(socket.SHUT_WR)
    return wire.rest()


@pytest.mark.row("A8")
def test_a_client_that_has_sent_a_thousand_at_once_and_said_so_gets_every_answer(
    contract: Contract,
) -> None:
    def act(client: Client) -> None:
        wire = client.wire()
        wire.send(numbered(1000))
        wire.socket.shutdown(socket.SHUT_WR)
        assert [answer.json()["n"] for answer in wire.rest()] == list(range(1000))

    contract.hold(act, rounds=2, reaches=1000)


@pytest.mark.row("A8")
def test_a_client_that_has_sent_all_waits_for_a_long_answer(contract: Contract) -> None:
    with contract.watch(reaches=2) as client:
        wire = client.wire()
        wire.send(message("/models/large/predict", str(8 * MIB)) * 2)
        wire.socket.shutdown(socket.SHUT_WR)
        first, second = wire.rest()
        assert len(first.body) == len(second.body) == 8 * MIB + 2


# Heads that are remembered


@pytest.mark.row("A5")
def test_what_one_client_sends_decides_nothing_for_another(contract: Contract) -> None:
    """The second half of a head may look like a head of its own."""
    with contract.watch() as client:
        decide_nothing_for_others(client)


def decide_nothing_for_others(client: Client) -> None:
    for n in range(3):
        whole = message("/predict", '{"n":4}', f"x-never-seen: {time.monotonic_ns()}-{n}\r\n")
        liar = client.wire()
        liar.send(b"POST /models/typed/predict HTTP/1.1\r\nx-pad: ")
        time.sleep(0.05)  # a read of its own
        liar.send(whole)
        assert liar.answer().json() == 8
        wire = client.wire()
        for _ in range(5):
            wire.send(whole)
            assert wire.answer().json() == {"n": 4}


@pytest.mark.row("A5")
def test_a_part_of_a_head_that_was_good_is_no_head(contract: Contract) -> None:
    whole = message("/predict", '{"n":4}')
    for cut in (1, 5, 9):
        with contract.watch(reaches=2) as client:
            wire = client.wire()
            wire.socket.settimeout(3.0)
            for _ in range(2):
                wire.send(whole[:cut])
                time.sleep(0.05)  # a read of its own
                wire.send(whole[cut:])
                assert wire.answer().json() == {"n": 4}
            wire.send(whole[cut:])
            [refusal] = wire.rest()
            assert refusal.status == 400


@pytest.mark.row("A5")
def test_the_same_head_with_another_body_is_another_request(contract: Contract) -> None:
    head = message("/predict", "12345").removesuffix(b"12345")
    with contract.watch(reaches=4) as client:
        wire = client.wire()
        for body in (b"12345", b"98765", b"[1,2]"):
            wire.send(head + body)
            assert wire.answer().body == body
        wire.send(head + b"x\r\n\r\n")
        assert wire.answer().status == 400


@pytest.mark.row("A6")
def test_a_head_that_was_good_is_refused_where_it_asks_for_too_much(contract: Contract) -> None:
    """The same first bytes, in pieces and with more behind them, many times over."""
    whole = message("/predict", '{"n":4}')
    data = whole * 7 + whole[:-1] + b"!" + whole
    with contract.watch(reaches=9 * 10) as client:
        wire = client.wire()
        for size in range(len(whole) - 5, len(whole) + 5):
            for at in range(0, len(data), size):
                wire.send(data[at : at + size])
                time.sleep(0.0005)
            statuses = [wire.answer().status for _ in range(9)]
            assert statuses == [200] * 7 + [400, 200]


# The rows fail where requests are not kept apart


@pytest.mark.counter("A6")
def test_without_a_bound_all_is_read_ahead(serve: Serve) -> None:
    """As much as a client cares to send, while its first request waits."""
    server = serve(
        f"{HTTP_MODELS}:Typed",
        env=without("a client is only so far ahead"),
        limits__max_queue_items=1 << 20,
    )
    with Client(server) as client:
        wire = client.wire()
        wire.send(message("/predict", '{"n":1,"wait":"ahead"}') + message("/predict", "2") * 5000)
        in_flight = "headrace_http_requests_in_flight"
        eventually(lambda: server.metric(in_flight) > 2 + 2 * MAX_AHEAD, "them to be read")
        server.set("ahead")


@pytest.mark.counter("A6")
def test_what_is_read_before_the_rest_is_parsed_piles_up(serve: Serve) -> None:
    env = without("what is kept is parsed before more is read")
    server = serve(ECHO, executor="inline", env=env)
    with Client(server) as client, pytest.raises(AssertionError, match="it took"):
        send_without_a_pause(client)


@pytest.mark.counter("A7")
def test_without_a_look_at_its_length_a_large_body_is_asked_for(serve: Serve) -> None:
    env = without("a length is looked at in the head")
    server = serve(ECHO, executor="inline", env=env, limits__max_json_bytes=1000)
    with Client(server) as client, pytest.raises(AssertionError):
        refused_unread(client)


@pytest.mark.counter("A8")
def test_where_half_an_end_is_taken_for_a_whole_one_nobody_is_answered(serve: Serve) -> None:
    server = serve(ECHO, env=without("a client that sends no more may read"))
    with Client(server) as client, pytest.raises(ValueError, match="not enough values"):
        [_] = half_closed(client, GOOD)
