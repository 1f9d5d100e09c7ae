"""The header of the models' cards. Their schemas are JSON documents in it."""

from __future__ import annotations

from typing import Annotated, Any, Final

import msgspec
from msgspec import Meta

from ..call import Payload
from ..card import ModelCard
from ..config import Batching
from .messages import Cards
from .rows import Count

_MAX_LIST: Final = 65536

_Types = Annotated[list[str], Meta(max_length=_MAX_LIST)]
_Examples = Annotated[
    list[tuple[bytes, str, str]], Meta(max_length=_MAX_LIST)
]  # body, input type, output type


class _Card(msgspec.Struct, array_like=True, forbid_unknown_fields=True):
    name: str
    version: str
    description: str
    request_schema: bytes
    response_schema: bytes
    reads: _Types
    writes: _Types
    examples: _Examples
    batching: Batching
    idempotent: bool


class _CardsHead(msgspec.Struct, array_like=True, forbid_unknown_fields=True):
    serves: Count
    cards: Annotated[list[_Card], Meta(max_length=_MAX_LIST)]


_head = msgspec.msgpack.Decoder(_CardsHead).decode
_schema = msgspec.json.Decoder(dict[str, Any]).decode


def encode_cards(message: Cards) -> bytes:
    """The header of the cards."""
    rows = [_row(card) for card in message.cards]
    return msgspec.msgpack.encode(_CardsHead(message.serves, rows))


def decode_cards(header: memoryview) -> Cards:
    """The cards.

    Raises:
        msgspec.ValidationError: None of them is the one that the worker says it runs.
    """
    head = _head(header)
    if head.serves >= len(head.cards):
        raise msgspec.ValidationError(
            f"Expected the place of one of {len(head.cards)} cards, got {head.serves}"
        )
    return Cards(tuple(map(_card, head.cards)), head.serves)


def _row(card: ModelCard) -> _Card:
    return _Card(
        name=card.name,
        version=card.version,
        description=card.description,
        request_schema=msgspec.json.encode(card.request_schema),
        response_schema=msgspec.json.encode(card.response_schema),
        reads=list(card.reads),
        writes=list(card.writes),
        examples=[(each.body, each.input_type, each.output_type) for each in card.examples],
        batching=card.batching,
        idempotent=card.idempotent,
    )


def _card(row: _Card) -> ModelCard:
    return ModelCard(
        name=row.name,
        version=row.version,
        description=row.description,
        request_schema=_schema(row.request_schema),
        response_schema=_schema(row.response_schema),
        reads=tuple(row.reads),
        writes=tuple(row.writes),
        examples=tuple(
            Payload(body=body, input_type=input_type, output_type=output_type)
            for body, input_type, output_type in row.examples
        ),
        batching=row.batching,
        idempotent=row.idempotent,
    )
