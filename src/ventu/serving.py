"""The HTTP server of `run_http`, and how what runs is told to stop."""

from __future__ import annotations

import contextlib
import signal
import socket
import threading
from collections.abc import Callable, Iterator
from typing import Any

import uvicorn

from headrace import Application, HeadraceError, UvicornServer, uvicorn_options

BACKLOG = 2048
STOP_TIMEOUT_S = 30
"""How long requests may take to be answered once it was told to stop."""


class HttpServer:
    """Serves an application on one address; a context manager that gives the address back.

    Args:
        app: What to serve.
        host: To listen on.
        port: To listen on; 0 takes a free one.

    Raises:
        OSError: It cannot listen there.
    """

    def __init__(self, app: Application, host: str, port: int) -> None:
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        self._listener = socket.create_server((host, port), family=family, backlog=BACKLOG)
        config = uvicorn.Config(
            app.serve,
            **uvicorn_options(),
            lifespan="on",
            log_config=None,
            access_log=False,
            timeout_graceful_shutdown=STOP_TIMEOUT_S,
        )
        self._server = _Server(config)

    def __enter__(self) -> HttpServer:
        return self

    def __exit__(self, *_: object) -> None:
        self._listener.close()

    @property
    def url(self) -> str:
        """Where it listens."""
        host, port, *_ = self._listener.getsockname()
        return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"

    def run(self) -> None:
        """Serve until `stop`.

        Raises:
            HeadraceError: It did not start.
        """
        try:
            self._server.run(sockets=[self._listener])
        except SystemExit:  # uvicorn's way to say that it did not start
            if self._server.started:
                raise
        if not self._server.started:
            raise HeadraceError("the service did not start; the log says why")

    def stop(self) -> None:
        """Have `run` return once all is answered; from any thread or a signal's handler."""
        self._server.should_exit = True


class _Server(UvicornServer):
    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Leave them alone: uvicorn would raise them anew once it has stopped."""
        yield


@contextlib.contextmanager
def stopped_by_signals(stop: Callable[[], None]) -> Iterator[None]:
    """Have SIGINT and SIGTERM call `stop`, once; a second one does what it did before.

    Does nothing outside the main thread.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def handle(number: int, frame: Any) -> None:
        restore()
        stop()

    def restore() -> None:
        for number, handler in before.items():
            signal.signal(number, signal.SIG_DFL if handler is None else handler)

    before: dict[int, Any] = {}
    for number in (signal.SIGINT, signal.SIGTERM):
        before[number] = signal.signal(number, handle)
    try:
        yield
    finally:
        restore()
