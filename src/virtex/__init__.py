"""Virtex: the message-first face of headrace.

A `RequestHandler` answers messages of any number of elements, which `http_server` batches across
messages; `HttpClient` sends them, and `HttpLoadTest` measures.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .core.worker import VirtexWorker as VirtexWorker
    from .http.client import HttpClient as HttpClient
    from .http.load_test import HttpLoadTest as HttpLoadTest
    from .http.message import HttpMessage as HttpMessage
    from .http.server import http_server as http_server
    from .inference import RequestHandler as RequestHandler

    HttpServer = http_server

_HOMES = {
    "HttpClient": ("http.client", "HttpClient"),
    "HttpLoadTest": ("http.load_test", "HttpLoadTest"),
    "HttpMessage": ("http.message", "HttpMessage"),
    "HttpServer": ("http.server", "http_server"),
    "RequestHandler": ("inference", "RequestHandler"),
    "VirtexWorker": ("core.worker", "VirtexWorker"),
    "http_server": ("http.server", "http_server"),
}

__all__ = sorted(_HOMES)


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    module, attribute = _HOMES[name]
    value = getattr(importlib.import_module(f".{module}", __name__), attribute)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return [*globals(), *_HOMES]
