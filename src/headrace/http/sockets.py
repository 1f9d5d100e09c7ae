"""What the system knows of a socket, without reading from it."""

from __future__ import annotations

import contextlib
import select
import socket
import struct


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
    own = socket.socket(fileno=fd)
    try:
        if has_unread(fd):
            return False
        with contextlib.suppress(OSError):  # it is reset, which its transport is about to tell
            own.shutdown(socket.SHUT_WR)
        return True
    finally:
        own.detach()


def reset_when_closed(fd: int) -> None:
    """Let a socket's close drop what the system still holds for its other end, and say so there."""
    own = socket.socket(fileno=fd)
    try:
        with contextlib.suppress(OSError):
            own.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    finally:
        own.detach()
