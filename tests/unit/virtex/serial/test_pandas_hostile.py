"""Arrow streams that lie: refused, and nothing is allocated or run for them."""

from __future__ import annotations

import base64
import struct
import subprocess
import sys
from collections.abc import Callable
from typing import Any

import msgspec
import pandas as pd
import pyarrow as pa
import pytest

from virtex.serial import decode_pandas, encode_pandas

_FRAME = pd.DataFrame({"a": [1, 2], "b": pd.Categorical(["x", None])})


def _text(body: bytes) -> str:
    return base64.b64encode(body).decode()


def _stream(batch: pa.RecordBatch, *, times: int = 1, compression: str | None = None) -> str:
    sink = pa.BufferOutputStream()
    options = pa.ipc.IpcWriteOptions(compression=compression)
    with pa.ipc.new_stream(sink, batch.schema, options=options) as writer:
        for _ in range(times):
            writer.write_batch(batch)
    return _text(bytes(sink.getvalue()))


def _batch(**changed: Any) -> pa.RecordBatch:
    """The record batch of a frame, with other metadata."""
    with pa.ipc.open_stream(base64.b64decode(encode_pandas(_FRAME))) as reader:
        batch = reader.read_next_batch()
    table = {**msgspec.json.decode(batch.schema.metadata[b"virtex"]), **changed}
    return batch.replace_schema_metadata({"virtex": msgspec.json.encode(table)})


def _refused(text: str) -> str:
    """The error of a text; Arrow's own memory is looked at too."""
    before = pa.total_allocated_bytes()
    with pytest.raises(ValueError, match="decode_pandas: ") as caught:
        decode_pandas(text)
    assert pa.total_allocated_bytes() - before < 10_000_000
    return str(caught.value)


def test_the_forger_of_these_tests_can_write_a_right_one() -> None:
    pd.testing.assert_frame_equal(decode_pandas(_stream(_batch())), _FRAME)


@pytest.mark.parametrize("compression", ["lz4", "zstd"])
def test_a_compressed_stream_is_refused(compression: str) -> None:
    assert "uncompressed" in _refused(_stream(_batch(), compression=compression))


def test_a_compressed_bomb_is_refused_before_it_is_unpacked() -> None:
    zeros = pa.record_batch({"a": pa.array([bytes(50_000_000)])})
    text = _stream(zeros.replace_schema_metadata({"virtex": "{}"}), compression="zstd")
    assert len(text) < 100_000
    peak = pa.default_memory_pool().max_memory() or 0
    assert "uncompressed" in _refused(text)
    assert (pa.default_memory_pool().max_memory() or 0) == peak


def test_a_stream_of_another_writer_is_refused() -> None:
    plain = pa.record_batch({"a": [1]})
    assert "metadata with one key" in _refused(_stream(plain))
    pandas_own = pa.RecordBatch.from_pandas(pd.DataFrame({"a": [1]}))
    assert "that encode_pandas wrote" in _refused(_stream(pandas_own))


@pytest.mark.parametrize("times", [0, 2])
def test_another_number_of_batches_is_refused(times: int) -> None:
    assert f"expected one record batch, got {times}" in _refused(_stream(_batch(), times=times))


def test_what_follows_the_stream_is_refused() -> None:
    body = base64.b64decode(encode_pandas(_FRAME))
    assert f"expected a stream of {len(body)} bytes" in _refused(_text(body + b"more"))


@pytest.mark.parametrize("share", range(0, 100, 9))
def test_a_stream_that_ends_early_is_refused(share: int) -> None:
    body = base64.b64decode(encode_pandas(_FRAME))
    _refused(_text(body[: len(body) * share // 100]))


@pytest.mark.parametrize(
    "make",
    [
        lambda: pa.NullArray.from_buffers(pa.null(), 2**31 - 1, [None]),
        lambda: pa.StructArray.from_buffers(pa.struct([]), 2**31 - 1, [None]),
        lambda: pa.FixedSizeListArray.from_arrays(pa.array([1]), 1),
        lambda: pa.RunEndEncodedArray.from_arrays(pa.array([2**31 - 1]), pa.array([1])),
        lambda: pa.UnionArray.from_sparse(pa.array([0], pa.int8()), [pa.array([1])]),
        lambda: pa.array(["a"], pa.string_view()),
        lambda: pa.array([[("a", 1)]], pa.map_(pa.string(), pa.int8())),
        lambda: pa.ExtensionArray.from_storage(pa.uuid(), pa.array([bytes(16)], pa.binary(16))),
    ],
    ids=["null", "struct", "list", "runs", "union", "view", "map", "extension"],
)
def test_a_type_that_can_be_long_without_bytes_or_names_code_is_refused(
    make: Callable[[], pa.Array],
) -> None:
    array = make()
    schema = pa.schema([pa.field("a", array.type)], {"virtex": "{}"})
    assert "fields of plain types" in _refused(
        _stream(pa.RecordBatch.from_arrays([array], schema=schema))
    )


@pytest.mark.parametrize("length", [10**12, 2**62, -1, 3])
def test_lengths_that_the_bytes_do_not_bear_out_are_refused(length: int) -> None:
    """Each 2 in the stream, the number of rows among them, is tried in turn."""
    body = base64.b64decode(encode_pandas(pd.Series([5, 6], name="s")))
    two = struct.pack("<q", 2)
    places = [at for at in range(0, len(body), 8) if body[at : at + 8] == two]
    assert len(places) >= 2  # of the batch, and of its column
    for at in places:
        _refused(_text(body[:at] + struct.pack("<q", length) + body[at + 8 :]))


def test_columns_that_share_their_bytes_are_refused() -> None:
    count, rows = 50, 10_000
    column = pa.array(range(rows), pa.int64())
    sink = pa.BufferOutputStream()
    schema = pa.schema([pa.field(str(n), pa.int64()) for n in range(count)], {"virtex": "{}"})
    with pa.ipc.new_stream(sink, schema) as writer:
        writer.write_batch(pa.RecordBatch.from_arrays([column] * count, schema=schema))
    body = bytearray(bytes(sink.getvalue()))
    # Point every column at the first one's bytes, and cut the rest of the body off.
    reader = pa.ipc.MessageReader.open_stream(pa.BufferReader(bytes(body)))
    first = reader.read_next_message().metadata.size
    metadata = reader.read_next_message().metadata
    start = 8 + first + 8
    size = rows * 8
    for number in range(1, count):
        described = struct.pack("<4q", number * size, 0, number * size, size)
        at = body.index(described, start, start + metadata.size)
        body[at : at + 32] = struct.pack("<4q", 0, 0, 0, size)
    total = struct.pack("<q", count * size)
    at = body.index(total, start, start + metadata.size)
    body[at : at + 8] = struct.pack("<q", size)
    shorter = bytes(body[: start + metadata.size + size]) + bytes(body[-8:])
    assert pa.ipc.open_stream(shorter).read_next_batch().nbytes == count * size  # Arrow takes it
    assert f"got {count * size}" in _refused(_text(shorter))


@pytest.mark.parametrize(
    "changed",
    [
        {"version": 2},
        {"kind": "index"},
        {"kind": "series"},
        {"kind": "other"},
        {"byteorder": "big"},
        {"columns": []},
        {"columns": [{"kind": "numpy", "dtype": "object"}, {"kind": "numpy", "dtype": "int64"}]},
        {"columns": [{"kind": "numpy", "dtype": "int8"}, {"kind": "numpy", "dtype": "int64"}]},
        {"columns": [{"kind": "string", "storage": "x"}, {"kind": "arrow"}]},
        {"columns": [{"kind": "arrow"}, {"kind": "arrow"}]},
        {"columns": [{"kind": "datetime", "dtype": "ns", "zone": "dateutil//etc/passwd"}] * 2},
        {"index": {"names": [None], "range": [0, 10**12, 1]}},
        {"index": {"names": [None], "range": [0, 2, 0]}},
        {"index": {"names": [None], "range": [0, 10**30, 1]}},
        {"index": {"names": [], "range": [0, 2, 1]}},
        {"index": {"names": [{"other": 1}], "range": [0, 2, 1]}},
        {"labels": {"names": [None], "range": [0, 3, 1]}},
        {"labels": {"names": [None], "range": [0, 10**15, 1]}},
        {"labels": {"names": [None], "levels": [{"kind": "masked", "dtype": "Int8"}]}},
        {"label_values": "AAAA"},
        {"more": 1},
    ],
    ids=range(21),
)
def test_a_description_that_does_not_fit_is_refused(changed: dict[str, Any]) -> None:
    _refused(_stream(_batch(**changed)))


_FUZZ = """
import base64, random, resource, sys, warnings
import numpy as np, pandas as pd, pyarrow as pa
from virtex.serial import decode_pandas, encode_pandas

warnings.simplefilter("ignore")
S = pd.Series
tables = [
    pd.DataFrame({"a": [1, 2], "b": ["x", None], "c": pd.Categorical(["u", None]),
                  "d": pd.date_range("2024", periods=2, tz="UTC"),
                  "e": pd.array([1, None], dtype="Int8")}, index=["p", "q"]),
    S([[1, 2], None], dtype=pd.ArrowDtype(pa.list_(pa.int32()))),
    S(pd.cut([1, 2, 3], 2)),
    pd.DataFrame(np.zeros((2, 2)), columns=pd.MultiIndex.from_tuples([("a", 1), ("b", 2)])),
]
bodies = [base64.b64decode(encode_pandas(table)) for table in tables]
rng = random.Random(int(sys.argv[1]))
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
values = 0
for _ in range(3000):
    body = bytearray(rng.choice(bodies))
    for _ in range(rng.choice([1, 1, 2, 4])):
        at = rng.randrange(len(body))
        number = rng.choice([0, 1, -1, 2**31 - 1, -(2**31), 2**62, len(body)])
        if rng.random() < 0.5:
            body[at] = rng.randrange(256)
        else:
            at &= ~3
            body[at : at + 8] = number.to_bytes(8, "little", signed=True)
    try:
        repr(decode_pandas(base64.b64encode(body).decode()))
        values += 1
    except ValueError:
        pass
grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) // 1024
assert values and grown < 100, (values, grown)
print("done")
"""


@pytest.mark.slow
@pytest.mark.parametrize("seed", ["1", "2"])
def test_a_changed_stream_gives_a_table_or_a_value_error(seed: str) -> None:
    """In a process of its own, which a fault in Arrow would end."""
    ran = subprocess.run(
        [sys.executable, "-c", _FUZZ, seed], capture_output=True, text=True, timeout=100
    )
    assert (ran.returncode, ran.stdout) == (0, "done\n"), ran.stderr
