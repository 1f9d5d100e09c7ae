"""Bytes to values and back, one media type a module."""

from .base import Codec
from .json import JSON
from .msgpack import MSGPACK
from .negotiate import codec_of, input_type, output_type
from .raw import RAW

__all__ = ["JSON", "MSGPACK", "RAW", "Codec", "codec_of", "input_type", "output_type"]
