"""Large bodies in memory that both ends of a connection have: where they stand, and until when.

Each side has a segment of its own, which it alone writes to and gives out. What it has placed there
is free again once the other side needs it no more: a batch's bodies when the batch has ended, an
answer's when the front says that it has taken it. All that is said of the memory goes over the
connection, and nothing is ever read from it but bodies, which are copied.
"""

from __future__ import annotations

from bisect import insort
from collections.abc import Sequence
from typing import Final, NamedTuple

from ..errors import ProtocolError
from .frames import OWN_CHUNK_BYTES, Chunk, aligned

LARGE_BYTES: Final = OWN_CHUNK_BYTES
"""Larger bodies stand in a segment, where there is one."""


class Arena:
    """Gives out blocks of a range of memory: the first gap that is large enough.

    So what is used again and again is the begin of it, and the rest takes no memory before it is
    needed.

    Args:
        size: The range's bytes.
    """

    def __init__(self, size: int) -> None:
        self._size = size
        self._blocks: list[tuple[int, int]] = []

    def take(self, size: int) -> int | None:
        """Where a block of so many bytes begins; None if there is no room for it."""
        begin = 0
        for block_begin, block_end in self._blocks:
            if block_begin - begin >= size:
                break
            begin = block_end
        if self._size - begin < size:
            return None
        # A block always ends behind its begin, so that each begin is one block's.
        insort(self._blocks, (begin, begin + size))
        return begin

    def free(self, begin: int) -> None:
        """Take back the block that begins there."""
        self._blocks = [block for block in self._blocks if block[0] != begin]

    @property
    def used_bytes(self) -> int:
        """What is given out."""
        return sum(end - begin for begin, end in self._blocks)


class Outbox:
    """This side's segment.

    Args:
        memory: The segment; it begins at a multiple of 64.
    """

    def __init__(self, memory: memoryview) -> None:
        self._memory = memory
        self._arena = Arena(len(memory))
        self._placed: int | None = None
        self._kept: dict[int, int] = {}

    def place(self, bodies: Sequence[Chunk]) -> int | None:
        """Copy bodies into the segment, each at the next multiple of 64; where the first stands.

        None if there is no room for all of them. What is placed is to be kept or dropped before
        more is.
        """
        begin = self._arena.take(sum(aligned(len(body)) for body in bodies))
        if begin is None:
            return None
        at = begin
        for body in bodies:
            self._memory[at : at + len(body)] = body
            at += aligned(len(body))
        self._placed = begin
        return begin

    def keep(self, name: int) -> bool:
        """Keep what was placed until `free` is told this name; False if nothing was."""
        if self._placed is None:
            return False
        self._kept[name], self._placed = self._placed, None
        return True

    def drop(self) -> None:
        """What was placed, if anything, is not sent."""
        if self._placed is not None:
            self._arena.free(self._placed)
            self._placed = None

    def free(self, name: int) -> None:
        """The other side needs it no more."""
        begin = self._kept.pop(name, None)
        if begin is not None:
            self._arena.free(begin)

    @property
    def used_bytes(self) -> int:
        """What the other side may still need."""
        return self._arena.used_bytes


class Inbox:
    """The other side's segment.

    Attributes:
        taken: How many messages had bodies in it.

    Args:
        memory: The segment.
    """

    def __init__(self, memory: memoryview) -> None:
        self._memory = memory
        self.taken = 0

    def cut(self, begin: int, sizes: Sequence[int]) -> list[bytes]:
        """Copies of bodies that stand one after another; each byte is copied once at most.

        Raises:
            ProtocolError: They are not all within the segment.
        """
        end = begin + sum(map(aligned, sizes))
        if begin % 64 or end > len(self._memory):
            most = len(self._memory)
            reason = f"expected bodies within a segment of {most} bytes, got {begin} to {end}"
            raise ProtocolError(reason, side="remote")
        self.taken += 1
        bodies = []
        for size in sizes:
            bodies.append(bytes(self._memory[begin : begin + size]))
            begin += aligned(size)
        return bodies


class Memory(NamedTuple):
    """Memory that a connection's two ends share.

    Attributes:
        outgoing: This side's segment, which it may write to.
        incoming: The other side's, as large.
    """

    outgoing: memoryview
    incoming: memoryview


class Segments:
    """Both segments of a connection, once they are agreed on.

    Args:
        memory: The memory.
    """

    def __init__(self, memory: Memory) -> None:
        self.outbox = Outbox(memory.outgoing)
        self.inbox = Inbox(memory.incoming)
        self._sent = 0
        self._freed = 0

    # On the worker's side, whose messages are numbered

    def sent(self) -> None:
        """A message is sent; what was placed for it is kept."""
        if self.outbox.keep(self._sent + 1):
            self._sent += 1

    def was_taken(self, count: int) -> None:
        """The front says that it has taken so many of the messages with bodies in the segment.

        Raises:
            ProtocolError: That cannot be.
        """
        if not self._freed <= count <= self._sent:
            reason = f"expected {self._freed} to {self._sent} messages taken, got {count}"
            raise ProtocolError(reason, side="remote")
        while self._freed < count:
            self._freed += 1
            self.outbox.free(self._freed)
