"""Heads of answers, made once for all answers of a kind."""

from __future__ import annotations

import http
from collections.abc import Sequence

DefaultHeaders = list[tuple[bytes, bytes]]


class ReplyHeads:
    """Heads of answers as far as they are the same, by status and media type.

    Attributes:
        defaults: The headers of every answer, by which the present heads were made.
    """

    __slots__ = ("_starts", "defaults")

    def __init__(self) -> None:
        self.defaults: DefaultHeaders = []
        self._starts: dict[tuple[int, str], str] = {}

    def start(self, defaults: DefaultHeaders, status: int, media_type: str) -> str:
        """The status line and the first headers of an answer.

        Args:
            defaults: The headers of every answer; another list when they have changed.
            status: Of HTTP.
            media_type: What the body is.
        """
        if defaults is not self.defaults:
            self.defaults = defaults
            self._starts.clear()
        start = self._starts.get((status, media_type))
        if start is None:
            shared = [(name.decode("latin-1"), value.decode("latin-1")) for name, value in defaults]
            lines = header_lines([*shared, ("content-type", media_type)])
            start = self._starts[status, media_type] = status_line(status) + lines
        return start


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
