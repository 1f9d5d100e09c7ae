"""Log records: one line each, JSON for programs or text for people, and never a flood."""

from __future__ import annotations

import datetime
import json
import logging
import sys
from typing import Any

import msgspec

from .clock import Instant
from .outlet import Outlet, fill_closed

STDERR = 2

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
            return _escaped(msgspec.json.encode(fields, enc_hook=str).decode())
        except Exception:  # lone surrogates, odd keys, a __str__ that raises: a record is due
            plain = {name: _plain(value) for name, value in fields.items()}
            return _escaped(msgspec.json.encode(plain).decode())


class TextFormatter(logging.Formatter):
    """A line for people, with a traceback indented below; control characters are escaped."""

    def format(self, record: logging.LogRecord) -> str:
        when = self.formatTime(record, "%H:%M:%S")
        extras = extras_of(record)
        traceback = extras.pop("traceback", None)
        facts = "".join(f" {name}={_quoted(value)}" for name, value in extras.items())
        line = f"{when} {record.levelname.lower():7} {record.getMessage()}{facts}"
        line = _printable(line)
        if record.exc_info:
            traceback = self.formatException(record.exc_info)
        return f"{line}\n{_indented(traceback)}" if traceback else line


def _printable(line: str) -> str:
    return "".join(c if c.isprintable() else repr(c)[1:-1] for c in line)


def _indented(traceback: str) -> str:
    """A text of several lines, none of which looks like a record, whatever a caller sent."""
    return "\n".join(f"    {_printable(line)}" for line in traceback.split("\n"))


def _escaped(line: str) -> str:
    """A line of JSON without what JSON allows and terminals, or readers of lines, act upon."""
    if line.isprintable():
        return line
    return "".join(c if c.isprintable() else json.dumps(c)[1:-1] for c in line)


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


class OutletHandler(logging.Handler):
    """Writes records to a descriptor, and loses those that it does not take at once.

    Args:
        outlet: Where to write. Once it takes records again, one of them says how many were lost.
    """

    def __init__(self, outlet: Outlet) -> None:
        super().__init__()
        self._outlet = outlet
        self._told = 0

    @property
    def lost(self) -> int:
        """Records that were lost."""
        return self._outlet.lost

    def emit(self, record: logging.LogRecord) -> None:
        try:
            line = self.format(record) + "\n"
            owed = self._outlet.lost - self._told
            if owed:
                line = self._owing(owed) + line
            if self._outlet.write(line):
                self._told += owed
        except Exception:
            self.handleError(record)

    def close(self) -> None:
        self._outlet.close()
        super().close()

    def _owing(self, lost: int) -> str:
        told = logging.makeLogRecord(
            {
                "name": __name__,
                "levelno": logging.WARNING,
                "levelname": "WARNING",
                "msg": "records were lost: nobody has read the log",
                "lost": lost,
            }
        )
        return self.format(told) + "\n"


def lost_records() -> int:
    """Records of this process that were lost because nobody has read the log."""
    return sum(h.lost for h in logging.getLogger().handlers if isinstance(h, OutletHandler))


def configure(level: str, form: str) -> None:
    """Send all records to standard error; those that it does not take at once are lost.

    Args:
        level: The least severe level that is written.
        form: "json", "text", or "auto": text on a terminal, JSON elsewhere.
    """
    fill_closed()
    is_text = form == "text" or (form == "auto" and _is_terminal())
    handler = _handler()
    handler.setFormatter(TextFormatter() if is_text else JsonFormatter())
    logging.basicConfig(level=level.upper(), handlers=[handler], force=True)
    logging.raiseExceptions = False  # serving goes on when standard error is closed or full
    for chatty in ("asyncio", "uvicorn"):
        logging.getLogger(chatty).setLevel(logging.WARNING)


def _is_terminal() -> bool:
    return sys.stderr is not None and sys.stderr.isatty()


def _handler() -> logging.Handler:
    stream = sys.stderr
    try:
        fd = STDERR if stream is None else stream.fileno()
    except (OSError, ValueError):
        fd = -1
    # Another number may be closed by who has put it in its place, and be a socket's next.
    return OutletHandler(Outlet(fd)) if fd == STDERR else logging.StreamHandler(stream)


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
