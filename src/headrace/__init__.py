"""headrace: machine-learning models in production, from a few lines of Python."""

from __future__ import annotations

import importlib
import sys
from types import ModuleType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .call import Payload as Payload
    from .config import Batching as Batching
    from .config import Limits as Limits
    from .config import ServerSettings as ServerSettings
    from .errors import ConfigError as ConfigError
    from .errors import HeadraceError as HeadraceError
    from .errors import ItemError as ItemError
    from .model import Model as Model
    from .model import model as model
    from .server import Server as Server
    from .version import __version__ as __version__

_HOMES = {
    "Batching": "config",
    "ConfigError": "errors",
    "HeadraceError": "errors",
    "ItemError": "errors",
    "Limits": "config",
    "Model": "model",
    "Payload": "call",
    "Server": "server",
    "ServerSettings": "config",
    "__version__": "version",
    "model": "model",
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
