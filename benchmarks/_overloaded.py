"""A model whose capacity leaves the processors to whoever sends too much."""

from __future__ import annotations

import time
from typing import Any, ClassVar

from headrace import Batching, Model

SLOWER = 8
"""How much slower than the stand-in for a GPU of the other workloads."""
FIXED_S, ITEM_S = SLOWER * 0.005, SLOWER * 0.0001
MAX_BATCH_SIZE = 32
CAPACITY = MAX_BATCH_SIZE / (FIXED_S + ITEM_S * MAX_BATCH_SIZE)
"""Items a second, in full batches back to back."""


class Slow(Model):
    """Sleeps as long as a slow accelerator would compute, and echoes."""

    batching: ClassVar = Batching(max_batch_size=MAX_BATCH_SIZE)
    examples: ClassVar = [{"id": 7, "text": "water to the wheel"}]

    def predict(self, batch: list[dict[str, Any]]) -> list[dict[str, Any]]:
        time.sleep(FIXED_S + ITEM_S * len(batch))
        return batch
