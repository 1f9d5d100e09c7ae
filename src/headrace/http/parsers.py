"""httptools' parser, and what it takes to keep to HTTP where a client offers to leave it.

A server may ignore an Upgrade, and answers then as if there were none. httptools stops behind the
head of such a request, and would take its body, if it has one, for the next request.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import httptools

from ..errors import RequestError

FRAMING_BYTES = 17
"""What a byte of a body may take on its way: chunks of one byte have six, those with long sizes a
few more."""


class Parsed(Protocol):
    """What is told of requests as they are parsed."""

    def on_message_begin(self) -> None: ...
    def on_url(self, url: bytes) -> None: ...
    def on_header(self, name: bytes, value: bytes) -> None: ...
    def on_headers_complete(self) -> None: ...
    def on_body(self, body: bytes) -> None: ...
    def on_message_complete(self) -> None: ...


def parser_of(target: Parsed) -> httptools.HttpRequestParser:
    """A parser of requests."""
    parser = httptools.HttpRequestParser(target)
    # Else it would refuse what comes behind a request that asks to be the last.
    parser.set_dangerous_leniencies(lenient_data_after_close=True)
    return parser


def check_host(version: str, headers: Sequence[tuple[bytes, bytes]]) -> RequestError | None:
    """Why a request cannot be served for its Host: HTTP/1.1 asks for exactly one (RFC 9112, 3.2).

    Args:
        version: Of HTTP.
        headers: As they were sent, names in lower case.
    """
    count = [name for name, _ in headers].count(b"host")
    if count == 1 or (count == 0 and version == "1.0"):
        return None
    return RequestError(f"expected one Host header, got {count}")


def framing_of(headers: Sequence[tuple[bytes, bytes]]) -> bytes:
    """The header that tells how long a request's body is; empty where it has none."""
    for name, value in headers:
        is_size = name == b"content-length" and value.strip(b" 0") != b""
        if is_size or name == b"transfer-encoding":
            return name + b": " + value
    return b""


def parser_within(target: Parsed, framing: bytes) -> httptools.HttpRequestParser:
    """A parser that begins with a body, as if it had parsed the head already.

    Args:
        target: Is told of the body, and of all that follows.
        framing: As `framing_of` its head.
    """
    within = _Within(target)
    parser = parser_of(within)
    parser.feed_data(b"POST / HTTP/1.1\r\n" + framing + b"\r\n\r\n")
    within.is_in_head = False
    return parser


class _Within:
    """Passes on what is told, but of the first head."""

    def __init__(self, target: Parsed) -> None:
        self.is_in_head = True
        self._target = target
        self.on_body = target.on_body
        self.on_message_complete = target.on_message_complete

    def on_message_begin(self) -> None:
        if not self.is_in_head:
            self._target.on_message_begin()

    def on_url(self, url: bytes) -> None:
        if not self.is_in_head:
            self._target.on_url(url)

    def on_header(self, name: bytes, value: bytes) -> None:
        if not self.is_in_head:
            self._target.on_header(name, value)

    def on_headers_complete(self) -> None:
        if not self.is_in_head:
            self._target.on_headers_complete()
