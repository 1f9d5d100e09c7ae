from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from headrace.codecs import JSON, MSGPACK, RAW, codec_of, input_type, output_type
from headrace.errors import NotAcceptable, UnsupportedMediaType

BOTH = ("application/json", "application/msgpack")
PICTURES = ("application/octet-stream", "image/*", *BOTH)


def test_a_media_type_that_is_not_structured_is_raw_bytes() -> None:
    assert codec_of("application/json") is JSON
    assert codec_of("application/msgpack") is MSGPACK
    assert codec_of("image/png") is RAW


@pytest.mark.parametrize(
    ("content_type", "reads", "found"),
    [
        (None, BOTH, "application/json"),
        (None, PICTURES, "application/octet-stream"),
        ("application/json", BOTH, "application/json"),
        (" Application/JSON ; charset=UTF-8", BOTH, "application/json"),
        ('application/json; x=y; charset="utf8"', BOTH, "application/json"),
        ("text/json", BOTH, "application/json"),
        ("application/x-msgpack", BOTH, "application/msgpack"),
        ("image/png", PICTURES, "image/png"),
        ("image/png; charset=utf-16", PICTURES, "image/png"),
    ],
)
def test_a_body_has_the_type_that_its_header_says(
    content_type: str | None, reads: tuple[str, ...], found: str
) -> None:
    assert input_type(content_type, reads) == found


@pytest.mark.parametrize(
    "content_type",
    ["application/x-www-form-urlencoded", "application/x-pickle", "text/plain", "", "imagepng"],
)
def test_a_type_that_is_not_read_is_told_with_the_header_to_send(content_type: str) -> None:
    with pytest.raises(UnsupportedMediaType) as caught:
        input_type(content_type, BOTH)
    assert caught.value.message == (
        "send the header 'Content-Type: application/json'"
        f" (this model reads application/json, application/msgpack), got '{content_type}'"
    )


def test_a_charset_but_utf_8_is_refused() -> None:
    with pytest.raises(UnsupportedMediaType, match="expected charset utf-8, got 'utf-16'"):
        input_type("application/json; charset=UTF-16", BOTH)


@pytest.mark.parametrize(
    ("accept", "read", "found"),
    [
        (None, "application/json", "application/json"),
        (None, "application/msgpack", "application/msgpack"),
        ("", "application/msgpack", "application/msgpack"),
        ("*/*", "application/msgpack", "application/msgpack"),
        ("application/*", "application/msgpack", "application/msgpack"),
        ("application/json", "application/msgpack", "application/json"),
        ("application/json, text/plain, */*", "application/msgpack", "application/json"),
        ("application/msgpack, application/json", "application/json", "application/msgpack"),
        ("application/json;q=0.1, application/x-msgpack", "x", "application/msgpack"),
        ("*/*, application/json;q=0.1", "application/json", "application/msgpack"),
        ("application/json;q=0, */*", "application/json", "application/msgpack"),
        ("application/*;q=0.2, application/json;q=0.1", "application/json", "application/msgpack"),
        ("application/msgpack;q=nan, application/json;q=0.1", "x", "application/json"),
        ("application/msgpack;q=9, application/json", "x", "application/json"),
        ("application/msgpack;q=many, application/json", "x", "application/json"),
    ],
)
def test_an_answer_has_the_most_wanted_type(accept: str | None, read: str, found: str) -> None:
    assert output_type(accept, BOTH, read) == found


@pytest.mark.parametrize("accept", ["text/html", "application/*;q=0", "*/*;q=0", ",;,"])
def test_types_that_cannot_be_written_are_not_acceptable(accept: str) -> None:
    with pytest.raises(NotAcceptable) as caught:
        output_type(accept, BOTH, "application/json")
    assert caught.value.message == (
        f"expected Accept to allow application/json or application/msgpack, got '{accept}'"
    )


def test_an_answer_of_bytes_does_not_follow_the_requests_type() -> None:
    writes = ("image/png", *BOTH)
    assert output_type(None, writes, "application/json") == "image/png"
    assert output_type("application/json", writes, "application/json") == "application/json"


@given(st.text(max_size=300))
def test_a_header_of_any_text_is_negotiated_or_refused_with_little_of_it_repeated(
    text: str,
) -> None:
    try:
        input_type(text, BOTH)
    except UnsupportedMediaType as error:
        assert len(error.message) < 250
    try:
        assert output_type(text, BOTH, "application/json") in BOTH
    except NotAcceptable as error:
        assert len(error.message) < 250
