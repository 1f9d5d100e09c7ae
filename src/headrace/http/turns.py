"""Turns: a connection's requests, each from its head to the end of its answer."""

from __future__ import annotations

import asyncio
import urllib.parse
from typing import Any, Protocol

import httptools

from .heads import joined
from .insides import HIGH_WATER_BYTES, Cycle

# Why a connection is not read from
AHEAD, CLOGGED, UNREAD, BUSY = 1, 2, 4, 8


class Turn(Protocol):
    """One request of a connection, from its head to the end of its answer.

    Attributes:
        keep_alive: Whether the connection lives on after the answer.
        is_read: Whether all of its body was read.
        is_promised: Whether the answer's head is made, and says what becomes of the connection.
        is_answering: Whether a part of the answer was written, and not all of it.
        may_probe: Whether an interim answer may be sent before the answer.
    """

    keep_alive: bool
    is_read: bool

    @property
    def is_promised(self) -> bool: ...
    @property
    def is_answering(self) -> bool: ...
    @property
    def may_probe(self) -> bool: ...

    def take(self, chunk: bytes) -> None:
        """A piece of the body."""

    def complete(self) -> None:
        """The body has come to its end."""

    def begin(self) -> bool:
        """All requests before this one are answered; whether this one is, too, at once."""

    def late(self) -> None:
        """The body did not come in time."""

    def gone(self) -> None:
        """The client went away."""


class Head:
    """A request's head, as it was parsed.

    Attributes:
        method: In upper case.
        url: The target as it was sent.
        version: Of HTTP, such as "1.1".
        raw: Names in lower case, and values, as they were sent.
        keep_alive: Whether the client wants to send more requests.
        is_awaited: Whether the client waits to be told to send the body, as HTTP/1.0 cannot.
    """

    __slots__ = ("is_awaited", "keep_alive", "method", "raw", "url", "version")

    def __init__(
        self,
        method: str,
        url: bytes,
        version: str,
        raw: list[tuple[bytes, bytes]],
        keep_alive: bool,
    ) -> None:
        self.method = method
        self.url = url
        self.version = version
        self.raw = raw
        self.keep_alive = keep_alive
        self.is_awaited = version == "1.1" and any(
            name == b"expect" and value.lower() == b"100-continue" for name, value in raw
        )

    def path(self) -> tuple[str, bytes, bytes]:
        """The path, percent-decoded and as it was sent, and the query."""
        parsed = httptools.parse_url(self.url)
        raw: bytes = parsed.path or b""
        path = raw.decode("ascii")
        return urllib.parse.unquote(path) if "%" in path else path, raw, parsed.query or b""

    @property
    def headers(self) -> dict[str, str]:
        """By name; those that stand twice are joined as HTTP says."""
        return joined(self.raw)


class Owner(Protocol):
    """A connection, as its turns see it.

    Attributes:
        config: uvicorn's, of the server.
        state: uvicorn's, of the server.
        oldest: The turn that is answered next.
        transport: Where answers go.
    """

    config: Any
    state: Any
    oldest: Turn | None
    transport: asyncio.Transport

    @property
    def is_ending(self) -> bool:
        """Whether it has got its end."""

    @property
    def is_clogged(self) -> bool:
        """Whether the client has not read what was written."""

    def scope(self, head: Head) -> dict[str, Any]:
        """A request's ASGI scope."""

    def line(self) -> Line:
        """What the cycles of the connection are held up by."""

    def write(self, data: bytes) -> None:
        """Send something of an answer."""

    def answered(self) -> None:
        """The oldest turn was answered."""

    def cut(self) -> None:
        """Close in the middle of an answer."""

    def end(self, *, is_read: bool = True) -> None:
        """Send the end."""

    def hold(self, why: int) -> None:
        """Read no more, for this reason."""

    def let(self, why: int) -> None:
        """This is no reason any more not to read."""


class Refused:
    """The turn of what is no request."""

    is_promised = True
    is_answering = False
    may_probe = False

    def __init__(self, connection: Owner, answer: bytes) -> None:
        self.keep_alive = False
        self.is_read = False
        self._connection = connection
        self._answer = answer

    def take(self, chunk: bytes) -> None:
        """It has no body."""

    def complete(self) -> None:
        """Nor its end."""

    def begin(self) -> bool:
        self._connection.write(self._answer)
        return True

    def late(self) -> None:
        """It waits for nothing."""

    def gone(self) -> None:
        """It holds nothing."""


class AsgiTurn:
    """A request that the ASGI application answers; to its cycle, it is the transport.

    Args:
        connection: Whose.
        head: Of the request.
    """

    def __init__(self, connection: Owner, head: Head) -> None:
        self.is_read = False
        self._version = head.version
        self._connection = connection
        self._cycle = Cycle(
            connection.config,
            connection.state,
            connection.scope(head),
            transport=self,
            flow=connection.line(),
            keep_alive=head.keep_alive,
            is_awaited=head.is_awaited,
            on_answered=self._answered,
        )

    # As a turn

    @property
    def keep_alive(self) -> bool:
        return self._cycle.keep_alive

    @keep_alive.setter
    def keep_alive(self, value: bool) -> None:
        self._cycle.keep_alive = value

    @property
    def is_promised(self) -> bool:
        return self._cycle.has_begun

    @property
    def is_answering(self) -> bool:
        return self._cycle.has_begun and not self._cycle.answered

    @property
    def may_probe(self) -> bool:
        return self._version == "1.1" and not self._cycle.has_begun

    def take(self, chunk: bytes) -> None:
        if not self._cycle.answered and self._cycle.take(chunk) > HIGH_WATER_BYTES:
            self._connection.line().pause_reading()

    def complete(self) -> None:
        self._cycle.complete()

    def begin(self) -> bool:
        self._cycle.start()
        return False

    def late(self) -> None:
        """The application has its own deadline, unless it never wanted the body."""
        if self._cycle.answered:
            self._connection.end()

    def gone(self) -> None:
        self._cycle.gone()

    def _answered(self) -> None:
        if self._connection.oldest is self:
            self._connection.answered()

    # As a transport

    def write(self, data: bytes) -> None:
        self._connection.write(data)

    def is_closing(self) -> bool:
        return self._connection.is_ending or self._connection.transport.is_closing()

    def close(self) -> None:
        """Cut the answer off, unless it is complete: then `Connection.answered` does the rest."""
        if not self._cycle.answered:
            self._connection.cut()


class Line:
    """What the cycles of a connection are held up by: `insides.Flow`."""

    def __init__(self, connection: Owner) -> None:
        self._connection = connection
        self._writable = asyncio.Event()
        self.release()

    @property
    def write_paused(self) -> bool:
        is_clogged = self._connection.is_clogged
        if is_clogged:
            self._writable.clear()
        return is_clogged

    def pause_reading(self) -> None:
        self._connection.hold(UNREAD)

    def resume_reading(self) -> None:
        self._connection.let(UNREAD)

    async def drain(self) -> None:
        await self._writable.wait()

    def release(self) -> None:
        """Writing may go on, or has become meaningless."""
        self._writable.set()
