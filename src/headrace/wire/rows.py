"""The headers of batches: columns, with one element for each item, and the sizes of the bodies.

A column in which all items have the same is that one number. Lists that can be long have their
longest length in their type: a decoder must not make room for as many elements as a few bytes
claim.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import repeat
from typing import Annotated, Any, Final

import msgspec
from msgspec import Meta

from ..call import CODES, Failure, Outcome, Payload, Value
from ..errors import ItemError, ModelError, ProtocolError
from .frames import OWN_CHUNK_BYTES, PADDING, Chunk, Form
from .messages import End, Parts, Run
from .segments import LARGE_BYTES, Inbox, Outbox

MAX_ROWS: Final = 65536
"""The largest `max_batch_size`."""

MAX_TEXT: Final = 16 * 1024
"""Characters of a failure's message and of its log, bytes of its details as JSON."""

MAX_RETRY_S: Final = 86_400.0

MAX_TYPE_CHARS: Final = 1024
"""Of a media type, which becomes a header of an answer."""

Count = Annotated[int, Meta(ge=0)]
_Counts = Annotated[list[Count], Meta(max_length=MAX_ROWS)]
_Column = Count | _Counts
_Table = Annotated[list[str], Meta(max_length=2 * MAX_ROWS)]
_Seconds = Annotated[float, Meta(ge=0)]
_Retry = Annotated[float, Meta(ge=0, le=MAX_RETRY_S)]
_Status = Annotated[int, Meta(ge=400, le=599)]

# index, code, message, details as JSON, status, retry_after_s, log
_FailureRow = tuple[Count, str, str, bytes, _Status | None, _Retry | None, str | None]


class _RunHead(msgspec.Struct, array_like=True, forbid_unknown_fields=True, gc=False):
    batch: Count
    types: _Table
    # Where it is a number, that many items have the indexes from 0 on.
    indexes: _Column
    input_types: _Column
    output_types: _Column
    counts: _Column
    left_s: Annotated[list[_Seconds | None], Meta(max_length=MAX_ROWS)] | None
    sizes: _Counts
    begin: Count | None
    taken: Count


class _PartsHead(msgspec.Struct, array_like=True, forbid_unknown_fields=True, gc=False):
    batch: Count
    end: End
    types: _Table
    indexes: _Column
    media_types: _Column
    more: _Counts
    sizes: _Counts
    begin: Count | None
    failures: Annotated[list[_FailureRow], Meta(max_length=MAX_ROWS)]
    skipped: _Counts


_pack = msgspec.msgpack.Encoder().encode
_run_head = msgspec.msgpack.Decoder(_RunHead).decode
_parts_head = msgspec.msgpack.Decoder(_PartsHead).decode
_details = msgspec.json.Decoder(Annotated[list[dict[str, Any]], Meta(max_length=MAX_TEXT)]).decode


def encode_run(run: Run, outbox: Outbox | None = None) -> Form:
    """What a batch puts into its frame, and its large bodies into the segment."""
    items, left_s = run.items, run.left_s
    indexes, sizes, bodies = [], [], []
    first = items[0][1] if items else _NOTHING
    input_type, output_type, count = first.input_type, first.output_type, first.count
    is_uniform = True
    for index, payload in items:
        body = payload.body
        size = len(body)
        indexes.append(index)
        sizes.append(size)
        bodies.append(body)
        if (
            payload.input_type is not input_type
            or payload.output_type is not output_type
            or payload.count != count
        ):
            is_uniform = False
    types = _Numbers()
    columns: tuple[object, ...]
    if is_uniform:
        columns = (types[input_type], types[output_type], count)
    else:
        payloads = [payload for _, payload in items]
        columns = (
            _column([types[payload.input_type] for payload in payloads]),
            _column([types[payload.output_type] for payload in payloads]),
            _column([payload.count for payload in payloads]),
        )
    left = [left_s.get(index) for index in indexes] if left_s else None
    begin, pieces, end = _placed(bodies, sizes, outbox)
    header = (
        *(run.batch, list(types), _shortened(indexes), *columns, left, sizes),
        *(begin, run.taken),
    )
    return Form(_pack(header), pieces, end)


def decode_run(header: memoryview, payload: memoryview, inbox: Inbox | None = None) -> Run:
    """A batch; its bodies are copies."""
    head = _run_head(header)
    bodies = _cut(payload, head.sizes, head.begin, inbox)
    size = len(bodies)
    indexes = _indexes(head.indexes, size)
    types = head.types
    input_types, output_types, counts = head.input_types, head.output_types, head.counts
    if type(input_types) is type(output_types) is type(counts) is int and size:
        input_type, output_type = types[input_types], types[output_types]
        payloads = [Payload(body, input_type, output_type, counts) for body in bodies]
    else:
        payloads = [
            Payload(body, types[input_number], types[output_number], count)
            for body, input_number, output_number, count in zip(
                bodies,
                _each(input_types, size),
                _each(output_types, size),
                _each(counts, size),
                strict=True,
            )
        ]
    items = tuple(zip(indexes, payloads, strict=True))
    if head.left_s is None:
        return Run(head.batch, items, taken=head.taken)
    _check_length(head.left_s, size)
    left_s = {i: left for i, left in zip(indexes, head.left_s, strict=True) if left is not None}
    return Run(head.batch, items, left_s, head.taken)


def encode_outcomes(message: Parts, outbox: Outbox | None = None) -> Form:
    """What a batch's parts put into their frame, and their large bodies into the segment."""
    indexes, sizes, media_types, bodies = [], [], [], []
    failures = []
    skipped = []
    types = _Numbers()
    last_type, number = "", 0
    for index, outcome in message.parts:
        if isinstance(outcome, Value):
            body = outcome.body
            size = len(body)
            if outcome.media_type is not last_type or not types:
                last_type = outcome.media_type
                number = types[last_type]
            indexes.append(index)
            sizes.append(size)
            media_types.append(number)
            bodies.append(body)
        elif outcome is None:
            skipped.append(index)
        else:
            failures.append((index, *_settled(outcome)))
    begin, pieces, end = _placed(bodies, sizes, outbox)
    header = (
        message.batch,
        message.end.value,
        list(types),
        _shortened(indexes),
        0 if len(types) <= 1 else media_types,
        _places(message) if message.more else (),
        sizes,
        begin,
        failures,
        skipped,
    )
    return Form(_pack(header), pieces, end)


def decode_outcomes(header: memoryview, payload: memoryview, inbox: Inbox | None = None) -> Parts:
    """A batch's parts; their bodies are copies."""
    head = _parts_head(header)
    bodies = _cut(payload, head.sizes, head.begin, inbox)
    size = len(bodies)
    types, media_types = head.types, head.media_types
    _check_types(types)
    if type(media_types) is int and size:
        media_type = types[media_types]
        values = [Value(body, media_type) for body in bodies]
    else:
        each = zip(bodies, _each(media_types, size), strict=True)
        values = [Value(body, types[number]) for body, number in each]
    parts: list[tuple[int, Outcome | None]] = []
    parts += zip(_indexes(head.indexes, size), values, strict=True)
    if head.failures:
        parts += [(row[0], _failure(row)) for row in head.failures]
    if head.skipped:
        parts += zip(head.skipped, repeat(None))
    if not head.more:
        return Parts(head.batch, tuple(parts), head.end)
    if max(head.more) >= size:
        raise ProtocolError(f"expected more of one of {size} values", side="remote")
    return Parts(head.batch, tuple(parts), head.end, tuple(head.more))


class _Numbers(dict[str, int]):
    """Numbers texts in the order in which they are first asked for."""

    def __missing__(self, text: str) -> int:
        number = self[text] = len(self)
        return number


_NOTHING: Final = Payload(body=b"", input_type="", output_type="")
"""What a batch without items has in common."""


def _column(numbers: list[int]) -> int | list[int]:
    """A column, as one number if it can be."""
    return numbers[0] if len(set(numbers)) == 1 else numbers


def _shortened(indexes: list[int]) -> int | list[int]:
    """Indexes, as their number where they are those from 0 on."""
    size = len(indexes)
    return indexes if indexes and (indexes[-1] != size - 1 or indexes != [*range(size)]) else size


def _indexes(found: int | list[int], size: int) -> Sequence[int]:
    """The indexes of so many items."""
    if not isinstance(found, int):
        return _check_length(found, size)
    if found != size:
        raise _uneven(found, size)
    return range(size)


def _each(column: int | list[int], size: int) -> Iterable[int]:
    """A column's elements."""
    return repeat(column, size) if isinstance(column, int) else _check_length(column, size)


def _check_length(column: list[Any], size: int) -> list[Any]:
    if len(column) != size:
        raise _uneven(len(column), size)
    return column


def _check_types(types: list[str]) -> None:
    """Raise a ProtocolError for what would be no header, or more than one."""
    for found in types:
        if len(found) > MAX_TYPE_CHARS or not (found.isascii() and found.isprintable()):
            raise ProtocolError("expected media types of printable ASCII", side="remote")


def _uneven(found: int, size: int) -> ProtocolError:
    return ProtocolError(f"expected a column of {size} elements, got {found}", side="remote")


def _places(message: Parts) -> list[int]:
    """Which of the values are followed by more of their items."""
    is_value = [type(outcome) is Value for _, outcome in message.parts]
    return [sum(is_value[:place]) for place in sorted(message.more) if is_value[place]]


def _placed(
    bodies: list[bytes], sizes: list[int], outbox: Outbox | None
) -> tuple[int | None, list[Chunk], int]:
    """Where the large bodies begin in the segment, if they do, the payload part and its length."""
    begin = None
    if outbox is not None and sizes and max(sizes) > LARGE_BYTES:
        begin = outbox.place([body for body in bodies if len(body) > LARGE_BYTES])
        if begin is not None:
            bodies = [body for body in bodies if len(body) <= LARGE_BYTES]
    pieces: list[Chunk] = []
    end = 0
    for body in bodies:
        size = len(body)
        pieces += (body, PADDING[-size & 63])
        end += (size + 63) & -64
    return begin, pieces, end


# Bodies stand in the order of their sizes, each at the first multiple of 64 after the one before,
# the large ones in the segment or all of them in the payload part, which they fill. So no two can
# name the same bytes, and the copies never take more than was received or shared.


def _cut(
    payload: memoryview, sizes: list[int], begin: int | None, inbox: Inbox | None
) -> list[bytes]:
    """Copies of the bodies."""
    if begin is None:
        return _cut_here(payload, sizes)
    if inbox is None:
        raise ProtocolError("segments are not agreed on", side="remote")
    small = iter(_cut_here(payload, [size for size in sizes if size <= LARGE_BYTES]))
    large = iter(inbox.cut(begin, [size for size in sizes if size > LARGE_BYTES]))
    return [next(large if size > LARGE_BYTES else small) for size in sizes]


def _cut_here(payload: memoryview, sizes: list[int]) -> list[bytes]:
    """Copies of the bodies that stand in the frame itself."""
    bodies = []
    end = 0
    if len(payload) <= OWN_CHUNK_BYTES:
        # Slices of bytes cost less than those of a view.
        small = bytes(payload)
        for size in sizes:
            bodies.append(small[end : end + size])
            end += (size + 63) & -64
    else:
        for size in sizes:
            bodies.append(bytes(payload[end : end + size]))
            end += (size + 63) & -64
    if end != len(payload):
        reason = f"expected bodies of {len(payload)} bytes with their padding, got {end}"
        raise ProtocolError(reason, side="remote")
    return bodies


def _failure(row: _FailureRow) -> Failure:
    _, code, message, details, status, retry_after_s, log = row
    if code not in CODES:
        code = ModelError.code if status is None else ItemError.code
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
    status, retry = failure.status, failure.retry_after_s
    return (
        sendable(failure.code),
        sendable(failure.message),
        details if len(details) <= MAX_TEXT else b"[]",
        status if type(status) is int and 400 <= status <= 599 else None,
        None if retry is None or not retry >= 0 else min(retry, MAX_RETRY_S),
        None if failure.log is None else sendable(failure.log),
    )


def sendable(found: object) -> str:
    """Text that can be sent: without lone surrogates, which UTF-8 has none of, and clipped."""
    return str(found)[:MAX_TEXT].encode(errors="backslashreplace").decode()
