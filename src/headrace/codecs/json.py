"""JSON, by msgspec.

What the standard leaves open is answered here, once:

- NaN, Infinity and numbers that a float cannot hold (1e999) are malformed; integers are exact
  up to 4,300 characters, and malformed beyond.
- Of a key that stands twice, the last counts.
- A lone surrogate, a byte order mark and any encoding but UTF-8 are malformed.
- A NaN in an answer is an error, or null where the model says `nan_as_null`.
"""

from __future__ import annotations

import re
from collections import deque
from dataclasses import dataclass
from typing import Any

import msgspec

from ..errors import DecodeError
from .base import containers, holds_nan, plain, refuse, too_deep

MAX_REASON = 120
"""Characters of msgspec's own words that an error repeats."""

# What msgspec adds to its messages
_BYTE = re.compile(r" \(byte (\d+)\)$")
_AT = re.compile(r" - at `(.*)`$")
_LONE_SURROGATE = re.compile(rb"\\u[dD][89abAB][0-9a-fA-F]{2}(?!\\u[dD][c-fC-F])")
_encoder = msgspec.json.Encoder(enc_hook=plain)
_decoder = msgspec.json.Decoder()


@dataclass(frozen=True)
class JsonCodec:
    """The codec of `application/json`."""

    media_type = "application/json"
    structured = True
    text_keys = True

    def decode(self, body: bytes, *, max_depth: int) -> Any:
        """The value in a body; see `Codec`."""
        try:
            value = _decoder.decode(body)
        except RecursionError:
            raise too_deep(max_depth) from None
        except msgspec.DecodeError as error:
            raise malformed("JSON", error, body) from None
        except UnicodeDecodeError:
            raise DecodeError("expected UTF-8, got other bytes", offset=_not_utf8(body)) from None
        # A value nests at most as deep as its body has opening brackets.
        if body.count(b"[") + body.count(b"{") > max_depth:
            deque(containers(value, max_depth), maxlen=0)
        return value

    def encode(self, value: Any, *, nan_as_null: bool = False) -> bytes:
        """The bytes of a value; see `Codec`."""
        try:
            body = _encoder.encode(value)
            # msgspec writes null for NaN: look for one only where a null was written.
            if not nan_as_null and b"null" in body and holds_nan(value):
                raise refuse("JSON", "it holds NaN or an infinity (see Model.nan_as_null)")
        except (TypeError, ValueError, OverflowError, RecursionError) as error:
            raise refuse("JSON", error) from None
        return body


def _not_utf8(body: bytes) -> int:
    """Where a body ceases to be UTF-8: msgspec counts from the start of the text within."""
    end = len(body)
    try:
        body.decode()
    except UnicodeDecodeError as error:
        end = error.start
    return end


def malformed(name: str, error: msgspec.DecodeError, body: bytes) -> DecodeError:
    """Our error for msgspec's: what was found, and at which byte."""
    text = str(error)
    at = _BYTE.search(text)
    if text == "Input data was truncated":
        found = "an end in the middle of it" if body.strip() else "nothing"
        if name == "JSON" and _LONE_SURROGATE.search(body):
            # msgspec takes the text to go on with the other half.
            found = "a lone surrogate"
        return DecodeError(f"expected {name}, got {found}", offset=len(body))
    reason = _BYTE.sub("", text).partition(": ")[2] or _AT.sub(r" at \1", text.lower())
    if len(reason) > MAX_REASON:  # it has a path, and that a step for each level
        reason = reason[: MAX_REASON - 1] + "…"
    place = f" at byte {at[1]}" if at else ""
    return DecodeError(f"expected {name}, got {reason}{place}", offset=int(at[1]) if at else None)


JSON = JsonCodec()
