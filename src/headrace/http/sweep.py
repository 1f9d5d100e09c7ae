"""One timer for the deadlines of all connections of a server."""

from __future__ import annotations

from collections.abc import Collection
from typing import Protocol

from ..clock import NEVER, Cancellable, Clock, Instant, Scheduler, system_clock
from ..config import Limits

COARSE_S = 1.0
"""The sweep looks no more often than this, or than a tenth of the shortest wait."""


class Swept(Protocol):
    """What has deadlines."""

    def overdue(self, now: Instant) -> Instant:
        """End what has waited for too long; returns when to ask again at the latest."""


class Sweep:
    """Asks connections whether they have waited for too long.

    A deadline costs its connection no timer: the one there is is set to the earliest instant that
    any of them has named, and is late by `grain_s` at most.

    Args:
        limits: Of the waits.
        loop: Runs the timer.
        connections: Those of the server; they come and go.
        clock: Tells the time, as the connections' own.
    """

    def __init__(
        self,
        limits: Limits,
        *,
        loop: Scheduler,
        connections: Collection[Swept],
        clock: Clock = system_clock,
    ) -> None:
        waits_s = (
            limits.head_timeout_s,
            limits.body_timeout_s,
            limits.keep_alive_s,
            limits.write_timeout_s,
        )
        self.grain_s = min(COARSE_S, min(waits_s) / 10)
        self._loop = loop
        self._connections = connections
        self._clock = clock
        self._at: Instant = NEVER
        self._timer: Cancellable | None = None

    def expect(self, due: Instant) -> None:
        """A connection is to be asked then at the latest."""
        if due < self._at:
            self._set(due)

    def _set(self, due: Instant) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._at = due
        self._timer = self._loop.call_later(
            max(due - self._clock(), 0.0) + self.grain_s / 2, self._sweep
        )

    def _sweep(self) -> None:
        now = self._clock()
        self._at, self._timer = NEVER, None
        due = min((one.overdue(now) for one in list(self._connections)), default=NEVER)
        if due < NEVER:
            self.expect(max(due, now + self.grain_s / 2))
