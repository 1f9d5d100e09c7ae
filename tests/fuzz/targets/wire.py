"""The worker protocol: any bytes are met by either end with a ProtocolError at worst.

And with the same however they are cut.

An input is one byte for the end, its state and the form of the rest, one for the size of reads, and
what comes over the wire: as it is, or made one frame whose lengths are right, so that the search
also gets past the prefix.
"""

from __future__ import annotations

from headrace.call import Payload, Value
from headrace.errors import ProtocolError
from headrace.wire import End, Message, Parts, Run, encode, encode_frame
from tests.unit.wire import driver
from tests.unit.wire.test_arbitrary import LIMITS, SEGMENT_BYTES, Ends

MEASURED = (
    *("headrace.wire.frames", "headrace.wire.coding", "headrace.wire.rows"),
    *("headrace.wire.connection", "headrace.wire.ledger", "headrace.wire.segments"),
)
TOKENS = (b"hdrc\x01",)
STATES = ("unproven", "challenged", "proven", "ready", "shared")
FRAMED = 16


def _framed(data: bytes) -> bytes:
    """A frame from a byte for its kind, two for the length of its header, header and payload."""
    size = int.from_bytes(data[1:3], "little")
    return b"".join(encode_frame(data[0], data[3 : 3 + size], [data[3 + size :]]))


def _outcome(data: bytes, state: str, side: int, size: int) -> list[Message] | None:
    """All messages that the bytes are, or None if they are refused."""
    ends = Ends(state)
    end = (ends.front, ends.worker)[side]
    found: list[Message] = []
    try:
        while data:
            buffer = end.get_buffer()
            assert 0 < len(buffer) <= LIMITS.max_frame_bytes
            taken = min(len(buffer), len(data), size)
            buffer[:taken] = data[:taken]
            data = data[taken:]
            found += end.received(taken)
    except ProtocolError as error:
        assert error.side == "remote"
        return None
    return found


def check(data: bytes) -> None:
    if len(data) < 3:
        return
    state, side, size = STATES[data[0] % 8 % 5], data[0] // 8 % 2, data[1] or 1
    stream = _framed(data[2:]) if data[0] & FRAMED else data[2:]
    whole = _outcome(stream, state, side, 1 << 20)
    assert repr(whole) == repr(_outcome(stream, state, side, size))
    if whole and data[0] & FRAMED and state != "shared":
        [message] = whole
        _check_bodies(message, data[2:])


def _check_bodies(message: Message, framed: bytes) -> None:
    """The bodies of a message are the payload of its frame, each padded, and nothing else."""
    payload = framed[3 + int.from_bytes(framed[1:3], "little") :]
    bodies = []
    if isinstance(message, Run):
        bodies = [each.body for _, each in message.items]
    elif isinstance(message, Parts):
        bodies = [each.body for _, each in message.parts if isinstance(each, Value)]
    assert sum(map(_padded, bodies)) in (0, _padded(payload))
    assert all(body in payload + bytes(64) for body in bodies)


def _padded(data: bytes) -> int:
    return (len(data) + 63) & -64


def seeds() -> list[bytes]:
    """Every message, alone and behind others, for each end and state, and in both forms."""
    opening, child = driver.joined(driver.front().opening()), driver.worker()
    driver.feed(child, opening)
    frames = [
        driver.joined(child.take_outgoing()),
        *map(driver.joined, map(encode, driver.EXAMPLES)),
        *_shared(),
    ]
    streams = [*frames, b"".join(frames[5:7]), frames[8] + frames[9], b"".join(frames[9:])]
    loose = [
        bytes([frame.kind]) + len(frame.header).to_bytes(2, "little") + frame.header + frame.payload
        for frame in map(driver.frame, driver.EXAMPLES)
    ]
    heads = range(FRAMED)
    plain = [bytes([head, 64]) + stream for head in heads for stream in streams]
    return plain + [bytes([head | FRAMED, 64]) + each for head in heads for each in loose]


def _shared() -> list[bytes]:
    """A batch and its answer whose large bodies are in memory."""
    pair = driver.ready_pair(LIMITS, SEGMENT_BYTES)
    body = bytes(SEGMENT_BYTES // 2 + 1)
    items = ((0, Payload(body=body, input_type="a/b", output_type="a/b")),)
    run = driver.joined(pair.front.send(Run(8, items)))
    driver.feed(pair.worker, run)
    answer = pair.worker.send(Parts(8, ((0, Value(body, "a/b")),), End.ENDED))
    return [run, driver.joined(answer)]
