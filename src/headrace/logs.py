"""Log records: one line each, JSON for programs or text for people, and never a flood."""

from __future__ import annotations

import datetime
import logging
import sys
from typing import Any

import msgspec

from .clock import Instant

MAX_PER_SECOND = 10
"""Records of failed requests that are written in a second for one reason."""

# A program that embeds headrace and sets up no logging gets no records on standard error.
logging.getLogger("headrace").addHandler(logging.NullHandler())

_STANDARD = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "color_message"}


class JsonFormatter(logging.Formatter):
    """One JSON object a record: time, level, logger, message, and what the record carries."""

    def format(self, record: logging.LogRecord) -> str:
        instant = datetime.datetime.fromtimestamp(record.created, datetime.UTC)
        fields = {
            "time": instant.isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
            **extras_of(record),
        }
        if record.exc_info:
            fields["traceback"] = self.formatException(record.exc_info)
        try:
            return msgspec.json.encode(fields, enc_hook=str).decode()
        except Exception:  # lone surrogates, odd keys, a __str__ that raises: a record is due
            plain = {name: _plain(value) for name, value in fields.items()}
            return msgspec.json.encode(plain).decode()


class TextFormatter(logging.Formatter):
    """A line for people; control characters in it are escaped."""

    def format(self, record: logging.LogRecord) -> str:
        when = self.formatTime(record, "%H:%M:%S")
        extras = extras_of(record)
        traceback = extras.pop("traceback", None)
        facts = "".join(f" {name}={_quoted(value)}" for name, value in extras.items())
        line = f"{when} {record.levelname.lower():7} {record.getMessage()}{facts}"
        line = "".join(c if c.isprintable() else repr(c)[1:-1] for c in line)
        if record.exc_info:
            traceback = self.formatException(record.exc_info)
        return f"{line}\n{traceback}" if traceback else line


def _quoted(value: object) -> str:
    """A value of a text line, in quotes where it holds a space."""
    text = str(value)
    return repr(text) if " " in text else text


def _plain(value: object) -> object:
    """A value as JSON can have it, whatever it is."""
    try:
        msgspec.json.encode(value, enc_hook=str)
    except Exception:
        if isinstance(value, str):
            return value.encode(errors="backslashreplace").decode()
        return f"a {type(value).__name__} that cannot be written"
    return msgspec.Raw(msgspec.json.encode(value, enc_hook=str))


def extras_of(record: logging.LogRecord) -> dict[str, Any]:
    """What a record carries beyond the standard: the `extra` that it was made with."""
    return {name: value for name, value in vars(record).items() if name not in _STANDARD}


def configure(level: str, form: str) -> None:
    """Send all records to standard error.

    Args:
        level: The least severe level that is written.
        form: "json", "text", or "auto": text on a terminal, JSON elsewhere.
    """
    is_text = form == "text" or (form == "auto" and sys.stderr.isatty())
    handler = logging.StreamHandler()
    handler.setFormatter(TextFormatter() if is_text else JsonFormatter())
    logging.basicConfig(level=level.upper(), handlers=[handler], force=True)
    logging.raiseExceptions = False  # serving goes on when standard error is closed or full
    for chatty in ("asyncio", "uvicorn"):
        logging.getLogger(chatty).setLevel(logging.WARNING)


class RateLimit:
    """Lets through the first records of each second for each reason, and counts the others."""

    def __init__(self, per_second: int = MAX_PER_SECOND) -> None:
        self._per_second = per_second
        self._windows: dict[str, tuple[Instant, int]] = {}

    def admit(self, now: Instant, reason: str) -> int | None:
        """How many records of this reason were held back before; None to hold this one back."""
        began, seen = self._windows.get(reason, (now, 0))
        if now - began < 1.0:
            self._windows[reason] = began, seen + 1
            return 0 if seen < self._per_second else None
        self._windows[reason] = now, 1
        return max(0, seen - self._per_second)
