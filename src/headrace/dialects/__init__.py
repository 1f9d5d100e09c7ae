"""HTTP bodies to payloads, and outcomes to answers, one way of asking a module."""

from .base import Dialect, Formats, Request, body_limit, too_large
from .native import NATIVE
from .v1 import V1_DIALECT

__all__ = ["NATIVE", "V1_DIALECT", "Dialect", "Formats", "Request", "body_limit", "too_large"]
