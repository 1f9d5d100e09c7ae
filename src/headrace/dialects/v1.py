"""The v1 dialect: `{"instances": [...]}` is answered by `{"predictions": [...]}`, item by item."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec

from ..call import Failure, Outcome, Payload, Value
from ..card import ModelCard
from ..codecs import JSON, MSGPACK, input_type, output_type
from ..codecs.json import malformed
from ..errors import PayloadTooLarge, SchemaError, TooDeep
from .base import Formats, Refusal, Request, first_failure, found_type

_TYPES = (JSON.media_type, MSGPACK.media_type)


class _Envelope(msgspec.Struct):
    instances: list[msgspec.Raw]


_decoders = {
    JSON.media_type: msgspec.json.Decoder(_Envelope).decode,
    MSGPACK.media_type: msgspec.msgpack.Decoder(_Envelope).decode,
}
_encoders = {
    JSON.media_type: msgspec.json.Encoder().encode,
    MSGPACK.media_type: msgspec.msgpack.Encoder().encode,
}


class V1:
    """`POST /v1/models/{name}:predict`, as TensorFlow Serving and KServe know it.

    Keys of the envelope besides `instances` (such as `signature_name`) are let pass.
    """

    is_one_payload = False

    def negotiate(self, card: ModelCard, content_type: str | None, accept: str | None) -> Formats:
        read = input_type(content_type, _TYPES)
        return Formats(read, output_type(accept, _TYPES, read))

    def cut(self, request: Request, formats: Formats) -> tuple[Payload, ...]:
        try:
            envelope = _decoders[formats.input_type](request.body)
        except msgspec.ValidationError as error:
            raise _not_an_envelope(error) from None
        except msgspec.DecodeError as error:
            name = "JSON" if formats.input_type == JSON.media_type else "msgpack"
            raise malformed(name, error, request.body) from None
        except RecursionError:
            raise TooDeep("expected fewer levels of nesting") from None
        count, most = len(envelope.instances), request.max_items
        if most is not None and count > most:
            raise PayloadTooLarge(f"expected at most {most} items a call, got {count}")
        return tuple(
            Payload(
                body=bytes(instance),
                input_type=formats.input_type,
                output_type=formats.output_type,
            )
            for instance in envelope.instances
        )

    def join(self, outcomes: Sequence[Outcome], formats: Formats, *, lenient: bool) -> Outcome:
        failures = [
            (index, outcome)
            for index, outcome in enumerate(outcomes)
            if isinstance(outcome, Failure)
        ]
        if failures and not lenient:
            return first_failure(outcomes, "instances")
        encode = _encoders[formats.output_type]
        answer: dict[str, Any] = {
            "predictions": [
                msgspec.Raw(outcome.body) if isinstance(outcome, Value) else None
                for outcome in outcomes
            ]
        }
        if failures:
            answer["errors"] = {
                str(index): {"error": failure.message, "code": failure.code}
                for index, failure in failures
            }
        return Value(encode(answer), formats.output_type)

    def refuse(self, failure: Failure, status: int, card: ModelCard) -> Refusal | None:
        return None


V1_DIALECT = V1()


def _not_an_envelope(error: msgspec.ValidationError) -> SchemaError:
    """What is wrong with a body that is well formed and no envelope."""
    found, is_inside = found_type(error, "$.instances")
    if not found:
        path, message = "$.instances", "expected this field, found none"
    else:
        path = "$.instances" if is_inside else "$"
        expected = "an array" if is_inside else "an object with the field instances"
        if "`key`" in str(error):
            expected = "keys of text"
        message = f"expected {expected}, got {found}"
    return SchemaError(f"{path}: {message}", details=({"path": path, "message": message},))
