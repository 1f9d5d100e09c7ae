from __future__ import annotations

from headrace.clock import NEVER, remaining_s, system_clock


def test_remaining_time_is_never_negative() -> None:
    assert remaining_s(10.0, now=7.5) == 2.5
    assert remaining_s(10.0, now=11.0) == 0.0
    assert remaining_s(NEVER, now=1e9) == NEVER


def test_the_system_clock_does_not_go_back() -> None:
    assert system_clock() <= system_clock()
