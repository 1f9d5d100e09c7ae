"""What a worker tells of its user's metrics."""

from __future__ import annotations

import logging
import subprocess
import sys
from collections.abc import Iterator

import pytest
from prometheus_client import REGISTRY, CollectorRegistry, Counter, Enum, Gauge, Histogram, Info
from prometheus_client.core import Metric
from prometheus_client.registry import Collector

from headrace.metrics import snapshot as module
from headrace.metrics.once import MAX_SUBJECTS, Once
from headrace.metrics.snapshot import snapshot
from headrace.wire.messages import Family, Sample


@pytest.fixture(autouse=True)
def _unwarned(monkeypatch: pytest.MonkeyPatch) -> None:
    """What was warned of in another test is warned of in this one too."""
    monkeypatch.setattr(module, "_once", Once(logging.getLogger(module.__name__)))


@pytest.fixture
def registry() -> CollectorRegistry:
    return CollectorRegistry(auto_describe=True)


class Broken(Collector):
    def collect(self) -> Iterator[Metric]:
        metric = Metric("begun", "", "gauge")
        metric.add_sample("begun", {}, 1)
        yield metric
        raise RuntimeError("no metrics today")


class Odd(Collector):
    """Gives what cannot be sent: labels that are no text, lone surrogates."""

    def collect(self) -> Iterator[Metric]:
        metric = Metric("odd", "o\udcffdd", "gauge")
        metric.add_sample("odd", {"n": 7}, 1)  # type: ignore[dict-item]
        metric.add_sample("odd", {"n": "\ud800"}, True)
        yield metric


def test_metrics_are_told_as_plain_data(registry: CollectorRegistry) -> None:
    Counter("jobs", "All jobs", ["kind"], registry=registry).labels("a").inc(3)
    Gauge("heat", "Heat", unit="celsius", registry=registry).set(21.5)
    jobs, heat = snapshot(registry)
    assert jobs == Family(
        name="jobs",
        kind="counter",
        doc="All jobs",
        unit="",
        samples=(Sample(name="jobs_total", labels={"kind": "a"}, value=3.0),),
    )
    assert (heat.name, heat.kind, heat.unit) == ("heat_celsius", "gauge", "celsius")


def test_histograms_come_whole_and_without_their_times_of_birth(
    registry: CollectorRegistry,
) -> None:
    Histogram("size", "Sizes", buckets=(1, 2), registry=registry).observe(1.5, {"trace": "x"})
    Gauge("model_created", "When", registry=registry).set(5)
    size, created = snapshot(registry)
    values = {(s.name, s.labels.get("le")): s.value for s in size.samples}
    assert values == {
        ("size_bucket", "1.0"): 0,
        ("size_bucket", "2.0"): 1,
        ("size_bucket", "+Inf"): 1,
        ("size_count", None): 1,
        ("size_sum", None): 1.5,
    }
    assert [sample.value for sample in created.samples] == [5]


def test_the_interpreters_and_headraces_own_are_left_out(registry: CollectorRegistry) -> None:
    for name in ("headrace_items", "process_things", "python_things", "mine"):
        Gauge(name, "", registry=registry)
    assert [family.name for family in snapshot(registry)] == ["mine"]
    assert not [f for f in snapshot() if f.name.startswith(("process_", "python_"))]


def test_without_a_registry_named_the_default_one_is_told() -> None:
    gauge = Gauge("told_by_default", "")
    try:
        assert "told_by_default" in [family.name for family in snapshot()]
    finally:
        REGISTRY.unregister(gauge)


def test_a_collector_that_raises_harms_no_other_and_is_logged_once(
    registry: CollectorRegistry, caplog: pytest.LogCaptureFixture
) -> None:
    Gauge("before", "", registry=registry)
    silent = CollectorRegistry()  # does not ask at registration
    silent.register(Broken())
    for name in ("first", "second"):
        Info(name, "", registry=silent)
    for _ in range(3):
        assert [family.name for family in snapshot(silent)] == ["first", "second"]
    (record,) = caplog.records
    assert "Broken" in record.getMessage()
    assert record.exc_info


def test_what_cannot_be_sent_is_replaced() -> None:
    registry = CollectorRegistry()
    registry.register(Odd())
    (family,) = snapshot(registry)
    assert family.doc == "o?dd"
    assert [sample.labels["n"] for sample in family.samples] == ["7", "?"]
    assert [sample.value for sample in family.samples] == [1.0, 1.0]


def test_no_more_samples_than_its_bound_and_no_histogram_cut_in_two(
    registry: CollectorRegistry, caplog: pytest.LogCaptureFixture
) -> None:
    Gauge("first", "", registry=registry)
    sizes = Histogram("size", "", ["kind"], buckets=(1, 2), registry=registry)
    for kind in ("a", "b", "c"):
        sizes.labels(kind).observe(1)
    Enum("state", "", states=["up", "down"], registry=registry)
    # One gauge, and five samples a histogram: 13 would end within the third.
    for _ in range(3):
        first, size, state = snapshot(registry, max_samples=13)
    assert len(first.samples) == 1
    assert {sample.labels["kind"] for sample in size.samples} == {"a", "b"}
    assert len(size.samples) == 10
    assert len(state.samples) == 2
    assert [record.getMessage() for record in caplog.records] == [
        "too many metrics: samples are left out, first of size"
    ]


def test_the_first_ten_thousand_series_of_a_counter_stay(registry: CollectorRegistry) -> None:
    counter = Counter("jobs", "", ["n"], registry=registry)
    for n in range(10_500):
        counter.labels(n).inc()
    (family,) = snapshot(registry)
    assert [sample.labels["n"] for sample in family.samples] == [str(n) for n in range(10_000)]


def test_who_has_not_imported_prometheus_client_has_no_metrics(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.delitem(sys.modules, "prometheus_client")
    assert snapshot() == ()


def test_prometheus_client_is_not_imported_for_it() -> None:
    code = (
        "import sys; from headrace.metrics.snapshot import snapshot; assert snapshot() == ();"
        "assert 'prometheus_client' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)


def test_warnings_are_given_once_for_each_of_a_bounded_number_of_subjects(
    caplog: pytest.LogCaptureFixture,
) -> None:
    once = Once(logging.getLogger("headrace.test"))
    for n in range(2 * MAX_SUBJECTS):
        once.warning(f"subject {n}", "100 % wrong")
        once.warning(f"subject {n}", "again")
    assert [record.getMessage() for record in caplog.records] == ["100 % wrong"] * MAX_SUBJECTS
