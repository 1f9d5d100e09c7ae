"""Models that stand for others: what they cost is known, so that the rest is headrace's."""

from __future__ import annotations

import mmap
import os
import time
from typing import Any, ClassVar

from headrace import Batching, Model

FIXED_S, ITEM_S = 0.005, 0.0001
"""What a batch costs on the stand-in for a GPU, and what each of its items adds."""


TALLY = "BENCH_TALLY"
"""The variable that names a file in which the stand-in counts; without it, nobody looks."""


def tally(path: str | None) -> memoryview:
    """How many batches and how many items there were: two integers, shared through a file."""
    if path is None:
        return memoryview(bytearray(16)).cast("q")
    with open(path, "r+b") as file:
        return memoryview(mmap.mmap(file.fileno(), 16)).cast("q")


class Gpu(Model):
    """Sleeps as long as an accelerator would compute, and echoes."""

    batching: ClassVar = Batching(max_batch_size=32)
    examples: ClassVar = [{"id": 7, "text": "water to the wheel"}]

    def load(self) -> None:
        self._tally = tally(os.environ.get(TALLY))

    def predict(self, batch: list[dict[str, Any]]) -> list[dict[str, Any]]:
        time.sleep(FIXED_S + ITEM_S * len(batch))
        self._tally[0] += 1
        self._tally[1] += len(batch)
        return batch


class Tensor(Model):
    """Gives bytes back, such as those of an array."""

    batching: ClassVar = Batching(max_batch_size=32)
    examples: ClassVar = [b"\0\0\x80\x3f"]

    def predict(self, batch: list[bytes]) -> list[bytes]:
        return batch


class Handled(Model):
    """A preprocess of 2 ms a batch, and a predict of 5 ms that leaves the processor."""

    batching: ClassVar = Batching(max_batch_size=32)
    examples: ClassVar = [{"id": 7, "text": "water to the wheel"}]

    def preprocess(self, item: dict[str, Any]) -> dict[str, Any]:
        ends = time.perf_counter() + 0.002 / 32
        while time.perf_counter() < ends:
            pass
        return item

    def predict(self, batch: list[dict[str, Any]]) -> list[dict[str, Any]]:
        time.sleep(0.005)
        return batch
