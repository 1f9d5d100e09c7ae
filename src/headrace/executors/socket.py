"""Batches in workers behind sockets: what those of this machine and of others have in common."""

from __future__ import annotations

import asyncio
import itertools
import logging
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, Protocol

from ..batching import Batch
from ..card import ModelCard
from ..clock import NEVER, Clock, remaining_s, system_clock
from ..errors import ProtocolError
from ..wire import (
    Ask,
    Bye,
    Cancel,
    Cards,
    Connection,
    Drain,
    End,
    Family,
    Hello,
    Message,
    Parts,
    Ready,
    Run,
    Started,
    Stats,
)
from ..workers.exits import Exit
from .base import Events, wanted

BROKEN = Exit.BROKEN.name.lower()
MAX_UNASKED = 8
"""Messages of a worker that nothing asked for: its last statistics, before it leaves, are."""

_log = logging.getLogger(__name__)


class Owner(Protocol):
    """Whom a peer tells of its worker; on the event loop's thread."""

    def carded(self, peer: Peer, cards: Cards) -> None:
        """The worker has imported its target."""

    def proven(self, peer: Peer) -> None:
        """The other end knows the secret."""

    def is_ready(self, peer: Peer) -> None:
        """The worker takes batches."""

    def told_metrics(self, peer: Peer, families: Sequence[Family]) -> None:
        """The worker has told the model's own metrics."""

    def broken(self, peer: Peer, reason: str) -> None:
        """The worker fails on its own example, and ends."""

    def batch_ended(self, peer: Peer, batch: Batch) -> None:
        """The worker is done with a batch, which the engine knows already."""

    def disconnected(self, peer: Peer, error: Exception | None) -> None:
        """The connection is over, and all that came by it has been taken."""


class Metrics(Protocol):
    """Where the metrics that models register in their workers come together."""

    def update(self, replica: str, life: int, families: Sequence[Family]) -> None:
        """What one worker tells now."""

    def ended(self, life: int) -> None:
        """A worker will tell no more."""


class Usage(NamedTuple):
    """What workers have done, in total.

    Attributes:
        busy_s: Time with at least one batch, of each worker.
        sent_bytes: On their connections.
        received_bytes: On their connections.
    """

    busy_s: float = 0.0
    sent_bytes: int = 0
    received_bytes: int = 0

    def plus(self, other: Usage) -> Usage:
        """Both together."""
        return Usage(
            self.busy_s + other.busy_s,
            self.sent_bytes + other.sent_bytes,
            self.received_bytes + other.received_bytes,
        )


class Peer(asyncio.BufferedProtocol):
    """One worker's connection, on the event loop.

    Attributes:
        life: Unlike any other peer's.
        replica: The number that the engine knows the worker by.
        owner: Told of what is not the engine's matter.
        events: The engine, once there is one.
        batches: What the worker has, in the order in which it got it.
        bye: What it said last.
        card: Of the model that it runs.
        error: The rule of the protocol that it broke.
        is_proven: Whether it has shown that it knows the secret.

    Args:
        replica: Its number.
        connection: The protocol's state.
        owner: Told of what is not the engine's matter.
        clock: The engine's.
    """

    _lives = itertools.count()

    def __init__(
        self, replica: int, connection: Connection, owner: Owner, clock: Clock = system_clock
    ) -> None:
        self.life = next(self._lives)
        self.replica = replica
        self.owner = owner
        self.events: Events | None = None
        self.batches: dict[int, Batch] = {}
        self.bye: Bye | None = None
        self.card: ModelCard | None = None
        self.error: ProtocolError | None = None
        self.is_proven = False
        self._connection = connection
        self._clock = clock
        self._transport: asyncio.Transport | None = None
        self._busy_s = 0.0
        self._busy_since = clock()
        self._asked: asyncio.Future[None] | None = None
        self._unasked = 0

    # For the executor

    @property
    def usage(self) -> Usage:
        """What the worker has done by now."""
        running_s = self._clock() - self._busy_since if self.batches else 0.0
        connection = self._connection
        return Usage(self._busy_s + running_s, connection.sent_bytes, connection.received_bytes)

    def run(self, batch: Batch) -> None:
        """Give the worker a batch."""
        now = self._clock()
        items = wanted(batch)
        # First: what cannot be sent is not the worker's.
        self._send(Run(batch.id, items, _left_s(batch, now)))
        if not self.batches:
            self._busy_since = now
        self.batches[batch.id] = batch

    def cancel(self, batch: Batch, index: int) -> None:
        """Nobody wants this item."""
        if batch.id in self.batches:
            self._send(Cancel(batch.id, index))

    def drain(self) -> None:
        """Let the worker finish what it has, and stop."""
        self._send(Drain())

    def send_away(self, code: str, reason: str) -> None:
        """Say bye, and end the connection behind what was said."""
        self._send(Bye(code, reason))
        if self._transport is not None:
            self._transport.close()

    @property
    def is_known(self) -> bool:
        """Whether the worker has told its card, and is still there."""
        return self.card is not None and self._transport is not None and self.error is None

    def ask(self) -> asyncio.Future[None]:
        """Ask for the model's own metrics; done when the owner was told, or nobody will be."""
        if self._asked is None:  # one answer is enough for all who ask before it comes
            self._asked = asyncio.get_running_loop().create_future()
            self._send(Ask())
        return self._asked

    def tune(self, options: Callable[[Any], None]) -> None:
        """Set options of the connection's socket."""
        if self._transport is not None:
            options(self._transport.get_extra_info("socket"))

    def abort(self) -> None:
        """Drop the connection."""
        if self._transport is not None:
            self._transport.abort()

    # For the transport

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport  # type: ignore[assignment]  # uvloop's are no subclass
        self._write(self._connection.opening())

    def get_buffer(self, sizehint: int) -> Any:
        return self._connection.get_buffer()

    def buffer_updated(self, nbytes: int) -> None:
        try:
            messages = self._connection.received(nbytes)
            self._write(self._connection.take_outgoing())
            for message in messages:
                self._hand_on(message)
        except ProtocolError as error:
            self.error = error
            # Anybody who finds a gate can do so; only a worker's breach is an error.
            level = logging.ERROR if self.is_proven else logging.DEBUG
            _log.log(level, "a worker broke the protocol", extra={"reason": error.message})
            self.abort()

    def connection_lost(self, exc: Exception | None) -> None:
        self._transport = None
        self._has_told_metrics()
        self.owner.disconnected(self, exc)

    # Within

    def _has_told_metrics(self) -> None:
        asked, self._asked = self._asked, None
        if asked is not None and not asked.done():
            asked.set_result(None)

    def _send(self, message: Message) -> None:
        if self._transport is not None and self.error is None:
            self._write(self._connection.send(message))

    def _write(self, chunks: Sequence[Any]) -> None:
        if self._transport is None or not chunks:
            return
        if len(chunks) == 1:
            self._transport.write(chunks[0])
        else:
            self._transport.writelines(chunks)

    def _hand_on(self, message: Message) -> None:
        try:
            self._take(message)
        except ProtocolError as error:
            if error.side == "remote":
                raise
            # What it led to could not be sent, perhaps to another: no breach of this worker's.
            _log.exception("a message to a worker could not be sent")

    def _take(self, message: Message) -> None:
        if isinstance(message, Parts):
            self._take_parts(message)
        elif isinstance(message, Started):
            if self.events is not None:
                self.events.started(self.batches[message.batch])
        elif isinstance(message, Hello):
            self.is_proven = True
            self.owner.proven(self)
        elif isinstance(message, Cards):
            self.card = message.cards[message.serves]
            self.owner.carded(self, message)
        elif isinstance(message, Ready):
            self.owner.is_ready(self)
        elif isinstance(message, Stats):
            self._note_unasked(self._asked is None)
            self.owner.told_metrics(self, message.families)
            self._has_told_metrics()
        elif isinstance(message, Bye):
            self.bye = message
            if message.code == BROKEN:
                self.owner.broken(self, f"broken: {message.reason}")

    def _note_unasked(self, is_unasked: bool) -> None:
        """Count what nobody needs: a worker that goes on with it would keep this side busy."""
        if is_unasked:
            self._unasked += 1
            if self._unasked > MAX_UNASKED:
                raise ProtocolError("it says what it was not asked for", side="remote")

    def _take_parts(self, message: Parts) -> None:
        """Answers of a batch; the connection has made sure that it and its items are ours."""
        batch, events = self.batches[message.batch], self.events
        self._note_unasked(not message.parts and message.end is End.OPEN)
        has_ended = message.end is End.ENDED
        if has_ended:
            del self.batches[message.batch]
            if not self.batches:
                self._busy_s += self._clock() - self._busy_since
        if events is None:
            return
        # An item that nobody wanted any more has no outcome.
        if message.more:
            for place, (index, outcome) in enumerate(message.parts):
                if outcome is not None:
                    events.part(batch, index, outcome, place not in message.more)
        else:
            told = [(index, outcome) for index, outcome in message.parts if outcome is not None]
            events.parts(batch, told)
        if has_ended:
            events.ended(batch)
            self.owner.batch_ended(self, batch)
        elif message.end is End.SET_ASIDE:
            events.set_aside(batch)


class SocketExecutor:
    """The part of an executor that is the same wherever the workers are.

    Attributes:
        peers: Those of the workers by number, from their start to their end.

    Args:
        metrics: Takes what models count in their workers; default nobody.
    """

    def __init__(self, metrics: Metrics | None = None) -> None:
        self.peers: dict[int, Peer] = {}
        self._metrics = metrics
        self._events: Events | None = None
        self._past = Usage()

    def start(self, batch: Batch) -> None:
        self.peers[batch.replica].run(batch)

    def cancel(self, batch: Batch, index: int) -> None:
        peer = self.peers.get(batch.replica)
        if peer is not None:
            peer.cancel(batch, index)

    @property
    def usage(self) -> Usage:
        """What all workers, past and present, have done."""
        total = self._past
        for peer in self.peers.values():
            total = total.plus(peer.usage)
        return total

    async def refresh(self, timeout_s: float) -> None:
        """Ask the workers for their models' own metrics; who is late is not waited for."""
        asked = [peer.ask() for peer in self.peers.values() if peer.is_known]
        if asked:
            await asyncio.wait(asked, timeout=timeout_s)

    # For the peers

    def proven(self, peer: Peer) -> None:
        """That it knows the secret is enough to go on."""

    def told_metrics(self, peer: Peer, families: Sequence[Family]) -> None:
        if self._metrics is not None and peer.card is not None:
            self._metrics.update(f"{peer.card.name}/{peer.replica}", peer.life, families)

    # Within

    def _forget(self, peer: Peer) -> None:
        self._past = self._past.plus(peer.usage)
        self.peers.pop(peer.replica, None)
        if self._metrics is not None:
            self._metrics.ended(peer.life)


def _left_s(batch: Batch, now: float) -> dict[int, float]:
    """What is left to the items that have a deadline."""
    return {
        index: remaining_s(item.deadline, now)
        for index, item in enumerate(batch.items)
        if item.deadline != NEVER
    }
