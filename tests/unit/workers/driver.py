"""What the tests of a worker share: a model with gates, and the front's end of its connection."""

from __future__ import annotations

import json
import os
import socket
import threading
from collections.abc import Callable, Iterable, Sequence
from typing import Any, ClassVar, TypeVar

from headrace import Batching, Model
from headrace.call import Failure, Outcome, Payload
from headrace.clock import NEVER
from headrace.lane import Lane
from headrace.replica import Replica
from headrace.wire import (
    Cards,
    Connection,
    End,
    FrameLimits,
    FrameReader,
    Kind,
    Message,
    Parts,
    Ready,
    Run,
    Stats,
    Welcome,
)
from headrace.workers.channel import Channel
from headrace.workers.loop import Job, Loop
from headrace.workers.mark import Mark, create_memory
from tests.unit.wire.driver import FRONT_NONCE, SECRET, WORKER_NONCE, feed

WAIT_S = 10.0
"""For what should happen soon; a busy machine may be late."""

M = TypeVar("M", bound=Message)


class Gate:
    """A place in a model where it waits for the test."""

    def __init__(self) -> None:
        self._is_shut = False
        self._reached = threading.Event()
        self._opened = threading.Event()

    def shut(self) -> None:
        self._is_shut = True

    def await_reached(self) -> None:
        assert self._reached.wait(WAIT_S), "the model did not come to its gate"

    def open(self) -> None:
        self._is_shut = False
        self._opened.set()

    def pass_through(self) -> None:
        if self._is_shut:
            self._reached.set()
            assert self._opened.wait(WAIT_S), "the test did not open the gate"


class Gated(Model):
    """Doubles numbers; waits at gates, and raises, where a test says so."""

    batching: ClassVar = Batching(max_batch_size=8)
    examples: ClassVar = [0]

    def __init__(self) -> None:
        self.in_preprocess: dict[int, Gate] = {}
        self.in_predict: dict[int, Gate] = {}
        self.raises: dict[int, BaseException] = {}
        self.calls: list[list[int]] = []

    def preprocess(self, n: int) -> int:
        if n in self.in_preprocess:
            self.in_preprocess[n].pass_through()
        return n

    def predict(self, batch: list[int]) -> list[int]:
        self.calls.append(batch)
        for n in batch:
            if n in self.in_predict:
                self.in_predict[n].pass_through()
        for n in batch:
            if n in self.raises:
                raise self.raises[n]
        return [2 * n for n in batch]

    def gate(self, gates: dict[int, Gate], n: int) -> Gate:
        """Let it wait where it comes to this number."""
        gates[n] = gate = Gate()
        gate.shut()
        return gate


class Watched(Channel):
    """A channel that keeps what each write held, and tells when its worker was woken."""

    def __init__(self, sock: socket.socket, connection: Connection) -> None:
        super().__init__(sock, connection)
        self.woken = threading.Semaphore(0)

    def wake(self) -> None:
        super().wake()
        self.woken.release()


class Written(socket.socket):
    """A socket that keeps what each of its writes held."""

    writes: list[bytes]

    def sendall(self, data: Any, flags: int = 0, /) -> None:
        self.writes.append(bytes(data))
        super().sendall(data, flags)


class Front:
    """The front's end, driven by a test; the worker's loop runs on a thread of its own.

    Args:
        model: What the worker serves.
        stats: What it tells when it is asked.
    """

    def __init__(self, model: Model, stats: Stats) -> None:
        ours, theirs = socket.socketpair()
        ours.settimeout(WAIT_S)
        self.sock = ours
        self.connection = Connection("front", SECRET, FRONT_NONCE)
        self._worker_socket = Written(fileno=theirs.detach())
        self._worker_socket.writes = []
        self.channel = Watched(self._worker_socket, Connection("worker", SECRET, WORKER_NONCE))
        self._mark_fd = create_memory("mark")
        self.mark = Mark(self._mark_fd)
        self._stats = stats
        self.replica = Replica(model, mark=self.mark.replica_slots)
        self.messages: list[Message] = []
        self.served: bool | None = None
        self.error: BaseException | None = None
        self._thread = threading.Thread(target=self._serve, daemon=True)
        self._thread.start()
        self.write(self.connection.opening())
        self.next(Ready)

    def _serve(self) -> None:
        """On the worker's thread."""
        try:
            while not any(isinstance(m, Welcome) for m in self.channel.receive() or ()):
                pass
            self.channel.put(Cards((self.replica.card,), 0))
            self.replica.load()
            self.channel.put(Ready())
            lane = Lane[Job](self.replica)
            loop = Loop(self.channel, lane, self.mark, lambda: self._stats)
            self.served = loop.serve()
        except BaseException as error:
            self.error = error

    def join(self) -> bool | None:
        """Wait for the loop's end: what it returned, or what it raised."""
        self._thread.join(WAIT_S)
        assert not self._thread.is_alive(), "the loop goes on"
        if self.error is not None:
            raise self.error
        return self.served

    def close(self) -> None:
        """End the connection, the loop and all that they hold."""
        self.sock.close()
        self._thread.join(WAIT_S)
        assert not self._thread.is_alive(), "the loop outlives its connection"
        self.channel.close()
        os.close(self._mark_fd)

    def write(self, chunks: Iterable[Any]) -> None:
        self.sock.sendall(b"".join(chunks))

    def send(self, *messages: Message) -> None:
        """Say all this with one write."""
        self.write([chunk for message in messages for chunk in self.connection.send(message)])

    def read(self) -> list[Message]:
        """What one read brings; nothing at the connection's end."""
        size = self.sock.recv_into(self.connection.get_buffer())
        messages = self.connection.received(size)
        if outgoing := self.connection.take_outgoing():
            self.write(outgoing)
        self.messages += messages
        return messages

    def next(self, kind: type[M], is_it: Callable[[M], bool] = lambda message: True) -> M:
        """Read up to such a message, which may have come already."""
        seen = 0
        while True:
            for message in self.messages[seen:]:
                if isinstance(message, kind) and is_it(message):
                    return message
            seen = len(self.messages)
            received = self.connection.received_bytes
            self.read()
            assert self.connection.received_bytes > received, "the connection has ended"

    def ended(self, batch: int) -> dict[int, Any]:
        """Read up to a batch's end: its answers by index, None for items that were skipped."""
        self.next(Parts, lambda parts: parts.batch == batch and parts.end is End.ENDED)
        told = [m for m in self.messages if isinstance(m, Parts) and m.batch == batch]
        return {index: answer(outcome) for parts in told for index, outcome in parts.parts}

    def warm_up(self, batch: int = 1000) -> None:
        """Let one batch through, after which the worker knows how long they take."""
        self.send(run(batch, 0))
        self.ended(batch)
        self.messages.clear()

    def kinds_written(self) -> list[list[str]]:
        """What the worker's writes held since the first that began with a `Started`."""
        reader = FrameReader(FrameLimits())
        kinds = [
            [Kind(frame.kind).name.lower() for frame in feed(reader, write)]
            for write in self._worker_socket.writes
        ]
        first = next(n for n, write in enumerate(kinds) if write[0] == "started")
        return kinds[first:]


def answer(outcome: Outcome | None) -> Any:
    """An answer's value, a failure's code, or None."""
    if outcome is None:
        return None
    return outcome.code if isinstance(outcome, Failure) else json.loads(outcome.body)


def run(batch: int, *numbers: int, left_s: Sequence[float] = ()) -> Run:
    """A batch of numbers."""
    json_type = "application/json"
    items = (
        (index, Payload(body=str(n).encode(), input_type=json_type, output_type=json_type))
        for index, n in enumerate(numbers)
    )
    return Run(batch, tuple(items), {i: left for i, left in enumerate(left_s) if left != NEVER})
