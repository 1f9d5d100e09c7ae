"""A model that one item breaks for good: the item fails, the worker is replaced, nobody else fails.

A device's context is lost so: what it is asked after an illegal access fails, whoever asks. Where
there is no CUDA device a model in Python does the same.
"""

from __future__ import annotations

import importlib.util
import subprocess
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.e2e.conftest import Serve, Served, eventually
from tests.faults.conftest import rounds
from tests.faults.defences import without
from tests.faults.device_models import BUSY, HUGE, POISON
from tests.faults.watch import kill, tree

pytestmark = pytest.mark.slow

MODELS = Path(__file__).with_name("device_models.py")
INNOCENT = [3, 5, 7, 9, 11, 13, 15]


def has_device() -> bool:
    """Whether there is a CUDA device, and PyTorch for it."""
    if importlib.util.find_spec("torch") is None:
        return False
    done = subprocess.run(["nvidia-smi", "-L"], capture_output=True, check=False)
    return done.returncode == 0 and b"GPU" in done.stdout


needs_device = pytest.mark.skipif("not has_device()", reason="there is no CUDA device")
MODEL_NAMES = ["Breaks", pytest.param("OnDevice", marks=needs_device)]


def ask_together(server: Served, numbers: list[int]) -> list[tuple[int, object]]:
    """Ask all at once, so that they are one batch."""

    def ask(n: int) -> tuple[int, object]:
        answer = server.post("/predict", n)
        return answer.status_code, answer.json() if answer.is_success else answer.json()["code"]

    with ThreadPoolExecutor(len(numbers)) as pool:
        return list(pool.map(ask, numbers))


def poisoned(server: Served) -> list[tuple[int, object]]:
    return ask_together(server, [*INNOCENT[:4], POISON, *INNOCENT[4:]])


EXPECTED: list[tuple[int, object]] = [(200, 2 * n) for n in INNOCENT]
EXPECTED.insert(4, (500, "model_error"))


@pytest.mark.row("E2", "E9")
@pytest.mark.parametrize("name", MODEL_NAMES)
def test_an_item_that_breaks_the_model_for_good_fails_alone(serve: Serve, name: str) -> None:
    server = serve(f"{MODELS}:{name}")
    restarts = "headrace_replica_restarts_total"
    for _ in range(rounds(2)):
        before = server.metric(restarts)
        assert poisoned(server) == EXPECTED
        eventually(lambda: server.get("/readyz").status_code == 200, "ready")
        assert server.metric(restarts) - before <= 2
        assert ask_together(server, [21]) == [(200, 42)]


@pytest.mark.counter("E2", "E9")
def test_without_a_second_try_the_innocent_fail_with_it(serve: Serve) -> None:
    server = serve(f"{MODELS}:Breaks", env=without("what broke a model is looked for"))
    assert poisoned(server) == 8 * [(500, "model_error")]


@pytest.mark.row("E8")
@needs_device
def test_what_a_device_has_no_memory_for_fails_alone_and_ends_no_worker(serve: Serve) -> None:
    server = serve(f"{MODELS}:OnDevice")
    for _ in range(rounds(2)):
        answers = ask_together(server, [*INNOCENT, HUGE])
        assert answers == [*[(200, 2 * n) for n in INNOCENT], (500, "model_error")]
    assert server.metric("headrace_replica_restarts_total") == 0


@pytest.mark.row("E7")
@needs_device
def test_a_dead_worker_leaves_the_memory_of_its_device(serve: Serve) -> None:
    server = serve(f"{MODELS}:OnDevice")
    assert ask_together(server, [BUSY])[0][0] == 200
    full = device_memory_mib()
    (worker,) = tree(server) - {server.process.pid}
    kill(worker)
    eventually(lambda: device_memory_mib() <= full - 900, "a gigabyte to be free")
    eventually(lambda: server.get("/readyz").status_code == 200, "ready")
    assert ask_together(server, [4]) == [(200, 8)]


def device_memory_mib() -> int:
    """What is used of the first device."""
    command = ["nvidia-smi", "--query-gpu=memory.used", "--format=csv,noheader,nounits"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return int(done.stdout.split()[0])
