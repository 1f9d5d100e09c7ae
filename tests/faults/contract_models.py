"""Models that break what the contract watches. They are told by their input, or by files."""

from __future__ import annotations

import os
import tempfile
import threading
import time
from contextlib import suppress
from pathlib import Path
from typing import ClassVar

from headrace import Model

FOLDER = "E2E_FOLDER"


def is_told(name: str) -> bool:
    return (Path(os.environ[FOLDER]) / name).exists()


class Canary(Model):
    """Doubles a number, unless it is told to do wrong."""

    examples: ClassVar = [1]

    def load(self) -> None:
        while is_told("hangs"):
            time.sleep(0.05)

    def predict(self, batch: list[int]) -> list[int]:
        if is_told("sleeps"):
            time.sleep(1.5)
        return [3 * n if is_told("lies") else 2 * n for n in batch]


class Leaky(Model):
    """Holds on to something each time that it is asked, until it is told to forget."""

    def load(self) -> None:
        self.kept: list[object] = []
        self.files: list[int] = []
        self.paths: list[str] = []
        self.is_over = threading.Event()

    def predict(self, batch: list[str]) -> list[str]:
        for kind in batch:
            getattr(self, kind or "nothing")()
        return batch

    def nothing(self) -> None:
        """Do nothing."""

    def file(self) -> None:
        self.files.append(os.open("/dev/null", os.O_RDONLY))

    def thread(self) -> None:
        threading.Thread(target=self.is_over.wait, args=(60,), daemon=True).start()

    def memory(self) -> None:
        self.kept.append(bytearray(b"x" * 1_000_000))

    def moment(self) -> None:
        del bytearray(b"x" * (64 << 20))[:]

    def shared(self) -> None:
        file, path = tempfile.mkstemp(prefix="headrace-leak-", dir="/dev/shm")
        os.close(file)
        self.paths.append(path)

    def temporary(self) -> None:
        file, path = tempfile.mkstemp()
        os.close(file)
        self.paths.append(path)

    def zombie(self) -> None:
        if not os.fork():
            os._exit(0)

    def forget(self) -> None:
        self.is_over.set()
        self.is_over = threading.Event()
        for file in self.files:
            os.close(file)
        for path in self.paths:
            os.unlink(path)
        self.kept, self.files, self.paths = [], [], []
        with suppress(ChildProcessError):
            while os.waitpid(-1, os.WNOHANG)[0]:
                pass
