"""Ventu: the schema-first face of headrace.

A `Ventu` says with pydantic what a request and a response are, and how one becomes the other. It
is served over HTTP, or as a worker behind a batching service.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .config import Config as Config
    from .protocol import BatchProtocol as BatchProtocol
    from .service import create_app as create_app
    from .ventu import Ventu as Ventu

_HOMES = {
    "BatchProtocol": "protocol",
    "Config": "config",
    "Ventu": "ventu",
    "create_app": "service",
}

__all__ = sorted(_HOMES)


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(importlib.import_module(f".{_HOMES[name]}", __name__), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return [*globals(), *_HOMES]
