"""What a server counts, as Prometheus sees it."""

from __future__ import annotations

import logging
from collections.abc import Iterable

import pytest
from prometheus_client import CollectorRegistry, Counter, Gauge, generate_latest
from prometheus_client.core import Metric
from prometheus_client.registry import Collector

from virtex.core.metrics import (
    Counts,
    PushFailures,
    ServerCollector,
    Summed,
    UserMetrics,
    registry_of,
)

PUBLISHED = {
    "requests": "counter",
    "queries": "counter",
    "queries_per_request": "summary",
    "server_latency_milliseconds": "summary",
    "server_throughput_qps": "summary",
    "server_throughput_rps": "summary",
    "process_request_latency_milliseconds": "summary",
    "run_inference_latency_milliseconds": "summary",
    "process_response_latency_milliseconds": "summary",
    "inference_batch_size": "summary",
    "request_queue_size": "summary",
    "response_queue_size": "summary",
}


class Moved:
    """A clock moved by hand, counts changed by hand, and what is collected of them."""

    def __init__(self) -> None:
        self.now = 100.0
        self.counts = Counts()
        self.collector = ServerCollector(lambda: self.counts, "w1", clock=lambda: self.now)

    def after(self, seconds: float, requests: int = 0, queries: int = 0) -> dict[str, float]:
        """Samples by name after so long, in which so many came."""
        self.now += seconds
        self.counts.requests += requests
        self.counts.queries += queries
        samples = [s for family in self.collector.collect() for s in family.samples]
        assert all(s.labels == {"server_instance": "w1"} for s in samples)
        assert len({s.name for s in samples}) == len(samples)
        return {s.name: s.value for s in samples}


def test_the_metrics_are_the_published_ones() -> None:
    families = {family.name: family for family in Moved().collector.collect()}
    assert {name: family.type for name, family in families.items()} == PUBLISHED
    for name, family in families.items():
        suffixes = ["_total"] if family.type == "counter" else ["_count", "_sum"]
        assert [sample.name for sample in family.samples] == [name + end for end in suffixes]
        assert family.documentation


def test_what_is_described_is_what_is_collected() -> None:
    moved = Moved()
    for own in (moved.collector, PushFailures("w1")):
        described = [(m.name, m.type) for m in own.describe()]
        assert described == [(m.name, m.type) for m in own.collect()]


def test_a_summed_knows_how_many_and_how_much() -> None:
    summed = Summed()
    summed.observe(2)
    summed.observe(0.5)
    assert (summed.count, summed.total) == (2, 2.5)


@pytest.mark.parametrize(
    ("attribute", "metric"),
    [
        ("queries_per_request", "queries_per_request"),
        ("server_latency", "server_latency_milliseconds"),
        ("process_request_latency", "process_request_latency_milliseconds"),
        ("run_inference_latency", "run_inference_latency_milliseconds"),
        ("process_response_latency", "process_response_latency_milliseconds"),
        ("inference_batch_size", "inference_batch_size"),
        ("request_queue_size", "request_queue_size"),
        ("response_queue_size", "response_queue_size"),
    ],
)
def test_what_is_observed_is_exposed_in_its_own_unit(attribute: str, metric: str) -> None:
    moved = Moved()
    getattr(moved.counts, attribute).observe(12.5)
    getattr(moved.counts, attribute).observe(30)
    samples = moved.after(1)
    assert (samples[f"{metric}_count"], samples[f"{metric}_sum"]) == (2, 42.5)
    del samples[f"{metric}_count"], samples[f"{metric}_sum"]
    assert not any(samples.values())


def test_counters_are_totals() -> None:
    moved = Moved()
    moved.after(1, requests=3, queries=20)
    samples = moved.after(1, requests=1, queries=2)
    assert (samples["requests_total"], samples["queries_total"]) == (4, 22)


def test_a_throughput_is_measured_over_the_time_since_the_last_collection() -> None:
    moved = Moved()
    moved.after(2, requests=10, queries=100)
    samples = moved.after(4, requests=8, queries=40)
    assert samples["server_throughput_rps_count"] == 2
    assert samples["server_throughput_rps_sum"] == 10 / 2 + 8 / 4
    assert samples["server_throughput_qps_count"] == 2
    assert samples["server_throughput_qps_sum"] == 100 / 2 + 40 / 4


def test_a_time_without_traffic_is_no_throughput_of_zero() -> None:
    moved = Moved()
    moved.after(60)
    samples = moved.after(1, requests=4)
    assert (samples["server_throughput_rps_count"], samples["server_throughput_rps_sum"]) == (1, 4)
    assert samples["server_throughput_qps_count"] == 0
    assert moved.after(60)["server_throughput_rps_count"] == 1


def test_collections_in_quick_succession_measure_one_throughput() -> None:
    moved = Moved()
    assert moved.after(0.0, requests=5)["server_throughput_rps_count"] == 0
    assert moved.after(0.005, requests=5)["server_throughput_rps_count"] == 0
    samples = moved.after(0.995, requests=10)
    assert (samples["server_throughput_rps_count"], samples["server_throughput_rps_sum"]) == (1, 20)


def test_failures_to_push_are_a_counter() -> None:
    failures = PushFailures("w1")
    failures.count += 2
    registry = registry_of(failures)
    labels = {"server_instance": "w1"}
    assert registry.get_sample_value("metrics_push_failures_total", labels) == 2


def test_the_metrics_of_the_default_registry_are_exposed_too() -> None:
    text = generate_latest(registry_of(Moved().collector)).decode()
    assert 'requests_total{server_instance="w1"} 0.0' in text
    assert "\npython_info{" in text
    assert "python_" not in generate_latest(registry_of(omitted=("python_",))).decode()


def test_a_user_cannot_shadow_a_metric_of_the_server(caplog: pytest.LogCaptureFixture) -> None:
    users = CollectorRegistry()
    Counter("requests", "mine", registry=users).inc(7)
    Gauge("server_latency_milliseconds_sum", "mine", registry=users)
    Counter("cats", "mine", registry=users).inc(3)
    shown = UserMetrics(
        {"requests", "requests_total", "server_latency_milliseconds_sum"}, (), users
    )
    with caplog.at_level(logging.WARNING, "virtex"):
        for _ in range(2):
            assert [family.name for family in shown.collect()] == ["cats"]
    assert ["requests" in r.getMessage() for r in caplog.records] == [True, False]


def test_a_collector_that_raises_takes_no_metric_of_the_server_with_it(
    caplog: pytest.LogCaptureFixture,
) -> None:
    class Broken(Collector):
        def collect(self) -> Iterable[Metric]:
            raise RuntimeError("no device")

        def describe(self) -> Iterable[Metric]:
            return []

    users = CollectorRegistry()
    users.register(Broken())
    shown = UserMetrics((), (), users)
    with caplog.at_level(logging.WARNING, "virtex"):
        assert list(shown.collect()) == list(shown.collect()) == []
    assert ["no device" in r.getMessage() for r in caplog.records] == [True]
