"""One timer that is exact to some tens of microseconds, which an event loop's are not."""

from __future__ import annotations

import asyncio
import ctypes
import os
import sys
import time
from collections.abc import Callable
from typing import Protocol

_ABSOLUTE = 1  # TFD_TIMER_ABSTIME
_NANO = 1_000_000_000


class Alarm(Protocol):
    """Calls back once, at an instant that may be set again and again."""

    def set(self, instant: float) -> None:
        """Call back at this instant of `time.monotonic`, and not at the one set before."""
        ...

    def close(self) -> None:
        """Call back no more."""
        ...


def alarm(loop: asyncio.AbstractEventLoop, callback: Callable[[], object]) -> Alarm:
    """The best that the platform has."""
    if sys.platform == "linux" and sys.maxsize > 2**32:
        return TimerFile(loop, callback)
    return LoopTimer(loop, callback)


class LoopTimer:
    """The loop's own timer: uvloop rounds it to a millisecond."""

    def __init__(self, loop: asyncio.AbstractEventLoop, callback: Callable[[], object]) -> None:
        self._loop = loop
        self._callback = callback
        self._handle: asyncio.TimerHandle | None = None

    def set(self, instant: float) -> None:
        self.close()
        delay_s = max(0.0, instant - time.monotonic())
        self._handle = self._loop.call_later(delay_s, self._callback)

    def close(self) -> None:
        if self._handle is not None:
            self._handle.cancel()


class TimerFile:
    """Linux's timer that is a file to be polled; Python has it from 3.13 on only."""

    def __init__(self, loop: asyncio.AbstractEventLoop, callback: Callable[[], object]) -> None:
        # Not CDLL: to let go of the interpreter lock would cost more than the calls themselves.
        self._libc = ctypes.PyDLL(None, use_errno=True)
        flags = os.O_NONBLOCK | os.O_CLOEXEC  # TFD_NONBLOCK and TFD_CLOEXEC are the same numbers
        self._fd = self._libc.timerfd_create(time.CLOCK_MONOTONIC, flags)
        if self._fd < 0:
            number = ctypes.get_errno()
            raise OSError(number, os.strerror(number))
        # struct itimerspec: interval and first instant, each of seconds and nanoseconds.
        self._spec = (ctypes.c_long * 4)()
        self._settime = self._libc.timerfd_settime
        self._settime.argtypes = [ctypes.c_int, ctypes.c_int, ctypes.c_void_p, ctypes.c_void_p]
        self._address = ctypes.addressof(self._spec)
        self._loop = loop
        self._callback = callback
        loop.add_reader(self._fd, self._ring)

    def set(self, instant: float) -> None:
        # An instant of 0 would switch the timer off.
        nanoseconds = max(1, int(instant * _NANO))
        self._spec[2], self._spec[3] = divmod(nanoseconds, _NANO)
        self._settime(self._fd, _ABSOLUTE, self._address, None)

    def close(self) -> None:
        if self._fd >= 0:
            self._loop.remove_reader(self._fd)
            os.close(self._fd)
            self._fd = -1

    def _ring(self) -> None:
        try:
            os.read(self._fd, 8)
        except BlockingIOError:  # set again since the poll
            return
        self._callback()
