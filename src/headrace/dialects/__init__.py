"""HTTP bodies to payloads, and outcomes to answers, one way of asking a module."""

from .base import Dialect, Formats, Refusal, Request, body_limit, too_large
from .jobs import JOBS
from .messages import MESSAGES, Messages
from .native import NATIVE
from .v1 import V1_DIALECT

__all__ = [
    "JOBS",
    "MESSAGES",
    "NATIVE",
    "V1_DIALECT",
    "Dialect",
    "Formats",
    "Messages",
    "Refusal",
    "Request",
    "body_limit",
    "too_large",
]
