"""When a worker that has ended is started again: pure rules, told what happened."""

from __future__ import annotations

from typing import Final

FIRST_TRIES: Final = 3
"""Workers that may die while the first is being got ready; then there is no use in trying."""
FREE_LIVES: Final = 3
"""Workers in a row that may die with nothing answered before the next one has to wait."""
FREE_KILLS: Final = 20
"""Workers in a row that may be killed from outside, with nothing answered, for no delay."""
FIRST_DELAY_S: Final = 0.5
LAST_DELAY_S: Final = 30.0
_MAX_DOUBLINGS: Final = 10

ESTIMATE_FACTOR: Final = 1.5
ESTIMATE_MARGIN_S: Final = 0.25
"""What a start may take beyond the last one's time, and still be waited for."""


class Restarts:
    """The back-off of one seat.

    A worker that was ready and answered something is replaced at once: an item may have ended
    it, and the next worker serves the others. Several in a row that answered nothing, and each
    that did not get ready, make the next one wait, twice as long each time.
    """

    def __init__(self) -> None:
        self._failed_starts = 0
        self._idle_lives = 0
        self._kills = 0
        self._start_s: float | None = None

    @property
    def recovery_s(self) -> float | None:
        """How long a start is expected to take; None where the last did not succeed."""
        if self._start_s is None or self._failed_starts:
            return None
        return self._start_s * ESTIMATE_FACTOR + ESTIMATE_MARGIN_S

    def was_ready(self, after_s: float) -> None:
        """A worker got ready, so long after it was started."""
        self._failed_starts = 0
        self._start_s = after_s

    def ended(self, *, was_ready: bool, items: int, is_outside: bool = False) -> float:
        """A worker has ended; after how many seconds the next is to be started.

        Args:
            was_ready: Whether it ever was.
            items: How many it had answered.
            is_outside: Whether it looks like an act from outside, which says nothing of the
                model unless it is repeated.
        """
        if items:
            self._idle_lives = 0
        if items or not is_outside:
            self._kills = 0
        self._kills += is_outside
        if 0 < self._kills <= FREE_KILLS:
            return 0.0
        if not was_ready:
            self._failed_starts += 1
        if not items:
            self._idle_lives += 1
        steps = max(self._failed_starts, self._idle_lives - FREE_LIVES)
        if steps <= 0:
            return 0.0
        doublings = min(steps - 1, _MAX_DOUBLINGS)
        return min(LAST_DELAY_S, FIRST_DELAY_S * 2.0**doublings)

    @property
    def was_ever_ready(self) -> bool:
        """Whether a worker of this seat has got ready."""
        return self._start_s is not None

    @property
    def is_hopeless(self) -> bool:
        """Whether no worker of this seat was ever ready, and enough have tried."""
        return not self.was_ever_ready and self._failed_starts >= FIRST_TRIES
