"""The short ways of reading and writing bodies give the verdicts of codecs and schemas."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from typing import Any

import msgspec
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from headrace.bodies import reader_of, writer_of
from headrace.codecs import JSON, MSGPACK, RAW, Codec
from headrace.errors import HeadraceError, OutputError
from headrace.schema import schema_of

CODECS: dict[str, Codec] = {"json": JSON, "msgpack": MSGPACK, "raw": RAW}
MAX_DEPTH = 4

plain = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**70), 2**70)
    | st.floats()
    | st.text(max_size=5)
    | st.just("null"),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=3), inner),
    max_leaves=12,
)


def verdict(make: Callable[[Any], Any], given_one: Any) -> Any:
    """What is made of a value, with its types, or why nothing is."""
    try:
        made = make(given_one)
    except HeadraceError as error:
        return type(error), error.message, error.details
    return repr(made)


def slow(annotation: Any, codec: Codec) -> Callable[[bytes], Any]:
    """How a body is read by a codec and a schema, one after the other."""
    schema = schema_of(annotation)

    def read(body: bytes) -> Any:
        value = codec.decode(body, max_depth=MAX_DEPTH)
        return schema.validate(value, json=body if codec is JSON else None)

    return read


def damaged(body: bytes, at: int, byte: int) -> bytes:
    at %= len(body) + 1
    return body[:at] + bytes([byte]) + body[at + 1 :]


def body_of(value: Any, codec: Codec) -> bytes:
    if codec is JSON:
        return json.dumps(value).encode()  # with NaN, surrogates and what else is refused
    try:
        return msgspec.msgpack.encode(value)
    except (OverflowError, UnicodeEncodeError):
        return b"\xc1"


bodies = st.binary(max_size=20) | st.sampled_from(
    [
        b"",
        b" 1 ",
        b"nul",
        b"NaN",
        b"1e999",
        b'"\\ud800"',
        b"\xef\xbb\xbf1",
        b'"\xff"',
        b'{"a": 1, "a": 2}',
        b"[" * 5 + b"]" * 5,
        b"[" * 4 + b"]" * 4,
        b"[[],[],[],[],[],[]]",
        b"[" * 5000,
        b"9" * 5000,
        b'{"' + b"a" * 50 + b'": [[[[]]]]}',
        b"\x81\xc0\xc0",
        b"\xd4\x01\x00",
    ]
)


@pytest.mark.parametrize("name", CODECS)
@given(body=bodies)
def test_any_bytes_get_the_verdict_of_the_codec(name: str, body: bytes) -> None:
    codec = CODECS[name]
    read = reader_of(schema_of(Any), codec, max_depth=MAX_DEPTH)
    assert verdict(read, body) == verdict(slow(Any, codec), body)


@pytest.mark.parametrize("name", ["json", "msgpack"])
@given(value=plain, at=st.integers(0, 50), byte=st.integers(0, 255))
def test_any_value_gets_the_verdict_of_the_codec(name: str, value: Any, at: int, byte: int) -> None:
    codec = CODECS[name]
    read = reader_of(schema_of(Any), codec, max_depth=MAX_DEPTH)
    body = body_of(value, codec)
    for each in (body, damaged(body, at, byte)):
        assert verdict(read, each) == verdict(slow(Any, codec), each)


class Bad:
    def model_dump(self, **_: Any) -> Any:
        raise RuntimeError


class Model:
    def model_dump(self, **_: Any) -> Any:
        return {"a": math.nan}


ODD: list[Any] = [Bad(), Model(), object(), {1: 2}, {b"a": 1}, b"a", "\ud800", 2**70, {1j}]


@pytest.mark.parametrize("name", CODECS)
@pytest.mark.parametrize("nan_as_null", [False, True])
@given(value=plain | st.sampled_from(ODD))
@example(value=[None, math.nan])
@example(value=["null", None])
def test_any_output_is_written_as_the_codec_does(name: str, nan_as_null: bool, value: Any) -> None:
    codec = CODECS[name]
    write = writer_of(codec, nan_as_null=nan_as_null)
    expected = verdict(lambda each: codec.encode(each, nan_as_null=nan_as_null), value)
    assert verdict(write, value) == expected


def test_a_value_that_holds_itself_is_refused() -> None:
    value: list[Any] = []
    value.append(value)
    with pytest.raises(OutputError, match="holds itself"):
        writer_of(JSON, nan_as_null=False)(value)


def test_bytes_are_items_as_they_are() -> None:
    body = b"\x00\xff"
    assert reader_of(schema_of(bytes), RAW, max_depth=MAX_DEPTH)(body) is body
    assert reader_of(schema_of(bytes), JSON, max_depth=MAX_DEPTH)(b'"AP8="') == body
