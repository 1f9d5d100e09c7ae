"""Headers of a predict request: each is understood, or refused in our form.

What is planned by them is within the limits, and of what the model reads and writes; a request id
is echoed only if it can stand in a header. A refusal has a status below 500, at most two KiB, and
repeats at most 64 characters of what was sent. The same headers give the same plan.

An input is a byte for the route, and lines of a name, a colon and a value.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

import msgspec

from headrace.call import Failure
from headrace.codecs.negotiate import input_type, output_type
from headrace.config import Limits
from headrace.http.errors import MAX_ERROR_BYTES, error_answer
from headrace.http.heads import joined
from headrace.http.predict import ROUTES, Plan, request_id_of
from tests.unit.http.peers import Peers

MEASURED = ("headrace.http.predict", "headrace.codecs.negotiate", "headrace.http.errors")
NAMES = (
    *(b"content-type", b"accept", b"x-request-timeout", b"x-request-id", b"prefer"),
    *(b"content-encoding", b"transfer-encoding", b"content-length", b"traceparent"),
)
TOKENS = (
    *(name + b":" for name in NAMES),
    *(b"application/json", b"application/msgpack", b"application/x-msgpack", b"text/json", b"*/*"),
    *(b"; charset=utf-8", b";q=0.5", b";q=0", b"image/*", b"gzip", b"identity", b"chunked", b","),
    *(b"handling=lenient", b"1e3", b"inf", b"nan", b"-1", b"0", b"1_0", b"\n", b'"', b"+1"),
)
LIMITS = Limits(max_head_bytes=600, max_headers=20)
_peers = Peers(limits=LIMITS)
_predict = _peers.service.predict
_READS = _WRITES = ("application/json", "application/msgpack")
_TYPES = ("image/png", "application/json", "application/msgpack")
_SAFE = re.compile("[!-~]{1,128}")


def check(data: bytes) -> None:
    if not data:
        return
    lines = [line.partition(b":") for line in data[1:].split(b"\n")]
    raw = [(name.lower(), value.strip(b" \t")) for name, _, value in lines if name]
    headers = joined(raw)
    path = list(ROUTES)[data[0] % len(ROUTES)].replace("{name}", "echo")
    plan, again = (_planned(path, headers, "GET" if data[0] > 250 else "POST") for _ in range(2))
    assert str(plan.error) == str(again.error)
    own_id = request_id_of(headers)
    assert plan.request_id == own_id and (own_id is None or _SAFE.fullmatch(own_id))
    if plan.error is not None:
        _check_refusal(plan, headers)
    else:
        assert 0 < plan.timeout_s <= LIMITS.max_request_timeout_s
        assert 0 < plan.max_body_bytes <= LIMITS.max_body_bytes
        assert plan.formats.input_type in _READS and plan.formats.output_type in _WRITES
    _check_images(headers)


def _planned(path: str, headers: Mapping[str, str], method: str) -> Plan:
    place = _predict.find("POST", path)
    assert place is not None
    return _predict.plan(place, method, headers)


def _check_refusal(plan: Plan, headers: Mapping[str, str]) -> None:
    assert plan.error is not None
    status, _, body = error_answer(Failure.of(plan.error))
    assert 400 <= status < 500
    assert len(body) <= MAX_ERROR_BYTES
    answer = msgspec.json.decode(body)
    assert answer["code"] == plan.error.code
    message = answer["error"]
    pieces = {value[at : at + 65] for value in headers.values() for at in range(len(value) - 64)}
    assert not any(piece in message for piece in pieces)


def _check_images(headers: Mapping[str, str]) -> None:
    """What a model that takes images, and gives them, makes of the types."""
    try:
        read = input_type(headers.get("content-type"), ("image/*", "application/json"))
        found = output_type(headers.get("accept"), _TYPES, read)
    except Exception as error:
        assert getattr(error, "code", "") in ("unsupported_media_type", "not_acceptable")
    else:
        assert read.startswith("image/") or read == "application/json"
        assert found in _TYPES


def seeds() -> list[bytes]:
    values = [
        b"application/json; charset=utf-8",
        b"application/msgpack;q=0.5, */*;q=0.1",
        b"1.5",
        b"an-id",
        b"handling=lenient",
        b"identity",
        b"chunked",
        b"3",
    ]
    lines = [name + b": " + value for name in NAMES for value in values]
    return [
        *(bytes([n % 5]) + line for n, line in enumerate(lines)),
        b"\x00" + b"\n".join(lines[:: len(values) + 1]),
        b"\xff" + lines[0],
        *(
            b"\x00x-request-timeout: " + each
            for each in (b"0", b"-1", b"nan", b"inf", b"1e99", b"")
        ),
        b"\x00" + b"\n".join(b"a%d: b" % n for n in range(21)),
        b"\x00accept: " + b"a" * 100,
    ]
