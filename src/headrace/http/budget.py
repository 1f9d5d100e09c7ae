"""A bound on what the bodies of all requests of a server take at once."""

from __future__ import annotations

from ..errors import QueueFull
from ..metrics import HttpCounts

COUNTED_BYTES = 16 * 1024
"""A body of no more than this is not counted: the queues' bounds in items are enough for it."""


class Budget:
    """What is left for bodies that are read, that wait, and that run.

    Bytes count once they have come: a client that announces a body and does not send it holds
    nothing.

    Args:
        max_bytes: Of all of them.
        counts: Where the bytes in use are counted.
    """

    def __init__(self, max_bytes: int, counts: HttpCounts) -> None:
        self._max_bytes = max_bytes
        self._counts = counts

    def check(self, size: int) -> None:
        """Look whether a body of this size would find room.

        Raises:
            QueueFull: Not now.
        """
        if self._counts.inflight_bytes + size > self._max_bytes:
            raise QueueFull("too many bytes of other requests are read or run")

    def take(self, size: int) -> None:
        """Count further bytes.

        Raises:
            QueueFull: There is no room for them.
        """
        self.check(size)
        self._counts.inflight_bytes += size

    def add(self, size: int) -> None:
        """Count bytes that are there already, room or not."""
        self._counts.inflight_bytes += size

    def give_back(self, size: int) -> None:
        """Those bytes are no longer held."""
        self._counts.inflight_bytes -= size
