"""The message, where the published API has it; it stands in `virtex.core.message`."""

from __future__ import annotations

from ..core.message import HttpMessage, message_of, to_json

__all__ = ["HttpMessage", "message_of", "to_json"]
