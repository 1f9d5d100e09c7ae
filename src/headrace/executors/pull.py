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
from ..jobs import JobFrames, JobResults, read_results, write_jobs
from .base import Events, Loss, ReplicaStatus, wanted

ALWAYS: Instant = 0.0
"""When a worker is expected back: jobs wait for one as long as they may."""
NOBODY = "no worker is connected"
INVALID_STATUS = 422
FAILED_STATUS = 500

_log = logging.getLogger(__name__)


class PullExecutor:
    """Runs batches in whatever workers are connected.

    Args:
        card: Of the service: workers bring none.
        listener: Where workers connect; closed with the executor.
        max_results_bytes: The longest answer to a batch.
    """

    def __init__(self, card: ModelCard, listener: socket.socket, max_results_bytes: int) -> None:
        self._card = card
        self._listener = listener
        self._max_results_bytes = max_results_bytes
        self._events: Events | None = None
        self._pullers: dict[int, Puller] = {}
        self._connected: set[Puller] = set()
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

    def connected(self, puller: Puller) -> None:
        """A connection was made."""
        self._connected.add(puller)

    def asks(self, puller: Puller) -> None:
        """A worker asks for its first batch."""
        events = self._events
        if events is None:
            return
        puller.replica = next(n for n in itertools.count() if n not in self._pullers)
        self._pullers[puller.replica] = puller
        _log.info("a worker joined", extra={"replica": puller.replica})
        events.ready(puller.replica, self._card)

    def gone(self, puller: Puller, loss: Loss) -> None:
        """A connection is over."""
        self._connected.discard(puller)
        if self._pullers.get(puller.replica) is not puller:
            return  # it never asked
        del self._pullers[puller.replica]
        if self._events is None:
            return
        if puller.batches:
            _log.warning(
                "a worker was lost", extra={"replica": puller.replica, "reason": loss.reason}
            )
            self._events.lost(puller.replica, loss, ALWAYS)
        else:
            _log.info("a worker left", extra={"replica": puller.replica})
            self._events.retired(puller.replica, loss.cause)
        if not self._pullers:
            self._events.expected(ALWAYS)
            self._events.status(0, ReplicaStatus("unready", NOBODY))

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
        batches: What it has or is to get, in order; the first is with the worker.

    Args:
        owner: The executor.
        max_results_bytes: The longest answer to a batch.
    """

    def __init__(self, owner: PullExecutor, max_results_bytes: int) -> None:
        self.replica = -1
        self.batches: deque[Batch] = deque()
        self._owner = owner
        self._frames = JobFrames(max_results_bytes)
        self._transport: asyncio.Transport | None = None
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
        self._owner.connected(self)

    def data_received(self, data: bytes) -> None:
        if self._dropped is not None:
            return
        try:
            for message in self._frames.feed(data):
                self._take_message(message)
        except ProtocolError as error:
            _log.warning("a worker broke the protocol", extra={"reason": error.message})
            self.drop("protocol", error.message)

    def connection_lost(self, exc: Exception | None) -> None:
        self._transport = None
        running = tuple(itertools.islice(self.batches, 1)) if self._sent else ()
        if self._dropped is not None:
            cause, reason = self._dropped
            suspects = tuple((batch, i) for batch in running for i in range(len(batch.items)))
            loss = Loss(cause, reason, suspects=suspects, begun=running)
        else:
            # A crash looks from here as a restart of the worker does.
            reason = "the connection was lost" if exc else "the worker ended its connection"
            loss = Loss("disconnected", reason, begun=running, is_outside=True)
        self._owner.gone(self, loss)

    # Within

    def _send(self) -> None:
        """Send the first batch, or pass over what nobody wants any more."""
        events = self._owner.events
        while self.batches and self._transport is not None and events is not None:
            batch = self.batches[0]
            items = wanted(batch)
            if items:
                self._sent = {self._owner.next_id(): item for item in items}
                # In one call: the original's workers read a message with one.
                self._transport.write(
                    write_jobs({job: payload.body for job, (_, payload) in self._sent.items()})
                )
                events.started(batch)
                return
            self.batches.popleft()
            events.ended(batch)

    def _take_message(self, message: bytes) -> None:
        if self.replica < 0:
            if message:
                raise _unasked(f"a first message of {len(message)} bytes, expected an empty one")
            self._owner.asks(self)
        elif self._sent:
            self._take_results(read_results(message, self._sent))
        elif message:
            raise _unasked("results, but there was no batch")

    def _take_results(self, results: JobResults) -> None:
        batch = self.batches.popleft()
        sent, self._sent = self._sent, {}
        events = self._owner.events
        if events is None:
            return
        for job, (index, payload) in sent.items():
            events.part(batch, index, _outcome(job, payload, results), True)
        events.ended(batch)
        self._send()


def _outcome(job: str, payload: Payload, results: JobResults) -> Outcome:
    status = 200
    if job in results.errors:
        status = FAILED_STATUS if job in results.failed else INVALID_STATUS
    return Value(results.bodies[job], payload.output_type, status)


def _unasked(found: str) -> ProtocolError:
    return ProtocolError(f"the batching protocol was broken: got {found}", side="remote")
