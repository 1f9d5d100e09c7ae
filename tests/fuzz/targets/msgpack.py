"""msgpack: any bytes are a value that comes back as it is, or malformed.

A value is made of what the codec's page says, nests no deeper than the limit, and takes memory by
what is there, not by what is claimed.
"""

from __future__ import annotations

from datetime import datetime
from typing import Any

import msgspec

from headrace.codecs import MSGPACK
from headrace.errors import DecodeError

from ._memory import at_most

MEASURED = ("headrace.codecs.msgpack", "headrace.codecs.base")
TOKENS = (
    *(b"\x81", b"\x91", b"\xc0", b"\xc4\x01", b"\xc7\x0c\xff", b"\xd6\xff", b"\xd7\xff", b"\xde"),
    *(b"\xdd\xff\xff\xff\xff", b"\xdf\xff\xff\xff\xff", b"\xc6\xff\xff\xff\xff", b"\xa1a"),
    *(b"\xcb", b"\xca", b"\xcf" + b"\xff" * 8, b"\xd3\x80" + bytes(7)),
)
MAX_DEPTH = 8
BYTES_A_BYTE = 400
"""What each byte of a body may take: an empty object takes 64 and its place."""
_SCALARS = (type(None), bool, int, float, str, bytes, datetime)


def check(data: bytes) -> None:
    try:
        with at_most(BYTES_A_BYTE * len(data) + 64 * 1024):
            value = MSGPACK.decode(data, max_depth=MAX_DEPTH)
    except DecodeError as error:
        assert error.offset is None or 0 <= error.offset <= len(data)
        assert len(error.message) < 200
        return
    _look(value, MAX_DEPTH)
    again = MSGPACK.decode(MSGPACK.encode(value), max_depth=MAX_DEPTH)
    assert repr(again) == repr(value)  # a NaN equals nothing


def seeds() -> list[bytes]:
    value = {"id": 7, "text": "wäter", 3: [True, None, 1.5, -3, {b"b": b"\x00"}], "n": [2**63]}
    moment = datetime.fromisoformat("2024-05-06T07:08:09.123456+00:00")
    return [
        *map(msgspec.msgpack.encode, (value, [moment, "x" * 40, b"y" * 300], 2**64 - 1, -1)),
        b"\x91" * 9 + b"\xc0",
        b"\xca\x7f\xc0\x00\x01",
        b"\xd4\x01\x00",
        b"\x81\xc0\xc0",
    ]


def _look(value: Any, levels: int) -> None:
    if type(value) is dict:
        assert levels
        for key, inner in value.items():
            assert type(key) in (str, int, bytes), key
            _look(inner, levels - 1)
    elif type(value) is list:
        assert levels
        for inner in value:
            _look(inner, levels - 1)
    else:
        assert type(value) in _SCALARS, type(value)
