"""Metrics of several processes, told by any of them."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

PROGRAM = """
import os, sys, warnings
warnings.simplefilter("error")
from falcon.testing import TestClient
from prometheus_client import Counter, Gauge
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.registry import Collector
from tests.unit.ventu.models import Length, Single, Text

class Own(Collector):
    def collect(self):
        yield GaugeMetricFamily("only_here", "Of this process", value=os.getpid())

model = Single(Text, Length)
own = Counter("own_metric", "The user's", registry=model.metric_registry)
model.metric_registry.register(Own())
client = TestClient(model.app)
for text in sys.argv[1:]:
    client.simulate_post("/inference", json={"text": text})
    own.inc()
print(client.simulate_get("/metrics").text)
"""
ROOT = Path(__file__).parents[3]


def run(*texts: str, **environment: str) -> dict[str, float]:
    """The samples that a process shows which was asked this."""
    plain = {k: v for k, v in os.environ.items() if k.lower() != "prometheus_multiproc_dir"}
    ran = subprocess.run(
        [sys.executable, "-c", PROGRAM, *texts],
        env=plain | {"PYTHONPATH": str(ROOT)} | environment,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert ran.returncode == 0, ran.stderr
    samples = dict[str, float]()
    for line in ran.stdout.splitlines():
        if line and not line.startswith("#"):
            name, _, value = line.rpartition(" ")
            assert name not in samples, "a sample that stands twice"
            samples[name] = float(value)
    return samples


INFERENCES = 'single_process_time_count{process="inference"}'


@pytest.mark.parametrize("name", ["PROMETHEUS_MULTIPROC_DIR", "prometheus_multiproc_dir"])
def test_all_processes_are_summed(name: str, tmp_path: Path) -> None:
    first = run("one", "two", "", **{name: str(tmp_path)})
    assert first[INFERENCES] == 3  # with the health check's
    second = run("three", "", "", **{name: str(tmp_path)})
    assert second[INFERENCES] == 5
    assert second["validation_error_counter_total"] == 3
    assert second["own_metric_total"] == 6
    assert second["only_here"] != first["only_here"]
    assert any(tmp_path.glob("*.db"))


def test_without_the_variable_each_is_alone() -> None:
    for _ in range(2):
        samples = run("one", "")
        assert samples[INFERENCES] == 2
        assert samples["validation_error_counter_total"] == 1
        assert samples["own_metric_total"] == 2
