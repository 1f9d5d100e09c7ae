"""Every error that headrace raises.

    HeadraceError                   .code (stable), .retryable, .details (plain data)
    ├─ RequestError                 the caller can mend it
    │  ├─ DecodeError               the bytes are not what their media type says (.offset)
    │  │  └─ TooDeep                nested beyond the limit
    │  ├─ SchemaError               well formed, but not what the model takes (.path)
    │  ├─ InvalidHeader             a header or parameter that cannot be read
    │  ├─ Unauthenticated           no API key, or none that is known here
    │  ├─ UnsupportedMediaType      the body's media type is not one the model reads
    │  ├─ NotAcceptable             none of the media types asked for can be written
    │  ├─ PayloadTooLarge           over a limit that waiting does not change
    │  └─ ModelNotFound
    ├─ Unavailable                  try again after .retry_after_s
    │  ├─ QueueFull
    │  ├─ RateLimited               more requests, or connections, than one client may make
    │  ├─ Overloaded
    │  ├─ NotReady
    │  └─ Draining
    ├─ DeadlineExceeded             .stage: "queued" or "running"
    ├─ Cancelled                    the caller went away
    ├─ ModelError                   the model's code raised
    │  ├─ ItemError                 raised, or returned for one item, by the model on purpose
    │  ├─ OutputError               an answer that cannot be written
    │  └─ BatchContractError        predict returned something else than one output an item
    ├─ ExecutorError
    │  ├─ ReplicaLost
    │  └─ ReplicaStartFailed
    ├─ ProtocolError                the worker protocol was broken, by .side: "local" or "remote"
    └─ ConfigError                  also a ValueError: the setting, the value, what is allowed
       └─ TargetError               a target that cannot be imported or is no model

An error that belongs to one item of a batch travels as a `headrace.call.Failure`, which has
the same code and details and crosses process bounds as plain data.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar, Literal

Detail = dict[str, Any]


MAX_ECHO = 64
"""Characters of a caller's own text that an error repeats at most."""


def clip(found: object) -> str:
    r"""A caller's text or number as an error may repeat it: escaped and short.

    >>> print(clip("one\ntwo"), len(clip("a" * 100)))
    one\ntwo 64
    """
    text = repr(str(found)[: MAX_ECHO + 1])[1:-1]
    return text if len(text) <= MAX_ECHO else text[: MAX_ECHO - 1] + "…"


class HeadraceError(Exception):
    """The root of the tree.

    Args:
        message: What was expected, what was found, and where; no paths, addresses or tracebacks.
        details: Further facts as plain data, one mapping for each fault.
    """

    code: ClassVar[str] = "error"
    retryable: ClassVar[bool] = False

    def __init__(self, message: str, *, details: Sequence[Detail] = ()) -> None:
        super().__init__(message)
        self.message = message
        self.details = tuple(details)


class RequestError(HeadraceError):
    """The request is at fault; sending it again unchanged brings the same answer."""

    code = "bad_request"


class DecodeError(RequestError):
    """The body's bytes are malformed.

    Args:
        message: What is wrong with them.
        offset: The place of the fault, in bytes from the start, if it is known.
    """

    code = "malformed"

    def __init__(self, message: str, *, offset: int | None = None) -> None:
        super().__init__(message, details=() if offset is None else ({"offset": offset},))
        self.offset = offset


class TooDeep(DecodeError):
    """The body nests deeper than the limit."""

    code = "too_deep"


class SchemaError(RequestError):
    """The value is not what the schema asks for.

    Args:
        message: The first fault, with its path.
        details: One mapping for each fault, with its `path` and `message`.
    """

    code = "invalid"

    @property
    def path(self) -> str:
        """The path of the first fault, such as `$.inputs[0].shape`."""
        return str(self.details[0]["path"]) if self.details else "$"


class InvalidHeader(RequestError):
    """A header or a parameter of the request cannot be read."""

    code = "invalid_header"


class Unauthenticated(RequestError):
    """The request brings no API key, or none that is known here."""

    code = "unauthenticated"


class UnsupportedMediaType(RequestError):
    """The model does not read bodies of this media type."""

    code = "unsupported_media_type"


class NotAcceptable(RequestError):
    """The model writes none of the media types that were asked for."""

    code = "not_acceptable"


class PayloadTooLarge(RequestError):
    """The request is over a limit."""

    code = "too_large"


class ModelNotFound(RequestError):
    """No model of this name is served here."""

    code = "model_not_found"


class Unavailable(HeadraceError):
    """Not now: the same request may succeed later.

    Args:
        message: Why.
        retry_after_s: Seconds after which another try is worth it.
    """

    code = "unavailable"
    retryable = True

    def __init__(self, message: str, *, retry_after_s: float = 1.0) -> None:
        super().__init__(message)
        self.retry_after_s = retry_after_s


class QueueFull(Unavailable):
    """The queue's bound in items or in bytes is reached."""

    code = "queue_full"


class RateLimited(Unavailable):
    """The client has made as many requests, or connections, as it may."""

    code = "rate_limited"


class Overloaded(Unavailable):
    """So much waits that the answer would come after the caller's deadline."""

    code = "overloaded"


class NotReady(Unavailable):
    """No replica of the model is ready."""

    code = "not_ready"


class Draining(Unavailable):
    """The server is shutting down and takes no more requests."""

    code = "draining"


class DeadlineExceeded(HeadraceError):
    """The caller's deadline passed.

    Args:
        message: How long the request was given.
        stage: Where it was by then: its body was being read, it was queued, or it was running.
    """

    code = "deadline_exceeded"
    retryable = True

    def __init__(self, message: str, *, stage: Literal["reading", "queued", "running"]) -> None:
        super().__init__(message, details=({"stage": stage},))
        self.stage = stage


class Cancelled(HeadraceError):
    """The caller gave the request up."""

    code = "cancelled"


class ModelError(HeadraceError):
    """The model's own code raised. Callers see that it did; the log has the traceback."""

    code = "model_error"


class ItemError(ModelError):
    """Says, from within a model, that one item cannot be answered, and why.

    Raise it in `preprocess` or `postprocess`, or put it at the item's place of what `predict`
    returns: its batch mates are not touched, and its message is shown to the caller.

    Args:
        message: Shown to the caller.
        status: The HTTP status of the answer, 400 to 599; default 422.
        details: Plain data for the error body's `details`.

    Raises:
        ValueError: The status is no error status.

    Example:
        >>> raise ItemError("the picture shows no face", status=422)
        Traceback (most recent call last):
        headrace.errors.ItemError: the picture shows no face
    """

    code = "item_error"

    def __init__(self, message: str, *, status: int = 422, details: Sequence[Detail] = ()) -> None:
        if not 400 <= status <= 599:
            raise ValueError(f"status: expected 400 to 599, got {status}")
        super().__init__(str(message), details=details)
        self.status = status


class OutputError(ModelError):
    """An output cannot be written in the media type that was asked for."""

    code = "output_error"


class BatchContractError(ModelError):
    """`predict` returned something else than a sequence with one output for each item."""

    code = "batch_contract"


class ExecutorError(HeadraceError):
    """The place where batches run failed."""

    code = "executor_error"


class ReplicaLost(ExecutorError):
    """The replica that ran the item is gone, or hangs."""

    code = "replica_lost"
    retryable = True


class ReplicaStartFailed(ExecutorError):
    """A replica's load or warm-up failed."""

    code = "replica_start_failed"


class ProtocolError(HeadraceError):
    """The worker protocol was broken.

    Args:
        message: The rule, and what was found.
        side: Who broke it.
    """

    code = "protocol_error"

    def __init__(self, message: str, *, side: Literal["local", "remote"]) -> None:
        super().__init__(message, details=({"side": side},))
        self.side = side


class ConfigError(HeadraceError, ValueError):
    """A setting has a value that it cannot have, or there is no such setting."""

    code = "config_error"


class TargetError(ConfigError):
    """A target such as `module:Class` cannot be loaded or is nothing that can be served."""

    code = "target_error"
