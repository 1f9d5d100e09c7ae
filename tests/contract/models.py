"""The model of the contract tests: it misbehaves on command and keeps a journal.

Both go through a folder, named by an environment variable, so that they work as well from another
process.
"""

from __future__ import annotations

import os
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from headrace import Batching, Model

FOLDER = "CONTRACT_FOLDER"


@dataclass
class Order:
    n: int
    do: str = ""


def note(text: str) -> None:
    """Add a line to the journal; whole, whoever else writes."""
    with (Path(os.environ[FOLDER]) / "journal").open("a") as journal:
        journal.write(text + "\n")


def is_set(name: str) -> bool:
    return (Path(os.environ[FOLDER]) / name).exists()


class Scripted(Model):
    """Doubles a number, unless told otherwise."""

    batching: ClassVar = Batching(max_batch_size=32)
    examples: ClassVar = [{"n": 0}]

    def load(self) -> None:
        note("load")
        if is_set("load raises"):
            raise OSError("no weights")

    def preprocess(self, order: Order) -> Order:
        if order.do == "preprocess":
            raise ValueError("told to")
        return order

    def predict(self, batch: list[Order]) -> Any:
        note("predict " + " ".join(str(order.n) for order in batch))
        if is_set("broken"):
            raise RuntimeError("out of memory")
        for order in batch:
            while order.do == "wait" and not is_set("go"):
                time.sleep(0.001)
            if order.do == "predict":
                raise ValueError("told to")
            if order.do == "exit":
                sys.exit(3)
            if order.do == "interrupt":
                raise KeyboardInterrupt
            if order.do == "too few":
                return batch[1:]
            if order.do == "generator":
                return (each for each in batch)
        return batch

    def postprocess(self, order: Order) -> Any:
        if order.do == "postprocess":
            raise ValueError("told to")
        return object() if order.do == "encode" else 2 * order.n

    def unload(self) -> None:
        note("unload")
