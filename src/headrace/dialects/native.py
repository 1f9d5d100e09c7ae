"""headrace's own dialect: the body is one item, and the answer's body its output."""

from __future__ import annotations

from collections.abc import Sequence

from ..call import Failure, Outcome, Payload
from ..card import ModelCard
from ..codecs import input_type, output_type
from .base import Formats, Refusal, Request


class Native:
    """`POST /models/{name}/predict`: JSON, msgpack, or for a bytes model the raw body."""

    is_one_payload = True

    def negotiate(self, card: ModelCard, content_type: str | None, accept: str | None) -> Formats:
        read = input_type(content_type, card.reads)
        return Formats(read, output_type(accept, card.writes, read))

    def cut(self, request: Request, formats: Formats) -> tuple[Payload, ...]:
        return (
            Payload(
                body=request.body,
                input_type=formats.input_type,
                output_type=formats.output_type,
            ),
        )

    def join(self, outcomes: Sequence[Outcome], formats: Formats, *, lenient: bool) -> Outcome:
        return outcomes[0]

    def refuse(self, failure: Failure, status: int, card: ModelCard) -> Refusal | None:
        return None


NATIVE = Native()
