"""Batches in workers that speak the batching protocol: they connect, ask for work, and answer.

A worker says nothing of its model, of how far it is, or of why it goes; see `headrace.jobs`.
"""

from __future__ import annotations

import asyncio
import itertools
import logging
import socket
import uuid
from collections import deque

from ..batching import Batch
from ..call import Outcome, Payload, Value
from ..card import ModelCard
from ..clock import Instant
from ..errors import ProtocolError
from ..jobs import ASK, LENGTH_BYTES, JobFrames, JobResults, read_results, write_jobs
from ..model import Model
from ..workers.sockets import notice_a_dead_link
from .base import Events, Loss, ReplicaStatus, items_of, wanted

ALWAYS: Instant = 0.0
"""When a worker is expected back: jobs wait for one as long as they may."""
NOBODY = "no worker is connected"
ASK_TIMEOUT_S = 10.0
MAX_STRANGERS = 64
"""Connections that have not asked yet; further ones are closed at once."""
JOB_OVERHEAD_BYTES = 43
"""What a job adds to a batch's message besides its body: an id, and the lengths of both."""
INVALID_STATUS = 422
FAILED_STATUS = 500

_log = logging.getLogger(__name__)


class JobSizes(Model):
    """What a job adds to the bytes of a batch's message."""

    def cost(self, payload: Payload) -> float:
        return len(payload.body) + JOB_OVERHEAD_BYTES


class PullExecutor:
    """Runs batches in whatever workers are connected.

    Args:
        card: Of the service: workers bring none.
        listener: Where workers connect; closed with the executor.
        max_results_bytes: The longest answer to a batch.
        ask_timeout_s: What a connection gets to ask for work.
    """

    def __init__(
        self,
        card: ModelCard,
        listener: socket.socket,
        max_results_bytes: int,
        ask_timeout_s: float = ASK_TIMEOUT_S,
    ) -> None:
        self.ask_timeout_s = ask_timeout_s
        self._card = card
        self._listener = listener
        self._max_results_bytes = max_results_bytes
        self._events: Events | None = None
        self._pullers: dict[int, Puller] = {}
        self._connected: set[Puller] = set()
        self._strangers = 0
        self._server: asyncio.Server | None = None
        self._opening: asyncio.Task[None] | None = None
        self._ids = itertools.count()
        self._id_prefix = str(uuid.uuid4())[:-12]

    def open(self, events: Events) -> None:
        self._events = events
        events.status(0, ReplicaStatus("unready", NOBODY))
        events.expected(ALWAYS)
        self._opening = asyncio.get_running_loop().create_task(self._listen())

    def start(self, batch: Batch) -> None:
        self._pullers[batch.replica].take(batch)

    def cancel(self, batch: Batch, index: int) -> None:
        """Nothing to do: the item's own state is looked at before it is sent."""

    def replace(self, replica: int) -> bool:
        """Another worker is for whoever runs the workers; this one's connection ends."""
        self._pullers[replica].drop("hung", "a batch ran for longer than predict_timeout_s")
        return True

    def close(self) -> None:
        self._events = None
        if self._opening is not None:
            self._opening.cancel()
        if self._server is not None:
            self._server.close()
        self._listener.close()
        for puller in self._connected:
            puller.close()

    def join(self, timeout_s: float) -> bool:
        """Nothing to wait for: the processes are somebody else's."""
        return True

    # For the pullers

    def connected(self, puller: Puller) -> bool:
        """A connection was made; whether it may stay."""
        if self._events is None or self._strangers >= MAX_STRANGERS:
            return False
        self._strangers += 1
        self._connected.add(puller)
        return True

    def asks(self, puller: Puller) -> None:
        """A worker asks for its first batch."""
        events = self._events
        if events is None:
            return
        self._strangers -= 1
        puller.replica = next(n for n in itertools.count() if n not in self._pullers)
        self._pullers[puller.replica] = puller
        _log.info("a worker joined", extra={"replica": puller.replica})
        events.ready(puller.replica, self._card)

    def gone(self, puller: Puller, loss: Loss) -> None:
        """A connection is over."""
        if puller not in self._connected:
            return
        self._connected.discard(puller)
        if puller.replica < 0:
            self._strangers -= 1
            return
        del self._pullers[puller.replica]
        events = self._events
        if events is None:
            return
        if puller.batches:
            _log.warning(
                "a worker was lost", extra={"replica": puller.replica, "reason": loss.reason}
            )
        else:
            _log.info("a worker left", extra={"replica": puller.replica})
        if puller.batches or not self._pullers:
            # Even if it had nothing: who retires is not expected back, and what waits would fail.
            events.lost(puller.replica, loss, ALWAYS)
        else:
            events.retired(puller.replica, loss.cause)
        if not self._pullers:
            events.status(0, ReplicaStatus("unready", NOBODY))

    @property
    def events(self) -> Events | None:
        """The engine, while it wants to hear."""
        return self._events

    def next_id(self) -> str:
        """A job id that was not used before."""
        return f"{self._id_prefix}{next(self._ids):012x}"

    async def _listen(self) -> None:
        loop = asyncio.get_running_loop()

        def puller() -> Puller:
            return Puller(self, self._max_results_bytes)

        if self._listener.family == socket.AF_UNIX:
            self._server = await loop.create_unix_server(puller, sock=self._listener)
        else:
            self._server = await loop.create_server(puller, sock=self._listener)


class Puller(asyncio.Protocol):
    """One worker's connection.

    Attributes:
        replica: The number that the engine knows the worker by; -1 before it asked for work.
        batches: What it has or is to get, in order; the first may be with the worker.

    Args:
        owner: The executor.
        max_results_bytes: The longest answer to a batch.
    """

    def __init__(self, owner: PullExecutor, max_results_bytes: int) -> None:
        self.replica = -1
        self.batches: deque[Batch] = deque()
        self._owner = owner
        self._opening = b""
        self._frames = JobFrames(max_results_bytes)
        self._transport: asyncio.Transport | None = None
        self._tcp: socket.socket | None = None
        self._patience: asyncio.TimerHandle | None = None
        self._sent: dict[str, tuple[int, Payload]] = {}
        self._dropped: tuple[str, str] | None = None

    def take(self, batch: Batch) -> None:
        """Send a batch, once those before it are answered."""
        self.batches.append(batch)
        if len(self.batches) == 1:
            # Not within the engine's own call.
            asyncio.get_running_loop().call_soon(self._send)

    def drop(self, cause: str, reason: str) -> None:
        """End the connection, and blame what runs for it."""
        self._dropped = cause, reason
        if self._transport is not None:
            self._transport.abort()

    def close(self) -> None:
        """End the connection."""
        if self._transport is not None:
            self._transport.close()

    # For the transport

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport  # type: ignore[assignment]  # uvloop's are no subclass
        if not self._owner.connected(self):
            self.drop("protocol", "too many connections that do not ask for work")
            return
        loop = asyncio.get_running_loop()
        self._patience = loop.call_later(self._owner.ask_timeout_s, self._never_asked)
        sock = transport.get_extra_info("socket")
        if sock.family != socket.AF_UNIX:
            self._tcp = sock
            notice_a_dead_link(sock)

    def data_received(self, data: bytes) -> None:
        if self._dropped is not None:
            return
        try:
            self._take_bytes(data)
        except ProtocolError as error:
            # Anybody who finds the socket can do so; only a worker's breach is worth a warning.
            level = logging.DEBUG if self.replica < 0 else logging.WARNING
            _log.log(level, "a worker broke the protocol", extra={"reason": error.message})
            self.drop("protocol", error.message)

    def connection_lost(self, exc: Exception | None) -> None:
        self._transport = self._tcp = None
        if self._patience is not None:
            self._patience.cancel()
        running = tuple(itertools.islice(self.batches, 1)) if self._sent else ()
        if self._dropped is not None:
            cause, reason = self._dropped
            loss = Loss(cause, reason, suspects=items_of(running), begun=running)
        else:
            # A crash looks from here as a restart of the worker does.
            reason = "the connection was lost" if exc else "the worker ended its connection"
            loss = Loss("disconnected", reason, begun=running, is_outside=True)
        self._owner.gone(self, loss)

    # Within

    def _never_asked(self) -> None:
        self.drop("protocol", "it did not ask for work")

    def _take_bytes(self, data: bytes) -> None:
        if self.replica < 0:
            # Of somebody unknown no more is kept than a worker would have sent.
            opening = self._opening + data
            if not ASK.startswith(opening[:LENGTH_BYTES]):
                raise _unexpected(f"{opening[:LENGTH_BYTES]!r}, expected a request for work")
            if len(opening) < LENGTH_BYTES:
                self._opening = opening
                return
            if self._patience is not None:
                self._patience.cancel()
            self._owner.asks(self)
            data = opening[LENGTH_BYTES:]
        while messages := self._frames.feed(data):
            for message in messages:
                # An empty message asks for work, which is known already.
                if message:
                    self._take_message(message)
            data = b""  # what is wrong behind them is told now: their answers were right
        if self._tcp is not None and not self._frames.is_between:
            # A worker that sends the length by itself holds the rest back until that is
            # acknowledged, which a system puts off by 40 ms unless it is told not to.
            self._tcp.setsockopt(socket.IPPROTO_TCP, socket.TCP_QUICKACK, 1)

    def _take_message(self, message: bytes) -> None:
        if not self._sent:
            raise _unexpected("results, but there was no batch")
        results = read_results(message, self._sent)
        batch = self.batches.popleft()
        sent, self._sent = self._sent, {}
        # First: the worker need not wait while the answers are written.
        self._send()
        events = self._owner.events
        if events is None:
            return
        for job, (index, payload) in sent.items():
            events.part(batch, index, _outcome(job, payload, results), True)
        events.ended(batch)

    def _send(self) -> None:
        """Send the first batch unless it is sent, or pass over what nobody wants any more."""
        events = self._owner.events
        while self.batches and not self._sent and self._transport is not None and events:
            batch = self.batches[0]
            if items := wanted(batch):
                self._sent = {self._owner.next_id(): item for item in items}
                # In one call: the original's workers read a message with one.
                self._transport.write(
                    write_jobs({job: payload.body for job, (_, payload) in self._sent.items()})
                )
                events.started(batch)
            else:
                self.batches.popleft()
                events.ended(batch)


def _outcome(job: str, payload: Payload, results: JobResults) -> Outcome:
    status = 200
    if job in results.errors:
        status = FAILED_STATUS if job in results.failed else INVALID_STATUS
    return Value(results.bodies[job], payload.output_type, status)


def _unexpected(found: str) -> ProtocolError:
    return ProtocolError(f"the batching protocol was broken: got {found}", side="remote")
