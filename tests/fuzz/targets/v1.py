"""The v1 dialect: an envelope is cut into its instances and nothing else, or refused whole.

What is cut stands for the same values, in order, as the envelope read by a codec; what is refused
there as malformed is never cut. The instances, joined again, are the predictions of an echo. With
failures among them, a lenient answer names each at its place, and another one the first.

An input is a byte for the format and the failures, and the body.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any

import msgspec

from headrace.call import Failure, Outcome, Value
from headrace.codecs import JSON, MSGPACK
from headrace.dialects import V1_DIALECT, Formats, Request
from headrace.errors import DecodeError, PayloadTooLarge, RequestError, SchemaError

from .json import TOKENS as JSON_TOKENS
from .msgpack import TOKENS as MSGPACK_TOKENS

MEASURED = ("headrace.dialects.v1", "headrace.dialects.base")
TOKENS = (
    *(
        b'"instances":[',
        b'"instances"',
        b"\x81\xa9instances",
        b"\xa9instances",
        b'"signature_name"',
    ),
    *JSON_TOKENS,
    *MSGPACK_TOKENS,
)
MAX_ITEMS = 12
DEEP = 900
"""Levels that every codec can read."""


def check(data: bytes) -> None:
    if not data:
        return
    flags, body = data[0], data[1:]
    codec = MSGPACK if flags & 1 else JSON
    formats = Formats(codec.media_type, codec.media_type)
    whole = envelope(codec, body)
    try:
        payloads = V1_DIALECT.cut(Request(body=body, max_items=MAX_ITEMS), formats)
    except PayloadTooLarge:
        assert whole is None or len(whole["instances"]) > MAX_ITEMS
        return
    except SchemaError as error:
        assert error.path in ("$", "$.instances")
        # Keys are text, and a key that stands twice is a list both times.
        is_odd = b"\\u" in body or body.count(b"instances") > 1
        is_envelope = isinstance(instances_of(whole), list) and all(
            type(key) is str for key in whole
        )
        assert whole is None or not is_envelope or is_odd
        return
    except RequestError as error:
        assert isinstance(error, DecodeError)
        assert whole is None, error.message
        return
    assert len(payloads) <= MAX_ITEMS
    if whole is None:
        # What lies within an instance the model's side judges, and other keys are let pass.
        bodies = [payload.body for payload in payloads]
        is_for_the_model = any(envelope(codec, body) is None for body in bodies)
        assert is_for_the_model or has_other_keys(body, bodies, b"instances")
        return
    values = [codec.decode(payload.body, max_depth=DEEP) for payload in payloads]
    assert repr(values) == repr(whole["instances"])
    joined(codec, formats, [payload.body for payload in payloads], values, flags)


def joined(
    codec: Any, formats: Formats, bodies: list[bytes], values: list[Any], flags: int
) -> None:
    """Join what came back: each third item failed where the flags say so."""
    fails = {n for n in range(len(bodies)) if flags & 2 and n % 3 == 1}
    outcomes: list[Outcome] = [
        Failure(code="item_error", message="no", status=422)
        if n in fails
        else Value(body, formats.output_type)
        for n, body in enumerate(bodies)
    ]
    answer = V1_DIALECT.join(outcomes, formats, lenient=bool(flags & 4))
    if fails and not flags & 4:
        assert isinstance(answer, Failure)
        assert answer.message == "instances[1]: no"
        assert [each["index"] for each in answer.details] == sorted(fails)
        return
    assert isinstance(answer, Value)
    found = codec.decode(answer.body, max_depth=DEEP)
    expected = [None if n in fails else value for n, value in enumerate(values)]
    assert repr(found.pop("predictions")) == repr(expected)
    assert found.keys() == ({"errors"} if fails else set())
    assert not fails or found["errors"].keys() == set(map(str, fails))


def envelope(codec: Any, body: bytes) -> Any:
    """What the codec reads; None if it reads nothing."""
    try:
        return codec.decode(body, max_depth=DEEP)
    except DecodeError:
        return None


def has_other_keys(body: bytes, bodies: Iterable[bytes], key: bytes) -> bool:
    """Whether there is more in an envelope than the one list under its key."""
    if body[:1] != b"{":
        return body[:1] != b"\x81"  # a map of one pair
    rest, at = bytearray(), 0
    for each in bodies:
        begin = body.index(each, at)
        rest += body[at:begin]
        at = begin + len(each)
    rest += body[at:]
    return re.sub(rb"[\s,]", b"", bytes(rest)) != b'{"%s":[]}' % key


def instances_of(whole: Any) -> Any:
    return whole.get("instances") if isinstance(whole, dict) else None


def seeds() -> list[bytes]:
    values: list[Any] = [
        {"instances": [1, "a", [None, {"b": 1.5}], {}]},
        {"signature_name": "s", "instances": []},
        {"instances": list(range(13))},
        {"instances": None},
        {"instances": {"a": 1}},
        [1],
        {},
    ]
    found = [bytes([2 * n]) + msgspec.json.encode(value) for n, value in enumerate(values)]
    found += [bytes([2 * n + 1]) + msgspec.msgpack.encode(value) for n, value in enumerate(values)]
    return [
        *found,
        b'\x00{"instances":[1,2',
        b'\x00{"instances":[{]}',
        b'\x04{"instances" : [ 1 , 2]}',
    ]
