"""PyTorch tensors come back; in an environment with PyTorch."""

from __future__ import annotations

import base64
import math
import tracemalloc
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.numpy import save

from tests.frameworks.conftest import framework
from virtex.serial import decode_torch, encode_numpy, encode_pickle, encode_torch

torch = framework("torch")

pytestmark = [
    pytest.mark.frameworks,
    pytest.mark.filterwarnings("ignore:ComplexHalf", "ignore:.*quantized", "ignore:.*nested"),
]

_ALL = {str(found): found for found in vars(torch).values() if isinstance(found, torch.dtype)}
_DTYPES = [name for name in sorted(_ALL) if not name.startswith(("torch.q", "torch.bits"))]


def _bits(tensor: Any) -> list[int]:
    if tensor.element_size() == 1:
        tensor = tensor.view(torch.uint8)
    found: list[int] = tensor.contiguous().reshape(-1).view(torch.uint8).tolist()
    return found


def _tensor(name: str, shape: tuple[int, ...], data: bytes) -> Any:
    if name == "torch.bool":
        data = bytes(byte % 2 for byte in data)
    if not data:
        return torch.empty(shape, dtype=_ALL[name])
    return torch.frombuffer(bytearray(data), dtype=torch.uint8).view(_ALL[name]).reshape(shape)


@pytest.mark.parametrize("name", _DTYPES)
@settings(max_examples=40)
@given(data=st.data())
def test_tensors_of_every_type_come_back(name: str, data: st.DataObject) -> None:
    shape = tuple(data.draw(st.lists(st.integers(0, 4), max_size=3)))
    size = math.prod(shape) * _ALL[name].itemsize
    tensor = _tensor(name, shape, data.draw(st.binary(min_size=size, max_size=size)))
    if len(shape) > 1 and data.draw(st.booleans()):
        tensor = tensor.transpose(0, 1)  # no longer contiguous
    found = decode_torch(encode_torch(tensor))
    assert type(found) is torch.Tensor
    assert (found.dtype, found.shape) == (tensor.dtype, tensor.shape)
    assert _bits(found) == _bits(tensor)


def test_gradients_conjugates_and_parameters_come_as_plain_values() -> None:
    grown = torch.ones(2, requires_grad=True) * 2
    for tensor in (grown, torch.nn.Parameter(torch.full((2,), 2.0))):
        found = decode_torch(encode_torch(tensor))
        assert found.tolist() == [2, 2] and not found.requires_grad
    conjugate = torch.tensor([1 + 2j]).conj()
    assert decode_torch(encode_torch(conjugate)).tolist() == [1 - 2j]
    assert decode_torch(encode_torch(conjugate.imag)).tolist() == [-2]


def test_what_comes_back_can_be_changed() -> None:
    found = decode_torch(encode_torch(torch.zeros(2)))
    found[0] = 5
    assert found.tolist() == [5, 0]


def test_scalars_arrays_and_lists_of_equal_tensors_are_taken() -> None:
    assert decode_torch(encode_torch(np.float32(2))).shape == ()
    assert decode_torch(encode_torch(np.arange(3))).tolist() == [0, 1, 2]
    assert decode_torch(encode_torch(list(torch.arange(3)))).tolist() == [0, 1, 2]
    rows = [torch.ones(2, 3, dtype=torch.complex64)] * 2
    assert torch.equal(decode_torch(encode_torch(rows)), torch.stack(rows))
    with pytest.raises(ValueError, match=r"got float32 of shape \(3,\) at position 1"):
        encode_torch([torch.zeros(2), torch.zeros(3)])
    with pytest.raises(ValueError, match="got an empty list"):
        encode_torch([])


@pytest.mark.parametrize(
    ("make", "text"),
    [
        (lambda: torch.ones(2).to_sparse(), "layout torch.sparse_coo"),
        (lambda: torch.ones(2, device="meta"), "a meta tensor"),
        (lambda: torch.quantize_per_tensor(torch.ones(2), 0.1, 0, torch.qint8), "a quantized"),
        (lambda: torch.nested.nested_tensor([torch.ones(1), torch.ones(2)]), "a nested tensor"),
        (lambda: 3, "got int"),
        (lambda: "text", "got str"),
    ],
    ids=["sparse", "meta", "quantized", "nested", "number", "text"],
)
def test_what_has_no_dense_values_is_refused(make: Any, text: str) -> None:
    with pytest.raises(TypeError, match=text):
        encode_torch(make())


def _lying(header: bytes, data: bytes = b"") -> str:
    header += b" " * (-len(header) % 8)
    return base64.b64encode(len(header).to_bytes(8, "little") + header + data).decode()


_ENTRY = b'"dtype":"F32","shape":[%s],"data_offsets":[0,%d]'


@pytest.mark.parametrize(
    "text",
    [
        _lying(b'{"t":{%s}}' % (_ENTRY % (b"1000000000000", 0))),
        _lying(b'{"t":{%s}}' % (_ENTRY % (b"4294967296,4294967296,4", 0))),
        _lying(b'{"t":{%s}}' % (_ENTRY % (b"2", 4)), b"1234"),
        _lying(b'{"t":{%s}}' % (_ENTRY % (b"1", 4)), b"1234 and more"),
        _lying(b'{"t":{%s},"u":{%s}}' % (_ENTRY % (b"0", 0), _ENTRY % (b"0", 0))),
        _lying(b"{}"),
        _lying(b'{"t":{"dtype":"BOOL","shape":[1],"data_offsets":[0,1]}}', b"\2"),
        base64.b64encode(save({"t": np.zeros((1, 2), "u1")}, {"dtype": "float32"})).decode(),
        base64.b64encode(save({"t": np.zeros((1, 4), "u1")}, {"dtype": "load"})).decode(),
        base64.b64encode(save({"t": np.zeros((1, 4), "u1")}, {"dtype": "os.system"})).decode(),
        base64.b64encode(save({"t": np.zeros(1, "f4")}, {"dtype": "float64"})).decode(),
        encode_numpy(np.arange(3)),
        encode_pickle([1]),
    ],
    ids=range(13),
)
def test_a_body_that_lies_is_refused_and_nothing_allocated(text: str) -> None:
    tracemalloc.start()
    try:
        with pytest.raises(ValueError, match="decode_torch: expected"):
            decode_torch(text)
        assert tracemalloc.get_traced_memory()[1] < 20_000_000
    finally:
        tracemalloc.stop()


@given(st.data())
def test_a_changed_body_gives_a_tensor_or_a_value_error(data: st.DataObject) -> None:
    sent = data.draw(st.sampled_from([torch.arange(6.0), torch.ones(2, dtype=torch.complex64)]))
    body = bytearray(base64.b64decode(encode_torch(sent)))
    for _ in range(data.draw(st.integers(1, 3))):
        body[data.draw(st.integers(0, len(body) - 1))] = data.draw(st.integers(0, 255))
    try:
        found = decode_torch(base64.b64encode(body).decode())
    except ValueError:
        return
    assert found.nbytes <= len(body)
