"""The batching protocol, version 1: what a batching service and its workers say, byte by byte.

Both ways a message is a length, a signed 32-bit big-endian integer, and so many bytes. A worker
begins with an empty message, which asks for work. The service then sends a batch, a msgpack map of
job ids to bodies; the worker answers with a map of the same ids to results, and gets its next
batch. Results that are errors are listed in `error_ids`, one text of all their ids; those that are
the model's fault, and not the caller's, in `failed_ids` as well.

An id is a UUID as text of 36 characters, a body is msgpack bin. A worker may write its results as
str or as bin.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import msgspec

from .errors import ProtocolError

LENGTH_BYTES = 4
ASK = bytes(LENGTH_BYTES)
"""What a worker sends first."""
ID_CHARS = 36
MAX_MESSAGE_BYTES = 256 * 1024 * 1024
"""The longest message that is read, unless another bound is given."""
ERRORS, FAILED = "error_ids", "failed_ids"

_decode = msgspec.msgpack.Decoder().decode
_decode_jobs = msgspec.msgpack.Decoder(dict[str, bytes]).decode
_encode = msgspec.msgpack.Encoder().encode


class JobResults(msgspec.Struct, frozen=True):
    """What a worker answers to a batch.

    Attributes:
        bodies: The result of each job, by its id; an error's body among them.
        errors: Jobs whose result is an error.
        failed: Those of them that the model, or its answer, failed.
    """

    bodies: Mapping[str, bytes]
    errors: frozenset[str] = frozenset()
    failed: frozenset[str] = frozenset()


class JobFrames:
    """Cuts what comes from the other end into messages, however it was cut on its way.

    Args:
        max_bytes: The longest message that is taken.
    """

    def __init__(self, max_bytes: int = MAX_MESSAGE_BYTES) -> None:
        self._max_bytes = max_bytes
        self._buffer = bytearray()

    @property
    def is_between(self) -> bool:
        """Whether the other end may stop here: no message has begun."""
        return not self._buffer

    @property
    def missing_bytes(self) -> int:
        """What is still missing of the next message, or of its length: the least to be read."""
        if len(self._buffer) < LENGTH_BYTES:
            return LENGTH_BYTES - len(self._buffer)
        length = int.from_bytes(self._buffer[:LENGTH_BYTES], "big", signed=True)
        return LENGTH_BYTES + length - len(self._buffer)

    def feed(self, data: bytes) -> list[bytes]:
        """The messages that are whole with these bytes.

        Raises:
            ProtocolError: A length is negative, or over the bound: nothing after it makes sense.
                What was whole before it is given first; it is raised when more is fed, or nothing.
        """
        buffer = self._buffer
        buffer += data
        messages: list[bytes] = []
        at = 0
        while len(buffer) - at >= LENGTH_BYTES:
            begin = at + LENGTH_BYTES
            length = int.from_bytes(buffer[at:begin], "big", signed=True)
            if not 0 <= length <= self._max_bytes:
                if messages:
                    break
                raise _broken(f"expected a length of 0 to {self._max_bytes}, got {length}")
            if len(buffer) - begin < length:
                break
            at = begin + length
            messages.append(bytes(buffer[begin:at]))
        del buffer[:at]
        return messages


def write_jobs(jobs: Mapping[str, bytes]) -> bytes:
    """A batch as a whole message, its length included.

    Args:
        jobs: At least one body by its id, in order.
    """
    return _framed(_encode(dict(jobs)))


def read_jobs(message: bytes) -> dict[str, bytes]:
    """A batch.

    Args:
        message: Without its length.

    Raises:
        ProtocolError: It is no map of ids to bodies, or an empty one.
    """
    try:
        jobs = _decode_jobs(message)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise _broken(f"expected a msgpack map of job ids to bodies, got: {error}") from None
    if not jobs:
        raise _broken("expected at least one job in a batch, got none")
    for job in jobs:
        if len(job) != ID_CHARS:
            raise _broken(f"expected job ids of {ID_CHARS} characters, got one of {len(job)}")
    return jobs


def write_results(results: JobResults, *, as_text: bool = False) -> bytes:
    """Results as a whole message, its length included.

    Args:
        results: Of a batch.
        as_text: Whether bodies are UTF-8 and written as str, as the original does with JSON.

    Raises:
        UnicodeDecodeError: They are not.
    """
    answer: dict[str, Any] = {
        job: body.decode() if as_text else body for job, body in results.bodies.items()
    }
    for key, jobs in ((ERRORS, results.errors), (FAILED, results.failed)):
        if jobs:
            # In the order of the batch, which a reader may count on.
            answer[key] = "".join(job for job in results.bodies if job in jobs)
    return _framed(_encode(answer))


def read_results(message: bytes, expected: Iterable[str]) -> JobResults:
    """A worker's results.

    Args:
        message: Without its length.
        expected: The ids of the batch that it answers.

    Raises:
        ProtocolError: It is no map, lacks a job or has one too many, or a value is no body.
    """
    try:
        answer = _decode(message)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise _broken(f"expected a msgpack map of results, got: {error}") from None
    if not isinstance(answer, dict):
        raise _broken(f"expected a msgpack map of results, got {type(answer).__name__}")
    errors = _ids(answer.pop(ERRORS, ""), ERRORS)
    failed = _ids(answer.pop(FAILED, ""), FAILED)
    ids = set(expected)
    if answer.keys() != ids:
        missing, more = len(ids - answer.keys()), len(answer.keys() - ids)
        raise _broken(f"expected a result for each job, got {missing} too few, {more} unknown")
    if not errors <= ids or not failed <= errors:
        raise _broken(f"expected {ERRORS} of the batch, and {FAILED} among them, got others")
    bodies = {}
    for job, body in answer.items():
        if isinstance(body, str):
            body = body.encode()
        elif not isinstance(body, bytes):
            raise _broken(f"expected results of str or bin, got {type(body).__name__}")
        bodies[job] = body
    return JobResults(bodies, errors, failed)


def _ids(joined: Any, key: str) -> frozenset[str]:
    if not isinstance(joined, str) or len(joined) % ID_CHARS:
        raise _broken(f"{key}: expected a text of job ids, got {type(joined).__name__}")
    return frozenset(joined[at : at + ID_CHARS] for at in range(0, len(joined), ID_CHARS))


def _framed(message: bytes) -> bytes:
    return len(message).to_bytes(LENGTH_BYTES, "big", signed=True) + message


def _broken(reason: str) -> ProtocolError:
    return ProtocolError(f"the batching protocol was broken: {reason}", side="remote")
