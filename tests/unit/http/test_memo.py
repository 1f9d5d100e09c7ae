"""Heads that are remembered, and which others are like them."""

from __future__ import annotations

import re

import pytest

from headrace.http.memo import MAX_MEMOS, Likeness, Memos, head_of
from headrace.http.predict import Plan
from headrace.metrics import RouteCounts

HEAD = (
    b"POST /predict HTTP/1.1\r\nHost: a\r\nX-Request-Id: one-1\r\n"
    b"Content-Type: application/json\r\nContent-Length: 3\r\n\r\n"
)


def headers_of(head: bytes) -> list[tuple[bytes, bytes]]:
    """What a parser finds, for heads that are written plainly."""
    lines = head.split(b"\r\n")[1:-2]
    pairs = (line.partition(b":") for line in lines)
    return [(name.lower(), value.strip()) for name, _, value in pairs]


def likeness(head: bytes) -> Likeness:
    return Likeness(head, headers_of(head))


def is_like(head: bytes, other: bytes) -> bool:
    return re.fullmatch(likeness(head).pattern, other) is not None


def test_the_same_bytes_are_the_same_head() -> None:
    assert is_like(HEAD, HEAD)
    assert likeness(HEAD).own_id == b"one-1"


@pytest.mark.parametrize(
    ("old", "new"),
    [
        (b"Content-Length: 3", b"Content-Length: 12345"),
        (b"one-1", b"another:id/that@is=safe"),
        (b"Length: 3\r\n\r\n", b"Length: 4\r\n\r\n"),
    ],
)
def test_another_length_or_id_is_the_same_head(old: bytes, new: bytes) -> None:
    assert old in HEAD
    assert is_like(HEAD, HEAD.replace(old, new))


@pytest.mark.parametrize(
    ("old", "new"),
    [
        (b"Length: 3", b"Length: -3"),
        (b"Length: 3", b"Length: +3"),
        (b"Length: 3", b"Length: 0x3"),
        (b"Length: 3", b"Length: 3, 3"),
        (b"Length: 3", b"Length:"),
        (b"Length: 3", b"Length: " + b"9" * 16),
        (b"Length: 3", b"Length: 3\r\nTransfer-Encoding: chunked"),
        (b"one-1", b""),
        (b"one-1", b"two words"),
        (b"one-1", b"a\r\nX-Evil: 1"),
        (b"one-1", b"a" * 129),
        (b"one-1", b"\xc3\xa9"),
        (b"POST", b"GET"),
        (b"/predict", b"/predict/"),
        (b"Host: a", b"Host: b"),
        (b"HTTP/1.1", b"HTTP/1.0"),
        (b"Content-Type", b"content-type"),
        (b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n"),
        (b"application/json", b"application/jsonX"),
    ],
)
def test_any_other_difference_makes_another_head(old: bytes, new: bytes) -> None:
    assert old in HEAD
    assert not is_like(HEAD, HEAD.replace(old, new, 1))


def test_a_dot_or_a_star_in_a_head_matches_itself_only() -> None:
    head = HEAD.replace(b"Host: a", b"Accept: */*\r\nHost: a.b")
    assert is_like(head, head)
    assert not is_like(head, head.replace(b"a.b", b"aXb"))


def test_a_trace_may_differ() -> None:
    trace = b"00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
    head = HEAD.replace(b"Host: a", b"traceparent: " + trace)
    assert is_like(head, head.replace(b"0af7", b"0af8"))
    assert not is_like(head, head.replace(b"0af7", b"0ag7"))


def test_headers_that_stand_twice_stay_as_they_are() -> None:
    head = HEAD.replace(b"Host: a", b"X-Request-Id: zero")
    found = likeness(head)
    assert (found.id_group, found.own_id) == (0, None)
    assert not is_like(head, head.replace(b"one-1", b"two-2"))


def test_an_id_that_is_not_echoed_stays_as_it_is() -> None:
    head = HEAD.replace(b"one-1", b"two words")
    assert likeness(head).id_group == 0
    assert is_like(head, head)


def test_groups_tell_the_length_and_the_id_in_any_order() -> None:
    for head in (
        HEAD,
        b"POST / HTTP/1.1\r\nContent-Length:7\r\nx-request-id:  b\r\n\r\n",
    ):
        found = likeness(head)
        matched = re.fullmatch(found.pattern, head)
        assert matched is not None
        assert matched[found.id_group] == found.own_id
        assert matched[found.length_group] in (b"3", b"7")


@pytest.mark.parametrize(
    "data",
    [
        HEAD + b"1234",  # more than the length tells
        HEAD + b"12",
        HEAD.replace(b"Content-Length: 3\r\n", b"") + b"123",
        HEAD.replace(b"Host: a", b"a\r\n\r\nb") + b"123",  # it would have ended before
    ],
)
def test_what_is_no_whole_request_has_no_head(data: bytes) -> None:
    headers = headers_of(data[: data.rindex(b"\r\n\r\n") + 4])
    assert head_of(data, headers) is None


def test_a_whole_request_has() -> None:
    found = head_of(HEAD + b"123", headers_of(HEAD))
    assert found is not None and found.head == HEAD


def test_no_more_heads_are_remembered_than_may_be() -> None:
    plan, memos = Plan("/predict", None, 0, RouteCounts()), Memos()
    for number in range(3 * MAX_MEMOS):
        head = HEAD.replace(b"Host: a", b"Host: %d" % number)
        assert memos.find(likeness(head), plan, 0) is None
    assert len(memos._by_pattern) <= MAX_MEMOS


def test_a_head_that_is_forgotten_is_nowhere() -> None:
    memos, plan = Memos(), Plan("/predict", None, 1, RouteCounts())
    assert memos.find(likeness(HEAD), plan, 1) is None
    memos.clear()
    assert memos.find(likeness(HEAD), plan, 1) is None, "it is seen for the first time"
