"""A worker's end of its connection: blocking, and one read or write for all that is there."""

from __future__ import annotations

import math
import os
import select
import socket
import ssl
import time
from collections.abc import Iterator, Sequence
from contextlib import suppress
from typing import Any

from ..clock import NEVER
from ..wire import Connection, Message

_DISCARD_BYTES = 64 * 1024
LARGE_BYTES = 256 * 1024
"""To copy a buffer that is larger costs more than a write of its own."""

Chunks = Sequence[Any]
"""Buffers that go out one behind the other."""


class Channel:
    """Messages over a socket.

    One thread at a time reads, and it is the one that writes.

    Args:
        sock: Connected.
        connection: The protocol's state.
        is_wakeable: Whether `wake` also ends a `receive` that blocks, for one more system call.
    """

    def __init__(
        self, sock: socket.socket, connection: Connection, *, is_wakeable: bool = False
    ) -> None:
        self._socket = sock
        self._connection = connection
        self._is_wakeable = is_wakeable
        self._out: list[Any] = list(connection.opening())
        self._wake = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        self._poll = select.poll()
        self._poll.register(sock, select.POLLIN)
        self._poll.register(self._wake, select.POLLIN)

    def close(self) -> None:
        """End the connection."""
        self._socket.close()
        os.close(self._wake)

    def finish(self) -> None:
        """Say no more: the other end finds the end behind all that was said."""
        with suppress(OSError):
            socket.socket.shutdown(self._socket, socket.SHUT_WR)

    def linger(self, timeout_s: float) -> None:
        """Wait for the other end to finish too; what it still says is passed over.

        To close a connection with something unread resets it, and the other end may lose what
        it has not read.
        """
        ends = time.monotonic() + timeout_s
        fd, poll = self._socket.fileno(), select.poll()
        poll.register(fd, select.POLLIN)
        with suppress(OSError):
            while (left_s := ends - time.monotonic()) > 0 and poll.poll(left_s * 1000):
                if not os.read(fd, _DISCARD_BYTES):
                    return

    def receive(self, *, block: bool = True, timeout_s: float = NEVER) -> list[Message] | None:
        """What has come, at least one read's worth; None at the end of the connection.

        Nothing has where it did not block, or was woken, or, if it can be, waited for too long.

        Raises:
            ProtocolError: The other end broke the protocol.
        """
        if block and self._is_wakeable and not self.wait(block=True, timeout_s=timeout_s)[0]:
            return []
        try:
            size = self._read(self._connection.get_buffer(), block)
        except (BlockingIOError, ssl.SSLWantReadError, ssl.SSLWantWriteError):
            return []
        except OSError:
            return None
        if not size:
            return None
        messages = self._connection.received(size)
        if outgoing := self._connection.take_outgoing():
            self._out += outgoing
            self.flush()
        return messages

    def put(self, message: Message) -> None:
        """Say something with the next `flush`."""
        self._out += self._connection.send(message)

    def flush(self) -> None:
        """Write all that was put, in one go but for large bodies.

        An end of the connection is for `receive` to tell.
        """
        out, self._out = self._out, []
        with suppress(OSError):
            for data in _joined(out):
                self._socket.sendall(data)

    def wait(self, *, block: bool, timeout_s: float = NEVER) -> tuple[bool, bool]:
        """Wait for the socket or for `wake`, so long at most; which of them came."""
        if isinstance(self._socket, ssl.SSLSocket) and self._socket.pending():
            return True, self._is_woken()
        timeout_ms = None if timeout_s == NEVER else math.ceil(timeout_s * 1000)
        ready = {fd for fd, _ in self._poll.poll(timeout_ms if block else 0)}
        is_woken = self._wake in ready
        if is_woken:
            os.eventfd_read(self._wake)
        return self._socket.fileno() in ready, is_woken

    def wake(self) -> None:
        """Let `wait` return; from any thread."""
        os.eventfd_write(self._wake, 1)

    def _is_woken(self) -> bool:
        try:
            os.eventfd_read(self._wake)
        except BlockingIOError:
            return False
        return True

    def _read(self, buffer: memoryview, block: bool) -> int:
        if isinstance(self._socket, ssl.SSLSocket):
            return self._read_tls(self._socket, buffer, block)
        return self._socket.recv_into(buffer, 0, 0 if block else socket.MSG_DONTWAIT)

    @staticmethod
    def _read_tls(sock: ssl.SSLSocket, buffer: memoryview, block: bool) -> int:
        """There is no flag for it: what the socket has may be a part of a record, or no data."""
        if block:
            return sock.recv_into(buffer)
        sock.setblocking(False)
        try:
            return sock.recv_into(buffer)
        finally:
            sock.setblocking(True)


def _joined(out: Chunks) -> Iterator[Any]:
    """As few buffers as can be without a copy of a large one."""
    small: list[Any] = []
    for data in out:
        if len(data) > LARGE_BYTES:
            yield from (b"".join(small), data) if small else (data,)
            small = []
        else:
            small.append(data)
    if small:
        yield small[0] if len(small) == 1 else b"".join(small)
