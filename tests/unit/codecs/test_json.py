from __future__ import annotations

import json
import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from headrace.codecs import JSON
from headrace.errors import DecodeError, OutputError, TooDeep

values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=12,
)
SAMPLE = (
    '{"text": "größe \\u00e9\\n", "list": [1, -2.5e3, true, null, {"a": {}}], "n": 1e2}'.encode()
)


def decode(body: bytes, max_depth: int = 64) -> Any:
    return JSON.decode(body, max_depth=max_depth)


@given(values)
def test_what_is_written_is_read_back(value: Any) -> None:
    assert decode(JSON.encode(value)) == value


@given(values)
def test_the_standard_library_reads_and_writes_the_same(value: Any) -> None:
    assert json.loads(JSON.encode(value)) == value
    assert decode(json.dumps(value).encode()) == value


@given(st.binary(max_size=64))
def test_any_bytes_are_a_value_or_a_decode_error(body: bytes) -> None:
    try:
        decode(body)
    except DecodeError as error:
        assert len(error.message) < 200
        assert error.offset is None or 0 <= error.offset <= len(body)


def test_every_truncation_is_malformed() -> None:
    for length in range(len(SAMPLE)):
        with pytest.raises(DecodeError, match="expected"):
            decode(SAMPLE[:length])


def test_every_flipped_bit_gives_a_value_or_a_decode_error() -> None:
    for at in range(len(SAMPLE)):
        for bit in range(8):
            body = bytearray(SAMPLE)
            body[at] ^= 1 << bit
            try:
                decode(bytes(body))
            except DecodeError as error:
                assert JSON.encode(error.message)


def nested(depth: int, kind: str) -> bytes:
    opening, closing = {"list": ("[", "]"), "dict": ('{"a":', "}"), "mixed": ('[{"a":', "}]")}[kind]
    levels = depth // 2 if kind == "mixed" else depth
    odd = "[]" if kind == "mixed" and depth % 2 else "1"
    return (opening * levels + odd + closing * levels).encode()


@pytest.mark.parametrize("kind", ["list", "dict", "mixed"])
def test_nesting_is_taken_up_to_the_limit_and_refused_beyond(kind: str) -> None:
    for depth in (1, 63, 64):
        decode(nested(depth, kind))
    for depth in (65, 1_000, 250_000):
        with pytest.raises(TooDeep, match="expected at most 64 levels of nesting, got more"):
            decode(nested(depth, kind))


def test_many_shallow_containers_are_not_deep() -> None:
    assert len(decode(b"[" + b"[]," * 1000 + b"{}]", max_depth=2)) == 1001
    with pytest.raises(TooDeep):
        decode(b"[" + b"[]," * 1000 + b"{}]", max_depth=1)


def test_brackets_in_text_are_no_nesting() -> None:
    assert decode(b'"' + b"[{" * 500 + b'"') == "[{" * 500


@pytest.mark.parametrize(
    ("body", "value"),
    [
        (b"null", None),
        (b"[]", []),
        (b"18446744073709551616", 2**64),
        (b"9" * 4300, 10**4300 - 1),
        (b'{"a":1,"a":2}', {"a": 2}),
        (b"1e-999", 0.0),
        (b" 1 \n", 1),
    ],
    ids=["null", "empty-list", "2^64", "4300-digits", "duplicate-key", "underflow", "blanks"],
)
def test_odd_but_valid_bodies_have_one_documented_value(body: bytes, value: Any) -> None:
    assert decode(body) == value


@pytest.mark.parametrize(
    ("body", "message", "offset"),
    [
        (b"", "expected JSON, got nothing", 0),
        (b" \n", "expected JSON, got nothing", 2),
        (b'{"a":1', "expected JSON, got an end in the middle of it", 6),
        (b"[1,]", "expected JSON, got trailing comma in array at byte 3", 3),
        (b"[1] 2", "expected JSON, got trailing characters", None),
        (b"NaN", "expected JSON, got invalid character at byte 0", 0),
        (b"[Infinity]", "expected JSON, got invalid character at byte 1", 1),
        (b"[1e999]", "expected JSON, got number out of range at $[0]", None),
        (b"1" * 5000, "expected JSON, got integer value out of range", None),
        (b"\xef\xbb\xbf1", "expected JSON, got invalid character at byte 0", 0),
        (b'{"a":"\xff"}', "expected UTF-8, got other bytes", 6),
        (b'"\xed\xa0\x80"', "expected UTF-8, got other bytes", 1),
        ('{"a":1}'.encode("utf-16"), "expected JSON, got invalid character at byte 0", 0),
        (b'["\\ud800aaaaaa"]', "expected JSON, got unexpected end of escaped utf-16", None),
    ],
    ids=[
        "empty",
        "blanks",
        "truncated",
        "trailing-comma",
        "trailing-text",
        "nan",
        "infinity",
        "overflow",
        "5000-digits",
        "bom",
        "latin-1",
        "encoded-surrogate",
        "utf-16",
        "lone-surrogate",
    ],
)
def test_malformed_bodies_are_told_with_what_and_where(
    body: bytes, message: str, offset: int | None
) -> None:
    with pytest.raises(DecodeError) as caught:
        decode(body)
    assert caught.value.message.startswith(message)
    if offset is not None:
        assert caught.value.offset == offset


def test_a_lone_surrogate_at_the_end_is_malformed() -> None:
    with pytest.raises(DecodeError):
        decode(b'"\\ud800"')


@pytest.mark.parametrize("number", [math.nan, math.inf, -math.inf])
def test_a_number_that_json_lacks_is_an_error_or_null_as_told(number: float) -> None:
    with pytest.raises(OutputError, match="cannot be written as JSON: it holds NaN"):
        JSON.encode({"a": [None, number]})
    assert JSON.encode({"a": [None, number]}, nan_as_null=True) == b'{"a":[null,null]}'


def test_a_null_that_was_meant_is_no_nan() -> None:
    assert JSON.encode([None, "null", (1.5, {2.5})]) == b'[null,"null",[1.5,[2.5]]]'


def test_integers_of_any_size_are_written_exactly() -> None:
    assert JSON.encode(2**70) == b"1180591620717411303424"


def test_bytes_are_written_in_base64() -> None:
    assert JSON.encode(b"\xff") == b'"/w=="'
