"""When requests are due: open-loop schedules, fixed before the first one is sent."""

from __future__ import annotations

import math
import random
from array import array


def constant(count: int, requests_per_second: float) -> array[float]:
    """Instants at equal distances.

    Args:
        count: How many.
        requests_per_second: The rate; infinity makes all of them due at once.

    Returns:
        Seconds from the schedule's start, ascending; the first is 0.

    Raises:
        ValueError: The count is negative, or the rate not above 0.

    Example:
        >>> list(constant(3, requests_per_second=4))
        [0.0, 0.25, 0.5]
    """
    _check(count, requests_per_second)
    return array("d", (index / requests_per_second for index in range(count)))


def poisson(count: int, requests_per_second: float, *, seed: int) -> array[float]:
    """Instants as of many senders that know nothing of each other: random distances.

    Args:
        count: How many.
        requests_per_second: The mean rate; infinity makes all of them due at once.
        seed: The same seed gives the same instants.

    Returns:
        Seconds from the schedule's start, ascending.

    Raises:
        ValueError: The count is negative, or the rate not above 0.
    """
    _check(count, requests_per_second)
    gap = random.Random(seed).expovariate
    instants = array("d", bytes(8 * count))
    now = 0.0
    for index in range(count):
        now += gap(1.0) / requests_per_second
        instants[index] = now
    return instants


def _check(count: int, requests_per_second: float) -> None:
    if count < 0:
        raise ValueError(f"count: expected at least 0, got {count}")
    if math.isnan(requests_per_second) or requests_per_second <= 0:
        raise ValueError(
            f"requests_per_second: expected a number above 0, got {requests_per_second!r}"
        )
