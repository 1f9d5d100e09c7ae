"""A remote executor with its gate and one worker, for the suite that knows only executors."""

from __future__ import annotations

import contextlib
import secrets
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

from headrace.batching import Batch
from headrace.config import ServerSettings, Workers
from headrace.executors import Events, RemoteExecutor
from headrace.executors.remote import Gate


class OneRemoteWorker:
    """Starts `headrace worker` when it is opened, and ends it when it is closed.

    Args:
        folder: For the secret.
    """

    def __init__(self, folder: Path) -> None:
        self._secret = folder / "secret"
        self._secret.touch(mode=0o600)
        self._secret.write_text(secrets.token_hex())
        self._executor = RemoteExecutor("scripted")
        workers = Workers(listen="127.0.0.1:0", secret_file=str(self._secret))
        settings = ServerSettings(executor="remote", workers=workers)
        self._gate = Gate(settings, on_cards=lambda card: self._executor)
        self._parent: subprocess.Popen[bytes] | None = None

    def open(self, events: Events) -> None:
        self._executor.open(events)
        self._gate.bind()
        self._gate.open()
        host, port = self._gate.address
        target = "tests.contract.models:Scripted"
        where = ["--connect", f"{host}:{port}", "--secret-file", str(self._secret)]
        command = [sys.executable, "-m", "headrace", "worker", target, *where]
        self._parent = subprocess.Popen(command)

    def start(self, batch: Batch) -> None:
        self._executor.start(batch)

    def cancel(self, batch: Batch, index: int) -> None:
        self._executor.cancel(batch, index)

    def replace(self, replica: int) -> bool:
        return self._executor.replace(replica)

    def close(self) -> None:
        """The suite blocks the event loop after this, which would have ended the connections."""
        for peer in self._executor.peers.values():
            peer.tune(_shut_down)
        self._executor.close()
        self._gate.close()

    def join(self, timeout_s: float) -> bool:
        assert self._parent is not None
        self._parent.terminate()
        try:
            return self._parent.wait(timeout_s) is not None
        except subprocess.TimeoutExpired:
            self._parent.kill()
            self._parent.wait()
            return False


def _shut_down(sock: Any) -> None:
    with contextlib.suppress(OSError):
        sock.shutdown(socket.SHUT_RDWR)
