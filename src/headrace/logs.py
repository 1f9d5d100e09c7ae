"""Log records: one line each, JSON for programs or text for people, and never a flood."""

from __future__ import annotations

import asyncio
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
WINDOW_S = 1.0

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
    """Lets through the first records of each second for each reason, and counts the others.

    The count comes with the next record of the reason; where none follows soon, with a record of
    its own.

    Args:
        per_second: How many are let through.
        logger: Where a record of its own goes, a second later if an event loop runs, and at
            `flush`; None for nowhere.
    """

    def __init__(
        self, per_second: int = MAX_PER_SECOND, logger: logging.Logger | None = None
    ) -> None:
        self._per_second = per_second
        self._logger = logger
        self._windows: dict[str, tuple[Instant, int]] = {}
        self._timers: dict[str, asyncio.TimerHandle] = {}

    def admit(self, now: Instant, reason: str) -> int | None:
        """How many records of this reason were held back before; None to hold this one back."""
        began, seen = self._windows.get(reason, (now, 0))
        if now - began < WINDOW_S:
            self._windows[reason] = began, seen + 1
            if seen < self._per_second:
                return 0
            self._tell_later(reason, began)
            return None
        self._windows[reason] = now, 1
        return max(0, seen - self._per_second)

    def flush(self) -> None:
        """Tell of all that is held back, because nothing may follow."""
        for timer in self._timers.values():
            timer.cancel()
        self._timers.clear()
        for reason in self._windows:
            self._tell(reason)

    def _tell_later(self, reason: str, began: Instant) -> None:
        """Look again when the second is over in which something was held back."""
        if self._logger is None or reason in self._timers:
            return
        try:
            loop = asyncio.get_running_loop()
        except RuntimeError:
            return
        self._timers[reason] = loop.call_later(WINDOW_S, self._look_again, reason, began)

    def _look_again(self, reason: str, began: Instant) -> None:
        del self._timers[reason]
        last_began, seen = self._windows[reason]
        if last_began == began:
            self._tell(reason)
        elif seen > self._per_second:  # a record has told of the other second
            self._tell_later(reason, last_began)

    def _tell(self, reason: str) -> None:
        began, seen = self._windows[reason]
        held_back = seen - self._per_second
        if held_back > 0 and self._logger is not None:
            self._windows[reason] = began, self._per_second
            extra = {"code": reason, "held_back": held_back}
            self._logger.warning("records were held back", extra=extra)
