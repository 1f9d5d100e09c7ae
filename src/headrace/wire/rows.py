"""The headers of batches: one row for each item, with the place of its body in the payload part.

Lists that can be long have their longest length in their type: a decoder must not make room for
as many elements as a few bytes claim.
"""

from __future__ import annotations

from typing import Annotated, Any, Final

import msgspec
from msgspec import Meta

from ..call import Failure, Payload, Value
from ..clock import NEVER
from ..errors import ProtocolError
from .frames import OWN_CHUNK_BYTES, PADDING, Chunk, Form
from .messages import End, Part, Parts, Run, RunItem

MAX_ROWS: Final = 65536
"""The largest `max_batch_size`."""

HERE: Final = 0
"""The segment of a body that stands in the frame itself."""

MAX_TEXT: Final = 16 * 1024
"""Characters of a failure's message and of its log, bytes of its details as JSON."""

Count = Annotated[int, Meta(ge=0)]
_Table = Annotated[list[str], Meta(max_length=2 * MAX_ROWS)]
_Seconds = Annotated[float, Meta(ge=0)]
_Status = Annotated[int, Meta(ge=400, le=599)]

# index, input type, output type, count, left_s, segment, offset, length
_RunRow = tuple[Count, Count, Count, Count, _Seconds | None, Count, Count, Count]
# index, last, media type, segment, offset, length
_ValueRow = tuple[Count, bool, Count, Count, Count, Count]
# index, code, message, details as JSON, status, retry_after_s, log
_FailureRow = tuple[Count, str, str, bytes, _Status | None, _Seconds | None, str | None]


class _RunHead(msgspec.Struct, array_like=True, forbid_unknown_fields=True, gc=False):
    batch: Count
    types: _Table
    rows: Annotated[list[_RunRow], Meta(max_length=MAX_ROWS)]


class _PartsHead(msgspec.Struct, array_like=True, forbid_unknown_fields=True, gc=False):
    batch: Count
    end: End
    types: _Table
    values: Annotated[list[_ValueRow], Meta(max_length=MAX_ROWS)]
    failures: Annotated[list[_FailureRow], Meta(max_length=MAX_ROWS)]
    skipped: Annotated[list[Count], Meta(max_length=MAX_ROWS)]


_pack = msgspec.msgpack.Encoder().encode
_run_head = msgspec.msgpack.Decoder(_RunHead).decode
_parts_head = msgspec.msgpack.Decoder(_PartsHead).decode
_details = msgspec.json.Decoder(Annotated[list[dict[str, Any]], Meta(max_length=MAX_TEXT)]).decode


class _Numbers(dict[str, int]):
    """Numbers texts in the order in which they are first asked for."""

    def __missing__(self, text: str) -> int:
        number = self[text] = len(self)
        return number


def encode_run(run: Run) -> Form:
    """What a batch puts into its frame."""
    number = _Numbers()
    rows = []
    pieces: list[Chunk] = []
    end = 0
    for item in run.items:
        payload = item.payload
        body = payload.body
        size = len(body)
        rows.append(
            (
                item.index,
                number[payload.input_type],
                number[payload.output_type],
                payload.count,
                None if item.left_s == NEVER else item.left_s,
                HERE,
                end,
                size,
            )
        )
        pieces += (body, PADDING[-size & 63])
        end = (end + size + 63) & -64
    return Form(_pack((run.batch, list(number), rows)), pieces, end)


def decode_run(header: memoryview, payload: memoryview) -> Run:
    """A batch; its bodies are copies."""
    head = _run_head(header)
    types = head.types
    source = _to_cut(payload)
    items = []
    end = 0
    for index, input_type, output_type, count, left_s, segment, offset, size in head.rows:
        if segment != HERE or offset != end:
            raise _misplaced(segment, offset, end)
        asked = Payload(
            body=bytes(source[end : end + size]),
            input_type=types[input_type],
            output_type=types[output_type],
            count=count,
        )
        items.append(RunItem(index, asked, NEVER if left_s is None else left_s))
        end = (end + size + 63) & -64
    _check_filled(payload, end)
    return Run(head.batch, tuple(items))


def encode_outcomes(message: Parts) -> Form:
    """What a batch's parts put into their frame."""
    number = _Numbers()
    values = []
    pieces: list[Chunk] = []
    failures = []
    skipped = []
    end = 0
    for part in message.parts:
        outcome = part.outcome
        if isinstance(outcome, Value):
            body = outcome.body
            size = len(body)
            values.append((part.index, part.last, number[outcome.media_type], HERE, end, size))
            pieces += (body, PADDING[-size & 63])
            end = (end + size + 63) & -64
        elif outcome is None:
            skipped.append(part.index)
        else:
            failures.append((part.index, *_settled(outcome)))
    header = (message.batch, message.end.value, list(number), values, failures, skipped)
    return Form(_pack(header), pieces, end)


def decode_outcomes(header: memoryview, payload: memoryview) -> Parts:
    """A batch's parts; their bodies are copies."""
    head = _parts_head(header)
    types = head.types
    source = _to_cut(payload)
    parts = []
    end = 0
    for index, last, media_type, segment, offset, size in head.values:
        if segment != HERE or offset != end:
            raise _misplaced(segment, offset, end)
        value = Value(bytes(source[end : end + size]), types[media_type])
        parts.append(Part(index, value, last))
        end = (end + size + 63) & -64
    _check_filled(payload, end)
    parts += [Part(row[0], _failure(row)) for row in head.failures]
    parts += [Part(index, None) for index in head.skipped]
    return Parts(head.batch, tuple(parts), head.end)


# Bodies stand in the order of their rows, each at the first multiple of 64 after the one before,
# and fill the payload part. So no two rows can name the same bytes, and the copies never take
# more than was received.


def _to_cut(payload: memoryview) -> bytes | memoryview:
    """Small payloads are copied at once: slices of bytes cost less than those of a view."""
    return bytes(payload) if len(payload) <= OWN_CHUNK_BYTES else payload


def _misplaced(segment: int, offset: int, expected: int) -> ProtocolError:
    if segment != HERE:
        return ProtocolError("segments are not agreed on", side="remote")
    return ProtocolError(f"expected a body at {expected}, got one at {offset}", side="remote")


def _check_filled(payload: memoryview, end: int) -> None:
    if end != len(payload):
        reason = f"expected bodies of {len(payload)} bytes with their padding, got {end}"
        raise ProtocolError(reason, side="remote")


def _failure(row: _FailureRow) -> Failure:
    _, code, message, details, status, retry_after_s, log = row
    return Failure(
        code=code,
        message=message,
        details=tuple(_details(details)),
        status=status,
        retry_after_s=retry_after_s,
        log=log,
    )


def _settled(failure: Failure) -> tuple[object, ...]:
    """A failure's row; what is no plain data, or too much, is left out or clipped."""
    try:
        details = msgspec.json.encode(failure.details)
        _details(details)
    except Exception:
        details = b"[]"
    status, retry_after_s = failure.status, failure.retry_after_s
    return (
        sendable(failure.code),
        sendable(failure.message),
        details if len(details) <= MAX_TEXT else b"[]",
        status if type(status) is int and 400 <= status <= 599 else None,
        retry_after_s if retry_after_s is not None and retry_after_s >= 0 else None,
        None if failure.log is None else sendable(failure.log),
    )


def sendable(found: object) -> str:
    """Text that can be sent: without lone surrogates, which UTF-8 has none of, and clipped."""
    return str(found)[:MAX_TEXT].encode(errors="backslashreplace").decode()
