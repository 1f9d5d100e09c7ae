"""Verdicts: a value that JSON and msgpack both hold is met alike by both codecs, and a record that
msgspec checks is met as the same one of pydantic's.

An input is a byte for the schema, and what a value is drawn from. Alike means that both take it, as
the same item, or that both refuse it, naming the same first path.
"""

from __future__ import annotations

import random
from typing import Any

from headrace.bodies import reader_of
from headrace.codecs import JSON, MSGPACK
from headrace.errors import DecodeError, HeadraceError, OutputError

from ._values import Drawn
from ._verdicts import MAX_DEPTH, NAMES, SCHEMAS

MEASURED = ("headrace.bodies", "headrace.schema")
_READERS = {
    name: tuple(reader_of(schema, codec, max_depth=MAX_DEPTH) for codec in (JSON, MSGPACK))
    for name, schema in SCHEMAS.items()
}
TOKENS = ()
_TWINS = {"shape": "model", "points": "models"}


def check(data: bytes) -> None:
    if not data:
        return
    name, value = NAMES[data[0] % len(NAMES)], Drawn(data[1:]).value()
    body = JSON.encode(value)
    by_json, by_msgpack = _READERS[name]
    found = _verdict(by_json, body)
    try:
        packed = MSGPACK.encode(value)
    except OutputError:
        packed = b""  # it has no numbers beyond 64 bits
    if packed and name != "keyed":  # whose keys are text in JSON alone
        assert _verdict(by_msgpack, packed) == found, (name, value)
    if name in _TWINS:
        theirs = _verdict(_READERS[_TWINS[name]][0], body)
        assert theirs[0] == found[0], (value, theirs, found)


def seeds() -> list[bytes]:
    rng = random.Random(8)
    return [bytes([n % len(NAMES)]) + rng.randbytes(40) for n in range(4 * len(NAMES))]


def _verdict(read: Any, body: bytes) -> tuple[str, Any]:
    try:
        item = read(body)
    except DecodeError as error:
        return "malformed", error.message
    except HeadraceError as error:
        return error.code, error.details[0]["path"]
    return "taken", repr(item)
