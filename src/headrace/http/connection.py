"""One client's connection: bytes in, requests in order, answers in order, and every wait bounded.

An `asyncio.Protocol` over httptools' parser, which uvicorn runs. Each request is a `Turn`: those
that `fastpath` takes go to the engine at once, all others to the ASGI application when they are
the oldest. Answers leave in the order of their requests. docs/decisions/0012 says why this is no
subclass of uvicorn's own.
"""

from __future__ import annotations

import asyncio
import logging
import socket
from collections import deque
from typing import Any, ClassVar, Self
from weakref import WeakKeyDictionary

import httptools

from ..clock import NEVER, Clock, Instant, system_clock
from ..config import Limits
from ..errors import HeadraceError, RequestError
from ..logs import RateLimit
from ..metrics import HttpCounts
from .errors import HeadTooLarge, head_is_late, head_too_large
from .fairness import client_at
from .heads import whole_answer
from .insides import CONTINUE, addresses
from .parsers import FRAMING_BYTES, check_host, framing_of, parser_of, parser_within
from .places import SURPLUS_TIMEOUT_S, Place, Places
from .predict import PROBES
from .refusals import Refusals
from .sockets import end_if_read, has_gone, has_unread, reset_when_closed
from .sweep import Sweep
from .tls_transport import TlsTransport
from .turns import AHEAD, BUSY, CLOGGED, UNREAD, AsgiTurn, Head, Line, Refused, Turn

_log = logging.getLogger("headrace.requests")

GRACE_S = 0.1
"""How long an idle connection may still bring a request when the server drains."""
LINGER_S = 0.25
"""How long a connection is read from after this side has ended it."""
MAX_DROPPED_BYTES = 256 * 1024
"""What is read, and passed over, of what a client sends behind the last request."""
MAX_AHEAD = 16
"""Requests that are read while an earlier one of their connection is not answered yet."""
SLICE_BYTES = 4096
"""What is parsed at once of heads: no more requests than fit into this are read beyond those."""
MAX_WORK, REQUEST_WORK = 4096, 32
"""What one connection may do before others have their turn, in pieces of bodies, and what a request
counts: about two milliseconds."""
AROUND_BYTES = 64
"""More than stands around a header, and is not counted to the head: colon, blank, end of line."""
PROBES_S = (0.02, 0.2, 2.0)
"""When to look whether a client that sends no more has really gone."""


class Connection(asyncio.Protocol):
    """A connection whose requests are answered in order.

    uvicorn makes the instances, of a class that `limited` has made.

    Attributes:
        limits: Of heads, bodies and waits.
        is_leaving: Whether the server is about to drain: answers of connections that are made
            from then on are their last.
        oldest: The request that is answered next, if there is any.
        is_ending: Whether it has got its end, and is only read from for a moment.
    """

    limits: ClassVar[Limits]
    grace_s: ClassVar[float]
    is_leaving: ClassVar[bool]
    most: ClassVar[tuple[int | None, int | None] | None]
    refusals: ClassVar[Refusals]
    clock: Clock
    sweeps: ClassVar[WeakKeyDictionary[Any, Sweep]]
    places: ClassVar[WeakKeyDictionary[Any, Places]]

    __slots__ = (
        "_app_state",
        "_around_bytes",
        "_body_bytes",
        "_fault",
        "_framing",
        "_has_ended",
        "_has_parsed",
        "_head_bytes",
        "_headers",
        "_holds",
        "_in_head",
        "_is_last",
        "_is_new_head",
        "_is_paused",
        "_is_refused",
        "_is_shut",
        "_later",
        "_line",
        "_loop",
        "_most_unread_bytes",
        "_parser",
        "_place",
        "_rest",
        "_since",
        "_unparsed_bytes",
        "_url",
        "_work",
        "config",
        "is_ending",
        "oldest",
        "reading",
        "state",
        "sweep",
        "transport",
    )

    def __init__(
        self,
        config: Any,
        server_state: Any,
        app_state: dict[str, Any],
        _loop: asyncio.AbstractEventLoop | None = None,
    ) -> None:
        if not config.loaded:
            config.load()
        self.config = config
        self.state = server_state
        self.transport: asyncio.Transport = None  # type: ignore[assignment]  # until it is made
        self.oldest: Turn | None = None
        self.reading: Turn | None = None
        self._app_state = app_state
        self._loop = _loop or asyncio.get_event_loop()
        self._parser = parser_of(self)
        self._later: deque[Turn] | None = None
        self._line: Line | None = None
        self._rest = b""
        self._holds = 0
        self._in_head = False
        self._head_bytes = 0
        self._body_bytes = 0
        self._around_bytes = 0
        self._unparsed_bytes = 0
        self._has_parsed = False
        self._url = b""
        self._headers: list[tuple[bytes, bytes]] = []
        self._fault: HeadraceError | None = None
        self._framing = b""
        self._is_refused = False
        self.is_ending = False
        self._is_last = self.is_leaving
        self._is_shut = False
        self._is_new_head = False
        self._is_paused = False
        self._has_ended = False
        self._place: Place | None = None
        self._since: Instant = 0.0
        self._most_unread_bytes = 0
        self._work = 0

    @classmethod
    def limited(
        cls,
        limits: Limits,
        *,
        grace_s: float = GRACE_S,
        max_connections: int | None = None,
        refusals: Refusals | None = None,
        clock: Clock = system_clock,
    ) -> type[Self]:
        """The class with these limits: uvicorn makes the instances.

        Args:
            limits: Of connections, and of a request's head.
            grace_s: How long an idle connection may still bring a request when the server drains.
            max_connections: In place of the limits' own; one more is answered 503 and closed.
            refusals: Where they are counted; default by themselves.
            clock: Tells the time.
        """
        most = max_connections or limits.max_connections or None
        most_each = limits.max_connections_per_client or None
        own = {
            "__slots__": (),
            "limits": limits,
            "grace_s": grace_s,
            "is_leaving": False,
            "most": None if most is None and most_each is None else (most, most_each),
            "refusals": refusals or Refusals(HttpCounts(), RateLimit(), clock),
            "clock": staticmethod(clock),
            "sweeps": WeakKeyDictionary(),
            "places": WeakKeyDictionary(),
        }
        return type(cls.__name__, (cls,), own)

    # What the transport tells

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        if transport.get_extra_info("sslcontext") is not None:
            transport = TlsTransport(transport, self)  # type: ignore[arg-type]  # as below
        self.transport = transport  # type: ignore[assignment]  # uvloop's are no subclass
        connections = self.state.connections
        connections.add(self)
        self._since = self.clock()
        # Of this server: several may make their connections of one class.
        sweep = self.sweeps.get(self.state)
        if sweep is None:
            sweep = self.sweeps[self.state] = Sweep(
                self.limits, loop=self._loop, connections=connections, clock=self.clock
            )
        self.sweep = sweep
        if self.most is not None:
            self._take_place(*self.most)
        sweep.expect(self._since + self._head_timeout_s)

    def _take_place(self, most: int | None, most_each: int | None) -> None:
        """Be one of the connections that there may be, or one that is refused."""
        places = self.places.get(self.state)
        if places is None:
            places = self.places[self.state] = Places(most, most_each)
        self._place = places.enter("" if most_each is None else client_at(self.address))
        if self._place is None:
            self._is_refused = True
            error = RequestError("more connections than can be told so")
            self.refusals.tell(error, self.address, is_answered=False)
            self.transport.abort()

    def _leave_place(self) -> None:
        """Who has got its end is there only to be read from for a moment."""
        if self._place is not None:
            self._place.leave()

    @property
    def _is_surplus(self) -> bool:
        return self._place is not None and self._place.refusal is not None

    @property
    def _head_timeout_s(self) -> float:
        given = self.limits.head_timeout_s
        return min(given, SURPLUS_TIMEOUT_S) if self._is_surplus else given

    def data_received(self, data: bytes) -> None:
        if self._is_refused:
            self._drop(len(data))
        else:
            self._parse(self._rest + data if self._rest else data)

    def eof_received(self) -> bool:
        """The client sends no more; whether it may still read its answers."""
        if self.is_ending or not self.transport.can_write_eof():
            return False  # over TLS, an end is that of both directions
        self._has_ended = True
        if self._rest and not self._is_refused:
            return True  # the end comes behind what is kept
        if self.reading is not None and not self.reading.is_promised:
            self.refuse(RequestError("expected the rest of the body, got the end"))
        else:
            self._drop_unfinished()
        if self.oldest is None:
            return False
        self._is_last = True
        self._newest.keep_alive = False
        self._probe(0)
        return True

    def connection_lost(self, exc: Exception | None) -> None:
        self.state.connections.discard(self)
        self._leave_place()
        self._is_refused = True
        oldest, later = self.oldest, self._later
        self.oldest = self.reading = self._later = None
        if oldest is not None:
            oldest.gone()
            for turn in later or ():
                turn.gone()
        if self._line is not None:
            self._line.release()
        self._parser = None  # type: ignore[assignment]  # it holds this connection

    def pause_writing(self) -> None:
        """The client reads more slowly than it is answered: no more of its requests are taken."""
        self.hold(CLOGGED)
        self._expect_reading()

    def resume_writing(self) -> None:
        self._since = self.clock()
        self.let(CLOGGED)
        if self._line is not None:
            self._line.release()
        if self._is_shut:
            self._expect_idle()

    # What the server tells

    def finish(self) -> None:
        """The server is about to drain: the next answer says that it is the last one here.

        A client that was told so asks elsewhere. Of one that was not, a request may always cross
        the end of its connection.
        """
        self._is_last = True
        if self.oldest is not None and not self._in_head and not self.is_ending:
            newest = self._newest
            if not newest.is_promised:
                newest.keep_alive = False

    def shutdown(self) -> None:
        """The server drains: answer what is on its way, and close.

        A socket that is closed with bytes unread is reset, and its answers may be lost with it.
        """
        self.finish()
        self._is_shut = True
        self._expect_idle()

    def _expect_idle(self) -> None:
        """While the server drains, a connection is ended once it has been idle for a moment."""
        if self.oldest is None and not self.is_ending:
            self._loop.call_later(self.grace_s, self._end_idle)

    def _end_idle(self) -> None:
        """End an idle connection; what crosses that was not taken, and is not reset either."""
        is_idle = self.oldest is None and not self._in_head and not self._rest
        transport = self.transport
        if not is_idle or self.is_ending or transport.is_closing():
            return
        if self.is_clogged:
            return  # it reads its last answer still; `resume_writing` comes back to it
        fd = transport.get_extra_info("socket").fileno()
        # The transport would send the end in the next turn of the loop only; where some of the
        # answer waits, it has to come behind that.
        is_direct = transport.can_write_eof() and not transport.get_write_buffer_size()
        if end_if_read(fd) if is_direct else not has_unread(fd):
            self.end()

    # What the sweep asks

    def overdue(self, now: Instant) -> Instant:
        """End what has waited for too long; returns when to ask again at the latest."""
        limits = self.limits
        if self.is_ending or self._holds & CLOGGED:
            return self._unread_overdue(now)
        if self._holds and has_gone(self.transport.get_extra_info("socket").fileno()):
            self.transport.abort()  # while nothing is read, nobody else would notice
            return NEVER
        if self.reading is not None:
            if self._holds or self._rest:
                self._since = now  # it is this side that does not read
            due = self._since + limits.body_timeout_s
            if due <= now:
                self._since = now
                self.reading.late()
            return due
        if self.oldest is not None:
            return now + self.sweep.grain_s
        is_new = self._in_head or not self._has_been_used
        due = self._since + (self._head_timeout_s if is_new else self.config.timeout_keep_alive)
        if due <= now:
            if self._in_head:
                self.refuse(head_is_late(self._head_timeout_s))
            else:
                self._end_idle()
        return due

    def _unread_overdue(self, now: Instant) -> Instant:
        """A client has to read half of what waits for it in each span of `write_timeout_s`."""
        left = self.transport.get_write_buffer_size()
        if not left:
            return NEVER if self.is_ending else now + self.sweep.grain_s
        due = self._since + self.limits.write_timeout_s
        if due > now:
            return due
        if left > self._most_unread_bytes:
            reset_when_closed(self.transport.get_extra_info("socket").fileno())
            self.transport.abort()
            return NEVER
        return self._expect_reading()

    def _expect_reading(self) -> Instant:
        """The client is to read half of what waits for it now; returns by when."""
        self._since = self.clock()
        self._most_unread_bytes = self.transport.get_write_buffer_size() // 2
        due = self._since + self.limits.write_timeout_s
        self.sweep.expect(due)
        return due

    @property
    def address(self) -> str:
        """The client's address; empty over a Unix socket."""
        client = addresses(self.transport)[1]
        return "" if client is None else str(client[0])

    @property
    def _has_been_used(self) -> bool:
        return bool(self._url)

    # Parsing

    def _parse(self, data: bytes) -> None:
        """Parse what may be read ahead, and keep the rest."""
        self._is_new_head = self._has_parsed = False
        self._rest = b""
        size, at = len(data), 0
        try:
            if size <= SLICE_BYTES:
                self._feed(data)
            else:
                while at < size and not self._is_refused:
                    if self._holds or self._is_far_ahead:
                        self._rest = data[at:]
                        break
                    # A body goes in larger pieces: it holds no further requests.
                    step = SLICE_BYTES if self.reading is None else 16 * SLICE_BYTES
                    self._feed(memoryview(data)[at : at + step])
                    at += step
                    if self._work > MAX_WORK:
                        self._let_others()
        except httptools.HttpParserError as error:
            if not self._is_refused:  # by what came before it
                self.refuse(self._fault or _fault_of(error))
            return
        if self._is_far_ahead:
            self.hold(AHEAD)
        if self._in_head:
            self._head_goes_on(size)
        elif self.reading is not None:
            self._body_goes_on(size - len(self._rest))

    def _let_others(self) -> None:
        """Go on in the next turn of the loop, which may read from a socket until that is empty."""
        self._work = 0
        self.hold(BUSY)
        self._loop.call_soon(self._go_on)

    def _feed(self, piece: bytes | memoryview) -> None:
        while True:
            try:
                self._parser.feed_data(piece)
                return
            except httptools.HttpParserUpgrade as upgrade:
                piece = piece[upgrade.args[0] :]
            framing, self._framing = self._framing, b""
            if framing:
                self._parser = parser_within(self, framing)
            if self._is_refused or not len(piece):
                return

    def _head_goes_on(self, size: int) -> None:
        """A head has come in part."""
        if self._is_new_head:
            if self.oldest is None:
                self._since = self.clock()
            self.sweep.expect(self.clock() + self.limits.head_timeout_s)
        elif not self._has_parsed:
            # What has come of a header that is not whole yet, with what stands around it.
            self._unparsed_bytes += size
            if self._unparsed_bytes > self.limits.max_head_bytes + AROUND_BYTES:
                self.refuse(head_too_large(self.limits))

    def _body_goes_on(self, size: int) -> None:
        """A body has come in part: what stands around its chunks is bounded as a head is."""
        told, self._body_bytes = self._body_bytes, 0
        if self._is_new_head:
            self._around_bytes = 0
        else:
            self._around_bytes = max(0, self._around_bytes + size - FRAMING_BYTES * told)
            if self._around_bytes > self.limits.max_head_bytes:
                most = self.limits.max_head_bytes
                self.refuse(HeadTooLarge(f"expected at most {most} bytes around chunks, got more"))
                return
        self.sweep.expect(self._since + self.limits.body_timeout_s)

    def _go_on(self) -> None:
        """Parse what was kept, and read on once there is no more of that."""
        self._holds &= ~BUSY
        if self._rest and not self._is_refused and not self._holds:
            self._parse(self._rest)
            if self._has_ended and not self._rest and not self.eof_received():
                self.transport.close()
        self._read()

    @property
    def _is_far_ahead(self) -> bool:
        return self._later is not None and len(self._later) >= MAX_AHEAD

    def on_message_begin(self) -> None:
        self._in_head = self._is_new_head = True
        self._head_bytes = self._unparsed_bytes = 0
        self._url = b""
        self._headers = []

    def on_url(self, url: bytes) -> None:
        self._url += url
        self._count(len(url))

    def on_header(self, name: bytes, value: bytes) -> None:
        """Also called for a chunked body's trailers, which count to the head and tell nothing."""
        if self._in_head:
            self._headers.append((name.lower(), value))
        self._count(len(name) + len(value))

    def _count(self, size: int) -> None:
        """Add to the head; what this raises ends the parser's work, as a malformed request does."""
        self._head_bytes += size
        self._unparsed_bytes, self._has_parsed = 0, True
        limits = self.limits
        if len(self._headers) > limits.max_headers:
            self._fault = HeadTooLarge(f"expected at most {limits.max_headers} headers, got more")
        elif self._head_bytes > limits.max_head_bytes:
            self._fault = head_too_large(limits)
        if self._fault is not None:
            raise self._fault

    def on_headers_complete(self) -> None:
        self._in_head = False
        self._work += REQUEST_WORK
        if self._is_refused:
            return
        parser = self._parser
        version = parser.get_http_version()
        self._fault = self._refusal_of(version)
        if self._fault is not None:
            raise self._fault
        head = Head(
            parser.get_method().decode("ascii"),
            self._url,
            version,
            self._headers,
            version != "1.0" and parser.should_keep_alive() and not self._is_last,
        )
        if parser.should_upgrade():
            # No other protocol is spoken here: it is answered as it stands. What follows a CONNECT
            # is no HTTP.
            head.keep_alive = head.keep_alive and head.method != "CONNECT"
            self._framing = framing_of(head.raw)
        if self.oldest is not None and not self._newest.keep_alive:
            self._is_refused = True  # it comes behind the last one that will be answered
            return
        self._since = self.clock()
        self.take_turn(head)

    def _refusal_of(self, version: str) -> HeadraceError | None:
        """Why a request is not taken, whatever it asks."""
        if version not in ("1.0", "1.1"):
            return RequestError("expected HTTP/1.0 or HTTP/1.1")
        if self._is_surplus:
            if self._url not in PROBES or self._parser.get_method() not in (b"GET", b"HEAD"):
                assert self._place is not None
                return self._place.refusal
            self._is_last = True  # one answer is all that is left for it
        return check_host(version, self._headers)

    def take_turn(self, head: Head) -> None:
        """Answer a request when its turn comes."""
        self.queue(AsgiTurn(self, head))

    def queue(self, turn: Turn) -> None:
        """A request begins; it is answered after those before it."""
        self.reading = turn
        if self.oldest is None:
            self.oldest = turn
            if turn.begin():
                self.answered()
        elif self._later is None:
            self._later = deque((turn,))
        else:
            self._later.append(turn)

    def on_body(self, body: bytes) -> None:
        self._body_bytes += len(body)
        self._work += 1
        if self.reading is not None:
            self.reading.take(body)

    def on_message_complete(self) -> None:
        if self._framing:
            return  # the parser passes over the body; `_feed` does not
        turn, self.reading = self.reading, None
        if turn is not None:
            turn.is_read = True
            turn.complete()
            # What comes behind the last request is not looked at.
            self._is_refused |= not turn.keep_alive

    # Answers

    @property
    def _newest(self) -> Turn:
        assert self.oldest is not None
        return self._later[-1] if self._later else self.oldest

    def answered(self) -> None:
        """The oldest request was answered: on to the next."""
        turn = self.oldest
        assert turn is not None
        while True:
            if not turn.keep_alive or (self._is_refused and not self._later):
                self._drop_later()
                self.end(is_read=turn.is_read)
                return
            if not self._later:
                break
            self.oldest = turn = self._later.popleft()
            if not turn.begin():
                self._read_on()
                return
        self.oldest = self._later = None
        self._since = self.clock()
        if self._is_last and self._has_ended and not self._in_head and not self._rest:
            self.end()
            return
        if self._is_shut:
            self._expect_idle()
        self._read_on()

    def _read_on(self) -> None:
        if self._holds and not self._is_far_ahead:
            self.let(AHEAD | UNREAD)

    def _drop_later(self) -> None:
        later, self._later, self.oldest = self._later, None, None
        for turn in later or ():
            turn.gone()

    def refuse(self, error: HeadraceError) -> None:
        """Answer what cannot be served, after the requests before it, and close."""
        self._is_refused = True
        may_answer = self._drop_unfinished()
        is_waiting = self.oldest is not None
        if is_waiting and not self._newest.keep_alive:
            return  # it comes behind the last one that will be answered
        is_answered = is_waiting or (may_answer and not self.transport.is_closing())
        name = self.refusals.tell(error, self.address, is_answered=is_answered)
        if is_waiting:
            if self._later is None:
                self._later = deque()
            self._later.append(Refused(self, whole_answer(error, name)))
            return
        if is_answered:
            self.write(whole_answer(error, name))
        self.end(is_read=False)

    def _drop_unfinished(self) -> bool:
        """Give up what has not come to its end; whether nothing of an answer was written for it."""
        turn, self.reading, self._in_head = self.reading, None, False
        if turn is None:
            return True
        if turn is self.oldest:
            self.oldest = None
        elif self._later and self._later[-1] is turn and not turn.is_promised:
            self._later.pop()
        else:
            return False  # it was answered before its body had come, or is about to be
        may_answer = not turn.is_answering
        turn.gone()
        return may_answer

    def end(self, *, is_read: bool = True) -> None:
        """Send what was written, and the end; what the client still sends is read and dropped.

        A socket that is closed with bytes unread is reset, and the answer may be lost with it.

        Args:
            is_read: Whether the client has no reason to send more.
        """
        if self.is_ending:
            return
        self._is_refused = self.is_ending = True
        self.reading = None
        self._leave_place()
        transport = self.transport
        if transport.is_closing():
            return
        if transport.get_write_buffer_size():
            self._expect_reading()
        if self._has_ended or (is_read and not transport.can_write_eof()):
            transport.close()
            return
        if transport.can_write_eof():
            transport.write_eof()
        self._loop.call_later(LINGER_S, transport.close)

    def cut(self) -> None:
        """Send what was written of an answer that has no end, and close."""
        if not self.transport.is_closing():
            self._is_refused = self.is_ending = True
            if self.transport.get_write_buffer_size():
                self._expect_reading()
            self.transport.close()

    def write(self, *pieces: bytes) -> None:
        """Send; the hottest answers go to the transport directly, as nothing waits before them."""
        if self._holds & CLOGGED:
            self._most_unread_bytes += sum(map(len, pieces))
        if len(pieces) == 1:
            self.transport.write(pieces[0])
        else:
            self.transport.writelines(pieces)

    def _drop(self, size: int) -> None:
        """Pass over what comes behind the last request that is answered, for a while."""
        self._unparsed_bytes += size
        if self._unparsed_bytes > MAX_DROPPED_BYTES:
            self.hold(UNREAD)

    # Waits

    def hold(self, why: int) -> None:
        """Read no more, for this reason."""
        if not self._is_paused and not self._has_ended and not self.transport.is_closing():
            self._is_paused = True
            self.transport.pause_reading()
            self.sweep.expect(self.clock() + self.sweep.grain_s)
        self._holds |= why

    def let(self, why: int) -> None:
        """This is no reason any more not to read."""
        if self._holds & why:
            self._holds &= ~why
            if self._holds:
                return
            if self._rest:
                self._let_others()  # what is read before that is parsed would pile up behind it
            else:
                self._read()

    def _read(self) -> None:
        """Read again, unless something speaks against it."""
        may_read = not self._holds and not self._has_ended and not self.transport.is_closing()
        if self._is_paused and may_read:
            self._is_paused = False
            self.transport.resume_reading()

    def _probe(self, number: int) -> None:
        """Find out whether a client that sends no more still reads.

        The two look the same until something is sent: then a socket that was closed says so. An
        interim answer is what HTTP has for that.
        """
        turn, transport = self.oldest, self.transport
        if turn is None or transport.is_closing():
            return
        if number == 0:
            if not turn.may_probe:
                return
            self.write(CONTINUE)
        else:
            sock = transport.get_extra_info("socket")
            if sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR):
                transport.abort()
                return
        if number < len(PROBES_S):
            self._loop.call_later(PROBES_S[number], self._probe, number + 1)

    # For turns of the ASGI application

    @property
    def is_clogged(self) -> bool:
        """Whether the client has not read what was written."""
        return bool(self._holds & CLOGGED)

    def line(self) -> Line:
        """This connection as an ASGI application's cycle sees it."""
        if self._line is None:
            self._line = Line(self)
        return self._line

    def scope(self, head: Head) -> dict[str, Any]:
        """A request's ASGI scope."""
        server, client, scheme = addresses(self.transport)
        path, raw_path, query = head.path()
        root_path = self.config.root_path
        return {
            "type": "http",
            "asgi": {"version": self.config.asgi_version, "spec_version": "2.3"},
            "http_version": head.version,
            "server": server,
            "client": client,
            "scheme": scheme,
            "root_path": root_path,
            "headers": head.raw,
            "state": self._app_state.copy(),
            "method": head.method,
            "path": root_path + path,
            "raw_path": root_path.encode("ascii") + raw_path,
            "query_string": query,
        }


def _fault_of(error: httptools.HttpParserError) -> HeadraceError:
    """What a client is told of an error that the parser has raised, perhaps for one of ours."""
    cause = error.__context__
    if cause is not None and not isinstance(cause, (httptools.HttpParserError, UnicodeError)):
        _log.error("a request could not be taken", exc_info=cause)
        return HeadraceError("headrace failed")
    return RequestError("expected a well-formed HTTP/1.1 request")
