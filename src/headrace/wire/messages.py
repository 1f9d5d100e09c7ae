"""What a server (the front) and a worker say to each other."""

from __future__ import annotations

import enum
from collections.abc import Collection, Mapping, Sequence
from types import MappingProxyType
from typing import Annotated

import msgspec

from ..call import Outcome, Payload
from ..card import ModelCard
from ..config import Limits


class Challenge(msgspec.Struct, frozen=True):
    """Front: prove that you know the secret, with these 32 random bytes."""

    nonce: bytes


class Hello(msgspec.Struct, frozen=True):
    """Worker: here is the proof; now prove the same to me.

    Attributes:
        capabilities: A bit for each that the worker has.
        nonce: 32 random bytes.
        proof: See docs/wire.md.
    """

    capabilities: int
    nonce: bytes
    proof: bytes


Override = int | float | str | Annotated[tuple[int, ...], msgspec.Meta(max_length=65536)]
"""What a field of `Batching` may be."""


class Setup(msgspec.Struct, frozen=True, kw_only=True):
    """What a worker needs to know beyond its target.

    Attributes:
        limits: Those of the server.
        batching: Fields of `Batching` that override every model's own.
        model: The name of the model to run; empty for the target's first.
        replica: Which of the model's replicas this worker is.
        segment_bytes: Of each of the two segments of memory that are shared; 0 for none.
    """

    limits: Limits = Limits()
    batching: dict[str, Override] = {}
    model: str = ""
    replica: int = 0
    segment_bytes: int = 0


class Welcome(msgspec.Struct, frozen=True):
    """Front: here is my proof, and what you need to know."""

    proof: bytes
    setup: Setup


class Cards(msgspec.Struct, frozen=True):
    """Worker: the models of my target, and the place among them of the one that I run."""

    cards: tuple[ModelCard, ...]
    serves: int


class Ready(msgspec.Struct, frozen=True):
    """Worker: loaded and warm, I take batches."""


class Run(msgspec.Struct, frozen=True, gc=False):
    """Front: run this batch after what you have.

    Attributes:
        batch: An id that no open batch of this connection has.
        items: Payloads with their names within the batch, in ascending order, which need not be
            contiguous. Keys and costs stay with the front.
        left_s: Seconds until their deadlines, of the items that have one.
        taken: How many messages with bodies in the worker's segment the front has taken; the
            connection sets it.
    """

    batch: int
    items: Sequence[tuple[int, Payload]]
    left_s: Mapping[int, float] = MappingProxyType({})
    taken: int = 0


class Started(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """Worker: I work on this batch from now on, or again on one that was set aside."""

    batch: int


class End(enum.IntEnum):
    """What becomes of a batch after these parts."""

    OPEN = 0
    """More of its parts follow."""
    ENDED = 1
    """Every item has had its last part; the id is free."""
    SET_ASIDE = 2
    """Its predict failed: the slot is free, the rest follows in turn with other batches."""


class Parts(msgspec.Struct, frozen=True, gc=False):
    """Worker: outcomes of a batch's items.

    Values come first, then failures, then skipped items: that is their order on the wire.

    Attributes:
        batch: The batch's id.
        parts: Outcomes with the names of their items; None for an item that was skipped, since
            nobody wanted it.
        end: What becomes of the batch.
        more: Places in `parts` of values that are followed by more of the same item. Any other
            part is its item's last.
    """

    batch: int
    parts: Sequence[tuple[int, Outcome | None]]
    end: End = End.OPEN
    more: Collection[int] = ()


class Cancel(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """Front: nobody wants this item any more."""

    batch: int
    index: int


class Ask(msgspec.Struct, frozen=True):
    """Front: send your statistics."""


class Sample(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """One measured value.

    Attributes:
        name: The family's name, with a suffix where the kind has them.
        labels: What it was measured for.
        value: It may be infinite or NaN.
    """

    name: str
    labels: dict[str, str]
    value: float


class Family(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """One metric with all its samples; the words are those of Prometheus."""

    name: str
    kind: str
    doc: str
    unit: str
    samples: Annotated[tuple[Sample, ...], msgspec.Meta(max_length=65536)]


class Stats(msgspec.Struct, frozen=True):
    """Worker: what I have counted."""

    families: tuple[Family, ...]


class Drain(msgspec.Struct, frozen=True):
    """Front: finish what you have, unload, and say bye."""


class Bye(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """Either side: this is my last message, and why.

    Attributes:
        code: A stable word, such as the code of an error.
        reason: For the operator.
    """

    code: str
    reason: str


Message = (
    Challenge
    | Hello
    | Welcome
    | Cards
    | Ready
    | Run
    | Started
    | Parts
    | Cancel
    | Ask
    | Stats
    | Drain
    | Bye
)
