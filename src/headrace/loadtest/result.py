"""What became of every request of a load test."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

from .report import Summary, rate, summarize


class Answer(NamedTuple):
    """What came of one request.

    Attributes:
        status: The HTTP status; 0 if no answer came.
        body: The answer's body, of a refusal too.
        error: Why the request failed; None if its answer is a 2xx.
        latency_s: From its planned instant to its end.
    """

    status: int
    body: bytes
    error: str | None
    latency_s: float


@dataclass(frozen=True, eq=False)
class LoadResult:
    """What became of every request, in the order of the bodies that were sent.

    All instants are in seconds from the schedule's start. A request ends with its answer, or when
    it failed. Iterating, or indexing, gives an `Answer` for each.

    Attributes:
        planned_s: When each request was due.
        sent_s: When each was written to a connection; NaN if it never was.
        ended_s: When each ended.
        statuses: Each answer's HTTP status; 0 if none came.
        bodies: Each answer's body; empty if none came.
        errors: Why a request failed (no answer, or none of the 2xx), by its index.
        connections: How many were opened.
        send_lag_mean_s: How late the generator itself was at a request, on average; not what a
            request waited for a free connection.
        send_lag_max_s: The same, at most.
        cpu_s: User and system time of the generator's thread while it sent and received.
    """

    planned_s: Sequence[float]
    sent_s: Sequence[float]
    ended_s: Sequence[float]
    statuses: Sequence[int]
    bodies: Sequence[bytes]
    errors: Mapping[int, str]
    connections: int
    send_lag_mean_s: float
    send_lag_max_s: float
    cpu_s: float

    def __len__(self) -> int:
        return len(self.planned_s)

    def __getitem__(self, index: int) -> Answer:
        """What came of one request."""
        return Answer(
            self.statuses[index],
            self.bodies[index],
            self.errors.get(index if index >= 0 else index + len(self)),
            self.ended_s[index] - self.planned_s[index],
        )

    def __iter__(self) -> Iterator[Answer]:
        return map(self.__getitem__, range(len(self)))

    @cached_property
    def latency_s(self) -> Summary:
        """From planned instant to answer, over the requests that did not fail."""
        return summarize(
            ended - planned
            for index, (planned, ended) in enumerate(zip(self.planned_s, self.ended_s, strict=True))
            if index not in self.errors
        )

    @property
    def duration_s(self) -> float:
        """From the schedule's start to the last request's end."""
        return max(self.ended_s)

    @cached_property
    def sent_per_second(self) -> float:
        """The rate of sending: sent requests but the first, by the time from it to the last."""
        sent = [instant for instant in self.sent_s if instant == instant]
        return rate(len(sent) - 1, sent_span) if (sent_span := _span(sent)) else 0.0

    @cached_property
    def answered_per_second(self) -> float:
        """Requests that did not fail, by the time from the first sent one to their last answer."""
        ended = [instant for index, instant in enumerate(self.ended_s) if index not in self.errors]
        if not ended:
            return 0.0
        first = min(instant for instant in self.sent_s if instant == instant)
        return rate(len(ended), max(ended) - first)


def _span(instants: Sequence[float]) -> float:
    return max(instants) - min(instants) if instants else 0.0
