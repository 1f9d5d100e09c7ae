"""Errors as HTTP answers: one table of statuses, one form of body."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import msgspec

from ..call import INTERNAL_ERROR, Failure
from ..config import Limits
from ..errors import DeadlineExceeded, Detail, HeadraceError, RequestError, Unauthenticated

MAX_ERROR_BYTES = 2048
"""The most that an error's body has; details are left out, from the last, to keep it."""

MAX_MESSAGE_CHARS = 600


class RouteNotFound(RequestError):
    """Nothing is served at this path."""

    code = "route_not_found"


class MethodNotAllowed(RequestError):
    """The path is served, but not by this method."""

    code = "method_not_allowed"


class SlowClient(RequestError):
    """The request's body did not come in time."""

    code = "slow_client"


class HeadTooLarge(RequestError):
    """The request's headers are over the limit."""

    code = "head_too_large"


def head_too_large(limits: Limits) -> HeadTooLarge:
    """The error of a head over its limit."""
    return HeadTooLarge(f"expected headers of at most {limits.max_head_bytes} bytes, got more")


def body_is_late(limits: Limits, timeout_s: float) -> HeadraceError:
    """The error of a body that did not come in time.

    Args:
        limits: Of requests.
        timeout_s: From the request's arrival to its deadline.
    """
    if timeout_s < limits.body_timeout_s:
        message = f"there was no answer within {timeout_s:g} s: the body had not come by then"
        return DeadlineExceeded(message, stage="reading")
    return SlowClient(f"the body did not come within {limits.body_timeout_s:g} s")


def head_is_late(waited_s: float) -> SlowClient:
    """The error of a head that did not come in time."""
    return SlowClient(f"the headers did not come within {waited_s:g} s")


STATUS: Mapping[str, int] = {
    "bad_request": 400,
    "malformed": 400,
    "too_deep": 400,
    "invalid_header": 400,
    "unauthenticated": 401,
    "model_not_found": 404,
    "route_not_found": 404,
    "method_not_allowed": 405,
    "not_acceptable": 406,
    "slow_client": 408,
    "too_large": 413,
    "unsupported_media_type": 415,
    "invalid": 422,
    "item_error": 422,
    "rate_limited": 429,
    "head_too_large": 431,
    "cancelled": 499,
    "error": 500,
    "model_error": 500,
    "output_error": 500,
    "batch_contract": 500,
    "executor_error": 500,
    "replica_lost": 500,
    "replica_start_failed": 500,
    "protocol_error": 500,
    "config_error": 500,
    "target_error": 500,
    "bind_failed": 500,
    "check_failed": 500,
    INTERNAL_ERROR: 500,
    "docs_missing": 501,
    "unavailable": 503,
    "queue_full": 503,
    "overloaded": 503,
    "not_ready": 503,
    "draining": 503,
    "deadline_exceeded": 504,
}
"""The status of each code of `headrace.errors`; 499 is never sent, nobody is there."""

Headers = list[tuple[str, str]]


def status_of(failure: Failure) -> int:
    """The status that the model asked for, or that the failure's code has."""
    return failure.status or STATUS.get(failure.code, 500)


def error_answer(failure: Failure) -> tuple[int, Headers, bytes]:
    """A failure as status, headers and body."""
    headers = [("content-type", "application/json")]
    if failure.retry_after_s is not None:
        headers.append(("retry-after", str(max(1, math.ceil(failure.retry_after_s)))))
    if failure.code == Unauthenticated.code:
        headers.append(("www-authenticate", 'Bearer realm="headrace"'))
    return status_of(failure), headers, error_body(failure)


def error_body(failure: Failure) -> bytes:
    """`{"error": ..., "code": ..., "details": [...]}`, of at most MAX_ERROR_BYTES."""
    message = failure.message
    if len(message) > MAX_MESSAGE_CHARS:
        message = message[:MAX_MESSAGE_CHARS] + "…"
    while True:
        body = _body(message, failure.code, [])
        if len(body) <= MAX_ERROR_BYTES:
            break
        message = message[: len(message) // 2] + "…"
    details = _fitting(failure.details, MAX_ERROR_BYTES - len(body))
    return _body(message, failure.code, details) if details else body


def _body(message: str, code: str, details: list[msgspec.Raw]) -> bytes:
    return msgspec.json.encode({"error": message, "code": code, "details": details})


def _fitting(details: Sequence[Detail], room: int) -> list[msgspec.Raw]:
    """The first details that fit, encoded, less those that JSON cannot carry."""
    kept: list[msgspec.Raw] = []
    for detail in details:
        try:
            encoded = msgspec.json.encode(detail, enc_hook=str)
        except Exception:  # anything: the hook calls the model's own __str__
            continue
        room -= len(encoded) + 1
        if room < 0:
            break
        kept.append(msgspec.Raw(encoded))
    return kept
