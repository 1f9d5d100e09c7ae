"""How often a client may ask."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from headrace.rates import SWEEP_S, Rates


def admitted(rates: Rates, client: str, instants: list[float]) -> int:
    return sum(not rates.take(client, now) for now in instants)


def test_a_quiet_client_may_ask_a_few_times_at_once_and_then_at_its_rate() -> None:
    rates = Rates(10.0, 5)
    assert admitted(rates, "a", [0.0] * 20) == 5
    assert admitted(rates, "a", [0.1] * 20) == 1
    assert admitted(rates, "a", [0.6] * 20) == 5
    assert admitted(rates, "a", [100.0] * 20) == 5


def test_a_refusal_tells_when_to_come_again_and_costs_nothing() -> None:
    rates = Rates(4.0, 1)
    assert rates.take("a", 10.0) == 0.0
    assert [rates.take("a", 10.1) for _ in range(3)] == [pytest.approx(0.15)] * 3
    assert rates.take("a", 10.1 + 0.15) == 0.0


def test_clients_have_buckets_of_their_own() -> None:
    rates = Rates(1.0, 2)
    assert [admitted(rates, client, [0.0] * 9) for client in "abc"] == [2, 2, 2]


def test_those_whose_bucket_is_full_again_are_forgotten() -> None:
    rates = Rates(10.0, 2, max_clients=3)
    for client in "abc":
        assert rates.take(client, 0.0) == 0.0
    assert rates.take("d", 5.0) == 0.0
    assert rates.clients == 1


def test_newcomers_share_a_bucket_when_there_is_no_room_for_them() -> None:
    rates = Rates(0.1, 2, max_clients=3)
    assert [rates.take(client, 0.0) for client in "abc"] == [0.0] * 3
    assert admitted(rates, "d", [0.1]) + admitted(rates, "e", [0.1] * 5) == 2
    assert admitted(rates, "a", [0.1] * 5) == 1, "who is known keeps its own"
    assert rates.clients == 4


def test_random_addresses_take_bounded_memory_and_have_a_bounded_rate_together() -> None:
    rates = Rates(1.0, 1, max_clients=100)
    passed = sum(not rates.take(f"{n}", n / 10_000) for n in range(20_000))
    assert rates.clients <= 101
    assert passed <= 3 * 101 + 3, "what was there at first, and a second and another later"


def test_looking_for_who_may_be_forgotten_is_not_done_at_each_request() -> None:
    rates = Rates(0.1, 1, max_clients=2)
    for client in "ab":
        rates.take(client, 0.0)
    rates.take("c", 1.0)
    # a and b are full again, but it was looked a moment ago.
    rates._full_at.update(a=1.1, b=1.1)
    assert rates.take("d", 1.0 + SWEEP_S - 0.01) > 0
    assert rates.take("d", 1.0 + SWEEP_S) == 0.0
    assert "d" in rates._full_at


@given(
    st.floats(0.5, 100), st.integers(1, 20), st.lists(st.floats(0, 10), min_size=1, max_size=200)
)
def test_no_client_ever_gets_more_than_its_burst_and_its_rate(
    per_s: float, burst: int, instants: list[float]
) -> None:
    instants.sort()
    rates = Rates(per_s, burst)
    passed = [now for now in instants if not rates.take("a", now)]
    for first in range(len(passed)):
        for last in range(first, len(passed)):
            span_s = passed[last] - passed[first]
            assert last - first + 1 <= burst + span_s * per_s + 1e-6
