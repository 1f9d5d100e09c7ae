"""Bytes as text."""

from __future__ import annotations

from ._body import from_text, to_text


def encode_bytes(data: bytes | bytearray | memoryview) -> str:
    """Bytes as base64, with nothing around them.

    Raises:
        TypeError: They are no bytes.

    Example:
        >>> encode_bytes(b"a file")
        'YSBmaWxl'
    """
    if not isinstance(data, bytes | bytearray | memoryview):
        raise TypeError(f"encode_bytes: expected bytes, got {type(data).__name__}")
    return to_text(bytes(data))


def decode_bytes(text: str) -> bytes:
    """The bytes that `encode_bytes` wrote.

    Raises:
        TypeError: `text` is no text.
        ValueError: It is no base64.
    """
    return from_text(text, "decode_bytes")
