"""A model's card: all that the outside needs to know of it, as plain data."""

from __future__ import annotations

from typing import Any

import msgspec

from .call import Payload
from .config import Batching


class ModelCard(msgspec.Struct, frozen=True, kw_only=True):
    """What every face works from; it crosses process bounds, the model does not.

    Attributes:
        name: In the routes.
        version: As the model says.
        description: The model's docstring.
        request_schema: JSON Schema of one item.
        response_schema: JSON Schema of one answer.
        reads: Media types of requests, the default first; `image/*` is a pattern.
        writes: Media types of answers, the default first.
        examples: Requests with a known shape, for the health check and the documentation.
        batching: How items are put together.
        idempotent: Whether items may be run again after a failure.
    """

    name: str
    version: str
    description: str
    request_schema: dict[str, Any]
    response_schema: dict[str, Any]
    reads: tuple[str, ...]
    writes: tuple[str, ...]
    examples: tuple[Payload, ...]
    batching: Batching
    idempotent: bool
