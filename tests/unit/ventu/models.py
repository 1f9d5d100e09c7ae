"""Schemas and models that the tests of ventu share."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

import msgspec
from pydantic import BaseModel, ConfigDict, Field

from headrace import Batching
from ventu import Ventu


class Text(BaseModel):
    text: str = Field(min_length=1)
    model_config = ConfigDict(json_schema_extra={"example": {"text": "hello"}})


class Length(BaseModel):
    length: int
    unit: str = "characters"
    model_config = ConfigDict(json_schema_extra={"example": {"length": 5}})


class Single(Ventu):
    """How long is it?"""

    def preprocess(self, data: Text) -> str:
        if data.text == "raise in preprocess":
            raise LookupError("no such word")
        return data.text

    def inference(self, data: str) -> int:
        if data == "raise":
            raise LookupError("no such word")
        return len(data)

    def postprocess(self, data: int) -> Any:
        if data == len("break"):
            return {"length": 5}
        return {"length": "many" if data == len("a broken one") else data}


class Batched(Single):
    """How long are they?"""

    batching = Batching(max_batch_size=32)

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.batches: list[list[str]] = []
        self.entered = threading.Semaphore(0)
        self.gate = threading.Event()
        self.gate.set()

    def batch_inference(self, batch: list[str]) -> list[int]:
        self.batches.append(list(batch))
        self.entered.release()
        assert self.gate.wait(20)
        if "too many" in batch:
            return [0] * (len(batch) + 1)
        return [self.inference(text) for text in batch]


ENCODE: dict[bool, Callable[[Any], bytes]] = {
    False: msgspec.json.encode,
    True: msgspec.msgpack.encode,
}
DECODE: dict[bool, Callable[[bytes], Any]] = {
    False: msgspec.json.decode,
    True: msgspec.msgpack.decode,
}
MEDIA_TYPE = {False: "application/json", True: "application/msgpack"}
TOO_SHORT = [
    {
        "loc": ["text"],
        "msg": "String should have at least 1 character",
        "type": "string_too_short",
    }
]
FAILED = {"title": "500 Internal Server Error"}
