"""The parser, and offers to leave HTTP."""

from __future__ import annotations

import httptools
import pytest

from headrace.http.parsers import framing_of, parser_of, parser_within

GET = b"GET /next HTTP/1.1\r\nhost: x\r\n\r\n"


class Told:
    """Notes what the parser tells."""

    def __init__(self) -> None:
        self.events: list[object] = []

    def on_message_begin(self) -> None:
        self.events.append("begin")

    def on_url(self, url: bytes) -> None:
        self.events.append(url)

    def on_header(self, name: bytes, value: bytes) -> None:
        self.events.append((name, value))

    def on_headers_complete(self) -> None:
        self.events.append("head")

    def on_body(self, body: bytes) -> None:
        self.events.append(body)

    def on_message_complete(self) -> None:
        self.events.append("end")


@pytest.mark.parametrize(
    ("headers", "framing"),
    [
        ([], b""),
        ([(b"host", b"x"), (b"content-length", b"0")], b""),
        ([(b"content-length", b"00 ")], b""),
        ([(b"content-length", b"10")], b"content-length: 10"),
        ([(b"transfer-encoding", b"chunked")], b"transfer-encoding: chunked"),
    ],
)
def test_the_framing_of_a_body(headers: list[tuple[bytes, bytes]], framing: bytes) -> None:
    assert framing_of(headers) == framing


@pytest.mark.parametrize(
    ("framing", "body"),
    [
        (b"content-length: 5", b"abcde"),
        (b"transfer-encoding: chunked", b"5\r\nabcde\r\n0\r\nx-trailer: 1\r\n\r\n"),
    ],
)
def test_a_parser_that_begins_within_a_request_tells_of_its_body_and_of_all_behind(
    framing: bytes, body: bytes
) -> None:
    for size in (1, 3, 1000):
        told = Told()
        parser = parser_within(told, framing)
        assert told.events == []
        data = body + GET
        for at in range(0, len(data), size):
            parser.feed_data(data[at : at + size])
        pieces = [e for e in told.events if isinstance(e, bytes)]
        assert b"".join(pieces) == b"abcde/next"
        trailers = [(b"x-trailer", b"1")] if b"chunked" in framing else []
        rest = [e for e in told.events if not isinstance(e, bytes)]
        assert rest == [*trailers, "end", "begin", (b"host", b"x"), "head", "end"]


def test_why_it_takes_that() -> None:
    """When this fails, httptools reads bodies behind offers, and `parser_within` may go."""
    told = Told()
    offer = b"connection: upgrade\r\nupgrade: h2c\r\n"
    request = b"POST / HTTP/1.1\r\n" + offer + b"content-length: 5\r\n\r\nabcde"
    with pytest.raises(httptools.HttpParserUpgrade) as raised:
        parser_of(told).feed_data(request)
    assert raised.value.args[0] == len(request) - 5
    assert told.events[-1] == "end" and b"abcde" not in told.events


def test_what_comes_behind_the_last_request_is_passed_over() -> None:
    told = Told()
    parser_of(told).feed_data(GET.replace(b"host: x", b"connection: close") + GET)
    assert told.events.count("end") == 1
