"""Heads that were seen: what a head decides need not be decided twice.

No head is parsed here: httptools has parsed each that is remembered. Another one that is the same
to the byte means the same; so does one that differs in nothing but the value of Content-Length,
where that is all digits, of X-Request-Id, where that is one which can be echoed, or of traceparent,
where that is hexadecimal digits and dashes.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from ..endpoint import Endpoint
from .predict import SAFE_ID, Plan

MAX_MEMOS = 256
"""Heads that a server remembers; with one more it begins anew."""

MAX_STRANGE = 8
"""Heads in a row that nobody else had, after which a connection's heads are not looked at again."""

_LENGTH, _ID = b"content-length", b"x-request-id"
_VALUES = {
    _LENGTH: rb"([0-9]{1,15})",
    _ID: b"(" + SAFE_ID.encode() + b")",
    b"traceparent": rb"([0-9a-f-]{55})",
}
_END = b"\r\n\r\n"


class Memo:
    """A head that was seen, and what it decides; what is asked of each request, near at hand.

    Attributes:
        head: Its bytes, the empty line included.
        head_bytes: How many those are.
        size: Of a whole request with this head.
        own_id: The client's request id, as it stands in the head; None without one.
        plan: What it decides, but for that id.
        match: Matches a head like it; gives the body's length, and the id if there is one.
        length_group: Which group of the match is the length.
        id_group: Which is the id; 0 without one.
        engine: Of the model that is asked.
        card: By which that was decided.
        generation: Of the routes by which that was decided.
        is_one_payload: Whether the body is a payload as it stands.
        input_type: Of the body.
        output_type: Of the answer.
    """

    __slots__ = (
        "card",
        "engine",
        "generation",
        "head",
        "head_bytes",
        "id_group",
        "input_type",
        "is_one_payload",
        "length_group",
        "match",
        "output_type",
        "own_id",
        "plan",
        "size",
    )

    def __init__(self, head: Likeness, size: int, plan: Plan, endpoint: Endpoint) -> None:
        self.head = head.head
        self.head_bytes = len(head.head)
        self.size = size
        self.own_id = head.own_id
        self.plan = plan
        self.match = re.compile(head.pattern).match
        self.length_group, self.id_group = head.length_group, head.id_group
        self.engine = endpoint.engine
        self.card = plan.card
        self.generation = plan.generation
        self.is_one_payload = endpoint.dialect.is_one_payload
        self.input_type, self.output_type = plan.formats.input_type, plan.formats.output_type


class Likeness:
    """A head, and which others are like it.

    Attributes:
        head: Its bytes.
        pattern: A regular expression that matches it, and those like it.
        own_id: The client's request id in it, None without one.
        length_group: Which group of the pattern is the length of the body.
        id_group: Which is the id; 0 without one.

    Args:
        head: Its bytes, the empty line included.
        headers: What the parser found in it, names in lower case.
    """

    def __init__(self, head: bytes, headers: Sequence[tuple[bytes, bytes]]) -> None:
        names = [name for name, _ in headers]
        places = []
        for name, value in _VALUES.items():
            line = re.compile(rb"(?i)\r\n" + name + rb":[ \t]*" + value + rb"\r\n")
            found = line.search(head) if names.count(name) == 1 else None
            if found is not None:
                places.append((*found.span(1), name))
        places.sort()
        order = [name for _, _, name in places]
        self.head = head
        self.length_group = order.index(_LENGTH) + 1 if _LENGTH in order else 0
        self.id_group = order.index(_ID) + 1 if _ID in order else 0
        self.own_id = next((head[a:b] for a, b, name in places if name == _ID), None)
        pieces, at = [], 0
        for begin, end, name in places:
            pieces += [re.escape(head[at:begin]), _VALUES[name]]
            at = end
        self.pattern = b"".join([*pieces, re.escape(head[at:])])


class Memos:
    """The heads that a server's clients send. One becomes a memo when it is seen again.

    They are kept as they came, and API keys with them.
    """

    def __init__(self) -> None:
        self._by_pattern: dict[bytes, Memo | None] = {}

    def find(self, head: Likeness, plan: Plan, size: int) -> Memo | None:
        """The memo of a head; None if it was not seen before.

        Args:
            head: As it came.
            plan: What it decides now.
            size: Of the whole request.
        """
        memos, pattern = self._by_pattern, head.pattern
        if pattern not in memos:
            if len(memos) >= MAX_MEMOS:
                memos.clear()
            memos[pattern] = None
            return None
        memo = memos[pattern]
        if memo is None or memo.generation != plan.generation or memo.card is not plan.card:
            endpoint = plan.endpoint
            assert endpoint is not None  # or it would have been refused
            memo = memos[pattern] = Memo(head, size, plan, endpoint)
        return memo

    def clear(self) -> None:
        """Forget them all."""
        self._by_pattern.clear()
        re.purge()  # it keeps the patterns that it has compiled


def head_of(data: bytes, headers: Sequence[tuple[bytes, bytes]]) -> Likeness | None:
    """The head of a request that came whole, if its length can be told from it.

    Args:
        data: The request, and nothing else.
        headers: What the parser found in it, names in lower case.
    """
    length = dict(headers).get(_LENGTH, b"")
    if not length.isdigit():
        return None
    head_bytes = len(data) - int(length)
    if data.find(_END) != head_bytes - len(_END):
        return None
    found = Likeness(data[:head_bytes], headers)
    return found if found.length_group else None
