"""Heads: of requests as they are looked at, of answers as they are made, once for all of a kind."""

from __future__ import annotations

import http
from collections.abc import Iterable, Sequence

from ..call import Failure
from ..errors import HeadraceError
from .errors import error_answer

DefaultHeaders = list[tuple[bytes, bytes]]


class ReplyHeads:
    """Heads of answers as far as they are the same, by status and media type.

    Attributes:
        defaults: The headers of every answer, by which the present heads were made.
        starts: All up to the request's number where its id is ours, and up to its id where that is
            the client's; by status and media type.

    Args:
        id_prefix: Of the ids of requests that bring none.
    """

    __slots__ = ("_id_prefix", "defaults", "starts")

    def __init__(self, id_prefix: str) -> None:
        self.defaults: DefaultHeaders = []
        self.starts: dict[tuple[int, str], tuple[bytes, bytes]] = {}
        self._id_prefix = id_prefix

    def start(self, defaults: DefaultHeaders, status: int, media_type: str) -> tuple[bytes, bytes]:
        """Make the two starts of a head.

        Args:
            defaults: The headers of every answer; another list when they have changed.
            status: Of HTTP.
            media_type: What the body is.
        """
        if defaults is not self.defaults:
            self.defaults = defaults
            self.starts.clear()
        lines = first_lines(defaults, status, media_type)
        theirs = f"{lines}x-request-id: ".encode("latin-1")
        starts = self.starts[status, media_type] = theirs + self._id_prefix.encode(), theirs
        return starts


def first_lines(defaults: DefaultHeaders, status: int, media_type: str) -> str:
    """The status line, and the headers that come first."""
    shared = [(name.decode("latin-1"), value.decode("latin-1")) for name, value in defaults]
    return status_line(status) + header_lines([*shared, ("content-type", media_type)])


def joined(raw: Iterable[tuple[bytes, bytes]]) -> dict[str, str]:
    """A request's headers by name; those that stand twice are joined as HTTP says.

    Args:
        raw: As they were sent, names in lower case.
    """
    headers: dict[str, str] = {}
    for raw_name, raw_value in raw:
        name, value = raw_name.decode("latin-1"), raw_value.decode("latin-1")
        headers[name] = f"{headers[name]}, {value}" if name in headers else value
    return headers


def status_line(status: int) -> str:
    r"""The first line of an answer.

    >>> status_line(404), status_line(599)
    ('HTTP/1.1 404 Not Found\r\n', 'HTTP/1.1 599 \r\n')
    """
    try:
        phrase = http.HTTPStatus(status).phrase
    except ValueError:
        phrase = ""
    return f"HTTP/1.1 {status} {phrase}\r\n"


def header_lines(headers: Sequence[tuple[str, str]]) -> str:
    """Headers as they are sent."""
    return "".join([f"{name}: {value}\r\n" for name, value in headers])


def whole_answer(error: HeadraceError, request_id: str) -> bytes:
    """An error as an answer that ends its connection."""
    status, headers, body = error_answer(Failure.of(error))
    headers += [
        ("x-request-id", request_id),
        ("content-length", str(len(body))),
        ("connection", "close"),
    ]
    return f"{status_line(status)}{header_lines(headers)}\r\n".encode() + body
