"""Memory that a worker shares with its front for large bodies: two segments, one of each side's.

It has no name, so nothing is left behind, and its pages are provided as they are first written to.
Its size is sealed: a side that shrank it would end the other at its next access.
"""

from __future__ import annotations

import fcntl
import mmap
import os
from contextlib import suppress

from ..wire import Memory, Side


def create_segments(size: int) -> int:
    """A file descriptor of memory with two segments of so many bytes, whole pages each.

    Raises:
        OSError: There is none to be had.
    """
    fd = os.memfd_create("headrace-bodies", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    try:
        os.ftruncate(fd, 2 * size)
        seals = fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_SEAL
        fcntl.fcntl(fd, fcntl.F_ADD_SEALS, seals)
    except BaseException:
        os.close(fd)
        raise
    return fd


class SharedMemory:
    """The memory, as one side has it mapped.

    Attributes:
        memory: Its segments, for the connection.

    Args:
        fd: Of the memory; it can be closed afterwards.
        side: Whose end this is: the front has the first segment, the worker the second.
    """

    def __init__(self, fd: int, side: Side) -> None:
        self._map = mmap.mmap(fd, 0)
        self._view = memoryview(self._map)
        middle = len(self._view) // 2
        first, second = self._view[:middle], self._view[middle:]
        self.memory = Memory(first, second) if side == "front" else Memory(second, first)

    def close(self) -> None:
        """Give the memory back; the connection must not say or take any more."""
        for view in (*self.memory, self._view):
            view.release()
        with suppress(BufferError):  # then it goes with the last that holds a part of it
            self._map.close()
