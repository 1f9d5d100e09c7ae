"""How a machine is divided among replicas."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from headrace.workers.resources import cpus_of, devices_of, threads_of


@given(seats=st.integers(2, 64), cpus=st.sets(st.integers(0, 1023), max_size=256))
def test_cores_go_to_one_replica_each_and_none_is_left_out(seats: int, cpus: set[int]) -> None:
    own = sorted(cpus)
    shares = [cpus_of(seat, seats, own) for seat in range(seats)]
    if len(own) < seats:
        assert shares == [None] * seats
        return
    taken = [share for share in shares if share]
    assert len(taken) == seats, "each has at least one"
    assert [cpu for share in taken for cpu in share] == own
    sizes = {len(share) for share in taken}
    assert max(sizes) - min(sizes) <= 1


def test_a_single_replica_keeps_all_cores_to_itself() -> None:
    assert cpus_of(0, 1, range(8)) is None


@given(seats=st.integers(1, 256), cpus=st.integers(1, 256))
def test_threads_fit_the_cores_or_are_one_each(seats: int, cpus: int) -> None:
    threads = threads_of(seats, cpus)
    assert threads >= 1
    assert threads == 1 or threads * seats <= cpus
    assert (threads + 1) * seats > cpus


@pytest.mark.parametrize(
    ("devices", "expected"),
    [
        ("", ["", "", ""]),
        (" , ", ["", "", ""]),
        ("3", ["3", "3", "3"]),
        ("0,1", ["0", "1", "0"]),
        (" 0 , 1 ", ["0", "1", "0"]),
        ("0+1,2+3", ["0,1", "2,3", "0,1"]),
        ("GPU-a,GPU-b,GPU-c", ["GPU-a", "GPU-b", "GPU-c"]),
    ],
)
def test_devices_go_round(devices: str, expected: list[str]) -> None:
    assert [devices_of(seat, devices) for seat in range(3)] == expected
