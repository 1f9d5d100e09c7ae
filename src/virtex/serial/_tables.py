"""DataFrames and Series as Arrow streams, with what Arrow does not tell in the schema."""

from __future__ import annotations

import json
import sys
from typing import Any, Literal

import msgspec
import pandas as pd
import pyarrow as pa

from . import _arrow, _body
from ._columns import (
    Axis,
    Column,
    from_arrow,
    from_label,
    index_from_arrow,
    index_to_arrow,
    label,
    to_arrow,
)


class Table(msgspec.Struct, omit_defaults=True, forbid_unknown_fields=True):
    """What the schema's metadata say.

    Attributes:
        version: Of this form.
        kind: What the stream holds; an index is one of column labels.
        byteorder: In which the numbers stand.
        columns: The columns, in order; the index's levels follow them in the stream.
        index: The index.
        labels: The columns' labels; their values are the names of the fields, or those in
            `label_values`.
        label_values: A stream of its own, in base64.
        name: The name of a series.
        attrs: The attributes.
    """

    version: Literal[1]
    kind: Literal["frame", "series", "index"]
    byteorder: Literal["little", "big"]
    columns: list[Column]
    index: Axis
    labels: Axis | None = None
    label_values: str = ""
    name: Any = None
    attrs: dict[str, Any] = {}


def pack(table: pd.DataFrame | pd.Series[Any]) -> bytes:
    """A DataFrame or Series as an Arrow stream.

    Raises:
        ValueError: Something in it cannot be carried; the text names it.
    """
    if not table.flags.allows_duplicate_labels:
        raise ValueError("the flag allows_duplicate_labels=False cannot be carried")
    attrs = _attrs(dict(table.attrs))
    if isinstance(table, pd.Series):
        array, column = to_arrow(table, "the series")
        name = label(table.name, "the series")
        return _pack("series", [array], [column], ["values"], table.index, name=name, attrs=attrs)
    labels = table.columns
    if not labels.is_unique:
        twice = list(labels[labels.duplicated()].unique())
        raise ValueError(f"duplicate columns cannot be carried: {twice}")
    pairs = [to_arrow(table.iloc[:, i], f"column {labels[i]!r}") for i in range(len(labels))]
    names = [str(number) for number in range(len(labels))]
    arrays, axis = index_to_arrow(labels, "the column labels")
    label_values = ""
    texts = not axis.multi and [level.kind for level in axis.levels] in (["object"], ["string"])
    if texts and all(type(name) is str for name in labels):
        names = list(labels)
    elif arrays:
        label_values = _body.to_text(_pack("index", [], [], [], labels))
    return _pack(
        "frame",
        [array for array, _ in pairs],
        [column for _, column in pairs],
        names,
        table.index,
        labels=axis,
        label_values=label_values,
        attrs=attrs,
    )


def unpack(body: bytes) -> pd.DataFrame | pd.Series[Any]:
    """The DataFrame or Series in an Arrow stream.

    Raises:
        ValueError: The stream is something else or corrupt. pandas may raise other exceptions.
    """
    table, columns, names, index = _unpack(body)
    arrays = [
        from_arrow(array, column, f"column {number}")
        for number, (array, column) in enumerate(zip(columns, table.columns, strict=True))
    ]
    if table.kind == "series" and len(arrays) == 1:
        series = pd.Series(arrays[0], index, arrays[0].dtype, from_label(table.name), copy=False)
        series.attrs = table.attrs
        return series
    if table.kind != "frame" or table.labels is None:
        raise ValueError(f"expected a DataFrame or Series, got {table.kind} of {len(arrays)}")
    data = {
        number: pd.Series(array, index, array.dtype, copy=False)
        for number, array in enumerate(arrays)
    }
    frame = pd.DataFrame(data, index, copy=False)
    frame.columns = _labels(table, names)
    frame.attrs = table.attrs
    return frame


def _labels(table: Table, names: list[str]) -> pd.Index:
    """The columns' labels."""
    axis = table.labels
    assert axis is not None
    if table.label_values:
        inner, columns, _, labels = _unpack(_body.from_text(table.label_values, "labels"))
        if inner.kind != "index" or columns:
            raise ValueError(f"expected column labels, got a {inner.kind}")
    else:
        arrays = []
        if axis.levels:
            large = axis.levels[0].kind == "object"
            arrays = [pa.array(names, pa.large_string() if large else pa.string())]
        labels = index_from_arrow(arrays, axis, "the column labels")
    if len(labels) != len(names) or not labels.is_unique:
        raise ValueError(f"expected {len(names)} different column labels, got {len(labels)}")
    return labels


def _pack(
    kind: Literal["frame", "series", "index"],
    arrays: list[pa.Array],
    columns: list[Column],
    names: list[str],
    index: pd.Index,
    **more: Any,
) -> bytes:
    levels, axis = index_to_arrow(index, "the index")
    table = Table(1, kind, sys.byteorder, columns, axis, **more)
    fields = [
        pa.field(name, array.type)
        for name, array in zip(
            [*names, *(f"index {number}" for number in range(len(levels)))],
            [*arrays, *levels],
            strict=True,
        )
    ]
    schema = pa.schema(fields, {_arrow.KEY: msgspec.json.encode(table)})
    return _arrow.write(pa.RecordBatch.from_arrays([*arrays, *levels], schema=schema))


def _unpack(body: bytes) -> tuple[Table, list[pa.Array], list[str], pd.Index]:
    """A stream's description, its columns, their fields' names, and its index."""
    batch = _arrow.read(body)
    described = (batch.schema.metadata or {}).get(_arrow.KEY)
    if described is None:
        raise ValueError("expected a stream that encode_pandas wrote, got another")
    table = msgspec.json.decode(described, type=Table)
    if table.byteorder != sys.byteorder:
        raise ValueError(f"expected numbers in {sys.byteorder}-endian order, got the other")
    arrays = batch.columns
    count = len(table.columns)
    if len(arrays) != count + len(table.index.levels):
        found = f"{count} columns and {len(table.index.levels)} levels"
        raise ValueError(f"expected a description of {len(arrays)} fields, got {found}")
    index = index_from_arrow(arrays[count:], table.index, "the index")
    if arrays and len(index) != batch.num_rows:
        raise ValueError(f"expected an index of {batch.num_rows} rows, got {len(index)}")
    return table, arrays[:count], batch.schema.names[:count], index


def _attrs(attrs: dict[Any, Any]) -> dict[str, Any]:
    """The attributes, if JSON brings them back as they are."""
    try:
        same = json.loads(json.dumps(attrs, allow_nan=False)) == attrs
    except (TypeError, ValueError, RecursionError):
        same = False
    if not same:
        raise ValueError(f"attrs that JSON does not hold exactly cannot be carried: {attrs!r:.200}")
    return attrs
