"""ventu's bodies: any bytes are an instance of the schema, or refused in the service's own format.

A request is refused as malformed or as one that does not fit, and nothing else; what is said of it
can be written. An instance, written as the response, is read as the same one.

An input is a byte for the format and the schema, and the body; or what a value is drawn from.
"""

from __future__ import annotations

from typing import Any

import msgspec
from pydantic import BaseModel

from headrace import Value
from headrace.call import Failure
from tests.unit.ventu.models import Text
from tests.unit.wire.driver import CARD
from ventu.asgi import InferenceDialect
from ventu.bodies import Bodies, BrokenResponse, Refused

from ._values import Drawn
from ._verdicts import ShapeModel
from .json import TOKENS as JSON_TOKENS
from .msgpack import TOKENS as MSGPACK_TOKENS

MEASURED = ("ventu.bodies", "ventu.asgi")
TOKENS = (b'{"text": "', b'"name":', b'"points":[', *JSON_TOKENS, *MSGPACK_TOKENS)
_SCHEMAS: tuple[type[BaseModel], ...] = (Text, ShapeModel)
_BODIES = [[Bodies(schema, schema, packed) for packed in (False, True)] for schema in _SCHEMAS]


def check(data: bytes) -> None:
    if not data:
        return
    bodies = _BODIES[data[0] & 1][data[0] >> 1 & 1]
    body = _drawn(data[1:], bodies) if data[0] & 4 else data[1:]
    dialect = InferenceDialect(bodies)
    (payload,) = dialect.cut(_request(body), dialect.negotiate(None, bodies.media_type, None))
    assert payload.body == body
    try:
        request = bodies.read(body)
    except Refused as refusal:
        _check_refusal(refusal, bodies, dialect)
        return
    try:
        written = bodies.write(request)
    except BrokenResponse as error:
        assert "NaN" in str(error) or "json" in str(error), error
        return
    again = bodies.read(written)
    assert type(again) is type(request) and repr(again) == repr(request)
    joined = dialect.join(
        [Value(written, "a/b")], dialect.negotiate(None, None, None), lenient=False
    )
    assert (joined.body, joined.media_type) == (written, bodies.media_type)


def _check_refusal(refusal: Refused, bodies: Bodies, dialect: InferenceDialect) -> None:
    assert refusal.status in (400, 422)
    encoded = bodies.encode(refusal.http_body)
    told = _decode(bodies, encoded)
    if refusal.status == 422:
        assert told
        assert all(fault.keys() == {"loc", "msg", "type"} for fault in told)
    else:
        assert told["title"] == "400 Bad Request"
    failure = Failure(
        code="item_error",
        message="no",
        details=({"body": refusal.http_body},),
        status=refusal.status,
    )
    found = dialect.refuse(failure, refusal.status, CARD)
    assert (found.status, found.body) == (refusal.status, encoded)


def _decode(bodies: Bodies, body: bytes) -> Any:
    return (msgspec.msgpack if bodies.use_msgpack else msgspec.json).decode(body)


def _drawn(data: bytes, bodies: Bodies) -> bytes:
    try:
        return bodies.encode(Drawn(data).value())
    except (OverflowError, ValueError):
        return b""


class _Request(msgspec.Struct):
    body: bytes


def _request(body: bytes) -> Any:
    return _Request(body)


def seeds() -> list[bytes]:
    shape = {"name": "n", "points": [{"x": 1}], "colour": "red", "weights": {"a": 1.5}}
    found = []
    for number, value in enumerate(({"text": "hello"}, shape, {"text": ""}, {"name": 1}, [])):
        found.append(bytes([number & 1]) + msgspec.json.encode(value))
        found.append(bytes([number & 1 | 2]) + msgspec.msgpack.encode(value))
    return [
        *found,
        *(bytes([4 | n % 4]) + bytes(range(n, n + 40)) for n in range(24)),
        b"\x00{",
        b"\x02\xc1",
        b"\x01" + b'{"name":"n","points":[],"weights":{"a":NaN}}',
    ]
