"""The fast path: a predict request goes from the parser to the engine, and its answer back.

No task, no scope, no future and no timer is made for it. All else is the ASGI application's.

Most requests of a client have the same head, to the byte. What such a head decides is remembered
with it, and a request that begins with it, and whose body is there, is neither parsed nor planned
again.
"""

from __future__ import annotations

from typing import Any, ClassVar

from ..clock import Instant
from ..config import Limits
from ..dialects import too_large
from ..errors import HeadraceError
from .connection import GRACE_S, Connection, Head
from .errors import body_is_late
from .exchange import Exchange, Headers
from .heads import ReplyHeads, header_lines
from .insides import CONTINUE
from .predict import Plan, Predict

MAX_MEMOS = 256
"""Heads that a server remembers; with one more it begins anew."""
OWN_WRITE_BYTES = 64 * 1024
"""A body larger than this is not copied behind its head."""

_HEAD_END = b"\r\n\r\n"


class Memo:
    """A head that was seen, and what it decides.

    Attributes:
        head: Its bytes, the empty line included.
        size: Of a whole request with this head, whose body has a fixed length.
        plan: What it decides.
    """

    __slots__ = ("head", "plan", "size")

    def __init__(self, head: bytes, size: int, plan: Plan) -> None:
        self.head = head
        self.size = size
        self.plan = plan


class FastConnection(Connection):
    """A connection whose predict requests take the fast path.

    Attributes:
        predict: Knows the routes.
        memos: Heads that were seen by any connection of the server.
        heads: Of its answers.
    """

    predict: ClassVar[Predict]
    memos: ClassVar[dict[bytes, Memo]]
    heads: ClassVar[ReplyHeads]

    __slots__ = ("_candidate", "_memo")

    def __init__(self, *args: Any, **settings: Any) -> None:
        super().__init__(*args, **settings)
        self._memo: Memo | None = None
        self._candidate: Plan | None = None

    @classmethod
    def serving(
        cls,
        predict: Predict,
        limits: Limits,
        *,
        grace_s: float = GRACE_S,
        max_connections: int | None = None,
    ) -> type[FastConnection]:
        """The class that serves these predict requests; see `Connection.limited`."""
        made = cls.limited(limits, grace_s=grace_s, max_connections=max_connections)
        made.predict, made.memos, made.heads = predict, {}, ReplyHeads()
        return made

    def data_received(self, data: bytes) -> None:
        memo = self._memo
        if (
            memo is not None
            and len(data) == memo.size
            and data.startswith(memo.head)
            and self._is_between_requests
            and (predict := self.predict).is_current(memo.plan)
        ):
            self.oldest = turn = FastExchange(predict, memo.plan, predict.clock(), self)
            turn.is_read = True
            turn.run(data[len(memo.head) :])
            return
        self._candidate = None
        super().data_received(data)
        if self._candidate is not None:
            self._remember(data, self._candidate)

    def take_turn(self, head: Head) -> None:
        place = self.predict.find(head.method, head.path()[0]) if head.method == "POST" else None
        if place is None:
            super().take_turn(head)
            return
        headers = head.headers
        plan = self.predict.plan(place, head.method, headers)
        length = headers.get("content-length", "0")
        refusal = plan.error
        if refusal is None and int(length) > plan.max_body_bytes:
            refusal = too_large(plan.max_body_bytes)
        turn = FastExchange(self.predict, plan, self.predict.clock(), self)
        turn.keep_alive = head.keep_alive
        turn.is_awaited = head.is_awaited and refusal is None
        turn.may_probe = head.version == "1.1"
        self.queue(turn)
        if refusal is None:
            if head.keep_alive and not head.is_awaited and "content-length" in headers:
                self._candidate = plan
        elif length != "0" or "transfer-encoding" in headers:
            turn.cut_off(refusal)  # its body is not read, so nothing can follow it
        else:
            turn.fail(refusal)

    @property
    def _is_between_requests(self) -> bool:
        return self.oldest is None and not (self._in_head or self._is_last or self._is_refused)

    def _remember(self, data: bytes, plan: Plan) -> None:
        """Remember a head, if the data was one whole request with it and nothing else."""
        length = dict(self._headers).get(b"content-length", b"")
        is_whole = self.reading is None and not self._in_head and self._later is None
        if not is_whole or not length.isdigit():
            return
        head_bytes = len(data) - int(length)
        if data.find(_HEAD_END) != head_bytes - len(_HEAD_END):
            return
        head, memos = data[:head_bytes], self.memos
        memo = memos.get(head)
        if memo is None or not self.predict.is_current(memo.plan):
            if len(memos) >= MAX_MEMOS:
                memos.clear()
            memo = memos[head] = Memo(head, len(data), plan)
        self._memo = memo


class FastExchange(Exchange):
    """An exchange over the fast path, which is its connection's turn.

    Attributes:
        keep_alive: Whether the connection lives on after the answer.
        is_read: Whether all of its body was read.
        is_awaited: Whether the client waits to be told to send the body.
        may_probe: Whether an interim answer may be sent before the answer.
    """

    __slots__ = (
        "_connection",
        "_pieces",
        "_ready",
        "_size",
        "is_awaited",
        "is_read",
        "keep_alive",
        "may_probe",
    )

    def __init__(
        self, predict: Predict, plan: Plan, received: Instant, connection: FastConnection
    ) -> None:
        super().__init__(predict, plan, received)
        self.keep_alive = self.may_probe = True
        self.is_read = self.is_awaited = False
        self._connection = connection
        self._pieces: list[bytes] | None = None
        self._size = 0
        self._ready: tuple[bytes, bytes] | None = None

    # As a turn

    def begin(self) -> bool:
        if self._ready is not None:
            self._write(*self._ready)
            return True
        if self.is_awaited:
            self._connection.transport.write(CONTINUE)
        return False

    def take(self, chunk: bytes) -> None:
        if self.is_done:
            return
        self._size += len(chunk)
        if self._size > self._plan.max_body_bytes:
            self.cut_off(too_large(self._plan.max_body_bytes))
        elif self._pieces is None:
            self._pieces = [chunk]
        else:
            self._pieces.append(chunk)

    def complete(self) -> None:
        if self.is_done:
            return
        pieces, self._pieces = self._pieces, None
        if pieces is None:
            self.run(b"")
        else:
            self.run(pieces[0] if len(pieces) == 1 else b"".join(pieces))

    def late(self) -> None:
        self.cut_off(body_is_late(self._predict.limits.body_timeout_s))

    def gone(self) -> None:
        self.abandon()

    # As an exchange

    def cut_off(self, error: HeadraceError) -> None:
        """Answer with an error while the body is not read to its end."""
        self.keep_alive = False
        self._pieces = None
        self.fail(error)

    def reply(self, status: int, media_type: str, body: bytes, headers: Headers = ()) -> None:
        connection = self._connection
        start = connection.heads.start(connection.state.default_headers, status, media_type)
        if headers:
            start += header_lines(headers)
        end = "\r\n\r\n" if self.keep_alive else "\r\nconnection: close\r\n\r\n"
        text = f"{start}x-request-id: {self.request_id}\r\ncontent-length: {len(body)}{end}"
        head = text.encode("latin-1")
        if connection.oldest is self:
            self._write(head, body)
            connection.answered()
        else:
            self._ready = head, body

    def _write(self, head: bytes, body: bytes) -> None:
        transport = self._connection.transport
        if transport.is_closing():
            return
        if len(body) <= OWN_WRITE_BYTES:
            transport.write(head + body)
        else:
            transport.writelines((head, body))
