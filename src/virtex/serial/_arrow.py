"""Arrow streams of one record batch, and what they claim, checked before it is believed.

Arrow's reader checks that everything lies within the body, but not that things lie apart: fields,
names and buffers that share their bytes, and compressed ones, would take far more memory than the
body is long. The checks here read the messages' flatbuffers, which Arrow has verified by then.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator

import pyarrow as pa

KEY = b"virtex"
"""The key of the schema's metadata that describes the table."""

_V5 = 4  # MetadataVersion.V5, which all versions since 2020 write
_SCHEMA, _DICTIONARY, _BATCH = 1, 2, 3  # MessageHeader
_TIMESTAMP, _STRUCT = 10, 13
_TYPES = frozenset({2, 3, 4, 5, 6, 7, 8, 9, _TIMESTAMP, 12, _STRUCT, 15, 18, 19, 20, 21})
"""Type: ints, floats, binary, text, bool, decimal, date, time, timestamp, list, struct, fixed-size
binary, duration, and the large ones. None of them has many rows without bytes for each."""
_FIELD_BYTES = 32
"""Less than a field takes in a schema."""


def write(batch: pa.RecordBatch) -> bytes:
    """A stream of one record batch, uncompressed."""
    sink = pa.BufferOutputStream()
    options = pa.ipc.IpcWriteOptions(compression=None)
    with pa.ipc.new_stream(sink, batch.schema, options=options) as writer:
        writer.write_batch(batch)
    return bytes(sink.getvalue())


def read(body: bytes) -> pa.RecordBatch:
    """The one record batch in a stream.

    Raises:
        ValueError: The stream is something else, corrupt, compressed, or takes more memory than
            it is long.
    """
    try:
        _check_messages(body)
        with pa.ipc.open_stream(pa.BufferReader(body)) as reader:
            batch = reader.read_next_batch()
        batch.validate(full=True)
        if batch.num_columns and batch.nbytes > len(body):
            raise ValueError(f"expected at most {len(body)} bytes of columns, got {batch.nbytes}")
    except (
        pa.ArrowException,
        OSError,
        EOFError,
        StopIteration,
        struct.error,
        MemoryError,
    ) as error:
        found = str(error).partition("\n")[0] or type(error).__name__
        raise ValueError(f"expected a whole Arrow stream of one batch: {found}") from None
    return batch


def _check_messages(body: bytes) -> None:
    source = pa.BufferReader(body)
    kinds: list[int] = []
    for message in pa.ipc.MessageReader.open_stream(source):
        kinds.append(_check_message(message.metadata.to_pybytes(), bool(kinds)))
    if source.tell() != len(body):
        raise ValueError(f"expected a stream of {source.tell()} bytes, got {len(body)}")
    if kinds.count(_BATCH) != 1 or kinds[-1] != _BATCH:
        raise ValueError(f"expected one record batch, got {kinds.count(_BATCH)}")


def _check_message(metadata: bytes, begun: bool) -> int:
    """Refuse a message that this module does not write; its kind."""
    message = _Table(metadata, _u32(metadata, 0))
    version, kind = message.number(0, "<h"), message.number(1, "<B")
    header = message.table(2)
    if version != _V5 or message.has(4) or header is None:
        raise ValueError("expected a message of version V5 without notes")
    if kind == _SCHEMA and not begun:
        _check_schema(header, metadata)
    elif kind == _DICTIONARY and begun:
        batch = header.table(1)
        if batch is None or batch.has(3) or header.number(2, "<B"):
            raise ValueError("expected an uncompressed dictionary, in one piece")
    elif kind == _BATCH and begun:
        if header.has(3):
            raise ValueError("expected an uncompressed record batch")
    else:
        raise ValueError("expected a schema, then dictionaries and a record batch")
    return kind


def _check_schema(schema: _Table, metadata: bytes) -> None:
    if schema.has(3) or schema.number(0, "<h"):
        raise ValueError("expected a schema in little-endian order, without features")
    if len(list(schema.tables(2))) != 1:
        raise ValueError("expected metadata with one key")
    count = text_bytes = 0
    waiting = [schema.tables(1)]
    while waiting:
        field = next(waiting[-1], None)
        if field is None:
            waiting.pop()
            continue
        count += 1
        text_bytes += field.text_bytes(0)
        kind = field.number(2, "<B")
        if kind not in _TYPES or field.has(6):
            raise ValueError("expected fields of plain types, without notes")
        if kind == _STRUCT and next(field.tables(5), None) is None:
            raise ValueError("expected fields of plain types, got a struct of nothing")
        if kind == _TIMESTAMP:
            found = field.table(3)
            text_bytes += 0 if found is None else found.text_bytes(1)
        if count * _FIELD_BYTES + text_bytes > len(metadata):
            raise ValueError(f"expected fields that lie apart, got more than {count}")
        waiting.append(field.tables(5))


class _Table:
    """A table of a flatbuffer, its fields by number."""

    def __init__(self, data: bytes, position: int) -> None:
        self.data = data
        self.position = position
        self.offsets = position - _unpack(data, "<i", position)
        self.offsets_bytes = _unpack(data, "<H", self.offsets)

    def at(self, number: int) -> int | None:
        """Where a field stands, None if it is left out."""
        slot = 4 + 2 * number
        if slot >= self.offsets_bytes:
            return None
        offset = _unpack(self.data, "<H", self.offsets + slot)
        return self.position + offset if offset else None

    def has(self, number: int) -> bool:
        return self.at(number) is not None

    def number(self, number: int, form: str) -> int:
        at = self.at(number)
        return 0 if at is None else _unpack(self.data, form, at)

    def table(self, number: int) -> _Table | None:
        at = self.at(number)
        return None if at is None else _Table(self.data, at + _u32(self.data, at))

    def text_bytes(self, number: int) -> int:
        at = self.at(number)
        return 0 if at is None else _u32(self.data, at + _u32(self.data, at))

    def tables(self, number: int) -> Iterator[_Table]:
        at = self.at(number)
        if at is None:
            return
        start = at + _u32(self.data, at)
        for position in range(start + 4, start + 4 + 4 * _u32(self.data, start), 4):
            yield _Table(self.data, position + _u32(self.data, position))


def _u32(data: bytes, position: int) -> int:
    return _unpack(data, "<I", position)


def _unpack(data: bytes, form: str, position: int) -> int:
    if position < 0:  # struct would count from the end
        raise ValueError("expected offsets within the message")
    number: int = struct.unpack_from(form, data, position)[0]
    return number
