"""Models that stand for others: what they cost is known, so that the rest is headrace's."""

from __future__ import annotations

import time
from typing import Any, ClassVar

from headrace import Batching, Model

FIXED_S, ITEM_S = 0.005, 0.0001
"""What a batch costs on the stand-in for a GPU, and what each of its items adds."""


class Gpu(Model):
    """Sleeps as long as an accelerator would compute, and echoes."""

    batching: ClassVar = Batching(max_batch_size=32)
    examples: ClassVar = [{"id": 7, "text": "water to the wheel"}]

    def predict(self, batch: list[dict[str, Any]]) -> list[dict[str, Any]]:
        time.sleep(FIXED_S + ITEM_S * len(batch))
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
