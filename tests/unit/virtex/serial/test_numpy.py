from __future__ import annotations

import base64
import io
import struct
import tracemalloc
from typing import Any

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays_of

from virtex.serial import decode_numpy, encode_numpy

_SCALARS = st.one_of(
    arrays_of.boolean_dtypes(),
    arrays_of.integer_dtypes(endianness="?"),
    arrays_of.unsigned_integer_dtypes(endianness="?"),
    arrays_of.floating_dtypes(endianness="?"),
    arrays_of.complex_number_dtypes(endianness="?"),
    arrays_of.datetime64_dtypes(endianness="?"),
    arrays_of.timedelta64_dtypes(endianness="?"),
    arrays_of.byte_string_dtypes(min_len=1),
    arrays_of.unicode_string_dtypes(min_len=1, endianness="?"),
)
_DTYPES = _SCALARS | arrays_of.array_dtypes(_SCALARS) | arrays_of.nested_dtypes(_SCALARS)
_SHAPES = arrays_of.array_shapes(min_dims=0, max_dims=4, min_side=0, max_side=4)
_ML_DTYPES = [
    ml_dtypes.bfloat16,
    ml_dtypes.float8_e3m4,
    ml_dtypes.float8_e4m3,
    ml_dtypes.float8_e4m3fn,
    ml_dtypes.float8_e4m3b11fnuz,
    ml_dtypes.float8_e5m2,
    ml_dtypes.float8_e8m0fnu,
    ml_dtypes.float4_e2m1fn,
    ml_dtypes.int4,
    ml_dtypes.uint4,
]


def _same(found: np.ndarray[Any, Any], wanted: np.ndarray[Any, Any]) -> None:
    assert type(found) is np.ndarray
    assert found.dtype == wanted.dtype and found.shape == wanted.shape
    assert found.dtype.str == wanted.dtype.str  # the order of the bytes too
    assert found.tobytes() == wanted.tobytes()
    assert found.flags.writeable and found.flags.owndata


@settings(max_examples=100)
@given(st.data())
def test_arrays_come_back(data: st.DataObject) -> None:
    array = data.draw(arrays_of.arrays(data.draw(_DTYPES), data.draw(_SHAPES)))
    _same(decode_numpy(encode_numpy(array)), array)


@pytest.mark.parametrize("dtype", _ML_DTYPES, ids=lambda dtype: dtype.__name__)
@settings(max_examples=30)
@given(st.data())
def test_arrays_of_small_floats_come_back(dtype: type, data: st.DataObject) -> None:
    values = arrays_of.arrays(np.float32, _SHAPES, elements=st.sampled_from([0, 1, 0.5, 2, 4]))
    array: np.ndarray[Any, Any] = data.draw(values).astype(dtype)
    _same(decode_numpy(encode_numpy(array)), array)


@given(arrays_of.arrays(np.int16, arrays_of.array_shapes(min_dims=2, min_side=2, max_side=4)))
def test_arrays_in_columns_or_with_gaps_come_back(array: np.ndarray[Any, Any]) -> None:
    in_columns = decode_numpy(encode_numpy(array.T))
    _same(in_columns, array.T)
    assert in_columns.flags.f_contiguous
    _same(decode_numpy(encode_numpy(array[::2, ::-1])), array[::2, ::-1])


def test_field_names_of_any_language_come_back() -> None:
    array = np.array(
        [(1, "a")], dtype=[("größe", "i4"), ("名\\u4e2d'\n\N{MATHEMATICAL SCRIPT CAPITAL X}", "U3")]
    )
    _same(decode_numpy(encode_numpy(array)), array)


@given(_SCALARS.flatmap(arrays_of.from_dtype))
def test_scalars_come_back_as_arrays_without_dimensions(scalar: np.generic) -> None:
    found = decode_numpy(encode_numpy(scalar))
    _same(found, np.asarray(scalar))
    assert found.shape == ()


def test_what_iterating_an_output_gives_can_be_sent() -> None:
    for item in np.arange(3.0):
        assert decode_numpy(encode_numpy(item)) == item


@given(st.data())
def test_a_list_of_equal_arrays_is_stacked(data: st.DataObject) -> None:
    dtype, shape = data.draw(_SCALARS), data.draw(_SHAPES)
    arrays = data.draw(st.lists(arrays_of.arrays(dtype, shape), min_size=1, max_size=3))
    found = decode_numpy(encode_numpy(arrays))
    assert found.dtype == dtype and found.shape == (len(arrays), *shape)
    for position, array in enumerate(arrays):
        assert found[position : position + 1].tobytes() == array.tobytes()
    assert encode_numpy(tuple(arrays)) == encode_numpy(arrays)


@pytest.mark.parametrize(
    ("items", "text"),
    [
        ([], "got an empty list"),
        ([np.zeros(2), np.zeros(3)], r"got float64 of shape \(3,\) at position 1"),
        ([np.zeros(2), np.zeros(2, "f4")], r"got float32 of shape \(2,\) at position 1"),
        ([np.int8(1), np.int16(1)], r"got int16 of shape \(\) at position 1"),
    ],
)
def test_a_list_of_unequal_arrays_is_refused(items: list[Any], text: str) -> None:
    with pytest.raises(ValueError, match=text):
        encode_numpy(items)


@pytest.mark.parametrize(
    "wrong",
    [1, 1.5, "text", None, [1, 2], np.ma.array([1]), np.rec.array([(1,)], dtype=[("a", int)])],
    ids=lambda wrong: type(wrong).__name__,
)
def test_what_is_no_plain_array_is_refused(wrong: Any) -> None:
    with pytest.raises(TypeError, match="encode_numpy: expected a"):
        encode_numpy(wrong)


_OVERLAP = np.dtype({"names": ["a", "b"], "formats": ["i4", "i4"], "offsets": [0, 2]})


@pytest.mark.parametrize(
    ("array", "text"),
    [
        (np.array([object()]), "Python objects cannot be carried"),
        (np.array(None), "Python objects cannot be carried"),
        (np.zeros(1, [("a", "i4"), ("b", "O")]), "Python objects cannot be carried"),
        (np.array(["a"], np.dtypes.StringDType()), "Python objects cannot be carried"),
        (np.zeros(1, _OVERLAP), "cannot be carried"),
        (np.zeros(1, np.dtype("i4", metadata={"unit": "m"})), "cannot be carried"),
        (np.zeros(1, [("a", ml_dtypes.bfloat16)]), "cannot be carried"),
        (np.zeros(2, np.dtype([])), "at least one byte"),
        (np.zeros(1, [(f"field {number}", "i4") for number in range(1000)]), "1000 fields"),
    ],
)
def test_a_type_without_an_exact_form_is_refused(array: np.ndarray[Any, Any], text: str) -> None:
    with pytest.raises(ValueError, match=text):
        encode_numpy(array)


def _npy(descr: str, shape: str, payload: bytes = b"", *, order: str = "False") -> str:
    """A .npy body with a header of one's choice."""
    header = f"{{'descr': {descr}, 'fortran_order': {order}, 'shape': {shape}, }}".encode()
    body = b"\x93NUMPY\x01\x00" + struct.pack("<H", len(header)) + header + payload
    return base64.b64encode(body).decode()


def test_the_forger_of_these_tests_can_write_a_right_one() -> None:
    assert decode_numpy(_npy("'<i4'", "(1,)", b"\1\0\0\0")).tolist() == [1]


@pytest.mark.parametrize(
    ("descr", "shape", "payload"),
    [
        ("'<f8'", "(1000000000000,)", b""),
        ("'<f8'", "(1000000000000,)", b"12345678"),
        ("'<f8'", f"({2**63},)", b""),
        ("'<f8'", f"({2**61}, 8)", b""),  # 2**67 bytes: 0 where the count overflows
        ("'<f8'", f"({2**32}, {2**32})", b""),
        ("'<f8'", f"({'9' * 4000},)", b""),
        ("'<f8'", "(-1,)", b""),
        ("'<f8'", "(-1, -1)", b"12345678"),
        ("'<f8'", "(2,)", b"12345678"),
        ("'<f8'", "(1,)", b"12345678 and more"),
        ("'S0'", "(1000000000000,)", b""),
        ("'V0'", "(1000000000000,)", b""),
        ("'S1000000000000'", "(1,)", b""),
        ("[('a', '<f8', (1000000000000,))]", "(1,)", b""),
        ("[]", "(1000000000000,)", b""),
        ("'|O'", "(1,)", b"12345678"),
        ("[('a', '|O')]", "(1,)", b"12345678"),
        ("[('a', [('b', '|O', (2,))])]", "(1,)", b"1234567812345678"),
        ("('|O', (1,))", "(1,)", b"12345678"),
        ("'<f8'", "(True,)", b""),
        ("'<f8'", "1", b"12345678"),
        ("'no type'", "(1,)", b"12345678"),
        ("__import__('os').mkdir('made')", "(1,)", b"12345678"),
        ("-" * 9000 + "1", "(1,)", b""),
        ("[" * 9000, "(1,)", b""),
        ("'" + "f8," * 20000 + "'", "(1,)", b""),
        ("'<U1'", "(1,)", b"\xff\xff\xff\xff"),
        ("[('a', '>U1')]", "(1,)", b"\x00\x11\x00\x00"),
        ("'|b1'", "(1,)", b"\2"),
    ],
    ids=range(29),
)
def test_a_header_that_lies_is_refused_and_nothing_allocated(
    descr: str, shape: str, payload: bytes
) -> None:
    text = _npy(descr, shape, payload)
    tracemalloc.start()
    try:
        with pytest.raises(ValueError, match="decode_numpy: expected"):
            decode_numpy(text)
        assert tracemalloc.get_traced_memory()[1] < 20_000_000
    finally:
        tracemalloc.stop()


def test_no_more_than_a_few_bytes_of_a_long_header_are_read() -> None:
    for version in (1, 2, 3):
        body = bytes([*b"\x93NUMPY", version, 0]) + b"\xff\xff\xff\xff" + b" " * 70_000
        with pytest.raises(ValueError, match="expected the header"):
            decode_numpy(base64.b64encode(body).decode())


def test_an_array_of_objects_that_numpy_wrote_is_refused() -> None:
    stream = io.BytesIO()
    np.save(stream, np.array([{"a": 1}], dtype=object), allow_pickle=True)
    with pytest.raises(ValueError, match="got object"):
        decode_numpy(base64.b64encode(stream.getvalue()).decode())


_BODIES = [
    base64.b64decode(encode_numpy(array))
    for array in (
        np.arange(6).reshape(2, 3),
        np.array([(1, "a")], dtype=[("größe 名", "i4"), ("b", "U3")]),
        np.array([1, 2], ml_dtypes.bfloat16),
        np.array([1, 2], ml_dtypes.int4),
    )
]


@given(st.data())
def test_a_changed_body_gives_an_array_or_a_value_error(data: st.DataObject) -> None:
    body = bytearray(data.draw(st.sampled_from(_BODIES)))
    for _ in range(data.draw(st.integers(1, 3))):
        body[data.draw(st.integers(0, len(body) - 1))] = data.draw(st.integers(0, 255))
    del body[data.draw(st.integers(1, len(body))) :]
    try:
        found = decode_numpy(base64.b64encode(body).decode())
    except ValueError:
        return
    repr(found)
    assert found.nbytes <= len(body)
