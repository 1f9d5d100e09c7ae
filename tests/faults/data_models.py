"""Models that are strict about what they take, and tell what they were given."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any, ClassVar, Literal

from msgspec import Meta
from pydantic import BaseModel, Field

from headrace import Batching, Model
from tests.faults.models import note

GIVEN = "given"
"""The file that gets a line for each batch: how many items it has."""
POINT = {"x": 1, "y": 2.5}
DATUM: dict[str, Any] = {
    "n": -128,
    "x": 1.5,
    "flag": True,
    "name": "a",
    "colour": "red",
    "where": POINT,
    "vector": [1.0, 2, 3.5],
    "table": [[1.0], []],
}


@dataclass
class Point:
    """A record within."""

    x: int
    y: float = 0.0


@dataclass
class Datum:
    """One field of each kind, as msgspec checks them."""

    n: Annotated[int, Meta(ge=-128, le=127)]
    x: float
    flag: bool
    name: str
    colour: Literal["red", "blue"]
    where: Point
    vector: Annotated[list[float], Meta(min_length=3, max_length=3)]
    table: list[list[float]]
    maybe: int | None = None


class PointModel(BaseModel):
    """The same record."""

    x: int
    y: float = 0.0


class DatumModel(BaseModel):
    """The same fields, as pydantic checks them."""

    n: int = Field(ge=-128, le=127)
    x: float
    flag: bool
    name: str
    colour: Literal["red", "blue"]
    where: PointModel
    vector: list[float] = Field(min_length=3, max_length=3)
    table: list[list[float]]
    maybe: int | None = None


class Checked(Model):
    """Answers the name of a datum."""

    examples: ClassVar = [DATUM]

    def predict(self, batch: list[Datum]) -> list[str]:
        note(GIVEN, f"{len(batch)}\n")
        return [getattr(datum, "name", "unchecked") for datum in batch]


class Twin(Model):
    """The same, with a schema of pydantic's."""

    examples: ClassVar = [DATUM]

    def predict(self, batch: list[DatumModel]) -> list[str]:
        note(GIVEN, f"{len(batch)}\n")
        return [getattr(datum, "name", "unchecked") for datum in batch]


class Shaped(Model):
    """Answers how long the texts of its batch are; those of unlike length must not meet."""

    batching: ClassVar = Batching(max_batch_size=16, max_batch_delay_s=0.05, bucket_bytes=(12, 22))
    examples: ClassVar = ["a"]

    def predict(self, batch: list[str]) -> list[list[int]]:
        return [[len(text) for text in batch]] * len(batch)


class Ragged(Shaped):
    """The same, and takes texts of any length together."""

    batching: ClassVar = Batching(max_batch_size=16, max_batch_delay_s=0.05)
