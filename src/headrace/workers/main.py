"""A worker's life: connect, prove itself, import the target, load, serve, stop."""

from __future__ import annotations

import logging
import os
import socket
import ssl
import sys
import time
from typing import Any

from .. import logs
from ..errors import ConfigError, ProtocolError, ReplicaStartFailed
from ..lane import Lane
from ..metrics.snapshot import snapshot
from ..model import Model
from ..replica import Replica
from ..targets import load_target, models_of
from ..wire import Bye, Cards, Connection, Ready, Setup, Stats, Welcome
from .channel import Channel
from .exits import Exit
from .loop import Broken, Job, Loop
from .mark import Mark, create_memory
from .process import take_over
from .resources import DEVICE_VARIABLE, devices_of
from .sockets import notice_a_dead_link
from .start import Start

NONCE_BYTES = 32
MAX_REASON = 2000
CONNECT_TIMEOUT_S = 10.0
FIRST_RETRY_S = 0.1
LAST_RETRY_S = 5.0
"""A worker that has lost its front tries again after the first, doubled up to the last."""

_log = logging.getLogger("headrace.worker")


def main() -> None:
    """Run the worker that the environment describes; the arguments name its target."""
    start = Start.take()
    if start is None or len(sys.argv) != 2:
        sys.exit("headrace.workers is started by headrace serve; see `headrace worker --help`")
    logs.configure(start.log_level, start.log_format)
    mark = Mark(create_memory("mark") if start.mark_fd is None else start.mark_fd)
    take_over(start, mark)
    sys.exit(Worker(start, sys.argv[1], mark).run())


class Worker:
    """One replica in a process of its own.

    Args:
        start: What the process was told.
        target: What to serve.
        mark: Where to note what is run.
    """

    def __init__(self, start: Start, target: str, mark: Mark) -> None:
        self._start = start
        self._target = target
        self._mark = mark
        self._cards: Cards | None = None
        self._lane: Lane[Job] | None = None
        self._setup: Setup | None = None
        self._is_loaded = False

    def run(self) -> Exit:
        """Serve until told to stop; returns the exit code."""
        if self._start.address is not None:
            return self._run_remote(self._start.address)
        ended = self._serve(socket.socket(fileno=self._start.fd))
        self._unload()
        return Exit.FRONT_LOST if ended is None else ended

    def _run_remote(self, address: tuple[str, int]) -> Exit:
        """Serve one connection after another, with the model loaded once."""
        retry_s = FIRST_RETRY_S
        while True:
            try:
                sock = connect(address, self._start.tls)
            except OSError as error:
                retry_s = min(2 * retry_s, LAST_RETRY_S)
                where = "{}:{}".format(*address)
                _log.warning("no front", extra={"address": where, "reason": str(error)})
            else:
                retry_s = FIRST_RETRY_S
                if (ended := self._serve(sock)) is not None:
                    self._unload()
                    return ended
                _log.warning("the connection to the front was lost")
            time.sleep(retry_s)

    def _serve(self, sock: socket.socket) -> Exit | None:
        """Serve one connection; None if it was lost."""
        secret = self._start.secret
        connection = Connection("worker", secret=secret, nonce=os.urandom(NONCE_BYTES))
        channel = Channel(sock, connection)
        try:
            return self._serve_front(channel)
        except ConfigError as error:
            _log.error(error.message, exc_info=error.__cause__)
            return _leave(channel, Exit.CONFIG, error.message)
        except ReplicaStartFailed as error:
            _log.error("the replica failed to start", exc_info=error)
            return _leave(channel, Exit.LOAD_FAILED, error.message)
        except Broken as error:
            reason = f"{error}, and so did it on its own example"
            return _leave(channel, Exit.BROKEN, reason)
        except ProtocolError as error:
            _log.error("the front broke the protocol", extra={"reason": error.message})
            return Exit.PROTOCOL
        finally:
            channel.close()

    def _serve_front(self, channel: Channel) -> Exit | None:
        setup = _welcome(channel)
        if setup is None:
            return None
        if self._lane is None or setup != self._setup:
            self._unload()
            self._setup = setup
            self._lane = self._make_lane(setup)
            self._is_loaded = False
        assert self._cards is not None
        channel.put(self._cards)
        channel.flush()
        if not self._is_loaded:
            self._lane.replica.load()
            self._is_loaded = True
        channel.put(Ready())
        if not Loop(channel, self._lane, self._mark, lambda: Stats(snapshot())).serve():
            return None
        self._unload()
        channel.put(Stats(snapshot()))  # what it has counted since it was last asked
        return _leave(channel, Exit.STOPPED, "")

    def _make_lane(self, setup: Setup) -> Lane[Job]:
        """Import the target, and make the replica that the front asks for.

        Raises:
            ConfigError: It cannot be served; the cause, if there is one, is the user's.
        """
        makers = models_of(load_target(self._target), where=self._target)
        options: dict[str, Any] = {"batching": setup.batching, "mark": self._mark.replica_slots}
        replicas = [Replica(make(), setup.limits, **options) for make in makers]
        names = [replica.card.name for replica in replicas]
        serves = names.index(setup.model) if setup.model in names else 0
        if setup.model and setup.model not in names:
            raise ConfigError(f"{self._target}: there is no model {setup.model}")
        replica = replicas[serves]
        _check_sizing(replica.model)
        devices = self._start.devices or replica.model.devices
        if devices:
            os.environ[DEVICE_VARIABLE] = devices_of(self._start.seat, devices)
        self._cards = Cards(tuple(replica.card for replica in replicas), serves)
        return Lane(replica)

    def _unload(self) -> None:
        if self._lane is not None:
            self._lane.replica.unload()


def connect(address: tuple[str, int], tls: str | None) -> socket.socket:
    """A connection to a front on another host.

    Args:
        address: Host and port.
        tls: A file of certificates to trust, "system" for those of the system, None for no TLS.

    Raises:
        OSError: There is none to be had.
    """
    sock = socket.create_connection(address, timeout=CONNECT_TIMEOUT_S)
    try:
        notice_a_dead_link(sock)
        if tls is not None:
            context = ssl.create_default_context(cafile=None if tls == "system" else tls)
            sock = context.wrap_socket(sock, server_hostname=address[0])
        sock.settimeout(None)
    except BaseException:
        sock.close()
        raise
    return sock


def _welcome(channel: Channel) -> Setup | None:
    """Prove that this is a worker, and see that the other end is the front; None if it left."""
    channel.flush()
    while (messages := channel.receive()) is not None:
        for message in messages:
            if isinstance(message, Welcome):
                return message.setup
    return None


def _leave(channel: Channel, code: Exit, reason: str) -> Exit:
    """Say why, as far as the connection still carries it."""
    channel.put(Bye(code.name.lower(), reason[:MAX_REASON]))
    channel.flush()
    return code


def _check_sizing(model: Model) -> None:
    cls = type(model)
    for name in ("key", "cost"):
        if getattr(cls, name) is not getattr(Model, name):
            raise ConfigError(
                f"{cls.__qualname__}.{name}: the server does not import the model when worker"
                " processes do, so it cannot call this; declare Batching(bucket_bytes=...) or"
                ' Batching(cost="bytes") instead, or use --executor thread'
            )
