"""What a server counts: plain numbers, made into Prometheus metrics when somebody asks."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import NamedTuple

from prometheus_client import REGISTRY, CollectorRegistry
from prometheus_client.core import CounterMetricFamily, Metric, SummaryMetricFamily
from prometheus_client.registry import Collector

from .logging import LOGGER

LABEL = "server_instance"
"""The label that tells the workers of a service apart."""

SHORTEST_WINDOW_S = 0.01
"""A throughput is measured over no less: one request in a microsecond is no million a second."""


class Summed:
    """How many values were observed, and their sum.

    Not locked: one thread observes, and another that reads meanwhile may miss the latest value
    in one of the two.

    Args:
        count: Values so far.
        total: Their sum.
    """

    __slots__ = ("count", "total")

    def __init__(self, count: int = 0, total: float = 0.0) -> None:
        self.count = count
        self.total = total

    def observe(self, value: float) -> None:
        """One more value."""
        self.count += 1
        self.total += value


class Counts:
    """What one server counted since it began; plain numbers, changed by one thread.

    Attributes:
        requests: Messages that were answered.
        queries: Their data elements.
        queries_per_request: Elements of a message.
        server_latency: From a message's arrival to its answer, in milliseconds.
        process_request_latency: A batch's process_request, in milliseconds.
        run_inference_latency: A batch's run_inference, in milliseconds.
        process_response_latency: A batch's process_response, in milliseconds.
        inference_batch_size: Elements of a batch.
        request_queue_size: Elements that wait for a batch.
        response_queue_size: Elements with the handler, whose answers are not sent yet.
    """

    __slots__ = (
        "inference_batch_size",
        "process_request_latency",
        "process_response_latency",
        "queries",
        "queries_per_request",
        "request_queue_size",
        "requests",
        "response_queue_size",
        "run_inference_latency",
        "server_latency",
    )

    def __init__(self) -> None:
        self.requests = 0
        self.queries = 0
        self.queries_per_request = Summed()
        self.server_latency = Summed()
        self.process_request_latency = Summed()
        self.run_inference_latency = Summed()
        self.process_response_latency = Summed()
        self.inference_batch_size = Summed()
        self.request_queue_size = Summed()
        self.response_queue_size = Summed()


class _Described(NamedTuple):
    """A metric as it is published.

    Attributes:
        name: Its name; a counter's gets `_total`.
        doc: Its meaning.
        read: Its value in the counts.
    """

    name: str
    doc: str
    read: Callable[[Counts], Summed]


_SUMMARIES = (
    _Described("queries_per_request", "elements of a message", lambda c: c.queries_per_request),
    _Described(
        "server_latency_milliseconds",
        "from a message's arrival to its answer",
        lambda c: c.server_latency,
    ),
    _Described(
        "process_request_latency_milliseconds",
        "a batch's process_request",
        lambda c: c.process_request_latency,
    ),
    _Described(
        "run_inference_latency_milliseconds",
        "a batch's run_inference",
        lambda c: c.run_inference_latency,
    ),
    _Described(
        "process_response_latency_milliseconds",
        "a batch's process_response",
        lambda c: c.process_response_latency,
    ),
    _Described("inference_batch_size", "elements of a batch", lambda c: c.inference_batch_size),
    _Described(
        "request_queue_size", "elements that wait for a batch", lambda c: c.request_queue_size
    ),
    _Described(
        "response_queue_size",
        "elements with the handler, whose answers are not sent yet",
        lambda c: c.response_queue_size,
    ),
)


class ServerCollector(Collector):
    """Folds a server's counts into metric families.

    The throughputs are measured by the collections: each observes requests and queries a second
    over the time since the one before (the first: since this object was made), if there were any.
    Collections may come from several threads.

    Args:
        read: Gives the counts; called in the thread that collects.
        instance: The value of the label `server_instance`.
        clock: Seconds that never go back.
    """

    def __init__(
        self,
        read: Callable[[], Counts],
        instance: str,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._read = read
        self._instance = instance
        self._clock = clock
        self._lock = threading.Lock()
        self._since = clock()
        self._requests = self._queries = 0
        self._rps = Summed()
        self._qps = Summed()

    def describe(self) -> Iterable[Metric]:
        """The families, whose values do not matter; prometheus_client asks for their names."""
        return self._families(Counts())

    def collect(self) -> Iterable[Metric]:
        with self._lock:
            counts = self._read()
            self._measure(counts.requests, counts.queries)
            # Made while locked: the throughputs are this object's own.
            return list(self._families(counts))

    def _measure(self, requests: int, queries: int) -> None:
        now = self._clock()
        window_s = now - self._since
        if window_s < SHORTEST_WINDOW_S:
            return
        for observed, more in (
            (self._rps, requests - self._requests),
            (self._qps, queries - self._queries),
        ):
            if more:
                observed.observe(more / window_s)
        self._since, self._requests, self._queries = now, requests, queries

    def _families(self, counts: Counts) -> Iterator[Metric]:
        yield _counter("requests", "messages that were answered", self._instance, counts.requests)
        yield _counter(
            "queries", "data elements that were answered", self._instance, counts.queries
        )
        for name, doc, read in _SUMMARIES:
            yield self._summary(name, doc, read(counts))
        yield self._summary("server_throughput_rps", "messages a second", self._rps)
        yield self._summary("server_throughput_qps", "data elements a second", self._qps)

    def _summary(self, name: str, doc: str, summed: Summed) -> Metric:
        family = SummaryMetricFamily(name, doc, labels=[LABEL])
        family.add_metric([self._instance], summed.count, summed.total)
        return family


class PushFailures(Collector):
    """How many pushes of metrics failed.

    Args:
        instance: The value of the label `server_instance`.
    """

    def __init__(self, instance: str) -> None:
        self._instance = instance
        self.count = 0

    def describe(self) -> Iterable[Metric]:
        """As of the server's metrics."""
        return self.collect()

    def collect(self) -> Iterable[Metric]:
        doc = "pushes of metrics that failed"
        return [_counter("metrics_push_failures", doc, self._instance, self.count)]


def _counter(name: str, doc: str, instance: str, value: float) -> Metric:
    """A counter of one server; `_total` is added to its name."""
    family = CounterMetricFamily(name, doc, labels=[LABEL])
    family.add_metric([instance], value)
    return family


class UserMetrics(Collector):
    """The metrics of prometheus_client's default registry: the user's, and the process's own.

    Left out are those that have a name of the server's own, which would make the exposition
    invalid, and all of them while one of their collectors raises: each with a warning, once.

    Args:
        taken: Names that are the server's own.
        omitted: Beginnings of names that are left out without a warning.
        registry: Whose metrics.
    """

    def __init__(
        self,
        taken: Iterable[str],
        omitted: Sequence[str] = (),
        registry: CollectorRegistry = REGISTRY,
    ) -> None:
        self._taken = frozenset(taken)
        self._omitted = tuple(omitted)
        self._registry = registry
        self._warned: set[str] = set()

    def collect(self) -> Iterable[Metric]:
        try:
            families = list(self._registry.collect())
        except Exception as error:
            self._warn("", f"metrics of the default registry are left out: {error!r}")
            return []
        return [family for family in families if self._is_shown(family)]

    def _is_shown(self, family: Metric) -> bool:
        if family.name.startswith(self._omitted):
            return False
        if self._taken.isdisjoint((family.name, *(sample.name for sample in family.samples))):
            return True
        self._warn(family.name, f"the metric {family.name} is left out: virtex has one of its name")
        return False

    def _warn(self, about: str, text: str) -> None:
        if about not in self._warned:
            self._warned.add(about)
            LOGGER.warning("%s", text)


def registry_of(
    *own: ServerCollector | PushFailures, omitted: Sequence[str] = ()
) -> CollectorRegistry:
    """A server's own metrics, and those of the default registry.

    Args:
        *own: The server's.
        omitted: Beginnings of names in the default registry that are left out.
    """
    registry = CollectorRegistry()
    taken: set[str] = set()
    for collector in own:
        registry.register(collector)
        for family in collector.describe():
            taken.update((family.name, *(sample.name for sample in family.samples)))
    registry.register(UserMetrics(taken, omitted))
    return registry
