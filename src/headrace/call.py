"""What a request asks, and what comes back: plain data that crosses process bounds."""

from __future__ import annotations

from collections.abc import Hashable

import msgspec

from . import errors
from .clock import NEVER, Deadline
from .errors import Detail, HeadraceError, ItemError, Unavailable

INTERNAL_ERROR = "internal_error"
"""The code of a failure that is a fault of headrace itself."""

CODES = frozenset(
    (
        INTERNAL_ERROR,
        *(
            found.code
            for found in vars(errors).values()
            if isinstance(found, type) and issubclass(found, HeadraceError)
        ),
    )
)
"""The codes that an item's failure may have: metrics and log records are told apart by them."""


class Payload(msgspec.Struct, frozen=True, gc=False):
    """One body for the model, not decoded yet.

    Attributes:
        body: The bytes as the client sent them.
        input_type: Media type of `body`.
        output_type: Media type that the answer shall have.
        count: Items it stands for.
        key: Items with different keys never share a batch.
        cost: What it adds to a batch's cost.
    """

    body: bytes
    input_type: str
    output_type: str
    count: int = 1
    key: Hashable = None
    cost: float = 1.0


class Call(msgspec.Struct, frozen=True):
    """One request to a model: payloads that are admitted together or not at all.

    Attributes:
        payloads: At least one; answers keep their order.
        deadline: The instant after which nobody wants the answer.
        priority: Each step counts as `Batching.priority_step_s` of earlier arrival.
        client: Whom the call is fair to; calls without one do not compete as clients.
    """

    payloads: tuple[Payload, ...]
    deadline: Deadline = NEVER
    priority: int = 0
    client: str | None = None


class Value(msgspec.Struct, frozen=True, gc=False):
    """An item's answer, encoded.

    Attributes:
        body: The bytes to send.
        media_type: What they are.
        status: Of the HTTP answer; 400 and more where a model writes its errors itself.
    """

    body: bytes
    media_type: str
    status: int = 200


class Failure(msgspec.Struct, frozen=True, kw_only=True):
    """Why an item has no answer; an error of `headrace.errors` as plain data.

    Attributes:
        code: The error's stable code.
        message: For the caller.
        details: Further facts, one mapping for each fault.
        status: The HTTP status that the model asked for with an `ItemError`, else None.
        retry_after_s: Seconds after which another try is worth it, else None.
        log: What the operator sees and the caller does not: a model's traceback.
    """

    code: str
    message: str
    details: tuple[Detail, ...] = ()
    status: int | None = None
    retry_after_s: float | None = None
    log: str | None = None

    @classmethod
    def of(cls, error: HeadraceError, *, log: str | None = None) -> Failure:
        """The failure that an error stands for."""
        # A model's own class of ItemError may have a code that is no word of ours.
        own = error if isinstance(error, ItemError) else None
        return cls(
            code=error.code if own is None else ItemError.code,
            # Lone surrogates, as a model's own text may hold, cannot be sent or logged.
            message=error.message.encode(errors="backslashreplace").decode(),
            details=error.details,
            status=None if own is None else own.status,
            retry_after_s=error.retry_after_s if isinstance(error, Unavailable) else None,
            log=log,
        )


Outcome = Value | Failure
"""What comes back for an item."""
