"""The message dialect: `{"data": [...]}` is answered by `{"data": [...], "error": null}`.

It is what `virtex` speaks. A message is answered whole or not at all: with an element that fails,
its `data` is empty, and `error` says why.
"""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from ..call import Failure, Outcome, Payload, Value
from ..card import ModelCard
from ..codecs import JSON
from ..codecs.json import malformed
from ..errors import DecodeError, PayloadTooLarge, TooDeep
from .base import Formats, Refusal, Request, first_failure, found_type

MAX_ERROR_CHARS = 600
"""The most that an answer's `error` has."""

_FORMATS = Formats(JSON.media_type, JSON.media_type)


class _Message(msgspec.Struct):
    data: list[msgspec.Raw] | None = None


class _Answer(msgspec.Struct):
    data: list[msgspec.Raw]
    error: str | None = None


_decode = msgspec.json.Decoder(_Message).decode
_encode = msgspec.json.Encoder().encode


class Messages:
    """`POST` of a message; the content type is not looked at, and other keys are let pass.

    Args:
        service: What an error calls the service; default the model's name.
    """

    is_one_payload = False

    def __init__(self, service: str = "") -> None:
        self._service = service

    def negotiate(self, card: ModelCard, content_type: str | None, accept: str | None) -> Formats:
        return _FORMATS

    def cut(self, request: Request, formats: Formats) -> tuple[Payload, ...]:
        try:
            elements = _decode(request.body).data or ()
        except msgspec.ValidationError as error:
            raise _no_message(error) from None
        except msgspec.DecodeError as error:
            raise malformed("JSON", error, request.body) from None
        except RecursionError:
            raise TooDeep("expected fewer levels of nesting") from None
        count, most = len(elements), request.max_items
        if most is not None and count > most:
            raise PayloadTooLarge(f"expected at most {most} elements a message, got {count}")
        return tuple(
            Payload(
                body=bytes(element),
                input_type=formats.input_type,
                output_type=formats.output_type,
            )
            for element in elements
        )

    def join(self, outcomes: Sequence[Outcome], formats: Formats, *, lenient: bool) -> Outcome:
        data: list[msgspec.Raw] = []
        for outcome in outcomes:
            if isinstance(outcome, Failure):
                return first_failure(outcomes, "data") if len(outcomes) > 1 else outcome
            data.append(msgspec.Raw(outcome.body))
        return Value(_encode(_Answer(data)), JSON.media_type)

    def refuse(self, failure: Failure, status: int, card: ModelCard) -> Refusal:
        error = failure.message
        if status == 500:
            error = f"{self._service or card.name} caught exception: {error}"
        if len(error) > MAX_ERROR_CHARS:
            error = error[:MAX_ERROR_CHARS] + "…"
        # A request that is no POST is malformed like any other that is no message.
        return Refusal(400 if status == 405 else status, _encode(_Answer([], error)))


MESSAGES = Messages()


def _no_message(error: msgspec.ValidationError) -> DecodeError:
    """What is wrong with a body that is well formed and no message."""
    found, is_inside = found_type(error, "$.data")
    expected = "$.data: expected an array" if is_inside else "$: expected an object"
    return DecodeError(f"{expected}, got {found or 'something else'}")
