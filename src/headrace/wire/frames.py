"""Frames: how one message stands in the stream of bytes. docs/wire.md has the layout."""

from __future__ import annotations

import enum
import mmap
import struct
from collections.abc import Container, Iterator, Sequence
from itertools import accumulate
from typing import Final

import msgspec

from ..errors import ProtocolError, clip

Chunk = bytes | bytearray | memoryview
"""Bytes to be written; of a memoryview, one whose elements are bytes."""

MAGIC: Final = b"hdrc"
VERSION: Final = 1
ALIGN: Final = 64
"""Frames, payloads and bodies begin at multiples of this, so that an array can be a view."""

PREFIX: Final = struct.Struct("<4sBBHQQ")
OWN_CHUNK_BYTES: Final = 64 * 1024
"""A body larger than this is not copied into the chunk of its frame."""

READ_BYTES: Final = 256 * 1024
"""What one read may bring; a larger frame gets a buffer of its own."""

PADDING: Final = tuple(bytes(size) for size in range(ALIGN))
"""What follows a body of -size modulo 64."""


class Kind(enum.IntEnum):
    """What a frame holds: one number for each class of `headrace.wire.messages`."""

    CHALLENGE = 1
    HELLO = 2
    WELCOME = 3
    CARDS = 4
    READY = 5
    RUN = 6
    STARTED = 7
    PARTS = 8
    CANCEL = 9
    ASK = 10
    STATS = 11
    DRAIN = 12
    BYE = 13


KINDS: Final = range(1, 14)


class Frame(msgspec.Struct, frozen=True, gc=False):
    """One frame as it was received; the views are into the reader's buffer."""

    kind: int
    header: memoryview
    payload: memoryview


class FrameLimits(msgspec.Struct, frozen=True):
    """What a frame may be; anything else is refused on its first 24 bytes.

    Attributes:
        max_header_bytes: The longest header.
        max_payload_bytes: The longest payload part, padding included.
        kinds: The kinds that are accepted.
    """

    max_header_bytes: int = 64 * 1024 * 1024
    max_payload_bytes: int = 1024 * 1024 * 1024
    kinds: Container[int] = KINDS

    @property
    def max_frame_bytes(self) -> int:
        """The longest frame."""
        return aligned(PREFIX.size + self.max_header_bytes) + self.max_payload_bytes


def aligned(size: int) -> int:
    """The next multiple of 64.

    >>> aligned(0), aligned(1), aligned(64), aligned(65)
    (0, 64, 64, 128)
    """
    return (size + ALIGN - 1) & -ALIGN


def payload_offsets(sizes: Sequence[int]) -> list[int]:
    """Where bodies of these sizes begin in the payload part, and where it ends.

    >>> payload_offsets([1, 0, 65])
    [0, 64, 64, 192]
    """
    return list(accumulate(map(aligned, sizes), initial=0))


class Form(msgspec.Struct, frozen=True, gc=False):
    """What a message puts into its frame.

    Attributes:
        header: The header.
        pieces: The payload part: each body, and the padding after it.
        payload_bytes: Their length.
    """

    header: bytes
    pieces: Sequence[Chunk]
    payload_bytes: int


def encode_frame(kind: int, header: bytes, bodies: Sequence[Chunk] = ()) -> list[Chunk]:
    """The chunks of a frame, for one gathered write; see `gather`."""
    pieces = [piece for body in bodies for piece in (body, PADDING[-len(body) % ALIGN])]
    return gather(kind, Form(header, pieces, sum(map(len, pieces))))


def gather(kind: int, form: Form) -> list[Chunk]:
    """The chunks of a frame, for one gathered write.

    A frame without large bodies is one `bytes` object; large bodies are chunks of their own.
    """
    header, pieces, payload_bytes = form.header, form.pieces, form.payload_bytes
    prefix = PREFIX.pack(MAGIC, VERSION, kind, 0, len(header), payload_bytes)
    head = (prefix, header, PADDING[-(PREFIX.size + len(header)) % ALIGN])
    if payload_bytes <= OWN_CHUNK_BYTES or max(map(len, pieces)) <= OWN_CHUNK_BYTES:
        return [b"".join((*head, *pieces))]
    chunks: list[Chunk] = []
    small: list[Chunk] = [*head]
    for piece in pieces:
        if len(piece) > OWN_CHUNK_BYTES:
            chunks += (b"".join(small), piece)
            small = []
        else:
            small.append(piece)
    return [*chunks, b"".join(small)] if any(small) else chunks


class FrameReader:
    """Bytes in, frames out. Each prefix is checked before anything is allocated for its frame.

    Args:
        limits: What a frame may be. They can be replaced at any time, and count from the next
            prefix on.
    """

    def __init__(self, limits: FrameLimits) -> None:
        self._common = self._buffer = memoryview(b"")
        self._start = 0
        self._end = 0
        # Of the frame that begins at _start: 0 until its prefix has been checked.
        self._size = 0
        self._error: ProtocolError | None = None
        self.limits = limits

    @property
    def limits(self) -> FrameLimits:
        """What a frame may be."""
        return self._limits

    @limits.setter
    def limits(self, limits: FrameLimits) -> None:
        self._limits = limits
        self._common_bytes = min(READ_BYTES, limits.max_frame_bytes)

    def get_buffer(self) -> memoryview:
        """Where the next bytes go; never empty. Ends the life of views into the common buffer.

        A frame larger than the common buffer has one of its own, which its views keep alive.

        Raises:
            ProtocolError: Again what `received` raised.
        """
        self._refuse_after_error()
        if self._start or not self._end or self._size > len(self._buffer):
            self._make_room()
        return self._buffer[self._end :]

    def received(self, size: int) -> list[Frame]:
        """The frames that are complete now that `size` bytes came into the buffer.

        Raises:
            ProtocolError: A prefix is wrong. The reader refuses everything from then on.
        """
        return list(self.frames(size))

    def frames(self, size: int) -> Iterator[Frame]:
        """Like `received`, one by one: limits set between two hold for the second."""
        self._refuse_after_error()
        self._end += size
        while (held := self._end - self._start) >= PREFIX.size:
            header_bytes, kind = self._prefix()
            if held < self._size:
                return
            header_at = self._start + PREFIX.size
            payload_at = self._start + aligned(PREFIX.size + header_bytes)
            self._start += self._size
            self._size = 0
            yield Frame(
                kind,
                self._buffer[header_at : header_at + header_bytes],
                self._buffer[payload_at : self._start],
            )

    def _prefix(self) -> tuple[int, int]:
        """Check the prefix of the frame that begins at _start."""
        found = PREFIX.unpack_from(self._buffer, self._start)
        magic, version, kind, reserved, header_bytes, payload_bytes = found
        if not self._size:
            limits = self._limits
            if (
                magic != MAGIC
                or version != VERSION
                or kind not in limits.kinds
                or reserved
                or header_bytes > limits.max_header_bytes
                or payload_bytes > limits.max_payload_bytes
                or payload_bytes % ALIGN
            ):
                self._error = _breach(found, limits)
                raise self._error
            self._size = aligned(PREFIX.size + header_bytes) + payload_bytes
        return header_bytes, kind

    def _make_room(self) -> None:
        """Move what is left to the front of a buffer that holds the frame it belongs to."""
        rest = self._buffer[self._start : self._end]
        if self._size > self._common_bytes:
            self._buffer = _page_aligned(self._size)
        else:
            if len(self._common) < self._common_bytes:
                self._common = _page_aligned(self._common_bytes)
            self._buffer = self._common
        if rest:
            self._buffer[: len(rest)] = rest
        self._start, self._end = 0, len(rest)

    def _refuse_after_error(self) -> None:
        if self._error is not None:
            raise self._error


def _page_aligned(size: int) -> memoryview:
    """Memory that begins at a page; the system provides its pages as they are written to."""
    return memoryview(mmap.mmap(-1, size))


def _breach(found: tuple[bytes, int, int, int, int, int], limits: FrameLimits) -> ProtocolError:
    """What is wrong with a prefix."""
    magic, version, kind, reserved, header_bytes, payload_bytes = found
    if magic != MAGIC:
        reason = f"expected a frame, got {clip(magic.decode('latin-1'))}"
    elif version != VERSION:
        reason = f"expected version {VERSION} of the worker protocol, got {version}"
    elif reserved:
        reason = f"expected 0 in the reserved bytes, got {reserved}"
    elif kind not in limits.kinds:
        reason = f"expected another kind of message, got {kind}"
    elif header_bytes > limits.max_header_bytes:
        reason = f"expected a header of at most {limits.max_header_bytes} bytes, got {header_bytes}"
    elif payload_bytes > limits.max_payload_bytes:
        most = limits.max_payload_bytes
        reason = f"expected a payload of at most {most} bytes, got {payload_bytes}"
    else:
        reason = f"expected a payload of whole {ALIGN} bytes, got {payload_bytes}"
    return ProtocolError(reason, side="remote")
