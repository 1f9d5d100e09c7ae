"""What all dialects share: an HTTP body to payloads, and outcomes to one answer."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Protocol

import msgspec

from ..call import Failure, Outcome, Payload
from ..card import ModelCard
from ..codecs import JSON, codec_of
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


class Refusal(msgspec.Struct, frozen=True):
    """A failure as a dialect writes it.

    Attributes:
        status: Of the HTTP answer.
        body: Its bytes.
        media_type: What they are.
    """

    status: int
    body: bytes
    media_type: str = JSON.media_type


class Dialect(Protocol):
    """One way to ask a model over HTTP.

    Attributes:
        is_one_payload: Whether each body is one payload as it stands, and that payload's outcome
            the answer as it is. Nothing is cut or joined then.
    """

    @property
    def is_one_payload(self) -> bool: ...

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

    def refuse(self, failure: Failure, status: int, card: ModelCard) -> Refusal | None:
        """How a failure looks in this dialect; None for headrace's own form.

        Args:
            failure: Of the whole request, as `join` gave it, or found before.
            status: What the failure has by headrace's own table.
            card: Of the model that was asked.
        """
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


MAX_DETAILS = 64
"""Failed items that the details name: more would not fit into an error's body."""

_GOT = re.compile(r"got `(\w+)`")


def first_failure(outcomes: Sequence[Outcome], field: str) -> Failure:
    """A call's failure: its first failed item's, with the failed indices in the details.

    Args:
        outcomes: In order; at least one is a failure.
        field: What the dialect calls the list of its items.
    """
    failures = [
        (index, outcome) for index, outcome in enumerate(outcomes) if isinstance(outcome, Failure)
    ]
    index, first = failures[0]
    return Failure(
        code=first.code,
        message=f"{field}[{index}]: {first.message}",
        details=tuple(
            {"index": index, "code": failure.code, "error": failure.message}
            for index, failure in failures[:MAX_DETAILS]
        ),
        status=first.status,
        retry_after_s=first.retry_after_s,
        log=next((failure.log for _, failure in failures if failure.log), None),
    )


def found_type(error: msgspec.ValidationError, path: str) -> tuple[str, bool]:
    """The JSON type that an envelope's decoder found in the wrong place.

    Args:
        error: The decoder's.
        path: Of a field of the envelope.

    Returns:
        The type, empty if it was not a wrong type that it found; and whether that was at `path`.
    """
    text = str(error)
    got = _GOT.search(text)
    found = "" if got is None else got[1].replace("None", "null")
    return found, text.endswith(f"`{path}`")
