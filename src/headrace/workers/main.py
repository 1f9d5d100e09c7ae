"""A worker's life: connect, prove itself, import the target, load, serve, stop."""

from __future__ import annotations

import logging
import math
import os
import signal
import socket
import sys
import time
from collections.abc import Callable
from typing import Any, NoReturn

from .. import logs, workers
from ..clock import NEVER
from ..errors import ConfigError, ProtocolError, ReplicaStartFailed
from ..lane import Lane
from ..metrics.snapshot import snapshot
from ..model import Model
from ..replica import Replica
from ..targets import load_target, models_of
from ..wire import NONCE_BYTES, Bye, Cards, Connection, Memory, Ready, Setup, Stats, Welcome
from .channel import Channel
from .exits import Exit
from .loop import Broken, Job, Loop
from .mark import CONNECTION, PATIENCE_MS, WAS_READY, Mark, create_memory
from .memory import SharedMemory
from .process import take_over
from .resources import DEVICE_VARIABLE, devices_of
from .sockets import CONNECT_TIMEOUT_S, REFUSED, Retries, connect
from .start import Start

MAX_REASON = 2000
MOST_PATIENCE_S = 1e9
LINGER_S = 1.0
"""How long a front may take to read the last answers of a worker that leaves."""

_log = logging.getLogger("headrace.worker")


def main() -> None:
    """Run the worker that the environment describes; the arguments name its target."""
    start = Start.take()
    if start is None or len(sys.argv) != 2:
        sys.exit("headrace.workers is started by headrace serve; see `headrace worker --help`")
    logs.configure(start.log_level, start.log_format)
    mark = Mark(create_memory("mark") if start.mark_fd is None else start.mark_fd)
    take_over(start, mark)
    workers.is_worker = True
    sys.exit(Worker(start, sys.argv[1], mark).run())


class Stopped(BaseException):
    """The process was told to stop while it only waited for a front."""


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
        self._replica: Replica | None = None
        self._setup: Setup | None = None
        self._memory: Memory | None = None
        if start.memory_fd is not None:
            self._memory = SharedMemory(start.memory_fd, "worker").memory
            os.close(start.memory_fd)
        self._is_loaded = False
        self._is_remote = start.address is not None
        self._was_welcome = False
        self._is_stopping = False
        self._on_stop: Callable[[], None] = _exit_now

    def run(self) -> Exit:
        """Serve until told to stop; returns the exit code."""
        if self._start.address is not None:
            return self._run_remote(self._start.address)
        ended = self._serve(socket.socket(fileno=self._start.fd))
        self._unload()
        return Exit.FRONT_LOST if ended is None else ended

    def _run_remote(self, address: tuple[str, int]) -> Exit:
        """Serve one connection after another, with the model loaded once."""
        signal.signal(signal.SIGTERM, self._told_to_stop)
        try:
            # Before there is a front: what is wrong with the target is known at once.
            models_of(load_target(self._target), where=self._target)
        except ConfigError as error:
            _log.error(error.message, exc_info=error.__cause__)
            return Exit.CONFIG
        try:
            ended = self._keep_serving(address)
        except Stopped:
            ended = Exit.STOPPED
        self._on_stop = _go_on
        self._unload()
        return ended

    def _keep_serving(self, address: tuple[str, int]) -> Exit:
        """Connect, and serve until that is lost, again and again; gives why that ended."""
        retries = Retries("{}:{}".format(*address))
        while True:
            self._on_stop = _raise_stopped
            try:
                sock = connect(address, self._start.tls)
            except OSError as error:
                retries.no_front(str(error))
            else:
                began, self._was_welcome = time.monotonic(), False
                ended = self._serve(sock)
                self._on_stop = _raise_stopped
                if self._is_stopping:
                    return Exit.STOPPED
                if ended is not None and ended is not Exit.PROTOCOL:
                    return ended
                retries.lost(time.monotonic() - began, was_welcome=self._was_welcome)
            time.sleep(retries.next_s())

    def _told_to_stop(self, number: int, frame: object) -> None:
        """On SIGTERM, in the main thread, between any two instructions of it."""
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        self._is_stopping = True
        self._on_stop()

    def _serve(self, sock: socket.socket) -> Exit | None:
        """Serve one connection; None if it was lost."""
        secret = self._start.secret
        connection = Connection(
            "worker", secret=secret, nonce=os.urandom(NONCE_BYTES), memory=self._memory
        )
        channel = Channel(sock, connection, is_wakeable=self._is_remote)
        try:
            return self._serve_front(channel, sock)
        except ConfigError as error:
            if self._is_remote or error.__cause__ is not None:  # the front tells the rest
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

    def _serve_front(self, channel: Channel, sock: socket.socket) -> Exit | None:
        sock.settimeout(CONNECT_TIMEOUT_S if self._is_remote else None)
        setup = _welcome(channel, CONNECT_TIMEOUT_S if self._is_remote else NEVER)
        sock.settimeout(None)
        if setup is None:
            return None
        self._was_welcome = True
        replica = self._get_replica(setup)
        assert self._cards is not None
        channel.put(self._cards)
        channel.flush()
        if not self._is_loaded:
            replica.load()
            self._is_loaded = True
        channel.put(Ready())
        # A lane of its own: nothing is left of another connection's batches.
        loop = Loop(channel, Lane[Job](replica), self._mark, lambda: Stats(snapshot()))
        self._on_stop = loop.stop
        self._mark.slots[WAS_READY] = 1
        if not self._serve_loop(loop, sock, setup):
            return None
        if loop.bye is not None and loop.bye.code == REFUSED:
            _log.error("the front refuses this worker", extra={"reason": loop.bye.reason})
            return None
        return self._part(channel)

    def _serve_loop(self, loop: Loop, sock: socket.socket, setup: Setup) -> bool:
        """Serve batches; False if the connection was lost."""
        if not self._is_remote:
            return loop.serve()
        slots = self._mark.slots
        # Its parent ends this process where a model that hangs keeps it from noticing the loss.
        slots[PATIENCE_MS] = _milliseconds(setup.limits.predict_timeout_s)
        slots[CONNECTION] = os.fstat(sock.fileno()).st_ino
        try:
            return loop.serve()
        finally:
            slots[CONNECTION] = 0

    def _part(self, channel: Channel) -> Exit:
        """Say bye to the front."""
        if not self._is_remote:
            self._unload()
        channel.put(Stats(snapshot()))  # what it has counted since it was last asked
        _leave(channel, Exit.STOPPED, "")
        if self._is_remote:
            # What the front has sent meanwhile is for others to run: it shall know soon.
            channel.finish()
            self._unload()
            channel.linger(LINGER_S)
        return Exit.STOPPED

    def _get_replica(self, setup: Setup) -> Replica:
        """The last connection's, if the front asks for the same."""
        if self._replica is not None and setup == self._setup and self._is_loaded:
            return self._replica
        self._on_stop = _go_on  # the user's code would swallow an exception
        self._unload()
        self._on_stop = _exit_now
        if self._is_stopping:
            _exit_now()
        self._replica = self._make_replica(setup)
        self._setup = setup
        return self._replica

    def _make_replica(self, setup: Setup) -> Replica:
        """Import the target, and make the replica that the front asks for.

        Raises:
            ConfigError: It cannot be served; the cause, if there is one, is the user's.
        """
        makers = models_of(load_target(self._target), where=self._target)
        options: dict[str, Any] = {"batching": setup.batching, "mark": self._mark.replica_slots}
        replicas = [Replica(make(), setup.limits, **options) for make in makers]
        names = [replica.card.name for replica in replicas]
        wanted = setup.model or self._start.model
        serves = names.index(wanted) if wanted in names else 0
        if wanted and wanted not in names:
            raise ConfigError(f"{self._target}: there is no model {wanted}")
        replica = replicas[serves]
        _check_sizing(replica.model)
        devices = replica.model.devices
        if devices and not self._start.devices:  # those of the operator are there already
            os.environ[DEVICE_VARIABLE] = devices_of(self._start.seat, devices)
        self._cards = Cards(tuple(replica.card for replica in replicas), serves)
        return replica

    def _unload(self) -> None:
        self._is_loaded = False
        if self._replica is not None:
            self._replica.unload()


def _raise_stopped() -> None:
    raise Stopped


def _go_on() -> None:
    """It ends already."""


def _milliseconds(seconds: float) -> int:
    """As many as a slot of the mark can hold."""
    return math.ceil(1000 * min(seconds, MOST_PATIENCE_S))


def _exit_now() -> NoReturn:
    """The user's code is being loaded: to it, an exception would be one of its own."""
    os._exit(Exit.STOPPED)


def _welcome(channel: Channel, timeout_s: float) -> Setup | None:
    """Prove that this is a worker, and see that the other end is the front.

    None if it left, or took too long.
    """
    channel.flush()
    ends = time.monotonic() + timeout_s
    while (left_s := ends - time.monotonic()) > 0:
        messages = channel.receive(timeout_s=left_s)
        if messages is None:
            return None
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
