"""numpy arrays as text: .npy without Python objects, in base64."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ._body import from_text, needed, to_text

if TYPE_CHECKING:
    import numpy

_INSTALL = '"headrace[virtex]"'


def encode_numpy(
    array: numpy.ndarray[Any, Any] | numpy.generic | list[Any] | tuple[Any, ...],
) -> str:
    """An array as base64 of a .npy body.

    Types of `ml_dtypes`, such as bfloat16, go as safetensors, as .npy does not know them.

    Args:
        array: An array, a numpy scalar (it becomes a 0-d array), or a list of equal ones, which
            are stacked along a new first dimension.

    Raises:
        TypeError: It is something else, such as a masked array.
        ValueError: Its type cannot be carried (Python objects, for one), or those in the list
            are not equal in type and shape.
        ModuleNotFoundError: numpy is not installed.

    Example:
        >>> import numpy
        >>> decode_numpy(encode_numpy(numpy.arange(3, dtype="int16")))
        array([0, 1, 2], dtype=int16)
    """
    with needed("encode_numpy", "numpy", install=_INSTALL):
        from ._arrays import pack, plain_array, stacked
    if isinstance(array, list | tuple):
        return to_text(pack(stacked(array, "encode_numpy"), "encode_numpy"))
    return to_text(pack(plain_array(array, "encode_numpy"), "encode_numpy"))


def decode_numpy(text: str) -> numpy.ndarray[Any, Any]:
    """The array that `encode_numpy` wrote, writable and with memory of its own.

    Nothing is allocated before it is sure that the body holds what its header says, and nothing
    in it is run.

    Raises:
        TypeError: `text` is no text.
        ValueError: It is no base64, another family's body, or corrupt.
        ModuleNotFoundError: numpy is not installed.
    """
    with needed("decode_numpy", "numpy", install=_INSTALL):
        from ._arrays import unpack
    return unpack(from_text(text, "decode_numpy"), "decode_numpy")
