"""SIGHUP from the start of a command on."""

from __future__ import annotations

import signal
from typing import TYPE_CHECKING

from ..config import ServerSettings
from ..credentials import can_reload

if TYPE_CHECKING:
    from ..server import Server


class Hangups:
    """Keeps a SIGHUP that comes before there is a server to read its files of secrets again.

    Args:
        settings: Without such files the signal is left to what it does by itself.
    """

    def __init__(self, settings: ServerSettings) -> None:
        self._has_come = False
        self._server: Server | None = None
        if can_reload(settings):
            signal.signal(signal.SIGHUP, self._take)

    def hand_to(self, server: Server) -> None:
        """Tell a server of what has come, and of what will."""
        self._server = server
        if self._has_come:
            server.reload()

    def _take(self, number: int, frame: object) -> None:
        self._has_come = True
        if self._server is not None:
            self._server.reload()
