"""What a service counts, and how all its processes tell of it together."""

from __future__ import annotations

import os
import weakref
from collections.abc import Iterator
from typing import Any

# prometheus_client decides by this variable, when it is imported; it was in lower case once.
if "PROMETHEUS_MULTIPROC_DIR" not in os.environ and "prometheus_multiproc_dir" in os.environ:
    os.environ["PROMETHEUS_MULTIPROC_DIR"] = os.environ["prometheus_multiproc_dir"]

from prometheus_client import (
    CONTENT_TYPE_LATEST,
    CollectorRegistry,
    Counter,
    Gauge,
    Metric,
    Summary,
    generate_latest,
)
from prometheus_client.multiprocess import MultiProcessCollector
from prometheus_client.registry import Collector

_counters: weakref.WeakKeyDictionary[CollectorRegistry, Counter] = weakref.WeakKeyDictionary()


def process_time(name: str, registry: CollectorRegistry) -> Summary:
    """Seconds in preprocess, inference and postprocess."""
    return Summary(
        name, "Seconds spent in each part of the processing", ("process",), registry=registry
    )


def worker_gauge(registry: CollectorRegistry) -> Gauge:
    """How many serve, by protocol."""
    return Gauge(
        "process_worker",
        "Workers that serve",
        ("protocol",),
        multiprocess_mode="livesum",
        registry=registry,
    )


def validation_errors(registry: CollectorRegistry) -> Counter:
    """The registry's one counter of requests that were answered 422."""
    counter = _counters.get(registry)
    if counter is None:
        counter = _counters[registry] = Counter(
            "validation_error_counter", "Requests that failed validation", registry=registry
        )
    return counter


def exposition(registry: CollectorRegistry) -> tuple[str, bytes]:
    """The registry as Prometheus reads it: the media type, and the text.

    With PROMETHEUS_MULTIPROC_DIR, it is of all processes.
    """
    if os.environ.get("PROMETHEUS_MULTIPROC_DIR"):
        everywhere = CollectorRegistry()
        everywhere.register(_Everywhere(registry))
        registry = everywhere
    return CONTENT_TYPE_LATEST, generate_latest(registry)


class _Everywhere(Collector):
    """What all processes wrote down, and what only this one knows, as custom collectors do."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self._registry = registry
        processes: Any = MultiProcessCollector  # it carries no types
        self._processes = processes(None)

    def collect(self) -> Iterator[Metric]:
        """The families, each once."""
        names = set()
        for family in self._processes.collect():
            names.add(family.name)
            yield family
        for family in self._registry.collect():
            if family.name not in names:
                yield family
