"""The models behind the rows of broken HTTP. Signals from the test are files of a folder."""

from __future__ import annotations

import os
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from headrace import Batching, Model

FOLDER = "E2E_FOLDER"


def wait_for(name: str, at_most_s: float = 60.0) -> None:
    """Wait until a file is there."""
    ends = time.monotonic() + at_most_s
    while not (Path(os.environ[FOLDER]) / name).exists() and time.monotonic() < ends:
        time.sleep(0.002)


class Canary(Model):
    """Doubles a number."""

    examples: ClassVar = [1]

    def predict(self, batch: list[int]) -> list[int]:
        return [2 * n for n in batch]


@dataclass
class Order:
    """A number, and what to wait for first."""

    n: int
    wait: str = ""


class Typed(Model):
    """Doubles a number, in batches of a few, which may be told to wait."""

    batching: ClassVar = Batching(max_batch_size=4)

    def predict(self, batch: list[Order]) -> list[int]:
        for order in batch:
            if order.wait:
                wait_for(order.wait)
        return [2 * order.n for order in batch]


class Size(Model):
    """Tells how long a body is."""

    def predict(self, batch: list[bytes]) -> list[int]:
        return [len(body) for body in batch]


class Held(Size):
    """Does so only when the file `size` is there, one at a time."""

    batching: ClassVar = Batching(max_batch_size=1)

    def predict(self, batch: list[bytes]) -> list[int]:
        wait_for("size")
        return super().predict(batch)


class Large(Model):
    """Answers a text as long as it is asked for, or a list nested as deep."""

    def predict(self, batch: list[int]) -> list[Any]:
        return [self.nested(-n) if n < 0 else "x" * n for n in batch]

    def nested(self, depth: int) -> list[Any]:
        value: list[Any] = []
        for _ in range(depth):
            value = [value]
        return value
