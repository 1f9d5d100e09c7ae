"""URLs, and the requests made of them."""

from __future__ import annotations

import pytest

from headrace import ConfigError
from headrace.loadtest.request import destination, post_head


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("http://localhost", (False, "localhost", 80, "localhost", "/")),
        ("HTTPS://Example.org/a/b", (True, "example.org", 443, "example.org", "/a/b")),
        ("http://127.0.0.1:81?q=1&r=2", (False, "127.0.0.1", 81, "127.0.0.1:81", "/?q=1&r=2")),
        ("http://[::1]:8000/x#part", (False, "::1", 8000, "[::1]:8000", "/x")),
        (
            "http://bücher.example/",
            (False, "xn--bcher-kva.example", 80, "xn--bcher-kva.example", "/"),
        ),
        ("http://h/models/a b/é", (False, "h", 80, "h", "/models/a%20b/%C3%A9")),
        ("http://h/v1/models/m:predict", (False, "h", 80, "h", "/v1/models/m:predict")),
        ("http://h/%20?a=%2F b", (False, "h", 80, "h", "/%20?a=%2F%20b")),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_a_url_says_where_requests_go(url: str, expected: tuple[object, ...]) -> None:
    assert tuple(destination(url)) == expected


@pytest.mark.parametrize(
    "url",
    [
        "",
        "localhost:8000",
        "ftp://localhost/",
        "http:///path",
        "http://:80/",
        "http://h:99999/",
        "http://h:port/",
        "http://[::1/",
        "http://a b/",
        "http://me:secret@h/",
        "http://é" + "e" * 70 + "/",
    ],
    ids=repr,
)
def test_what_is_no_such_url_is_refused_by_name(url: str) -> None:
    with pytest.raises(ConfigError, match=r"^url: expected") as raised:
        destination(url)
    assert "secret" not in str(raised.value)


def test_a_head_ends_where_the_length_is_to_be_written() -> None:
    head = post_head(destination("http://h:81/a?b"), {"X-One": "1"})
    assert head == (
        b"POST /a?b HTTP/1.1\r\nHost: h:81\r\nContent-Type: application/json\r\n"
        b"Accept: */*\r\nX-One: 1\r\nContent-Length: "
    )


def test_headers_replace_ours_whatever_their_case() -> None:
    headers = {"content-type": "application/msgpack", "HOST": "other", "accept": "é"}
    head = post_head(destination("http://h/"), headers)
    assert head == (
        "POST / HTTP/1.1\r\ncontent-type: application/msgpack\r\nHOST: other\r\naccept: é\r\n"
        "Content-Length: "
    ).encode("latin-1")


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("", "1"),
        ("two words", "1"),
        ("name:", "1"),
        ("Content-Length", "1"),
        ("transfer-encoding", "chunked"),
        ("Connection", "close"),
        ("X", "one\r\nX-Two: 2"),
        ("X", "zero\0"),
        ("X", "€"),
    ],
    ids=repr,
)
def test_a_header_that_would_break_the_request_is_refused(name: str, value: str) -> None:
    with pytest.raises(ConfigError, match=r"^headers: "):
        post_head(destination("http://h/"), {name: value})
