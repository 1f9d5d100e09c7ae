"""MXNet arrays as text: .npy, in base64."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ._body import from_text, needed, to_text

if TYPE_CHECKING:
    import mxnet

_PACKAGES = "mxnet and numpy"
_INSTALL = '"mxnet<2" "numpy<1.24"'


def encode_mx(array: Any) -> str:
    """An array's values as base64 of a .npy body.

    Args:
        array: A dense `mx.nd.NDArray` on any device; a numpy array or scalar; or a list of equal
            ones, which are stacked along a new first dimension.

    Raises:
        TypeError: It is something else, or a sparse array, or of `mx.np`.
        ValueError: Those in the list are not equal in type and shape.
        ModuleNotFoundError: MXNet is not installed.
    """
    with needed("encode_mx", _PACKAGES, install=_INSTALL):
        from ._arrays import pack, stacked
    if isinstance(array, list | tuple):
        return to_text(pack(stacked([_array(item) for item in array], "encode_mx"), "encode_mx"))
    return to_text(pack(_array(array), "encode_mx"))


def decode_mx(text: str) -> mxnet.nd.NDArray:
    """The array that `encode_mx` wrote, on the CPU.

    Nothing is allocated before it is sure that the body holds what its header says, and nothing
    in it is run.

    Raises:
        TypeError: `text` is no text.
        ValueError: It is no base64, another family's body, or corrupt, or of a type or shape
            that MXNet does not have.
        ModuleNotFoundError: MXNet is not installed.
    """
    with needed("decode_mx", _PACKAGES, install=_INSTALL):
        import mxnet as mx

        from ._arrays import unpack
    array = unpack(from_text(text, "decode_mx"), "decode_mx")
    try:
        decoded = mx.nd.array(array, dtype=array.dtype)
    except (KeyError, TypeError, ValueError, mx.base.MXNetError) as error:
        raise ValueError(f"decode_mx: expected numbers, got {array.dtype}: {error}") from None
    if decoded.shape != array.shape or decoded.dtype != array.dtype:
        found = f"{array.dtype} of shape {array.shape}"
        raise ValueError(f"decode_mx: expected an array that MXNet can hold, got {found}")
    return decoded


def _array(item: Any) -> Any:
    """An array of MXNet or numpy as one of numpy."""
    with needed("encode_mx", _PACKAGES, install=_INSTALL):
        import mxnet as mx
        import numpy as np

        from ._arrays import plain_array
    if isinstance(item, np.ndarray | np.generic):
        return plain_array(item, "encode_mx")
    if isinstance(item, mx.np.ndarray):
        raise TypeError("encode_mx: expected mx.nd.NDArray, got mx.np.ndarray: as_nd_ndarray()")
    if not isinstance(item, mx.nd.NDArray) or item.stype != "default":
        found = f"{type(item).__module__}.{type(item).__name__}"
        raise TypeError(f"encode_mx: expected a dense mx.nd.NDArray, got {found}")
    return item.asnumpy()
