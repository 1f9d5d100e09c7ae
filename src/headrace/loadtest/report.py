"""What a load test found, in numbers: exact, since every request's instants are kept."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import NamedTuple


class Summary(NamedTuple):
    """Durations in seconds; each is NaN where there were none to summarize.

    Attributes:
        mean: The arithmetic mean.
        std: The standard deviation of these very values (divided by their count).
        max: The longest.
        p50: The least value that at least 50 % of the values do not exceed (nearest rank, so it
            is one of the values).
        p90: The same with 90 %.
        p95: The same with 95 %.
        p99: The same with 99 %.
    """

    mean: float
    std: float
    max: float
    p50: float
    p90: float
    p95: float
    p99: float


def summarize(durations: Iterable[float]) -> Summary:
    """The summary of durations, in any order."""
    ordered = sorted(durations)
    if not ordered:
        return Summary(*[math.nan] * 7)
    mean = math.fsum(ordered) / len(ordered)
    variance = math.fsum((value - mean) ** 2 for value in ordered) / len(ordered)
    percentiles = (percentile(ordered, percent) for percent in (50, 90, 95, 99))
    return Summary(mean, math.sqrt(variance), ordered[-1], *percentiles)


def percentile(ordered: Sequence[float], percent: int) -> float:
    """The least value that at least `percent` % of the values do not exceed.

    Args:
        ordered: At least one value, ascending.
        percent: 1 to 100.

    Example:
        >>> percentile([1, 2, 3, 4], 50), percentile([1, 2, 3, 4], 51)
        (2, 3)
    """
    rank = -(-percent * len(ordered) // 100)  # rounded up, in integers: 0.07 * 100 is not 7
    return ordered[rank - 1]


def rate(count: int, duration_s: float) -> float:
    """How many a second; 0 where the duration is too short to tell."""
    return count / duration_s if duration_s > 0 else 0.0
