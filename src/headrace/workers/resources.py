"""How cores, threads and devices are divided among the replicas of one machine."""

from __future__ import annotations

from collections.abc import Sequence

THREAD_VARIABLES = (
    "OMP_NUM_THREADS",
    "OPENBLAS_NUM_THREADS",
    "MKL_NUM_THREADS",
    "NUMEXPR_NUM_THREADS",
    "VECLIB_MAXIMUM_THREADS",
    "RAYON_NUM_THREADS",
    "TF_NUM_INTRAOP_THREADS",
)
"""What the numeric libraries read; one that the operator has set is left alone."""

DEVICE_VARIABLE = "CUDA_VISIBLE_DEVICES"


def cpus_of(seat: int, seats: int, cpus: Sequence[int]) -> tuple[int, ...] | None:
    """The cores of one replica: neighbours, none of them another's; None for no share of its own.

    That holds among those that were started for as many seats.

    >>> [cpus_of(seat, 3, range(8)) for seat in range(3)]
    [(0, 1), (2, 3, 4), (5, 6, 7)]
    """
    if seats == 1 or len(cpus) < seats:
        return None
    return tuple(cpus[seat * len(cpus) // seats : (seat + 1) * len(cpus) // seats])


def threads_of(seats: int, cpus: int) -> int:
    """How many threads a replica's numeric libraries may use, so that all fit the cores.

    >>> [threads_of(seats, 8) for seats in (1, 3, 16)]
    [8, 2, 1]
    """
    return max(1, cpus // seats)


def devices_of(seat: int, devices: str) -> str:
    """The devices of one replica: `0,1` gives each one in turn, `0+1,2+3` each two.

    >>> [devices_of(seat, "0+1,2") for seat in range(3)]
    ['0,1', '2', '0,1']
    """
    groups = [group.strip() for group in devices.split(",") if group.strip()]
    return groups[seat % len(groups)].replace("+", ",") if groups else ""
