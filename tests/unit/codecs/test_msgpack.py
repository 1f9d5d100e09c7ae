from __future__ import annotations

import datetime
import math
import struct
import tracemalloc
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from headrace.codecs import MSGPACK
from headrace.errors import DecodeError, OutputError, TooDeep

values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**64 - 1)
    | st.floats(allow_nan=False)
    | st.text()
    | st.binary(),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(st.text() | st.integers(-(2**63), 2**64 - 1), inner, max_size=4)
    ),
    max_leaves=12,
)
SAMPLE = MSGPACK.encode(
    {"text": "größe", "list": [1, -2, 2.5, True, None, {"a": {}}], "b": b"\xff", 300: 2**63}
)


def decode(body: bytes, max_depth: int = 64) -> Any:
    return MSGPACK.decode(body, max_depth=max_depth)


@given(values)
def test_what_is_written_is_read_back(value: Any) -> None:
    assert decode(MSGPACK.encode(value)) == value


@given(st.binary(max_size=64))
def test_any_bytes_are_a_value_or_a_decode_error(body: bytes) -> None:
    try:
        decode(body)
    except DecodeError as error:
        assert len(error.message) < 200
        assert error.offset is None or 0 <= error.offset <= len(body)


def test_every_truncation_is_malformed() -> None:
    for length in range(len(SAMPLE)):
        with pytest.raises(DecodeError, match="expected msgpack, got"):
            decode(SAMPLE[:length])


def test_every_flipped_bit_gives_a_value_or_a_decode_error() -> None:
    for at in range(len(SAMPLE)):
        for bit in range(8):
            body = bytearray(SAMPLE)
            body[at] ^= 1 << bit
            try:
                decode(bytes(body))
            except DecodeError as error:
                assert error.message


def nested(depth: int, kind: str) -> bytes:
    level = {"list": b"\x91", "dict": b"\x81\xa1a"}
    last = {"list": b"\x90", "dict": b"\x80"}
    if kind != "mixed":
        return level[kind] * (depth - 1) + last[kind]
    return (level["list"] + level["dict"]) * ((depth - 1) // 2) + (
        last["list"] if depth % 2 else level["list"] + last["dict"]
    )


@pytest.mark.parametrize("kind", ["list", "dict", "mixed"])
def test_nesting_is_taken_up_to_the_limit_and_refused_beyond(kind: str) -> None:
    for depth in (1, 63, 64):
        decode(nested(depth, kind))
    for depth in (65, 1_000, 250_000):
        with pytest.raises(TooDeep, match="expected at most 64 levels of nesting, got more"):
            decode(nested(depth, kind))


@pytest.mark.parametrize("depth", [1, 65, 1_000, 250_000])
def test_keys_cannot_hide_nesting(depth: int) -> None:
    with pytest.raises(DecodeError):
        decode(b"\x81" + b"\x91" * depth + b"\x01\x01")


@pytest.mark.parametrize(
    "head", [b"\xdd", b"\xdf", b"\xc6", b"\xdb", b"\xc9"], ids=["list", "map", "bin", "str", "ext"]
)
def test_a_length_that_is_only_declared_takes_no_memory(head: bytes) -> None:
    tracemalloc.start()
    try:
        with pytest.raises(DecodeError, match="got an end in the middle of it"):
            decode(head + b"\xff" * 4)
        assert tracemalloc.get_traced_memory()[1] < 1_000_000
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (b"", "expected msgpack, got nothing"),
        (b"\xc1", "expected msgpack, got invalid opcode"),
        (b"\x01\x01", "expected msgpack, got trailing characters at byte 1"),
        (b"\xd4\x05a", "expected no extension type, got 5"),
        (b"\xd4\xff\x00", "expected msgpack, got invalid messagepack timestamp"),
        (b"\xd7\xff" + b"\xff" * 8, "expected msgpack, got nanoseconds out of range"),
        (b"\xa1\xff", "expected text in UTF-8, got other bytes"),
        (b"\xa3\xed\xa0\x80", "expected text in UTF-8, got other bytes"),
        (b"\x81\xc0\x01", "expected keys of text, integers or bytes, got another type"),
        (b"\x81\xc3\x01", "expected keys of text, integers or bytes, got another type"),
        (b"\x81\x90\x01", "expected keys of text, integers or bytes, got another type"),
        (b"\x81\x80\x01", "expected msgpack, got map keys must be hashable at byte 3"),
        (
            b"\x81\xcb" + struct.pack(">d", math.nan) + b"\x01",
            "expected keys of text, integers or bytes, got another type",
        ),
    ],
    ids=[
        "empty",
        "opcode",
        "trailing",
        "extension",
        "short-timestamp",
        "bad-timestamp",
        "latin-1",
        "surrogate",
        "null-key",
        "bool-key",
        "list-key",
        "map-key",
        "nan-key",
    ],
)
def test_malformed_bodies_are_told_with_what_was_found(body: bytes, message: str) -> None:
    with pytest.raises(DecodeError) as caught:
        decode(body)
    assert caught.value.message.startswith(message)


def test_the_path_to_a_fault_in_the_depths_is_told_in_part() -> None:
    with pytest.raises(DecodeError) as caught:
        decode(b"\x91" * 60 + b"\xd4\xff\x00")
    assert len(caught.value.message) < 200 and "…" in caught.value.message


def test_a_timestamp_is_a_datetime() -> None:
    epoch = datetime.datetime(1970, 1, 1, tzinfo=datetime.UTC)
    assert decode(b"\xd6\xff\x00\x00\x00\x00") == epoch


def test_a_key_that_stands_twice_counts_as_its_last() -> None:
    assert decode(b"\x82\xa1a\x01\xa1a\x02") == {"a": 2}


def test_nan_is_carried_as_it_is() -> None:
    assert math.isnan(decode(MSGPACK.encode(math.nan)))


def test_an_integer_beyond_64_bits_is_refused() -> None:
    with pytest.raises(OutputError, match="cannot be written as msgpack"):
        MSGPACK.encode(2**64)
