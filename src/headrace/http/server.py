"""The HTTP server: uvicorn on a socket that listens already."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import functools
import logging
import math
import socket
import ssl
from collections.abc import Iterator, Mapping
from types import MappingProxyType
from typing import Any

import uvicorn

from ..config import Limits, ServerSettings
from ..listener import BACKLOG, Listener
from .app import App, pages
from .connection import GRACE_S, Connection
from .fastpath import FastConnection
from .insides import FIRST_TESTED, FIRST_UNTESTED, is_tested
from .refusals import Refusals
from .service import Service
from .sockets import has_unread

_log = logging.getLogger("headrace.server")


def uvicorn_options(
    limits: Limits | None = None, *, grace_s: float = GRACE_S, max_connections: int | None = None
) -> dict[str, Any]:
    """What `uvicorn.Config` takes so that its connections are bounded, and drain without loss.

    Heads are limited in size and time, answers of pipelined requests keep their order, and an idle
    connection is ended gently. For servers that are not ours; `headrace serve` has it anyway.

    Args:
        limits: Of a request's head, and of waits; default `Limits()`.
        grace_s: How long an idle connection may still bring a request when the server drains.
        max_connections: In place of the limits' own. One more is answered 503, with a Retry-After.
    """
    return _options(
        Connection.limited(limits or Limits(), grace_s=grace_s, max_connections=max_connections)
    )


def _options(connection: type[Connection]) -> dict[str, Any]:
    if is_tested():
        protocol: Any = connection
    else:
        first, last = (".".join(map(str, numbers)) for numbers in (FIRST_TESTED, FIRST_UNTESTED))
        _log.warning(
            "uvicorn %s is not one that headrace was tested with (%s to before %s): its own"
            " connections are used, which have no fast path and no limits of heads and waits",
            uvicorn.__version__,
            first,
            last,
        )
        protocol = "httptools"
    return {"http": protocol, "ws": "none", "interface": "asgi3", "server_header": False}


class UvicornServer(uvicorn.Server):
    """uvicorn, which takes what the system has accepted before it listens no more."""

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Close the listeners, and wait for the answers."""
        for listener in sockets or []:
            if isinstance(listener, Listener):
                listener.admit_no_more()
            for _ in range(self.config.backlog):
                if not has_unread(listener.fileno()):
                    break
                await asyncio.sleep(0)
        # At once: what comes in between would be reset.
        for server in self.servers:
            server.close()
        await asyncio.sleep(0)  # the last one's protocol is made in the next turn
        await super().shutdown(sockets)


_FIXED: Mapping[str, Any] = MappingProxyType(
    {
        "lifespan": "off",
        "log_config": None,
        "access_log": False,
        "proxy_headers": False,
        "backlog": BACKLOG,
    }
)


def _timeouts(settings: ServerSettings) -> dict[str, Any]:
    return {
        # Only our own connections read it, and take any number.
        "timeout_keep_alive": settings.limits.keep_alive_s,
        # Answers come first: at drain_timeout_s the engines give up what is left.
        "timeout_graceful_shutdown": math.ceil(settings.drain_timeout_s + 1.0),
    }


class _Quiet(UvicornServer):
    """A server whose signals are left to us."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Leave them alone: the server's life cycle is ours."""
        yield


class AdminServer(_Quiet):
    """What answers operators at an address of their own, where no limit of connections holds.

    Args:
        service: Of which it tells.
        settings: Timeouts.
    """

    def __init__(self, service: Service, settings: ServerSettings) -> None:
        limits = dataclasses.replace(
            settings.limits, max_connections=0, max_connections_per_client=0
        )
        connection = Connection.limited(limits, refusals=Refusals.beside(service.predict))
        app = pages(service, is_locked=False)
        options = _options(connection)
        super().__init__(uvicorn.Config(app, **options, **_FIXED, **_timeouts(settings)))


class HttpServer(_Quiet):
    """The server of `headrace serve`.

    Args:
        app: What to serve.
        settings: Timeouts.
        tls: What HTTPS is served with; None for HTTP.
    """

    def __init__(
        self, app: App, settings: ServerSettings, tls: ssl.SSLContext | None = None
    ) -> None:
        limits = settings.limits
        self._connection = (
            FastConnection.serving(app.predict, limits)
            if settings.fast_path
            else Connection.limited(limits, refusals=Refusals.beside(app.predict))
        )
        super().__init__(
            uvicorn.Config(
                app,
                **_options(self._connection),
                **_FIXED,
                **_timeouts(settings),
            )
        )
        self._tls = tls
        self._handshake_s = limits.head_timeout_s
        self._shutdown_s = limits.write_timeout_s

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Listen; uvicorn's own context cannot be renewed, and its waits cannot be set."""
        if self._tls is None:
            await super().startup(sockets)
            return
        await super().startup([])
        protocol: Any = self.config.http_protocol_class
        make = functools.partial(
            protocol,
            config=self.config,
            server_state=self.server_state,
            app_state={},
        )
        for listener in sockets or ():
            server = await asyncio.get_running_loop().create_server(
                make,
                sock=listener,
                ssl=self._tls,
                ssl_handshake_timeout=self._handshake_s,
                ssl_shutdown_timeout=self._shutdown_s,
                backlog=BACKLOG,
            )
            self.servers.append(server)

    def forget_heads(self) -> None:
        """Keep no head of a request: an API key that is in one may be nobody's any more."""
        if issubclass(self._connection, FastConnection):
            self._connection.memos.clear()
        for connection in self.server_state.connections:
            if isinstance(connection, FastConnection):
                connection.forget()

    def finish(self) -> None:
        """From now on each answer tells its client that the connection ends with it.

        So those who go on asking until the server drains do it on connections that end without
        a request on its way to them.
        """
        self._connection.is_leaving = True
        for connection in self.server_state.connections:
            if isinstance(connection, Connection):
                connection.finish()
