"""What the system knows of a socket, without reading from it."""

from __future__ import annotations

import select


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
