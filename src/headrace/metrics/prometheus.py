"""The counts as Prometheus metrics, made at scrape."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple, Protocol

from prometheus_client import REGISTRY, CollectorRegistry, exposition
from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    Metric,
)
from prometheus_client.registry import Collector

from ..card import ModelCard
from ..logs import lost_records
from .counts import Histogram, HttpCounts, ModelCounts


class Counted(Protocol):
    """What is read of an engine at scrape."""

    card: ModelCard
    counts: ModelCounts

    @property
    def queued_items(self) -> int: ...
    @property
    def queued_bytes(self) -> int: ...
    @property
    def running_items(self) -> int: ...
    @property
    def ready_replicas(self) -> int: ...


class Described(NamedTuple):
    """A metric as declared: kind, labels and meaning."""

    kind: str
    labels: Sequence[str]
    doc: str


METRICS = {
    "headrace_http_requests_total": Described(
        "counter", ("route", "status"), "predict requests that were answered"
    ),
    "headrace_http_request_seconds": Described(
        "histogram", ("route",), "from a predict request's head to its answer"
    ),
    "headrace_http_client_requests_total": Described(
        "counter",
        ("client", "status"),
        "predict requests that were answered to clients with an API key, by its name",
    ),
    "headrace_http_refused_total": Described(
        "counter",
        ("status",),
        "what was refused before it was a request (no HTTP, a head too large or too slow, a"
        " connection too many), by the status of the answer; closed is none",
    ),
    "headrace_auth_failures_total": Described(
        "counter",
        ("reason",),
        "requests that were refused for want of an API key: missing, or unknown",
    ),
    "headrace_http_requests_in_flight": Described(
        "gauge", (), "predict requests that are read or run"
    ),
    "headrace_http_inflight_bytes": Described(
        "gauge",
        (),
        "bodies that are read, wait or run, and answers that wait for those before them on their"
        " connection; each of more than 16 KiB",
    ),
    "headrace_http_disconnects_total": Described(
        "counter", (), "predict requests whose client went away before the answer"
    ),
    "headrace_log_records_lost_total": Described(
        "counter",
        (),
        "log records of the server's own process that nobody was there to read: standard error was"
        " full, or closed",
    ),
    "headrace_items_total": Described(
        "counter", ("model", "code"), "ended items; code ok is an answer, others are error codes"
    ),
    "headrace_refused_total": Described(
        "counter", ("model", "code"), "calls that were not admitted"
    ),
    "headrace_queue_items": Described("gauge", ("model",), "items that wait for a batch"),
    "headrace_queue_bytes": Described("gauge", ("model",), "bodies that wait for a batch"),
    "headrace_queue_seconds": Described(
        "histogram", ("model",), "from an item's admission to its batch"
    ),
    "headrace_running_items": Described("gauge", ("model",), "items in batches that run"),
    "headrace_batches_total": Described(
        "counter",
        ("model", "reason"),
        "batches by why each was cut: full, idle (a replica was free, nothing to wait for),"
        " settled (after a short wait for the last batch's senders), delay (max_batch_delay_s),"
        " suspect (alone, after a replica was lost)",
    ),
    "headrace_batch_items": Described("histogram", ("model",), "items in a batch"),
    "headrace_batch_seconds": Described(
        "histogram", ("model",), "from a batch's start on its replica to its end"
    ),
    "headrace_isolations_total": Described(
        "counter", ("model",), "batches whose predict raised and whose items were run apart"
    ),
    "headrace_replicas_ready": Described("gauge", ("model",), "replicas that take batches"),
    "headrace_replica_restarts_total": Described(
        "counter",
        ("model", "reason"),
        "replicas that were replaced, by why: exited (its process ended by itself), killed (by a"
        " signal, or for lack of memory), hung (a batch ran into predict_timeout_s), broken (it"
        " failed its own example), protocol (what it sent made no sense), recycled (on purpose,"
        " after its time or work), scaled (their number changed), disconnected (a worker of another"
        " host has left, or its link was lost)",
    ),
    "headrace_replica_busy_seconds_total": Described(
        "counter", ("model",), "time that replicas spent on batches, all of them added up"
    ),
    "headrace_worker_sent_bytes_total": Described("counter", ("model",), "bytes sent to workers"),
    "headrace_worker_received_bytes_total": Described(
        "counter", ("model",), "bytes that came from workers"
    ),
}
"""Every metric of headrace; the documentation's table is made of this."""


class HeadraceCollector(Collector):
    """Folds the plain counts into metric families.

    Args:
        engines: Whose counts.
        http: The HTTP face's counts.
    """

    def __init__(self, engines: Sequence[Counted], http: HttpCounts) -> None:
        self._engines = engines
        self._http = http

    def collect(self) -> Iterator[Metric]:
        yield from self._collect_http()
        for metric, attribute in (
            ("items", "items"),
            ("refused", "refused"),
            ("replica_restarts", "restarts"),
        ):
            family = _counter(f"headrace_{metric}_total")
            for engine in self._engines:
                for code, count in sorted(getattr(engine.counts, attribute).items()):
                    family.add_metric([engine.card.name, code], count)
            yield family
        batches = _counter("headrace_batches_total")
        isolations = _counter("headrace_isolations_total")
        for engine in self._engines:
            for reason, count in sorted(engine.counts.batches.items()):
                batches.add_metric([engine.card.name, reason], count)
            isolations.add_metric([engine.card.name], engine.counts.isolations)
        yield batches
        yield isolations
        for metric, attribute in (
            ("headrace_replica_busy_seconds_total", "busy_s"),
            ("headrace_worker_sent_bytes_total", "wire_sent_bytes"),
            ("headrace_worker_received_bytes_total", "wire_received_bytes"),
        ):
            counter = _counter(metric)
            for engine in self._engines:
                counter.add_metric([engine.card.name], getattr(engine.counts, attribute))
            yield counter
        for metric, attribute in (
            ("headrace_queue_items", "queued_items"),
            ("headrace_queue_bytes", "queued_bytes"),
            ("headrace_running_items", "running_items"),
            ("headrace_replicas_ready", "ready_replicas"),
        ):
            gauge = _gauge(metric)
            for engine in self._engines:
                gauge.add_metric([engine.card.name], getattr(engine, attribute))
            yield gauge
        for metric, attribute in (
            ("headrace_queue_seconds", "queue_s"),
            ("headrace_batch_items", "batch_items"),
            ("headrace_batch_seconds", "batch_s"),
        ):
            histograms = (
                ([engine.card.name], getattr(engine.counts, attribute)) for engine in self._engines
            )
            yield _histogram(metric, histograms)

    def _collect_http(self) -> Iterator[Metric]:
        http = self._http
        requests = _counter("headrace_http_requests_total")
        for (route, status), count in sorted(http.requests.items()):
            requests.add_metric([route, str(status)], count)
        yield requests
        clients = _counter("headrace_http_client_requests_total")
        for (client, status), count in sorted(http.client_requests.items()):
            clients.add_metric([client, str(status)], count)
        yield clients
        refused = _counter("headrace_http_refused_total")
        for status_text, count in sorted(http.refused.items()):
            refused.add_metric([status_text], count)
        yield refused
        failures = _counter("headrace_auth_failures_total")
        for reason, count in sorted(http.auth_failures.items()):
            failures.add_metric([reason], count)
        yield failures
        durations = (([route], histogram) for route, histogram in sorted(http.request_s.items()))
        yield _histogram("headrace_http_request_seconds", durations)
        in_flight = _gauge("headrace_http_requests_in_flight")
        in_flight.add_metric([], http.in_flight)
        yield in_flight
        inflight = _gauge("headrace_http_inflight_bytes")
        inflight.add_metric([], http.inflight_bytes)
        yield inflight
        disconnects = _counter("headrace_http_disconnects_total")
        disconnects.add_metric([], http.disconnects)
        yield disconnects
        lost = _counter("headrace_log_records_lost_total")
        lost.add_metric([], lost_records())
        yield lost


class _Beside(Collector):
    """What others count: the server's collectors, then this process's default registry.

    The registry has the user's own metrics, and the interpreter's. Of two families of one name
    the first is shown: a scrape with both would be refused as a whole.
    """

    def __init__(self, collectors: Sequence[Collector]) -> None:
        self._collectors = collectors

    def collect(self) -> Iterator[Metric]:
        shown: set[str] = set()
        for collector in (*self._collectors, REGISTRY):
            for family in collector.collect():
                if family.name not in shown:
                    shown.add(family.name)
                    yield family


class Exposition:
    """The text that a scrape gets: headrace's metrics, the process's and the user's own.

    Args:
        engines: Whose counts; looked at anew at each scrape, as are the collectors.
        http: The HTTP face's counts.
        collectors: Of further metrics. Names that headrace or this process has are theirs to
            avoid.
    """

    def __init__(
        self,
        engines: Sequence[Counted],
        http: HttpCounts,
        collectors: Sequence[Collector] = (),
    ) -> None:
        self._registry = CollectorRegistry()
        self._registry.register(HeadraceCollector(engines, http))
        self._registry.register(_Beside(collectors))

    def render(self, accept: str) -> tuple[str, bytes]:
        """The media type and text that an Accept header asks for."""
        encode, media_type = exposition.choose_encoder(accept)
        return media_type, encode(self._registry)


def _counter(name: str) -> CounterMetricFamily:
    described = METRICS[name]
    return CounterMetricFamily(name.removesuffix("_total"), described.doc, labels=described.labels)


def _gauge(name: str) -> GaugeMetricFamily:
    described = METRICS[name]
    return GaugeMetricFamily(name, described.doc, labels=described.labels)


def _histogram(
    name: str, histograms: Iterable[tuple[Sequence[str], Histogram]]
) -> HistogramMetricFamily:
    described = METRICS[name]
    family = HistogramMetricFamily(name, described.doc, labels=described.labels)
    for labels, histogram in histograms:
        cumulative, buckets = 0, []
        for bound, count in zip((*histogram.bounds, None), histogram.buckets, strict=True):
            cumulative += count
            buckets.append(("+Inf" if bound is None else str(float(bound)), float(cumulative)))
        family.add_metric(labels, buckets, histogram.total)
    return family
