"""One client's connection: uvicorn's protocol class, and what it leaves open.

uvicorn bounds neither the size of a request's head nor the time it may take, and answers a
malformed request before the good ones that came before it on the same connection. All that
headrace needs of uvicorn's insides is in this file.
"""

from __future__ import annotations

import asyncio
import http
import select
from typing import Any, ClassVar

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle

from ..call import Failure
from ..config import Limits
from ..errors import HeadraceError, RequestError, Unavailable
from .errors import HeadTooLarge, SlowClient, error_answer

GRACE_S = 0.1
"""How long an idle connection may still bring a request when the server drains."""
LINGER_S = 0.25
"""How long an idle connection is read from after this side has ended it."""
MAX_AHEAD = 16
"""Requests that are read while an earlier one of their connection is not answered yet."""


class Connection(HttpToolsProtocol):
    """A connection whose requests are parsed by httptools and handed to the application."""

    limits: ClassVar[Limits]
    grace_s: ClassVar[float]
    max_connections: ClassVar[int | None]

    def __init__(self, *args: Any, **settings: Any) -> None:
        super().__init__(*args, **settings)
        self._in_head = False
        self._head_bytes = 0
        self._headers = 0
        self._unparsed_bytes = 0
        self._fault: HeadraceError | None = None
        self._is_refused = False
        self._is_last = False
        self._is_surplus = False
        self._head_timer: asyncio.TimerHandle | None = None
        self._current: RequestResponseCycle | None = None

    @classmethod
    def limited(
        cls, limits: Limits, *, grace_s: float = GRACE_S, max_connections: int | None = None
    ) -> type[Connection]:
        """The class with these limits: uvicorn makes the instances.

        Args:
            limits: Of a request's head.
            grace_s: How long an idle connection may still bring a request when the server drains.
            max_connections: One more is answered 503 and closed; None for any number.
        """
        own = {"limits": limits, "grace_s": grace_s, "max_connections": max_connections}
        return type(cls.__name__, (cls,), own)

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        most = self.max_connections
        self._is_surplus = most is not None and len(self.connections) > most
        self._start_head_timer()

    def connection_lost(self, exc: Exception | None) -> None:
        self._stop_head_timer()
        # uvicorn tells the newest request only; older ones have no reader either.
        for cycle in (self._current, *(cycle for cycle, _ in self.pipeline)):
            if cycle is not None and not cycle.response_complete:
                cycle.disconnected = True
                cycle.message_event.set()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        if self._is_refused:
            return  # nothing more of this connection counts; its answers are on their way
        was_in_head = self._in_head
        super().data_received(data)
        if self._in_head and was_in_head:
            # What has come of a header that is not whole yet.
            self._unparsed_bytes += len(data)
            if self._unparsed_bytes > self.limits.max_head_bytes:
                self._refuse(_head_too_large(self.limits))
        if self._head_timer is None and self._waits_for_head:
            self._start_head_timer()

    def shutdown(self) -> None:
        """The server drains: answer what is on its way, and close.

        A socket that is closed with bytes unread is reset, and its answers may be lost with it.
        """
        if self._is_idle:
            self._is_last = True
            self.loop.call_later(self.grace_s, self._end)
        else:
            super().shutdown()

    def _end(self) -> None:
        """End an idle connection; what crosses that was not taken, and is not reset either."""
        is_idle = self._is_idle and not self._in_head and not self.transport.is_closing()
        if is_idle and not has_unread(self.transport.get_extra_info("socket").fileno()):
            self._is_refused = True
            self.transport.write_eof()
            self.loop.call_later(LINGER_S, self.transport.close)

    def on_message_begin(self) -> None:
        super().on_message_begin()
        self._in_head = True
        self._head_bytes = self._headers = self._unparsed_bytes = 0

    def on_url(self, url: bytes) -> None:
        super().on_url(url)
        self._count(len(url))

    def on_header(self, name: bytes, value: bytes) -> None:
        """Also called for the trailers of a chunked body, which count to the head."""
        super().on_header(name, value)
        self._headers += 1
        self._count(len(name) + len(value))

    def on_headers_complete(self) -> None:
        self._in_head = False
        self._stop_head_timer()
        if self._is_surplus:
            self._fault = Unavailable(f"expected at most {self.max_connections} connections")
            raise self._fault  # which ends the parser's work
        super().on_headers_complete()
        if self._is_last:
            self.cycle.keep_alive = False
        if 0 < len(self.pipeline) < MAX_AHEAD:
            # uvicorn stops reading at the first request ahead, and would not notice the end.
            self.flow.resume_reading()

    def send_400_response(self, msg: str) -> None:
        self._refuse(self._fault or RequestError("expected a well-formed HTTP/1.1 request"))

    def _count(self, size: int) -> None:
        """Add to the head; what this raises ends the parser's work, as a malformed request does."""
        self._head_bytes += size
        if self._headers > self.limits.max_headers:
            most = self.limits.max_headers
            self._fault = HeadTooLarge(f"expected at most {most} headers, got more")
        elif self._head_bytes > self.limits.max_head_bytes:
            self._fault = _head_too_large(self.limits)
        if self._fault is not None:
            raise self._fault

    def _start_asgi_task(self, cycle: RequestResponseCycle, app: Any) -> None:
        self._current = cycle
        super()._start_asgi_task(cycle, app)

    @property
    def _is_idle(self) -> bool:
        return self._current is None or self._current.response_complete

    @property
    def _waits_for_head(self) -> bool:
        """Whether a head is due; while none has begun, the keep-alive timer may run instead."""
        return self._in_head or (self._is_idle and self.timeout_keep_alive_task is None)

    def _start_head_timer(self) -> None:
        self._head_timer = self.loop.call_later(self.limits.head_timeout_s, self._head_is_late)

    def _stop_head_timer(self) -> None:
        if self._head_timer is not None:
            self._head_timer.cancel()
            self._head_timer = None

    def _head_is_late(self) -> None:
        self._head_timer = None
        if not self._is_idle:
            self._start_head_timer()  # the answers that are due go first
        elif self._in_head:
            waited_s = self.limits.head_timeout_s
            self._refuse(SlowClient(f"the headers did not come within {waited_s:g} s"))
        else:
            self.transport.close()

    def _refuse(self, error: HeadraceError) -> None:
        """Answer what cannot be served, after the requests before it, and close."""
        self._is_refused = True
        current = self._current
        if current is not None and not current.response_complete:
            if self.pipeline and self.pipeline[0][0].more_body:
                self.pipeline.popleft()  # it is the body of this one that is malformed
            newest = self.pipeline[0][0] if self.pipeline else current
            if not newest.more_body:
                newest.keep_alive = False
                return
        if not self.transport.is_closing():
            self.transport.write(_whole_answer(error))
            self.transport.close()


def has_unread(fd: int) -> bool:
    """Whether the system holds something of a socket: bytes, an end, or a peer to accept."""
    poll = select.poll()
    poll.register(fd, select.POLLIN)
    return bool(poll.poll(0))


def _head_too_large(limits: Limits) -> HeadTooLarge:
    return HeadTooLarge(f"expected headers of at most {limits.max_head_bytes} bytes, got more")


def _whole_answer(error: HeadraceError) -> bytes:
    status, headers, body = error_answer(Failure.of(error))
    headers += [("content-length", str(len(body))), ("connection", "close")]
    lines = [f"HTTP/1.1 {status} {http.HTTPStatus(status).phrase}"]
    lines += [f"{name}: {value}" for name, value in headers]
    return "\r\n".join([*lines, "", ""]).encode() + body
