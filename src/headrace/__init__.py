"""headrace: machine-learning models in production, from a few lines of Python."""

from __future__ import annotations

import importlib
import sys
from types import ModuleType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .application import Application as Application
    from .call import Payload as Payload
    from .call import Value as Value
    from .config import Auth as Auth
    from .config import Batching as Batching
    from .config import Fairness as Fairness
    from .config import Limits as Limits
    from .config import ServerSettings as ServerSettings
    from .dialects import Formats as Formats
    from .dialects import Messages as Messages
    from .dialects import Refusal as Refusal
    from .errors import ConfigError as ConfigError
    from .errors import HeadraceError as HeadraceError
    from .errors import ItemError as ItemError
    from .http.docs import docs_page as docs_page
    from .http.server import UvicornServer as UvicornServer
    from .http.server import uvicorn_options as uvicorn_options
    from .loadtest.result import LoadResult as LoadResult
    from .loadtest.runner import run_load_test as run_load_test
    from .loadtest.settings import LoadSettings as LoadSettings
    from .logs import RateLimit as RateLimit
    from .model import Model as Model
    from .model import model as model
    from .server import Server as Server
    from .version import __version__ as __version__

_HOMES = {
    "Application": "application",
    "Auth": "config",
    "Batching": "config",
    "ConfigError": "errors",
    "Fairness": "config",
    "Formats": "dialects",
    "HeadraceError": "errors",
    "ItemError": "errors",
    "Limits": "config",
    "LoadResult": "loadtest.result",
    "LoadSettings": "loadtest.settings",
    "Messages": "dialects",
    "Model": "model",
    "Payload": "call",
    "RateLimit": "logs",
    "Refusal": "dialects",
    "Server": "server",
    "ServerSettings": "config",
    "Value": "call",
    "UvicornServer": "http.server",
    "__version__": "version",
    "docs_page": "http.docs",
    "model": "model",
    "run_load_test": "loadtest.runner",
    "uvicorn_options": "http.server",
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


class _Package(ModuleType):
    def __setattr__(self, name: str, value: Any) -> None:
        # Whoever imports the module of this name, `headrace.model` stays the decorator.
        if name == "model" and isinstance(value, ModuleType):
            value = value.model
        super().__setattr__(name, value)


sys.modules[__name__].__class__ = _Package
