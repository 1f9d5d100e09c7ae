from __future__ import annotations

import base64
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from virtex.serial import decode_bytes, encode_bytes


@given(st.binary())
def test_bytes_come_back(data: bytes) -> None:
    text = encode_bytes(data)
    assert decode_bytes(text) == data
    assert base64.b64decode(text) == data
    assert json.loads(json.dumps(text)) == text and text.isascii()


def test_bytes_of_other_types_are_bytes() -> None:
    assert encode_bytes(bytearray(b"ab")) == encode_bytes(memoryview(b"ab")) == encode_bytes(b"ab")


@given(st.binary(min_size=1), st.sampled_from(["\n", "\r\n", " ", "\t", "\n\n"]))
def test_line_breaks_in_the_text_mean_nothing(data: bytes, breaks: str) -> None:
    text = encode_bytes(data)
    wrapped = breaks.join(text[start : start + 3] for start in range(0, len(text), 3)) + breaks
    assert decode_bytes(wrapped) == data


@pytest.mark.parametrize(
    "text", ["!", "a", "YQ", "YQ=", "YQ==YQ==", "YWJj=", "YWJj====", "a-_b", "YWé=", "YQ\x00=="]
)
def test_what_is_no_base64_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="decode_bytes: expected text in base64"):
        decode_bytes(text)


@pytest.mark.parametrize("text", [b"YQ==", 1, None, ["YQ=="]])
def test_what_is_no_text_is_refused(text: object) -> None:
    with pytest.raises(TypeError, match=r"decode_bytes: expected text in base64, got \w+"):
        decode_bytes(text)  # type: ignore[arg-type]


def test_what_is_no_bytes_is_refused() -> None:
    with pytest.raises(TypeError, match="encode_bytes: expected bytes, got str"):
        encode_bytes("text")  # type: ignore[arg-type]
