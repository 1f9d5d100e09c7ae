"""What all codecs share: their interface, the depth limit, and plain forms of foreign objects."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any, Protocol

import msgspec

from ..errors import OutputError, TooDeep


class Codec(Protocol):
    """Bytes of one media type to a value and back."""

    @property
    def media_type(self) -> str:
        """The canonical name, such as `application/json`."""
        ...

    @property
    def structured(self) -> bool:
        """Whether a body nests, and so falls under the JSON size and depth limits."""
        ...

    @property
    def text_keys(self) -> bool:
        """Whether keys of mappings arrive as text, as JSON's do."""
        ...

    def decode(self, body: bytes, *, max_depth: int) -> Any:
        """The value in a body.

        Raises:
            DecodeError: The bytes are malformed.
            TooDeep: The value nests deeper than `max_depth`.
        """
        ...

    def encode(self, value: Any, *, nan_as_null: bool = False) -> bytes:
        """The bytes of a value.

        Raises:
            OutputError: The value has no form in this media type.
        """
        ...


def containers(value: Any, max_depth: int) -> Iterator[dict[Any, Any] | list[Any]]:
    """The lists and mappings in a decoded value, level by level, without recursion.

    Raises:
        TooDeep: They nest deeper than `max_depth`.
    """
    level = [value] if type(value) in (dict, list) else []
    for _ in range(max_depth):
        yield from level
        level = [
            inner
            for node in level
            for inner in (node.values() if type(node) is dict else node)
            if type(inner) in (dict, list)
        ]
        if not level:
            return
    raise too_deep(max_depth)


def too_deep(max_depth: int) -> TooDeep:
    """The error of a value that nests deeper than the limit."""
    return TooDeep(f"expected at most {max_depth} levels of nesting, got more")


def plain(value: Any) -> Any:
    """A plain form of an object that msgspec does not write by itself.

    Knows pydantic models and types, numpy arrays and numpy scalars by what they can do, so that
    neither package is imported for it.

    Raises:
        TypeError: There is none.
        OutputError: The object's own code raised, which is the cause.
    """
    name = type(value).__qualname__
    try:
        if hasattr(value, "model_dump"):
            return value.model_dump(by_alias=True)
        if hasattr(value, "tolist") and type(made := value.tolist()) is not type(value):
            return made
        if type(value).__module__.partition(".")[0] in ("pydantic", "pydantic_core"):
            return str(value)
    except Exception as error:
        raise OutputError(f"an output of type {name} raised while it was written") from error
    raise TypeError(f"a value of type {name}")


def refuse(media_type: str, reason: object) -> OutputError:
    """The error of a value that cannot be written."""
    if isinstance(reason, RecursionError):
        reason = "it nests too deeply, or holds itself"
    return OutputError(f"the output cannot be written as {media_type}: {reason}")


def holds_nan(value: Any) -> bool:
    """Whether a number in an output is NaN or infinite."""
    pending = [msgspec.to_builtins(value, enc_hook=plain)]
    while pending:
        node = pending.pop()
        if isinstance(node, dict):
            pending.extend(node.values())
        elif isinstance(node, list | tuple | set | frozenset):
            pending.extend(node)
        elif isinstance(node, float) and not math.isfinite(node):
            return True
    return False
