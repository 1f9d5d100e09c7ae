"""The models of the tests of remote workers. They note what they do in a folder."""

from __future__ import annotations

import os
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from headrace import Batching, Model

FOLDER = "E2E_FOLDER"


@dataclass
class Order:
    """What the model shall do with an item."""

    n: int
    do: str = ""
    s: float = 0.0


class Double(Model):
    """Doubles a number, or what it is told."""

    batching: ClassVar = Batching(max_batch_size=4)
    examples: ClassVar = [{"n": 0}]

    def load(self) -> None:
        self._note("load")

    def predict(self, batch: list[Order]) -> list[Any]:
        self._note("predict " + " ".join(str(order.n) for order in batch))
        for order in batch:
            if order.do == "die":
                os._exit(9)
            if order.do == "hang":
                time.sleep(3600)
        time.sleep(max(order.s for order in batch))
        return [2 * order.n for order in batch]

    def unload(self) -> None:
        self._note("unload")

    def _note(self, text: str) -> None:
        with (Path(os.environ[FOLDER]) / "journal").open("a") as journal:
            journal.write(text + "\n")


class Newer(Double):
    """Doubles a number, as ever."""

    name: ClassVar = "double"
    version: ClassVar = "2"


class Other(Double):
    """Takes something else under the same name."""

    name: ClassVar = "double"

    def preprocess(self, text: str) -> Any:
        return Order(len(text))

    examples: ClassVar = ["one"]


class Triple(Double):
    """Another model."""

    def predict(self, batch: list[Order]) -> list[Any]:
        return [3 * order.n for order in batch]


BOTH = [Double, Triple]


class SlowToUnload(Double):
    def unload(self) -> None:
        self._note("unload")
        time.sleep(1.0)
        self._note("unloaded")


class LoadRaises(Double):
    def load(self) -> None:
        raise OSError("no weights")


class LoadDies(Double):
    def load(self) -> None:
        os._exit(9)
