"""The message dialect: data in, data and an error out."""

from __future__ import annotations

import json
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from headrace import Messages, Model
from headrace.call import Failure, Outcome, Value
from headrace.dialects import MESSAGES, Request
from headrace.errors import DecodeError, HeadraceError, PayloadTooLarge, TooDeep
from headrace.replica import Replica

JSON = "application/json"


class Echo(Model):
    def predict(self, batch: list[Any]) -> list[Any]:
        return batch


CARD = Replica(Echo()).card
FORMATS = MESSAGES.negotiate(CARD, "text/plain", "image/png")

elements = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53), 2**53) | st.text(max_size=8),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3)
    ),
    max_leaves=8,
)


def cut(body: bytes, max_items: int | None = None) -> list[bytes]:
    payloads = MESSAGES.cut(Request(body=body, max_items=max_items), FORMATS)
    assert all(payload.input_type == payload.output_type == JSON for payload in payloads)
    return [payload.body for payload in payloads]


def join(*outcomes: Outcome) -> Outcome:
    return MESSAGES.join(outcomes, FORMATS, lenient=False)


def failed(message: str = "no", **more: Any) -> Failure:
    return Failure(code="model_error", message=message, **more)


@given(data=st.lists(elements, max_size=4))
def test_each_element_is_a_payload_in_order(data: list[Any]) -> None:
    body = msgspec.json.encode({"error": None, "data": data, "user": "ann"})
    assert [msgspec.json.decode(part) for part in cut(body)] == data


@pytest.mark.parametrize("body", [b"{}", b'{"data": null}', b'{"data": []}', b'{"error": "x"}'])
def test_a_message_without_elements_is_answered_without_a_model(body: bytes) -> None:
    assert cut(body) == []
    assert join() == Value(b'{"data":[],"error":null}', JSON)


@pytest.mark.parametrize(
    ("body", "error"),
    [
        (b"", "expected JSON, got nothing"),
        (b"{", "expected JSON, got an end in the middle of it"),
        (b"\x80\x04", "expected JSON, got"),
        (b'{"data": [NaN]}', "expected JSON, got invalid character at byte"),
        (b"[1]", "$: expected an object, got array"),
        (b"null", "$: expected an object, got null"),
        (b'"data"', "$: expected an object, got str"),
        (b'{"data": 1}', "$.data: expected an array, got int"),
        (b'{"data": {"a": 1}}', "$.data: expected an array, got object"),
        (b'{"data": "abc"}', "$.data: expected an array, got str"),
    ],
)
def test_what_is_no_message_is_malformed(body: bytes, error: str) -> None:
    with pytest.raises(DecodeError) as raised:
        cut(body)
    assert raised.value.message.startswith(error)
    assert raised.value.code == "malformed"


def test_a_message_that_nests_without_end_is_refused() -> None:
    with pytest.raises(TooDeep):
        cut(b'{"data": ' + b"[" * 100_000)


def test_a_message_has_no_more_elements_than_may_wait() -> None:
    assert len(cut(b'{"data": [1, 2, 3]}', max_items=3)) == 3
    with pytest.raises(PayloadTooLarge, match="at most 2 elements a message, got 3"):
        cut(b'{"data": [1, 2, 3]}', max_items=2)


@given(data=st.lists(elements, min_size=1, max_size=4))
def test_the_answers_are_joined_in_order(data: list[Any]) -> None:
    answer = join(*(Value(msgspec.json.encode(element), JSON) for element in data))
    assert isinstance(answer, Value)
    assert answer.media_type == JSON
    assert json.loads(answer.body) == {"data": data, "error": None}


def test_one_failed_element_fails_its_message() -> None:
    good = Value(b"1", JSON)
    assert join(failed()) == failed()
    joint = join(good, failed("too dark"), good, failed("too small"))
    assert isinstance(joint, Failure)
    assert joint.message == "data[1]: too dark"
    assert [detail["index"] for detail in joint.details] == [1, 3]


def test_a_failure_is_a_message_with_an_error() -> None:
    for service, name in ((MESSAGES, "echo"), (Messages("My service"), "My service")):
        refusal = service.refuse(failed("boom"), 500, CARD)
        assert refusal.status == 500
        assert json.loads(refusal.body) == {
            "data": [],
            "error": f"{name} caught exception: boom",
        }


@pytest.mark.parametrize(("status", "sent"), [(400, 400), (405, 400), (413, 413), (503, 503)])
def test_a_request_that_is_refused_is_no_exception_of_the_service(status: int, sent: int) -> None:
    refusal = MESSAGES.refuse(failed("not so"), status, CARD)
    assert refusal.status == sent
    assert json.loads(refusal.body)["error"] == "not so"


def test_an_error_is_short() -> None:
    refusal = MESSAGES.refuse(failed("x" * 10_000), 400, CARD)
    assert json.loads(refusal.body)["error"] == "x" * 600 + "…"


@given(body=st.binary(max_size=64))
def test_no_body_is_anything_but_a_message_or_an_error(body: bytes) -> None:
    try:
        parts = cut(body)
    except HeadraceError as error:
        assert error.message
    else:
        assert all(isinstance(part, bytes) for part in parts)
