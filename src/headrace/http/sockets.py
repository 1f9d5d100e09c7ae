"""What the system knows of a socket, without reading from it."""

from __future__ import annotations

import contextlib
import select
import socket
import struct
from collections.abc import Iterator


def has_gone(fd: int) -> bool:
    """Whether a socket's other end was reset, or closed for both directions."""
    poll = select.poll()
    poll.register(fd, 0)
    return bool(poll.poll(0))


def has_unread(fd: int) -> bool:
    """Whether the system holds something of a socket: bytes, an end, or a peer to accept."""
    poll = select.poll()
    poll.register(fd, select.POLLIN)
    return bool(poll.poll(0))


def end_if_read(fd: int) -> bool:
    """Send the end of a connected socket, unless something has come that was not read.

    Returns:
        Whether it has got its end: no byte that was there before is passed over.
    """
    with _borrowed(fd) as own:
        if has_unread(fd):
            return False
        with contextlib.suppress(OSError):  # it is reset, which its transport is about to tell
            own.shutdown(socket.SHUT_WR)
        return True


def reset_when_closed(fd: int) -> None:
    """Let a socket's close drop what the system still holds for its other end, and say so there."""
    with _borrowed(fd) as own, contextlib.suppress(OSError):
        own.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))


@contextlib.contextmanager
def _borrowed(fd: int) -> Iterator[socket.socket]:
    """A socket that somebody else closes."""
    own = socket.socket(fileno=fd)
    try:
        yield own
    finally:
        own.detach()
