"""A model on the published ventu 0.4.5, which runs in an environment of its own.

    python published.py json|msgpack unix|tcp ADDRESS

Numbers in, their sum out. -1 makes the model raise, -2 breaks the answer's schema.
"""

import sys
from typing import Any

from pydantic import BaseModel

from ventu import Ventu


class Request(BaseModel):
    """Numbers, and what makes it long."""

    nums: list[int]
    pad: str = ""

    class Config:
        schema_extra = {"example": {"nums": [1]}, "batch_size": 2}  # noqa: RUF012


class Response(BaseModel):
    """Their sum."""

    total: int

    class Config:
        schema_extra = {"example": [{"total": 1}, {"total": 1}]}  # noqa: RUF012


class Sum(Ventu):
    """Adds up."""

    def preprocess(self, data: Any) -> Any:
        return data.nums

    def batch_inference(self, batch: Any) -> Any:
        if any(-1 in nums for nums in batch):
            raise RuntimeError("a negative number")
        return [None if -2 in nums else sum(nums) for nums in batch]

    def postprocess(self, data: Any) -> Any:
        return {"total": data}


if __name__ == "__main__":
    media, protocol, address = sys.argv[1:]
    model = Sum(Request, Response, use_msgpack=media == "msgpack")
    if protocol == "unix":
        model.run_unix(address)
    else:
        host, _, port = address.rpartition(":")
        model.run_tcp(host, int(port))
