"""Columns and indexes of pandas as Arrow arrays with a description that restores them exactly."""

from __future__ import annotations

import re
from typing import Any, Literal

import msgspec
import numpy as np
import pandas as pd
import pyarrow as pa

NAT = np.iinfo(np.int64).min
"""The integer that stands for a missing instant or duration."""

_NUMBERS = {
    "int8": pa.int8(),
    "int16": pa.int16(),
    "int32": pa.int32(),
    "int64": pa.int64(),
    "uint8": pa.uint8(),
    "uint16": pa.uint16(),
    "uint32": pa.uint32(),
    "uint64": pa.uint64(),
    "float16": pa.float16(),
    "float32": pa.float32(),
    "float64": pa.float64(),
}
_PACKED = {**_NUMBERS, "bool": pa.bool_(), "complex64": pa.binary(8), "complex128": pa.binary(16)}
_MASKED = {
    "boolean": (pd.BooleanDtype, pa.bool_()),
    "Int8": (pd.Int8Dtype, pa.int8()),
    "Int16": (pd.Int16Dtype, pa.int16()),
    "Int32": (pd.Int32Dtype, pa.int32()),
    "Int64": (pd.Int64Dtype, pa.int64()),
    "UInt8": (pd.UInt8Dtype, pa.uint8()),
    "UInt16": (pd.UInt16Dtype, pa.uint16()),
    "UInt32": (pd.UInt32Dtype, pa.uint32()),
    "UInt64": (pd.UInt64Dtype, pa.uint64()),
    "Float32": (pd.Float32Dtype, pa.float32()),
    "Float64": (pd.Float64Dtype, pa.float64()),
}
_MISSING: dict[str, Any] = {"None": None, "nan": np.nan, "NA": pd.NA, "NaT": pd.NaT}
_ZONE = re.compile(r"(?!dateutil/)[A-Za-z0-9_+\-/:]{1,64}")  # pandas reads a file for dateutil/


class Column(msgspec.Struct, omit_defaults=True, forbid_unknown_fields=True):
    """What an Arrow array does not tell of a column of pandas.

    Attributes:
        kind: Which of the forms below.
        dtype: The name of its type (numpy, masked, object), or its unit (datetime, timedelta).
        zone: The time zone of a datetime.
        missing: What stands for missing text in an object or string column.
        storage: Where a string column keeps its text.
        ordered: Whether categories are.
        values: The categories, or the bounds of intervals.
        name: The name of the categories.
        freq: The frequency of periods.
        closed: The closed side of intervals.
    """

    kind: Literal[
        "numpy",
        "datetime",
        "timedelta",
        "object",
        "string",
        "masked",
        "categorical",
        "period",
        "interval",
        "arrow",
    ]
    dtype: str = ""
    zone: str | None = None
    missing: str | None = None
    storage: str = ""
    ordered: bool = False
    values: Column | None = None
    name: Any = None
    freq: str = ""
    closed: Literal["left", "right", "both", "neither"] = "right"


class Axis(msgspec.Struct, omit_defaults=True, forbid_unknown_fields=True):
    """What is to be known of an index beside its arrays.

    Attributes:
        names: Its names, one for each level.
        range: Start, stop and step, where it is a range and has no arrays.
        levels: Its levels, where it is none.
        multi: Whether it is a MultiIndex.
        freq: The frequency of its instants or durations.
    """

    names: list[Any]
    range: tuple[int, int, int] | None = None
    levels: list[Column] = []
    multi: bool = False
    freq: str | None = None


def to_arrow(values: Any, where: str) -> tuple[pa.Array, Column]:
    """A Series or Index as an Arrow array and its description.

    Raises:
        ValueError: It cannot be carried; the text says what and where.
    """
    dtype = values.dtype
    if isinstance(dtype, np.dtype):
        return _numpy_to_arrow(np.asarray(values), where)
    if isinstance(dtype, pd.DatetimeTZDtype):
        zone = _zone(dtype, where)
        array = np.asarray(values, dtype=f"M8[{dtype.unit}]")
        return _time_array(array, pa.timestamp(dtype.unit, zone)), Column(
            "datetime", dtype=dtype.unit, zone=zone
        )
    if isinstance(dtype, pd.CategoricalDtype):
        codes = np.asarray(values.array.codes)
        categories = values.array.categories
        dictionary, inner = to_arrow(categories, f"the categories of {where}")
        if inner.kind == "categorical":
            raise ValueError(f"{where}: categories of categories cannot be carried")
        indices = pa.array(codes, mask=codes < 0)
        return pa.DictionaryArray.from_arrays(indices, dictionary), Column(
            "categorical",
            ordered=bool(dtype.ordered),
            values=inner,
            name=label(categories.name, f"the categories of {where}"),
        )
    if isinstance(dtype, pd.PeriodDtype):
        freq = dtype.name.removeprefix("period[").removesuffix("]")
        if pd.PeriodDtype(freq) != dtype:
            raise ValueError(f"{where}: the frequency {dtype.freq!r} cannot be carried")
        ordinals = np.asarray(values.array.view("i8"))
        return pa.array(ordinals, mask=ordinals == NAT), Column("period", freq=freq)
    if isinstance(dtype, pd.IntervalDtype):
        left, inner = to_arrow(values.array.left, where)
        right, _ = to_arrow(values.array.right, where)
        array = pa.StructArray.from_arrays([left, right], ["left", "right"])
        return array, Column("interval", values=inner, closed=dtype.closed)
    if isinstance(dtype, pd.StringDtype):
        missing = "NA" if dtype.na_value is pd.NA else "nan"
        return _whole(values.array, where), Column("string", storage=dtype.storage, missing=missing)
    if isinstance(dtype, pd.ArrowDtype):
        array = _whole(values.array, where)
        if not _carried(array.type):
            raise ValueError(f"{where}: the Arrow type {array.type} cannot be carried")
        return array, Column("arrow")
    if dtype.name in _MASKED and type(dtype) is _MASKED[dtype.name][0]:
        return _whole(values.array, where), Column("masked", dtype=dtype.name)
    raise ValueError(f"{where}: the type {dtype} cannot be carried")


def from_arrow(array: pa.Array, column: Column, where: str) -> Any:
    """The array of pandas or numpy that `to_arrow` was given, with memory of its own.

    Raises:
        ValueError: The array is not what its description says.
    """
    kind = column.kind
    if kind == "numpy":
        return _numpy_from_arrow(array, column.dtype, where)
    if kind == "datetime":
        _expect(array, pa.timestamp(_unit(column), column.zone), where)
        instants = _integers(array).view(f"M8[{column.dtype}]")
        if column.zone is None:
            return instants
        if not _ZONE.fullmatch(column.zone):
            raise ValueError(f"{where}: expected a time zone, got {column.zone[:40]!r}")
        return pd.DatetimeIndex(instants).tz_localize("UTC").tz_convert(column.zone).array
    if kind == "timedelta":
        _expect(array, pa.duration(_unit(column)), where)
        return _integers(array).view(f"m8[{column.dtype}]")
    if kind == "object":
        return _objects_from_arrow(array, column, where)
    if kind == "string":
        if not (pa.types.is_string(array.type) or pa.types.is_large_string(array.type)):
            raise ValueError(f"{where}: expected text, got {array.type}")
        return _string_dtype(column, where).__from_arrow__(array).copy()
    if kind == "masked":
        if column.dtype not in _MASKED:
            raise ValueError(f"{where}: expected a nullable type, got {column.dtype[:40]!r}")
        dtype, stored = _MASKED[column.dtype]
        _expect(array, stored, where)
        return dtype().__from_arrow__(array).copy()
    if kind == "categorical":
        return _categorical(array, column, where)
    if kind == "period":
        _expect(array, pa.int64(), where)
        return pd.PeriodIndex.from_ordinals(_integers(array), freq=column.freq).array
    if kind == "interval":
        return _intervals(array, column, where)
    if not _carried(array.type):
        raise ValueError(f"{where}: expected a plain Arrow type, got {array.type}")
    return pd.arrays.ArrowExtensionArray(pa.chunked_array([array]))


def index_to_arrow(index: pd.Index, where: str) -> tuple[list[pa.Array], Axis]:
    """An index as Arrow arrays, one for each level, and its description.

    Raises:
        ValueError: It cannot be carried; the text says what and where.
    """
    names = [label(name, where) for name in index.names]
    if type(index) is pd.RangeIndex:
        return [], Axis(names, range=(index.start, index.stop, index.step))
    if isinstance(index, pd.MultiIndex):
        unnamed = index.set_names([None] * index.nlevels)  # a level may be named by a number
        pairs = [
            to_arrow(unnamed.get_level_values(number), f"level {number} of {where}")
            for number in range(index.nlevels)
        ]
        return [pair[0] for pair in pairs], Axis(names, levels=[p[1] for p in pairs], multi=True)
    array, column = to_arrow(index, where)
    freq = None
    if isinstance(index, pd.DatetimeIndex | pd.TimedeltaIndex) and index.freq is not None:
        freq = index.freq.freqstr
        if not _same_freq(index.freq, freq):
            raise ValueError(f"{where}: the frequency {index.freq!r} cannot be carried")
    return [array], Axis(names, levels=[column], freq=freq)


def index_from_arrow(arrays: list[pa.Array], axis: Axis, where: str) -> pd.Index:
    """The index that `index_to_arrow` was given.

    Raises:
        ValueError: The arrays are not what their description says.
    """
    names = [from_label(name) for name in axis.names]
    wanted = max(1, len(axis.levels))
    if len(names) != wanted or len(arrays) != len(axis.levels):
        found = f"{len(names)} names and {len(arrays)} arrays"
        raise ValueError(f"{where}: expected {wanted} names and as many arrays, got {found}")
    if axis.range is not None and not axis.levels:
        start, stop, step = axis.range
        return pd.RangeIndex(start, stop, step, name=names[0])
    levels = [
        as_index(from_arrow(array, column, where))
        for array, column in zip(arrays, axis.levels, strict=True)
    ]
    if axis.multi:
        return pd.MultiIndex.from_arrays(levels, names=names)
    if len(levels) != 1:
        raise ValueError(f"{where}: expected one level, got {len(levels)}")
    if axis.freq is None:
        return levels[0].rename(names[0])
    if isinstance(levels[0], pd.DatetimeIndex):
        return pd.DatetimeIndex(levels[0], freq=axis.freq, name=names[0])
    return pd.TimedeltaIndex(levels[0], freq=axis.freq, name=names[0])


def as_index(array: Any) -> pd.Index:
    """An array as an index of its own type, whatever pandas would guess."""
    return pd.Index(array, dtype=array.dtype, copy=False)


def label(name: Any, where: str) -> Any:
    """A name in a form that JSON has.

    Raises:
        ValueError: It has none.
    """
    if isinstance(name, np.generic):
        name = name.item() if name.dtype.kind in "biufSU" else name
    if name is None or type(name) in (bool, int, str):
        return name
    if type(name) is float and np.isfinite(name):
        return name
    if type(name) is tuple:
        return {"tuple": [label(part, where) for part in name]}
    if isinstance(name, pd.Timestamp | pd.Timedelta) and name is not pd.NaT:
        array, column = to_arrow(pd.Index([name]), where)
        number = array.cast(pa.int64())[0].as_py()
        return {"value": number, "column": msgspec.to_builtins(column)}
    raise ValueError(f"{where}: the name {name!r} ({type(name).__name__}) cannot be carried")


def from_label(name: Any) -> Any:
    """The name that `label` was given.

    Raises:
        ValueError: The form is not one of `label`.
    """
    if not isinstance(name, dict | list):
        return name
    match name:
        case {"tuple": list(parts)}:
            return tuple(from_label(part) for part in parts)
        case {"value": int(value), "column": dict(described)}:
            column = msgspec.convert(described, Column)
            if column.kind in ("datetime", "timedelta"):
                form = pa.duration(_unit(column))
                if column.kind == "datetime":
                    form = pa.timestamp(_unit(column), column.zone)
                array = pa.array([value], pa.int64()).cast(form)
                return as_index(from_arrow(array, column, "a name"))[0]
    raise ValueError("expected a name as this version writes it")


def _numpy_to_arrow(array: np.ndarray[Any, Any], where: str) -> tuple[pa.Array, Column]:
    dtype = array.dtype
    if dtype.kind == "O":
        return _objects_to_arrow(array, where)
    if not dtype.isnative or (dtype.name not in _PACKED and dtype.kind not in "Mm"):
        raise ValueError(f"{where}: the type {dtype!r} cannot be carried")
    if dtype.kind in "Mm":
        unit = np.datetime_data(dtype)[0]
        if dtype.kind == "M":
            return _time_array(array, pa.timestamp(unit)), Column("datetime", dtype=unit)
        return _time_array(array, pa.duration(unit)), Column("timedelta", dtype=unit)
    if dtype.kind == "b":
        return pa.array(array), Column("numpy", dtype="bool")
    # From the bytes as they are: a NaN is a value here, with all of its bits.
    data = pa.py_buffer(np.ascontiguousarray(array))
    stored = pa.Array.from_buffers(_PACKED[dtype.name], len(array), [None, data])
    return stored, Column("numpy", dtype=dtype.name)


def _numpy_from_arrow(array: pa.Array, name: str, where: str) -> np.ndarray[Any, Any]:
    if name not in _PACKED:
        raise ValueError(f"{where}: expected a type of numpy, got {name[:40]!r}")
    _expect(array, _PACKED[name], where)
    if array.null_count:
        raise ValueError(f"{where}: expected {name} without nulls, got {array.null_count}")
    if name == "bool":
        return np.array(array.to_numpy(zero_copy_only=False))
    return _values(array, np.dtype(name))


def _objects_to_arrow(array: np.ndarray[Any, Any], where: str) -> tuple[pa.Array, Column]:
    """Text, or bytes, in an object array, with at most one kind of missing value."""
    kinds = set(map(type, array.tolist()))
    missing = [name for name, value in _MISSING.items() if type(value) in kinds]
    held = kinds - {type(value) for value in _MISSING.values()}
    floats = float in kinds and not all(x != x for x in array.tolist() if type(x) is float)
    if len(missing) > 1 or floats or held not in ({str}, {bytes}, set()):
        found = ", ".join(sorted(kind.__name__ for kind in kinds))
        raise ValueError(
            f"{where}: expected an object column of text or of bytes, with one kind of missing"
            f" value, got {found}"
        )
    absent = np.array([type(x) not in (str, bytes) for x in array.tolist()], dtype=bool)
    stored = pa.large_binary() if held == {bytes} else pa.large_string()
    try:
        packed = pa.array(array, stored, mask=absent)
    except (UnicodeEncodeError, pa.ArrowException) as error:
        raise ValueError(f"{where}: expected text that UTF-8 can hold: {error}") from None
    dtype = "bytes" if held == {bytes} else "str"
    return packed, Column("object", dtype=dtype, missing=missing[0] if missing else None)


def _objects_from_arrow(array: pa.Array, column: Column, where: str) -> np.ndarray[Any, Any]:
    _expect(array, pa.large_binary() if column.dtype == "bytes" else pa.large_string(), where)
    values = np.empty(len(array), dtype=object)
    values[:] = array.to_pylist()
    if array.null_count:
        if column.missing not in _MISSING:
            raise ValueError(f"{where}: expected text without nulls, got {array.null_count}")
        absent = array.is_null().to_numpy(zero_copy_only=False)
        values[absent] = _MISSING[column.missing]
    return values


def _categorical(array: pa.Array, column: Column, where: str) -> pd.Categorical:
    if not isinstance(array, pa.DictionaryArray) or column.values is None:
        raise ValueError(f"{where}: expected categories, got {array.type}")
    if column.values.kind == "categorical":
        raise ValueError(f"{where}: expected plain categories, got categories of categories")
    indices = array.indices
    if not pa.types.is_signed_integer(indices.type):
        raise ValueError(f"{where}: expected signed codes, got {indices.type}")
    codes = _values(indices, np.dtype(indices.type.to_pandas_dtype()))
    codes[indices.is_null().to_numpy(zero_copy_only=False)] = -1
    categories = as_index(from_arrow(array.dictionary, column.values, where))
    dtype = pd.CategoricalDtype(categories.rename(from_label(column.name)), column.ordered)
    return pd.Categorical.from_codes(codes, dtype=dtype)


def _intervals(array: pa.Array, column: Column, where: str) -> Any:
    inner = column.values
    if inner is None or inner.kind not in ("numpy", "datetime", "timedelta"):
        raise ValueError(f"{where}: expected intervals of numbers or times")
    if not (pa.types.is_struct(array.type) and array.type.num_fields == 2) or array.null_count:
        raise ValueError(f"{where}: expected intervals of two bounds, got {array.type}")
    left, right = (as_index(from_arrow(array.field(side), inner, where)) for side in (0, 1))
    return pd.arrays.IntervalArray.from_arrays(left, right, closed=column.closed)


def _time_array(array: np.ndarray[Any, Any], stored: pa.DataType) -> pa.Array:
    numbers = np.ascontiguousarray(array).view(np.int64)
    return pa.array(numbers, mask=numbers == NAT).view(stored)


def _integers(array: pa.Array) -> np.ndarray[Any, Any]:
    """The 64-bit integers of an array of instants, durations or ordinals."""
    numbers = _values(array, np.dtype(np.int64))
    numbers[array.is_null().to_numpy(zero_copy_only=False)] = NAT
    return numbers


def _values(array: pa.Array, dtype: np.dtype[Any]) -> np.ndarray[Any, Any]:
    """What stands in an array of fixed width, nulls being whatever they are."""
    data = array.buffers()[1]
    if not len(array):
        return np.empty(0, dtype)
    return np.frombuffer(data, dtype, len(array), array.offset * dtype.itemsize).copy()


def _whole(array: Any, where: str) -> pa.Array:
    """An extension array as one Arrow array."""
    try:
        found = pa.array(array)
    except (UnicodeEncodeError, pa.ArrowException) as error:
        raise ValueError(f"{where}: cannot be carried: {error}") from None
    return found.combine_chunks() if isinstance(found, pa.ChunkedArray) else found


def _carried(kind: pa.DataType) -> bool:
    """Whether an Arrow type has bytes for each row and nothing that names code."""
    types = pa.types
    if types.is_list(kind) or types.is_large_list(kind):
        return kind.value_field.metadata is None and _carried(kind.value_type)
    if types.is_struct(kind):
        fields = [kind.field(number) for number in range(kind.num_fields)]
        return bool(fields) and all(not f.metadata and _carried(f.type) for f in fields)
    plain = (
        types.is_boolean,
        types.is_integer,
        types.is_floating,
        types.is_decimal128,
        types.is_decimal256,
        types.is_date,
        types.is_time,
        types.is_timestamp,
        types.is_duration,
        types.is_string,
        types.is_large_string,
        types.is_binary,
        types.is_large_binary,
    )
    return any(check(kind) for check in plain)


def _expect(array: pa.Array, stored: pa.DataType, where: str) -> None:
    if array.type != stored:
        raise ValueError(f"{where}: expected values stored as {stored}, got {array.type}")


def _unit(column: Column) -> str:
    if column.dtype not in ("s", "ms", "us", "ns"):
        raise ValueError(f"expected a unit of s, ms, us or ns, got {column.dtype[:40]!r}")
    return column.dtype


def _zone(dtype: pd.DatetimeTZDtype, where: str) -> str:
    zone = str(dtype.tz)
    try:
        if _ZONE.fullmatch(zone) and pd.DatetimeTZDtype(dtype.unit, zone) == dtype:
            return zone
    except Exception:  # whatever is no zone for pandas cannot be carried
        pass
    raise ValueError(f"{where}: the time zone {dtype.tz!r} cannot be carried: use a named one")


def _same_freq(freq: Any, text: str) -> bool:
    try:
        return bool(pd.tseries.frequencies.to_offset(text) == freq)
    except ValueError:
        return False


def _string_dtype(column: Column, where: str) -> Any:
    if column.storage not in ("python", "pyarrow") or column.missing not in ("NA", "nan"):
        found = f"{column.storage[:40]!r} with {column.missing!r}"
        raise ValueError(f"{where}: expected text stored by python or pyarrow, got {found}")
    if column.missing == "NA":
        return pd.StringDtype(column.storage)
    try:
        return pd.StringDtype(column.storage, na_value=np.nan)
    except TypeError:
        raise ValueError(f"{where}: expected text that pandas 2.2 has, got that of 3.0") from None
