"""Connections in memory: a transport by hand, and the client at its other end."""

from __future__ import annotations

import asyncio
import socket
from collections import deque
from collections.abc import Awaitable, Callable, Iterable, Mapping
from typing import Any, NamedTuple, Self

import httptools
import uvicorn
from uvicorn.server import ServerState

from headrace import Batching, Fairness, Limits, Model
from headrace.engine import Engine
from headrace.http import App, Service
from headrace.http.connection import Connection
from headrace.http.fastpath import FastConnection
from headrace.http.refusals import Refusals
from headrace.replica import Replica
from headrace.testing import ManualClock, ManualLoop, ScriptedExecutor

HIGH_BYTES, LOW_BYTES = 64 * 1024, 16 * 1024
SHUTDOWN_S = 5.0
"""How long TLS waits for its end to be read."""


class Answer(NamedTuple):
    """What a client was answered."""

    status: int
    headers: Mapping[str, str]
    body: bytes


class _Own(socket.socket):
    """The connection's end of a pair, which says that the client is elsewhere."""

    address: tuple[str, int] | str

    def getpeername(self) -> tuple[str, int] | str:
        return self.address


class Peer(asyncio.Transport):
    """A client, and the transport between it and its connection.

    Attributes:
        got: All that the client has read.
        is_stalled: Whether it does not read, so that what is written stays in the transport.
        is_closed: Whether the connection was told that it is lost.
        has_end: Whether the client has seen the end.
        address: The client's.

    Args:
        connection: The server's side.
        loop: Where the transport calls back.
        is_tls: Whether it is TLS as loops have it: it cannot be closed in one direction, and counts
            nothing that was handed to the socket's own transport, which takes all it is given
            while that has not enough.
        address: The client's; default one of those for documentation.
    """

    def __init__(
        self,
        connection: Connection,
        loop: ManualLoop,
        *,
        is_tls: bool = False,
        address: tuple[str, int] | str | None = None,
    ) -> None:
        super().__init__()
        self.connection = connection
        self.got = b""
        self.is_stalled = False
        self.is_closed = False
        self.has_end = False
        self.address = ("192.0.2.1", 50000) if address is None else address
        own, self.other = socket.socketpair()
        named = _Own(fileno=own.detach())
        named.address = self.address
        self.own: socket.socket = named
        self._loop = loop
        self._is_tls = is_tls
        self._is_closing = False
        self._is_paused = False
        self._is_clogged = False
        self._is_full = False
        self._has_eof = False
        self._buffer = bytearray()
        self._sealed = bytearray()
        self._high_bytes, self._low_bytes = HIGH_BYTES + 1, LOW_BYTES
        self._protocol: asyncio.Protocol = connection
        self._incoming: deque[bytes] = deque()
        connection.connection_made(self)

    # The client

    def send(self, data: bytes) -> None:
        """Send; it is read at once, unless reading is paused."""
        self._incoming.append(data)
        self._deliver()

    def finish(self) -> None:
        """Send the end."""
        self.send(b"")

    def read(self, size: int | None = None) -> None:
        """Read some of what was written, or all."""
        taken = bytes(self._buffer[: len(self._buffer) if size is None else size])
        del self._buffer[: len(taken)]
        self.got += taken
        if self._is_full and len(self._buffer) <= LOW_BYTES:
            self._is_full = False
            self._hand_on()
        self._control()
        if size is None and self._buffer:
            self.read()
        elif not self._buffer:
            self.has_end |= self._has_eof
            if self._is_closing:
                self._loop.call_soon(self._lose, None)

    def reset(self) -> None:
        """Vanish."""
        self._is_closing = True
        self._lose(ConnectionResetError())

    @property
    def answers(self) -> list[Answer]:
        """What was answered so far, whole."""
        return parse(self.got)

    @property
    def statuses(self) -> list[int]:
        return [answer.status for answer in self.answers]

    @property
    def is_reading(self) -> bool:  # type: ignore[override]  # a fact, here
        """Whether the server reads."""
        return not self._is_paused

    def _deliver(self) -> None:
        while self._incoming and not self._is_paused and not self._is_closing:
            data = self._incoming.popleft()
            if data:
                self._protocol.data_received(data)
            elif not self._protocol.eof_received():
                self.close()

    def _lose(self, error: Exception | None) -> None:
        if not self.is_closed:
            self.is_closed = self.has_end = True
            protocol, self._protocol = self._protocol, asyncio.Protocol()
            protocol.connection_lost(error)
            self.own.close()
            self.other.close()

    # The transport

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        known = {"socket": self.own, "peername": self.address}
        return (known | {"sslcontext": True} if self._is_tls else known).get(name, default)

    def set_protocol(self, protocol: asyncio.BaseProtocol) -> None:
        assert isinstance(protocol, asyncio.Protocol)
        self._protocol = protocol

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None:
        assert high is not None and low is not None
        self._high_bytes, self._low_bytes = high, low

    def write(self, data: bytes | bytearray | memoryview[int]) -> None:
        if self._has_eof:
            raise RuntimeError("written behind the end")
        if self._is_closing:
            return
        if self._is_tls:
            self._sealed += data
            self._hand_on()
        else:
            self._buffer += data
        if not self.is_stalled:
            self.read()
        self._control()

    def _hand_on(self) -> None:
        """What TLS has encrypted, to the transport of the socket."""
        if not self._is_full:
            self._buffer += self._sealed
            self._sealed.clear()
            self._is_full = self._is_tls and len(self._buffer) > HIGH_BYTES

    def _control(self) -> None:
        size = self.get_write_buffer_size()
        if not self._is_clogged and size >= self._high_bytes:
            self._is_clogged = True
            self._protocol.pause_writing()
        elif self._is_clogged and size <= self._low_bytes:
            self._is_clogged = False
            self._protocol.resume_writing()

    def writelines(self, list_of_data: Iterable[bytes | bytearray | memoryview[int]]) -> None:
        self.write(b"".join(list_of_data))

    def can_write_eof(self) -> bool:
        return not self._is_tls

    def write_eof(self) -> None:
        assert not self._is_tls
        self._has_eof = True
        self.has_end |= not self._buffer

    def get_write_buffer_size(self) -> int:
        return len(self._sealed if self._is_tls else self._buffer)

    @property
    def unread_bytes(self) -> int:
        """What was written and not read, whoever counts it."""
        return len(self._buffer) + len(self._sealed)

    def is_closing(self) -> bool:
        return self._is_closing

    def close(self) -> None:
        if not self._is_closing:
            self._is_closing = True
            if not self._buffer:
                self._loop.call_soon(self._lose, None)
            elif self._is_tls:
                self._loop.call_later(SHUTDOWN_S, self._lose, None)

    def abort(self) -> None:
        self._is_closing = True
        self._loop.call_soon(self._lose, None)

    def pause_reading(self) -> None:
        assert not self._is_paused
        self._is_paused = True

    def resume_reading(self) -> None:
        assert self._is_paused
        self._is_paused = False
        self._loop.call_soon(self._deliver)


class Peers:
    """A server's connections, over one echo whose batches the test runs, at a clock by hand.

    Args:
        app: What else it serves; default headrace's own pages.
        limits: Of requests.
        fast: Whether predict requests take the fast path.
        model: In place of the echo.
        most: Connections.
        fairness: Between clients.
        settings: Of uvicorn's `Config`.
    """

    def __init__(
        self,
        app: Callable[..., Awaitable[None]] | None = None,
        *,
        limits: Limits | None = None,
        fast: bool = True,
        model: type[Model] | None = None,
        most: int | None = None,
        fairness: Fairness | None = None,
        **settings: Any,
    ) -> None:
        limits = limits or Limits()
        self.clock = ManualClock(1000.0)
        self.loop = ManualLoop(self.clock)
        self.service = Service(limits=limits, clock=self.clock, version="0", fairness=fairness)
        self.executor, self.engine = self.engine_of(model or Echo)
        self.service.set_engines([self.engine])
        self.service.complete()
        self.engine.open()
        predict = self.service.predict
        protocol: type[Connection] = (
            FastConnection.serving(predict, limits, max_connections=most)
            if fast
            else Connection.limited(
                limits,
                max_connections=most,
                refusals=Refusals.beside(predict),
                clock=self.clock,
            )
        )
        self.protocol = protocol
        self.config = uvicorn.Config(
            app or App(self.service),
            http=protocol,
            ws="none",
            interface="asgi3",
            lifespan="off",
            log_config=None,
            access_log=False,
            timeout_keep_alive=limits.keep_alive_s,  # type: ignore[arg-type]  # as in HttpServer
            **settings,
        )
        self.state = ServerState()
        self.state.default_headers = [(b"date", b"today")]
        self._peers: list[Peer] = []

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        for peer in self._peers:
            peer.own.close()
            peer.other.close()

    def engine_of(self, model: type[Model]) -> tuple[ScriptedExecutor, Engine]:
        """An engine, closed, and its executor."""
        card = Replica(model()).card
        executor = ScriptedExecutor(card)
        return executor, Engine(card, executor, loop=self.loop, clock=self.clock)

    def connect(
        self,
        *,
        is_tls: bool = False,
        state: ServerState | None = None,
        address: tuple[str, int] | str | None = None,
    ) -> Peer:
        """A client that has just connected."""
        connection = self.protocol(
            config=self.config,
            server_state=state or self.state,
            app_state={},
            _loop=self.loop,  # type: ignore[arg-type]  # it has what a connection uses
        )
        peer = Peer(connection, self.loop, is_tls=is_tls, address=address)
        self._peers.append(peer)
        return peer

    def run(self, outcomes: Mapping[int, Any] | None = None) -> None:
        """Run all batches there are, and what comes of them."""
        self.loop.run()
        while self.executor.batches:
            self.executor.begin()
            self.executor.finish(outcomes)
            self.loop.run()

    async def settle(self) -> None:
        """Let applications, and all that is due, come as far as they can."""
        for _ in range(30):
            self.run()
            await asyncio.sleep(0)

    @property
    def in_flight(self) -> int:
        """Predict requests that are not answered, by the counts."""
        return self.service.counts.in_flight


class Echo(Model):
    """Answers what it was asked."""

    batching = Batching(max_batch_size=64)

    def predict(self, batch: list[Any]) -> list[Any]:
        return batch


def post(body: bytes, headers: str = "", path: str = "/predict", version: str = "1.1") -> bytes:
    """A request; `headers` are lines that end with CR LF."""
    head = f"POST {path} HTTP/{version}\r\nhost: x\r\ncontent-length: {len(body)}\r\n{headers}\r\n"
    return head.encode() + body


def get(path: str, headers: str = "", method: str = "GET") -> bytes:
    """A request for a page."""
    return f"{method} {path} HTTP/1.1\r\nhost: x\r\n{headers}\r\n".encode()


def parse(data: bytes) -> list[Answer]:
    """Answers as they were sent; one that is not whole is left out."""
    answers: list[Answer] = []
    headers: dict[str, str] = {}
    body: list[bytes] = []

    class Target:
        def on_message_begin(self) -> None:
            headers.clear()
            body.clear()

        def on_header(self, name: bytes, value: bytes) -> None:
            headers[name.decode().lower()] = value.decode()

        def on_body(self, piece: bytes) -> None:
            body.append(piece)

        def on_message_complete(self) -> None:
            answers.append(Answer(parser.get_status_code(), dict(headers), b"".join(body)))

    parser = httptools.HttpResponseParser(Target())
    parser.set_dangerous_leniencies(lenient_data_after_close=True)
    parser.feed_data(data)
    return answers
