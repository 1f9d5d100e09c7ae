"""Bodies that are broken: a 400 that says what was expected, or another valid value; no harm."""

from __future__ import annotations

import functools
import gzip
import json
import math
from typing import Any

import msgspec
import pytest

from tests.e2e.conftest import Answer, Serve, Served
from tests.faults.conftest import ECHO, HTTP_MODELS, IS_LONG, MIB, TIGHT
from tests.faults.contract import Client, Contract, message
from tests.faults.defences import without
from tests.faults.watch import takes_at_most

pytestmark = pytest.mark.slow

JSON = "application/json"
MSGPACK = "application/msgpack"
VALUE = {"id": 7, "text": "wäter", "on": [True, None, 1.5, -3, {"b": "\n"}]}
BODIES = {JSON: msgspec.json.encode(VALUE), MSGPACK: msgspec.msgpack.encode(VALUE)}
DECODE: dict[str, Any] = {JSON: json.loads, MSGPACK: msgspec.msgpack.decode}
AT_ONCE = 50
MOMENT_BYTES = 16 * MIB
"""What a row may take for a moment: far less than what a body speaks of."""


def typed(media_type: str) -> str:
    return f"content-type: {media_type}\r\n"


def ask_all(client: Client, bodies: list[bytes], media_type: str, path: str = "/predict") -> None:
    """Each body is answered, with its own value or a 400 that has our form."""
    wire = client.wire()
    for at in range(0, len(bodies), AT_ONCE):
        some = bodies[at : at + AT_ONCE]
        wire.send(b"".join(message(path, body, typed(media_type)) for body in some))
        for body in some:
            answer = wire.answer()
            if answer.status == 200:
                sent, got = DECODE[media_type](body), DECODE[media_type](answer.body)
                assert got == sent or repr(got) == repr(sent)  # a NaN equals nothing
            else:
                assert (answer.status, answer.code) in ((400, "malformed"), (400, "too_deep"))


@pytest.mark.row("B1")
@pytest.mark.parametrize("media_type", BODIES)
def test_every_cut_of_a_body_is_malformed(contract: Contract, media_type: str) -> None:
    body = BODIES[media_type]
    cuts = [body[:size] for size in range(len(body))]

    def act(client: Client) -> None:
        before = client.codes["malformed"]
        ask_all(client, cuts, media_type)
        assert client.codes["malformed"] - before == len(cuts)

    contract.hold(act, rounds=1, each=len(cuts))


@pytest.mark.row("B1")
@pytest.mark.parametrize("media_type", BODIES)
def test_every_flipped_bit_gives_a_400_or_another_value(
    contract: Contract, media_type: str
) -> None:
    body = BODIES[media_type]
    flipped = []
    for bit in range(8 * len(body)):
        changed = bytearray(body)
        changed[bit // 8] ^= 1 << bit % 8
        flipped.append(bytes(changed))
    contract.hold(lambda client: ask_all(client, flipped, media_type), rounds=1)


def nested(media_type: str, levels: int) -> bytes:
    return b"[" * levels + b"]" * levels if media_type == JSON else b"\x91" * (levels - 1) + b"\x90"


@pytest.mark.row("B2")
@pytest.mark.parametrize("media_type", BODIES)
@pytest.mark.parametrize("levels", [65, 1_000, 250_000])
def test_a_body_that_nests_too_deep_is_refused(
    contract: Contract, media_type: str, levels: int
) -> None:
    def act(client: Client) -> None:
        too_deep(client, nested(media_type, levels), media_type)
        assert client.ask("/predict", nested(media_type, 64), typed(media_type)).status == 200

    contract.hold(act, rounds=10, reaches=2)


def too_deep(client: Client, body: bytes, media_type: str) -> None:
    answer = client.ask("/predict", body, typed(media_type))
    assert answer.status == 400
    assert answer.code == "too_deep"


@pytest.mark.counter("B2")
@pytest.mark.parametrize("media_type", BODIES)
def test_without_its_limit_a_deep_body_passes(undefended: Served, media_type: str) -> None:
    with Client(undefended) as client, pytest.raises(AssertionError):
        too_deep(client, nested(media_type, 65), media_type)


MSGPACKS = {
    "array-of-2^32": b"\xdd\xff\xff\xff\xff",
    "map-of-2^32": b"\xdf\xff\xff\xff\xff",
    "bytes-of-2^32": b"\xc6\xff\xff\xff\xff",
    "text-of-2^32": b"\xdb\xff\xff\xff\xff",
    "extension-of-2^32": b"\xc9\xff\xff\xff\xff\x01",
    "extension": b"\xd4\x07\x00",
    "extension-in-list": b"\x91\xc7\x03\x2aabc",
    "never-used": b"\xc1",
    "key-list": b"\x81\x90\x01",
    "key-map": b"\x81\x80\x01",
    "key-none": b"\x81\xc0\x01",
    "key-float": b"\x81\xcb" + bytes(8) + b"\x01",
    "bad-text": b"\xa1\xff",
    "two-values": b"\x01\x02",
    "json": b'{"n":1}',
}


@pytest.mark.row("B3")
@pytest.mark.parametrize("body", MSGPACKS.values(), ids=MSGPACKS)
def test_bad_msgpack_is_malformed_and_takes_no_memory(contract: Contract, body: bytes) -> None:
    with takes_at_most(contract.server, MOMENT_BYTES):
        contract.hold(lambda client: malformed(client, body), reaches=1)


def malformed(client: Client, body: bytes) -> None:
    answer = client.ask("/predict", body, typed(MSGPACK))
    assert answer.status == 400
    assert answer.code == "malformed"


JSONS: dict[str, tuple[bytes, int, Any]] = {
    "nan": (b"NaN", 400, None),
    "infinity": (b"[-Infinity]", 400, None),
    "1e999": (b"1e999", 400, None),
    "2^64": (b"18446744073709551616", 200, 2**64),
    "-2^63-1": (b"-9223372036854775809", 200, -(2**63) - 1),
    "30-digits": (b"9" * 30, 200, int("9" * 30)),
    "5000-digits": (b"9" * 5000, 400, None),
    "2^53+1": (b"9007199254740993", 200, 2**53 + 1),
    "17-places": (b"0.1234567890123456789", 200, 0.12345678901234568),
    "key-twice": (b'{"a":1,"a":2}', 200, {"a": 2}),
    "lone-surrogate": (rb'"\ud800"', 400, None),
    "pair": (rb'"\ud83d\ude00"', 200, "\U0001f600"),
    "bom": (b'\xef\xbb\xbf"a"', 400, None),
    "utf-16": ('"a"'.encode("utf-16"), 400, None),
    "not-utf-8": (b'"\xff"', 400, None),
    "control": (b'"\x00"', 400, None),
    "comment": (b"1 // one", 400, None),
    "comma": (b"[1,]", 400, None),
    "two-values": (b"1 2", 400, None),
    "empty": (b"", 400, None),
    "blank": (b" \r\n\t ", 400, None),
    "null": (b"null", 200, None),
    "list": (b"[]", 200, []),
}


@pytest.mark.row("B4")
@pytest.mark.parametrize("case", JSONS.values(), ids=JSONS)
def test_what_json_leaves_open_has_one_answer(
    contract: Contract, case: tuple[bytes, int, Any]
) -> None:
    contract.hold(lambda client: one_answer(client, case), reaches=1)


def one_answer(client: Client, case: tuple[bytes, int, Any]) -> None:
    body, status, value = case
    answer = client.ask("/predict", body, typed(JSON))
    assert answer.status == status
    if status == 200:
        assert answer.json() == value
    else:
        assert answer.code == "malformed"


NOT_THE_TYPE = {
    "null": b"null",
    "list": b"[]",
    "object": b"{}",
    "text": b'"7"',
    "float": b'{"n":1.0}',
    "null-member": b'{"n":null}',
    "bool": b'{"n":true}',
    "huge": b'{"n":"' + b"z" * 200_000 + b'"}',
}


@pytest.mark.row("B6")
@pytest.mark.parametrize("body", NOT_THE_TYPE.values(), ids=NOT_THE_TYPE)
def test_a_value_that_is_not_the_models_type_is_a_422(contract: Contract, body: bytes) -> None:
    contract.hold(lambda client: invalid(client, "/models/typed/predict", body), reaches=1)


def invalid(client: Client, path: str, body: bytes) -> None:
    answer = client.ask(path, body)
    assert answer.status == 422
    assert answer.code == "invalid"
    assert "$" in answer.json()["error"]


WRONG_TYPES = {
    "form": "application/x-www-form-urlencoded",
    "charset": "application/json; charset=utf-16",
    "pickle": "application/x-pickle",
    "python-pickle": "application/python-pickle",
    "text": "text/plain",
    "long": "a" * 10_000,
    "nothing": "",
    "slash": "/",
    "quotes": 'application/json; charset="utf-16',
    "markup": "<script>alert(1)</script>",
}


@pytest.mark.row("B5")
@pytest.mark.parametrize("media_type", WRONG_TYPES.values(), ids=WRONG_TYPES)
def test_a_type_that_the_model_does_not_read_is_a_415(contract: Contract, media_type: str) -> None:
    def act(client: Client) -> None:
        answer = unsupported(client, b'{"n":1}', typed(media_type))
        assert "Content-Type: application/json" in answer.json()["error"] or "utf-8" in str(
            answer.json()["error"]
        )

    contract.hold(act, reaches=0)


def unsupported(client: Client, body: bytes, headers: str) -> Answer:
    answer = client.ask("/predict", body, headers)
    assert answer.status == 415
    assert answer.code == "unsupported_media_type"
    return answer


@pytest.mark.row("B5")
def test_a_missing_type_is_the_models_default(contract: Contract) -> None:
    def act(client: Client) -> None:
        assert client.ask("/predict", b"[1]").json() == [1]
        assert client.ask("/models/size/predict", b"[1]").json() == 3

    contract.hold(act, reaches=2)


@pytest.mark.row("C3")
@pytest.mark.parametrize("encoding", ["gzip", "deflate", "br", "gzip, gzip", "x" * 5000])
def test_a_compressed_body_is_not_inflated(contract: Contract, encoding: str) -> None:
    body = bomb()

    def act(client: Client) -> None:
        unsupported(client, body, f"content-encoding: {encoding}\r\n")

    with takes_at_most(contract.server, MOMENT_BYTES):
        contract.hold(act, reaches=0)


@functools.cache
def bomb() -> bytes:
    """What a body may be, of what it may not: 128 MiB."""
    body = gzip.compress(bytes(128 * MIB))
    assert len(body) < int(TIGHT["limits__max_json_bytes"])
    return body


@pytest.mark.row("B7")
@pytest.mark.parametrize("media_type", BODIES)
def test_good_bodies_between_bad_ones_are_right(contract: Contract, media_type: str) -> None:
    count = 10_000 if IS_LONG else 500
    good = [DECODE_BACK[media_type]({"n": n}) for n in range(count)]
    bad = [body[:-1] for body in good]
    both = [body for pair in zip(bad, good, strict=True) for body in pair]

    def act(client: Client) -> None:
        before = client.codes["malformed"]
        ask_all(client, both, media_type)
        assert client.codes["malformed"] - before == count

    contract.hold(act, rounds=1, each=count, reaches=2 * count)


DECODE_BACK: dict[str, Any] = {JSON: msgspec.json.encode, MSGPACK: msgspec.msgpack.encode}


@pytest.mark.row("B4")
@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_msgpack_carries_what_json_cannot(contract: Contract, value: float) -> None:
    def act(client: Client) -> None:
        body = msgspec.msgpack.encode(value)
        answer = client.ask("/predict", body, typed(MSGPACK))
        assert answer.body == body
        as_json = client.ask("/predict", body, typed(MSGPACK) + "accept: application/json\r\n")
        assert (as_json.status, as_json.code) == (500, "output_error")

    contract.hold(act, rounds=5, reaches=2)


V1 = {
    "empty": b"",
    "list": b"[]",
    "no-instances": b"{}",
    "instances-null": b'{"instances":null}',
    "instances-object": b'{"instances":{}}',
    "instances-text": b'{"instances":"[1]"}',
    "cut": b'{"instances":[1,2',
    "two": b'{"instances":[1]}{}',
    "bad-instance": b'{"instances":[1,nope]}',
    "bom": b'\xef\xbb\xbf{"instances":[1]}',
    "nan": b'{"instances":[NaN]}',
}


@pytest.mark.row("B6")
@pytest.mark.parametrize("body", V1.values(), ids=V1)
def test_a_bad_envelope_is_refused_whole(contract: Contract, body: bytes) -> None:
    def act(client: Client) -> None:
        answer = client.ask("/v1/models/echo:predict", body)
        assert answer.status in (400, 422), answer.body

    contract.hold(act)


# They fail where a defence is taken away


@pytest.mark.counter("B1", "B4")
def test_where_what_cannot_be_decoded_is_nothing_cut_bodies_pass(serve: Serve) -> None:
    server = serve(ECHO, executor="inline", env=without("what cannot be decoded is malformed"))
    with Client(server) as client:
        with pytest.raises((AssertionError, ValueError)):
            ask_all(client, [BODIES[JSON][:-1]], JSON)
        with pytest.raises(AssertionError):
            one_answer(client, JSONS["nan"])


@pytest.mark.counter("B3")
def test_where_extensions_are_values_they_pass(serve: Serve) -> None:
    server = serve(ECHO, executor="inline", env=without("extensions are refused"))
    with Client(server) as client, pytest.raises(AssertionError):
        malformed(client, MSGPACKS["extension"])


@pytest.mark.counter("B5", "C3")
@pytest.mark.parametrize(
    ("defence", "headers"),
    [
        ("a type that the model does not read is refused", typed("application/x-pickle")),
        ("a compressed body is refused", "content-encoding: gzip\r\n"),
    ],
)
def test_where_any_type_or_coding_is_taken_it_is_no_415(
    serve: Serve, defence: str, headers: str
) -> None:
    server = serve(ECHO, executor="inline", env=without(defence))
    with Client(server) as client, pytest.raises(AssertionError):
        unsupported(client, b'{"n":1}', headers)


@pytest.mark.counter("B6")
def test_items_that_nobody_checks_are_noticed(serve: Serve) -> None:
    """A model gets what it cannot take, and that is a fault of its own then."""
    typed_model = f"{HTTP_MODELS}:Typed"
    server = serve(typed_model, executor="inline", env=without("items are checked"))
    with Client(server) as client:
        for body in (NOT_THE_TYPE["null"], NOT_THE_TYPE["list"]):
            with pytest.raises(AssertionError):
                invalid(client, "/predict", body)


@pytest.mark.counter("B7", "M4")
def test_where_requests_are_kept_it_is_noticed(serve: Serve) -> None:
    canary = f"{HTTP_MODELS}:Canary"
    server = serve(ECHO, canary, env=without("an answered request is forgotten"))
    contract = Contract(server, "fast")
    with pytest.raises(AssertionError, match="memory grows"):
        contract.hold(lambda client: ask_all(client, [b"{", b"[1]"] * 500, JSON), rounds=2)
    contract.close()
