"""The server: puts the parts together, and takes them through start, drain and stop.

Start: listen, then load; `/livez` answers meanwhile, `/readyz` says no until every model is ready.
Drain, on SIGTERM or SIGINT: not ready at once; for `drain_delay_s` connections and requests are
still taken; then the listener closes, what was accepted is answered, and the replicas stop. A
second signal ends the delay and shortens the rest.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import signal
import socket
import threading
from collections.abc import Callable
from typing import Any

import uvloop

from .card import ModelCard
from .clock import system_clock
from .config import ServerSettings
from .engine import Engine
from .errors import ConfigError
from .executors import Executor, InlineExecutor, ThreadExecutor
from .http import App, Service
from .http.listener import BindError, HttpServer, address_of, listening, remover_of
from .model import Model
from .replica import Replica
from .targets import MakeModel, models_of
from .version import __version__

EXIT_OK = 0
EXIT_CONFIG = 2
EXIT_BIND = 3
EXIT_NOT_READY = 4
EXIT_HUNG = 5

HASTENED_DRAIN_S = 5.0
"""What a second signal leaves of the drain."""
HUNG_DELAY_S = 1.0
"""How long a server with a hung replica tells so at /livez before it goes."""
LAST_ANSWERS_S = 0.5
"""What the last answers get to be written, when a drain has taken too long."""
UNLOAD_TIMEOUT_S = 3.0
"""What all replicas together get to unload."""
STUCK_S = 1.0
"""How much later than the event loop a watching thread ends a start that takes too long."""

_log = logging.getLogger("headrace.server")


class Server:
    """Serves models until it is told to stop.

    Attributes:
        address: Where it listens, once it does.
        is_stuck: Whether model code still ran when `run` came back: threads of it may keep the
            process from ending.

    Args:
        models: A Model class, a Model, a function under `@model`, or a list or dict of those;
            the first is the default model.
        settings: Default `ServerSettings()`.
        on_ready: Called with the server when all models are ready.

    Raises:
        ConfigError: A model cannot be served, or two have one name.

    Example:
        `Server([Sentiment], ServerSettings(port=8080)).run()`
    """

    def __init__(
        self,
        models: Any,
        settings: ServerSettings | None = None,
        *,
        on_ready: Callable[[Server], None] = lambda server: None,
    ) -> None:
        self.settings = settings or ServerSettings()
        self._on_ready = on_ready
        self._models = [_Served(make, self.settings) for make in models_of(models, where="models")]
        names = [served.card.name for served in self._models]
        for name in names:
            if names.count(name) > 1:
                raise ConfigError(f"models: expected different names, got {name!r} twice")
        if not names:
            raise ConfigError("models: expected at least one, got none")
        if self.settings.executor == "inline" and self.settings.replicas > 1:
            raise ConfigError(
                f"replicas: expected 1 with executor 'inline', got {self.settings.replicas}"
            )
        self._run: _Run | None = None
        self._stop_wanted = False
        self.address = ""
        self.is_stuck = False
        self._remove_socket: Callable[[], None] = lambda: None

    @property
    def cards(self) -> list[ModelCard]:
        """The models' cards, in order."""
        return [served.card for served in self._models]

    def run(self, listener: socket.socket | None = None) -> int:
        """Serve until SIGTERM or SIGINT, which are taken over in the main thread.

        Args:
            listener: A listening socket; default by the settings.

        Returns:
            The exit code: 0 after a drain, 3 if the address cannot be had, 4 if a model did not
            become ready, 5 if an in-process replica hung.
        """
        if listener is None:
            try:
                with listening(self.settings) as bound:
                    return self.run(bound)
            except BindError as error:
                _log.error(error.message)
                return EXIT_BIND
        self.address = address_of(listener)
        self._remove_socket = remover_of(listener)
        return uvloop.run(self._serve(listener))

    def stop(self) -> None:
        """Begin to drain, as on SIGTERM; from any thread, before, during or after `run`."""
        self._stop_wanted = True
        if self._run is not None:
            self._run.stop_from_anywhere()

    async def _serve(self, listener: socket.socket) -> int:
        self._run = _Run(self, self._models, listener)
        if self._stop_wanted:
            self._run.stop_from_anywhere()
        try:
            return await self._run.serve()
        finally:
            self._run = None
            self._stop_wanted = False

    def _is_ready(self) -> None:
        self._on_ready(self)


class _Served:
    """One model of a server: how to make its replicas and its engine."""

    def __init__(self, make: MakeModel, settings: ServerSettings) -> None:
        self._make = make
        self._settings = settings
        self._prototype = make()
        self.card = self._replica_of(self._prototype).card

    def engine(self, run: _Run) -> Engine:
        """The model's engine, on the running event loop."""
        cls = type(self._prototype)
        is_sized = cls.key is not Model.key or cls.cost is not Model.cost
        return Engine(
            self.card,
            self._executor(run),
            loop=run.loop,
            limits=self._settings.limits,
            sizing=self._prototype if is_sized else None,
            on_ready=run.replica_ready,
            on_hung=lambda: run.replica_hung(self.card.name),
            on_start_failed=lambda reason: run.start_failed(self.card.name, reason),
        )

    def _executor(self, run: _Run) -> Executor:
        def make_replica() -> Replica:
            return self._replica_of(self._make())

        if self._settings.executor == "thread":
            return ThreadExecutor(
                make_replica,
                replicas=self._settings.replicas,
                loop=run.loop,
                predict_timeout_s=self._settings.limits.predict_timeout_s,
                on_hung=lambda: run.replica_hung(self.card.name),
            )
        return InlineExecutor(
            make_replica,
            loop=run.loop,
            predict_timeout_s=self._settings.limits.predict_timeout_s,
            on_hung=lambda: run.replica_hung(self.card.name),
        )

    def _replica_of(self, model: Model) -> Replica:
        return Replica(model, self._settings.limits, batching=self._settings.batching)


class _Run:
    """One run of a server on one event loop: startup, main loop, shutdown."""

    def __init__(self, server: Server, models: list[_Served], listener: socket.socket) -> None:
        self.loop = asyncio.get_running_loop()
        self._server = server
        self._settings = server.settings
        self._listener = listener
        self._engines = [served.engine(self) for served in models]
        self._service = Service(
            self._engines,
            limits=self._settings.limits,
            clock=system_clock,
            version=__version__,
        )
        self._http = HttpServer(App(self._service), self._settings)
        self._exit_code = EXIT_OK
        self._was_ready = False
        self._drain: asyncio.Task[None] | None = None
        self._hastened = asyncio.Event()

    async def serve(self) -> int:
        """From start to stop; returns the exit code."""
        with _Signals(self._signalled):
            for engine in self._engines:
                engine.open()
            start_timeout_s = self._settings.start_timeout_s
            start_timer = self.loop.call_later(start_timeout_s, self._start_timeout)
            # An inline model loads on the loop's thread, where that timer would wait for it.
            stuck_timer = threading.Timer(start_timeout_s + STUCK_S, self._stuck_in_load)
            stuck_timer.daemon = True
            stuck_timer.start()
            await self._http.serve(sockets=[self._listener])
            start_timer.cancel()
            stuck_timer.cancel()
            for engine in self._engines:
                engine.close()
            ends = system_clock() + UNLOAD_TIMEOUT_S
            stopped = [engine.join(ends - system_clock()) for engine in self._engines]
            if not all(stopped):
                self._server.is_stuck = True
                _log.warning("a replica did not stop")
        return self._exit_code

    # What the engines tell

    def replica_ready(self) -> None:
        if not self._was_ready and all(engine.is_ready for engine in self._engines):
            self._was_ready = True
            self._server._is_ready()

    def start_failed(self, name: str, reason: str) -> None:
        _log.error("a model did not become ready", extra={"model": name, "reason": reason})
        self._stop(EXIT_NOT_READY)

    def replica_hung(self, name: str) -> None:
        """A replica hangs, and with it perhaps this loop: called on any thread."""
        self._service.is_live = False
        _log.critical("a replica hangs; the server exits", extra={"model": name})
        last_resort = threading.Timer(2 * HUNG_DELAY_S + 1.0, self._exit_now, [EXIT_HUNG])
        last_resort.daemon = True
        last_resort.start()
        self._stop_soon(EXIT_HUNG)

    def _stuck_in_load(self) -> None:
        """On a thread of its own."""
        if not self._was_ready and self._drain is None:
            reason = "start_timeout_s passed: loading"
            _log.error("a model did not become ready", extra={"reason": reason})
            self._exit_now(EXIT_NOT_READY)

    def _exit_now(self, exit_code: int) -> None:
        """End the process, whatever its threads do."""
        self._server._remove_socket()
        os._exit(exit_code)

    def _start_timeout(self) -> None:
        for engine in self._engines:
            if not engine.is_ready and not self._was_ready:
                self.start_failed(engine.card.name, "start_timeout_s passed: " + engine.reason)

    # Stopping

    def stop_from_anywhere(self) -> None:
        """Begin the drain; from any thread."""
        self._stop_soon(EXIT_OK)

    def _stop_soon(self, exit_code: int) -> None:
        with contextlib.suppress(RuntimeError):  # the loop has closed: it is over already
            self.loop.call_soon_threadsafe(self._stop, exit_code)

    def _signalled(self) -> None:
        """In the main thread, between any two instructions of it."""
        if self._settings.executor == "inline" and not self._was_ready:
            # The loop is stuck in a model's load, and nothing was accepted yet.
            self._exit_now(EXIT_OK)
        self.stop_from_anywhere()

    def _stop(self, exit_code: int) -> None:
        """Begin the drain, or hasten the one that is under way."""
        if self._drain is not None:
            self._hastened.set()
            return
        self._exit_code = exit_code
        self._drain = self.loop.create_task(self._drain_and_exit())

    async def _drain_and_exit(self) -> None:
        self._service.is_draining = True
        delay_s = {EXIT_OK: self._settings.drain_delay_s, EXIT_HUNG: HUNG_DELAY_S}
        await self._unless_hastened(delay_s.get(self._exit_code, 0.0))
        self._http.should_exit = True
        self.loop.call_later(self._settings.drain_timeout_s, self._give_up)
        await self._hastened.wait()
        self.loop.call_later(HASTENED_DRAIN_S, self._give_up)

    async def _unless_hastened(self, seconds: float) -> None:
        try:
            async with asyncio.timeout(seconds):
                await self._hastened.wait()
        except TimeoutError:
            pass

    def _give_up(self) -> None:
        """Answer what is left: it was not done in the time that a drain has."""
        for engine in self._engines:
            engine.close()
        # Who has not sent all of a request, or does not read an answer, is waited for no longer.
        self.loop.call_later(LAST_ANSWERS_S, self._leave)

    def _leave(self) -> None:
        self._http.force_exit = True


class _Signals:
    """Takes SIGINT and SIGTERM over for a while; only the main thread can, others leave them."""

    def __init__(self, callback: Callable[[], None]) -> None:
        self._callback = callback
        self._before: dict[int, Any] = {}

    def __enter__(self) -> None:
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGINT, signal.SIGTERM):
                self._before[number] = signal.signal(number, lambda *_: self._callback())

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)
