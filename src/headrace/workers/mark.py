"""What a worker is at, in memory that it shares with the front: evidence, should it die.

Ten unsigned 64-bit numbers. Each is written by one thread at a time, and all but the last two are
read only once the worker is dead, so there is nothing to lock.
"""

from __future__ import annotations

import mmap
import os
import re
from collections.abc import MutableSequence
from typing import NamedTuple, cast

ITEM, PREDICTING, HANDLED, PREDICTED, MAIN_THREAD, HANDLER_THREAD, EXITING, WAS_READY = range(8)
CONNECTION, PATIENCE_MS = 8, 9
"""To a front on another host: the inode of the socket that is served, and how long a worker may
take to notice its end."""
_SLOTS = 10
_SIZE = _SLOTS * 8

MAX_REPORT_BYTES = 1024 * 1024
"""What is read of a crash's report: it has the stacks of all threads."""
MAX_CRASH_BYTES = 16 * 1024
"""What is kept of it, from the stack of the thread that crashed on."""

_CRASHED = re.compile(rb"^Current thread 0x([0-9a-f]+)", re.MULTILINE)


def create_memory(name: str) -> int:
    """A file descriptor of memory that has no name on any disk."""
    return os.memfd_create(f"headrace-{name}", os.MFD_CLOEXEC)


class Mark:
    """The numbers, as one side has them mapped.

    Attributes:
        slots: By the constants of this module.

    Args:
        fd: Of the memory.
    """

    def __init__(self, fd: int) -> None:
        if os.fstat(fd).st_size < _SIZE:
            os.ftruncate(fd, _SIZE)
        self._map = mmap.mmap(fd, _SIZE)
        self._view = memoryview(self._map).cast("Q")
        # It is, but for the checker.
        self.slots = cast(MutableSequence[int], self._view)

    def close(self) -> None:
        """Give the memory back; nothing may use the numbers after."""
        self._view.release()
        self._map.close()

    @property
    def replica_slots(self) -> MutableSequence[int]:
        """The two that `Replica` writes."""
        return self.slots[ITEM : PREDICTING + 1]


class Evidence(NamedTuple):
    """What a dead worker was at.

    Attributes:
        item: The (batch, index) that it decoded, preprocessed, postprocessed or encoded.
        batch: The batch that it predicted.
        begun: The newest batch whose predict has begun; 0 if none has.
        crash: The interpreter's report of a fatal signal, with the stack of the thread that it
            came to first; empty if there is none.
    """

    item: tuple[int, int] | None = None
    batch: int | None = None
    begun: int = 0
    crash: str = ""


def examine(mark: Mark, crash_fd: int) -> Evidence:
    """Read what a dead worker left behind.

    Where it was at two things at once, the thread that crashed tells which of them it was. A
    death that leaves no trace, such as SIGKILL, and a thread of the user's own leave both.
    """
    slots = mark.slots
    item = (slots[HANDLED], slots[ITEM] - 1) if slots[ITEM] else None
    batch = slots[PREDICTED] if slots[PREDICTING] else None
    report = os.pread(crash_fd, MAX_REPORT_BYTES, 0)
    found = _CRASHED.search(report)
    culprit = int(found[1], 16) if found else slots[EXITING]
    if culprit and culprit == slots[HANDLER_THREAD]:
        batch = None
    elif culprit == slots[MAIN_THREAD] and batch is not None:
        item = None  # the main thread was in predict
    crash = _shortened(report, found.start() if found else 0)
    return Evidence(item, batch, slots[PREDICTED], crash)


def _shortened(report: bytes, begin: int) -> str:
    """A crash's report without the stacks before `begin`, and no longer than it may be."""
    title, newline, _ = report.partition(b"\n")
    text = title + 2 * newline + report[begin:] if begin else report
    return text[:MAX_CRASH_BYTES].decode(errors="replace")
