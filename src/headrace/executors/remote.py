"""Batches in workers of other hosts: they connect, prove themselves, say what they run, and leave."""

from __future__ import annotations

import asyncio
import itertools
import logging
import os
import socket
import ssl
from collections.abc import Callable, Sequence
from pathlib import Path

from ..batching import Batch
from ..card import ModelCard
from ..config import ServerSettings
from ..errors import ConfigError
from ..listener import bind_tcp
from ..wire import Cards, Connection, Family, Setup
from ..workers.sockets import notice_a_dead_link
from ..workers.start import MIN_SECRET_BYTES
from .base import Events, Loss, ReplicaStatus
from .process import NONCE_BYTES
from .socket import Metrics, Peer, SocketExecutor

HELLO_TIMEOUT_S = 1.0
"""What a connection gets to prove itself."""
MAX_STRANGERS = 64
"""Connections that have not proven themselves yet."""
DEFAULT_PORT = 7317

_log = logging.getLogger(__name__)


class RemoteExecutor(SocketExecutor):
    """Runs batches of one model in the workers that have connected with it.

    Args:
        model: Its name.
        metrics: Takes what the model counts in its workers.
    """

    def __init__(self, model: str, metrics: Metrics | None = None) -> None:
        super().__init__(metrics)
        self._model = model
        self._numbers = itertools.count()

    def open(self, events: Events) -> None:
        self._events = events

    def join_in(self, peer: Peer) -> None:
        """A worker of the model has come."""
        peer.owner, peer.replica, peer.events = self, next(self._numbers), self._events
        self.peers[peer.replica] = peer
        if self._events is not None:
            self._events.status(peer.replica, ReplicaStatus("starting", "loading"))

    def replace(self, replica: int) -> bool:
        """Its process is another host's to end; what it ran is run by others."""
        peer = self.peers.get(replica)
        if peer is not None:
            peer.abort()
        return True

    def close(self) -> None:
        self._events = None
        for peer in self.peers.values():
            peer.events = None
            peer.abort()

    def join(self, timeout_s: float) -> bool:
        return True

    # What the peers tell

    def carded(self, peer: Peer, cards: Cards) -> None:
        """It is what brought the worker here."""

    def is_ready(self, peer: Peer) -> None:
        if self._events is not None and peer.card is not None:
            self._events.ready(peer.replica, peer.card)

    def broken(self, peer: Peer, reason: str) -> None:
        if self._events is not None:
            self._events.unready(peer.replica, reason)

    def batch_ended(self, peer: Peer, batch: Batch) -> None:
        """Nothing to do: a worker of another host is not recycled from here."""

    def disconnected(self, peer: Peer, error: Exception | None) -> None:
        self._forget(peer)
        if self._events is None:
            return
        bye = peer.bye
        if bye is not None and not peer.batches:
            self._events.retired(peer.replica, "disconnected")
            return
        reason = "the connection was lost" if error is None else f"the connection was lost: {error}"
        _log.error("a worker left", extra={"model": self._model, "reason": reason})
        # The end of a process closes its connections; what fails otherwise is the network.
        is_network = isinstance(error, OSError) and not isinstance(error, ConnectionResetError)
        self._events.lost(peer.replica, Loss("disconnected", reason, is_outside=is_network))


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
        self._tls = _server_tls(workers.tls_cert, workers.tls_key)
        if self._tls is None and not workers.insecure and not _is_loopback(self._address[0]):
            raise ConfigError(
                "workers.listen: beyond loopback expected workers.tls_cert and workers.tls_key, or"
                " workers.insecure=true where the network is trusted"
            )
        self._settings = settings
        self._on_cards = on_cards
        self._strangers: dict[Peer, asyncio.TimerHandle] = {}
        self._listener: socket.socket | None = None
        self._task: asyncio.Task[asyncio.Server] | None = None
        self._server: asyncio.Server | None = None

    def bind(self) -> None:
        """Listen, so that a second server on the address fails at once.

        Raises:
            BindError: The address cannot be had.
        """
        self._listener = bind_tcp(*self._address)

    @property
    def address(self) -> tuple[str, int]:
        """Where it listens."""
        assert self._listener is not None
        name = self._listener.getsockname()
        return name[0], name[1]

    def open(self) -> None:
        """Begin to accept, on the running event loop."""
        loop = asyncio.get_running_loop()
        serving = loop.create_server(self._stranger, sock=self._listener, ssl=self._tls)
        self._task = loop.create_task(serving)
        self._task.add_done_callback(self._is_open)
        _log.info("workers may connect", extra={"address": "{}:{}".format(*self.address)})

    def close(self) -> None:
        """Accept no more."""
        if self._server is not None:
            self._server.close()
        elif self._listener is not None:
            self._listener.close()
        for peer in [*self._strangers]:
            peer.abort()

    def _is_open(self, task: asyncio.Task[asyncio.Server]) -> None:
        if not task.cancelled():
            self._server = task.result()

    def _stranger(self) -> Peer:
        """A connection has come in."""
        settings = self._settings
        connection = Connection(
            "front",
            secret=self._secret,
            nonce=os.urandom(NONCE_BYTES),
            setup=Setup(limits=settings.limits, batching=dict(settings.batching)),
        )
        peer = Peer(0, connection, self)
        timeout_s = HELLO_TIMEOUT_S if len(self._strangers) < MAX_STRANGERS else 0.0
        loop = asyncio.get_running_loop()
        self._strangers[peer] = loop.call_later(timeout_s, peer.abort)
        return peer

    # What the peers tell

    def proven(self, peer: Peer) -> None:
        self._strangers.pop(peer).cancel()
        peer.tune(notice_a_dead_link)

    def carded(self, peer: Peer, cards: Cards) -> None:
        self._on_cards(cards.cards[cards.serves]).join_in(peer)

    def is_ready(self, peer: Peer) -> None:
        """It cannot be before it has told its card."""

    def told_metrics(self, peer: Peer, families: Sequence[Family]) -> None:
        """Nor can it tell those."""

    def broken(self, peer: Peer, reason: str) -> None:
        """Nor can it find out."""

    def batch_ended(self, peer: Peer, batch: Batch) -> None:
        """Nor has it any."""

    def disconnected(self, peer: Peer, error: Exception | None) -> None:
        if (timer := self._strangers.pop(peer, None)) is not None:
            timer.cancel()


def parse_address(text: str, *, where: str) -> tuple[str, int]:
    """A host and a port.

    Raises:
        ConfigError: The text is no such.
    """
    host, colon, port = text.rpartition(":")
    if not colon:
        host, port = text, str(DEFAULT_PORT)
    if not host or not port.isdecimal() or int(port) > 65535:
        raise ConfigError(f"{where}: expected host:port, got {text!r:.64}")
    return host.strip("[]"), int(port)


def read_secret(file: str | None, *, where: str) -> bytes:
    """The secret that a front and its remote workers share.

    Raises:
        ConfigError: There is no such file, or it holds too little.
    """
    if file is None:
        raise ConfigError(f"{where}: expected a file that holds the shared secret, got none")
    try:
        secret = Path(file).read_bytes().strip()
    except OSError as error:
        raise ConfigError(f"{where}: {file}: {error.strerror}") from None
    if len(secret) < MIN_SECRET_BYTES:
        raise ConfigError(
            f"{where}: expected at least {MIN_SECRET_BYTES} bytes in {file}, got {len(secret)}"
        )
    return secret


def _server_tls(cert: str | None, key: str | None) -> ssl.SSLContext | None:
    if cert is None:
        return None
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    try:
        context.load_cert_chain(cert, key)
    except (OSError, ssl.SSLError) as error:
        raise ConfigError(f"workers.tls_cert: {cert}: {error}") from None
    return context


def _is_loopback(host: str) -> bool:
    return host in ("localhost", "::1") or host.startswith("127.")
