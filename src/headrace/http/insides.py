"""All that headrace needs of uvicorn's insides.

They are no public interface of uvicorn's, so a range of its releases is tested, each by itself
(`scripts/uvicorns`), and pyproject.toml asks for no other. Where another one is installed all the
same, `headrace.http.server` leaves connections to uvicorn's own class.

What is relied on:

- `Config(http=...)` takes a protocol class, which is called with `config`, `server_state`,
  `app_state` and `_loop`.
- `config` has `loaded_app`, `root_path`, `asgi_version` and `limit_concurrency`.
- `Server.startup` listens on the sockets that it is given, on none if the list is empty, and keeps
  what `create_server` gives in `servers`.
- `server_state` has `connections`, `tasks`, `total_requests`, and `default_headers`, a list that is
  replaced, not changed, once a second.
- At a drain, `Server.shutdown` calls `shutdown()` of each in `connections`, and waits until there
  are none, and no tasks.
- `RequestResponseCycle` runs an ASGI application for one request over a transport and a flow. It
  is `waiting_for_100_continue` until the application asks for the body, or answers.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Protocol

import uvicorn

try:
    from uvicorn.protocols.http.flow_control import service_unavailable
    from uvicorn.protocols.http.httptools_impl import RequestResponseCycle
    from uvicorn.protocols.utils import get_local_addr, get_remote_addr, is_ssl
except ImportError:  # a release that moved them is none of those that are tested
    if not TYPE_CHECKING:
        service_unavailable = RequestResponseCycle = None

if TYPE_CHECKING:
    from uvicorn.config import Config
    from uvicorn.server import ServerState

FIRST_TESTED, FIRST_UNTESTED = (0, 48), (0, 55)
"""Releases from the first of these on, before the second."""

HIGH_WATER_BYTES = 64 * 1024
"""What an ASGI application may leave unread of a body before the client is made to wait."""

_CLOSE = (b"connection", b"close")

CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"

_log = logging.getLogger("uvicorn.error")
_access_log = logging.getLogger("uvicorn.access")


def is_tested(version: str = uvicorn.__version__) -> bool:
    """Whether this uvicorn is one of those that headrace was tested with.

    >>> is_tested("0.48.0"), is_tested("0.54.2"), is_tested("0.55.0"), is_tested("1.0.0")
    (True, True, False, False)
    """
    if RequestResponseCycle is None:
        return False
    return FIRST_TESTED <= _numbers(version) < FIRST_UNTESTED


def _numbers(version: str) -> tuple[int, ...]:
    return tuple(int(part) for part in version.split(".")[:2] if part.isdecimal())


_TELLS_CLOSE = _numbers(uvicorn.__version__) >= (0, 53)
"""Whether the client is told that its connection ends where it did not ask for that itself."""


def addresses(transport: asyncio.Transport) -> tuple[Any, Any, str]:
    """A connection's own address, its client's, and its scheme, as an ASGI scope has them."""
    scheme = "https" if is_ssl(transport) else "http"
    return get_local_addr(transport), get_remote_addr(transport), scheme


class Transport(Protocol):
    """Where a cycle writes its answer: all that it uses of a transport."""

    def write(self, data: bytes) -> None: ...
    def is_closing(self) -> bool: ...
    def close(self) -> None: ...


class Flow(Protocol):
    """What holds a cycle up.

    Attributes:
        write_paused: Whether the client has not read what was written.
    """

    @property
    def write_paused(self) -> bool: ...
    def pause_reading(self) -> None: ...
    def resume_reading(self) -> None: ...
    async def drain(self) -> None:
        """Wait until the client has read what was written."""


class Cycle:
    """An ASGI application's run for one request.

    Attributes:
        body_complete: Whether all of the request's body was taken.

    Args:
        config: Of the server.
        state: Of the server.
        scope: Of the request.
        transport: Where the answer is written.
        flow: What holds it up.
        keep_alive: Whether the connection lives on after the answer.
        is_awaited: Whether the client waits to be told to send its body.
        on_answered: Called when the answer is written, or given up.
    """

    def __init__(
        self,
        config: Config,
        state: ServerState,
        scope: Any,
        *,
        transport: Transport,
        flow: Flow,
        keep_alive: bool,
        is_awaited: bool,
        on_answered: Callable[[], None],
    ) -> None:
        self._config = config
        self._state = state
        self._on_answered = on_answered
        self._cycle = RequestResponseCycle(
            scope=scope,
            transport=transport,  # type: ignore[arg-type]  # it has what a cycle uses
            flow=flow,  # type: ignore[arg-type]
            logger=_log,
            access_logger=_access_log,
            access_log=config.access_log and _access_log.hasHandlers(),
            default_headers=state.default_headers,
            message_event=asyncio.Event(),
            expect_100_continue=is_awaited,
            keep_alive=keep_alive,
            on_response=self._answered,
        )
        self.keep_alive = keep_alive
        self.body_complete = False
        self._is_running = False

    @property
    def has_begun(self) -> bool:
        """Whether the answer's head was written."""
        return self._cycle.response_started

    @property
    def answered(self) -> bool:
        """Whether the whole answer was written."""
        return self._cycle.response_complete

    @property
    def keep_alive(self) -> bool:
        """Whether the connection lives on after the answer."""
        return self._cycle.keep_alive

    @keep_alive.setter
    def keep_alive(self, value: bool) -> None:
        self._cycle.keep_alive = value
        if not value and not _TELLS_CLOSE:
            self._cycle.default_headers = [*self._state.default_headers, _CLOSE]

    def start(self) -> None:
        """Run the application in a task."""
        config, state = self._config, self._state
        app: Any = config.loaded_app
        most = config.limit_concurrency
        if most is not None and (len(state.connections) >= most or len(state.tasks) >= most):
            _log.warning("Exceeded concurrency limit.")
            app = service_unavailable
        if self._cycle.waiting_for_100_continue:
            app = self._or_close(app)
        self._is_running = True
        task = asyncio.get_running_loop().create_task(self._cycle.run_asgi(app))
        state.tasks.add(task)
        task.add_done_callback(self._ended)

    def _or_close(self, app: Any) -> Any:
        """The application, whose answer is the last if it neither asks for the body nor has it.

        Nobody would know whether the body comes next, or another request.
        """

        async def answering(scope: Any, receive: Any, send: Any) -> None:
            async def telling(message: Any) -> None:
                if self._cycle.waiting_for_100_continue and not self.body_complete:
                    self.keep_alive = False
                await send(message)

            await app(scope, receive, telling)

        return answering

    def take(self, chunk: bytes) -> int:
        """A piece of the body; returns how much the application has not read."""
        self._cycle.body += chunk
        self._cycle.message_event.set()
        return len(self._cycle.body)

    def complete(self) -> None:
        """The body has come to its end."""
        self.body_complete = True
        self._cycle.more_body = False
        self._cycle.message_event.set()

    def gone(self) -> None:
        """The client went away."""
        self._cycle.disconnected = True
        self._cycle.message_event.set()
        if not self._is_running:
            self._release()

    def _answered(self) -> None:
        self._state.total_requests += 1
        self._on_answered()

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._state.tasks.discard(task)
        self._is_running = False
        self._release()

    def _release(self) -> None:
        """Let go of who holds this: no circle shall keep a request and its body."""
        self._cycle.transport = None  # type: ignore[assignment]  # nobody writes any more
        self._cycle.on_response = self._on_answered = _nothing


def _nothing() -> None:
    """What is called when a cycle that is over is answered."""
