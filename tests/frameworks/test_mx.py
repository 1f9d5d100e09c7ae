"""MXNet arrays come back; in an environment with MXNet, whose last version needs an old numpy."""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays_of

from tests.frameworks.conftest import framework
from virtex.serial import decode_mx, encode_mx, encode_numpy, encode_pickle

if "bool" not in vars(np):  # MXNet 1.9 asks for it; numpy 1.24 to 1.26 lack it
    np.bool = bool  # type: ignore[misc, assignment]
with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # it is of 2022
    mx = framework("mxnet")

pytestmark = pytest.mark.frameworks

_DTYPES = ["float16", "float32", "float64", "int32", "int64", "int8", "uint8"]
_SHAPES = arrays_of.array_shapes(min_dims=1, max_dims=3, max_side=4)


@pytest.mark.parametrize("name", _DTYPES)
@settings(max_examples=40)
@given(data=st.data())
def test_arrays_of_every_type_come_back(name: str, data: st.DataObject) -> None:
    values = data.draw(arrays_of.arrays(name, _SHAPES))
    array = mx.nd.array(values, dtype=name)
    found = decode_mx(encode_mx(array))
    assert type(found) is mx.nd.NDArray
    assert (found.dtype, found.shape) == (array.dtype, array.shape)
    assert found.asnumpy().tobytes() == values.tobytes()


def test_scalars_arrays_and_lists_of_equal_arrays_are_taken() -> None:
    assert decode_mx(encode_mx(np.arange(3, dtype="f4"))).asnumpy().tolist() == [0, 1, 2]
    assert decode_mx(encode_mx(np.float32(2))).shape == ()
    rows = list(mx.nd.array([[1, 2], [3, 4]]))
    assert decode_mx(encode_mx(rows)).asnumpy().tolist() == [[1, 2], [3, 4]]
    with pytest.raises(ValueError, match="at position 1"):
        encode_mx([mx.nd.zeros(2), mx.nd.zeros(3)])


@pytest.mark.parametrize(
    ("make", "text"),
    [
        (lambda: mx.np.array([1]), "as_nd_ndarray"),
        (lambda: mx.nd.zeros((2, 2)).tostype("csr"), "expected a dense mx.nd.NDArray"),
        (lambda: 3, "got builtins.int"),
    ],
    ids=["numpy", "sparse", "number"],
)
def test_what_is_no_dense_array_is_refused(make: Any, text: str) -> None:
    with pytest.raises(TypeError, match=text):
        encode_mx(make())


@pytest.mark.parametrize(
    "text",
    [
        encode_numpy(np.array(["text"])),
        encode_numpy(np.zeros(1, [("a", "i4")])),
        encode_numpy(np.zeros(1, ">f4")),
        encode_pickle([1]),
    ],
    ids=range(4),
)
def test_what_mxnet_does_not_have_is_a_value_error(text: str) -> None:
    with pytest.raises(ValueError, match="decode_mx: "):
        decode_mx(text)
