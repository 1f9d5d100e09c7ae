"""Arrays (.npy and safetensors): any bytes are an array that comes back as it is, or a ValueError.

An array has memory of its own and takes about what its body is long, and its values can be used. As
it is: encoding and decoding it again changes neither type, shape nor bytes.
"""

from __future__ import annotations

import io
import warnings
from typing import Any

import ml_dtypes
import numpy as np

from virtex.serial import decode_bytes, decode_numpy, encode_bytes, encode_numpy

from ._memory import at_most

MEASURED = ("virtex.serial._arrays", "virtex.serial._body", "virtex.serial.numpy")
TOKENS = (
    *(b"\x93NUMPY\x01\x00", b"\x93NUMPY\x02\x00", b"\x93NUMPY\x03\x00", b"'descr': ", b"'shape': "),
    *(
        b"'fortran_order': True",
        b"(1, 2)",
        b"'<f4'",
        b"'>i8'",
        b"'|b1'",
        b"'|O'",
        b"'<U2'",
        b"'<M8[D]'",
    ),
    *(
        b'"dtype":"F32"',
        b'"shape":[2]',
        b'"data_offsets":[0,8]',
        b'"__metadata__":{',
        b'"dtype":"int4"',
    ),
    *(
        b'"tensor":{',
        b'{"',
        b"}}",
        b"1152921504606846976",
        b"-1",
        b"('a', '<i4', (2,))",
        b"[('a', ",
    ),
)


def check(data: bytes) -> None:
    text = encode_bytes(data)
    assert decode_bytes(text) == data
    try:
        with at_most(1 << 20), warnings.catch_warnings(action="error"):
            array = decode_numpy(text)
    except ValueError as error:
        assert len(str(error)) < 3000
        return
    assert type(array) is np.ndarray and array.flags.writeable and array.flags.owndata
    assert header_bytes(data) + array.nbytes == len(data)
    assert array.dtype != bool or array.view(np.uint8).max(initial=0) <= 1
    repr(array.tolist() if array.size < 100 else array)
    try:
        again = decode_numpy(encode_numpy(array))
    except ValueError as error:
        # A description may say more than what is written: titles of fields, gaps between them.
        assert "cannot be carried" in str(error), error
        return
    assert (again.dtype, again.dtype.str, again.shape) == (
        array.dtype,
        array.dtype.str,
        array.shape,
    )
    assert again.tobytes() == array.tobytes()


def header_bytes(body: bytes) -> int:
    """What comes before the values."""
    if not body.startswith(b"\x93NUMPY"):
        return 8 + int.from_bytes(body[:8], "little")
    size = 2 if body[6] == 1 else 4
    return 8 + size + int.from_bytes(body[8 : 8 + size], "little")


def seeds() -> list[bytes]:
    made: list[Any] = [
        np.arange(6, dtype="<i2").reshape(2, 3),
        np.asfortranarray(np.arange(4, dtype=">f4").reshape(2, 2)),
        np.array(["a", "é"]),
        np.array([b"ab", b"c"]),
        np.array(True),
        np.array(["2024-05-06"], "M8[D]"),
        np.array([(1, (2.0, 3.0))], [("a", "<i4"), ("b", "<f8", (2,))]),
        np.empty((0, 3), np.complex64),
        np.array([1.5, 2], ml_dtypes.bfloat16),
        np.array([1, -2], ml_dtypes.int4),
    ]
    bodies = [decode_bytes(encode_numpy(each)) for each in made]
    objects = io.BytesIO()
    np.save(objects, np.array([None]), allow_pickle=True)
    text, flag = bodies[2], bodies[4]
    return [
        *(*bodies, objects.getvalue(), bodies[0] + b"\0", bodies[0][:-1], bodies[8] + b"\0"),
        *(text[:-4] + b"\xff" * 4, flag[:-1] + b"\2"),
    ]
