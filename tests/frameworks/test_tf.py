"""TensorFlow tensors come back; in an environment with TensorFlow."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays_of

from tests.frameworks.conftest import framework
from virtex.serial import decode_numpy, decode_tf, encode_numpy, encode_pickle, encode_tf

tf = framework("tensorflow")

pytestmark = pytest.mark.frameworks

_DTYPES = [
    "bfloat16", "bool", "complex128", "complex64", "float16", "float32", "float64", "int16",
    "int32", "int64", "int8", "uint16", "uint32", "uint64", "uint8",
]  # fmt: skip
_SHAPES = arrays_of.array_shapes(min_dims=0, max_dims=3, min_side=0, max_side=4)


@pytest.mark.parametrize("name", _DTYPES)
@settings(max_examples=40)
@given(data=st.data())
def test_tensors_of_every_type_come_back(name: str, data: st.DataObject) -> None:
    dtype = tf.as_dtype(name).as_numpy_dtype
    drawn = np.float32 if name == "bfloat16" else dtype
    tensor = tf.convert_to_tensor(data.draw(arrays_of.arrays(drawn, _SHAPES)).astype(dtype))
    found = decode_tf(encode_tf(tensor))
    assert isinstance(found, tf.Tensor)
    assert (found.dtype, found.shape) == (tensor.dtype, tensor.shape)
    assert found.numpy().tobytes() == tensor.numpy().tobytes()


@pytest.mark.parametrize("name", ["float8_e4m3fn", "float8_e5m2"])
def test_tensors_of_eight_bits_come_back(name: str) -> None:
    dtype = getattr(tf.dtypes.experimental, name)
    tensor = tf.cast(tf.constant([0.5, 1, 2]), dtype)
    found = decode_tf(encode_tf(tensor))
    assert found.dtype == dtype
    assert found.numpy().tobytes() == tensor.numpy().tobytes()


def test_variables_scalars_arrays_and_lists_of_equal_tensors_are_taken() -> None:
    assert decode_tf(encode_tf(tf.Variable([1.0, 2.0]))).numpy().tolist() == [1, 2]
    assert decode_tf(encode_tf(np.float32(2))).shape == ()
    assert decode_tf(encode_tf(list(tf.range(3)))).numpy().tolist() == [0, 1, 2]
    with pytest.raises(ValueError, match=r"got float32 of shape \(3,\) at position 1"):
        encode_tf([tf.zeros(2), tf.zeros(3)])


def test_bfloat16_goes_between_numpy_and_tensorflow() -> None:
    tensor = tf.constant([1, 2], tf.bfloat16)
    assert decode_numpy(encode_tf(tensor)).dtype.name == "bfloat16"


@pytest.mark.parametrize(
    ("make", "text"),
    [
        (lambda: tf.constant("text"), "expected a tensor of numbers, got string"),
        (lambda: tf.ragged.constant([[1], [2, 3]]), "got RaggedTensor"),
        (lambda: tf.sparse.from_dense([1, 0]), "got SparseTensor"),
        (lambda: 3, "got int"),
    ],
    ids=["text", "ragged", "sparse", "number"],
)
def test_what_has_no_dense_numbers_is_refused(make: Any, text: str) -> None:
    with pytest.raises((TypeError, ValueError), match=text):
        encode_tf(make())


@pytest.mark.parametrize(
    "text",
    [
        encode_numpy(np.array(["text"])),
        encode_numpy(np.array(["2024"], "M8[D]")),
        encode_numpy(np.zeros(1, [("a", "i4")])),
        encode_numpy(np.zeros(1, ">f4")),
        encode_pickle([1]),
    ],
    ids=range(5),
)
def test_what_tensorflow_does_not_have_is_a_value_error(text: str) -> None:
    with pytest.raises(ValueError, match="decode_tf: expected"):
        decode_tf(text)
