"""A worker in the test's own process: it proves itself as a real one does, and then misbehaves."""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from typing import Any

from headrace.call import Value
from headrace.card import ModelCard
from headrace.config import Limits
from headrace.replica import Replica
from headrace.wire import Cards, Connection, End, Message, Parts, Ready, Run, Welcome, encode
from tests.e2e.remote_models import Double

WAIT_S = 20.0
JSON = "application/json"


def card() -> ModelCard:
    """That of the healthy workers' model."""
    return Replica(Double(), Limits()).card


def answers(run: Run, value: bytes = b'"not yours"') -> Parts:
    """An answer to every item of a batch."""
    return Parts(run.batch, [(index, Value(value, JSON)) for index, _ in run.items], End.ENDED)


class FakeWorker:
    """One connection with a front.

    Args:
        address: Where the front lets workers in.
        secret: What it is to prove.
    """

    def __init__(self, address: tuple[str, int], secret: bytes) -> None:
        self.socket = socket.create_connection(address, timeout=WAIT_S)
        self.connection = Connection("worker", secret=secret, nonce=os.urandom(32))
        self._heard: list[Message] = []
        self.hello = b""

    def __enter__(self) -> FakeWorker:
        return self

    def __exit__(self, *_: object) -> None:
        self.socket.close()

    def greet(self) -> FakeWorker:
        """Prove itself, and see that the front is one."""
        self.hear(Welcome)
        return self

    def join(self) -> FakeWorker:
        """Tell a model, and that it is ready."""
        self.greet()
        self.say(Cards((card(),), 0))
        self.say(Ready())
        return self

    def hear(self, kind: type[Message]) -> Any:
        """Wait for a message of a kind; others are passed over."""
        while True:
            for message in self._messages():
                if isinstance(message, kind):
                    return message

    def say(self, message: Message) -> None:
        """What a worker may say."""
        self.socket.sendall(b"".join(self.connection.send(message)))

    def say_anyway(self, message: Message) -> None:
        """What it may not."""
        self.socket.sendall(b"".join(encode(message)))

    def is_dropped_within(self, seconds: float) -> bool:
        """Whether the front ends the connection; what it still says is passed over."""
        ends = time.monotonic() + seconds
        while (left_s := ends - time.monotonic()) > 0:
            self.socket.settimeout(left_s)
            with suppress(TimeoutError):
                try:
                    if not self.socket.recv(1 << 16):
                        return True
                except ConnectionError:
                    return True
        return False

    def _messages(self) -> Iterator[Message]:
        while not self._heard:
            buffer = self.connection.get_buffer()
            size = self.socket.recv_into(buffer)
            if not size:
                raise ConnectionError("the front has ended the connection")
            self._heard = self.connection.received(size)
            if outgoing := b"".join(self.connection.take_outgoing()):
                self.hello = self.hello or outgoing
                self.socket.sendall(outgoing)
        while self._heard:
            yield self._heard.pop(0)


Breach = Callable[[FakeWorker, Run], None]
Breaches = dict[str, Breach]


def says(*messages: Callable[[Run], Message]) -> Breach:
    """To say something that a worker may not, whatever its own end thinks of it."""

    def breach(fake: FakeWorker, run: Run) -> None:
        for message in messages:
            fake.say_anyway(message(run))

    return breach


def parts(
    run: Run, *, batch: int = 0, indexes: Sequence[int] | None = None, end: End = End.ENDED
) -> Parts:
    """Answers to items by their index, of a batch that is so much further on."""
    own = [index for index, _ in run.items]
    named = own if indexes is None else indexes
    return Parts(run.batch + batch, [(index, Value(b"-1", JSON)) for index in named], end)
