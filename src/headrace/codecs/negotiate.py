"""Which codec reads a body, and which writes the answer. Nothing is ever guessed from the bytes."""

from __future__ import annotations

import functools
from collections.abc import Sequence

from ..errors import NotAcceptable, UnsupportedMediaType, clip
from .base import Codec
from .json import JSON
from .msgpack import MSGPACK
from .raw import RAW

_ALIASES = {
    "text/json": JSON.media_type,
    "application/x-msgpack": MSGPACK.media_type,
    "application/vnd.msgpack": MSGPACK.media_type,
}
_STRUCTURED: dict[str, Codec] = {JSON.media_type: JSON, MSGPACK.media_type: MSGPACK}
_CHARSETS = ("utf-8", "utf8", "us-ascii")


def codec_of(media_type: str) -> Codec:
    """The codec of a negotiated media type; one that is neither JSON nor msgpack is raw bytes."""
    return _STRUCTURED.get(media_type, RAW)


@functools.lru_cache(maxsize=256)
def input_type(content_type: str | None, reads: tuple[str, ...]) -> str:
    """The media type of a request's body.

    Args:
        content_type: The Content-Type header's value, None if there is none.
        reads: The media types that the model reads, the default first; `image/*` is allowed.

    Raises:
        UnsupportedMediaType: The model does not read it; the error says what to send instead.
    """
    if content_type is None:
        return reads[0]
    media_type, _, parameters = content_type.partition(";")
    media_type = media_type.strip().lower()
    media_type = _ALIASES.get(media_type, media_type)
    charset = _parameter(parameters, "charset")
    if charset is not None and media_type in _STRUCTURED and charset not in _CHARSETS:
        raise UnsupportedMediaType(f"expected charset utf-8, got '{clip(charset)}'")
    if not any(_matches(media_type, pattern) for pattern in reads):
        raise UnsupportedMediaType(
            f"send the header 'Content-Type: {reads[0]}'"
            f" (this model reads {', '.join(reads)}), got '{clip(media_type)}'"
        )
    return media_type


@functools.lru_cache(maxsize=256)
def output_type(accept: str | None, writes: tuple[str, ...], read: str) -> str:
    """The media type of the answer.

    Args:
        accept: The Accept header's value, None if there is none.
        writes: The media types that the model writes, the default first.
        read: The media type of the request: preferred where the client leaves it open.

    Raises:
        NotAcceptable: The model writes none of those asked for.
    """
    default = read if read in writes and writes[0] in _STRUCTURED else writes[0]
    if accept is None or not accept.strip():
        return default
    accepted = _accepted(accept)
    best = max((default, *writes), key=lambda candidate: _rank(candidate, accepted))
    if _rank(best, accepted)[0] <= 0:
        wanted = " or ".join(writes)
        raise NotAcceptable(f"expected Accept to allow {wanted}, got '{clip(accept)}'")
    return best


def _rank(media_type: str, accepted: Sequence[tuple[str, float]]) -> tuple[float, int]:
    """How much a media type is wanted: its quality, then how early it is named.

    The most specific pattern that it matches counts: `image/png` before `image/*` before `*/*`.
    """
    matches = [
        (-pattern.count("*"), quality, -place)
        for place, (pattern, quality) in enumerate(accepted)
        if _matches(media_type, pattern)
    ]
    return max(matches)[1:] if matches else (0.0, 0)


def _matches(media_type: str, pattern: str) -> bool:
    """Whether a media type falls under a pattern such as `image/*`."""
    if pattern.endswith("/*"):
        return pattern == "*/*" or media_type.startswith(pattern[:-1])
    return media_type == pattern


def _accepted(accept: str) -> Sequence[tuple[str, float]]:
    """The patterns of an Accept header with their qualities."""
    parts = []
    for part in accept.split(","):
        pattern, _, parameters = part.partition(";")
        try:
            quality = float(_parameter(parameters, "q") or 1)
        except ValueError:
            quality = 0.0
        pattern = pattern.strip().lower()
        # Not `quality <= 1`: a NaN is no quality either.
        parts.append((_ALIASES.get(pattern, pattern), quality if 0 <= quality <= 1 else 0.0))
    return parts


def _parameter(parameters: str, name: str) -> str | None:
    """A parameter of a media type, such as its charset, in lower case."""
    for parameter in parameters.split(";"):
        key, _, value = parameter.partition("=")
        if key.strip().lower() == name:
            return value.strip().strip('"').lower()
    return None
