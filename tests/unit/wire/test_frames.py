from __future__ import annotations

import ctypes
import random
import struct

import pytest

from headrace.errors import ProtocolError
from headrace.wire import Frame, FrameLimits, FrameReader, Kind, encode_frame, payload_offsets

from .driver import feed, joined

LIMITS = FrameLimits(1000, 128 * 1024)
BIG = FrameLimits(2**20, 2**22)

Plain = tuple[int, bytes, bytes]


def plain(frame: Frame) -> Plain:
    return frame.kind, bytes(frame.header), bytes(frame.payload)


def address(view: memoryview) -> int:
    return ctypes.addressof(ctypes.c_char.from_buffer(view))


def take(data: bytes, sizes: list[int], limits: FrameLimits = LIMITS) -> list[Plain]:
    reader = FrameReader(limits)
    found = []
    for size in sizes:
        while size:
            buffer = reader.get_buffer()
            part = min(size, len(buffer))
            buffer[:part], data = data[:part], data[part:]
            found += [plain(frame) for frame in reader.received(part)]
            size -= part
    return found


FRAMES = [
    encode_frame(Kind.READY, b""),
    encode_frame(Kind.STARTED, b"x" * 40),
    encode_frame(Kind.RUN, b"y" * 41, [b"abc", b"", b"z" * 64]),
]
STREAM = b"".join(map(joined, FRAMES))
EXPECTED = [
    (Kind.READY, b"", b""),
    (Kind.STARTED, b"x" * 40, b""),
    (Kind.RUN, b"y" * 41, b"abc" + bytes(61) + b"z" * 64),
]


def test_a_frame_is_a_multiple_of_64_bytes_with_its_parts_at_such() -> None:
    data = joined(FRAMES[2])
    assert len(data) == 128 + 64 + 64
    assert data[24:65] == b"y" * 41
    assert data[128:131] == b"abc"
    assert data[192:] == b"z" * 64
    assert payload_offsets([3, 0, 64]) == [0, 64, 64, 128]


def test_frames_are_found_in_one_read_of_all() -> None:
    assert take(STREAM, [len(STREAM)]) == EXPECTED


def test_frames_are_found_byte_by_byte() -> None:
    assert take(STREAM, [1] * len(STREAM)) == EXPECTED


def test_frames_are_found_however_the_stream_is_split_in_two() -> None:
    for at in range(1, len(STREAM)):
        assert take(STREAM, [at, len(STREAM) - at]) == EXPECTED


def test_the_begin_of_another_frame_behind_one_waits_for_the_rest() -> None:
    for trailing in range(len(STREAM)):
        assert take(STREAM + STREAM[:trailing], [len(STREAM) + trailing])[:3] == EXPECTED


def test_small_frames_are_one_object() -> None:
    (chunk,) = encode_frame(Kind.RUN, b"h", [b"a"] * 1000)
    assert type(chunk) is bytes
    assert len(encode_frame(Kind.RUN, b"h", [bytes(64 * 1024)] * 3)) == 1


def test_a_large_body_is_a_chunk_of_its_own_and_not_copied() -> None:
    large = bytes(64 * 1024 + 1)
    chunks = encode_frame(Kind.RUN, b"h", [b"a", large, b"b", large])
    assert [chunk is large for chunk in chunks] == [False, True, False, True, False]
    assert len(joined(chunks)) == 64 + 64 + 65 * 1024 - 960 + 64 + 65 * 1024 - 960


def test_a_large_body_without_padding_is_the_last_chunk() -> None:
    large = bytes(128 * 1024)
    chunks = encode_frame(Kind.RUN, b"h", [large])
    assert [len(chunk) for chunk in chunks] == [64, 128 * 1024]


@pytest.mark.parametrize("size", [1, 100, 60_000, 300_000, 2_000_000])
def test_payloads_are_aligned_in_memory(size: int) -> None:
    reader = FrameReader(BIG)
    stream = joined(encode_frame(Kind.RUN, b"h" * 5, [bytes(size)])) * 3
    rng = random.Random(size)
    while stream:
        buffer = reader.get_buffer()
        part = min(len(buffer), len(stream), rng.choice([1, 63, 64, 1000, 100_000]))
        buffer[:part], stream = stream[:part], stream[part:]
        for frame in reader.received(part):
            assert address(frame.payload) % 64 == 0
            assert len(frame.payload) == payload_offsets([size])[-1]


def test_a_partial_frame_survives_a_move_over_itself() -> None:
    body = random.Random(1).randbytes(200_000)
    first, second = encode_frame(Kind.READY, b""), encode_frame(Kind.RUN, b"h", [body])
    stream = joined(first) + joined(second)
    (_, (_, _, payload)) = take(stream, [150_000, len(stream) - 150_000], BIG)
    assert payload[: len(body)] == body


def test_a_large_frame_keeps_its_buffer_and_small_ones_share_theirs() -> None:
    reader = FrameReader(BIG)
    (large,) = feed(reader, joined(encode_frame(Kind.RUN, b"h", [b"\x01" * 1_000_000])))
    feed(reader, STREAM)
    assert bytes(large.payload[:1_000_000]) == b"\x01" * 1_000_000


def test_a_view_of_a_small_frame_ends_with_the_next_read() -> None:
    reader = FrameReader(LIMITS)
    (old,) = feed(reader, joined(encode_frame(Kind.STARTED, b"old")))
    feed(reader, joined(encode_frame(Kind.STARTED, b"new")))
    assert bytes(old.header) == b"new"


def prefix(
    magic: bytes = b"hdrc",
    version: int = 1,
    kind: int = 6,
    reserved: int = 0,
    header: int = 0,
    payload: int = 0,
) -> bytes:
    return struct.pack("<4sBBHQQ", magic, version, kind, reserved, header, payload)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (prefix(magic=b"GET "), "expected a frame, got GET "),
        (prefix(magic=b"\x16\x03\x01\x02"), r"expected a frame, got \x16\x03\x01\x02"),
        (prefix(version=2), "expected version 1 of the worker protocol, got 2"),
        (prefix(reserved=256), "expected 0 in the reserved bytes, got 256"),
        (prefix(kind=0), "expected another kind of message, got 0"),
        (prefix(kind=14), "expected another kind of message, got 14"),
        (prefix(header=1001), "expected a header of at most 1000 bytes, got 1001"),
        (prefix(header=2**31), "expected a header of at most 1000 bytes, got 2147483648"),
        (prefix(header=2**64 - 1), f"expected a header of at most 1000 bytes, got {2**64 - 1}"),
        (prefix(payload=131136), "expected a payload of at most 131072 bytes, got 131136"),
        (prefix(payload=2**31), "expected a payload of at most 131072 bytes, got 2147483648"),
        (prefix(payload=2**64 - 1), f"expected a payload of at most 131072 bytes, got {2**64 - 1}"),
        (prefix(payload=65), "expected a payload of whole 64 bytes, got 65"),
    ],
)
def test_a_wrong_prefix_is_refused_for_good(data: bytes, message: str) -> None:
    reader = FrameReader(LIMITS)
    with pytest.raises(ProtocolError) as caught:
        feed(reader, data)
    assert (caught.value.message, caught.value.side) == (message, "remote")
    with pytest.raises(ProtocolError):
        reader.get_buffer()
    with pytest.raises(ProtocolError):
        reader.received(0)


def test_nothing_grows_for_a_wrong_prefix() -> None:
    reader = FrameReader(LIMITS)
    size = len(reader.get_buffer())
    with pytest.raises(ProtocolError):
        feed(reader, prefix(payload=2**40))
    assert size <= LIMITS.max_frame_bytes


def test_the_limits_themselves_are_allowed() -> None:
    data = joined(encode_frame(Kind.RUN, bytes(1000), [bytes(64 * 1024)] * 2))
    assert len(take(data, [len(data)])) == 1
    assert len(data) == LIMITS.max_frame_bytes


def test_new_limits_hold_for_the_next_frame() -> None:
    reader = FrameReader(FrameLimits(32, 0, (Kind.READY,)))
    assert len(reader.get_buffer()) == 64
    feed(reader, joined(FRAMES[0]))
    reader.limits = LIMITS
    assert reader.limits is LIMITS
    assert [plain(frame) for frame in feed(reader, STREAM)] == EXPECTED


def test_the_buffer_is_never_empty() -> None:
    reader = FrameReader(LIMITS)
    for data in STREAM:
        buffer = reader.get_buffer()
        assert len(buffer) and len(reader.get_buffer()) == len(buffer)
        buffer[0] = data
        reader.received(1)
