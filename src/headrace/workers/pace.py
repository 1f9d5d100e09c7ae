"""Whether a worker prepares and finishes beside predict, or all three in turn."""

from __future__ import annotations

OVERLAP_S = 0.001
"""Batches that take longer are overlapped; with others the hand-over costs more than it hides."""
IN_TURN_S = 0.0005
"""Overlapped ones that take less go back to taking turns; the gap keeps it from wavering."""
_WEIGHT = 0.2


class Pace:
    """A running mean of the time that a batch takes, and what follows from it."""

    def __init__(self) -> None:
        self.overlaps = False
        self._mean_s: float | None = None

    def took(self, seconds: float) -> None:
        """A batch took this long in prepare, predict and finish together."""
        mean_s = seconds if self._mean_s is None else self._mean_s
        self._mean_s = mean_s + _WEIGHT * (seconds - mean_s)
        self.overlaps = self._mean_s > (IN_TURN_S if self.overlaps else OVERLAP_S)
