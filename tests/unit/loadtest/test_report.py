"""Statistics, against their definitions."""

from __future__ import annotations

import math
import random
import statistics

import pytest
from hypothesis import given
from hypothesis import strategies as st

from headrace.loadtest.report import percentile, rate, summarize

durations = st.lists(st.floats(min_value=0, max_value=1e6), min_size=1, max_size=300)


@given(values=durations, percent=st.integers(1, 100))
def test_a_percentile_is_the_least_value_that_so_many_do_not_exceed(
    values: list[float], percent: int
) -> None:
    least = min(
        value
        for value in values
        if 100 * sum(other <= value for other in values) >= percent * len(values)
    )
    assert percentile(sorted(values), percent) == least


@pytest.mark.parametrize("percent", range(1, 101))
def test_percentiles_of_a_hundred_values_are_the_values(percent: int) -> None:
    assert percentile(range(1, 101), percent) == percent


@given(values=durations, shuffling=st.randoms(use_true_random=False))
def test_a_summary_agrees_with_the_standard_library(
    values: list[float], shuffling: random.Random
) -> None:
    found = summarize(iter(values))
    assert found.mean == pytest.approx(statistics.fmean(values), rel=1e-9, abs=1e-12)
    assert found.std == pytest.approx(statistics.pstdev(values), rel=1e-6, abs=1e-9)
    assert found.max == max(values)
    ordered = sorted(values)
    percentiles = [percentile(ordered, percent) for percent in (50, 90, 95, 99)]
    assert [found.p50, found.p90, found.p95, found.p99] == percentiles
    shuffling.shuffle(values)
    assert summarize(values) == found


def test_equal_values_have_no_deviation() -> None:
    assert summarize([0.1] * 1000)[:3] == (0.1, 0.0, 0.1)


def test_nothing_has_no_summary() -> None:
    assert all(math.isnan(value) for value in summarize([]))


def test_a_rate_needs_time() -> None:
    assert rate(10, 2.0) == 5.0
    assert rate(10, 0.0) == 0.0
