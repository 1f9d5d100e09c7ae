"""MessagePack, by msgspec.

Binary strings are bytes, timestamps are datetimes, other extension types are malformed, and so
are keys of mappings that are neither text, integers nor binary. NaN is carried as it is.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import msgspec

from ..errors import DecodeError
from .base import containers, plain, refuse, too_deep
from .json import malformed


def _refuse_extension(code: int, data: memoryview) -> Any:
    raise DecodeError(f"expected no extension type, got {code}")


_KEYS = (str, int, bytes)
_encoder = msgspec.msgpack.Encoder(enc_hook=plain)
_decoder = msgspec.msgpack.Decoder(ext_hook=_refuse_extension)


@dataclass(frozen=True)
class MsgpackCodec:
    """The codec of `application/msgpack`."""

    media_type = "application/msgpack"
    structured = True
    text_keys = False

    def decode(self, body: bytes, *, max_depth: int) -> Any:
        """The value in a body; see `Codec`."""
        try:
            value = _decoder.decode(body)
        except RecursionError:
            raise too_deep(max_depth) from None
        except msgspec.DecodeError as error:
            raise malformed("msgpack", error, body) from None
        except UnicodeDecodeError:
            raise DecodeError("expected text in UTF-8, got other bytes") from None
        for node in containers(value, max_depth):
            if type(node) is dict and not all(type(key) in _KEYS for key in node):
                raise DecodeError("expected keys of text, integers or bytes, got another type")
        return value

    def encode(self, value: Any, *, nan_as_null: bool = False) -> bytes:
        """The bytes of a value; see `Codec`."""
        try:
            return _encoder.encode(value)
        except (TypeError, ValueError, OverflowError, RecursionError) as error:
            raise refuse("msgpack", error) from None


MSGPACK = MsgpackCodec()
