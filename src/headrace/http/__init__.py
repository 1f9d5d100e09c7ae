"""The HTTP face."""

from .app import App
from .service import Service

__all__ = ["App", "Service"]
