"""Examples in a schema's configuration, for warm-up, health and documentation."""

from __future__ import annotations

import inspect
import warnings
from typing import Any, NamedTuple

from pydantic import BaseModel

_KEYS = ("example", "examples", "batch_size")
"""What a function that adds to a schema may have added for us."""


class Pair(NamedTuple):
    """A request, and the response that it must get; None if any will do."""

    request: Any
    response: Any = None


def extra_of(schema: type[BaseModel]) -> dict[str, Any]:
    """What a schema's configuration adds to its JSON Schema.

    Reads `model_config = ConfigDict(json_schema_extra=...)` and pydantic 1's
    `class Config: schema_extra = ...`, which pydantic 2 keeps and no longer looks at.
    """
    config: Any = schema.model_config
    extra = dict[str, Any]()
    for name in ("schema_extra", "json_schema_extra"):
        found = config.get(name)
        if isinstance(found, dict):
            extra |= found
        elif callable(found):
            # Of today's name pydantic has called it already.
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # the documentation's own making has them
                changed = schema.model_json_schema()
            if name == "schema_extra":
                takes_class = len(inspect.signature(found).parameters) > 1
                found(changed, schema) if takes_class else found(changed)
            extra |= {key: changed[key] for key in _KEYS if key in changed}
    return extra


def pairs_of(request: dict[str, Any], response: dict[str, Any]) -> list[Pair]:
    """The examples of both schemas' extras, those of `example` first, then those of `examples`.

    Raises:
        AssertionError: A response has no request that it would be the response to.
    """
    pairs: list[Pair] = []
    for name in ("example", "examples"):
        asked, answered = _listed(request, name), _listed(response, name)
        if len(answered) > len(asked):
            raise AssertionError(
                f"{name}: expected a request for each response, got {len(asked)} requests and"
                f" {len(answered)} responses"
            )
        answered += [None] * (len(asked) - len(answered))
        pairs += map(Pair, asked, answered)
    return pairs


def _listed(extra: dict[str, Any], name: str) -> list[Any]:
    found = extra.get(name)
    if found is None:
        return []
    return list(found) if name == "examples" else [found]
