from __future__ import annotations

import os
import time

import pytest
from _cost import Mark, between, cpu_s
from _wrk import Load

LOAD = Load(500, 2.0, p50_s=0.001, p90_s=0.002, p99_s=0.003, max_s=0.004, cpu_s=0, others_cores=0)


def test_a_cost_is_what_was_spent_between_two_marks_for_each_answer_between_them() -> None:
    before = Mark(answers=100, at=10.0, front_s=1.0, workers_s=0.5)
    after = Mark(answers=300, at=14.0, front_s=1.01, workers_s=0.502)
    cost = between(before, after, LOAD)
    assert cost.answers == 200
    assert cost.per_second == 50
    assert cost.front_us == pytest.approx(50)
    assert cost.workers_us == pytest.approx(10)
    assert cost.cpu_us == pytest.approx(60)
    assert cost.p99_us == pytest.approx(3000)


def test_the_clock_of_a_process_is_its_user_and_system_time() -> None:
    before = time.process_time()
    found = cpu_s(os.getpid())
    assert before <= found <= time.process_time()
