"""One of our models on BentoML, with its adaptive batching."""

# mypy: ignore-errors
# Not `from __future__ import annotations`: BentoML reads the annotations.

from typing import Any

import bentoml
from _order import BATCH, Pipeline


@bentoml.service(workers=1, logging={"access": {"enabled": False}})
class Served:
    """One worker."""

    def __init__(self):
        self.pipeline = Pipeline()

    # Its window is what it may take in all: with 5 ms it refuses most of what waits.
    @bentoml.api(batchable=True, max_batch_size=BATCH, max_latency_ms=60_000)
    def predict(self, items: list[Any]) -> list[Any]:
        return self.pipeline.run(items)
