"""Bodies to items and outputs to bodies: what a codec and a schema do, as one function each.

A replica calls them for every item, so what goes well takes the shortest way. What does not is
left to the codec and the schema, which say what is wrong: so both ways give the same verdict.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from functools import partial
from typing import Any

import msgspec

from .codecs import JSON, MSGPACK, RAW, Codec
from .codecs.base import containers, holds_nan, plain
from .schema import Direct, Schema

Reader = Callable[[bytes], Any]
"""Makes an item of a body, or raises what is wrong with it: a `RequestError`."""

Writer = Callable[[Any], bytes]
"""Makes a body of an output, or raises an `OutputError`."""

_DECODERS: dict[Codec, Any] = {JSON: msgspec.json.Decoder, MSGPACK: msgspec.msgpack.Decoder}
_from_json = msgspec.json.Decoder().decode
_to_json = msgspec.json.Encoder(enc_hook=plain).encode


def reader_of(schema: Schema, codec: Codec, *, max_depth: int) -> Reader:
    """The function that reads bodies.

    Args:
        schema: Of the items.
        codec: Of the bodies.
        max_depth: How deep a body may nest.
    """
    if codec is JSON:
        decode = _json_reader(max_depth)
    else:
        decode = partial(codec.decode, max_depth=max_depth)
    if schema.is_any or (codec is RAW and schema.is_bytes):
        return decode
    validate = schema.validate

    def read_json(body: bytes) -> Any:
        return validate(decode(body), json=body)

    def read_other(body: bytes) -> Any:
        return validate(decode(body))

    read = read_json if codec is JSON else read_other
    direct = schema.direct(max_depth) if codec in _DECODERS else None
    return read if direct is None else _direct_reader(codec, direct, otherwise=read)


def writer_of(codec: Codec, *, nan_as_null: bool) -> Writer:
    """The function that writes bodies.

    Args:
        codec: Of the bodies.
        nan_as_null: As `Codec.encode` has it.
    """
    if codec is JSON:
        return _json_writer(nan_as_null)
    return partial(codec.encode, nan_as_null=nan_as_null)


def _direct_reader(codec: Codec, direct: Direct, otherwise: Reader) -> Reader:
    """Decodes bodies to their type at once; what that refuses is for the other reader to judge.

    The type leaves no room for what only the codec would find, such as bad keys or much depth.
    """
    decode, is_closed = _DECODERS[codec](direct.annotation).decode, direct.is_closed
    if is_closed is None:

        def read(body: bytes) -> Any:
            try:
                return decode(body)
            except Exception:
                return otherwise(body)

        return read

    decode_plain = _DECODERS[codec]().decode

    def read_closed(body: bytes) -> Any:
        try:
            if is_closed(decode_plain(body)):
                return decode(body)
        except Exception:
            pass
        return otherwise(body)

    return read_closed


def _json_reader(max_depth: int) -> Reader:
    # Each level takes two brackets: a body that is no longer cannot nest too deep.
    shallow_bytes = 2 * max_depth

    def read(body: bytes) -> Any:
        try:
            value = _from_json(body)
        except Exception:
            return JSON.decode(body, max_depth=max_depth)
        if len(body) > shallow_bytes and body.count(b"[") + body.count(b"{") > max_depth:
            deque(containers(value, max_depth), maxlen=0)
        return value

    return read


def _json_writer(nan_as_null: bool) -> Writer:
    def write(value: Any) -> bytes:
        try:
            body = _to_json(value)
            # msgspec writes null for NaN; to look for it in the value takes longer.
            if body.find(b"null") < 0 or nan_as_null or not holds_nan(value):
                return body
        except Exception:
            pass
        return JSON.encode(value, nan_as_null=nan_as_null)

    return write
