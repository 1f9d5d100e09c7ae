"""The models that the served tests serve. What they must tell or be told goes through a folder."""

from __future__ import annotations

import os
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from headrace import Batching, ItemError, Model

FOLDER = "E2E_FOLDER"


def folder() -> Path:
    return Path(os.environ[FOLDER])


def wait_for(name: str, at_most_s: float = 60.0) -> None:
    """Wait until a file is there."""
    ends = time.monotonic() + at_most_s
    while not (folder() / name).exists() and time.monotonic() < ends:
        time.sleep(0.005)


@dataclass
class Order:
    """What the model shall do with an item."""

    n: int
    do: str = ""
    s: float = 0.0


class Scripted(Model):
    """Doubles a number, or what it is told."""

    batching: ClassVar = Batching(max_batch_size=4)
    examples: ClassVar = [{"n": 0}]

    def predict(self, batch: list[Order]) -> list[Any]:
        with (folder() / "journal").open("a") as journal:
            journal.write(" ".join(str(order.n) for order in batch) + "\n")
        for order in batch:
            if order.do == "wait":
                wait_for("go")
            elif order.do == "raise":
                raise ValueError("a secret of the operator")
            elif order.do == "hang":
                time.sleep(3600)
        time.sleep(max(order.s for order in batch))
        return [ItemError("no") if order.do == "refuse" else 2 * order.n for order in batch]

    def unload(self) -> None:
        (folder() / "unloaded").touch()


class Pooled(Scripted):
    """Loads on the threads of a pool, which the interpreter waits for at its end."""

    def load(self) -> None:
        with ThreadPoolExecutor() as pool:
            pool.submit((folder() / "loading").touch)
            pool.submit(time.sleep, 60).result()


class Wide(Scripted):
    """As Scripted, in batches as large as they come."""

    batching: ClassVar = Batching(max_batch_size=64)


class Anything(Model):
    """Answers what it was sent."""

    examples: ClassVar = [{"id": 1}]

    def predict(self, batch: list[Any]) -> list[Any]:
        return batch


class Size(Model):
    """Tells how long a body is."""

    def predict(self, batch: list[bytes]) -> list[int]:
        return [len(body) for body in batch]


class SlowToLoad(Scripted):
    def load(self) -> None:
        (folder() / "loading").touch()
        wait_for("loaded")


class SlowToo(SlowToLoad):
    """Another of its kind."""


class LoadRaises(Scripted):
    def load(self) -> None:
        raise OSError("no weights in /secret/folder")


class ExampleFails(Scripted):
    examples: ClassVar = [{"n": "none"}]
