"""How long is a text? A program as users write it, served in every way over HTTP."""

from __future__ import annotations

import sys
from typing import Any

from falcon import App
from pydantic import BaseModel, ConfigDict, Field

from ventu import Ventu


class Text(BaseModel):
    text: str = Field(min_length=1)
    model_config = ConfigDict(json_schema_extra={"example": {"text": "hello"}, "batch_size": 4})


class Length(BaseModel):
    length: int
    model_config = ConfigDict(json_schema_extra={"example": {"length": 5}})


class Lengths(Ventu):
    """How long is a text?"""

    def preprocess(self, data: Text) -> str:
        return data.text

    def inference(self, data: str) -> int:
        if data == "raise":
            raise LookupError("no such word")
        return len(data)

    def batch_inference(self, batch: list[str]) -> list[int]:
        return [self.inference(text) for text in batch]

    def postprocess(self, data: int) -> dict[str, Any]:
        return {"length": "many" if data == len("a broken one") else data}


model = Lengths(Text, Length)
asgi_app = model.asgi_app


def create_app() -> App[Any, Any]:
    return model.app


if __name__ == "__main__":
    model.run_http(port=int(sys.argv[1]))
