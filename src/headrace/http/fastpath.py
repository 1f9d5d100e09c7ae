"""The fast path: a predict request goes from the parser to the engine, and its answer back.

No task, no scope, no future and no timer is made for it. All else is the ASGI application's.

Most requests of a client have the same head, to the byte. What such a head decides is remembered
with it, and a request that begins with it, and whose body is there, is neither parsed nor planned
again.
"""

from __future__ import annotations

import asyncio
from typing import Any, ClassVar

from ..call import Outcome, Payload, Value
from ..clock import Cancellable, remaining_s
from ..config import Limits
from ..dialects import too_large
from ..errors import HeadraceError
from .budget import COUNTED_BYTES
from .connection import GRACE_S, Connection
from .errors import body_is_late
from .exchange import Exchange, Headers
from .fairness import client_at
from .heads import ReplyHeads, first_lines, header_lines
from .insides import CONTINUE
from .memo import MAX_STRANGE, Memo, Memos, head_of
from .predict import Plan, Predict
from .refusals import Refusals
from .turns import Head

OWN_WRITE_BYTES = 64 * 1024
"""A body larger than this is not copied behind its head."""
SMALL_PIECE_BYTES = 1024
"""Pieces of a body up to this are put together as they come: an object of each would be larger."""


class FastConnection(Connection):
    """A connection whose predict requests take the fast path.

    Attributes:
        predict: Knows the routes.
        memos: Heads that were seen by any connection of the server.
        heads: Of its answers.
        peer: The client that it is from, where that matters.
    """

    predict: ClassVar[Predict]
    memos: ClassVar[Memos]
    heads: ClassVar[ReplyHeads]

    __slots__ = ("_candidate", "_client", "_memo", "_strange", "peer")

    def __init__(self, *args: Any, **settings: Any) -> None:
        super().__init__(*args, **settings)
        self._memo: Memo | None = None
        self._candidate: Plan | None = None
        self._client: str | None = None
        self._strange = 0
        self.peer: str | None = None

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
        made = cls.limited(
            limits,
            grace_s=grace_s,
            max_connections=max_connections,
            refusals=Refusals.beside(predict),
            clock=predict.clock,
        )
        made.predict, made.memos, made.heads = predict, Memos(), ReplyHeads(predict.id_prefix)
        return made

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        if self.predict.fairness.peer_address:
            self.peer = self.client or None  # a Unix socket has no address

    def forget(self) -> None:
        """Remember no head: the next one is looked at anew."""
        self._memo = None

    def data_received(self, data: bytes) -> None:
        memo = self._memo
        if (
            memo is not None
            and self.oldest is None
            and memo.engine.card is memo.card
            and memo.generation == self.predict.generation
        ):
            if len(data) == memo.size and data.startswith(memo.head):
                self._ask(memo, data[memo.head_bytes :], memo.own_id)
                return
            found = memo.match(data)
            if found is not None:
                size = int(found[memo.length_group])
                end = found.end()
                if len(data) - end == size <= memo.plan.max_body_bytes:
                    self._ask(memo, data[end:], found[memo.id_group] if memo.id_group else None)
                    return
        # The end of a head, or of a body and what follows it, may look like a whole request.
        is_start = not (self._in_head or self._rest or self.reading)
        self._memo = None
        super().data_received(data)
        candidate, self._candidate = self._candidate, None
        if is_start and candidate is not None:
            self._remember(data, candidate)

    def _ask(self, memo: Memo, body: bytes, own_id: bytes | None) -> None:
        """Serve a whole request whose head is remembered."""
        predict, plan = self.predict, memo.plan
        now = predict.clock()
        predict.counts.begun = number = predict.counts.begun + 1
        if predict.rates is not None:
            refusal = predict.throttle(plan, self.client)
            if refusal is not None:
                self.oldest = refused = FastExchange(
                    predict, plan, now, number, is_read=True, connection=self, own_id=own_id
                )
                refused.fail(refusal)
                return
        if memo.is_one_payload and len(body) <= COUNTED_BYTES:
            self.oldest = turn = QuickExchange(
                predict, plan, now, number, is_read=True, connection=self, own_id=own_id
            )
            payload = Payload(body, memo.input_type, memo.output_type)
            turn.ticket = memo.engine.post(
                now,
                payload,
                now + plan.timeout_s,
                turn,
                plan.priority,
                plan.client or self.peer,
            )
        else:
            self.oldest = other = FastExchange(
                predict, plan, now, number, is_read=True, connection=self, own_id=own_id
            )
            other.run_counted(body)

    def _parse(self, data: bytes) -> None:
        super()._parse(data)
        turn = self.reading
        if turn is not None and type(turn) is FastExchange:
            turn.await_body()

    def take_turn(self, head: Head) -> None:
        place = self.predict.find(head.method, head.path()[0]) if head.method == "POST" else None
        if place is None:
            super().take_turn(head)
            return
        headers = head.headers
        plan = self.predict.plan(place, head.method, headers)
        length = headers.get("content-length", "0")
        refusal = plan.error or self._refusal(plan, int(length))
        predict = self.predict
        if predict.rates is not None and refusal is None:
            refusal = predict.throttle(plan, self.client)
        turn = FastExchange(
            predict,
            plan,
            predict.clock(),
            predict.next_number(),
            keep_alive=head.keep_alive,
            may_probe=head.version == "1.1",
            is_awaited=head.is_awaited and refusal is None,
            connection=self,
        )
        self.queue(turn)
        if refusal is None:
            if head.keep_alive and not head.is_awaited and "content-length" in headers:
                self._candidate = plan
        elif length != "0" or "transfer-encoding" in headers:
            turn.cut_off(refusal)  # its body is not read, so nothing can follow it
        else:
            turn.fail(refusal)

    def _refusal(self, plan: Plan, size: int) -> HeadraceError | None:
        """Why a body of this size is not read, if so."""
        if size > plan.max_body_bytes:
            return too_large(plan.max_body_bytes)
        if size > COUNTED_BYTES:
            try:
                self.predict.budget.check(size)
            except HeadraceError as error:
                return error
        return None

    @property
    def client(self) -> str:
        """Whom its address stands for."""
        if self._client is None:
            self._client = client_at(self.address)
        return self._client

    # Where more than the remembered must be looked at, nothing is remembered.

    def eof_received(self) -> bool:
        self._memo = None
        return super().eof_received()

    def finish(self) -> None:
        self._memo = None
        super().finish()

    def end(self, *, is_read: bool = True) -> None:
        self._memo = None
        super().end(is_read=is_read)

    def refuse(self, error: HeadraceError) -> None:
        self._memo = None
        super().refuse(error)

    def _remember(self, data: bytes, plan: Plan) -> None:
        """Remember a head, if the data was one whole request with it and nothing else."""
        is_begun = self.reading is not None or self._in_head or self._rest
        is_whole = not is_begun and self._later is None
        if not is_whole or self._is_last or self._is_refused or self._strange >= MAX_STRANGE:
            return
        head = head_of(data, self._headers)
        if head is None:
            return
        self._memo = self.memos.find(head, plan, len(data))
        self._strange = self._strange + 1 if self._memo is None else 0


class FastExchange(Exchange):
    """An exchange over the fast path, which is its connection's turn.

    Attributes:
        keep_alive: Whether the connection lives on after the answer.
        is_read: Whether all of its body was read.
        is_awaited: Whether the client waits to be told to send the body.
        may_probe: Whether an interim answer may be sent before the answer.
        connection: Whose turn it is.
        pieces: Of the body, while it is read.
        size: What they have together.
        ready: The answer's head and body, while requests before it are not answered.
        own_id: The client's own request id, where the head is remembered without it.
        timer: Set to the deadline, while the body is waited for.
    """

    keep_alive: bool = True
    is_read: bool = False
    is_awaited: bool = False
    may_probe: bool = True
    connection: FastConnection = None  # type: ignore[assignment]  # it always is given
    pieces: list[bytes | bytearray] | None = None
    size: int = 0
    ready: tuple[bytes, bytes] | None = None
    own_id: bytes | None = None
    timer: Cancellable | None = None

    @property
    def request_id(self) -> str:
        if self.own_id is not None:
            return self.own_id.decode("ascii")
        return super().request_id

    @property
    def peer(self) -> str | None:
        return self.connection.peer

    @property
    def address(self) -> str:
        return self.connection.address

    # As a turn

    @property
    def is_promised(self) -> bool:
        return self.ready is not None

    @property
    def is_answering(self) -> bool:
        return False  # it is written whole

    def begin(self) -> bool:
        if self.ready is not None:
            self.let_go()
            self._write(*self.ready)
            return True
        if self.is_awaited:
            self.connection.write(CONTINUE)
        return False

    def take(self, chunk: bytes) -> None:
        if self.is_done:
            return
        self.size += len(chunk)
        if self.size > self.plan.max_body_bytes:
            self.cut_off(too_large(self.plan.max_body_bytes))
            return
        try:
            self.hold(self.size)
        except HeadraceError as error:
            self.cut_off(error)
            return
        pieces = self.pieces
        if pieces is None:
            self.pieces = [chunk]
        elif len(chunk) > SMALL_PIECE_BYTES:
            pieces.append(chunk)
        elif isinstance(pieces[-1], bytearray):
            pieces[-1] += chunk
        else:
            pieces.append(bytearray(chunk))

    def await_body(self) -> None:
        """The body is not whole yet: the rest is waited for until the deadline at most."""
        timeout_s = self.plan.timeout_s
        if (
            self.timer is None
            and not self.is_done
            and timeout_s < self.predict.limits.body_timeout_s
        ):
            left_s = remaining_s(self.received + timeout_s, self.predict.clock())
            self.timer = self.connection._loop.call_later(left_s, self.late)

    def _await_no_more(self) -> None:
        timer, self.timer = self.timer, None
        if timer is not None:
            timer.cancel()

    def complete(self) -> None:
        self._await_no_more()
        if self.is_done:
            return
        pieces, self.pieces = self.pieces, None
        if pieces is None:
            self.run(b"")
        else:
            self.run(bytes(pieces[0]) if len(pieces) == 1 else b"".join(pieces))

    def run_counted(self, body: bytes) -> None:
        """As `run`, of a body that has come whole and counts from now on."""
        try:
            self.hold(len(body))
        except HeadraceError as error:
            self.fail(error)
        else:
            self.run(body)

    def late(self) -> None:
        self.cut_off(body_is_late(self.predict.limits, self.plan.timeout_s))

    def gone(self) -> None:
        self._await_no_more()
        self.abandon()
        self.let_go()

    # As an exchange

    def cut_off(self, error: HeadraceError) -> None:
        """Answer with an error while the body is not read to its end."""
        self._await_no_more()
        self.keep_alive = False
        self.pieces = None
        self.fail(error)

    def reply(self, status: int, media_type: str, body: bytes, headers: Headers = ()) -> None:
        connection = self.connection
        text = first_lines(connection.state.default_headers, status, media_type)
        if headers:
            text += header_lines(headers)
        end = "\r\n\r\n" if self.keep_alive else "\r\nconnection: close\r\n\r\n"
        text += f"x-request-id: {self.request_id}\r\ncontent-length: {len(body)}{end}"
        head = text.encode("latin-1")
        if connection.oldest is self:
            self._write(head, body)
            connection.answered()
        else:
            self.ready = head, body
            if len(body) > COUNTED_BYTES:
                self.held_bytes = len(body)
                self.predict.budget.add(len(body))

    def _write(self, head: bytes, body: bytes) -> None:
        connection = self.connection
        if connection.transport.is_closing():
            return
        if len(body) <= OWN_WRITE_BYTES:
            connection.write(head + body)
        else:
            connection.write(head, body)


class QuickExchange(FastExchange):
    """An exchange whose request was remembered: nothing of it is unusual, and it is read whole.

    Its call's ticket is its posted item, and nobody tells it anything once that is cancelled.
    """

    def part(self, index: int, outcome: Outcome, last: bool) -> None:
        """As `answer` and `reply` together, for what nearly every outcome is."""
        connection = self.connection
        if type(outcome) is not Value or connection._memo is None or connection._later is not None:
            super().part(index, outcome, last)
            return
        connection._since = now = self.predict.clock()
        connection.oldest = None
        status, media_type, body = outcome.status, outcome.media_type, outcome.body
        if status == 200:
            self.plan.counts.seconds.observe(now - self.received)
        else:
            self.plan.counts.answered(status, now - self.received)
        heads = connection.heads
        starts = heads.starts.get((status, media_type))
        if starts is None or heads.defaults is not connection.state.default_headers:
            starts = heads.start(connection.state.default_headers, status, media_type)
        size, own_id = len(body), self.own_id
        if own_id is None:
            head = b"%b%x\r\ncontent-length: %d\r\n\r\n" % (starts[0], self.number, size)
        else:
            head = b"%b%b\r\ncontent-length: %d\r\n\r\n" % (starts[1], own_id, size)
        if size <= OWN_WRITE_BYTES:
            connection.transport.write(head + body)
        else:
            connection.transport.writelines((head, body))
