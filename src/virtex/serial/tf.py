"""TensorFlow tensors as text: .npy, or safetensors where it does not know the type, in base64."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ._body import from_text, needed, to_text

if TYPE_CHECKING:
    import tensorflow

_PACKAGES = "tensorflow, numpy, safetensors and ml_dtypes"
_INSTALL = '"headrace[tf]"'


def encode_tf(tensor: Any) -> str:
    """A tensor's values as base64 of a .npy body, or of safetensors for bfloat16 and its like.

    Args:
        tensor: An eager tensor or a variable on any device; a numpy array or scalar; or a list
            of equal ones, which are stacked along a new first dimension.

    Raises:
        TypeError: It is something else, such as a ragged or sparse tensor.
        ValueError: Its type cannot be carried (text, quantized), or those in the list are not
            equal in type and shape.
        ModuleNotFoundError: TensorFlow is not installed.
    """
    with needed("encode_tf", _PACKAGES, install=_INSTALL):
        from ._arrays import pack, stacked
    if isinstance(tensor, list | tuple):
        return to_text(pack(stacked([_array(item) for item in tensor], "encode_tf"), "encode_tf"))
    return to_text(pack(_array(tensor), "encode_tf"))


def decode_tf(text: str) -> tensorflow.Tensor:
    """The tensor that `encode_tf` wrote.

    Nothing is allocated before it is sure that the body holds what its header says, and nothing
    in it is run.

    Raises:
        TypeError: `text` is no text.
        ValueError: It is no base64, another family's body, or corrupt, or of a type that
            TensorFlow does not have.
        ModuleNotFoundError: TensorFlow is not installed.
    """
    with needed("decode_tf", _PACKAGES, install=_INSTALL):
        import tensorflow as tf

        from ._arrays import unpack
    array = unpack(from_text(text, "decode_tf"), "decode_tf")
    try:
        dtype = tf.as_dtype(array.dtype)
        if array.dtype.kind in "SU" or not array.dtype.isnative:
            raise TypeError("not a type of TensorFlow")
        return tf.convert_to_tensor(array, dtype=dtype)
    except (TypeError, ValueError, tf.errors.OpError) as error:
        raise ValueError(f"decode_tf: expected numbers, got {array.dtype}: {error}") from None


def _array(item: Any) -> Any:
    """A tensor as an array that lacks nothing of it."""
    with needed("encode_tf", _PACKAGES, install=_INSTALL):
        import numpy as np
        import tensorflow as tf
    if isinstance(item, np.ndarray | np.generic):
        item = tf.convert_to_tensor(item)
    if isinstance(item, tf.Variable):
        item = item.value()
    if not isinstance(item, tf.Tensor) or not hasattr(item, "numpy"):
        raise TypeError(f"encode_tf: expected an eager tensor, got {type(item).__name__}")
    if item.dtype == tf.string or item.dtype.is_quantized or item.dtype.as_numpy_dtype is None:
        raise ValueError(f"encode_tf: expected a tensor of numbers, got {item.dtype.name}")
    return np.asarray(item.numpy())
