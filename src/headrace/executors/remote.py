"""Batches in workers of other hosts: they connect, prove themselves, tell a model, and leave."""

from __future__ import annotations

import asyncio
import itertools
import logging
import os
import socket
import ssl
from collections.abc import Callable, Sequence

from ..batching import Batch
from ..card import ModelCard
from ..clock import NEVER, Instant, system_clock
from ..config import ServerSettings
from ..errors import ConfigError
from ..listener import bind_tcp
from ..wire import NONCE_BYTES, Cards, Connection, Family, Setup
from ..workers.exits import Exit
from ..workers.sockets import REFUSED, notice_a_dead_link
from .base import Events, Loss, ReplicaStatus, items_of
from .restarts import ESTIMATE_FACTOR
from .socket import BROKEN, Metrics, Peer, SocketExecutor
from .trust import front_tls, parse_address, read_secret
from .verdict import set_aside

HELLO_TIMEOUT_S = 0.9
"""What a connection gets to prove itself, TLS included."""
MAX_STRANGERS = 64
"""Connections that have not proven themselves yet; further ones are closed at once."""
NOBODY = "no worker is connected"
RESTART_S = 3.0
ACCEPT_RETRY_S = 1.0
"""How long to leave connections alone for which there is no descriptor."""

DESCRIPTIVE = frozenset({"version", "description", "examples"})
"""What the cards of one model's workers may differ in."""
STOPPED = Exit.STOPPED.name.lower()
FAILED_START = frozenset({Exit.CONFIG.name.lower(), Exit.LOAD_FAILED.name.lower()})

_log = logging.getLogger(__name__)


class RemoteExecutor(SocketExecutor):
    """Runs batches of one model in the workers that have connected with it.

    A worker's number is the lowest that is free, so that there are never more numbers than there
    were workers at once.

    Args:
        model: Its name.
        metrics: Takes what the model counts in its workers.
        restart_s: What a worker's parent may take to start it again; loading comes on top.
    """

    def __init__(
        self, model: str, metrics: Metrics | None = None, restart_s: float = RESTART_S
    ) -> None:
        super().__init__(metrics)
        self._model = model
        self._restart_s = restart_s
        self._card: ModelCard | None = None
        self._dropped: dict[int, str] = {}
        self._joined_at: dict[int, Instant] = {}
        self._load_s = 0.0
        self._loop: asyncio.AbstractEventLoop | None = None
        self._timer: asyncio.TimerHandle | None = None

    def open(self, events: Events) -> None:
        self._events = events
        self._loop = asyncio.get_running_loop()

    def join_in(self, peer: Peer) -> None:
        """A worker of the model has come; it is turned away if its model is not the others'."""
        assert peer.card is not None
        self._card = self._card or peer.card
        if different := differences(self._card, peer.card):
            reason = f"its {self._model} is not that of the workers before: {', '.join(different)}"
            _log.error("a worker was refused", extra={"model": self._model, "reason": reason})
            peer.send_away(REFUSED, reason)
            return
        number = next(n for n in itertools.count() if n not in self.peers)
        peer.owner, peer.replica, peer.events = self, number, self._events
        self.peers[number] = peer
        self._joined_at[number] = system_clock()
        if self._events is not None:
            self._events.status(number, ReplicaStatus("starting", "loading"))
        _log.info("a worker joined", extra={"model": self._model, "replica": number})

    def replace(self, replica: int) -> bool:
        """What it ran goes to others at once; the worker ends itself."""
        self._drop(replica, "hung")
        return True

    def close(self) -> None:
        self._events = None
        if self._timer is not None:
            self._timer.cancel()
        for peer in self.peers.values():
            peer.events = None
            peer.abort()

    def join(self, timeout_s: float) -> bool:
        """Nothing to wait for: the processes are another host's."""
        return True

    # What the peers tell

    def carded(self, peer: Peer, cards: Cards) -> None:
        """It is what brought the worker here."""

    def is_ready(self, peer: Peer) -> None:
        load_s = system_clock() - self._joined_at.pop(peer.replica)
        self._load_s = max(self._load_s, load_s)
        if self._events is not None and peer.card is not None:
            self._events.ready(peer.replica, peer.card)

    def broken(self, peer: Peer, reason: str) -> None:
        if self._events is not None:
            self._events.unready(peer.replica, reason, system_clock() + self._return_s)

    def batch_ended(self, peer: Peer, batch: Batch) -> None:
        """Nothing to do: a worker of another host is not recycled from here."""

    def disconnected(self, peer: Peer, error: Exception | None) -> None:
        self._forget(peer)
        self._joined_at.pop(peer.replica, None)
        dropped_for = self._dropped.pop(peer.replica, "")
        events = self._events
        if events is None:
            return
        extra = {"model": self._model, "replica": peer.replica}
        if peer.bye is not None and peer.bye.code in FAILED_START:
            _log.error("a worker failed", extra=extra | {"reason": peer.bye.reason})
            events.start_failed(peer.replica, peer.bye.reason)
        elif peer.bye is not None and peer.bye.code == STOPPED and not peer.batches:
            _log.info("a worker left", extra=extra)
            events.retired(peer.replica, "disconnected")
            if not self.peers:
                events.status(0, ReplicaStatus("unready", NOBODY))
        else:
            loss = _loss(peer, error, dropped_for)
            _log.warning("a worker was lost", extra=extra | {"reason": loss.reason})
            is_expected = loss.cause == "broken" or (peer.bye is None and not _is_cut(error))
            back_at = system_clock() + self._return_s if is_expected else NEVER
            events.lost(peer.replica, loss, back_at)
            if is_expected:
                self._wait_for_return()

    # Within

    @property
    def _return_s(self) -> float:
        """When a worker whose process has ended should be ready again."""
        return self._restart_s + ESTIMATE_FACTOR * self._load_s

    def _wait_for_return(self) -> None:
        """Let what waits go on waiting for the worker that was lost last, but not for ever."""
        if self._timer is not None:
            self._timer.cancel()
        if self._loop is not None:
            self._timer = self._loop.call_later(self._return_s, self._should_be_back)

    def _should_be_back(self) -> None:
        self._timer = None
        if self._events is None:
            return
        if not self.peers:
            self._events.unready(0, NOBODY)
        elif len(self._joined_at) == len(self.peers):
            self._wait_for_return()  # they load

    def _drop(self, replica: int, cause: str) -> None:
        peer = self.peers.get(replica)
        if peer is not None:
            self._dropped[replica] = cause
            peer.abort()


def differences(card: ModelCard, other: ModelCard) -> list[str]:
    """In which fields two workers' cards differ that callers or batches depend on."""
    fields = (name for name in card.__struct_fields__ if name not in DESCRIPTIVE)
    return [name for name in fields if getattr(card, name) != getattr(other, name)]


def _loss(peer: Peer, error: Exception | None, dropped_for: str) -> Loss:
    """What a worker's end does to the items that it had."""
    # Nothing tells how far it was: each batch may have begun.
    batches = tuple(peer.batches.values())
    if dropped_for or peer.error is not None:
        suspects = items_of(batch for batch in batches if batch.started_at is not None)
        cause, reason = dropped_for, "a batch ran for longer than predict_timeout_s"
        if peer.error is not None:
            cause, reason = "protocol", "it broke the worker protocol"
        return Loss(cause, reason, suspects=suspects, begun=batches)
    if peer.bye is not None and peer.bye.code == BROKEN:
        return Loss("broken", peer.bye.reason, suspects=set_aside(peer.batches))
    if peer.bye is not None:
        # It has finished what it had begun.
        return Loss("disconnected", peer.bye.reason or "it has left", suspects=())
    # A crash looks from here as a kill, a restart of its host or a middlebox does.
    reason = "the connection was lost" if _is_cut(error) else "the worker ended its connection"
    return Loss("disconnected", reason, begun=batches, is_outside=True)


def _is_cut(error: Exception | None) -> bool:
    """Whether the network failed: the end of a process closes its connections."""
    return isinstance(error, OSError) and not isinstance(error, ConnectionError | ssl.SSLError)


class Gate:
    """Where workers of other hosts connect.

    Args:
        settings: Of the server.
        on_cards: Called when a worker has said which model it runs; gives its executor.

    Raises:
        ConfigError: The settings are not complete, or not safe.
    """

    def __init__(
        self, settings: ServerSettings, on_cards: Callable[[ModelCard], RemoteExecutor]
    ) -> None:
        workers = settings.workers
        if workers.listen is None:
            raise ConfigError("workers.listen: expected host:port with executor 'remote', got none")
        self._address = parse_address(workers.listen, where="workers.listen")
        self._secret = read_secret(workers.secret_file, where="workers.secret_file")
        self._tls = front_tls(self._address[0], workers)
        self._setup = Setup(limits=settings.limits, batching=dict(settings.batching))
        self._on_cards = on_cards
        self._strangers: dict[asyncio.Task[None], Peer] = {}
        self._proofs: dict[Peer, asyncio.Future[bool]] = {}
        self._guests: set[Peer] = set()
        self._listener: socket.socket | None = None
        self._loop: asyncio.AbstractEventLoop | None = None

    def bind(self) -> None:
        """Listen, so that a second server on the address fails at once.

        Raises:
            BindError: The address cannot be had.
        """
        self._listener = bind_tcp(*self._address)
        self._listener.setblocking(False)

    @property
    def address(self) -> tuple[str, int]:
        """Where it listens."""
        assert self._listener is not None
        name = self._listener.getsockname()
        return name[0], name[1]

    def open(self) -> None:
        """Begin to accept, on the running event loop."""
        self._loop = asyncio.get_running_loop()
        self._listen()
        _log.info("workers may connect", extra={"address": "{}:{}".format(*self.address)})

    def close(self) -> None:
        """Accept no more, and send away whoever has not told a model."""
        listener, self._listener = self._listener, None
        if listener is None:
            return
        if self._loop is not None:
            self._loop.remove_reader(listener)
        listener.close()
        for task in self._strangers:
            task.cancel()
        for peer in self._guests:
            peer.abort()

    # Strangers

    def _listen(self) -> None:
        if self._listener is not None and self._loop is not None:
            self._loop.add_reader(self._listener, self._accept)

    def _accept(self) -> None:
        assert self._listener is not None and self._loop is not None
        try:
            sock, _ = self._listener.accept()
        except (BlockingIOError, InterruptedError, ConnectionAbortedError):
            return
        except OSError as error:
            _log.error("a connection cannot be accepted", extra={"reason": str(error)})
            self._loop.remove_reader(self._listener)
            self._loop.call_later(ACCEPT_RETRY_S, self._listen)
            return
        if len(self._strangers) >= MAX_STRANGERS:
            sock.close()
            return
        peer = self._make_peer()
        task = self._loop.create_task(self._receive(sock, peer))
        self._strangers[task] = peer
        task.add_done_callback(self._strangers.pop)

    def _make_peer(self) -> Peer:
        nonce = os.urandom(NONCE_BYTES)
        return Peer(
            0, Connection("front", secret=self._secret, nonce=nonce, setup=self._setup), self
        )

    async def _receive(self, sock: socket.socket, peer: Peer) -> None:
        """Give a connection its time to prove itself."""
        loop = asyncio.get_running_loop()
        proof = self._proofs[peer] = loop.create_future()
        is_proven = False
        try:
            async with asyncio.timeout(HELLO_TIMEOUT_S):
                sock.setblocking(False)
                notice_a_dead_link(sock)
                await loop.connect_accepted_socket(lambda: peer, sock, ssl=self._tls)
                is_proven = await proof
        except (OSError, TimeoutError) as error:
            # Not a warning: anybody can make as many of these as he likes.
            _log.debug("a connection was refused", extra={"reason": repr(error)})
        finally:
            del self._proofs[peer]
            if not is_proven:
                peer.abort()
                sock.close()

    # What the peers tell

    def proven(self, peer: Peer) -> None:
        self._guests.add(peer)
        if (proof := self._proofs.get(peer)) is not None and not proof.done():
            proof.set_result(True)

    def carded(self, peer: Peer, cards: Cards) -> None:
        self._guests.discard(peer)
        self._on_cards(cards.cards[cards.serves]).join_in(peer)

    def is_ready(self, peer: Peer) -> None:
        """One that was refused may say so; it has been told by then."""

    def told_metrics(self, peer: Peer, families: Sequence[Family]) -> None:
        """As `is_ready`."""

    def broken(self, peer: Peer, reason: str) -> None:
        """It cannot find out before it has a batch."""

    def batch_ended(self, peer: Peer, batch: Batch) -> None:
        """Nor has it any."""

    def disconnected(self, peer: Peer, error: Exception | None) -> None:
        self._guests.discard(peer)
        if (proof := self._proofs.get(peer)) is not None and not proof.done():
            proof.set_result(False)
        if peer.bye is not None and peer.bye.code in FAILED_START:
            _log.error("a worker failed", extra={"reason": peer.bye.reason})
