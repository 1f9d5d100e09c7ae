"""What a scrape gets."""

from __future__ import annotations

import random
from collections.abc import Iterator
from typing import Any, ClassVar

import pytest
from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.openmetrics.parser import text_string_to_metric_families as parse_openmetrics
from prometheus_client.parser import text_string_to_metric_families as parse
from prometheus_client.registry import Collector

from headrace import ItemError, Model
from headrace.metrics import HttpCounts
from headrace.metrics.prometheus import METRICS, Exposition
from headrace.testing import Client

Samples = dict[tuple[str, frozenset[tuple[str, str]]], float]


class Picky(Model):
    """Takes even numbers; 1 breaks its batch."""

    def predict(self, batch: list[int]) -> list[Any]:
        if 1 in batch:
            raise ValueError("no ones")
        return [ItemError("odd") if n % 2 else n for n in batch]


class Quiet(Model):
    examples: ClassVar = [1]

    def predict(self, batch: list[int]) -> list[int]:
        return batch


@pytest.fixture
def client() -> Iterator[Client]:
    with Client([Picky, Quiet]) as client:
        yield client


def scrape(client: Client) -> Samples:
    engines, counts = client._engines, client._service.counts
    _, text = Exposition(engines, counts).render("text/plain")
    return {
        (sample.name, frozenset(sample.labels.items())): sample.value
        for family in parse(text.decode())
        for sample in family.samples
        if sample.name.startswith("headrace_")
    }


def value(samples: Samples, name: str, **labels: str) -> float:
    return samples[name, frozenset(labels.items())]


def test_every_declared_metric_appears_with_its_kind_and_labels(client: Client) -> None:
    client.request("POST", "/predict", b"2")
    client.request("POST", "/predict", b"x")
    client._engines[0].counts.refused["queue_full"] += 1
    _, text = Exposition(client._engines, client._service.counts).render("text/plain")
    families = {f.name: f for f in parse(text.decode()) if f.name.startswith("headrace_")}
    assert {name.removesuffix("_total") for name in METRICS} == set(families)
    for name, described in METRICS.items():
        family = families[name.removesuffix("_total")]
        assert family.type == described.kind
        for sample in family.samples:
            assert set(sample.labels) - {"le"} == set(described.labels), name


def test_known_traffic_is_counted_exactly(client: Client) -> None:
    client.requests([("POST", "/predict", body, {}) for body in (b"2", b"4", b"3", b"x")])
    client.request("POST", "/models/quiet/predict", b"7")
    client.request("GET", "/predict")
    client.request("POST", "/predict", b"1")
    samples = scrape(client)
    http = "headrace_http_requests_total"
    assert value(samples, http, route="/predict", status="200") == 2
    assert value(samples, http, route="/predict", status="400") == 1
    assert value(samples, http, route="/predict", status="405") == 1
    assert value(samples, http, route="/predict", status="422") == 1
    assert value(samples, http, route="/predict", status="500") == 1
    assert value(samples, http, route="/models/{name}/predict", status="200") == 1
    assert value(samples, "headrace_http_request_seconds_count", route="/predict") == 6
    items = "headrace_items_total"
    assert value(samples, items, model="picky", code="ok") == 2
    assert value(samples, items, model="picky", code="item_error") == 1
    assert value(samples, items, model="picky", code="malformed") == 1
    assert value(samples, items, model="picky", code="model_error") == 1
    assert value(samples, items, model="quiet", code="ok") == 1
    batch = "headrace_batch_items"
    assert value(samples, batch + "_count", model="picky") == 2
    assert value(samples, batch + "_sum", model="picky") == 5
    assert value(samples, batch + "_bucket", model="picky", le="1.0") == 1
    assert value(samples, batch + "_bucket", model="picky", le="4.0") == 2
    assert value(samples, batch + "_bucket", model="picky", le="+Inf") == 2
    assert value(samples, "headrace_isolations_total", model="picky") == 1
    assert value(samples, "headrace_queue_seconds_count", model="picky") == 5


def test_gauges_are_back_to_zero_when_all_is_answered(client: Client) -> None:
    client.predict_many([2, 4, 6])
    samples = scrape(client)
    for name in ("headrace_queue_items", "headrace_queue_bytes", "headrace_running_items"):
        assert value(samples, name, model="picky") == 0
    assert value(samples, "headrace_http_requests_in_flight") == 0
    assert value(samples, "headrace_replicas_ready", model="picky") == 1


def test_ten_thousand_random_paths_and_methods_make_no_new_series(client: Client) -> None:
    for path in ("/models/{}/predict", "/v1/models/{}:predict"):
        client.request("POST", path.format("nope"), b"1")
    before = set(scrape(client))
    rng = random.Random(7)
    for _ in range(10_000):
        name = "".join(rng.choices('abcäöü%\r\n"{}\\ ', k=rng.randint(1, 12)))
        path = rng.choice(("/models/{}/predict", "/v1/models/{}:predict")).replace("{}", name)
        client.request(
            rng.choice(("GET", "POST", name.upper())), path, b"1", {"x-request-id": name}
        )
    assert set(scrape(client)) == before


def test_a_scraper_that_asks_for_openmetrics_gets_it(client: Client) -> None:
    client.request("POST", "/predict", b"2")
    exposition = Exposition(client._engines, HttpCounts())
    media_type, text = exposition.render("application/openmetrics-text; version=1.0.0")
    assert media_type.startswith("application/openmetrics-text")
    families = parse_openmetrics(text.decode())  # type: ignore[no-untyped-call]
    assert {family.name for family in families} > {"headrace_items"}


class Other(Collector):
    """Has a metric of its own, and one that the process has too."""

    def collect(self) -> Iterator[Metric]:
        yield GaugeMetricFamily("python_info", "not this one's to tell", value=7)
        yield GaugeMetricFamily("other", "its own", value=3)


def test_of_two_metrics_of_one_name_the_first_is_shown(client: Client) -> None:
    exposition = Exposition(client._engines, HttpCounts(), [Other(), Other()])
    families = list(parse(exposition.render("")[1].decode()))
    shown = {f.name: [s.value for s in f.samples] for f in families}
    assert len(shown) == len(families)
    assert (shown["python_info"], shown["other"]) == ([7], [3])


def test_the_processs_own_metrics_stand_beside(client: Client) -> None:
    _, text = Exposition(client._engines, HttpCounts()).render("")
    assert b"python_info" in text
