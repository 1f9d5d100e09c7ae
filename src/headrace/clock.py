"""Time as the rules see it: instants on a monotonic clock, in float seconds."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from typing import Final, Protocol

Instant = float
"""Seconds on a monotonic clock; only differences mean something."""

Deadline = Instant
"""The instant at which an answer is no longer wanted; a timeout is the duration before it."""

Clock = Callable[[], Instant]
"""Tells the present instant: `system_clock`, or `headrace.testing.ManualClock` in tests."""

NEVER: Final[Instant] = math.inf

system_clock: Final[Clock] = time.monotonic

STOPPED_S: Final = 0.5
"""A timer that is later than this was stopped with its process: what came meanwhile is not read
yet, and who was waited for may have been stopped, too."""

LOOK_S: Final = 0.5
"""A timer for what others may take is set no further ahead than this: of a stop, no more than this
and `STOPPED_S` is held against them."""


def remaining_s(deadline: Deadline, now: Instant) -> float:
    """Seconds left until the deadline; 0 when it has passed."""
    return max(0.0, deadline - now)


class Cancellable(Protocol):
    """A timer that was set."""

    def cancel(self) -> None: ...


class Scheduler(Protocol):
    """The part of an event loop that the machinery needs: any asyncio loop, or a manual one."""

    def call_soon(self, callback: Callable[..., object], *args: object) -> object:
        """Call back once the callbacks that are due now have run."""
        ...

    def call_later(
        self, delay: float, callback: Callable[..., object], *args: object
    ) -> Cancellable:
        """Call back after `delay` seconds."""
        ...
