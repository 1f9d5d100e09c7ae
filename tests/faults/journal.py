"""A model that notes each call, and goes on with it when a test says so; for every face.

The folder's `journal` has a line for each call of the model: the numbers in it. A call in which
an order says `step` waits for the file `step-N`, where N is the call's place in the journal.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, ClassVar

from headrace import Batching, Model

FOLDER = "E2E_FOLDER"
MAX_BATCH_SIZE = 4
WAIT_S = 60.0


def call(orders: Sequence[Mapping[str, Any]]) -> list[Any]:
    """What a model makes of a batch of orders."""
    numbers = [order["n"] for order in orders]
    if not any(numbers):
        return numbers  # an example
    folder = Path(os.environ[FOLDER])
    with (folder / "journal").open("a") as journal:
        journal.write(json.dumps(numbers) + "\n")
    if any(order.get("step") for order in orders):
        _wait_for(folder / f"step-{len((folder / 'journal').read_text().splitlines())}")
    for order in orders:
        if order.get("do") == "raise":
            raise ValueError("as it was told")
        if order.get("do") == "exit":
            os._exit(7)
    return [2 * order["n"] if not order.get("size") else "x" * order["size"] for order in orders]


def _wait_for(path: Path) -> None:
    ends = time.monotonic() + WAIT_S
    while not path.exists() and time.monotonic() < ends:
        time.sleep(0.002)


@dataclass
class Order:
    """What is to be done with an item.

    Attributes:
        n: Its number, which is doubled.
        step: Whether its calls wait to be told to go on.
        do: A fault: `raise` or `exit`.
        size: Of a text to answer with, in place of the double.
    """

    n: int
    step: bool = False
    do: str = ""
    size: int = 0


class Stepped(Model):
    """Doubles numbers, a few at a time."""

    batching: ClassVar = Batching(max_batch_size=MAX_BATCH_SIZE)

    def predict(self, batch: list[Order]) -> list[Any]:
        return call([asdict(order) for order in batch])
