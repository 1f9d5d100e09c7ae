"""The native dialect: the body is the item."""

from __future__ import annotations

from typing import Any

import pytest

from headrace import Limits, Model
from headrace.call import Failure, Value
from headrace.dialects import NATIVE, Formats, Request, body_limit, too_large
from headrace.errors import NotAcceptable, UnsupportedMediaType
from headrace.replica import Replica

JSON, MSGPACK, RAW = "application/json", "application/msgpack", "application/octet-stream"


class Structured(Model):
    def predict(self, batch: list[Any]) -> list[Any]:
        return batch


class Picture(Model):
    response_media_type = "image/png"

    def predict(self, batch: list[bytes]) -> list[bytes]:
        return batch


@pytest.mark.parametrize(
    ("content_type", "accept", "read", "written"),
    [
        (None, None, JSON, JSON),
        (JSON, None, JSON, JSON),
        (MSGPACK, None, MSGPACK, MSGPACK),
        (MSGPACK, JSON, MSGPACK, JSON),
        (JSON, "*/*", JSON, JSON),
        (JSON + "; charset=utf-8", MSGPACK, JSON, MSGPACK),
    ],
)
def test_the_answer_is_in_the_requests_type_unless_accept_says_otherwise(
    content_type: str | None, accept: str | None, read: str, written: str
) -> None:
    card = Replica(Structured()).card
    assert NATIVE.negotiate(card, content_type, accept) == Formats(read, written)


def test_a_bytes_model_takes_raw_bodies_and_answers_in_its_own_type() -> None:
    card = Replica(Picture()).card
    assert NATIVE.negotiate(card, None, None) == Formats(RAW, "image/png")
    assert NATIVE.negotiate(card, "image/jpeg", None) == Formats("image/jpeg", "image/png")
    assert NATIVE.negotiate(card, JSON, JSON) == Formats(JSON, JSON)


def test_what_the_model_neither_reads_nor_writes_is_refused() -> None:
    card = Replica(Structured()).card
    with pytest.raises(UnsupportedMediaType, match="send the header 'Content-Type: application"):
        NATIVE.negotiate(card, "application/x-www-form-urlencoded", None)
    with pytest.raises(NotAcceptable):
        NATIVE.negotiate(card, JSON, "image/png")


@pytest.mark.parametrize("body", [b"", b"{", b"\xff", b'{"a": 1}'])
def test_a_body_is_one_payload_and_is_not_looked_into(body: bytes) -> None:
    [payload] = NATIVE.cut(Request(body=body), Formats(JSON, MSGPACK))
    assert (payload.body, payload.input_type, payload.output_type) == (body, JSON, MSGPACK)


def test_the_answer_is_the_items_outcome() -> None:
    formats = Formats(JSON, JSON)
    for outcome in (Value(b"1", JSON), Failure(code="invalid", message="no")):
        for lenient in (True, False):
            assert NATIVE.join([outcome], formats, lenient=lenient) is outcome


def test_structured_bodies_have_a_lower_limit_than_raw_ones() -> None:
    limits = Limits(max_body_bytes=100, max_json_bytes=10)
    assert body_limit(Formats(JSON, JSON), limits) == 10
    assert body_limit(Formats(MSGPACK, JSON), limits) == 10
    assert body_limit(Formats(RAW, JSON), limits) == 100
    assert body_limit(Formats(JSON, JSON), Limits(max_body_bytes=5)) == 5
    assert "at most 10 bytes" in too_large(10).message
