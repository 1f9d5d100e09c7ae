"""The load generator: sends each request when it is due, whatever became of those before."""

from __future__ import annotations

import asyncio
import contextlib
import math
import socket
import ssl
import threading
import time
from array import array
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any

import uvloop

from ..errors import ConfigError, clip
from . import arrivals
from .alarm import Alarm, alarm
from .connection import IDLE, Connection
from .progress import progress_bar
from .request import Destination, destination, post_head
from .result import LoadResult
from .settings import LoadSettings

MAX_CONNECTING = 32
"""Connections that are being opened at once: more would keep answers from being read."""
WARM_S = 0.002
"""Before the schedule starts, as many connections are opened as requests come in this time, so
that the first ones do not all wait for the generator to open them."""
MAX_WARM_S = 1.0
"""How long that may take; what is not open then is opened as the test goes."""
MIN_ALARM_S = 0.0001
"""Between two alarms; what comes due in between goes out together."""
PROGRESS_S = 0.25


def run_load_test(
    url: str,
    bodies: Sequence[bytes],
    settings: LoadSettings | None = None,
    *,
    progress: bool | None = None,
    on_progress: Callable[[int], object] | None = None,
) -> LoadResult:
    """POST each body to a URL at its planned instant, and wait for all to end.

    The load is open-loop: requests are due at fixed instants, and latencies count from those, so
    a server that stalls, or a generator that is late, shows in the latency of every request that
    was due meanwhile. The generator runs on a thread and an event loop of its own, so this
    works in a notebook's running event loop too, which stands still meanwhile.

    A request ends with its answer, with an error (a refused or lost connection, an answer other
    than 2xx or over the limit), or after `timeout_s`; none is sent twice. Ctrl-C stops the test.

    Args:
        url: http or https.
        bodies: At least one.
        settings: The rate, 5000 requests a second unless set, and limits.
        progress: Whether a bar is drawn on standard error; None draws one on a terminal.
        on_progress: Called some times a second, in the calling thread, with how many ended.

    Returns:
        What became of each request, in the order of the bodies.

    Raises:
        ConfigError: The URL or a header is malformed, the host is unknown, or there are no
            bodies.

    Example:
        >>> result = run_load_test("http://127.0.0.1:8000/models/echo/predict", [b"1"] * 1000,
        ...                        LoadSettings(requests_per_second=500))  # doctest: +SKIP
        >>> result.latency_s.p99, len(result.errors)  # doctest: +SKIP
    """
    settings = settings or LoadSettings()
    if not bodies:
        raise ConfigError("bodies: expected at least one, got none")
    run = _Run(destination(url), bodies, settings)
    loop = uvloop.new_event_loop()
    raised: list[BaseException] = []

    def work() -> None:
        try:
            with asyncio.Runner(loop_factory=lambda: loop) as runner:
                runner.run(run.main())
        except BaseException as error:
            raised.append(error)

    thread = threading.Thread(target=work, name="headrace-loadtest")
    thread.start()
    try:
        with progress_bar(len(bodies), is_shown=progress) as move_bar:
            is_running = True
            while is_running:
                thread.join(PROGRESS_S)
                is_running = thread.is_alive()  # so that the last report is of all, however fast
                for report in (move_bar, on_progress):
                    if report is not None:
                        report(run.ended)
    finally:
        if thread.is_alive():
            with contextlib.suppress(RuntimeError):  # the loop has closed since
                loop.call_soon_threadsafe(run.stop)
            thread.join()
    if raised:
        raise raised[0]
    return run.result()


class _Run:
    """One load test, on its event loop.

    Attributes:
        ended: How many requests have ended.
        max_response_bytes: One answer, with its head.
    """

    def __init__(self, to: Destination, bodies: Sequence[bytes], settings: LoadSettings) -> None:
        count, rate, seed = len(bodies), settings.requests_per_second, settings.poisson_seed
        self.ended = 0
        self.max_response_bytes = settings.max_response_bytes
        self._to = to
        self._settings = settings
        self._bodies = bodies
        head = post_head(to, settings.headers)
        sizes = {len(body) for body in bodies}
        self._heads = {size: b"%b%d\r\n\r\n" % (head, size) for size in sizes}
        self._planned = (
            arrivals.constant(count, rate)
            if seed is None
            else arrivals.poisson(count, rate, seed=seed)
        )
        self._planned.append(math.inf)  # so that the pace needs no other end
        self._count = count
        self._next = 0
        self._start = 0.0
        self._sent = array("d", [math.nan]) * count
        self._ends = array("d", [math.nan]) * count
        self._statuses = array("H", [0]) * count
        self._answers = [b""] * count
        self._errors: dict[int, str] = {}
        self._waiting: deque[int] = deque()  # due, and no connection was free
        self._free: list[Connection] = []  # the last used first: few connections stay busy
        self._connections: set[Connection] = set()
        self._connecting: set[asyncio.Task[None]] = set()
        self._opened = 0
        self._is_stopped = False
        self._adopting: dict[asyncio.Task[None], socket.socket] = {}
        self._addresses: list[tuple[int, Any]] = []
        self._tls: ssl.SSLContext | None = None
        if to.is_tls:
            self._tls = settings.tls or ssl.create_default_context()
        self._alarm: Alarm
        self._loop: asyncio.AbstractEventLoop
        self._all_ended = asyncio.Event()
        self._all_closed = asyncio.Event()
        self._main: asyncio.Task[None] | None = None
        self._lag_sum_s = self._lag_max_s = self._cpu_s = 0.0

    async def main(self) -> None:
        """Send everything, and wait until it has ended; `stop` cancels it."""
        if self._is_stopped:
            return
        self._loop, self._main = asyncio.get_running_loop(), asyncio.current_task()
        await self._resolve()
        self._alarm = alarm(self._loop, self._ring)
        try:
            await self._warm()
            cpu_s = time.thread_time()
            self._start = time.monotonic()
            self._ring()
            self._sweep()
            await self._all_ended.wait()
            self._cpu_s = time.thread_time() - cpu_s
        finally:
            self._alarm.close()
            await self._close()

    def stop(self) -> None:
        """End the test now; requests that have not ended never will."""
        self._is_stopped = True
        if self._main is not None:
            self._main.cancel()

    def result(self) -> LoadResult:
        """What became of the requests; call it once all have ended."""
        return LoadResult(
            planned_s=self._planned[:-1],
            sent_s=self._sent,
            ended_s=self._ends,
            statuses=self._statuses,
            bodies=self._answers,
            errors=self._errors,
            connections=self._opened,
            send_lag_mean_s=self._lag_sum_s / self._count,
            send_lag_max_s=self._lag_max_s,
            cpu_s=self._cpu_s,
        )

    # Pace

    def _ring(self) -> None:
        now = time.monotonic()
        self._send_due(now - self._start)
        if self._next < self._count:
            due = self._start + self._planned[self._next]
            self._alarm.set(max(due, now + MIN_ALARM_S))

    def _send_due(self, now_s: float) -> None:
        planned, free, index = self._planned, self._free, self._next
        if planned[index] <= now_s:
            self._lag_max_s = max(self._lag_max_s, now_s - planned[index])
        while planned[index] <= now_s:
            self._lag_sum_s += now_s - planned[index]
            if free:
                self._send(free.pop(), index, now_s)
            else:
                self._waiting.append(index)
            index += 1
        self._next = index
        if self._waiting:
            self._open_more()

    def _send(self, connection: Connection, index: int, now_s: float) -> None:
        body = self._bodies[index]
        self._sent[index] = now_s
        connection.send(index, self._heads[len(body)], body)

    def _sweep(self) -> None:
        """Time out what is due; every so often, for all requests."""
        timeout_s = self._settings.timeout_s
        horizon_s = time.monotonic() - self._start - timeout_s
        planned, waiting = self._planned, self._waiting
        while waiting and planned[waiting[0]] <= horizon_s:
            index = waiting.popleft()
            self.failed(index, f"timed out after {timeout_s:g} s without a free connection")
        for connection in list(self._connections):
            if connection.index != IDLE and planned[connection.index] <= horizon_s:
                connection.fail(f"timed out after {timeout_s:g} s without an answer")
        self._loop.call_later(min(0.25, timeout_s / 8), self._sweep)

    # Connections

    async def _resolve(self) -> None:
        if self._settings.uds is not None:
            self._addresses = [(socket.AF_UNIX, self._settings.uds)]
            return
        host, port = self._to.host, self._to.port
        try:
            found = await self._loop.getaddrinfo(host, port, type=socket.SOCK_STREAM)
        except (OSError, UnicodeError) as error:
            raise ConfigError(f"url: expected a known host, got {clip(host)}: {error}") from None
        self._addresses = [(family, address) for family, *_, address in found]

    async def _warm(self) -> None:
        expected = self._settings.requests_per_second * WARM_S
        count = min(self._settings.max_connections, self._count, 2 * MAX_CONNECTING, 1 + expected)
        for _ in range(int(count)):
            self._open()
        await asyncio.wait(self._connecting, timeout=MAX_WARM_S)

    def _open_more(self) -> None:
        """Open connections for the requests that wait for one."""
        wanted = min(
            len(self._waiting) - len(self._connecting),
            self._settings.max_connections - len(self._connections) - len(self._connecting),
            MAX_CONNECTING - len(self._connecting),
        )
        for _ in range(wanted):
            self._open()

    def _open(self) -> None:
        task = self._loop.create_task(self._connect())
        self._connecting.add(task)
        task.add_done_callback(self._connected)

    async def _connect(self) -> None:
        async with asyncio.timeout(self._settings.timeout_s):
            sock = await self._connected_socket()
        task = asyncio.current_task()
        assert task is not None
        self._adopting[task] = sock
        tls: dict[str, Any] = {}
        if self._tls is not None:
            tls = {
                "ssl": self._tls,
                "server_hostname": self._to.host,
                "ssl_handshake_timeout": self._settings.timeout_s,
            }
        is_unix = sock.family == socket.AF_UNIX
        create = self._loop.create_unix_connection if is_unix else self._loop.create_connection
        try:
            await create(lambda: Connection(self), sock=sock, **tls)
        finally:
            del self._adopting[task]

    async def _connected_socket(self) -> socket.socket:
        """Connect to the first address that takes it, and to that one from then on."""
        for family, address in self._addresses:
            sock = socket.socket(family, socket.SOCK_STREAM)
            try:
                sock.setblocking(False)
                if family != socket.AF_UNIX:
                    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                await self._loop.sock_connect(sock, address)
            except BaseException as error:
                sock.close()
                if not isinstance(error, OSError) or address == self._addresses[-1][1]:
                    raise
            else:
                self._addresses = [(family, address)]
                return sock
        raise AssertionError("getaddrinfo gave no address, and no error")

    def _connected(self, task: asyncio.Task[None]) -> None:
        self._connecting.discard(task)
        error = None if task.cancelled() else task.exception()  # asked for, or it is logged
        if self._is_stopped:
            return
        if error is not None and self._waiting:
            # It was opened for a request: one that waits goes without.
            self.failed(self._waiting.popleft(), f"cannot connect: {str(error) or 'timed out'}")
        self._open_more()

    async def _close(self) -> None:
        self._is_stopped = True
        self._waiting.clear()
        for task in self._connecting:
            if task in self._adopting:
                # Not cancelled: in its last step, uvloop would lose the transport.
                with contextlib.suppress(OSError):
                    self._adopting[task].shutdown(socket.SHUT_RDWR)
            else:
                task.cancel()
        if self._connecting:
            await asyncio.wait(self._connecting)
        self._all_closed.clear()
        for connection in list(self._connections):
            connection.abort()
        if self._connections:
            await self._all_closed.wait()

    # What connections tell

    def opened(self, connection: Connection) -> None:
        self._opened += 1
        self._connections.add(connection)
        self._take_next(connection, time.monotonic() - self._start)

    def answered(
        self, connection: Connection, index: int, status: int, body: bytes, is_reusable: bool
    ) -> None:
        now_s = time.monotonic() - self._start
        self._ends[index] = now_s
        self._statuses[index] = status
        self._answers[index] = body
        if not 200 <= status < 300:
            self._errors[index] = f"expected a 2xx answer, got {status}"
        if is_reusable:
            self._take_next(connection, now_s)
        else:
            connection.close()
        if self._planned[self._next] <= now_s:
            self._send_due(now_s)
        self._count_ended()

    def failed(self, index: int, error: str) -> None:
        self._ends[index] = time.monotonic() - self._start
        self._errors[index] = error
        self._count_ended()

    def ending(self, connection: Connection) -> None:
        with contextlib.suppress(ValueError):
            self._free.remove(connection)

    def closed(self, connection: Connection) -> None:
        self.ending(connection)
        self._connections.discard(connection)
        if not self._is_stopped:
            self._open_more()
        elif not self._connections:
            self._all_closed.set()

    def _take_next(self, connection: Connection, now_s: float) -> None:
        if self._waiting:
            self._send(connection, self._waiting.popleft(), now_s)
        else:
            self._free.append(connection)

    def _count_ended(self) -> None:
        self.ended += 1
        if self.ended == self._count:
            self._all_ended.set()
