"""Pairs of functions that carry a framework's objects in a message, as text.

Each `encode_X(obj)` gives text that can stand in JSON, and `decode_X(text)` an equal object. A
framework is imported when one of its functions is called. Only `decode_pickle` can run code that
a sender chose, and it must be told to.
"""

from .bytes import decode_bytes, encode_bytes
from .mx import decode_mx, encode_mx
from .numpy import decode_numpy, encode_numpy
from .pandas import decode_pandas, encode_pandas
from .pickle import decode_pickle, encode_pickle
from .pillow import decode_pil, decode_pil_from_bytes, encode_pil
from .tf import decode_tf, encode_tf
from .torch import decode_torch, encode_torch

__all__ = [
    "decode_bytes",
    "decode_mx",
    "decode_numpy",
    "decode_pandas",
    "decode_pickle",
    "decode_pil",
    "decode_pil_from_bytes",
    "decode_tf",
    "decode_torch",
    "encode_bytes",
    "encode_mx",
    "encode_numpy",
    "encode_pandas",
    "encode_pickle",
    "encode_pil",
    "encode_tf",
    "encode_torch",
]
