"""What is counted: plain integers and bucket arrays, folded into an exposition at scrape."""

from __future__ import annotations

import bisect
from collections import Counter
from collections.abc import Sequence

SECONDS = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30)
"""Upper bounds of the buckets of durations."""

SIZES = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024)
"""Upper bounds of the buckets of batch sizes."""


class Histogram:
    """Observations in buckets; one observation is a bisection and three additions.

    Args:
        bounds: Upper bounds of the buckets, included, ascending; one more bucket takes the rest.
    """

    __slots__ = ("bounds", "buckets", "total")

    def __init__(self, bounds: Sequence[float]) -> None:
        self.bounds = bounds
        self.buckets = [0] * (len(bounds) + 1)
        self.total = 0.0

    def observe(self, value: float) -> None:
        self.buckets[bisect.bisect_left(self.bounds, value)] += 1
        self.total += value

    @property
    def count(self) -> int:
        return sum(self.buckets)


class ModelCounts:
    """What one model's engine counts.

    Attributes:
        items: Ended items by their code; "ok" for an answer.
        batches: Cut batches by why each was cut.
        batch_items: Items a batch.
        queue_s: From an item's admission to its batch's cut.
        batch_s: From a batch's start on its replica to its end.
        refused: Calls that were not admitted, by their code.
        isolations: Batches whose predict raised and whose items were run apart.
        restarts: Replicas that were replaced, by why.
        busy_s: What the replicas spent on batches, added up.
        wire_sent_bytes: What was sent to workers.
        wire_received_bytes: What came from workers.
    """

    def __init__(self) -> None:
        self.items: Counter[str] = Counter()
        self.batches: Counter[str] = Counter()
        self.batch_items = Histogram(SIZES)
        self.queue_s = Histogram(SECONDS)
        self.batch_s = Histogram(SECONDS)
        self.refused: Counter[str] = Counter()
        self.isolations = 0
        self.restarts: Counter[str] = Counter()
        self.busy_s = 0.0
        self.wire_sent_bytes = 0
        self.wire_received_bytes = 0


class HttpCounts:
    """What the HTTP face counts.

    Attributes:
        requests: Answered requests by route and status; a route is a pattern, never a path.
        request_s: From a predict request's head to its answer, by route.
        in_flight: Predict requests that are read and not answered yet.
        disconnects: Predict requests whose client went away before the answer.
    """

    def __init__(self) -> None:
        self.requests: Counter[tuple[str, int]] = Counter()
        self.request_s: dict[str, Histogram] = {}
        self.in_flight = 0
        self.disconnects = 0

    def answered(self, route: str, status: int, duration_s: float) -> None:
        """A predict request was answered."""
        self.requests[route, status] += 1
        histogram = self.request_s.get(route)
        if histogram is None:
            histogram = self.request_s[route] = Histogram(SECONDS)
        histogram.observe(duration_s)
