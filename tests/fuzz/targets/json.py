"""JSON: any bytes are a value that comes back as it is, or malformed.

Python's own reader is the judge: what is taken has the same value there, and what is refused is
refused there, or is one of what the codec's page says: numbers that a float cannot hold, lone
surrogates, much depth.
"""

from __future__ import annotations

import contextlib
import json
import json.scanner
import math
import re
from collections.abc import Iterator
from typing import Any

from headrace.codecs import JSON
from headrace.errors import DecodeError, TooDeep

MEASURED = ("headrace.codecs.json", "headrace.codecs.base")
TOKENS = (
    *(b"null", b"true", b"false", b"NaN", b"Infinity", b"-", b"e+1", b"E-308", b"0.", b"1e999"),
    *(b"\\u", b"\\ud800", b"\\udc00", b"\\n", b'":', b'"', b"[", b"]", b"{", b"}", b","),
    *(b"\xef\xbb\xbf", b"18446744073709551616", b"-9223372036854775809"),
)
MAX_DEPTH = 8
_SURROGATE = re.compile("[\ud800-\udfff]")


def check(data: bytes) -> None:
    try:
        value = JSON.decode(data, max_depth=MAX_DEPTH)
    except TooDeep:
        assert data.count(b"[") + data.count(b"{") > MAX_DEPTH
    except DecodeError as error:
        assert error.offset is None or 0 <= error.offset <= len(data)
        assert len(error.message) < 200
        assert is_refused(data), error.message
    else:
        assert _levels(value) <= MAX_DEPTH
        assert JSON.decode(JSON.encode(value), max_depth=MAX_DEPTH) == value
        assert repr(value) == repr(theirs(data))


def seeds() -> list[bytes]:
    return [
        b'{"id": 7, "text": "w\xc3\xa4ter", "on": [true, null, 1.5, -3, {"b": "\\n\\u00e4"}]}',
        b'[0.1e-5, 123456789012345678901234567890, "\\ud83d\\ude00", [[[]]], {"a": {}, "a": 1}]',
        b'"\\ud800"',
        b"[[[[[[[[[]]]]]]]]]",
        b" \t\r\n-0.0 ",
        b"1e999",
        b"NaN",
        b"\xef\xbb\xbf1",
        b"9" * 400,
    ]


def is_refused(data: bytes) -> bool:
    """Whether the judge refuses it, or finds what we do not take."""
    try:
        return any(map(_is_odd, _parts(theirs(data))))
    except (ValueError, RecursionError):
        return True


def theirs(data: bytes) -> Any:
    """What Python makes of UTF-8.

    Raises:
        ValueError: It is no JSON, as Python has it.
    """
    with contextlib.suppress(ValueError, StopIteration):
        _guide.decode(data.decode())
    return json.loads(data.decode(), parse_constant=_refuse, object_pairs_hook=_in_object)


def _refuse(constant: str) -> Any:
    raise ValueError(constant)


def _in_object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    # Of a key that stands twice, only one value is seen later.
    if any(_is_odd(part) for pair in pairs for part in _parts(list(pair))):
        raise ValueError("odd")
    return dict(pairs)


def _levels(value: Any) -> int:
    """How deep a value nests."""
    if not isinstance(value, list | dict):
        return 0
    inner = value.values() if isinstance(value, dict) else value
    return 1 + max(map(_levels, inner), default=0)


def _is_odd(value: Any) -> bool:
    if isinstance(value, str):
        return _SURROGATE.search(value) is not None
    return isinstance(value, float) and math.isinf(value)


def _parts(value: Any) -> Iterator[Any]:
    """A value, and all that is in its lists; objects were looked at when they were made."""
    yield value
    for inner in value if isinstance(value, list) else ():
        yield from _parts(inner)


_guide = json.JSONDecoder(object_pairs_hook=_in_object)
# These are in Python: the search is guided by what it reaches in them. They are no judges, as they
# let pass a few things.
_guide.parse_string = json.decoder.py_scanstring  # type: ignore[attr-defined]
_guide.scan_once = json.scanner.py_make_scanner(_guide)  # type: ignore[attr-defined]
