"""HTTP that is broken: it is refused and the connection closed, and no model hears of it."""

from __future__ import annotations

import random
import socket
import time
from collections.abc import Collection
from contextlib import suppress

import pytest

from tests.e2e.conftest import Serve, Served
from tests.faults.conftest import ECHO, TIGHT
from tests.faults.contract import LATE_S, Client, Contract, LoggedWire, message
from tests.faults.defences import without

pytestmark = pytest.mark.slow

GOOD = message("/predict", '{"n":1}')
CHUNKED = b"POST /predict HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\n"
MIB = 1 << 20
SOON_S = 0.1
"""How soon what is no request is refused."""
HEAD_S = float(TIGHT["limits__head_timeout_s"])
GRAIN_S = 0.2
"""How late a deadline may be: the server looks no more often than ten times in the shortest one."""


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
        # What may still become a request is waited for as a head is.
        due_s = SOON_S if answers else HEAD_S + GRAIN_S
        assert time.monotonic() - began < due_s + LATE_S

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
        assert 0.9 * HEAD_S < time.monotonic() - began < HEAD_S + GRAIN_S + LATE_S
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


def refused_soon(client: Client, data: bytes, wire: LoggedWire | None = None) -> None:
    began = time.monotonic()
    if wire is None:
        answers = client.talk(data)
    else:
        wire.send(data)
        answers = wire.rest()
    [answer] = answers
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
        assert [answer.status for answer in wire.rest()] == [400]
        client.abandon(0, 1)  # its head may have been taken

    contract.hold(act, reaches=0)


# Heads

BAD_LINES = {
    "bare-cr": b"x: a\rb\r\n",
    "nul": b"x: a\0b\r\n",
    "nul-in-name": b"x\0y: a\r\n",
    "folded": b"x: a\r\n b\r\n",
    "space-before-colon": b"x : a\r\n",
    "empty-name": b": a\r\n",
    "no-colon": b"bad header\r\n",
    "control": b"x: a\x01b\r\n",
    "delete": b"x: a\x7fb\r\n",
    "cr-in-id": b"x-request-id: a\rset-cookie: b\r\n",
    "nul-in-id": b"x-request-id: a\0b\r\n",
    "nul-in-trace": b"traceparent: " + b"0" * 54 + b"\0\r\n",
}
HEADS = {
    **{name: headed(lines) for name, lines in BAD_LINES.items()},
    "nul-in-path": headed(b"", b"/live\0z"),
    "folded-first": b"GET /livez HTTP/1.1\r\n host: x\r\n\r\n" + GOOD,
    "space-in-path": headed(b"", b"/livez /x"),
    "no-path": headed(b"", b""),
}
BEFORE = {
    "x": b"x: ab\r\n",
    "x-request-id": b"x-request-id: ab\r\n",
    "traceparent": b"traceparent: " + b"0" * 55 + b"\r\n",
}
"""Good lines in the place of bad ones, after which a head is remembered."""


@pytest.mark.row("A4")
@pytest.mark.parametrize("data", HEADS.values(), ids=HEADS)
def test_a_malformed_head_is_refused(contract: Contract, data: bytes) -> None:
    refused(contract, data)


@pytest.mark.row("A4")
@pytest.mark.parametrize("lines", BAD_LINES.values(), ids=BAD_LINES)
def test_a_malformed_head_of_a_prediction_is_refused(contract: Contract, lines: bytes) -> None:
    """On a connection of its own, and behind a head that differs in nothing but the fault."""
    before = BEFORE.get(lines.partition(b":")[0].decode("latin-1"), BEFORE["x"])

    def act(client: Client) -> None:
        refused_soon(client, message_with(lines) + GOOD)
        refused_behind(client, before, lines)

    contract.hold(act, rounds=2, reaches=3)


def refused_behind(client: Client, before: bytes, lines: bytes) -> None:
    wire = client.wire()
    for _ in range(3):
        wire.send(message_with(before))
        assert wire.answer().json() == {"n": 1}
    refused_soon(client, message_with(lines), wire)  # alone: else no head is looked up


def message_with(lines: bytes) -> bytes:
    return message("/predict", '{"n":1}', lines.decode("latin-1"))


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
NOT_PARSED = ("16-mib-name", "1-mib-trailer")
"""Those that the parser may find malformed before they are too large."""


@pytest.mark.row("A9")
@pytest.mark.parametrize("name", LARGE_HEADS)
def test_a_head_over_its_limits_is_refused(contract: Contract, name: str) -> None:
    data = LARGE_HEADS[name]
    # A reset takes the answer away from who still sends: there may be none.
    others: list[list[int]] = [] if len(data) < 256 << 10 else [[]]
    if name.startswith(NOT_PARSED):
        others.append([400])

    def act(client: Client) -> None:
        try_large_head(client, data, others)

    contract.hold(act, rounds=3 if len(data) > MIB else 10, reaches=0)


def try_large_head(client: Client, data: bytes, others: Collection[list[int]]) -> None:
    statuses = [answer.status for answer in client.talk(data)]
    assert statuses in ([431], [414]) or statuses in others
    if data.startswith(CHUNKED):
        client.abandon(0, 1)


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
        client.abandon(0, 1)  # it was refused, and nobody read why

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


@pytest.mark.counter("A4")
def test_where_any_head_is_like_one_that_was_good_a_malformed_one_passes(serve: Serve) -> None:
    server = serve(ECHO, executor="inline", env=without("a remembered head is matched strictly"))
    with Client(server) as client:
        client.patience_s = 0.5
        with pytest.raises((AssertionError, TimeoutError)):
            refused_behind(client, BEFORE["x-request-id"], BAD_LINES["nul-in-id"])


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


@pytest.mark.counter("A10")
def test_without_a_look_at_it_any_id_is_echoed(serve: Serve) -> None:
    server = serve(ECHO, executor="inline", env=without("an id is echoed if it is harmless"))
    with Client(server) as client, pytest.raises(AssertionError):
        never_echoed(client, "/models/a%0d%0ab/predict")
