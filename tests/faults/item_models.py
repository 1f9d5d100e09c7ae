"""Models that are told, item by item, how to misbehave. What they did goes to files of a folder."""

from __future__ import annotations

import math
import os
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple

from headrace import Batching, ItemError, Model
from headrace.call import Payload
from tests.faults.models import FAULTS, folder, note, wait_for

PREDICTS = "predicts"
BROKEN = "broken"
SECRET = "a secret of the operator"


@dataclass
class Order:
    """A number to double, and what to do instead: a stage and a fault, `predict: raise`."""

    n: int
    do: str = ""
    s: float = 0.0

    def __post_init__(self) -> None:
        meet("decode", self.do)


class Doubled(NamedTuple):
    """What predict gives for an order."""

    n: int
    do: str


def refuse() -> None:
    raise ItemError("no", status=418, details=[{"why": "it was told to"}])


def fail() -> None:
    raise ValueError(SECRET)


def exit_as_told() -> None:
    raise SystemExit(3)


def interrupt() -> None:
    raise KeyboardInterrupt


def run_out_of_memory() -> None:
    raise MemoryError


class Unprintable(Exception):
    """An exception that cannot even be told."""

    def __str__(self) -> str:
        raise ValueError(SECRET)

    __repr__ = __str__


def fail_unprintably() -> None:
    raise Unprintable


RAISES: Mapping[str, Callable[[], Any]] = {
    "raise": fail,
    "refuse": refuse,
    "exit as told": exit_as_told,
    "interrupt as told": interrupt,
    "memory error as told": run_out_of_memory,
    "unprintable": fail_unprintably,
}


class Endless:
    """Is as long as it was asked for, and never comes to an end."""

    def __init__(self, length: int) -> None:
        self.length = length

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, place: int) -> int:
        if place > 1000:
            raise ValueError(SECRET)
        return place


RETURNS: Mapping[str, Callable[[list[Any]], Any]] = {
    "none": lambda outputs: [],
    "one too few": lambda outputs: outputs[:-1],
    "one too many": lambda outputs: [*outputs, outputs[-1]],
    "None": lambda outputs: None,
    "a generator": lambda outputs: (output for output in outputs),
    "an iterator": iter,
    "a set": set,
    "a dict": dict,
    "a dict by place": lambda outputs: dict(enumerate(outputs)),
    "a str": lambda outputs: "x" * len(outputs),
    "bytes": lambda outputs: bytes(len(outputs)),
    "a number": len,
    "the class": lambda outputs: list,
    "a sequence without an end": lambda outputs: Endless(len(outputs)),
}
"""What predict may return in place of one output for each item, and must not."""

ANSWERS: Mapping[str, Callable[[], Any]] = {
    "an object": object,
    "a lambda": lambda: fail,
    "a circle": lambda: circle(),
    "a surrogate": lambda: "\ud800",
    "keys that are none": lambda: {(1, 2): 3},
}
"""Answers that no encoder can write as JSON."""


def circle() -> list[Any]:
    value: list[Any] = []
    value.append(value)
    return value


class Told(Model):
    """Doubles numbers in batches of eight, unless it is told to do worse."""

    batching: ClassVar = Batching(max_batch_size=8, max_batch_delay_s=0.25)
    examples: ClassVar = [{"n": 0}]

    def load(self) -> None:
        note("loads", os.getpid())

    def preprocess(self, order: Order) -> Order:
        meet("preprocess", order.do)
        return order

    def predict(self, batch: list[Order]) -> Any:
        note(PREDICTS, " ".join(str(order.n) for order in batch))
        if (folder() / BROKEN).exists():
            fail()
        for order in batch:
            if order.do == "wait, then raise":
                wait_for("go")
                fail()
            elif order.do == "break":
                (folder() / BROKEN).touch()
                fail()
            elif order.do == "linger, then raise":
                time.sleep(order.s)
                fail()
            elif order.do == "only alone" and len(batch) > 1:
                fail()
            meet("predict", order.do)
        time.sleep(max(order.s for order in batch))
        outputs = [self.output(order) for order in batch]
        for order in batch:
            if order.do in RETURNS:
                return RETURNS[order.do](outputs)
        return outputs

    def output(self, order: Order) -> Doubled | ItemError:
        if order.do == "in its place":
            return ItemError("no", status=418, details=[{"why": "it was told to"}])
        return Doubled(2 * order.n, order.do)

    def postprocess(self, doubled: Doubled) -> Any:
        meet("postprocess", doubled.do)
        return ANSWERS[doubled.do]() if doubled.do in ANSWERS else doubled.n


def meet(stage: str, do: str) -> None:
    at, _, fault = do.partition(": ")
    if at == stage:
        RAISES[fault]() if fault in RAISES else FAULTS[fault]()


class ToldOnce(Told):
    """What has begun is not to be run again."""

    idempotent: ClassVar = False


class Sized(Told):
    """Is told by the bytes of an item how to fail to say its key or cost."""

    KEYS: ClassVar[Mapping[bytes, Callable[[], Any]]] = {
        b"key raises": fail,
        b"key is a list": list,
    }
    COSTS: ClassVar[Mapping[bytes, Callable[[], Any]]] = {
        b"cost raises": fail,
        b"cost is NaN": lambda: math.nan,
        b"cost is infinite": lambda: math.inf,
        b"cost is negative": lambda: -1.0,
        b"cost is a text": lambda: "dear",
        b"cost is None": lambda: None,
    }

    def key(self, payload: Payload) -> Any:
        return _said(self.KEYS, payload, None)

    def cost(self, payload: Payload) -> Any:
        return _said(self.COSTS, payload, 1.0)


def _said(table: Mapping[bytes, Callable[[], Any]], payload: Payload, usual: Any) -> Any:
    return next((do() for name, do in table.items() if name in bytes(payload.body)), usual)


NUMBERS = {"nan": math.nan, "inf": math.inf, "-inf": -math.inf, "one": 1.0}


class Numbers(Model):
    """Answers the number that has a name, as it is or deep inside something else."""

    batching: ClassVar = Batching(max_batch_size=8, max_batch_delay_s=0.25)
    examples: ClassVar = ["one"]

    def predict(self, batch: list[str]) -> list[Any]:
        return [self.answer(*name.partition(" in a ")) for name in batch]

    def answer(self, name: str, _: str, place: str) -> Any:
        number = NUMBERS[name]
        return {"list": [0, [number]], "dict": {"a": {"b": number}}}.get(place, number)


class NullNumbers(Numbers):
    """The same, and an answer that JSON has no word for is null."""

    nan_as_null: ClassVar = True


class SlowFirst(Model):
    """One at a time; its first worker takes ten times as long as each of the others."""

    batching: ClassVar = Batching(max_batch_size=1)
    examples: ClassVar = [{"n": 0}]

    def load(self) -> None:
        try:
            (folder() / "first").touch(exist_ok=False)
        except FileExistsError:
            self.takes_s = 0.01
        else:
            self.takes_s = 0.1

    def predict(self, batch: list[Order]) -> list[int]:
        time.sleep(self.takes_s)
        note("slow" if self.takes_s > 0.05 else "quick", batch[0].n)
        return [2 * order.n for order in batch]
