"""Schemas that the targets share, twice: as msgspec checks them, and as pydantic does."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Literal, NotRequired, TypedDict

from pydantic import BaseModel, Field

from headrace.codecs import JSON, Codec
from headrace.errors import HeadraceError
from headrace.schema import Schema, schema_of

MAX_DEPTH = 8


@dataclass
class Point:
    x: int
    y: float = 0.0


@dataclass
class Shape:
    name: str
    points: list[Point]
    colour: Literal["red", "blue"] | None = None
    weights: dict[str, float] = field(default_factory=dict)
    is_closed: bool = False


class Record(TypedDict):
    id: int
    tags: NotRequired[list[str]]
    at: NotRequired[Point]


class PointModel(BaseModel):
    x: int
    y: float = 0.0


class ShapeModel(BaseModel):
    name: str
    points: list[PointModel]
    colour: Literal["red", "blue"] | None = None
    weights: dict[str, float] = Field(default_factory=dict)
    is_closed: bool = False


ANNOTATIONS: dict[str, Any] = {
    "int": int,
    "float": float,
    "bool": bool,
    "text": str,
    "none": None,
    "either": int | str | None,
    "number": int | float,
    "literal": Literal["a", "b", 3],
    "ints": list[int],
    "table": list[list[float]],
    "counts": dict[str, int],
    "keyed": dict[int, str],
    "pair": tuple[int, str],
    "bytes": list[bytes],
    "point": Point,
    "points": list[Point],
    "shape": Shape,
    "shapes": dict[str, Shape],
    "record": Record,
    "any": Any,
    "lists": list[Any],
    "model": ShapeModel,
    "models": list[PointModel],
}
SCHEMAS: dict[str, Schema] = {name: schema_of(each) for name, each in ANNOTATIONS.items()}
NAMES = list(SCHEMAS)


def slow(schema: Schema, codec: Codec) -> Callable[[bytes], Any]:
    """How a body is read by a codec and a schema, one after the other."""

    def read(body: bytes) -> Any:
        value = codec.decode(body, max_depth=MAX_DEPTH)
        return schema.validate(value, json=body if codec is JSON else None)

    return read


def verdict(read: Callable[[bytes], Any], body: bytes) -> Any:
    """What is made of a body, with its types, or why nothing is."""
    try:
        item = read(body)
    except HeadraceError as error:
        return type(error), error.message, error.details
    return repr(item)
