"""Messages to frames and back."""

from __future__ import annotations

import struct
from collections.abc import Callable
from typing import Annotated, Any, Final, NamedTuple

import msgspec
from msgspec import Meta

from ..call import Failure, Outcome, Value
from ..errors import OutputError, ProtocolError
from .cards import decode_cards, encode_cards
from .frames import Chunk, Form, Frame, FrameLimits, Kind, gather
from .messages import (
    Ask,
    Bye,
    Cancel,
    Cards,
    Challenge,
    Drain,
    End,
    Family,
    Hello,
    Message,
    Parts,
    Ready,
    Run,
    Setup,
    Started,
    Stats,
    Welcome,
)
from .rows import decode_outcomes, decode_run, encode_outcomes, encode_run, sendable
from .segments import Inbox, Outbox

NONCE_BYTES: Final = 32
PROOF_BYTES: Final = 32
HELLO: Final = struct.Struct(f"<I{NONCE_BYTES}s{PROOF_BYTES}s")

NO_LIMITS: Final = FrameLimits(2**63, 2**63)

_pack = msgspec.msgpack.Encoder().encode
_setup = msgspec.msgpack.Decoder(Setup).decode
_started = msgspec.msgpack.Decoder(Started).decode
_cancel = msgspec.msgpack.Decoder(Cancel).decode
_families = msgspec.msgpack.Decoder(Annotated[tuple[Family, ...], Meta(max_length=65536)]).decode
_bye = msgspec.msgpack.Decoder(Bye).decode


class Codec(NamedTuple):
    """How one kind of message is written and read."""

    kind: int
    encode: Callable[[Any, Outbox | None], Form]
    decode: Callable[[memoryview, memoryview, Inbox | None], Message]


def encode(
    message: Message, limits: FrameLimits = NO_LIMITS, outbox: Outbox | None = None
) -> list[Chunk]:
    """The chunks of a message's frame.

    Args:
        message: What to say.
        limits: What the frame may be.
        outbox: Takes large bodies; None where no segments are agreed on.

    Raises:
        ProtocolError: It cannot be written, or its frame would be over the limits.
    """
    kind, form = _formed(message, outbox)
    breach = _breach(form, limits)
    if breach is not None:
        raise ProtocolError(f"{type(message).__name__}: {breach}", side="local")
    return gather(kind, form)


def encode_parts(
    message: Parts, limits: FrameLimits, outbox: Outbox | None = None
) -> tuple[Parts, list[Chunk]]:
    """The chunks of as many frames as the parts need, and the parts as they are sent.

    A value that no frame can hold becomes a failure. Only parts that one frame holds have bodies
    in the segment.

    Raises:
        ProtocolError: They cannot be written, or a failure alone is over the limit of headers.
    """
    kind, form = _formed(message, outbox)
    breach = _breach(form, limits)
    if breach is None:
        return message, gather(kind, form)
    if outbox is not None:
        outbox.drop()
    batch, parts, end = message.batch, message.parts, message.end
    if len(parts) <= 1:
        without = ((index, _without_value(outcome, breach)) for index, outcome in parts)
        message = Parts(batch, tuple(without), end)
        return message, encode(message, limits)
    middle = len(parts) // 2
    before = tuple(place for place in message.more if place < middle)
    after = tuple(place - middle for place in message.more if place >= middle)
    head, chunks = encode_parts(Parts(batch, parts[:middle], End.OPEN, before), limits)
    tail, rest = encode_parts(Parts(batch, parts[middle:], end, after), limits)
    still = (*head.more, *(middle + place for place in tail.more))
    return Parts(batch, (*head.parts, *tail.parts), end, still), chunks + rest


def decode(frame: Frame, inbox: Inbox | None = None) -> Message:
    """The message in a frame; nothing of it is a view.

    Args:
        frame: As it was received.
        inbox: Has large bodies; None where no segments are agreed on.

    Raises:
        ProtocolError: It holds no such message.
    """
    codec = _BY_KIND[frame.kind]
    try:
        return codec.decode(frame.header, frame.payload, inbox)
    except ProtocolError:
        raise
    except RecursionError:
        reason = "it nests too deeply"
    except (msgspec.DecodeError, struct.error, UnicodeDecodeError, LookupError) as error:
        reason = str(error)
    name = Kind(frame.kind).name.lower()
    raise ProtocolError(f"a malformed message of kind {name}: {reason}", side="remote")


def _formed(message: Message, outbox: Outbox | None) -> tuple[int, Form]:
    codec = _CODECS[type(message)]
    try:
        return codec.kind, codec.encode(message, outbox)
    except (TypeError, ValueError, OverflowError, RecursionError, struct.error) as error:
        name = type(message).__name__
        raise ProtocolError(f"{name}: it cannot be written: {error}", side="local") from None


def _breach(form: Form, limits: FrameLimits) -> str | None:
    """Which limit a frame would break."""
    if len(form.header) > limits.max_header_bytes:
        return f"expected a header of at most {limits.max_header_bytes} bytes"
    if form.payload_bytes > limits.max_payload_bytes:
        return f"expected at most {limits.max_payload_bytes} bytes of bodies"
    return None


def _without_value(outcome: Outcome | None, breach: str) -> Outcome | None:
    if type(outcome) is not Value:
        return outcome
    return Failure.of(OutputError(f"the output is too large to be sent: {breach}"))


def _plain(
    kind: Kind, encode: Callable[[Any], bytes], decode: Callable[[memoryview], Any]
) -> Codec:
    """A message without bodies."""

    def read(header: memoryview, payload: memoryview, _: Inbox | None) -> Message:
        if payload:
            raise ProtocolError("expected no payload", side="remote")
        message: Message = decode(header)
        return message

    return Codec(kind, lambda message, _: Form(encode(message), (), 0), read)


def _empty(kind: Kind, message: Message) -> Codec:
    """A message that says nothing but its kind."""

    def read(header: memoryview) -> Message:
        if header:
            raise msgspec.ValidationError("Expected no header")
        return message

    return _plain(kind, lambda _: b"", read)


def _nonce(header: memoryview) -> Challenge:
    return Challenge(*struct.unpack(f"{NONCE_BYTES}s", header))


def _hello(header: memoryview) -> Hello:
    return Hello(*HELLO.unpack(header))


def _welcome(header: memoryview) -> Welcome:
    return Welcome(bytes(header[:PROOF_BYTES]), _setup(header[PROOF_BYTES:]))


def _stats(header: memoryview) -> Stats:
    return Stats(_families(header))


_CODECS: Final[dict[type[Message], Codec]] = {
    Challenge: _plain(Kind.CHALLENGE, lambda m: struct.pack("32s", m.nonce), _nonce),
    Hello: _plain(Kind.HELLO, lambda m: HELLO.pack(m.capabilities, m.nonce, m.proof), _hello),
    Welcome: _plain(Kind.WELCOME, lambda m: m.proof + _pack(m.setup), _welcome),
    Cards: _plain(Kind.CARDS, encode_cards, decode_cards),
    Ready: _empty(Kind.READY, Ready()),
    Run: Codec(Kind.RUN, encode_run, decode_run),
    Started: _plain(Kind.STARTED, _pack, _started),
    Parts: Codec(Kind.PARTS, encode_outcomes, decode_outcomes),
    Cancel: _plain(Kind.CANCEL, _pack, _cancel),
    Ask: _empty(Kind.ASK, Ask()),
    Stats: _plain(Kind.STATS, lambda m: _pack(m.families), _stats),
    Drain: _empty(Kind.DRAIN, Drain()),
    Bye: _plain(Kind.BYE, lambda m: _pack((sendable(m.code), sendable(m.reason))), _bye),
}
KIND_OF: Final = {cls: codec.kind for cls, codec in _CODECS.items()}
_BY_KIND: Final = {codec.kind: codec for codec in _CODECS.values()}
