"""The short ways of reading and writing bodies give the verdicts of codecs and schemas."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from decimal import Decimal
from typing import Annotated, Any, Literal, TypedDict

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
    try:
        if codec is JSON:
            return json.dumps(value, default=str).encode()  # NaN, surrogates and what is refused
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


@dataclass
class Point:
    x: float
    name: str = ""


class Options(TypedDict, total=False):
    points: list[Point]
    limit: int | None
    below: dict[str, Point]


class Closed(msgspec.Struct, forbid_unknown_fields=True):
    x: Annotated[int, msgspec.Meta(ge=0)]


@dataclass
class Nested:
    x: Nested | None = None


ANNOTATIONS: list[Any] = [
    int,
    float,
    str,
    bool,
    None,
    bytes,
    int | float,
    str | None,
    Literal["x", 1, None],
    list[int],
    list[float],
    list[list[float | None]],
    list[Any],
    dict[str, float],
    dict[int, float],
    dict[str, list[int]] | int,
    tuple[int, ...],
    tuple[int, str],
    set[int],
    Annotated[int, msgspec.Meta(ge=0, le=10)],
    Annotated[list[str], msgspec.Meta(max_length=2)],
    list[list[list[list[list[int]]]]],
    Decimal,
    datetime,
    Point,
    list[Point],
    Options,
    Point | list[Point] | None,
    dict[str, Options],
    Closed,
    Nested,
]
fields = st.sampled_from(["x", "name", "points", "limit", "below", "y", "1"])
scalars = (
    st.none()
    | st.booleans()
    | st.integers(-3, 12)
    | st.integers(-(2**70), 2**70)
    | st.floats()
    | st.sampled_from(["x", "1", "2020-01-01T00:00:00Z", ""])
)
fitting = st.recursive(
    scalars,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(fields, inner, max_size=3),
    max_leaves=6,
)
points = st.dictionaries(st.sampled_from(["x", "name", "y"]), scalars, max_size=3)
options = st.fixed_dictionaries(
    {},
    optional={
        "points": st.lists(points, max_size=3),
        "limit": scalars,
        "below": st.dictionaries(fields, points, max_size=2),
        "more": scalars,
    },
)


@pytest.mark.parametrize("name", CODECS)
@pytest.mark.parametrize("annotation", ANNOTATIONS, ids=str)
@given(
    value=fitting | points | options | st.lists(points) | st.binary(max_size=3),
    at=st.integers(0, 50),
    byte=st.none() | st.integers(0, 255),
)
@example(value=1.0, at=0, byte=None)
@example(value=2**64, at=0, byte=None)
@example(value=10**400, at=0, byte=None)
@example(value={"x": math.nan, "name": "\ud800"}, at=0, byte=None)
@example(value={"x": datetime(2020, 1, 1, tzinfo=UTC)}, at=0, byte=None)
def test_any_body_gets_the_verdict_of_codec_and_schema(
    name: str, annotation: Any, value: Any, at: int, byte: int | None
) -> None:
    codec = CODECS[name]
    body = body_of(value, codec)
    if byte is not None:
        body = damaged(body, at, byte)
    read = reader_of(schema_of(annotation), codec, max_depth=MAX_DEPTH)
    assert verdict(read, body) == verdict(slow(annotation, codec), body)


@pytest.mark.parametrize("annotation", ANNOTATIONS, ids=str)
@given(
    text=st.sampled_from([b"1e400", b"-0", b"-0.0", b"1.10", b"1E2", b"0.1e1", b"[1.0]", b"1 1"])
)
def test_any_number_gets_the_verdict_of_codec_and_schema(annotation: Any, text: bytes) -> None:
    read = reader_of(schema_of(annotation), JSON, max_depth=MAX_DEPTH)
    assert verdict(read, text) == verdict(slow(annotation, JSON), text)


def test_a_short_way_is_taken_where_there_is_one() -> None:
    short: list[Any] = [list[float], list[Point], Options, int | None]
    for annotation in short:
        assert schema_of(annotation).direct(MAX_DEPTH) is not None
    long: list[Any] = [Nested, dict[int, int], list[Any], Decimal, Closed]
    for annotation in long:
        assert schema_of(annotation).direct(512) is None
    assert schema_of(list[list[float]]).direct(1) is None
    assert schema_of(list[list[float]]).direct(2) == (list[list[float]], None)


def test_an_item_of_the_users_own_class_raises_what_it_raises() -> None:
    @dataclass
    class Moody:
        x: int

        def __post_init__(self) -> None:
            raise KeyError(self.x)

    with pytest.raises(KeyError):
        reader_of(schema_of(Moody), JSON, max_depth=MAX_DEPTH)(b'{"x": 1}')
