"""Standard output and error, which nobody may be reading: no write to them ever waits."""

from __future__ import annotations

import contextlib
import os
import select
import socket
import stat
from collections.abc import Callable

PIPE_BUF = select.PIPE_BUF
"""What a pipe that takes anything takes at once."""
CLOSE_TIMEOUT_S = 0.5
"""How long the end of a process waits for who reads what it has said last."""


class Outlet:
    """A descriptor that is written to as far as it takes something at once; on one thread.

    A pipe that nobody reads is full after 64 KiB; a server that waited there would serve nobody.
    The descriptor's own mode is left alone, as other processes may share it.

    Attributes:
        lost: How many texts were not written: it was full, closed, or an error.

    Args:
        fd: The descriptor. What it is, is looked at anew at each write.
    """

    def __init__(self, fd: int) -> None:
        self.lost = 0
        self._fd = fd
        self._rest = b""
        self._known: tuple[int, int] | None = None
        self._own: int | None = None
        self._push: Callable[[bytes], int] = self._push_plainly
        with contextlib.suppress(OSError):
            self._look()

    def write(self, text: str) -> bool:
        """Write a text whole, or not at all; whether it was, or will be with the next one."""
        data = text.encode(errors="backslashreplace")
        try:
            self._look()
            self._rest = self._pushed(self._rest)
            left = data if self._rest else self._pushed(data)
        except OSError:
            left = data
        if left and len(left) == len(data):
            self.lost += 1
            return False
        self._rest = left
        return True

    def close(self, timeout_s: float = CLOSE_TIMEOUT_S) -> None:
        """Write the rest of the last text, if somebody reads, and give back what this holds."""
        with contextlib.suppress(OSError):
            poll = select.poll()
            poll.register(self._fd, select.POLLOUT)
            while self._rest and poll.poll(timeout_s * 1000):
                before, self._rest = len(self._rest), self._pushed(self._rest)
                if len(self._rest) == before:
                    break
        self._forget()

    def _pushed(self, data: bytes) -> bytes:
        """Write what is taken at once; returns the rest.

        Raises:
            OSError: Nothing can be written, now or later.
        """
        size = len(data)
        try:
            while data:
                data = data[self._push(data) :]
        except BlockingIOError:
            pass
        except OSError:
            if len(data) == size:
                raise
        return data

    def _look(self) -> None:
        """Find out how to write without waiting; a program may put another file in its place."""
        found = os.fstat(self._fd)
        if self._known == (found.st_dev, found.st_ino):
            return
        self._forget()
        self._rest = b""
        self._known = found.st_dev, found.st_ino
        if stat.S_ISFIFO(found.st_mode):
            try:
                # Opened anew, it has a mode of its own.
                flags = os.O_WRONLY | os.O_NONBLOCK | os.O_CLOEXEC
                self._own = os.open(f"/proc/self/fd/{self._fd}", flags)
                self._push = self._push_to_own
            except OSError:  # another user's, or there is no /proc
                self._push = self._push_in_pieces
        elif stat.S_ISSOCK(found.st_mode):
            self._push = self._push_to_socket
        elif stat.S_ISCHR(found.st_mode):
            self._push = self._push_in_pieces
        else:
            self._push = self._push_plainly

    def _forget(self) -> None:
        if self._own is not None:
            os.close(self._own)
        self._known = self._own = None

    def _push_to_own(self, data: bytes) -> int:
        assert self._own is not None
        return os.write(self._own, data)

    def _push_to_socket(self, data: bytes) -> int:
        own = socket.socket(fileno=self._fd)
        try:
            return own.send(data, socket.MSG_DONTWAIT | socket.MSG_NOSIGNAL)
        finally:
            own.detach()

    def _push_in_pieces(self, data: bytes) -> int:
        poll = select.poll()
        poll.register(self._fd, select.POLLOUT)
        if not poll.poll(0):
            raise BlockingIOError
        return os.write(self._fd, data[:PIPE_BUF])

    def _push_plainly(self, data: bytes) -> int:
        return os.write(self._fd, data)


def say(text: str) -> None:
    """Write a text to standard output, if that takes it at once."""
    outlet = Outlet(1)
    outlet.write(text)
    outlet.close(0.0)


def fill_closed() -> None:
    """Open what is closed of standard input, output and error as /dev/null.

    The next file or socket would get its number, and what any library prints.
    """
    for fd in (0, 1, 2):
        try:
            os.fstat(fd)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # takes the lowest number that is free
            os.set_inheritable(fd, True)
