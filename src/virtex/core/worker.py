"""The worker class for gunicorn: `--worker-class virtex.VirtexWorker`."""

from __future__ import annotations

import logging
import sys
from typing import Any

from headrace import Application, Limits, UvicornServer, uvicorn_options

try:
    from gunicorn.arbiter import Arbiter  # type: ignore[import-untyped]
    from uvicorn_worker import UvicornWorker
except ModuleNotFoundError as error:
    raise ModuleNotFoundError(
        'virtex.VirtexWorker needs gunicorn and uvicorn-worker: pip install "headrace[virtex]"',
        name=error.name,
    ) from error


IDLE_GRACE_S = 2.0
"""How long an idle connection may still bring a request to a worker that goes: longer than
`HttpClient` keeps one, so that it loses none."""
LAST_WORDS_S = 3.0


class VirtexWorker(UvicornWorker):  # type: ignore[misc]  # it carries no types
    """A worker process of gunicorn that serves an ASGI application on one event loop.

    gunicorn's options do what they say: besides those that uvicorn-worker knows (`--keep-alive`,
    `--max-requests` and its jitter, `--timeout`, TLS), `--worker-connections` bounds the
    connections (one more is answered 503, with a Retry-After), `--graceful-timeout` the end, and
    `--limit-request-fields` the headers. A worker that has had its `--max-requests` answers what
    it was sent before it goes. What virtex logs goes to gunicorn's error log.
    """

    wsgi: Any

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        for name in ("virtex", "headrace.server"):
            logger = logging.getLogger(name)
            logger.handlers = self.log.error_log.handlers
            logger.propagate = False
            if not logger.level:
                logger.setLevel(self.log.error_log.level)
        graceful_s = float(self.cfg.graceful_timeout)
        # gunicorn kills what is there after its timeout: the metrics' last words come before.
        self.config.timeout_graceful_shutdown = max(graceful_s / 2, graceful_s - LAST_WORDS_S)
        options = uvicorn_options(
            Limits(max_headers=self.cfg.limit_request_fields),
            grace_s=min(IDLE_GRACE_S, graceful_s / 4),
            max_connections=self.cfg.worker_connections,
        )
        for option, value in options.items():
            setattr(self.config, option, value)

    def load_wsgi(self) -> None:
        super().load_wsgi()
        if isinstance(self.wsgi, Application):
            # uvicorn calls an application to see if it is a factory; ours would say yes.
            self.wsgi = self.wsgi.serve
            self.config.lifespan = "on"

    async def _serve(self) -> None:
        self.config.app = self.wsgi
        server = UvicornServer(self.config)
        self._install_sigquit_handler()
        # The sockets themselves: of gunicorn's wrappers uvloop and uvicorn would each close one.
        await server.serve(sockets=[listener.sock for listener in self.sockets])
        if not server.started:
            sys.exit(Arbiter.WORKER_BOOT_ERROR)
