"""The v1 dialect: instances in, predictions out."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from headrace import Model
from headrace.call import Failure, Outcome, Value
from headrace.dialects import V1_DIALECT, Formats, Request
from headrace.errors import (
    DecodeError,
    HeadraceError,
    PayloadTooLarge,
    SchemaError,
    TooDeep,
    UnsupportedMediaType,
)
from headrace.replica import Replica

JSON, MSGPACK = "application/json", "application/msgpack"
FORMATS = Formats(JSON, JSON)
BODIES: dict[str, Callable[[Any], bytes]] = {
    JSON: msgspec.json.encode,
    MSGPACK: msgspec.msgpack.encode,
}
VALUES: dict[str, Callable[[bytes], Any]] = {
    JSON: msgspec.json.decode,
    MSGPACK: msgspec.msgpack.decode,
}

plain = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53), 2**53) | st.text(max_size=8),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3)
    ),
    max_leaves=8,
)


def cut(body: bytes, media_type: str = JSON) -> list[bytes]:
    payloads = V1_DIALECT.cut(Request(body=body), Formats(media_type, JSON))
    assert all(payload.input_type == media_type for payload in payloads)
    return [payload.body for payload in payloads]


def join(*outcomes: Outcome, lenient: bool = False) -> Outcome:
    return V1_DIALECT.join(outcomes, FORMATS, lenient=lenient)


def failed(code: str, **more: Any) -> Failure:
    return Failure(code=code, message=f"{code} it is", **more)


@pytest.mark.parametrize("media_type", [JSON, MSGPACK])
@given(instances=st.lists(plain, max_size=4))
def test_each_instance_is_a_payload_in_order(media_type: str, instances: list[Any]) -> None:
    body = BODIES[media_type]({"signature_name": "x", "instances": instances, "more": [1]})
    assert [VALUES[media_type](part) for part in cut(body, media_type)] == instances


def test_an_instance_is_a_slice_of_the_body_not_decoded_further() -> None:
    assert cut(b'{"instances": [ {"a" : 1}, 1e0, "\\u0041"]}') == [
        b'{"a" : 1}',
        b"1e0",
        b'"\\u0041"',
    ]


def test_an_empty_list_of_instances_is_answered_by_an_empty_list() -> None:
    assert cut(b'{"instances":[]}') == []
    assert join() == Value(b'{"predictions":[]}', JSON)


@pytest.mark.parametrize(
    ("body", "path", "message"),
    [
        (b"[]", "$", "expected an object with the field instances, got array"),
        (b"null", "$", "expected an object with the field instances, got null"),
        (b"{}", "$.instances", "expected this field, found none"),
        (b'{"inputs": []}', "$.instances", "expected this field, found none"),
        (b'{"instances": {}}', "$.instances", "expected an array, got object"),
        (b'{"instances": null}', "$.instances", "expected an array, got null"),
        (b'{"instances": 3}', "$.instances", "expected an array, got int"),
    ],
)
def test_a_body_that_is_no_envelope_is_refused_with_its_place(
    body: bytes, path: str, message: str
) -> None:
    for media_type in (JSON, MSGPACK):
        with pytest.raises(SchemaError) as caught:
            cut(BODIES[media_type](json.loads(body)), media_type)
        assert caught.value.message == f"{path}: {message}"
        assert caught.value.details == ({"path": path, "message": message},)


def test_a_key_of_an_envelope_that_is_no_text_is_named_as_such() -> None:
    with pytest.raises(SchemaError, match=r"\$: expected keys of text, got int"):
        cut(msgspec.msgpack.encode({3: 1, "instances": []}), MSGPACK)


@pytest.mark.parametrize("media_type", [JSON, MSGPACK])
def test_a_body_cut_off_at_any_byte_is_malformed(media_type: str) -> None:
    body = BODIES[media_type]({"instances": [{"n": 1, "t": "äö"}, [1.5, None], "x"], "k": {"a": 1}})
    for size in range(len(body)):
        with pytest.raises(DecodeError) as caught:
            cut(body[:size], media_type)
        assert caught.value.code == "malformed"


@pytest.mark.parametrize("media_type", [JSON, MSGPACK])
@given(data=st.data())
def test_a_damaged_body_is_cut_or_refused_and_never_anything_else(
    media_type: str, data: st.DataObject
) -> None:
    body = bytearray(BODIES[media_type]({"instances": [{"n": 1, "t": "ä"}, [1.5, None], "x"]}))
    for place in data.draw(st.lists(st.integers(0, len(body) - 1), min_size=1, max_size=3)):
        body[place] ^= 1 << data.draw(st.integers(0, 7))
    try:
        cut(bytes(body), media_type)
    except HeadraceError as error:
        assert error.code in ("malformed", "invalid", "too_deep")


def test_an_instance_that_is_not_utf_8_is_left_to_its_codec() -> None:
    assert cut(b'{"instances": [1, "\xff"]}') == [b"1", b'"\xff"']


@pytest.mark.parametrize("levels", [1_000, 250_000])
def test_deep_nesting_beside_the_instances_is_too_deep_or_left_alone(levels: int) -> None:
    deep = b"[" * levels + b"]" * levels
    for body in (b'{"instances": [%s]}' % deep, b'{"instances": [], "x": %s}' % deep):
        try:
            assert cut(body) in ([], [deep])
        except TooDeep as error:
            assert error.code == "too_deep"


def test_only_json_and_msgpack_carry_an_envelope_whatever_the_model_reads() -> None:
    class Raw(Model):
        def predict(self, batch: list[bytes]) -> list[bytes]:
            return batch

    card = Replica(Raw()).card
    assert V1_DIALECT.negotiate(card, None, None) == FORMATS
    assert V1_DIALECT.negotiate(card, MSGPACK, None) == Formats(MSGPACK, MSGPACK)
    assert V1_DIALECT.negotiate(card, MSGPACK, JSON) == Formats(MSGPACK, JSON)
    with pytest.raises(UnsupportedMediaType):
        V1_DIALECT.negotiate(card, "application/octet-stream", None)


def test_more_instances_than_a_call_may_have_are_refused_before_they_are_payloads() -> None:
    formats = Formats(JSON, JSON)
    body = b'{"instances": [1, 2, 3]}'
    assert len(V1_DIALECT.cut(Request(body=body, max_items=3), formats)) == 3
    with pytest.raises(PayloadTooLarge, match="expected at most 2 items a call, got 3"):
        V1_DIALECT.cut(Request(body=body, max_items=2), formats)


def test_answers_are_joined_in_order() -> None:
    answer = join(Value(b'{"a":1}', JSON), Value(b"null", JSON), Value(b"3", JSON))
    assert answer == Value(b'{"predictions":[{"a":1},null,3]}', JSON)


def test_answers_are_joined_in_msgpack() -> None:
    parts = [Value(msgspec.msgpack.encode(part), MSGPACK) for part in ({"a": b"\xff"}, 2)]
    answer = V1_DIALECT.join(parts, Formats(MSGPACK, MSGPACK), lenient=False)
    assert isinstance(answer, Value)
    assert msgspec.msgpack.decode(answer.body) == {"predictions": [{"a": b"\xff"}, 2]}


def test_a_failed_item_fails_the_call_as_the_first_of_them_and_details_name_each() -> None:
    outcome = join(
        Value(b"1", JSON),
        failed("item_error", status=409),
        failed("model_error", log="Traceback"),
        failed("queue_full", retry_after_s=2.0),
    )
    assert isinstance(outcome, Failure)
    assert (outcome.code, outcome.status) == ("item_error", 409)
    assert outcome.message == "instances[1]: item_error it is"
    assert outcome.details == (
        {"index": 1, "code": "item_error", "error": "item_error it is"},
        {"index": 2, "code": "model_error", "error": "model_error it is"},
        {"index": 3, "code": "queue_full", "error": "queue_full it is"},
    )
    assert outcome.log == "Traceback"


def test_the_time_to_come_back_of_the_first_failure_is_kept() -> None:
    outcome = join(failed("queue_full", retry_after_s=2.0), Value(b"1", JSON))
    assert isinstance(outcome, Failure) and outcome.retry_after_s == 2.0


def test_a_lenient_caller_gets_the_answers_with_gaps_and_the_errors_beside() -> None:
    outcome = join(Value(b"1", JSON), failed("invalid"), Value(b"3", JSON), lenient=True)
    assert isinstance(outcome, Value)
    assert json.loads(outcome.body) == {
        "predictions": [1, None, 3],
        "errors": {"1": {"error": "invalid it is", "code": "invalid"}},
    }


def test_a_lenient_caller_sees_no_errors_where_there_are_none() -> None:
    assert join(Value(b"1", JSON), lenient=True) == Value(b'{"predictions":[1]}', JSON)
