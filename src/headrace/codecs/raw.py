"""Bytes as they are, for models that take or give them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from .base import refuse


@dataclass(frozen=True)
class RawCodec:
    """The codec of `application/octet-stream`, and of every type that a bytes model names."""

    media_type = "application/octet-stream"
    structured = False
    text_keys = False

    def decode(self, body: bytes, *, max_depth: int) -> Any:
        """The body itself."""
        return body

    def encode(self, value: Any, *, nan_as_null: bool = False) -> bytes:
        """The value itself; see `Codec`."""
        if not isinstance(value, bytes | bytearray | memoryview):
            raise refuse("raw bytes", f"a value of type {type(value).__qualname__}")
        return bytes(value)


RAW = RawCodec()
