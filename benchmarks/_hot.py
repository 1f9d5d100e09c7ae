"""The hot path in memory: bytes in, bytes out, with no socket and no time that passes by itself.

Each case of `CASES` is real code, driven so that it does the same in every pass: all requests of a
pass are there before its first batch is cut, and the clock goes on only as it is read.
"""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import uvloop
from _serving import ROOT, post
from uvicorn.server import ServerState

from headrace.call import Outcome, Payload, Value
from headrace.clock import Clock
from headrace.config import Limits, ServerSettings
from headrace.dialects import NATIVE
from headrace.endpoint import Endpoint
from headrace.engine import Engine
from headrace.executors import Executor, InlineExecutor
from headrace.executors.base import Events
from headrace.executors.socket import Peer, SocketExecutor
from headrace.http.app import App
from headrace.http.server import HttpServer
from headrace.http.service import Service
from headrace.lane import Lane
from headrace.replica import Replica
from headrace.targets import load_target, models_of
from headrace.version import __version__
from headrace.wire import Cards, Connection, End, Message, Parts, Ready, Run, Started

BODY = b'{"id": 7, "text": "water to the wheel", "values": [0.25, 0.5, 0.75, 1.0]}'
ANSWER = b'{"id":7,"text":"water to the wheel","values":[0.25,0.5,0.75,1.0]}'
JSON = "application/json"
BATCH = 32
CONNECTIONS = 64
ECHO = f"{ROOT / 'examples' / 'echo.py'}:Echo"
LIMITS = Limits()
TIMEOUT_S = 30.0

Pass = Callable[[], None]
"""Does a case's work once; raises if what came of it is wrong."""


@dataclass(frozen=True)
class Case:
    """A part of the hot path.

    Attributes:
        make: Makes it ready.
        items: How many a pass has.
    """

    make: Callable[[], Pass]
    items: int


def echo_replica() -> Replica:
    """A replica of the echo, as `headrace serve` makes it."""
    return Replica(models_of(load_target(ECHO), where=ECHO)[0](), LIMITS)


class Turns:
    """An event loop that runs until a pass has its answers.

    Attributes:
        loop: The one that servers run on.
        clock: Goes on by a microsecond each time that it is read.
    """

    def __init__(self) -> None:
        self.loop = uvloop.new_event_loop()
        self.clock: Clock = itertools.count(1000.0, 1e-6).__next__
        self._left = 0
        self._wrong: dict[str, Any] | None = None
        self.loop.set_exception_handler(self._failed)

    def _failed(self, loop: object, context: dict[str, Any]) -> None:
        self._wrong = context
        self.loop.stop()

    def until(self, answers: int, begin: Callable[[], object]) -> None:
        """Begin something, and run until so many answers were counted."""
        self._left = answers
        self.loop.call_soon(begin)
        self.loop.run_forever()
        if self._wrong is not None:
            raise RuntimeError(self._wrong["message"]) from self._wrong.get("exception")

    def answered(self) -> None:
        """Count one answer."""
        self._left -= 1
        if not self._left:
            self.loop.stop()

    def engine(self, executor: Executor) -> Engine:
        """An engine of the echo, whose one replica is ready."""
        engine = Engine(
            echo_replica().card,
            executor,
            loop=self.loop,
            clock=self.clock,
            limits=LIMITS,
            on_ready=self.answered,
        )
        self.until(1, engine.open)
        return engine

    def inline(self) -> Executor:
        """Runs batches on the loop's thread."""
        return InlineExecutor(
            echo_replica,
            loop=self.loop,
            clock=self.clock,
            predict_timeout_s=LIMITS.predict_timeout_s,
            on_hung=lambda: None,
        )


# The worker protocol


class Worker:
    """A worker's end of a connection, and its lane."""

    def __init__(self) -> None:
        self._connection = Connection("worker", b"secret", bytes(32))
        self._replica = echo_replica()
        self._replica.load()
        self._lane: Lane[int] = Lane(self._replica)

    def take(self, data: bytes) -> bytes:
        """What the worker says to bytes of the front's that are whole frames."""
        connection = self._connection
        out = []
        for message in received(connection, data):
            if isinstance(message, Run):
                out += self._run(message)
            else:  # the welcome
                out += connection.send(Cards((self._replica.card,), 0))
                out += connection.send(Ready())
        return b"".join([*connection.take_outgoing(), *out])

    def _run(self, run: Run) -> list[Any]:
        started = self._connection.send(Started(run.batch))
        report = self._lane.run(run.batch, run.items)
        return started + self._connection.send(Parts(run.batch, report.parts, End.ENDED))


def received(connection: Connection, data: bytes) -> list[Message]:
    """The messages in bytes from the other end."""
    connection.get_buffer()[: len(data)] = data
    return connection.received(len(data))


def connected() -> tuple[Connection, Worker]:
    """A front's end of a connection to a worker that is ready."""
    front, worker = Connection("front", b"secret", bytes(32)), Worker()
    data = b"".join(front.opening())
    while data:
        received(front, worker.take(data))
        data = b"".join(front.take_outgoing())
    return front, worker


def run_of_echoes() -> Run:
    """A full batch, made anew as a front makes it of its items."""
    payload = Payload(body=BODY, input_type=JSON, output_type=JSON)
    return Run(1, [(n, payload) for n in range(BATCH)], dict.fromkeys(range(BATCH), TIMEOUT_S))


def wire_front() -> Pass:
    """A batch to its frame, and the frames that answer it to outcomes."""
    front, worker = connected()
    answers = worker.take(b"".join(front.send(run_of_echoes())))
    received(front, answers)

    def once() -> None:
        front.send(run_of_echoes())
        parts = received(front, answers)[-1]
        assert isinstance(parts, Parts)
        assert all(value_of(outcome) == ANSWER for _, outcome in parts.parts)

    return once


def worker() -> Pass:
    """A batch's frame to the frames that answer it: decoded, run, encoded."""
    front, worker = connected()
    frame = b"".join(front.send(run_of_echoes()))
    answers = worker.take(frame)
    received(front, answers)

    def once() -> None:
        assert worker.take(frame) == answers

    return once


def value_of(outcome: Outcome | None) -> bytes:
    """An answer's body."""
    assert isinstance(outcome, Value), outcome
    return outcome.body


class WorkerHere(SocketExecutor):
    """An executor whose one worker is in this process, and answers in the loop's next turn."""

    def __init__(self, turns: Turns) -> None:
        super().__init__()
        self._loop = turns.loop
        self._worker = Worker()
        self._peer = Peer(0, Connection("front", b"secret", bytes(32)), self, turns.clock)

    def open(self, events: Events) -> None:
        self._events = self._peer.events = events
        self.peers[0] = self._peer
        self._peer.connection_made(Wire(lambda data: self._loop.call_soon(self._work, data)))

    def _work(self, data: bytes) -> None:
        answers = self._worker.take(data)
        if answers:
            self._peer.get_buffer(-1)[: len(answers)] = answers
            self._peer.buffer_updated(len(answers))

    def carded(self, peer: Peer, cards: Cards) -> None:
        """The engine knows the card."""

    def is_ready(self, peer: Peer) -> None:
        assert self._events is not None and peer.card is not None
        self._events.ready(peer.replica, peer.card)

    def broken(self, peer: Peer, reason: str) -> None:
        raise AssertionError(reason)

    def batch_ended(self, peer: Peer, batch: object) -> None:
        """The engine knows."""

    def disconnected(self, peer: Peer, error: Exception | None) -> None:
        """It stays for ever."""

    def replace(self, replica: int) -> bool:
        return False

    def close(self) -> None:
        """It stays for ever."""

    def join(self, timeout_s: float) -> bool:
        return True


# From the endpoint on


class Gathering:
    """A sink that keeps what it is told."""

    def __init__(self, turns: Turns) -> None:
        self.outcomes: list[Outcome] = []
        self._turns = turns

    def part(self, index: int, outcome: Outcome, last: bool) -> None:
        self.outcomes.append(outcome)
        self._turns.answered()


def endpoint_of(make: Callable[[Turns], Executor]) -> Callable[[], Pass]:
    """Requests from the endpoint to their answers, over such an executor."""

    def case() -> Pass:
        turns = Turns()
        endpoint = Endpoint(turns.engine(make(turns)), NATIVE, LIMITS)

        formats = endpoint.negotiate(JSON, None)
        sink = Gathering(turns)

        def submit() -> None:
            for _ in range(CONNECTIONS):
                now = turns.clock()
                endpoint.submit(now, BODY, formats, now + TIMEOUT_S, sink)

        def once() -> None:
            turns.until(CONNECTIONS, submit)
            assert all(value_of(outcome) == ANSWER for outcome in sink.outcomes)
            sink.outcomes.clear()

        return once

    return case


# From a connection's bytes on


class Wire(asyncio.Transport):
    """A transport that hands on what is written to it."""

    def __init__(self, write: Callable[[bytes], object]) -> None:
        super().__init__({"peername": ("127.0.0.1", 40000), "sockname": ("127.0.0.1", 8000)})
        self.write = write  # type: ignore[method-assign,assignment]  # called as a method is

    def is_closing(self) -> bool:
        return False

    def pause_reading(self) -> None:
        """Nothing comes but what a pass sends."""

    def resume_reading(self) -> None:
        """Nothing comes but what a pass sends."""


def connect(turns: Turns, service: Service, *, fast_path: bool) -> list[asyncio.Protocol]:
    """The server's ends of new connections, as uvicorn makes them for `headrace serve`."""
    config = HttpServer(App(service), ServerSettings(fast_path=fast_path)).config
    config.load()
    state = ServerState()
    state.default_headers = [(b"date", b"Thu, 01 Jan 1970 00:00:00 GMT")]
    make: Any = config.http_protocol_class
    return [make(config, state, {}, _loop=turns.loop) for _ in range(CONNECTIONS)]


def alike() -> list[bytes]:
    """Requests of a client that sends the same head each time."""
    return [post("/predict", BODY, JSON)]


def traced() -> list[bytes]:
    """Requests with ids of their own, and a time limit; more than a server remembers heads of."""
    end = b"\r\n\r\n"
    one = post("/predict", BODY, JSON)
    return [
        one.replace(end, b"\r\nX-Request-ID: %032x\r\nX-Request-Timeout: 5%b" % (number, end), 1)
        for number in range(8 * CONNECTIONS)
    ]


def http_of(
    make: Callable[[Turns], Executor],
    requests: Callable[[], list[bytes]] = alike,
    *,
    fast_path: bool = True,
) -> Callable[[], Pass]:
    """One request on each connection, from its bytes to those of its answer."""

    def case() -> Pass:
        turns = Turns()
        service = Service(limits=LIMITS, clock=turns.clock, version=__version__)
        service.set_engines([turns.engine(make(turns))])
        service.complete()
        protocols = connect(turns, service, fast_path=fast_path)
        following = itertools.cycle(requests()).__next__
        written: list[bytes] = []

        def write(data: bytes) -> None:
            written.append(data)
            if data.endswith(ANSWER):
                turns.answered()

        def open_all() -> None:
            for protocol in protocols:
                protocol.connection_made(Wire(write))
            turns.answered()

        def send() -> None:
            for protocol in protocols:
                protocol.data_received(following())

        def once() -> None:
            turns.until(CONNECTIONS, send)
            assert b"".join(written).count(b"HTTP/1.1 200 OK\r\n") == CONNECTIONS
            written.clear()

        turns.until(1, open_all)
        return once

    return case


CASES = {
    "wire-front": Case(wire_front, BATCH),
    "worker": Case(worker, BATCH),
    "endpoint-inline": Case(endpoint_of(Turns.inline), CONNECTIONS),
    "endpoint-process": Case(endpoint_of(WorkerHere), CONNECTIONS),
    "fastpath-inline": Case(http_of(Turns.inline), CONNECTIONS),
    "fastpath-process": Case(http_of(WorkerHere), CONNECTIONS),
    "fastpath-traced": Case(http_of(Turns.inline, traced), CONNECTIONS),
    "asgi-inline": Case(http_of(Turns.inline, fast_path=False), CONNECTIONS),
}


# What all of them are compared with


class _Step:
    __slots__ = ("left", "total")

    def __init__(self, left: int) -> None:
        self.left = left
        self.total = 0.0

    def add(self, number: int, table: dict[str, int]) -> bool:
        self.total += number * 0.5
        self.left -= 1
        table["seen"] = table.get("seen", 0) + 1
        return self.left > 0


def yardstick() -> None:
    """Plain Python of the kind that the hot path is made of, and nothing of headrace."""
    for start in range(BATCH):
        step = _Step(8)
        table: dict[str, int] = {}
        rows: list[tuple[int, int, int]] = []
        while step.add(start, table):
            rows.append((start, step.left, len(rows)))
        assert {left: row for row, left, _ in rows} and len(rows) == 7
