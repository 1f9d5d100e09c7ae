"""The dialect of a batching service: a body of whatever kind is a job, and its result the answer.

What is in the bodies is the workers' affair. An empty one is answered at once: it asks whether the
service is there.
"""

from __future__ import annotations

from collections.abc import Sequence

from ..call import Failure, Outcome, Payload, Value
from ..card import ModelCard
from ..codecs import RAW
from .base import Formats, Refusal, Request

TIMEOUT = b"Timeout!"

_STATUS = {"queue_full": 429, "overloaded": 429, "deadline_exceeded": 408}
"""What has another status than elsewhere, as the original service's clients know it."""


class Jobs:
    """Any `POST`; the answer has the request's own media type."""

    is_one_payload = False

    def negotiate(self, card: ModelCard, content_type: str | None, accept: str | None) -> Formats:
        return Formats(RAW.media_type, content_type or RAW.media_type)

    def cut(self, request: Request, formats: Formats) -> tuple[Payload, ...]:
        if not request.body:
            return ()
        return (
            Payload(
                body=request.body,
                input_type=formats.input_type,
                output_type=formats.output_type,
            ),
        )

    def join(self, outcomes: Sequence[Outcome], formats: Formats, *, lenient: bool) -> Outcome:
        return outcomes[0] if outcomes else Value(b"", formats.output_type)

    def refuse(self, failure: Failure, status: int, card: ModelCard) -> Refusal | None:
        if failure.code not in _STATUS:
            return None
        body = TIMEOUT if failure.code == "deadline_exceeded" else failure.message.encode()
        return Refusal(_STATUS[failure.code], body, "text/plain")


JOBS = Jobs()
