"""Tables (Arrow): any bytes are a DataFrame or Series that comes back as it is, or a ValueError.

What Arrow holds afterwards is no more than before, and it never held much more than the body has.

An input is a stream; or, where it does not begin as one, what a table's description is drawn from.
"""

from __future__ import annotations

import warnings
from typing import Any

import msgspec
import pandas as pd
import pyarrow as pa

from virtex.serial import decode_bytes, decode_pandas, encode_bytes, encode_pandas

from ._values import Drawn

MEASURED = ("virtex.serial._tables", "virtex.serial._columns", "virtex.serial._arrow")
MARK = b"\xff\xff\xff\xff"
TOKENS = (
    *(MARK, b'"version":1', b'"kind":"frame"', b'"kind":"series"', b'"byteorder":"little"'),
    *(
        b'"columns":[',
        b'"kind":"numpy"',
        b'"dtype":"int64"',
        b'"kind":"categorical"',
        b'"zone":"UTC"',
    ),
    *(b'"index":{"names":[null],"range":[0,2,1]}', b'"levels":[', b'"multi":true', b'"freq":"D"'),
    *(b'"labels":{', b'"missing":"NA"', b'"storage":"python"', b'"values":{', b'"closed":"left"'),
)
KINDS = (
    *("numpy", "datetime", "timedelta", "object", "string", "masked", "categorical", "period"),
    *("interval", "arrow"),
)
WORDS = (
    *("", "int8", "int64", "float64", "bool", "complex64", "s", "ns", "str", "bytes", "Int8", "D"),
    *(
        "boolean",
        "python",
        "pyarrow",
        "NA",
        "nan",
        "None",
        "UTC",
        "Europe/Berlin",
        "M",
        "h",
        "left",
    ),
)
_FRAMES = (
    pd.DataFrame({"a": [1, 2], "b": pd.Categorical(["x", None])}),
    pd.DataFrame({"t": pd.to_datetime(["2024-05-06"], utc=True), "o": ["a"]}),
    pd.Series(pd.array([1, None], "Int8"), name=("a", 1)),
    pd.Series(pd.period_range("2024-05", periods=2, freq="M")),
    pd.Series(pd.interval_range(0, 2), index=pd.date_range("2024-05-06", periods=2, freq="D")),
    pd.DataFrame({1: [1.5], 2: ["x"]}, index=pd.MultiIndex.from_tuples([("a", 1)], names=["k", 2])),
    pd.Series([b"a", None], dtype=object),
    pd.Series([1 + 2j]),
    pd.DataFrame({"l": pd.Series([[1]], dtype=pd.ArrowDtype(pa.list_(pa.int64())))}),
)
_STREAMS = tuple(decode_bytes(encode_pandas(frame)) for frame in _FRAMES)


def check(data: bytes) -> None:
    body = data if data.startswith(MARK) else described(Drawn(data))
    pool = pa.default_memory_pool()
    before = pool.bytes_allocated()
    try:
        with warnings.catch_warnings(action="ignore"):
            table = decode_pandas(encode_bytes(body))
            repr(table)
    except ValueError as error:
        assert str(error).startswith("decode_pandas: ")
        return
    finally:
        assert pool.bytes_allocated() - before < 16 * len(body) + 65536
    try:
        text = encode_pandas(table)
    except ValueError:
        return  # such as columns that stand twice
    again = decode_pandas(text)
    if isinstance(table, pd.DataFrame):
        pd.testing.assert_frame_equal(again, table)
    else:
        pd.testing.assert_series_equal(again, table)


def described(drawn: Drawn) -> bytes:
    """A right stream under another description."""
    with pa.ipc.open_stream(_STREAMS[drawn.number(len(_STREAMS))]) as reader:
        batch = reader.read_next_batch()
    table = msgspec.json.decode(batch.schema.metadata[b"virtex"])
    chosen = [_part(drawn, table) for _ in range(1 + drawn.number(4))]
    for part in chosen:
        keys = [*part, "dtype", "zone", "freq", "name", "missing", "kind", "multi", "range"]
        part[keys[drawn.number(len(keys))]] = _odd(drawn)
    sink = pa.BufferOutputStream()
    batch = batch.replace_schema_metadata({"virtex": msgspec.json.encode(table)})
    with pa.ipc.new_stream(sink, batch.schema) as writer:
        writer.write_batch(batch)
    return bytes(sink.getvalue())


def _part(drawn: Drawn, table: Any) -> Any:
    parts = [table, table["index"], *table["columns"], *table["index"].get("levels", ())]
    parts += [part["values"] for part in parts if "values" in part]
    return parts[drawn.number(len(parts))]


def _odd(drawn: Drawn) -> Any:
    kind = drawn.number(5)
    if kind == 0:
        return drawn.value(3)
    if kind == 1:
        return KINDS[drawn.number(len(KINDS))]
    if kind == 2:
        return {"kind": KINDS[drawn.number(len(KINDS))], "dtype": WORDS[drawn.number(len(WORDS))]}
    if kind == 3:
        return [drawn.number(9) for _ in range(drawn.number(4))]
    return WORDS[drawn.number(len(WORDS))]


def seeds() -> list[bytes]:
    small = [stream for stream in _STREAMS if len(stream) < 2000]
    return [*small, *(bytes([n, 3, n, 1, n, 4, n, 2, n, 7]) for n in range(40))]
