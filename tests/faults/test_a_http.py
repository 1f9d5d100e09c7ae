"""HTTP that is broken: it is refused and the connection closed, and no model hears of it."""

from __future__ import annotations

import json
import random
import socket
import time
from collections.abc import Callable
from contextlib import suppress

import pytest

from tests.e2e.conftest import Answer, Serve, Served, eventually
from tests.faults.conftest import ECHO, HTTP_MODELS
from tests.faults.contract import LATE_S, Client, Contract, message
from tests.faults.defences import without
from tests.faults.watch import rss_bytes

pytestmark = pytest.mark.slow

GOOD = message("/predict", '{"n":1}')
CHUNKED = b"POST /predict HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\n"
MIB = 1 << 20
SOON_S = 0.1
"""How soon what is no request is refused."""


def sized(*lengths: bytes, more: bytes = b"") -> bytes:
    """A request with these lengths, and a good one behind it."""
    head = b"".join(b"content-length: " + length + b"\r\n" for length in lengths)
    return b"POST /predict HTTP/1.1\r\nhost: x\r\n" + head + more + b'\r\n{"n":13}' + GOOD


def headed(lines: bytes, path: bytes = b"/livez") -> bytes:
    return b"GET " + path + b" HTTP/1.1\r\nhost: x\r\n" + lines + b"\r\n" + GOOD


# What is no HTTP

NOISE = {
    "tls": b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(range(64)),
    "http2": b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + bytes(9),
    "ssh": b"SSH-2.0-OpenSSH_9.2p1\r\n",
    "zeros": bytes(100),
    "text": b"hello\r\n\r\n",
    "answer": b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n",
    "version": b"GET /livez HTTP/9.9\r\nhost: x\r\n\r\n",
    "method": b"BREW /livez HTTP/1.1\r\nhost: x\r\n\r\n",
    **{f"noise-{n}": random.Random(n).randbytes(10**n) for n in range(1, 6)},
}


@pytest.mark.row("A1")
@pytest.mark.parametrize("data", NOISE.values(), ids=NOISE)
def test_what_is_no_http_is_refused_and_closed(contract: Contract, data: bytes) -> None:
    def act(client: Client) -> None:
        began = time.monotonic()
        answers = client.talk(data)
        assert set(client.refusals) <= {400}
        assert not answers or time.monotonic() - began < SOON_S + LATE_S

    contract.hold(act, reaches=0)


@pytest.mark.row("A1")
def test_a_version_before_1_0_is_refused(contract: Contract) -> None:
    refused(contract, b"GET /livez\r\n\r\n")


SILENT = {
    "nothing": b"",
    "method": b"GET",
    "head": b"GET /livez HTTP/1.1\r\nhost: x",
    "line-ends": b"\r\n" * 50,
}


@pytest.mark.row("A1")
@pytest.mark.parametrize("data", SILENT.values(), ids=SILENT)
def test_what_never_becomes_a_request_is_closed_at_the_heads_deadline(
    contract: Contract, data: bytes
) -> None:
    with contract.watch(reaches=0) as client:
        began = time.monotonic()
        client.talk(data)
        assert time.monotonic() - began > 0.9
        assert set(client.refusals) <= {408}


# Lengths

LENGTHS = {
    "both": sized(b"8", more=b"transfer-encoding: chunked\r\n"),
    "both-reversed": CHUNKED.replace(b"chunked\r\n", b"chunked\r\ncontent-length: 8\r\n")
    + b"0\r\n\r\n"
    + GOOD,
    "two": sized(b"8", b"9"),
    "twice": sized(b"8", b"8"),
    "plus": sized(b"+8"),
    "minus": sized(b"-1"),
    "hexadecimal": sized(b"0x8"),
    "2^64": sized(b"18446744073709551616"),
    "2^64+8": sized(b"18446744073709551624"),
    "long": sized(b"8" * 1000),
    "list": sized(b"8, 8"),
    "empty": sized(b""),
    "word": sized(b"eight"),
    "inner-space": sized(b"1 0"),
    "underscore": sized(b"1_0"),
    "arabic": sized("٨".encode()),
    "coding-unknown": CHUNKED.replace(b"chunked", b"gzip") + b"0\r\n\r\n" + GOOD,
    "coding-not-last": CHUNKED.replace(b"chunked", b"chunked, identity") + b"0\r\n\r\n" + GOOD,
    "coding-twice": CHUNKED.replace(b"chunked", b"chunked, chunked") + b"0\r\n\r\n" + GOOD,
    "coding-more": CHUNKED.replace(b"chunked", b"gzip, chunked") + b"1\r\n7\r\n0\r\n\r\n" + GOOD,
}


@pytest.mark.row("A2")
@pytest.mark.parametrize("data", LENGTHS.values(), ids=LENGTHS)
def test_a_length_that_can_be_read_in_two_ways_is_refused(contract: Contract, data: bytes) -> None:
    refused(contract, data)


@pytest.mark.row("A2")
def test_chunks_in_http_1_0_end_the_connection(contract: Contract) -> None:
    """They are no part of it; whoever sends them may mean something else by what follows."""

    def act(client: Client) -> None:
        [answer] = client.talk(CHUNKED.replace(b"1.1", b"1.0") + b"1\r\n7\r\n0\r\n\r\n" + GOOD)
        assert answer.headers["connection"] == "close"
        assert answer.status == 400 or answer.json() == 7

    contract.hold(act)


def refused(contract: Contract, data: bytes) -> None:
    """One answer that refuses, and the end; what follows is not executed."""

    contract.hold(lambda client: refused_soon(client, data), reaches=0)


def refused_soon(client: Client, data: bytes) -> None:
    began = time.monotonic()
    [answer] = client.talk(data)
    assert time.monotonic() - began < SOON_S + LATE_S
    assert (answer.status, answer.headers["connection"]) == (400, "close")
    assert answer.code in ("bad_request", "invalid_header"), "no model has seen it"
    if answer.headers["x-request-id"].startswith("refused-"):
        client.abandon(0, 1)  # its head may have been taken


# Chunks

CHUNKS = {
    "bare-lf": b'8\n{"n":13}\r\n0\r\n\r\n',
    "bare-lf-after": b'8\r\n{"n":13}\n0\r\n\r\n',
    "no-crlf-after": b'8\r\n{"n":13}0\r\n\r\n',
    "too-short": b'9\r\n{"n":13}\r\n0\r\n\r\n',
    "too-long": b'7\r\n{"n":13}\r\n0\r\n\r\n',
    "17-digits": b"1" + b"0" * 16 + b'\r\n{"n":13}\r\n0\r\n\r\n',
    "2^64": b"10000000000000008\r\n" + b'{"n":13}\r\n0\r\n\r\n',
    "minus": b'-8\r\n{"n":13}\r\n0\r\n\r\n',
    "plus": b'+8\r\n{"n":13}\r\n0\r\n\r\n',
    "prefix": b'0x8\r\n{"n":13}\r\n0\r\n\r\n',
    "no-digits": b"zz\r\n",
    "empty": b'\r\n{"n":13}\r\n0\r\n\r\n',
    "space": b'8 8\r\n{"n":13}\r\n0\r\n\r\n',
    "bad-trailer": b'8\r\n{"n":13}\r\n0\r\nbad trailer\r\n\r\n',
}


@pytest.mark.row("A3")
@pytest.mark.parametrize("data", CHUNKS.values(), ids=CHUNKS)
def test_bad_chunks_are_refused(contract: Contract, data: bytes) -> None:
    def act(client: Client) -> None:
        refused_soon(client, CHUNKED + data + GOOD)

    contract.hold(act, reaches=0)


@pytest.mark.row("A3")
@pytest.mark.parametrize("cut", range(1, len(b'8\r\n{"n":13}\r\n0\r\n\r\n'), 3))
def test_a_chunked_body_that_ends_early_is_no_request(contract: Contract, cut: int) -> None:
    def act(client: Client) -> None:
        wire = client.wire()
        wire.send(CHUNKED + b'8\r\n{"n":13}\r\n0\r\n\r\n'[:cut])
        wire.socket.shutdown(socket.SHUT_WR)
        answered = wire.rest()
        assert all(answer.status in (400, 408) for answer in answered)
        if not client.statuses:
            client.abandon(0, 1)

    contract.hold(act, reaches=0)


# Heads

HEADS = {
    "bare-cr": headed(b"x: a\rb\r\n"),
    "nul": headed(b"x: a\0b\r\n"),
    "nul-in-name": headed(b"x\0y: a\r\n"),
    "nul-in-path": headed(b"", b"/live\0z"),
    "folded": headed(b"x: a\r\n b\r\n"),
    "folded-first": b"GET /livez HTTP/1.1\r\n host: x\r\n\r\n" + GOOD,
    "space-before-colon": headed(b"x : a\r\n"),
    "empty-name": headed(b": a\r\n"),
    "no-colon": headed(b"bad header\r\n"),
    "control": headed(b"x: a\x01b\r\n"),
    "delete": headed(b"x: a\x7fb\r\n"),
    "space-in-path": headed(b"", b"/livez /x"),
    "no-path": headed(b"", b""),
    "cr-in-id": headed(b"x-request-id: a\rset-cookie: b\r\n"),
}


@pytest.mark.row("A4")
@pytest.mark.parametrize("data", HEADS.values(), ids=HEADS)
def test_a_malformed_head_is_refused(contract: Contract, data: bytes) -> None:
    refused(contract, data)


@pytest.mark.row("A5")
@pytest.mark.parametrize("size", [1, 2, 3, 7])
def test_a_head_split_anywhere_is_answered_as_if_whole(contract: Contract, size: int) -> None:
    contract.hold(lambda client: answered_as_if_whole(client, size), reaches=1)


def answered_as_if_whole(client: Client, size: int, pause_s: float = 0.0) -> None:
    request = message("/predict", '{"n":6}', "x-request-id: whole\r\naccept: */*\r\n")
    wire = client.wire()
    for at in range(0, len(request), size):
        wire.send(request[at : at + size])
        time.sleep(pause_s)
    answer = wire.answer()
    assert answer.headers["x-request-id"] == "whole"
    assert answer.json() == {"n": 6}


@pytest.mark.row("A5")
def test_a_request_cut_in_two_at_every_byte_is_answered_as_if_whole(contract: Contract) -> None:
    request = message("/predict", '{"n":6}')

    def act(client: Client) -> None:
        wire = client.wire()
        for place in range(1, len(request)):
            wire.send(request[:place])
            time.sleep(0.001)  # a read of its own
            wire.send(request[place:])
            assert wire.answer().json() == {"n": 6}

    contract.hold(act, rounds=2, reaches=len(request) - 1)


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


# Heads that are too large

LARGE = {
    "64-kib": b"x-long: " + b"y" * (64 << 10) + b"\r\n",
    "16-mib": b"x-long: " + b"y" * (16 * MIB) + b"\r\n",
    "10000-headers": b"".join(b"x-%d: 1\r\n" % n for n in range(10_000)),
    "101-headers": b"".join(b"x-%d: 1\r\n" % n for n in range(101)),
    "16-mib-name": b"y" * (16 * MIB) + b": 1\r\n",
}
LARGE_HEADS = {
    **{
        f"{name}-{method}": f"{method} {path} HTTP/1.1\r\nhost: x\r\n".encode() + lines + b"\r\n"
        for name, lines in LARGE.items()
        for method, path in (("GET", "/livez"), ("POST", "/predict"))
    },
    "1-mib-path": headed(b"", b"/" + b"a" * MIB),
    "1-mib-query": headed(b"", b"/livez?" + b"a" * MIB),
    "1-mib-trailer": CHUNKED + b'7\r\n{"n":13}\r\n0\r\nx-long: ' + b"a" * MIB + b"\r\n\r\n",
}


@pytest.mark.row("A9")
@pytest.mark.parametrize("data", LARGE_HEADS.values(), ids=LARGE_HEADS)
def test_a_head_over_its_limits_is_refused(contract: Contract, data: bytes) -> None:
    def act(client: Client) -> None:
        try_large_head(client, data)

    contract.hold(act, rounds=3 if len(data) > MIB else 10, reaches=0)


def try_large_head(client: Client, data: bytes) -> None:
    answers = client.talk(data)
    assert [answer.status for answer in answers] in ([431], [414], [400], []), answers
    if data.startswith(CHUNKED):
        client.abandon(0, 1)
    elif len(data) < 256 << 10:
        assert answers, "the client can read why"


@pytest.mark.row("A9")
def test_a_head_without_end_is_cut_off(contract: Contract) -> None:
    def act(client: Client) -> None:
        wire = client.wire()
        wire.send("GET /livez HTTP/1.1\r\nhost: x\r\nx-endless: ")
        sent = 0
        with suppress(OSError):
            while sent < 16 * MIB:
                wire.send(b"y" * 65536)
                sent += 65536
        assert sent < 8 * MIB, "it is not read to its end"

    contract.hold(act, rounds=3)


@pytest.mark.row("A10")
@pytest.mark.parametrize(
    "path",
    [
        "/models/%0d%0aset-cookie:%20x/predict",
        "/models/a%0d%0ab/predict",
        "/v1/models/%0d%0aset-cookie%3a%20x:predict",
        "/models/%0d%0aset-cookie:%20x",
    ],
)
def test_a_line_end_in_a_models_name_is_never_echoed(contract: Contract, path: str) -> None:
    contract.hold(lambda client: never_echoed(client, path), reaches=0)


def never_echoed(client: Client, path: str) -> None:
    wire = client.wire()
    for name in ("a%0d%0ab", "a b", "a\tb", "ä", "<script>", "x" * 129):
        lines = f"x-request-id: {name}\r\n"
        wire.send(message(path, "", lines, method="GET" if path.endswith("x") else "POST"))
        answer = wire.answer()
        assert answer.status == 404
        assert "set-cookie" not in answer.headers
        assert answer.headers["x-request-id"] != name
        assert b"\r" not in answer.body and b"set-cookie" not in answer.body


# The rows fail where nothing is limited

UNLIMITED = ("64-kib-GET", "64-kib-POST", "101-headers-GET", "101-headers-POST", "1-mib-path")


@pytest.mark.counter("A9")
@pytest.mark.parametrize("name", UNLIMITED)
def test_without_its_limit_a_large_head_passes(
    contract: Contract, undefended: Served, name: str
) -> None:
    request = LARGE_HEADS[name].removesuffix(GOOD)
    with contract.watch(reaches=0) as client:
        refused_with_431(client, request)
    with Client(undefended) as client, pytest.raises((AssertionError, TimeoutError)):
        refused_with_431(client, request)


def refused_with_431(client: Client, request: bytes) -> None:
    wire = client.wire()
    wire.socket.settimeout(0.5)
    wire.send(request)
    answers = wire.rest()
    assert [answer.status for answer in answers] == [431]


# They fail where HTTP is read leniently

LENIENT = {
    "A1": ("every version is HTTP", NOISE["version"]),
    "A2": ("a body in any coding is one", LENGTHS["coding-more"]),
    "A3": ("the parser lets pass what it can", CHUNKED + CHUNKS["no-crlf-after"]),
    "A4": ("the parser lets pass what it can", HEADS["control"]),
}


@pytest.mark.counter("A1", "A2", "A3", "A4")
@pytest.mark.parametrize(("defence", "data"), LENIENT.values(), ids=LENIENT)
def test_where_it_is_read_leniently_it_is_not_refused(
    serve: Serve, defence: str, data: bytes
) -> None:
    server = serve(ECHO, executor="inline", env=without(defence))
    with Client(server) as client:
        client.patience_s = 0.5
        with pytest.raises((AssertionError, TimeoutError)):
            refused_soon(client, data)


@pytest.mark.counter("A1")
def test_without_a_deadline_silence_is_waited_for(undefended: Served) -> None:
    with Client(undefended) as client, pytest.raises(TimeoutError):
        client.patience_s = 2.0
        client.talk(SILENT["method"])


@pytest.mark.counter("A5")
def test_where_each_read_begins_anew_a_head_in_pieces_is_none(serve: Serve) -> None:
    server = serve(ECHO, executor="inline", env=without("a head goes on with the next read"))
    with Client(server) as client, pytest.raises((AssertionError, OSError)):
        client.patience_s = 2.0
        answered_as_if_whole(client, 50, pause_s=0.05)


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


@pytest.mark.counter("A10")
def test_without_a_look_at_it_any_id_is_echoed(serve: Serve) -> None:
    server = serve(ECHO, executor="inline", env=without("an id is echoed if it is harmless"))
    with Client(server) as client, pytest.raises(AssertionError):
        never_echoed(client, "/models/a%0d%0ab/predict")


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
