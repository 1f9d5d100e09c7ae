from __future__ import annotations

import hmac
import math
import re
from pathlib import Path
from typing import Any

import msgspec
import pytest

from headrace.call import Failure, Payload, Value
from headrace.errors import OutputError, ProtocolError
from headrace.wire import (
    Bye,
    Cards,
    Challenge,
    End,
    FrameLimits,
    FrameReader,
    Hello,
    Kind,
    Message,
    Parts,
    Run,
    Setup,
    Stats,
    Welcome,
    decode,
    encode,
    encode_frame,
    encode_parts,
)
from headrace.wire.rows import MAX_RETRY_S, MAX_TYPE_CHARS

from .driver import (
    CARD,
    EXAMPLES,
    FAILURE,
    FRONT_NONCE,
    PARTS,
    RUN,
    SECRET,
    WORKER_NONCE,
    Decoding,
    feed,
    frame,
    frame_of,
    joined,
)

GOLDEN = Path(__file__).parent / "golden"
PAGE = Path(__file__).parents[3] / "docs" / "wire.md"

PROOF = hmac.new(
    SECRET, b"headrace worker 1" + b"\1" + bytes(4) + FRONT_NONCE + WORKER_NONCE, "sha256"
).digest()
BY_HAND: dict[str, Message] = {
    **{Kind(number).name.lower(): each for number, each in enumerate(EXAMPLES, 1)},
    "hello": Hello(0, WORKER_NONCE, PROOF),
    "parts": Parts(7, (*PARTS.parts, (5, None)), End.ENDED),
}
NAMES = sorted(path.stem for path in GOLDEN.glob("*.hex"))


def bytes_of(text: str) -> bytes:
    """The bytes of a golden file: hexadecimal, `00*8` for repeated ones, comments after #."""
    plain = re.sub(r"#.*", "", text)
    return bytes.fromhex(re.sub(r"(..)\*(\d+)", lambda match: match[1] * int(match[2]), plain))


@pytest.mark.parametrize("name", NAMES)
def test_messages_are_the_bytes_of_the_page(name: str) -> None:
    golden = (GOLDEN / f"{name}.hex").read_text()
    assert golden in PAGE.read_text(encoding="utf-8")
    data = bytes_of(golden)
    assert joined(encode(BY_HAND[name])).hex(" ") == data.hex(" ")
    assert decode(frame_of(data)) == BY_HAND[name]


@pytest.mark.parametrize("message", EXAMPLES, ids=lambda message: type(message).__name__)
def test_a_message_comes_back_as_it_was(message: Message) -> None:
    (chunk,) = encode(message)
    assert len(chunk) % 64 == 0
    assert decode(frame(message)) == message


def test_an_infinite_setting_comes_back() -> None:
    setup = Setup(batching={"max_batch_cost": math.inf})
    assert decode(frame(Welcome(bytes(32), setup))) == Welcome(bytes(32), setup)


def test_a_payload_leaves_its_key_and_cost_behind() -> None:
    payload = Payload(
        body=b"1", input_type="a/b", output_type="c/d", count=3, key=object(), cost=9.0
    )
    plain = Payload(body=b"1", input_type="a/b", output_type="c/d", count=3)
    assert decode(frame(Run(1, ((4, payload),)))) == Run(1, ((4, plain),))


def test_bodies_outlive_the_buffer() -> None:
    reader = FrameReader(FrameLimits())
    (received,) = feed(reader, joined(encode(RUN)))
    run = decode(received)
    feed(reader, bytes_of((GOLDEN / "parts.hex").read_text()) * 3)
    assert run == RUN


def test_large_bodies_come_back() -> None:
    bodies = [b"a" * 100_000, b"", b"b" * 300_000, b"c"]
    parts = Parts(1, tuple((i, Value(each, "a/b")) for i, each in enumerate(bodies)), more=(0, 2))
    assert decode(frame(parts)) == parts


class Odd:
    """What no format knows."""


@pytest.mark.parametrize(
    "details", [({"odd": Odd()},), ({"long": "a" * 16_384},), ({"bad": "\ud800"},), "ab", Odd()]
)
def test_details_that_cannot_be_sent_are_dropped(details: Any) -> None:
    failure = Failure(code="invalid", message="m", details=details)
    sent = Parts(1, ((0, failure),))
    plain = Failure(code="invalid", message="m")
    assert decode(frame(sent)) == Parts(1, ((0, plain),))


def test_details_come_back() -> None:
    failure = Failure(code="invalid", message="m", details=({"path": "$", "n": [1, None]},))
    assert decode(frame(Parts(1, ((0, failure),)))) == Parts(1, ((0, failure),))


def test_a_failure_is_made_sendable() -> None:
    failure: Any = Failure(
        code="c", message="\ud800", status=200, retry_after_s=math.nan, log="l" * 20_000
    )
    settled = Failure(code="model_error", message="\\ud800", log="l" * 16_384)
    assert decode(frame(Parts(1, ((0, failure),)))) == Parts(1, ((0, settled),))


@pytest.mark.parametrize("retry_after_s", [None, 0.0, 2.5, MAX_RETRY_S])
def test_a_retry_comes_back(retry_after_s: float | None) -> None:
    failure = Failure(code="invalid", message="m", retry_after_s=retry_after_s)
    assert decode(frame(Parts(1, ((0, failure),)))) == Parts(1, ((0, failure),))


def test_who_may_never_try_again_may_in_a_day() -> None:
    assert read(retry_after_s=math.inf).retry_after_s == MAX_RETRY_S


def read(**fields: Any) -> Any:
    """What comes of a failure."""
    sent = Failure(**({"code": "invalid", "message": "m"} | fields))
    received = decode(frame(Parts(1, ((0, sent),))))
    assert isinstance(received, Parts)
    return received.parts[0][1]


@pytest.mark.parametrize(
    ("code", "status", "as_code"),
    [
        ("invalid", None, "invalid"),
        ("internal_error", None, "internal_error"),
        ("x" * 64, None, "model_error"),
        ("x" * 64, 418, "item_error"),
        ("a\r\nb", None, "model_error"),
        ("", None, "model_error"),
    ],
)
def test_a_code_is_one_of_the_errors(code: str, status: int | None, as_code: str) -> None:
    got = read(code=code, status=status)
    assert (got.code, got.status) == (as_code, status)


@pytest.mark.parametrize(
    "media_type", ["a/b\r\nset-cookie: c", "\u20ac/b", "a/\x7f", "a\0", "a" * (MAX_TYPE_CHARS + 1)]
)
def test_a_media_type_that_is_no_header_is_refused(media_type: str) -> None:
    lie = Parts(1, ((0, Value(b"1", "a/b")), (1, Value(b"1", media_type))))
    with pytest.raises(ProtocolError, match="printable ASCII"):
        decode(frame(lie))
    fits = Parts(1, ((0, Value(b"1", "a/b; c=d")),))
    assert decode(frame(fits)) == fits


def test_a_bye_is_made_sendable() -> None:
    assert decode(frame(Bye("c", "\udc80" + "r" * 20_000))) == Bye("c", "\\udc80" + "r" * 16_383)


@pytest.mark.parametrize(
    "message",
    [
        Hello(2**32, bytes(32), bytes(32)),
        Run(2**64, ()),
        Cards((msgspec.structs.replace(CARD, description="\ud800"),), 0),
        Cards((msgspec.structs.replace(CARD, request_schema={"a": Odd()}),), 0),
    ],
    ids=["capabilities", "batch", "text", "schema"],
)
def test_what_cannot_be_written_is_the_senders_fault(message: Message) -> None:
    with pytest.raises(ProtocolError, match="cannot be written") as caught:
        encode(message)
    assert caught.value.side == "local"


def test_a_message_over_the_limits_is_not_sent() -> None:
    with pytest.raises(ProtocolError, match="Bye: expected a header of at most 4 bytes"):
        encode(Bye("code", ""), FrameLimits(4, 0))
    with pytest.raises(ProtocolError, match="Run: expected at most 64 bytes of bodies"):
        encode(RUN, FrameLimits(1000, 64))


FAILED = (0, "c", "m", b"[]", None, None, None)


def run_frame(**changes: Any) -> tuple[int, Any]:
    header = {
        "batch": 1,
        "types": ["a/b"],
        "indexes": 1,
        "input_types": 0,
        "output_types": 0,
        "counts": 1,
        "left_s": None,
        "sizes": [3],
        "begin": None,
        "taken": 0,
    }
    return 6, [*(header | changes).values()]


def parts_frame(**changes: Any) -> tuple[int, Any]:
    header = {
        "batch": 1,
        "end": 0,
        "types": ["a/b"],
        "indexes": 1,
        "media_types": 0,
        "more": [],
        "sizes": [3],
        "begin": None,
        "failures": [],
        "skipped": [],
    }
    return 8, [*(header | changes).values()]


def failed(place: int, value: Any) -> tuple[int, Any]:
    return parts_frame(failures=[(*FAILED[:place], value, *FAILED[place + 1 :])])


@pytest.mark.parametrize(
    ("case", "reason"),
    [
        (run_frame(sizes=[65]), "expected bodies of 64 bytes with their padding, got 128"),
        (run_frame(sizes=[2**64 - 1]), "expected bodies of 64 bytes"),
        (run_frame(sizes=[-1]), ">= 0"),
        (run_frame(sizes=[]), "expected bodies of 64 bytes with their padding, got 0"),
        (run_frame(sizes=[3, 3]), "expected bodies of 64 bytes with their padding, got 128"),
        (run_frame(sizes=3), "Expected `array`"),
        (run_frame(begin=0), "segments are not agreed on"),
        (parts_frame(begin=0), "segments are not agreed on"),
        (run_frame(begin=-64), ">= 0"),
        (run_frame(taken=-1), ">= 0"),
        (parts_frame(sizes=[]), "expected bodies of 64 bytes with their padding, got 0"),
        (run_frame(indexes=2), "expected a column of 1 elements, got 2"),
        (run_frame(indexes=[0, 1]), "expected a column of 1 elements, got 2"),
        (run_frame(indexes=2**63), "expected a column of 1 elements"),
        (run_frame(indexes=[-1]), ">= 0"),
        (run_frame(indexes=None), "Expected `int | array`"),
        (parts_frame(indexes=0), "expected a column of 1 elements, got 0"),
        (run_frame(input_types=1), "list index out of range"),
        (run_frame(input_types=[1]), "list index out of range"),
        (run_frame(input_types=[]), "expected a column of 1 elements, got 0"),
        (run_frame(output_types=-1), ">= 0"),
        (run_frame(output_types=[0, 0]), "expected a column of 1 elements, got 2"),
        (run_frame(counts=[1, 1]), "expected a column of 1 elements, got 2"),
        (parts_frame(media_types=1), "list index out of range"),
        (parts_frame(media_types=[1]), "list index out of range"),
        (parts_frame(media_types=[0, 0]), "expected a column of 1 elements, got 2"),
        (parts_frame(more=[1]), "expected more of one of 1 values"),
        (run_frame(left_s=[math.nan]), ">= 0"),
        (run_frame(left_s=[-1.0]), ">= 0"),
        (run_frame(left_s=[]), "expected a column of 1 elements, got 0"),
        ((6, run_frame()[1][:-1]), "length 10"),
        (run_frame(batch="a"), "Expected `int`"),
        (run_frame(indexes=[0] * 65537), "length <= 65536"),
        (run_frame(sizes=[0] * 65537), "length <= 65536"),
        (parts_frame(end=3), "Invalid enum value 3"),
        (failed(3, b"[1]"), "Expected `object`"),
        (failed(3, b"[{"), "truncated"),
        (failed(3, b"[" + b'{"a":' * 10_000), "too deeply"),
        (failed(4, 200), ">= 400"),
        (failed(5, -1), ">= 0"),
        (failed(5, math.inf), "<= 86400.0"),
        (failed(5, math.nan), ">= 0"),
        ((3, None), "Expected `object`"),
        ((4, (1, ())), "expected no payload"),
        ((5, None), "expected no payload"),
    ],
)
def test_a_header_that_lies_is_refused(case: tuple[int, Any], reason: str) -> None:
    kind, header = case
    data = joined(encode_frame(kind, msgspec.msgpack.encode(header), [b"abc"]))
    if kind == 3:
        data = joined(encode_frame(kind, bytes(32) + msgspec.msgpack.encode(header)))
    with pytest.raises(ProtocolError, match=re.escape(reason)) as caught:
        decode(frame_of(data))
    assert caught.value.side == "remote"


@pytest.mark.parametrize(
    ("kind", "header"),
    [
        (1, bytes(31)),
        (2, bytes(67)),
        (2, bytes(69)),
        (4, msgspec.msgpack.encode((0, ()))),
        (5, b"\xc0"),
        (7, msgspec.msgpack.encode((1, 2))),
        (9, msgspec.msgpack.encode((1,))),
        (11, b"\xdd\xff\xff\xff\xff"),
        (13, b"\x92\xa1\xff\xa0"),
        (13, b"\x92\xa1a\xa0\xa0"),
    ],
)
def test_a_header_of_another_shape_is_refused(kind: int, header: bytes) -> None:
    with pytest.raises(ProtocolError, match=f"kind {Kind(kind).name.lower()}"):
        decode(frame_of(joined(encode_frame(kind, header))))


def test_parts_that_no_frame_holds_go_out_in_several() -> None:
    limits = FrameLimits(max_header_bytes=400, max_payload_bytes=256)
    values = tuple((i, Value(b"v" * (10 * i), "a/b")) for i in range(20))
    failures = tuple((i, FAILURE) for i in range(20, 40))
    message = Parts(1, values + failures, End.ENDED)
    sent, chunks = encode_parts(message, limits)
    received = feed(Decoding(limits), joined(chunks))
    assert sent == message
    assert len(received) > 4
    assert [each.end for each in received] == [End.OPEN] * (len(received) - 1) + [End.ENDED]
    assert tuple(part for each in received for part in each.parts) == message.parts


def test_a_value_that_no_frame_holds_becomes_a_failure() -> None:
    message = Parts(1, ((0, Value(bytes(65), "a/b")), (1, Value(b"", "a/b"))), more=(0, 1))
    sent, chunks = encode_parts(message, FrameLimits(1000, 64))
    received = feed(Decoding(FrameLimits()), joined(chunks))
    outcome = sent.parts[0][1]
    assert isinstance(outcome, Failure)
    assert outcome.code == OutputError.code
    assert "at most 64 bytes" in outcome.message
    assert sent.more == (1,)
    assert sent.parts[1] == message.parts[1]
    assert received == [Parts(1, sent.parts[:1]), Parts(1, sent.parts[1:], more=(0,))]


@pytest.mark.parametrize("parts", [(), ((0, FAILURE),)])
def test_parts_of_which_not_one_can_be_sent_are_the_senders_fault(parts: Any) -> None:
    with pytest.raises(ProtocolError, match="at most 3 bytes"):
        encode_parts(Parts(1, parts), FrameLimits(3, 64))


def test_every_class_has_its_kind() -> None:
    assert [frame(message).kind for message in EXAMPLES] == list(Kind)
    assert isinstance(EXAMPLES[0], Challenge) and isinstance(EXAMPLES[10], Stats)
