"""The worker's side of the batching protocol: pull a batch, answer it, over a blocking socket."""

from __future__ import annotations

import contextlib
import errno
import logging
import os
import select
import socket
import struct
import threading
from collections.abc import Callable, Iterable, Iterator
from typing import Any, ClassVar

from pydantic import BaseModel

from headrace import HeadraceError
from headrace.jobs import JobFrames, JobResults, read_jobs, write_results

from .batches import Failed, isolated
from .bodies import Bodies
from .failures import MODEL_FAILED, Failures

Address = str | bytes | os.PathLike[str] | tuple[str, int]

MAX_MESSAGE_BYTES = 256 * 1024 * 1024
"""The longest message that is read or written."""
FIRST_RETRY_S = 0.1
LAST_RETRY_S = 5.0
CONNECT_TIMEOUT_S = 10.0
SEND_TIMEOUT_S = 60.0
"""A service that takes nothing of an answer for so long is lost."""
STOP_SEND_TIMEOUT_S = 5.0
"""The same, once the worker was told to stop."""

_CHUNK_BYTES = 1024 * 1024
_KEEP_ALIVE_S = {"TCP_KEEPIDLE": 15, "TCP_KEEPINTVL": 5, "TCP_KEEPCNT": 3}


class BatchProtocol:
    """A worker: it asks a batching service for batches, and answers them.

    Args:
        infer: Gives as many results as it gets requests, instances of `req_schema`; a list or an
            array. A batch for which it raises is run again in halves, so that only the guilty
            request fails.
        req_schema: What a request is.
        resp_schema: What a response is.
        use_msgpack: Whether bodies are msgpack, in place of JSON.

    Attributes:
        sock: The connection to the service; None while there is none.
        idempotent: Whether `infer` may be called again with the same requests after it raised;
            if not, the whole batch fails.
    """

    STRUCT_FORMAT: ClassVar[str] = "!i"
    INT_BYTE_SIZE: ClassVar[int] = 4
    INIT_MESSAGE: ClassVar[bytes] = struct.pack(STRUCT_FORMAT, 0)

    def __init__(
        self,
        infer: Callable[[list[Any]], Iterable[Any]],
        req_schema: type[BaseModel],
        resp_schema: type[BaseModel],
        use_msgpack: bool,
    ) -> None:
        self.infer = infer
        self.req_schema = req_schema
        self.resp_schema = resp_schema
        self.use_msgpack = use_msgpack
        self.idempotent = True
        self.logger = logging.getLogger(__name__)
        self.sock: socket.socket | None = None
        self._bodies = Bodies(req_schema, resp_schema, use_msgpack)
        self._failures = Failures(self.logger)
        # A signal's handler may run between any two steps of the thread that it interrupts: it
        # must not wait for a lock that this very thread has.
        self._lock = threading.RLock()
        self._alarm: socket.socket | None = None
        self._is_stopping = False
        self._is_answering = False

    def process(self, conn: socket.socket) -> None:
        """Answer one batch.

        Args:
            conn: A blocking connection to the service, which has been asked for work.

        Raises:
            EOFError: The connection was ended, between two batches or within one.
            HeadraceError: What came is no batch; the connection is of no more use.
            OSError: The connection was lost.
        """
        jobs = read_jobs(_read_message(conn))
        with self._answering():
            results = self._answer(jobs)
            message = write_results(results, as_text=not self.use_msgpack)
            self._send(conn, message)

    def run(self, addr: Address, protocol: str = "unix") -> None:
        """Connect, and answer batches until `stop`; connect again for as long as it takes.

        Args:
            addr: The path of the service's Unix socket, or its host and port.
            protocol: "unix" or "tcp".

        Raises:
            ValueError: It is another protocol.
        """
        if protocol not in ("unix", "tcp"):
            raise ValueError(f"protocol: expected 'unix' or 'tcp', got {protocol!r}")
        wake, alarm = socket.socketpair()
        with wake, alarm:
            with self._lock:
                self._alarm = alarm
            try:
                self._run(addr, protocol, wake)
            finally:
                with self._lock:
                    self._alarm = None
                    self._is_stopping = False

    def stop(self) -> None:
        """Have `run` return, or the next one if none runs; from any thread or a signal's handler.

        A batch that is at work is answered before.
        """
        with self._lock:
            self._is_stopping = True
            if self._alarm is not None:
                _shut(self._alarm, socket.SHUT_RDWR)
            if self.sock is not None:
                _shut(self.sock, socket.SHUT_RD if self._is_answering else socket.SHUT_RDWR)

    def _must_stop(self) -> bool:
        return self._is_stopping

    def _run(self, addr: Address, protocol: str, wake: socket.socket) -> None:
        retry_s = FIRST_RETRY_S
        while not self._must_stop():
            try:
                with self._connected(addr, protocol, wake) as conn:
                    self.logger.info("connected to %s", addr)
                    conn.sendall(self.INIT_MESSAGE)
                    while not self._must_stop():
                        self.process(conn)
                        retry_s = FIRST_RETRY_S
            except (OSError, EOFError, HeadraceError) as error:
                if self._must_stop():
                    break
                reason = str(error) or type(error).__name__
                self.logger.warning(
                    "no connection to %s: %s; the next try is in %.1f s", addr, reason, retry_s
                )
                _wait(wake, timeout_s=retry_s)
                retry_s = min(2 * retry_s, LAST_RETRY_S)
        self.logger.info("stopped")

    @contextlib.contextmanager
    def _connected(
        self, addr: Address, protocol: str, wake: socket.socket
    ) -> Iterator[socket.socket]:
        conn = self._connect(addr, protocol, wake)
        try:
            yield conn
        finally:
            self._give_up(conn)

    def _connect(self, addr: Any, protocol: str, wake: socket.socket) -> socket.socket:
        """A connection to the first place of an address that has one for us.

        Raises:
            OSError: None has.
            EOFError: `stop` was called meanwhile.
        """
        places: list[Any] = [(socket.AF_UNIX, socket.SOCK_STREAM, 0, "", addr)]
        if protocol == "tcp":
            host, port = addr
            places = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
        failure = OSError("the host has no address")
        for family, kind, proto, _, place in places:
            conn = socket.socket(family, kind, proto)
            with self._lock:
                self.sock = conn
            try:
                conn.setblocking(False)
                if protocol == "tcp":
                    _keep_alive(conn)
                code = conn.connect_ex(place)
                if code == errno.EINPROGRESS:
                    if not _wait(wake, conn, timeout_s=CONNECT_TIMEOUT_S):
                        raise TimeoutError("no answer")
                    code = conn.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
                if self._must_stop():
                    raise EOFError("stopped")
                if code:
                    raise OSError(code, os.strerror(code))
                conn.setblocking(True)
            except OSError as error:
                self._give_up(conn)
                failure = error
            except BaseException:
                self._give_up(conn)
                raise
            else:
                return conn
        raise failure

    def _give_up(self, conn: socket.socket) -> None:
        with self._lock:
            self.sock = None
            conn.close()

    @contextlib.contextmanager
    def _answering(self) -> Iterator[None]:
        """A batch is here: `stop` lets it be answered."""
        with self._lock:
            self._is_answering = True
        try:
            yield
        finally:
            with self._lock:
                self._is_answering = False

    def _send(self, conn: socket.socket, message: bytes) -> None:
        with self._lock:
            # From here on `stop` ends it at once, unless it was called before.
            self._is_answering = False
            conn.settimeout(STOP_SEND_TIMEOUT_S if self._is_stopping else SEND_TIMEOUT_S)
        try:
            conn.sendall(message)
        finally:
            conn.settimeout(None)

    def _answer(self, jobs: dict[str, bytes]) -> JobResults:
        outcomes: dict[str, Any] = {}
        valid: dict[str, Any] = {}
        for job, body in jobs.items():
            try:
                valid[job] = self._bodies.read(body)
            except Exception as error:
                outcomes[job] = Failed(error)
        if valid:
            results = isolated(self.infer, list(valid.values()), idempotent=self.idempotent)
            outcomes |= zip(valid, results, strict=True)
        bodies: dict[str, bytes] = {}
        errors, failed = set(), set()
        room = MAX_MESSAGE_BYTES - 128 * len(jobs)
        for job in jobs:
            body, status = self._body(outcomes[job])
            if len(body) > room:
                body, status = self._body(Failed(OverflowError("the batch's answers are too long")))
            room -= len(body)
            bodies[job] = body
            if status >= 400:
                errors.add(job)
            if status >= 500:
                failed.add(job)
        return JobResults(bodies, frozenset(errors), frozenset(failed))

    def _body(self, outcome: Any) -> tuple[bytes, int]:
        """A job's body, and the status that it stands for."""
        try:
            if not isinstance(outcome, Failed):
                return self._bodies.write(outcome), 200
            error = outcome.error
        except Exception as broken:
            error = broken
        refusal = self._failures.told(error)
        told = refusal.problem if refusal.status < 500 else MODEL_FAILED
        try:
            return self._bodies.encode(told), refusal.status
        except Exception:  # the model's own words may be of any kind
            return self._bodies.encode(MODEL_FAILED), 500


def _read_message(conn: socket.socket) -> bytes:
    """The next message, and nothing of the one after it.

    Raises:
        EOFError: The stream ended before it did.
    """
    frames = JobFrames(MAX_MESSAGE_BYTES)
    messages: list[bytes] = []
    while not messages:
        data = conn.recv(min(frames.missing_bytes, _CHUNK_BYTES))
        if not data:
            where = "" if frames.is_between else " within a message"
            raise EOFError(f"the batching service ended the connection{where}")
        messages = frames.feed(data)
    return messages[0]


def _wait(wake: socket.socket, conn: socket.socket | None = None, *, timeout_s: float) -> bool:
    """Wait until there is something at `wake`, or `conn` is connected; False if it was too long."""
    poll = select.poll()
    poll.register(wake, select.POLLIN)
    if conn is not None:
        poll.register(conn, select.POLLOUT)
    return bool(poll.poll(1e3 * timeout_s))


def _shut(conn: socket.socket, how: int) -> None:
    with contextlib.suppress(OSError):  # it is not connected, or not any more
        conn.shutdown(how)


def _keep_alive(conn: socket.socket) -> None:
    """Notice a host that is gone without a word, and send small answers at once."""
    conn.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    conn.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for name, value in _KEEP_ALIVE_S.items():
        if hasattr(socket, name):
            conn.setsockopt(socket.IPPROTO_TCP, getattr(socket, name), value)
