from __future__ import annotations

import base64
import datetime
import functools
import json
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays_of

from virtex.serial import decode_pandas, encode_pandas

_TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=5)
_INTS = st.integers(-(2**62), 2**62)
_ZONES = st.sampled_from(
    [
        None,
        "UTC",
        "Europe/Zurich",
        "America/Argentina/Buenos_Aires",
        "+05:30",
        datetime.UTC,
        datetime.timezone(datetime.timedelta(hours=-3)),
    ]
)
_UNITS = st.sampled_from(["s", "ms", "us", "ns"])
_MASKED = ["Int8", "Int16", "Int32", "Int64", "UInt8", "UInt16", "UInt32", "UInt64"]


@functools.cache  # building it takes longer than drawing from it
def _column(rows: int) -> st.SearchStrategy[Any]:
    """Any array that pandas can hold and Arrow carry, of so many rows."""

    def lists(values: st.SearchStrategy[Any]) -> st.SearchStrategy[list[Any]]:
        return st.lists(values, min_size=rows, max_size=rows)

    def times(kind: str) -> st.SearchStrategy[Any]:
        numbers = arrays_of.arrays(np.int64, rows, elements=st.integers(-(2**32), 2**32))
        return st.builds(_times, st.just(kind), numbers, lists(st.booleans()), _UNITS)

    numbers = st.one_of(
        arrays_of.arrays(arrays_of.boolean_dtypes(), rows),
        arrays_of.arrays(arrays_of.integer_dtypes(endianness="="), rows),
        arrays_of.arrays(arrays_of.unsigned_integer_dtypes(endianness="="), rows),
        arrays_of.arrays(arrays_of.floating_dtypes(endianness="=", sizes=(32, 64)), rows),
    )
    instants = st.builds(_zoned, times("M8"), _ZONES)
    durations = times("m8").map(lambda values: pd.array(values, dtype=values.dtype))
    plain = st.one_of(numbers, instants, durations, lists(_TEXT).map(_strings("python", np.nan)))
    others = st.one_of(
        arrays_of.arrays(np.float16, rows),
        arrays_of.arrays(arrays_of.complex_number_dtypes(endianness="=", sizes=(64, 128)), rows),
        *(
            lists(_TEXT | st.just(missing)).map(_objects)
            for missing in (None, float("nan"), pd.NA, pd.NaT)
        ),
        lists(st.binary(max_size=4) | st.none()).map(_objects),
        *(
            lists(_TEXT | st.none()).map(_strings(storage, missing))
            for storage in ("python", "pyarrow")
            for missing in (np.nan, pd.NA)
        ),
        st.builds(
            lambda values, dtype: pd.array(values, dtype=dtype),
            lists(st.integers(0, 127) | st.none()),
            st.sampled_from(_MASKED),
        ),
        lists(st.booleans() | st.none()).map(lambda values: pd.array(values, dtype="boolean")),
        lists(st.floats(allow_nan=False, width=32) | st.none()).map(
            lambda values: pd.array(values, dtype="Float32")
        ),
        lists(_INTS | st.none()).map(
            lambda values: pd.array(values, dtype=pd.ArrowDtype(pa.int64()))
        ),
        lists(st.lists(st.integers(0, 9), max_size=3) | st.none()).map(
            lambda values: pd.array(values, dtype=pd.ArrowDtype(pa.list_(pa.int8())))
        ),
        st.builds(
            lambda values, freq: pd.PeriodIndex.from_ordinals(values, freq=freq).array,
            lists(st.integers(-1000, 1000)),
            st.sampled_from(["D", "M", "Y", "Q", "W", "2h"]),
        ),
        st.builds(
            lambda bounds, closed: pd.arrays.IntervalArray.from_tuples(
                [tuple(sorted(pair)) for pair in bounds],
                closed=closed,
                dtype=f"interval[int64, {closed}]",
            ),
            lists(st.tuples(st.integers(0, 99), st.integers(0, 99))),
            st.sampled_from(["left", "right", "both", "neither"]),
        ),
    )
    return st.one_of(plain, others, _categories(rows, plain))


def _times(
    kind: str, numbers: np.ndarray[Any, Any], missing: list[bool], unit: str
) -> np.ndarray[Any, Any]:
    values = numbers.view(f"{kind}[{unit}]").copy()
    values[np.array(missing, dtype=bool)] = "NaT"
    return values


def _zoned(values: np.ndarray[Any, Any], zone: Any) -> Any:
    index = pd.DatetimeIndex(values)
    return index.array if zone is None else index.tz_localize("UTC").tz_convert(zone).array


def _objects(values: list[Any]) -> np.ndarray[Any, Any]:
    array = np.empty(len(values), dtype=object)
    array[:] = values
    return array


def _strings(storage: str, missing: Any) -> Any:
    return lambda values: pd.array(values, dtype=pd.StringDtype(storage, na_value=missing))


@st.composite
def _categories(draw: st.DrawFn, rows: int, values: st.SearchStrategy[Any]) -> pd.Categorical:
    index = pd.Index(draw(values)).dropna().unique()
    index = pd.Index(index, name=draw(st.none() | _TEXT))
    codes = draw(st.lists(st.integers(-1, len(index) - 1), min_size=rows, max_size=rows))
    dtype = pd.CategoricalDtype(index, ordered=draw(st.booleans()))
    return pd.Categorical.from_codes(codes, dtype=dtype)


_NAMES = st.one_of(
    st.none(),
    _TEXT,
    st.integers(),
    st.booleans(),
    st.floats(allow_nan=False, allow_infinity=False),
    st.tuples(_TEXT, st.integers()),
    st.just(pd.Timestamp("2024-02-29 12:00:00.000000001", tz="Europe/Zurich")),
    st.just(pd.Timedelta("1s")),
)


@st.composite
def _index(draw: st.DrawFn, rows: int, *, unique: bool = False) -> pd.Index:
    kind = draw(st.sampled_from(["range", "single", "multi", "freq"]))
    if kind == "range":
        start, step = draw(st.integers(-9, 9)), draw(st.sampled_from([-2, 1, 3]))
        return pd.RangeIndex(start, start + rows * step, step, name=draw(_NAMES))
    if kind == "freq":
        freq = draw(st.sampled_from(["D", "2h", "ME", "B", "W-TUE", "90min"]))
        zone = draw(_ZONES)
        return pd.date_range("2024-01-31", periods=rows, freq=freq, tz=zone, name=draw(_NAMES))
    if kind == "multi":
        sortable = _column(rows).filter(lambda array: "list" not in str(array.dtype))
        levels = [draw(sortable) for _ in range(draw(st.integers(1, 3)))]
        names = [draw(_NAMES) for _ in levels]
        index = pd.MultiIndex.from_arrays([_as_index(level) for level in levels], names=names)
    else:
        index = _as_index(draw(_column(rows))).rename(draw(_NAMES))
    if unique and not index.is_unique:
        return pd.RangeIndex(rows)
    return index


def _as_index(array: Any) -> pd.Index:
    dtype = np.float64 if array.dtype == np.float16 else array.dtype  # no index is of float16
    return pd.Index(array, dtype=dtype)


def _same(found: Any, wanted: Any) -> None:
    assert type(found) is type(wanted)
    if isinstance(wanted, pd.DataFrame):
        pd.testing.assert_frame_equal(
            found, wanted, check_exact=True, check_index_type=True, check_column_type=True
        )
        assert list(found.dtypes) == list(wanted.dtypes)
        _same_index(found.columns, wanted.columns)
    else:
        pd.testing.assert_series_equal(found, wanted, check_exact=True, check_index_type=True)
        assert found.dtype == wanted.dtype
    _same_index(found.index, wanted.index)
    assert found.attrs == wanted.attrs


def _same_index(found: pd.Index, wanted: pd.Index) -> None:
    assert type(found) is type(wanted)
    pd.testing.assert_index_equal(found, wanted, exact=True, check_exact=True)
    assert list(found.names) == list(wanted.names)
    if isinstance(wanted, pd.DatetimeIndex):
        assert found.freq == wanted.freq


@settings(max_examples=100)
@given(st.data())
def test_a_series_comes_back(data: st.DataObject) -> None:
    rows = data.draw(st.integers(0, 4))
    array = data.draw(_column(rows))
    series = pd.Series(array, data.draw(_index(rows)), array.dtype, data.draw(_NAMES))
    _same(decode_pandas(encode_pandas(series)), series)


@settings(max_examples=50)
@given(st.data())
def test_a_frame_comes_back(data: st.DataObject) -> None:
    rows, width = data.draw(st.integers(0, 3)), data.draw(st.integers(0, 3))
    index = data.draw(_index(rows))
    arrays = [data.draw(_column(rows)) for _ in range(width)]
    columns = {n: pd.Series(array, index, array.dtype) for n, array in enumerate(arrays)}
    frame = pd.DataFrame(columns, index)
    frame.columns = data.draw(
        st.lists(_TEXT, min_size=width, max_size=width, unique=True).map(pd.Index)
        | _index(width, unique=True)
    )
    frame.attrs = data.draw(st.dictionaries(_TEXT, st.none() | st.lists(st.integers())))
    text = encode_pandas(frame)
    assert json.loads(json.dumps(text)) == text
    _same(decode_pandas(text), frame)


def test_what_comes_back_can_be_changed() -> None:
    frame = pd.DataFrame({"a": [1, 2], "b": ["x", None], "c": pd.array([1, None], dtype="Int64")})
    found = decode_pandas(encode_pandas(frame))
    assert isinstance(found, pd.DataFrame)
    found.loc[0] = [5, "y", 7]
    assert found.loc[0].tolist() == [5, "y", 7]


def test_every_bit_of_a_nan_comes_back() -> None:
    series = pd.Series(np.array([0x7FF8000000000001, 0xFFF8000000000000], "u8").view("f8"))
    found = decode_pandas(encode_pandas(series))
    assert found.to_numpy().tobytes() == series.to_numpy().tobytes()


def test_a_slice_does_not_bring_what_it_was_cut_from() -> None:
    series = pd.Series(np.arange(100_000), name="a")
    assert len(encode_pandas(series[10:20])) < 2000
    _same(decode_pandas(encode_pandas(series[10:20])), series[10:20])


def test_any_reader_of_arrow_reads_the_columns() -> None:
    frame = pd.DataFrame({"a": [1, 2], "b": pd.Categorical(["x", None])}, index=["p", "q"])
    with pa.ipc.open_stream(base64.b64decode(encode_pandas(frame))) as reader:
        table = reader.read_all()
    assert table.to_pydict() == {"a": [1, 2], "b": ["x", None], "index 0": ["p", "q"]}


class _Frame(pd.DataFrame):  # type: ignore[misc]  # pandas has no types here
    pass


@pytest.mark.parametrize("wrong", [[1], {"a": [1]}, np.zeros(2), pd.Index([1]), _Frame(), None])
def test_what_is_no_table_is_refused(wrong: Any) -> None:
    with pytest.raises(TypeError, match="encode_pandas: expected a DataFrame or Series, got"):
        encode_pandas(wrong)


def _objects_frame(values: list[Any]) -> pd.DataFrame:
    return pd.DataFrame({"x": pd.Series(_objects(values), dtype=object)})


def _with_attrs(attrs: Any) -> pd.DataFrame:
    frame = pd.DataFrame({"a": [1]})
    frame.attrs = attrs
    return frame


@pytest.mark.parametrize(
    ("table", "text"),
    [
        (pd.DataFrame({"fine": [1, 2], "mixed": [1, "a"]}), "column 'mixed': .* got int, str"),
        (_objects_frame([{}, {}]), "column 'x': .* got dict"),
        (_objects_frame(["a", None, np.nan]), "column 'x': .* got NoneType, float"),
        (_objects_frame(["a", 1.5]), "column 'x': .* got float, str"),
        (_objects_frame(["a", b"a"]), "column 'x': .* got bytes, str"),
        (_objects_frame(["\ud800"]), "column 'x': expected text that UTF-8"),
        (pd.DataFrame([[1, 2]], columns=["a", "a"]), r"duplicate columns .*\['a'\]"),
        (pd.DataFrame([[1, 2]], columns=["a", 1]), "the column labels: .* got int, str"),
        (pd.DataFrame({"x": pd.arrays.SparseArray([0, 1])}), "column 'x': the type Sparse"),
        (pd.DataFrame({"x": pd.array([None], pd.ArrowDtype(pa.null()))}), "column 'x': the Arrow"),
        (pd.Series([1], pd.Index([datetime.date(2024, 1, 1)], dtype=object)), "the index: "),
        (pd.Series([1], name=frozenset({1})), "the series: the name frozenset"),
        (pd.Series([1], name=float("nan")), "the series: the name nan"),
        (
            pd.Series(pd.to_datetime(["2024"]).tz_localize("dateutil/Europe/Zurich")),
            "the series: the time zone",
        ),
        (
            pd.Series(
                range(3),
                pd.date_range(
                    "2024", periods=3, freq=pd.offsets.CustomBusinessDay(holidays=["2024-01-02"])
                ),
            ),
            "the index: the frequency <CustomBusinessDay>",
        ),
        (_with_attrs({1: 2}), "attrs"),
        (_with_attrs({"a": (1, 2)}), "attrs"),
        (_with_attrs({"a": object()}), "attrs"),
        (pd.DataFrame({"a": [1]}).set_flags(allows_duplicate_labels=False), "the flag"),
    ],
    ids=range(19),
)
def test_what_cannot_be_carried_is_named(table: Any, text: str) -> None:
    with pytest.raises(ValueError, match=f"encode_pandas: {text}"):
        encode_pandas(table)
