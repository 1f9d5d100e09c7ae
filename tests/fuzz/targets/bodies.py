"""Bodies: the short ways of reading them give the verdict of codec and schema, to the word.

An input is a byte for the schema, one for the codec, and the body; or what a value is drawn from,
which is then damaged at one byte or left whole.
"""

from __future__ import annotations

import random
from typing import Any

import msgspec

from headrace.bodies import reader_of
from headrace.codecs import JSON, MSGPACK, RAW, Codec
from headrace.errors import DecodeError, OutputError, SchemaError, TooDeep

from ._values import Drawn
from ._verdicts import MAX_DEPTH, NAMES, SCHEMAS, slow, verdict
from .json import TOKENS as JSON_TOKENS
from .msgpack import TOKENS as MSGPACK_TOKENS

MEASURED = ("headrace.bodies", "headrace.shape", "headrace.schema")
TOKENS = (
    *(b'"x":', b'"y":', b'"name":', b'"points":', b'"colour":"red"', b'"weights":{', b'"id":'),
    *(b'"tags":[', b'"at":{', b'"is_closed":', b"1.0", b"\xa1x", b"\xa4name", b"\xa6points"),
    *JSON_TOKENS,
    *MSGPACK_TOKENS,
)
_CODECS = (JSON, MSGPACK, RAW)
_READERS = [
    [reader_of(schema, codec, max_depth=MAX_DEPTH) for codec in _CODECS]
    for schema in SCHEMAS.values()
]
_SLOW = [[slow(schema, codec) for codec in _CODECS] for schema in SCHEMAS.values()]


def check(data: bytes) -> None:
    if len(data) < 2:
        return
    schema, codec = data[0] % len(NAMES), data[1] % len(_CODECS)
    body = _drawn(data[2:], _CODECS[codec]) if data[1] & 128 else data[2:]
    expected = verdict(_SLOW[schema][codec], body)
    found = verdict(_READERS[schema][codec], body)
    if found != expected:
        # Of one that nests a thousand deep and is cut short, Python's stack says which is seen.
        assert {found[0], expected[0]} == {TooDeep, DecodeError}, (found, expected)
    if isinstance(expected, tuple):
        kind, message, details = expected
        assert issubclass(kind, (DecodeError, SchemaError))
        assert len(message) < 1000
        if kind is SchemaError:
            assert 0 < len(details) <= 8
            assert all(fault["path"].startswith("$") for fault in details)


def _drawn(data: bytes, codec: Codec) -> bytes:
    drawn = Drawn(data)
    try:
        body = bytearray((JSON if codec is JSON else MSGPACK).encode(drawn.value()))
    except OutputError:
        return b""
    if drawn.number(2):
        body[drawn.number(256) % len(body)] = drawn.number(256)
    return bytes(body)


VALUES: list[Any] = [
    *(7, 1.5, True, "a", None, 2**70, [1, 2], [[1.0, 2], []], {"a": 1}, [1, "a"], ["YQ=="]),
    {"x": 1, "y": 2.0},
    [{"x": 1}, {"x": 2, "y": 1}],
    {"name": "n", "points": [{"x": 1}], "colour": "red", "weights": {"a": 1}, "is_closed": True},
    {"s": {"name": "n", "points": [], "more": 1}},
    {"id": 1, "tags": ["a"], "at": {"x": 1, "z": 3}},
    {"x": "1"},
    [[[[[[[[[]]]]]]]]],
]


def seeds() -> list[bytes]:
    rng = random.Random(8)
    found = [bytes([n % len(NAMES), 128 + n % 2]) + rng.randbytes(40) for n in range(100)]
    for number, value in enumerate(VALUES):
        found.append(bytes([number + 3, 0]) + msgspec.json.encode(value))
        if value != 2**70:
            found.append(bytes([number + 3, 1]) + msgspec.msgpack.encode(value))
    return found + [
        bytes([number, 0]) + msgspec.json.encode(VALUES[number % len(VALUES)])
        for number in range(len(NAMES))
    ]
