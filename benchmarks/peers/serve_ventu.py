"""The echo on the published ventu, over HTTP, where it makes no batches; for gunicorn."""

# mypy: ignore-errors
from __future__ import annotations

from typing import ClassVar

from pydantic import BaseModel

from ventu import Ventu


class Item(BaseModel):
    """What the benchmark sends."""

    id: int
    text: str
    values: list[float]

    class Config:
        """Where ventu looks for an example."""

        schema_extra: ClassVar = {
            "example": {"id": 7, "text": "water to the wheel", "values": [0.25]}
        }


class Echo(Ventu):
    """Gives each item back."""

    def inference(self, data):
        return data.dict()


app = Echo(Item, Item, use_msgpack=False).app
