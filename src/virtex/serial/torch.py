"""PyTorch tensors as text: safetensors, in base64."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

from ._body import from_text, needed, to_text

if TYPE_CHECKING:
    import numpy
    import torch

_PACKAGES = "torch, numpy, safetensors and ml_dtypes"
_INSTALL = '"headrace[torch]"'


def encode_torch(tensor: Any) -> str:
    """A tensor's values as base64 of safetensors.

    Types that safetensors do not name, such as complex64, go as bytes with their name beside.

    Args:
        tensor: A dense tensor on any device, with or without a gradient, which stays behind; a
            numpy array or scalar; or a list of equal ones, which are stacked along a new first
            dimension.

    Raises:
        TypeError: It is something else, or a sparse, nested, quantized or meta tensor.
        ValueError: Those in the list are not equal in type and shape.
        ModuleNotFoundError: PyTorch is not installed.
    """
    with needed("encode_torch", _PACKAGES, install=_INSTALL):
        import numpy as np

        from ._arrays import SAFETENSORS, named_dtype, pack_tensor
    listed = isinstance(tensor, list | tuple)
    parts = [_parts(item) for item in (tensor if listed else [tensor])]
    if not parts:
        raise ValueError("encode_torch: expected a list of equal tensors, got an empty list")
    name, shape, _ = parts[0]
    for position, part in enumerate(parts):
        if part[:2] != (name, shape):
            wanted = f"{name} of shape {shape}"
            found = f"{part[0]} of shape {part[1]} at position {position}"
            raise ValueError(
                f"encode_torch: expected a list of equal tensors, {wanted}, got {found}"
            )
    raw = parts[0][2]
    if listed:
        raw = np.concatenate([values for _, _, values in parts])
        shape = (len(parts), *shape)
    if name in SAFETENSORS.values():
        array = raw.view(named_dtype(name, "encode_torch")).reshape(shape)
        return to_text(pack_tensor(array, "encode_torch"))
    width = parts[0][2].size // max(math.prod(parts[0][1]), 1) or 1
    return to_text(pack_tensor(raw.reshape(*shape, width), "encode_torch", name=name))


def decode_torch(text: str) -> torch.Tensor:
    """The tensor that `encode_torch` wrote, on the CPU and with memory of its own.

    Nothing is allocated before it is sure that the body holds what its header says, and nothing
    in it is run.

    Raises:
        TypeError: `text` is no text.
        ValueError: It is no base64, another family's body, or corrupt, or of a type that this
            version of PyTorch does not have.
        ModuleNotFoundError: PyTorch is not installed.
    """
    with needed("decode_torch", _PACKAGES, install=_INSTALL):
        import torch

        from ._arrays import unpack_tensor
    name, shape, data = unpack_tensor(from_text(text, "decode_torch"), "decode_torch")
    dtype = getattr(torch, name, None) if name.isidentifier() else None
    if not isinstance(dtype, torch.dtype):
        raise ValueError(f"decode_torch: expected a type of PyTorch, got {name[:40]!r}")
    items = math.prod(shape)
    if items * dtype.itemsize != len(data):
        wanted = f"{items} items of {dtype.itemsize} bytes, as type and shape say"
        raise ValueError(f"decode_torch: expected {wanted}, got {len(data)} bytes in all")
    try:
        if not data:
            return torch.empty(shape, dtype=dtype)
        return torch.frombuffer(data, dtype=torch.uint8).view(dtype).reshape(shape)
    except (RuntimeError, OverflowError, TypeError) as error:
        raise ValueError(f"decode_torch: expected a tensor of {name}: {error}") from None


def _parts(item: Any) -> tuple[str, tuple[int, ...], numpy.ndarray[Any, Any]]:
    """The name of a tensor's type, its shape, and its bytes."""
    with needed("encode_torch", _PACKAGES, install=_INSTALL):
        import numpy as np
        import torch
    if isinstance(item, np.ndarray | np.generic):
        item = torch.from_numpy(np.array(item))
    if not isinstance(item, torch.Tensor):
        raise TypeError(f"encode_torch: expected a tensor, got {type(item).__name__}")
    for wrong, found in (
        (item.is_nested, "a nested tensor"),
        (item.layout != torch.strided, f"a tensor of layout {item.layout}"),
        (item.is_quantized, f"a quantized tensor ({item.dtype})"),
        (item.is_meta, "a meta tensor, which has no values"),
    ):
        if wrong:
            raise TypeError(f"encode_torch: expected a dense tensor, got {found}")
    values = item.detach().cpu().resolve_conj().resolve_neg()
    if values.element_size() == 1:
        values = values.view(torch.uint8)  # PyTorch can copy few of its smallest types
    flat = values.contiguous().reshape(-1)
    # One item may have a stride of its own, which no view likes.
    raw = flat.as_strided((flat.numel(),), (1,)).view(torch.uint8).numpy()
    return str(item.dtype).removeprefix("torch."), tuple(item.shape), raw
