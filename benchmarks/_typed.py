"""The echo with its item's type declared, once in each way that headrace takes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar, TypedDict

import msgspec
from pydantic import BaseModel

from headrace import Model

EXAMPLE = {"id": 7, "text": "water to the wheel", "values": [0.25, 0.5, 0.75, 1.0]}


@dataclass
class DataclassItem:
    """By the standard library."""

    id: int
    text: str
    values: list[float]


class TypedDictItem(TypedDict):
    """By the standard library, as a dict."""

    id: int
    text: str
    values: list[float]


class StructItem(msgspec.Struct):
    """By msgspec."""

    id: int
    text: str
    values: list[float]


class PydanticItem(BaseModel):
    """By pydantic."""

    id: int
    text: str
    values: list[float]


class Untyped(Model):
    """Takes any JSON."""

    name: ClassVar = "echo"
    examples: ClassVar = [EXAMPLE]

    def predict(self, batch: list[Any]) -> list[Any]:
        return batch


class ByTypedDict(Model):
    """Validates, into a dict."""

    name: ClassVar = "echo"
    examples: ClassVar = [EXAMPLE]

    def predict(self, batch: list[TypedDictItem]) -> list[TypedDictItem]:
        return batch


class ByDataclass(Model):
    """Validates, into a dataclass."""

    name: ClassVar = "echo"
    examples: ClassVar = [EXAMPLE]

    def predict(self, batch: list[DataclassItem]) -> list[DataclassItem]:
        return batch


class ByStruct(Model):
    """Validates, into a Struct."""

    name: ClassVar = "echo"
    examples: ClassVar = [EXAMPLE]

    def predict(self, batch: list[StructItem]) -> list[StructItem]:
        return batch


class ByPydantic(Model):
    """Validates, into a model of pydantic's."""

    name: ClassVar = "echo"
    examples: ClassVar = [EXAMPLE]

    def predict(self, batch: list[PydanticItem]) -> list[PydanticItem]:
        return batch
