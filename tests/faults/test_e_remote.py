"""Models that fail in workers of other hosts: what is promised of a server's own holds there too.

One thing is different: nobody tells the front how a worker's process has ended, so that a crash
looks as an act from outside does, and is pardoned to each item once.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import TypeVar

import pytest

from tests.e2e.conftest import Served, eventually
from tests.e2e.remote import House, listens_at, wait_for_workers
from tests.faults.conftest import IS_LONG, rounds
from tests.faults.contract import LATE_S, Client, Contract, message
from tests.faults.eight import CANARY, EIGHT, MODELS, TOLD, fail_alone, told
from tests.faults.gate import EXPECTED
from tests.faults.test_e_workers import DEATHS, LOST, MEMORY, RESTARTS, killing

pytestmark = pytest.mark.slow

PREDICT_TIMEOUT_S = 1.5
DEADLINE_S = 0.3
MOST_DEATHS = 3
TOLD_WORKERS = 3
"""One is left where an item has made two of them hang, which do not end at once."""
HANGS = {
    "sleeping": "predict: sleep",
    "holding-the-lock": "predict: hang",
    "in-preprocess": "preprocess: hang",
}
T = TypeVar("T")


def some(cells: Mapping[str, T], *quick: str) -> dict[str, T]:
    """All cells in the long version, else these."""
    return {name: cell for name, cell in cells.items() if IS_LONG or name in quick}


class Far(Contract):
    """A front with workers of `Told`, and one of each of two other models."""

    def __init__(self, house: House) -> None:
        front = house.front(limits__predict_timeout_s=PREDICT_TIMEOUT_S, limits__keep_alive_s=600)
        at = listens_at(front)
        names = (*[f"{MODELS}:Told"] * TOLD_WORKERS, f"{MODELS}:ToldOnce", CANARY)
        self.workers: list[Served] = [house.worker(name, at) for name in names]
        front.wait_ready()
        self.front = front
        self.wait()
        super().__init__(front, "fast", expects=(*EXPECTED, "replica not ready"))

    def wait(self) -> None:
        """Wait until all of them are there."""
        for model, count in (("told", TOLD_WORKERS), ("told-once", 1), ("canary", 1)):
            wait_for_workers(self.front, count, model)

    def deaths(self) -> float:
        return self.front.metric(RESTARTS, model="told")

    def costs(
        self, client: Client, do: str, deaths: tuple[int, int], code: tuple[int, str] = LOST
    ) -> None:
        """One of eight ends so many workers, at least and at most; the others are answered."""
        before = self.deaths()
        with ExitStack() as stack:
            for worker in self.workers:
                stack.enter_context(killing(worker))
            fail_alone(client, ["", "", "", do], [code])
        died = self.deaths() - before
        assert deaths[0] <= died <= deaths[1], f"{died} deaths"
        self.wait()
        fail_alone(client, [], [])


@pytest.fixture(scope="module")
def far() -> Iterator[Far]:
    with tempfile.TemporaryDirectory(prefix="hr-") as folder:
        house = House(Path(folder))
        try:
            far = Far(house)
            yield far
            far.close()
        finally:
            house.stop()


FAR_DEATHS = some(
    {name: do for name, (do, _) in DEATHS.items()}, "preprocess-segfault", "predict-killed"
)


@pytest.mark.row("E7", "E9")
@pytest.mark.parametrize("do", FAR_DEATHS.values(), ids=FAR_DEATHS)
def test_seven_of_eight_are_answered_when_one_ends_workers_of_other_hosts(
    far: Far, do: str
) -> None:
    with far.watch() as client:
        for _ in range(rounds(1)):
            far.costs(client, do, (1, MOST_DEATHS))


FAR_MEMORY = some(MEMORY, "as-an-exception", "as-a-death")


@pytest.mark.row("E8")
@pytest.mark.parametrize(("do", "deaths", "code"), FAR_MEMORY.values(), ids=FAR_MEMORY)
def test_an_item_that_runs_out_of_another_hosts_memory_fails_alone(
    far: Far, do: str, deaths: tuple[int, int], code: tuple[int, str]
) -> None:
    with far.watch() as client:
        far.costs(client, do, (deaths[0], MOST_DEATHS if deaths[1] else 0), code)


@pytest.mark.row("E5")
@pytest.mark.parametrize("do", some(HANGS, "sleeping").values())
def test_a_hang_on_another_host_is_a_504_at_the_callers_deadline(far: Far, do: str) -> None:
    with far.watch(reaches=1) as client:
        before = far.front.metric(RESTARTS, model="told", reason="hung")
        wire, began = client.wire(), time.monotonic()
        order = f'{{"n": 1, "do": "{do}"}}'
        wire.send(message(TOLD, order, f"x-request-timeout: {DEADLINE_S}\r\n"))
        assert told([wire.answer()]) == [(504, "deadline_exceeded")]
        assert time.monotonic() - began < DEADLINE_S + LATE_S

        def is_given_up() -> bool:
            return far.front.metric(RESTARTS, model="told", reason="hung") == before + 1

        eventually(is_given_up, "the operator's deadline", PREDICT_TIMEOUT_S + LATE_S)
        assert time.monotonic() - began > PREDICT_TIMEOUT_S - 0.1
        far.wait()


@pytest.mark.row("E5")
@pytest.mark.parametrize("do", some(HANGS, "holding-the-lock").values())
def test_the_mates_of_an_item_that_hangs_on_another_host_are_answered(far: Far, do: str) -> None:
    with far.watch(reaches=2 * EIGHT) as client:
        far.costs(client, do, (2, 2))


@pytest.mark.counter("E7", "E8")
@pytest.mark.parametrize("do", ["predict: exit", "predict: memory death"])
def test_innocents_that_no_other_host_runs_again_are_noticed(far: Far, do: str) -> None:
    with far.watch() as client:
        with pytest.raises(AssertionError):
            fail_alone(client, ["", "", "", do], [LOST], "/models/told-once/predict")
        far.wait()
