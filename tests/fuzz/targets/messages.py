"""The message dialect: a message is cut into its elements and nothing else, or refused whole.

As in `v1`, but for what stands in the list's place: nothing at all is an empty message.
"""

from __future__ import annotations

from typing import Any

import msgspec

from headrace.call import Failure, Outcome, Value
from headrace.codecs import JSON
from headrace.dialects import MESSAGES, Formats, Request
from headrace.errors import DecodeError, PayloadTooLarge
from headrace.http.errors import status_of
from tests.unit.wire.driver import CARD
from virtex.core.message import message_of

from .json import TOKENS as JSON_TOKENS
from .v1 import DEEP, MAX_ITEMS, envelope, has_other_keys

MEASURED = ("headrace.dialects.messages", "virtex.core.message")
TOKENS = (b'"data":[', b'"data":null', b'"error":', *JSON_TOKENS)
_FORMATS = Formats(JSON.media_type, JSON.media_type)


def check(data: bytes) -> None:
    if not data:
        return
    flags, body = data[0], data[1:]
    whole = envelope(JSON, body)
    read_as_an_answer(flags, body, whole)
    try:
        payloads = MESSAGES.cut(Request(body=body, max_items=MAX_ITEMS), _FORMATS)
    except PayloadTooLarge:
        assert whole is None or len(whole["data"]) > MAX_ITEMS
        return
    except DecodeError as error:
        is_message = isinstance(whole, dict) and isinstance(whole.get("data"), list | None)
        is_odd = b"\\u" in body or body.count(b'"data"') > 1  # as in v1
        assert not is_message or is_odd, error.message
        refusal = MESSAGES.refuse(Failure.of(error), status_of(Failure.of(error)), CARD)
        answer = JSON.decode(refusal.body, max_depth=DEEP)
        assert (refusal.status, answer["data"]) == (400, []) and answer["error"]
        return
    assert len(payloads) <= MAX_ITEMS
    if whole is None:
        bodies = [payload.body for payload in payloads]
        is_for_the_model = any(envelope(JSON, body) is None for body in bodies)
        assert is_for_the_model or has_other_keys(body, bodies, b"data")
        return
    values = [JSON.decode(payload.body, max_depth=DEEP) for payload in payloads]
    assert repr(values) == repr(whole.get("data") or [])
    outcomes: list[Outcome] = [Value(payload.body, JSON.media_type) for payload in payloads]
    joined = MESSAGES.join(outcomes, _FORMATS, lenient=False)
    assert isinstance(joined, Value)
    answer = message_of(200, joined.body)
    assert (repr(answer.data), answer.error) == (repr(values), None)
    if outcomes:
        outcomes[flags % len(outcomes)] = Failure(code="item_error", message="no")
        assert isinstance(MESSAGES.join(outcomes, _FORMATS, lenient=False), Failure)


def read_as_an_answer(flags: int, body: bytes, whole: Any) -> None:
    """The client's end: any body is a message, and one with an error unless it is a good one."""
    status = 200 if flags & 128 else 503
    message = message_of(status, body, "there")
    is_good = isinstance(whole, dict) and isinstance(whole.get("data"), list | None)
    assert message.error is not None or (status == 200 and is_good)
    assert isinstance(message.data, list)
    assert message_of(200, message.json) == message


def seeds() -> list[bytes]:
    values: list[Any] = [
        {"data": [1, "a", [None, {"b": 1.5}], {}], "error": None},
        {"data": [], "more": {"a": 1}},
        {"data": list(range(13))},
        {"data": None, "error": "e"},
        {"data": {"a": 1}},
        [1],
        {},
    ]
    found = [bytes([127 * n & 255]) + msgspec.json.encode(value) for n, value in enumerate(values)]
    return [*found, b'\x00{"data":[1,2', b'\x00{"data":[{]}', b'\x04{"data" : [ 1 , 2]}']
