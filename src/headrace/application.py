"""Models as an ASGI application, inside whatever server runs it: uvicorn, gunicorn, hypercorn.

The models run in that server's process, on its event loop or on threads. What only a server of our
own can do, isolation of crashes and the life cycle by signals, is `headrace.server`'s.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence
from typing import Any

from .clock import system_clock
from .config import ServerSettings
from .credentials import read_keys
from .dialects import Dialect
from .engine import Engine
from .errors import ConfigError, HeadraceError
from .hosts import OwnProcess
from .http import App, Service
from .http.asgi import Receive, Scope, Send, serve_prediction
from .metrics import HttpCounts
from .version import __version__

STOP_TIMEOUT_S = 3.0
"""What all replicas together get to unload."""

_log = logging.getLogger("headrace.server")


class Application:
    """An ASGI application that serves models.

    It binds and loads nothing until it serves: it begins with the server's lifespan, or, where a
    server has none, with the first request. A start that fails ends the server's.

    Args:
        models: As `Server` takes them; objects, too, as they stay in this process.
        settings: Its limits, batching, replicas and executor, which is inline or thread; default
            `ServerSettings(executor="inline")`. Addresses and signals are the server's affair.
        dialect: Asks the first model in this one dialect at every path; default all that
            `headrace serve` answers, its pages included.

    Raises:
        ConfigError: A model cannot be served, two have one name, the executor is another, or the
            API keys cannot be read.

    Example:
        `app = Application([Sentiment])` in `service.py`, and `uvicorn service:app`.
    """

    def __init__(
        self,
        models: Any,
        settings: ServerSettings | None = None,
        *,
        dialect: Dialect | None = None,
    ) -> None:
        self.settings = settings or ServerSettings(executor="inline")
        if self.settings.executor not in ("inline", "thread"):
            raise ConfigError(
                "executor: expected inline or thread in an ASGI application,"
                f" got {self.settings.executor}"
            )
        self._keys = read_keys(self.settings.auth)
        self._host = OwnProcess(models, self.settings)
        self._dialect = dialect
        self._run: _Run | None = None

    @property
    def engines(self) -> Sequence[Engine]:
        """Those of the models, in order; none before it serves."""
        return self._host.engines

    @property
    def http_counts(self) -> HttpCounts:
        """What was answered since it began to serve."""
        return HttpCounts() if self._run is None else self._run.service.counts

    def on_startup(self) -> None:
        """Called on the event loop when it begins to serve; for subclasses."""

    def on_shutdown(self) -> None:
        """Called when it has ended; for subclasses."""

    def reload(self) -> None:
        """Read the API keys again: what is removed is refused from now on; on the event loop.

        Raises:
            ConfigError: They cannot be read; the old ones stay.
        """
        self._keys = read_keys(self.settings.auth)
        if self._run is not None:
            self._run.service.predict.take_keys(self._keys)

    async def startup(self) -> None:
        """Begin to serve, and wait until the models are ready.

        Raises:
            HeadraceError: One will never be, or not in `start_timeout_s`.
        """
        await self._running().wait_ready(self.settings.start_timeout_s)

    async def shutdown(self) -> None:
        """End what is not answered, and stop the models."""
        if self._run is not None:
            self._end()

    def _end(self) -> None:
        if self._run is not None:
            self._run.service.predict.rate_limit.flush()
        self._host.close()
        if not self._host.join(STOP_TIMEOUT_S):
            _log.warning("a replica did not stop")
        self.on_shutdown()
        self._run = None

    async def serve(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one ASGI scope."""
        if scope["type"] == "lifespan":
            await self._live(receive, send)
            return
        if self._dialect is not None and scope["type"] == "websocket":
            await receive()
            await send({"type": "websocket.close", "code": 1003})
            return
        run = self._running()
        if not run.is_settled.is_set():
            await run.is_settled.wait()
        if self._dialect is not None:
            predict = run.service.predict
            await serve_prediction(predict, predict.anywhere, scope, receive, send)
        else:
            await run.app(scope, receive, send)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await self.serve(scope, receive, send)

    def _running(self) -> _Run:
        """The run on this event loop.

        Raises:
            RuntimeError: It runs on another one, which has not closed.
        """
        run = self._run
        if run is not None:
            if run.loop is asyncio.get_running_loop():
                return run
            if not run.loop.is_closed():
                raise RuntimeError("the application serves on another event loop: make one of each")
            self._end()  # that loop closed without a word
        run = self._run = _Run(self._host, self.settings, self._dialect)
        run.service.predict.take_keys(self._keys)
        try:
            self._host.open(run)
            self.on_startup()
        except BaseException:
            self._end()
            raise
        return run

    async def _live(self, receive: Receive, send: Send) -> None:
        """The server's own start and end."""
        while True:
            kind = (await receive())["type"]
            if kind == "lifespan.startup":
                try:
                    await self.startup()
                except Exception as error:
                    _log.exception("the application did not start")
                    await self.shutdown()
                    await send({"type": "lifespan.startup.failed", "message": str(error)})
                    return
            else:
                await self.shutdown()
            await send({"type": f"{kind}.complete"})
            if kind == "lifespan.shutdown":
                return


class _Run:
    """One run on one event loop: what the host tells, and what serves the requests."""

    def __init__(self, host: OwnProcess, settings: ServerSettings, dialect: Dialect | None) -> None:
        self.loop = asyncio.get_running_loop()
        self.is_settled = asyncio.Event()
        self.service = Service(
            limits=settings.limits,
            fairness=settings.fairness,
            clock=system_clock,
            version=__version__,
            dialect=dialect,
        )
        self.service.collectors.append(host.metrics)
        self.app = App(self.service)
        self._host = host
        self._failed = ""

    async def wait_ready(self, timeout_s: float) -> None:
        """Wait until every model is ready.

        Raises:
            HeadraceError: One will never be, or not in time.
        """
        try:
            async with asyncio.timeout(timeout_s):
                await self.is_settled.wait()
        except TimeoutError:
            raise HeadraceError(f"the models were not ready within {timeout_s:g} s") from None
        if self._failed:
            raise HeadraceError(self._failed)

    def engines_changed(self) -> None:
        self.service.set_engines(self._host.engines)

    def all_known(self) -> None:
        self.service.complete()

    def replica_ready(self) -> None:
        if all(engine.is_ready for engine in self._host.engines):
            self.is_settled.set()

    def replica_hung(self, name: str) -> None:
        """Ending the process is for whoever runs it: gunicorn does, after its own timeout."""
        self.service.is_live = False
        _log.critical("a replica hangs", extra={"model": name})

    def start_failed(self, name: str, reason: str, exit_code: int) -> None:
        self._failed = self._failed or f"{name}: {reason}"
        self.is_settled.set()
