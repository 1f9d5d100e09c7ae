"""The model of `journal.py` behind ventu: a program, and a worker of a batching service."""

from __future__ import annotations

import sys
from typing import Any, ClassVar

from pydantic import BaseModel, ConfigDict

from headrace import Batching
from tests.faults.journal import MAX_BATCH_SIZE, call
from ventu import Ventu


class Order(BaseModel):
    """See `journal.py`."""

    n: int
    step: bool = False
    do: str = ""
    size: int = 0
    model_config = ConfigDict(json_schema_extra={"example": {"n": 0}, "batch_size": 2})


class Answer(BaseModel):
    """A number's double, or a text."""

    value: Any
    model_config = ConfigDict(json_schema_extra={"example": {"value": 0}})


class Stepped(Ventu):
    """Doubles numbers."""

    batching: ClassVar = Batching(max_batch_size=MAX_BATCH_SIZE)

    def inference(self, data: Order) -> Any:
        return self.batch_inference([data])[0]

    def batch_inference(self, batch: list[Order]) -> list[Any]:
        return call([order.model_dump() for order in batch])

    def postprocess(self, data: Any) -> dict[str, Any]:
        return {"value": data}


model = Stepped(Order, Answer)

if __name__ == "__main__":
    model.run_unix(sys.argv[1])
else:
    asgi_app = model.asgi_app
