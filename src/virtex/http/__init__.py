"""Messages over HTTP: the message, its client and its server, and a load test."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .server import http_server as Server
    from .server import http_server as http_server

__all__ = ["Server", "http_server"]


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    # Only now: a client need not load the server.
    from .server import http_server

    return http_server
