"""The users' metrics of many workers as one exposition."""

from __future__ import annotations

import math
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client import (
    CollectorRegistry,
    Counter,
    Enum,
    Gauge,
    Histogram,
    Info,
    Summary,
    exposition,
)
from prometheus_client.openmetrics.parser import text_string_to_metric_families as parse_openmetrics
from prometheus_client.parser import text_string_to_metric_families as parse

from headrace import Model
from headrace.metrics.prometheus import METRICS, HeadraceCollector
from headrace.metrics.snapshot import snapshot
from headrace.metrics.workers import MAX_ENDED, WorkerMetrics
from headrace.testing import Client
from headrace.wire.messages import Family, Sample

Samples = dict[tuple[str, frozenset[tuple[str, str]]], float]

OPENMETRICS = "application/openmetrics-text; version=1.0.0"


class Worker:
    """The registry of one worker."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()

    def told(self) -> tuple[Family, ...]:
        return snapshot(self.registry)


@pytest.fixture
def metrics() -> WorkerMetrics:
    return WorkerMetrics()


def scrape(metrics: WorkerMetrics) -> Samples:
    """Everything that is exposed, the same in both formats, each of which is parsed back."""
    found: list[Samples] = []
    for accept, parser in (("text/plain", parse), (OPENMETRICS, parse_openmetrics)):
        encode, _ = exposition.choose_encoder(accept)
        families = list(parser(encode(metrics).decode()))
        names = [family.name for family in families]
        assert len(set(names)) == len(names)
        samples = [sample for family in families for sample in family.samples]
        found.append({(s.name, frozenset(s.labels.items())): s.value for s in samples})
        assert len(found[-1]) == len(samples)
    assert repr(sorted(found[0].items(), key=repr)) == repr(sorted(found[1].items(), key=repr))
    return found[0]


def value(metrics: WorkerMetrics, name: str, **labels: str) -> float:
    return scrape(metrics)[name, frozenset(labels.items())]


def family(kind: str, name: str, *samples: tuple[str, Mapping[str, str], float]) -> Family:
    return Family(
        name=name,
        kind=kind,
        doc="",
        unit="",
        samples=tuple(
            Sample(name=name + suffix, labels=dict(labels), value=value)
            for suffix, labels, value in samples
        ),
    )


def counter(name: str, value: float, **labels: str) -> Family:
    return family("counter", name, ("_total", labels, value))


def gauge(name: str, value: float, **labels: str) -> Family:
    return family("gauge", name, ("", labels, value))


def histogram(name: str, buckets: Mapping[str, float], total: float = 1.0) -> Family:
    return family(
        "histogram",
        name,
        *(("_bucket", {"le": bound}, value) for bound, value in buckets.items()),
        ("_count", {}, max(buckets.values())),
        ("_sum", {}, total),
    )


def test_every_kind_is_exposed_in_both_formats(metrics: WorkerMetrics) -> None:
    for replica in range(2):
        worker = Worker()
        Counter("jobs", 'All "jobs"\nof \\ all', ["kind"], registry=worker.registry).labels(
            'ä"\n\\'
        ).inc(2)
        Gauge("heat", "Heat", unit="celsius", registry=worker.registry).set(20 + replica)
        Histogram("size", "Sizes", ["kind"], registry=worker.registry).labels("a").observe(3)
        Summary("wait", "Waits", unit="seconds", registry=worker.registry).observe(0.5)
        Info("build", "Build", registry=worker.registry).info({"version": "1"})
        Enum("state", "State", states=["up", "down"], registry=worker.registry).state("down")
        metrics.update(replica, replica, worker.told())
    assert value(metrics, "jobs_total", kind='ä"\n\\') == 4
    assert value(metrics, "heat_celsius", replica="0") == 20
    assert value(metrics, "heat_celsius", replica="1") == 21
    assert value(metrics, "size_bucket", kind="a", le="2.5") == 0
    assert value(metrics, "size_bucket", kind="a", le="5.0") == 2
    assert value(metrics, "size_sum", kind="a") == 6
    assert value(metrics, "wait_seconds_count") == 2
    assert value(metrics, "wait_seconds_sum") == 1
    assert value(metrics, "build_info", version="1", replica="1") == 1
    assert value(metrics, "state", state="down", replica="0") == 1
    assert value(metrics, "state", state="up", replica="0") == 0


def test_documentation_and_unit_are_the_users(metrics: WorkerMetrics) -> None:
    worker = Worker()
    Counter("spent", "Time spent", unit="seconds", registry=worker.registry)
    metrics.update(0, 0, worker.told())
    (found,) = metrics.collect()
    assert (found.name, found.documentation, found.unit) == (
        "spent_seconds",
        "Time spent",
        "seconds",
    )


def test_what_an_ended_worker_counted_stays_and_its_gauges_go(metrics: WorkerMetrics) -> None:
    metrics.update(0, "first", [counter("jobs", 5), gauge("heat", 20)])
    metrics.ended("first")
    assert scrape(metrics) == {("jobs_total", frozenset()): 5}
    metrics.update(0, "second", [counter("jobs", 2), gauge("heat", 21)])
    assert value(metrics, "jobs_total") == 7
    assert value(metrics, "heat", replica="0") == 21


def test_a_counter_that_was_reset_neither_lowers_the_sum_nor_counts_twice(
    metrics: WorkerMetrics,
) -> None:
    for seen, expected in ((5, 5), (2, 5), (4, 5), (6, 6)):
        metrics.update(0, "a", [counter("jobs", seen)])
        assert value(metrics, "jobs_total") == expected


def test_a_snapshot_that_comes_after_its_workers_end_counts_nothing(
    metrics: WorkerMetrics,
) -> None:
    metrics.update(0, "a", [counter("jobs", 5)])
    metrics.ended("a")
    metrics.ended("never seen")
    metrics.update(0, "a", [counter("jobs", 5), gauge("heat", 1)])
    metrics.update(0, "never seen", [counter("jobs", 5)])
    assert scrape(metrics) == {("jobs_total", frozenset()): 5}


def test_a_gauge_that_is_told_of_no_more_is_gone(metrics: WorkerMetrics) -> None:
    metrics.update(0, "a", [gauge("heat", 1), counter("jobs", 1)])
    metrics.update(0, "a", [])
    assert scrape(metrics) == {("jobs_total", frozenset()): 1}


def test_a_users_label_replica_stays_the_users(metrics: WorkerMetrics) -> None:
    metrics.update(3, "a", [gauge("lag", 7, replica="db-1")])
    assert value(metrics, "lag", replica="db-1", headrace_replica="3") == 7


def test_of_two_workers_of_one_replica_the_laters_gauges_are_shown(metrics: WorkerMetrics) -> None:
    metrics.update(0, "old", [gauge("heat", 1)])
    metrics.update(0, "new", [gauge("heat", 2)])
    metrics.update(0, "old", [gauge("heat", 3)])
    assert value(metrics, "heat", replica="0") == 2


def test_a_gauge_may_be_anything(metrics: WorkerMetrics) -> None:
    for replica, seen in enumerate((math.nan, math.inf, -1.0)):
        metrics.update(replica, replica, [gauge("heat", seen)])
    assert math.isnan(value(metrics, "heat", replica="0"))
    assert value(metrics, "heat", replica="1") == math.inf


def test_histograms_with_other_bounds_are_summed_over_those_they_share(
    metrics: WorkerMetrics, caplog: pytest.LogCaptureFixture
) -> None:
    metrics.update(0, "old", [histogram("size", {"1.0": 2, "2.0": 9, "+Inf": 10})])
    metrics.update(1, "new", [histogram("size", {"1.0": 1, "5.0": 3, "+Inf": 4})])
    metrics.update(0, "old", [histogram("size", {"1.0": 3, "2.0": 10, "+Inf": 12})])
    assert {(name, dict(labels).get("le")): v for (name, labels), v in scrape(metrics).items()} == {
        ("size_bucket", "1.0"): 4,
        ("size_bucket", "+Inf"): 16,
        ("size_count", None): 16,
        ("size_sum", None): 2,
    }
    assert [record.getMessage() for record in caplog.records] == [
        "workers differ in the buckets of size: only shared ones are exposed"
    ]


def test_one_bound_in_two_spellings_is_one(metrics: WorkerMetrics) -> None:
    metrics.update(0, "a", [histogram("size", {"1": 1, "inf": 2})])
    metrics.update(1, "b", [histogram("size", {"+Inf": 2, "1.0": 1})])
    assert value(metrics, "size_bucket", le="1.0") == 2
    assert value(metrics, "size_bucket", le="+Inf") == 4


@pytest.mark.parametrize(
    "broken",
    [
        histogram("size", {"1.0": 1}),
        histogram("size", {"1.0": 3, "+Inf": 2}),
        histogram("size", {"1.0": 0.5, "+Inf": 2}),
        histogram("size", {"nan": 1, "x": 1}),
        histogram("size", {"-1.0": 1, "+Inf": 2}),
        family("histogram", "size", ("_bucket", {}, 1)),
        family("histogram", "size", ("_bucket", {"le": "+Inf"}, 1), ("_count", {}, 1)),
        family(
            "histogram", "size", ("_bucket", {"le": "+Inf"}, 1), ("_count", {}, 2), ("_sum", {}, 2)
        ),
        family("counter", "size", ("", {}, 1), ("_created", {}, 1)),
        family("counter", "size", ("_total", {"__name__": "x"}, 1)),
        family("gauge", "size", ("", {'a"': "x"}, 1)),
        family("gauge", "size", ("_other", {}, 1)),
        family("gauge", "size"),
        family("summary", "size", ("", {"quantile": "0.5"}, 1)),
        family("stateset", "size", ("", {}, 1)),
        family("gaugehistogram", "size", ("_bucket", {"le": "+Inf"}, 1)),
        family("nonsense", "size", ("", {}, 1)),
        gauge('si"ze', 1),
        gauge("größe", 1),
        gauge("", 1),
        counter("headrace", 1),
        gauge("headrace_items", 1),
        gauge("process_open_fds", 1),
        gauge("python_info", 1),
    ],
)
def test_what_no_scraper_would_take_is_not_exposed(metrics: WorkerMetrics, broken: Family) -> None:
    metrics.update(0, "a", [broken, gauge("fine", 1)])
    assert scrape(metrics) == {("fine", frozenset({("replica", "0")})): 1}


def test_sums_have_no_values_that_are_negative_or_no_numbers(metrics: WorkerMetrics) -> None:
    for seen in (math.nan, math.inf, -math.inf, -3.0):
        metrics.update(0, "a", [counter("jobs", seen)])
        assert value(metrics, "jobs_total") == 0
    metrics.update(0, "a", [histogram("size", {"+Inf": 2}, total=math.nan)])
    assert value(metrics, "size_sum") == 0


def test_two_models_with_one_name_are_summed(metrics: WorkerMetrics) -> None:
    metrics.update("a/0", 1, [counter("jobs", 2), gauge("heat", 1)])
    metrics.update("b/0", 2, [counter("jobs", 3), gauge("heat", 2)])
    assert value(metrics, "jobs_total") == 5
    assert value(metrics, "heat", replica="b/0") == 2


@pytest.mark.parametrize(
    "second",
    [
        gauge("jobs", 1),
        gauge("jobs_total", 1),
        gauge("jobs_created", 1),
        family("summary", "jobs", ("_count", {}, 1), ("_sum", {}, 1)),
        family("info", "jobs", ("_info", {}, 1)),
    ],
)
def test_the_first_of_two_metrics_that_clash_stays_and_one_warning_tells(
    metrics: WorkerMetrics, caplog: pytest.LogCaptureFixture, second: Family
) -> None:
    metrics.update(0, "a", [counter("jobs", 1)])
    for _ in range(3):
        metrics.update(1, "b", [second])
    assert scrape(metrics) == {("jobs_total", frozenset()): 1}
    (record,) = caplog.records
    assert second.name in record.getMessage()


def test_new_series_are_dropped_when_there_is_no_more_room(
    caplog: pytest.LogCaptureFixture,
) -> None:
    metrics = WorkerMetrics(max_samples=3)
    metrics.update(
        0, "a", [counter("jobs", 1, n="0"), gauge("heat", 1), gauge("heat", 1, side="l")]
    )
    metrics.update(1, "b", [counter("jobs", 2, n="0"), counter("jobs", 2, n="1")])
    metrics.update(1, "b", [gauge("heat", 2), histogram("size", {"+Inf": 1})])
    assert set(scrape(metrics)) == {
        ("jobs_total", frozenset({("n", "0")})),
        ("heat", frozenset({("replica", "0")})),
        ("heat", frozenset({("replica", "0"), ("side", "l")})),
    }
    assert value(metrics, "jobs_total", n="0") == 3
    assert ["too many" in record.getMessage() for record in caplog.records] == [True]
    metrics.ended("a")
    metrics.update(1, "b", [gauge("heat", 2)])
    assert value(metrics, "heat", replica="1") == 2


def test_the_number_of_names_is_bounded_too() -> None:
    metrics = WorkerMetrics(max_samples=3)
    for n in range(5):
        metrics.update(0, "a", [gauge(f"gauge_{n}", 1)])
    metrics.update(0, "a", [gauge(f"gauge_{n}", 1) for n in range(5)])
    assert len(scrape(metrics)) == 3


def size_of(found: object) -> int:
    """Bytes of an object and what it holds."""
    seen: set[int] = set()

    def walk(each: object) -> int:
        if id(each) in seen:
            return 0
        seen.add(id(each))
        inside: Sequence[object] = ()
        if isinstance(each, dict):
            inside = [*each.keys(), *each.values()]
        elif isinstance(each, (list, tuple, set)):
            inside = list(each)
        elif hasattr(each, "__dict__"):
            inside = [vars(each)]
        return sys.getsizeof(each) + sum(map(walk, inside))

    return walk(found)


def test_a_thousand_lives_more_take_no_more_memory(metrics: WorkerMetrics) -> None:
    def live(lives: range) -> int:
        for life in lives:
            told = [counter("jobs", 1, n=str(n)) for n in range(10)]
            metrics.update(0, life, [*told, gauge("heat", life)])
            metrics.ended(life)
        return size_of({**vars(metrics), "_ended": None, "_once": None})

    before = live(range(1_000, 1_010))
    assert live(range(2_000, 2_000 + MAX_ENDED)) == before
    assert value(metrics, "jobs_total", n="3") == 10 + MAX_ENDED
    assert len(metrics._ended) == MAX_ENDED


Step = Callable[[WorkerMetrics], None]
numbers = st.one_of(st.floats(), st.integers(0, 5).map(float))


@st.composite
def histograms(draw: st.DrawFn) -> Family:
    bounds = [*draw(st.lists(st.sampled_from("1248"), unique=True)), "+Inf"]
    values = sorted(draw(st.lists(st.integers(0, 9), min_size=len(bounds), max_size=len(bounds))))
    ordered = sorted(bounds, key=float)
    return histogram("size", dict(zip(ordered, map(float, values), strict=True)), draw(numbers))


families = st.lists(
    st.one_of(
        st.builds(counter, st.sampled_from(["jobs", "runs"]), numbers),
        st.builds(lambda v, n: counter("kinds", v, kind=n), numbers, st.sampled_from("ab")),
        st.builds(gauge, st.sampled_from(["heat", "jobs"]), numbers),
        histograms(),
    ),
    max_size=4,
)
lives = st.integers(0, 4)
steps = st.lists(
    st.one_of(
        st.builds(lambda life, told: lambda m: m.update(life % 2, life, told), lives, families),
        st.builds(lambda life: lambda m: m.ended(life), lives),
    ),
    max_size=30,
)


def counted(metrics: WorkerMetrics) -> Iterator[tuple[tuple[str, str], float]]:
    for found in metrics.collect():
        if found.type in ("counter", "histogram"):
            for sample in found.samples:
                yield (sample.name, repr(sorted(sample.labels.items()))), sample.value


@given(steps, st.sampled_from([6, 10_000]))
def test_whatever_workers_tell_and_whenever_they_end_no_sum_goes_back(
    steps: list[Step], max_samples: int
) -> None:
    metrics = WorkerMetrics(max_samples)
    highest: dict[tuple[str, str], float] = {}
    for step in steps:
        step(metrics)
        now = dict(counted(metrics))
        # A bound that not all workers share goes; everything else that was there stays.
        assert all(name in now for name in highest if name[0] != "size_bucket")
        for name, seen in now.items():
            assert seen >= highest.get(name, 0.0)
        highest |= now
        size = sum(len(found.samples) for found in metrics.collect())
        assert size <= metrics._size <= max_samples
    if not any(math.isinf(seen) for seen in highest.values()):
        scrape(metrics)


@given(st.permutations([(life, seen) for life in range(3) for seen in (1.0, 2.0, 7.0)]))
def test_the_order_of_snapshots_does_not_matter(order: list[tuple[int, float]]) -> None:
    metrics = WorkerMetrics()
    for life, seen in order:
        metrics.update(life, life, [counter("jobs", seen)])
    assert value(metrics, "jobs_total") == 21


class Quiet(Model):
    def predict(self, batch: list[int]) -> list[int]:
        return batch


def test_what_the_engine_counts_of_its_replicas_is_exposed() -> None:
    with Client([Quiet]) as client:
        counts = client._engines[0].counts
        counts.restarts.update({"killed": 2, "hung": 1})
        counts.busy_s += 1.5
        counts.wire_sent_bytes += 10
        counts.wire_received_bytes += 20
        collector = HeadraceCollector(client._engines, client._service.counts)
        found = {
            (sample.name, sample.labels.get("reason")): sample.value
            for metric in collector.collect()
            for sample in metric.samples
            if sample.labels.get("model") == "quiet"
        }
    assert found["headrace_replica_restarts_total", "killed"] == 2
    assert found["headrace_replica_restarts_total", "hung"] == 1
    assert found["headrace_replica_busy_seconds_total", None] == 1.5
    assert found["headrace_worker_sent_bytes_total", None] == 10
    assert found["headrace_worker_received_bytes_total", None] == 20
    reasons = METRICS["headrace_replica_restarts_total"].doc
    for reason in ("exited", "killed", "hung", "broken", "protocol", "recycled", "scaled"):
        assert f"{reason} (" in reasons
