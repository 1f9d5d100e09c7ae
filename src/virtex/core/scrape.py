"""Metrics over HTTP, each process on a port of its own."""

from __future__ import annotations

import errno
import socket
import socketserver
import threading
from http.server import ThreadingHTTPServer
from typing import Any

from prometheus_client import CollectorRegistry, MetricsHandler

from .logging import LOGGER

MAX_PORTS = 1000
"""Ports that are tried."""

CLIENT_TIMEOUT_S = 10.0
"""A client that neither sends nor reads for so long is let go."""


class Exposition:
    """An HTTP server in a daemon thread that answers every GET with a registry's metrics.

    Args:
        registry: Whose metrics.
        host: The address to listen on, or its name.
        port: The port; 0 for any that is free.

    Raises:
        OSError: It cannot listen there.
    """

    def __init__(self, registry: CollectorRegistry, host: str, port: int) -> None:
        self._server = _Server(registry, host, port)
        self.host = host
        self.port = self._server.server_port
        threading.Thread(
            target=self._server.serve_forever, name="virtex-metrics", daemon=True
        ).start()

    def close(self) -> None:
        """Listen no more; takes up to half a second."""
        self._server.shutdown()
        self._server.server_close()

    def __str__(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"http://{host}:{self.port}/metrics"


class _Server(ThreadingHTTPServer):
    # Ports are told apart by the refusal of a second listener.
    allow_reuse_port = False

    def __init__(self, registry: CollectorRegistry, host: str, port: int) -> None:
        family, _, _, _, address = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        self.address_family = family
        handler = MetricsHandler.factory(registry)
        handler.timeout = CLIENT_TIMEOUT_S  # type: ignore[attr-defined]  # the factory says type
        super().__init__(address[:2], handler)  # type: ignore[arg-type]

    def server_bind(self) -> None:
        # HTTPServer's would ask a name server for the host's full name, which may take seconds.
        socketserver.TCPServer.server_bind(self)
        self.server_name, self.server_port = self.server_address[:2]  # type: ignore[assignment]

    def handle_error(self, request: Any, client_address: Any) -> None:
        LOGGER.debug("a scrape failed", exc_info=True)


def first_free(registry: CollectorRegistry, host: str, port: int) -> Exposition:
    """Serve on a port, or on the next one upward that nobody listens on.

    Raises:
        OSError: `MAX_PORTS` are taken, or the host is not this machine's.
    """
    last = min(port + MAX_PORTS - 1, 65535)
    for candidate in range(port, last + 1):
        try:
            return Exposition(registry, host, candidate)
        except OSError as error:
            if error.errno != errno.EADDRINUSE:
                where = f"{host}, port {candidate}"
                raise OSError(
                    error.errno, f"metrics_host, metrics_port: cannot listen on {where}: {error}"
                ) from None
    raise OSError(
        errno.EADDRINUSE, f"metrics_port: expected a free port from {port} to {last}, found none"
    )


class Scrape:
    """An exporter that serves metrics on a port, or the next free one upward.

    Args:
        name: The service.
        registry: Whose metrics.
        host: The address to listen on.
        port: The first port to try.
    """

    def __init__(self, name: str, registry: CollectorRegistry, host: str, port: int) -> None:
        self._name = name
        self._registry = registry
        self._host = host
        self._port = port
        self._exposition: Exposition | None = None

    def start(self) -> None:
        self._exposition = first_free(self._registry, self._host, self._port)
        LOGGER.info("metrics of %s are served at %s", self._name, self._exposition)

    def stop(self) -> None:
        exposition, self._exposition = self._exposition, None
        if exposition is not None:
            exposition.close()
