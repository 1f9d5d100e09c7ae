"""What all dialects share: an HTTP body to payloads, and outcomes to one answer."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import msgspec

from ..call import Outcome, Payload
from ..card import ModelCard
from ..codecs import codec_of
from ..config import Limits
from ..errors import PayloadTooLarge


class Request(msgspec.Struct, frozen=True, kw_only=True):
    """What a dialect needs of a request, whatever carried it.

    Attributes:
        body: As it was sent.
        content_type: The Content-Type header, None without one.
        accept: The Accept header, None without one.
        lenient: Whether an answer with gaps is preferred to a failure (`handling=lenient`).
        max_items: The most items that a call may have; None sets no bound.
    """

    body: bytes
    content_type: str | None = None
    accept: str | None = None
    lenient: bool = False
    max_items: int | None = None


class Formats(msgspec.Struct, frozen=True):
    """The negotiated media types of one exchange.

    Attributes:
        input_type: Of the request's body.
        output_type: Of the answer.
    """

    input_type: str
    output_type: str


class Dialect(Protocol):
    """One way to ask a model over HTTP."""

    def negotiate(self, card: ModelCard, content_type: str | None, accept: str | None) -> Formats:
        """The media types, from the headers alone.

        Raises:
            UnsupportedMediaType, NotAcceptable: There is none in common.
        """
        ...

    def cut(self, request: Request, formats: Formats) -> tuple[Payload, ...]:
        """The payloads in a body, decoded no further than needed to find their bounds.

        Raises:
            RequestError: The envelope is malformed, or has more than `max_items`.
        """
        ...

    def join(self, outcomes: Sequence[Outcome], formats: Formats, *, lenient: bool) -> Outcome:
        """One answer from the payloads' outcomes, which are in order."""
        ...


def body_limit(formats: Formats, limits: Limits) -> int:
    """The most bytes that a request's body may have."""
    structured = codec_of(formats.input_type).structured
    return (
        min(limits.max_json_bytes, limits.max_body_bytes) if structured else limits.max_body_bytes
    )


def too_large(limit: int) -> PayloadTooLarge:
    """The error of a body over its limit."""
    return PayloadTooLarge(f"expected a body of at most {limit} bytes, got more")
