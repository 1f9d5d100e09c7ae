"""One keep-alive connection: a request out, its answer in, then the next."""

from __future__ import annotations

import asyncio
from typing import Protocol

import httptools

IDLE = -1
JOIN_BYTES = 64 * 1024
"""Up to this size a body is copied behind its head: cheaper than two buffers in one write."""


class Sender(Protocol):
    """What a connection tells the one who sends over it."""

    @property
    def max_response_bytes(self) -> int: ...

    def opened(self, connection: Connection) -> None:
        """It can take a request."""
        ...

    def answered(
        self, connection: Connection, index: int, status: int, body: bytes, is_reusable: bool
    ) -> None:
        """The request's answer is complete."""
        ...

    def failed(self, index: int, error: str) -> None:
        """The request will have no answer."""
        ...

    def ending(self, connection: Connection) -> None:
        """It takes no more requests."""
        ...

    def closed(self, connection: Connection) -> None:
        """It is gone; comes once, and last."""
        ...


class Connection(asyncio.Protocol):
    """Sends one request at a time, and reads its answer with httptools.

    Attributes:
        index: Of the outstanding request; `IDLE` if there is none.
    """

    def __init__(self, sender: Sender) -> None:
        self.index = IDLE
        self._sender = sender
        self._limit = sender.max_response_bytes
        self._transport: asyncio.Transport
        self._parser = httptools.HttpResponseParser(self)
        self._status = 0
        self._is_reusable = False
        self._body: list[bytes] = []
        self._raw: list[bytes] = []
        self._received = 0

    def send(self, index: int, head: bytes, body: bytes) -> None:
        """Send a request; the connection must be idle."""
        self.index = index
        if len(body) <= JOIN_BYTES:
            self._transport.write(head + body)
        else:
            self._transport.writelines((head, body))

    def fail(self, error: str) -> None:
        """Give the outstanding request up, and the connection with it."""
        index, self.index = self.index, IDLE
        self._sender.ending(self)
        self._transport.abort()
        self._sender.failed(index, error)

    def abort(self) -> None:
        """Close at once; the outstanding request, if any, is not reported."""
        self.index = IDLE
        self._transport.abort()

    def close(self) -> None:
        self._transport.close()

    # asyncio.Protocol

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport  # type: ignore[assignment]  # uvloop's are no subclass
        self._sender.opened(self)

    def data_received(self, data: bytes) -> None:
        if self.index == IDLE:
            # Nothing was asked: mostly a server that says why it closes the connection.
            self._sender.ending(self)
            self._transport.abort()
            return
        self._received += len(data)
        if self._received > self._limit:
            self.fail(f"expected an answer of at most {self._limit} bytes, got more")
            return
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserUpgrade:
            self.fail("expected an answer, got 101 Switching Protocols")
            return
        except httptools.HttpParserError as error:
            self.fail(f"expected an HTTP answer, got what is none: {error}")
            return
        if self._status:
            self._finish()
        else:
            self._raw.append(data)

    def eof_received(self) -> None:
        self._sender.ending(self)

    def connection_lost(self, exc: Exception | None) -> None:
        if self.index != IDLE:
            raw = b"".join(self._raw)
            index, self.index = self.index, IDLE
            if exc is not None:
                self._sender.failed(index, f"the connection was lost: {exc}")
            elif not raw:
                self._sender.failed(index, "the server closed the connection without an answer")
            elif (status := status_of_open_ended(raw)) is None:
                self._sender.failed(index, "the server closed the connection within its answer")
            else:
                self._sender.answered(self, index, status, b"".join(self._body), False)
        self._sender.closed(self)

    # httptools

    def on_body(self, data: bytes) -> None:
        if not self._status:  # else it belongs to an answer that nobody asked for
            self._body.append(data)

    def on_message_complete(self) -> None:
        status: int = self._parser.get_status_code()
        if status >= 200:  # before the answer there may be others, such as 103 Early Hints
            # The first answer counts; after a second one in the same read, who knows what follows.
            self._is_reusable = self._parser.should_keep_alive() and not self._status
            self._status = self._status or status

    def _finish(self) -> None:
        chunks = self._body
        body = chunks[0] if len(chunks) == 1 else b"".join(chunks)
        index, self.index = self.index, IDLE
        status, self._status = self._status, 0
        self._body = []
        self._received = 0
        if self._raw:
            self._raw = []
        self._sender.answered(self, index, status, body, self._is_reusable)


def status_of_open_ended(raw: bytes) -> int | None:
    """The status of an answer that ends with its connection; None if its end is missing.

    Args:
        raw: All that was received of the answer.
    """
    reader = _HeadReader()
    parser = httptools.HttpResponseParser(reader)
    parser.feed_data(raw)
    status: int = parser.get_status_code()
    has_end = reader.names & {b"content-length", b"transfer-encoding"}
    return status if reader.is_complete and not has_end and status >= 200 else None


class _HeadReader:
    def __init__(self) -> None:
        self.names: set[bytes] = set()
        self.is_complete = False

    def on_message_begin(self) -> None:
        self.names.clear()
        self.is_complete = False

    def on_header(self, name: bytes, value: bytes) -> None:
        self.names.add(name.lower())

    def on_headers_complete(self) -> None:
        self.is_complete = True
