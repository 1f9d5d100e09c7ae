"""What is read of the control group."""

from __future__ import annotations

from headrace.executors.memory import oom_kills


def test_the_count_is_a_number_wherever_it_runs_and_does_not_go_down() -> None:
    first = oom_kills()
    assert 0 <= first <= oom_kills()
