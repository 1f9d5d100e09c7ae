"""The server: puts the parts together, and takes them through start, drain and stop.

Start: listen, then load; `/livez` answers meanwhile, `/readyz` says no until every model is ready.
Drain, on SIGTERM or SIGINT: not ready at once; for `drain_delay_s` connections and requests are
still taken, and each answer is its connection's last; then the listener closes, what was accepted
is answered, and the replicas stop. A second signal ends the delay and shortens the rest.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import logging
import os
import signal
import socket
import threading
from collections.abc import AsyncIterator, Callable, Mapping
from typing import Any

import uvloop

from . import workers
from .card import ModelCard
from .clock import system_clock
from .config import ServerSettings
from .credentials import can_reload, read_keys
from .errors import ConfigError
from .hosts import EXIT_CONFIG, EXIT_NOT_READY, Host, host_of
from .listener import (
    BindError,
    address_of,
    admin_listening,
    is_beyond_loopback,
    listening,
    remover_of,
)
from .tls import renew, tls_context
from .version import __version__
from .workers.heap import keep_freed_memory

EXIT_OK = 0
EXIT_BIND = 3
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

UNGUARDED = (
    "Server.run: this program runs its server whenever it is imported, and worker processes import"
    ' it for its models; put the call under `if __name__ == "__main__":`'
)

_log = logging.getLogger("headrace.server")

_Handlers = Mapping[int, Callable[[], None]]
"""By the number of a signal."""


class Server:
    """Serves models until it is told to stop.

    Attributes:
        address: Where it listens, once it does.
        admin_address: Where it answers operators; empty without an address of their own.
        is_stuck: Whether model code still ran when `run` came back: threads of it may keep the
            process from ending.

    Args:
        models: A Model class, a function under `@model`, a target such as "app:Sentiment", or a
            list of those; in this process (executors thread and inline) also a Model, or a dict.
            The first is the default model.
        settings: Default `ServerSettings()`, which runs models in worker processes.
        on_ready: Called with the server when all models are ready.
        host: Where the models run, in place of what the settings say.

    Raises:
        ConfigError: A model cannot be served, or two have one name; the certificate and key of the
            settings do not belong together; or the API keys cannot be read.

    Example:
        `Server([Sentiment], ServerSettings(port=8080)).run()`, in a program under
        `if __name__ == "__main__":`, as the workers import it too.
    """

    def __init__(
        self,
        models: Any,
        settings: ServerSettings | None = None,
        *,
        on_ready: Callable[[Server], None] = lambda server: None,
        host: Host | None = None,
    ) -> None:
        self.settings = settings or ServerSettings()
        self._tls = tls_context(self.settings)
        self._keys = read_keys(self.settings.auth)
        self._on_ready = on_ready
        self._host = host or host_of(models, self.settings)
        self._run: _Run | None = None
        self._stop_wanted = self._reload_wanted = False
        self.address = self.admin_address = ""
        self.is_stuck = False
        self._remove_sockets: list[Callable[[], None]] = []

    @property
    def cards(self) -> list[ModelCard]:
        """The cards of the models that are known by now, in order."""
        return [engine.card for engine in self._host.engines]

    def run(self, listener: socket.socket | None = None) -> int:
        """Serve until SIGTERM or SIGINT, which are taken over in the main thread.

        Args:
            listener: A listening socket; default by the settings.

        Returns:
            The exit code: 0 after a drain, 3 if the address cannot be had, 4 if a model did not
            become ready, 5 if an in-process replica hung.

        Raises:
            ConfigError: A target cannot be served; it was not known before a worker imported it.
                Or this is a worker, which imports a program that runs its server at once.
        """
        if workers.is_worker:
            raise ConfigError(UNGUARDED)
        # Else a terminal that closes ends the server, as ever.
        handlers: _Handlers = {signal.SIGHUP: self.reload} if can_reload(self.settings) else {}
        try:
            with _Signals(handlers), contextlib.ExitStack() as stack:
                bound = listener or stack.enter_context(listening(self.settings))
                admin = stack.enter_context(admin_listening(self.settings))
                return self._run_on(bound, admin)
        except BindError as error:
            _log.error(error.message)
            return EXIT_BIND

    def _run_on(self, listener: socket.socket, admin: socket.socket | None) -> int:
        keep_freed_memory()
        self.address = address_of(listener, is_tls=self._tls is not None)
        removers = [remover_of(listener)]
        if admin is not None:
            self.admin_address = address_of(admin)
            removers.append(remover_of(admin))
        self._warn_of_strangers(listener, admin)
        self._remove_sockets = removers
        try:
            self._host.start()
        except BindError as error:
            _log.error(error.message)
            return EXIT_BIND
        except OSError as error:
            _log.error("a worker cannot be started", extra={"reason": str(error)})
            self._host.close()
            self._host.join(UNLOAD_TIMEOUT_S)
            return EXIT_NOT_READY
        return uvloop.run(self._serve(listener, admin))

    def _warn_of_strangers(self, listener: socket.socket, admin: socket.socket | None) -> None:
        """Say so where nobody is asked who they are, beyond this machine."""
        is_open = self._keys is None and self.settings.tls_client_ca is None
        if is_open and is_beyond_loopback(listener):
            _log.warning(
                "whoever reaches this address may ask the models: there are no API keys",
                extra={"address": self.address},
            )
        if admin is not None and is_beyond_loopback(admin):
            _log.warning(
                "whoever reaches this address sees the metrics and what is served",
                extra={"address": self.admin_address},
            )

    def scale(self, replicas: int) -> None:
        """Change the number of each model's replicas while they serve; from any thread.

        Args:
            replicas: At least 1. Those that are too many finish what they have.

        Raises:
            ConfigError: The models run in this process, or in workers of other hosts.
        """
        self._host.check_scalable()
        if self._run is not None:
            self._run.scale_from_anywhere(replicas)

    def reload(self) -> None:
        """Read the API keys and the certificate again, as on SIGHUP; from any thread.

        Before `run`, it is done as soon as that serves.

        A key that is removed is refused from then on, on open connections too; the certificate is
        shown to new ones. What cannot be read stays as it was, and a log record says why.
        """
        self._reload_wanted = True
        if self._run is not None:
            self._run.reload_from_anywhere()

    def stop(self) -> None:
        """Begin to drain, as on SIGTERM; from any thread, before, during or after `run`."""
        self._stop_wanted = True
        if self._run is not None:
            self._run.stop_from_anywhere()

    async def _serve(self, listener: socket.socket, admin: socket.socket | None) -> int:
        self._run = _Run(self, self._host, listener, admin)
        if self._reload_wanted:
            self._run.reload_from_anywhere()
        if self._stop_wanted:
            self._run.stop_from_anywhere()
        try:
            return await self._run.serve()
        finally:
            self._run = None
            self._stop_wanted = self._reload_wanted = False

    def _is_ready(self) -> None:
        self._on_ready(self)


class _Run:
    """One run of a server on one event loop: startup, main loop, shutdown."""

    def __init__(
        self,
        server: Server,
        host: Host,
        listener: socket.socket,
        admin_listener: socket.socket | None,
    ) -> None:
        # Only now: workers that were started import their own meanwhile.
        from .http import App, Service
        from .http.server import AdminServer, HttpServer

        self.loop = asyncio.get_running_loop()
        self._server = server
        self._settings = server.settings
        self._listener = listener
        self._host = host
        self._service = Service(
            limits=self._settings.limits,
            fairness=self._settings.fairness,
            clock=system_clock,
            version=__version__,
            dialect=host.dialect,
        )
        self._service.predict.take_keys(server._keys)
        self._service.collectors.append(host.metrics)
        self._service.refresh = host.refresh
        has_admin = admin_listener is not None
        self._http = HttpServer(
            App(self._service, has_admin=has_admin), self._settings, server._tls
        )
        self._admin = AdminServer(self._service, self._settings) if has_admin else None
        self._admin_listener = admin_listener
        self._exit_code = EXIT_OK
        self._wrong: str | None = None
        self._was_ready = False
        self._drain: asyncio.Task[None] | None = None
        self._hastened = asyncio.Event()

    async def serve(self) -> int:
        """From start to stop; returns the exit code."""
        handlers: _Handlers = {
            signal.SIGINT: self._signalled,
            signal.SIGTERM: self._signalled,
            signal.SIGTTIN: functools.partial(self._scale_signalled, 1),
            signal.SIGTTOU: functools.partial(self._scale_signalled, -1),
        }
        with _Signals(handlers):
            self._host.open(self)
            start_timeout_s = self._settings.start_timeout_s
            start_timer = self.loop.call_later(start_timeout_s, self._start_timeout)
            # An inline model loads on the loop's thread, where that timer would wait for it.
            stuck_timer = threading.Timer(start_timeout_s + STUCK_S, self._stuck_in_load)
            stuck_timer.daemon = True
            stuck_timer.start()
            async with self._answering_operators():
                await self._http.serve(sockets=[self._listener])
            self._service.predict.rate_limit.flush()
            start_timer.cancel()
            stuck_timer.cancel()
            self._host.close()
            if not self._host.join(UNLOAD_TIMEOUT_S):
                self._server.is_stuck = True
                _log.warning("a replica did not stop")
        if self._wrong is not None:
            raise ConfigError(self._wrong)
        return self._exit_code

    @contextlib.asynccontextmanager
    async def _answering_operators(self) -> AsyncIterator[None]:
        """Their server starts first and ends last: what a drain does, they can see."""
        if self._admin is None or self._admin_listener is None:
            yield
            return
        admin = self._admin
        task = self.loop.create_task(admin.serve(sockets=[self._admin_listener]))
        try:
            yield
        finally:
            admin.should_exit = True
            timer = self.loop.call_later(LAST_ANSWERS_S, setattr, admin, "force_exit", True)
            await task
            timer.cancel()

    # What the host tells

    def engines_changed(self) -> None:
        self._service.set_engines(self._host.engines)

    def all_known(self) -> None:
        self._service.complete()

    def replica_ready(self) -> None:
        is_ready = self._service.is_complete and all(e.is_ready for e in self._host.engines)
        if is_ready and not self._was_ready:
            self._was_ready = True
            self._server._is_ready()

    def start_failed(self, name: str, reason: str, exit_code: int) -> None:
        if exit_code == EXIT_CONFIG:
            self._wrong = reason
        else:
            _log.error("a model did not become ready", extra={"model": name, "reason": reason})
        self._stop(exit_code)

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
        for remove in self._server._remove_sockets:
            remove()
        os._exit(exit_code)

    def _start_timeout(self) -> None:
        if self._was_ready:
            return
        passed = "start_timeout_s passed: "
        for engine in self._host.engines:
            if not engine.is_ready:
                self.start_failed(engine.card.name, passed + engine.reason, EXIT_NOT_READY)
        if not self._service.is_complete:
            self.start_failed("", passed + "not every target is imported", EXIT_NOT_READY)

    # Stopping

    def stop_from_anywhere(self) -> None:
        """Begin the drain; from any thread."""
        self._stop_soon(EXIT_OK)

    def _stop_soon(self, exit_code: int) -> None:
        self._soon(self._stop, exit_code)

    def _soon(self, callback: Callable[..., None], *args: object) -> None:
        with contextlib.suppress(RuntimeError):  # the loop has closed: it is over already
            self.loop.call_soon_threadsafe(callback, *args)

    def _signalled(self) -> None:
        """In the main thread, between any two instructions of it."""
        if self._settings.executor == "inline" and not self._was_ready:
            # The loop is stuck in a model's load, and nothing was accepted yet.
            self._exit_now(EXIT_OK)
        self.stop_from_anywhere()

    def _scale_signalled(self, by: int) -> None:
        """In the main thread, as `_signalled`."""
        self._soon(self._scale, None, by)

    def scale_from_anywhere(self, replicas: int) -> None:
        """Change the number of replicas; from any thread."""
        self._soon(self._scale, replicas)

    def reload_from_anywhere(self) -> None:
        """Read again what may have changed; from any thread."""
        self._soon(self._reload)

    def _reload(self) -> None:
        if self._settings.auth.keys_file is not None:
            self._reload_keys()
        if self._server._tls is not None:
            try:
                renew(self._server._tls, self._settings)
            except ConfigError as error:
                _log.error("the old certificate stays", extra={"reason": error.message})
            else:
                _log.info("the certificate was read again")

    def _reload_keys(self) -> None:
        try:
            keys = read_keys(self._settings.auth)
        except ConfigError as error:
            _log.error("the old API keys stay", extra={"reason": error.message})
            return
        self._service.predict.take_keys(keys)
        self._http.forget_heads()
        names = [] if keys is None else sorted(keys.names)
        _log.info("API keys were read again", extra={"clients": names})

    def _scale(self, replicas: int | None, by: int = 0) -> None:
        try:
            self._host.scale(replicas, by)
        except ConfigError as error:
            _log.warning(error.message)

    def _stop(self, exit_code: int) -> None:
        """Begin the drain, or hasten the one that is under way."""
        if self._drain is not None:
            self._hastened.set()
            return
        self._exit_code = exit_code
        self._drain = self.loop.create_task(self._drain_and_exit())

    async def _drain_and_exit(self) -> None:
        self._service.is_draining = True
        self._http.finish()
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
        for engine in self._host.engines:
            engine.close()
        # Who has not sent all of a request, or does not read an answer, is waited for no longer.
        self.loop.call_later(LAST_ANSWERS_S, self._leave)

    def _leave(self) -> None:
        self._http.force_exit = True


class _Signals:
    """Takes signals over for a while; only the main thread can, others leave them."""

    def __init__(self, handlers: _Handlers) -> None:
        self._handlers = handlers
        self._before: dict[int, Any] = {}

    def __enter__(self) -> None:
        if threading.current_thread() is threading.main_thread():
            for number in self._handlers:
                self._before[number] = signal.signal(number, self._take)

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _take(self, number: int, frame: object) -> None:
        self._handlers[number]()
