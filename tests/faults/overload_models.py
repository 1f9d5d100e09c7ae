"""The models behind the rows of overload: they take their time, and leave the processor alone."""

from __future__ import annotations

import time
from typing import Any, ClassVar

from headrace import Batching, Model


class Slow(Model):
    """Echoes; a batch of 8 takes 80 ms, and 100 items a second are all that it can do."""

    batching: ClassVar = Batching(max_batch_size=8)
    seconds: ClassVar = 0.08

    def predict(self, batch: list[Any]) -> list[Any]:
        time.sleep(self.seconds)
        return batch


class Brisk(Slow):
    """Echoes; a batch of 8 takes 5 ms."""

    batching: ClassVar = Batching(max_batch_size=8)
    seconds: ClassVar = 0.005


class Flooded(Brisk):
    """Another such model."""
