"""The figures of docs/decisions/0002-batching-rules.md, from the simulator and the real batcher."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

import pytest

from headrace.batching import Rules

SIMULATE = Path(__file__).parents[3] / "benchmarks" / "simulate.py"


def load() -> ModuleType:
    spec = importlib.util.spec_from_file_location("simulate", SIMULATE)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    # Dataclasses look their module up by its name.
    sys.modules["simulate"] = module
    spec.loader.exec_module(module)
    return module


simulate = load()
RULES: dict[str, Rules] = simulate.RULES


def share(rules: str, clients: int, replicas: int = 1) -> float:
    done = simulate.closed_loop(RULES[rules], clients, replicas=replicas, seconds=3.0)
    return float(done.share)


def percentiles(rules: str, load: float, replicas: int = 1) -> tuple[float, float]:
    arrivals = simulate.poisson(load, replicas=replicas)
    done = simulate.open_loop(RULES[rules], arrivals, replicas=replicas, seconds=10.0)
    return done.percentile_ms(50), done.percentile_ms(99)


@pytest.mark.parametrize(
    ("rules", "shares"),
    [
        ("one slot", [0.17, 0.57, 0.67, 0.93]),
        ("greedy second slot", [0.13, 0.45, 0.54, 0.77]),
        ("full second slot", [0.17, 0.57, 0.70, 1.00]),
    ],
)
def test_the_simulator_agrees_with_the_known_figures(rules: str, shares: list[float]) -> None:
    assert [share(rules, n) for n in (8, 32, 40, 64)] == pytest.approx(shares, abs=0.01)


@pytest.mark.parametrize(
    ("clients", "least"),
    [(1, 0.043), (8, 0.28), (32, 0.87), (40, 0.88), (64, 1.00), (256, 1.00)],
)
def test_all_rules_together_serve_this_share_of_the_ideal(clients: int, least: float) -> None:
    assert share("full second slot, settling", clients) >= 0.99 * least


@pytest.mark.parametrize(
    ("clients", "least"), [(16, 0.275), (64, 0.87), (80, 0.90), (128, 1.00), (512, 1.00)]
)
def test_two_replicas_serve_as_much_each(clients: int, least: float) -> None:
    assert share("full second slot, settling", clients, replicas=2) >= 0.99 * least


@pytest.mark.parametrize(
    ("load", "replicas", "p50", "p99"),
    [
        (0.50, 1, 10.6, 14.6),
        (0.80, 1, 12.3, 17.1),
        (0.95, 1, 14.5, 24.7),
        # Less than with one: the second slot goes where the work is nearest its end.
        (0.80, 2, 11.2, 15.7),
    ],
)
def test_under_random_arrivals_nobody_waits_longer_than_this(
    load: float, replicas: int, p50: float, p99: float
) -> None:
    measured = percentiles("full second slot, settling", load, replicas)
    assert measured[0] <= 1.02 * p50
    assert measured[1] <= 1.02 * p99


def test_settling_costs_random_arrivals_next_to_nothing() -> None:
    with_it, without = (
        percentiles(rules, 0.80) for rules in ("full second slot, settling", "full second slot")
    )
    assert with_it[0] <= 1.02 * without[0]
    assert with_it[1] <= 1.02 * without[1]


def test_of_a_burst_all_are_served_in_two_batch_times() -> None:
    rules = RULES["full second slot, settling"]
    done = simulate.open_loop(rules, simulate.bursts(64, 0.025), replicas=1, seconds=1.0)
    least_ms = 1000 * (2 * simulate.FULL_BATCH_S + simulate.HANDOVER_S)
    assert done.percentile_ms(99) == pytest.approx(least_ms, abs=0.01)
