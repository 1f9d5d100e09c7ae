"""What is counted: plain integers and bucket arrays, folded into an exposition at scrape."""

from __future__ import annotations

import bisect
from collections import Counter, defaultdict
from collections.abc import Callable, Sequence

SECONDS = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30)
"""Upper bounds of the buckets of durations."""

SIZES = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024)
"""Upper bounds of the buckets of batch sizes."""


OK = 200
"""The status that nearly every answer has."""

MAX_PENDING = 256
"""Observations that wait to be sorted into their buckets."""


class Histogram:
    """Observations in buckets.

    They are put aside and sorted in together: an observation is little more than an append.

    Args:
        bounds: Upper bounds of the buckets, included, ascending; one more bucket takes the rest.
    """

    __slots__ = ("_buckets", "_pending", "_total", "bounds")

    def __init__(self, bounds: Sequence[float]) -> None:
        self.bounds = bounds
        self._buckets = [0] * (len(bounds) + 1)
        self._total = 0.0
        self._pending: list[float] = []

    def observe(self, value: float) -> None:
        self._pending.append(value)
        if len(self._pending) >= MAX_PENDING:
            self._fold()

    @classmethod
    def sum(cls, histograms: Sequence[Histogram]) -> Histogram:
        """All values of several histograms, which have the same bounds; at least one."""
        if len(histograms) == 1:
            return histograms[0]
        whole = cls(histograms[0].bounds)
        for histogram in histograms:
            for place, count in enumerate(histogram.buckets):
                whole._buckets[place] += count
            whole._total += histogram.total
        return whole

    def observe_all(self, values: Sequence[float]) -> None:
        """Observe several values."""
        self._pending += values
        if len(self._pending) >= MAX_PENDING:
            self._fold()

    @property
    def buckets(self) -> list[int]:
        """How many values each bucket has."""
        self._fold()
        return self._buckets

    @property
    def total(self) -> float:
        """The sum of the values."""
        self._fold()
        return self._total

    @property
    def count(self) -> int:
        """How many values were observed."""
        return sum(self.buckets)

    def _fold(self) -> None:
        values, self._pending = self._pending, []
        if not values:
            return
        values.sort()
        below = 0
        for place, bound in enumerate(self.bounds):
            reached = bisect.bisect_right(values, bound, below)
            self._buckets[place] += reached - below
            below = reached
        self._buckets[-1] += len(values) - below
        self._total += sum(values)


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


class RouteCounts:
    """What is counted of the requests of one route.

    Attributes:
        seconds: From a request's head to its answer.
    """

    __slots__ = ("_statuses", "seconds")

    def __init__(self) -> None:
        self._statuses: defaultdict[int, int] = defaultdict(int)
        self.seconds = Histogram(SECONDS)

    def answered(self, status: int, duration_s: float) -> None:
        """A request was answered. To observe its seconds alone is the same for a 200."""
        if status != OK:
            self._statuses[status] += 1
        self.seconds.observe(duration_s)

    @property
    def statuses(self) -> dict[int, int]:
        """Answered requests by status."""
        others = sum(self._statuses.values())
        answered = self.seconds.count - others
        return {**({OK: answered} if answered else {}), **self._statuses}


class HttpCounts:
    """What the HTTP face counts.

    Attributes:
        routes: By route, which is a pattern, never a path, and by client: the name of its key, None
            without one.
        begun: Predict requests whose head was read.
        disconnects: Predict requests whose client went away before the answer.
        refused: Connections that ended before a request was read, by the status of the answer.
        auth_failures: Requests without a key that is known, by what they brought.
        inflight_bytes: Of bodies that are read, wait or run, and of answers that wait for others.
    """

    def __init__(self) -> None:
        self.routes: dict[tuple[str, str | None], RouteCounts] = {}
        self.begun = 0
        self.disconnects = 0
        self.refused: Counter[str] = Counter()
        self.auth_failures: Counter[str] = Counter()
        self.inflight_bytes = 0

    def route(self, name: str, client: str | None = None) -> RouteCounts:
        """The counts of a route, by its pattern, and of a client with a name."""
        counts = self.routes.get((name, client))
        if counts is None:
            counts = self.routes[name, client] = RouteCounts()
        return counts

    @property
    def requests(self) -> Counter[tuple[str, int]]:
        """Answered requests by route and status."""
        return self._answered(lambda route, client: route)

    @property
    def client_requests(self) -> Counter[tuple[str, int]]:
        """Answered requests of those clients that have a name, by that and status."""
        return self._answered(lambda route, client: client)

    def _answered(self, of: Callable[[str, str | None], str | None]) -> Counter[tuple[str, int]]:
        answered: Counter[tuple[str, int]] = Counter()
        for key, counts in list(self.routes.items()):
            name = of(*key)
            if name is not None:
                for status, count in counts.statuses.items():
                    answered[name, status] += count
        return answered

    @property
    def request_s(self) -> dict[str, Histogram]:
        """From a predict request's head to its answer, by route."""
        by_route: defaultdict[str, list[Histogram]] = defaultdict(list)
        for (name, _), counts in list(self.routes.items()):
            by_route[name].append(counts.seconds)
        return {name: Histogram.sum(several) for name, several in by_route.items()}

    @property
    def in_flight(self) -> int:
        """Predict requests that are read and not answered yet."""
        return self.begun - self.disconnects - self.requests.total()
