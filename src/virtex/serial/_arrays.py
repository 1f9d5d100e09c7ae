"""Arrays as bodies: .npy, or safetensors for the number formats that .npy does not know."""

from __future__ import annotations

import io
import json
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.lib import format as npy

from ._body import family, needed, wrong_family

MAX_HEADER_BYTES = 10_000
"""The longest header of a .npy body, as numpy's own readers have it."""

_PLAIN = "biufcSUVMm"
"""The kinds of numpy's own types whose values stand in the array itself."""

SAFETENSORS = {
    "BOOL": "bool",
    "U8": "uint8",
    "I8": "int8",
    "U16": "uint16",
    "I16": "int16",
    "F16": "float16",
    "BF16": "bfloat16",
    "F8_E4M3": "float8_e4m3fn",
    "F8_E5M2": "float8_e5m2",
    "U32": "uint32",
    "I32": "int32",
    "F32": "float32",
    "U64": "uint64",
    "I64": "int64",
    "F64": "float64",
}
"""What every version of safetensors can name; other types go as bytes with their name beside."""


def stacked(items: Sequence[Any], function: str) -> np.ndarray[Any, Any]:
    """Equal arrays or numpy scalars as one array, along a new first dimension.

    Raises:
        TypeError: One is no array.
        ValueError: They differ in type or shape, or there is none.
    """
    arrays: list[np.ndarray[Any, Any]] = []
    for position, item in enumerate(items):
        if not isinstance(item, np.ndarray | np.generic):
            found = f"{type(item).__name__} at position {position}"
            raise TypeError(f"{function}: expected a list of arrays, got {found}")
        array = plain_array(item, function)
        if arrays and (array.dtype, array.shape) != (arrays[0].dtype, arrays[0].shape):
            wanted = f"{arrays[0].dtype} of shape {arrays[0].shape}"
            found = f"{array.dtype} of shape {array.shape} at position {position}"
            raise ValueError(f"{function}: expected a list of equal arrays, {wanted}, got {found}")
        arrays.append(array)
    if not arrays:
        raise ValueError(f"{function}: expected a list of equal arrays, got an empty list")
    together = np.empty((len(arrays), *arrays[0].shape), arrays[0].dtype)
    for position, array in enumerate(arrays):
        together[position] = array
    return together


def plain_array(item: Any, function: str) -> np.ndarray[Any, Any]:
    """An array or a numpy scalar as an array that lacks nothing of it.

    Raises:
        TypeError: It is something else, such as a masked array, whose mask would be lost.
    """
    if isinstance(item, np.generic):
        return np.asarray(item)
    if type(item) in (np.ndarray, np.memmap):
        return np.asarray(item)
    raise TypeError(f"{function}: expected a numpy array or scalar, got {type(item).__name__}")


def pack(array: np.ndarray[Any, Any], function: str) -> bytes:
    """An array as a body.

    Raises:
        ValueError: Its type has no exact form; the text names what has none.
        ModuleNotFoundError: Its type needs safetensors, which are not installed.
    """
    dtype = array.dtype
    if _is_ml_dtype(dtype):
        return pack_tensor(array, function)
    if dtype.hasobject or dtype.char == "O":
        raise ValueError(
            f"{function}: expected an array of numbers, dates or texts of fixed width, got {dtype}:"
            " Python objects cannot be carried"
        )
    if dtype.itemsize == 0:
        raise ValueError(f"{function}: expected items of at least one byte, got {dtype!r}")
    try:
        exact = (
            _plain(dtype)
            and not _has_metadata(dtype)
            and npy.descr_to_dtype(npy.dtype_to_descr(dtype)) == dtype
        )
    except (TypeError, ValueError):  # fields that overlap or are out of order
        exact = False
    if not exact:
        raise ValueError(f"{function}: the type {dtype!r} cannot be carried in a .npy body")
    stream = io.BytesIO()
    try:
        npy.write_array(stream, array, version=(1, 0), allow_pickle=False)
    except UnicodeEncodeError:  # the names of fields are not in Latin-1
        npy.write_array(stream, array, version=(3, 0), allow_pickle=False)
    body = stream.getvalue()
    if len(body) - array.nbytes > MAX_HEADER_BYTES:
        raise ValueError(
            f"{function}: expected a type that is described in {MAX_HEADER_BYTES} bytes,"
            f" got one with {len(dtype.names or ())} fields"
        )
    return body


def unpack(body: bytes, function: str) -> np.ndarray[Any, Any]:
    """The array in a body, writable and with memory of its own.

    Raises:
        ValueError: The body is of another family, lies about its size, or is corrupt.
        ModuleNotFoundError: The body needs safetensors or ml_dtypes, which are not installed.
    """
    if body.startswith(npy.MAGIC_PREFIX):
        return _unpack_npy(body, function)
    if family(body) == "safetensors":
        name, shape, data = unpack_tensor(body, function)
        return _array(data, shape, named_dtype(name, function), "C", function)
    raise wrong_family(body, expected="a .npy array or safetensors", function=function)


def pack_tensor(array: np.ndarray[Any, Any], function: str, *, name: str | None = None) -> bytes:
    """An array as safetensors, under the name "tensor".

    Args:
        array: Of a type with a fixed width.
        function: Who asks, for the errors.
        name: The name of its type, where it is not the one that numpy knows: the array's last
            dimension is then that of an item's bytes.
    """
    with needed(function, "safetensors", install='"headrace[tensors]"'):
        from safetensors.numpy import save
    array = np.ascontiguousarray(array).reshape(array.shape)  # the former makes 0-d 1-d
    metadata = None
    if name is not None or array.dtype.name not in SAFETENSORS.values():
        metadata = {"dtype": name or array.dtype.name}
    if name is None and metadata is not None:
        array = np.frombuffer(array.tobytes(), np.uint8).reshape(*array.shape, array.itemsize)
    return bytes(save({"tensor": array}, metadata))


def unpack_tensor(body: bytes, function: str) -> tuple[str, tuple[int, ...], bytearray]:
    """The name of the type, the shape and the bytes of the one tensor in safetensors.

    Raises:
        ValueError: They are something else, or corrupt; the library has checked that the bytes
            are as many as type and shape say.
    """
    if family(body) != "safetensors":
        raise wrong_family(body, expected="safetensors", function=function)
    with needed(function, "safetensors", install='"headrace[tensors]"'):
        from safetensors import SafetensorError, deserialize
    try:
        tensors = deserialize(body)  # type: ignore[no-untyped-call]
        header = json.loads(body[8 : 8 + int.from_bytes(body[:8], "little")])
    except (SafetensorError, ValueError, OverflowError, RecursionError) as error:
        raise ValueError(f"{function}: expected whole safetensors: {error}") from None
    if len(tensors) != 1:
        raise ValueError(f"{function}: expected safetensors of one tensor, got {len(tensors)}")
    found = tensors[0][1]
    shape = tuple(found["shape"])
    kind = str(found["dtype"])
    data = found["data"]
    data = data if isinstance(data, bytearray) else bytearray(data)
    name = (header.get("__metadata__") or {}).get("dtype")
    if name is not None:
        if kind != "U8" or not shape:
            raise ValueError(f"{function}: expected the bytes of {name[:40]!r} as U8, got {kind}")
        _check_bools(name == "bool", data, function)
        return name, shape[:-1], data
    if kind not in SAFETENSORS:
        known = ", ".join(SAFETENSORS)
        raise ValueError(f"{function}: expected a tensor of {known}, got {kind}")
    _check_bools(kind == "BOOL", data, function)
    return SAFETENSORS[kind], shape, data


def _check_bools(is_bool: bool, data: bytearray, function: str) -> None:
    if is_bool and data.translate(None, b"\0\1"):
        raise ValueError(f"{function}: expected booleans of 0 or 1, got other bytes")


def _unpack_npy(body: bytes, function: str) -> np.ndarray[Any, Any]:
    stream = io.BytesIO(body)
    try:
        version = npy.read_magic(stream)
        if version == (3, 0):
            # Only a private reader knows UTF-8. Escaped, the header means the same to 2.0's.
            size = int.from_bytes(body[8:12], "little")
            if size > MAX_HEADER_BYTES:
                raise ValueError(f"expected at most {MAX_HEADER_BYTES} bytes, got {size}")
            header = body[12 : 12 + size].decode()
            escaped = header.encode("ascii", "backslashreplace")
            rest = io.BytesIO(len(escaped).to_bytes(4, "little") + escaped)
            found = npy.read_array_header_2_0(rest, max_header_size=6 * MAX_HEADER_BYTES)
            stream.seek(12 + size)
        elif version == (2, 0):
            found = npy.read_array_header_2_0(stream, max_header_size=MAX_HEADER_BYTES)
        elif version == (1, 0):
            found = npy.read_array_header_1_0(stream, max_header_size=MAX_HEADER_BYTES)
        else:
            raise ValueError(f"expected version 1.0, 2.0 or 3.0, got {version}")
    except Exception as error:  # the header is a Python literal: what fails in it is not foreseen
        raise ValueError(f"{function}: expected the header of a .npy array: {error}") from None
    shape, fortran, dtype = found
    if dtype.hasobject or not _plain(dtype):
        raise ValueError(
            f"{function}: expected an array of numbers, dates or texts of fixed width, got {dtype}"
        )
    payload = memoryview(body)[stream.tell() :]
    return _array(payload, shape, dtype, "F" if fortran else "C", function)


def _array(
    payload: memoryview | bytearray,
    shape: tuple[int, ...],
    dtype: np.dtype[Any],
    order: Any,
    function: str,
) -> np.ndarray[Any, Any]:
    """The array of these bytes, once it is sure that they are as many as it needs."""
    items = 1
    for length in shape:
        if type(length) is not int or length < 0:
            raise ValueError(f"{function}: expected lengths of 0 or more, got the shape {shape}")
        items *= length
    if dtype.itemsize == 0 or items * dtype.itemsize != len(payload):
        wanted = f"{items} items of {dtype.itemsize} bytes, as type and shape say"
        raise ValueError(f"{function}: expected {wanted}, got {len(payload)} bytes in all")
    try:
        array = np.ndarray(shape, dtype, buffer=payload, order=order).copy(order="K")
    except (ValueError, OverflowError) as error:
        raise ValueError(f"{function}: expected a shape that numpy can hold: {error}") from None
    _check_values(array, function)
    return array


def _check_values(array: np.ndarray[Any, Any], function: str) -> None:
    """Refuse bytes that are no value of their type, on which numpy would fail later."""
    if array.dtype.names is not None:
        for name in array.dtype.names:
            _check_values(array[name], function)
    elif array.dtype.kind == "U" and array.size:
        points = np.dtype(np.uint32).newbyteorder(array.dtype.byteorder)
        flat = np.ascontiguousarray(array).reshape(-1).view(points)
        if flat.max(initial=0) > 0x10FFFF:
            raise ValueError(f"{function}: expected Unicode texts, got a number above 0x10FFFF")
    elif array.dtype.kind == "b" and np.ascontiguousarray(array).view(np.uint8).max(initial=0) > 1:
        raise ValueError(f"{function}: expected booleans of 0 or 1, got other bytes")


def _plain(dtype: np.dtype[Any]) -> bool:
    """Whether a type is numpy's own, down to its fields."""
    if dtype.fields is not None:
        return all(_plain(field[0]) for field in dtype.fields.values())
    if dtype.subdtype is not None:
        return _plain(dtype.subdtype[0])
    return dtype.kind in _PLAIN and not _is_ml_dtype(dtype)


def _has_metadata(dtype: np.dtype[Any]) -> bool:
    if dtype.metadata:
        return True
    if dtype.fields is not None:
        return any(_has_metadata(field[0]) for field in dtype.fields.values())
    return dtype.subdtype is not None and _has_metadata(dtype.subdtype[0])


def _is_ml_dtype(dtype: np.dtype[Any]) -> bool:
    return dtype.type.__module__.partition(".")[0] == "ml_dtypes"


def named_dtype(name: str, function: str) -> np.dtype[Any]:
    """The type of a name, from numpy or ml_dtypes."""
    if name in _NUMPY_NAMES:
        return np.dtype(name)
    with needed(function, "ml_dtypes", install='"headrace[tensors]"'):
        import ml_dtypes
    found = getattr(ml_dtypes, name, None) if name.isidentifier() else None
    if not (isinstance(found, type) and issubclass(found, np.generic)):
        raise ValueError(f"{function}: expected a type of ml_dtypes, got {name[:40]!r}")
    return np.dtype(found)


_NUMPY_NAMES = {name for name in SAFETENSORS.values() if hasattr(np, name)} | {
    "complex64",
    "complex128",
}
