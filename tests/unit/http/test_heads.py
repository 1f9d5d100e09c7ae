"""Heads of answers, as far as they are the same."""

from __future__ import annotations

import pytest

from headrace.http.heads import ReplyHeads, first_lines, header_lines, status_line

DEFAULTS = [(b"date", b"today"), (b"x-caf\xe9", b"\xff")]


@pytest.mark.parametrize(
    ("status", "line"),
    [
        (200, "HTTP/1.1 200 OK\r\n"),
        (431, "HTTP/1.1 431 Request Header Fields Too Large\r\n"),
        (599, "HTTP/1.1 599 \r\n"),
    ],
)
def test_a_status_has_its_phrase_where_there_is_one(status: int, line: str) -> None:
    assert status_line(status) == line


def test_headers_are_lines() -> None:
    assert header_lines([]) == ""
    assert header_lines([("a", "1"), ("b", "2")]) == "a: 1\r\nb: 2\r\n"


def test_the_servers_own_headers_come_first_and_keep_their_bytes() -> None:
    lines = first_lines(DEFAULTS, 200, "text/plain").encode("latin-1")
    assert lines == (
        b"HTTP/1.1 200 OK\r\ndate: today\r\nx-caf\xe9: \xff\r\ncontent-type: text/plain\r\n"
    )


def test_a_start_ends_where_the_id_or_its_number_begins_and_is_kept() -> None:
    heads = ReplyHeads("abc-")
    starts = heads.start(DEFAULTS, 200, "text/plain")
    ours, theirs = starts
    assert theirs.endswith(b"\r\nx-request-id: ")
    assert ours == theirs + b"abc-"
    assert heads.defaults is DEFAULTS
    others = heads.start(DEFAULTS, 201, "text/plain")
    assert heads.starts == {(200, "text/plain"): starts, (201, "text/plain"): others}


def test_other_headers_of_the_server_make_all_starts_old() -> None:
    heads = ReplyHeads("abc-")
    heads.start(DEFAULTS, 200, "text/plain")
    defaults = [(b"date", b"tomorrow")]
    starts = heads.start(defaults, 404, "text/plain")
    assert heads.defaults is defaults
    assert heads.starts == {(404, "text/plain"): starts}
