"""Schedules."""

from __future__ import annotations

import itertools
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from headrace.loadtest.arrivals import constant, poisson

rates = st.floats(min_value=1e-3, max_value=1e6)


@given(count=st.integers(0, 300), rate=rates)
def test_constant_instants_are_multiples_of_the_gap(count: int, rate: float) -> None:
    # Not sums of it, which would drift away from the rate.
    assert list(constant(count, rate)) == [index / rate for index in range(count)]


@given(count=st.integers(0, 300), rate=rates, seed=st.integers())
def test_random_instants_ascend_and_are_the_same_for_a_seed(
    count: int, rate: float, seed: int
) -> None:
    instants = list(poisson(count, rate, seed=seed))
    assert len(instants) == count
    assert all(0 <= first <= second for first, second in itertools.pairwise(instants))
    assert instants == list(poisson(count, rate, seed=seed))


def test_random_gaps_are_distributed_exponentially() -> None:
    instants = poisson(20_000, 100, seed=1)
    gaps = [after - before for before, after in itertools.pairwise(instants)]
    mean = sum(gaps) / len(gaps)
    assert mean == pytest.approx(0.01, rel=0.03)
    for multiple in (0.5, 1, 2, 3):
        share = sum(gap > multiple * mean for gap in gaps) / len(gaps)
        assert share == pytest.approx(math.exp(-multiple), abs=0.02)
    assert poisson(5, 100, seed=1) != poisson(5, 100, seed=2)


def test_at_an_infinite_rate_all_are_due_at_once() -> None:
    assert list(constant(3, math.inf)) == [0.0] * 3
    assert list(poisson(3, math.inf, seed=1)) == [0.0] * 3


@pytest.mark.parametrize("rate", [0, -1, math.nan], ids=str)
def test_a_rate_is_above_zero(rate: float) -> None:
    with pytest.raises(ValueError, match="requests_per_second: expected a number above 0, got"):
        constant(1, rate)
    with pytest.raises(ValueError, match="requests_per_second"):
        poisson(1, rate, seed=0)


def test_a_count_is_not_negative() -> None:
    with pytest.raises(ValueError, match="count: expected at least 0, got -1"):
        constant(-1, 1)
