"""Models for the tests of worker processes; what they see goes into a folder."""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import platform
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import ClassVar

from headrace import Batching, Model

FOLDER = "TARGETS_FOLDER"
SLOW_END_S = 0.3
SYS_EXIT = {"x86_64": 60, "aarch64": 93}[platform.machine()]
"""Ends a thread only, as the library's `exit` does not."""

CHILD = """
import json, os, sys
fds = [fd for fd in os.listdir("/proc/self/fd") if int(fd) > 2]
links = []
for fd in fds:
    try:
        links.append(os.readlink(f"/proc/self/fd/{fd}"))
    except OSError:
        pass
print(json.dumps({"environ": dict(os.environ), "links": links}))
"""


def path(name: str) -> Path:
    return Path(os.environ[FOLDER]) / name


def whisper(text: str) -> None:
    """Tell a test that has its ear open."""
    with contextlib.suppress(OSError):
        fd = os.open(path("ear"), os.O_WRONLY | os.O_NONBLOCK)
        os.write(fd, text.encode() + b"\n")
        os.close(fd)


def end_slowly() -> None:
    """End by a signal, as a process does whose last steps wait for the processor.

    The first thread is gone, by which the system marks an end that has begun; so are the files.
    """

    def rest() -> None:
        os.closerange(3, 64)
        time.sleep(SLOW_END_S)
        os.kill(os.getpid(), signal.SIGKILL)

    threading.Thread(target=rest).start()
    ctypes.CDLL(None).syscall(SYS_EXIT, 0)


class Looking(Model):
    """Notes what the user's code and its children find in their process."""

    examples: ClassVar = [0]

    def load(self) -> None:
        command = [sys.executable, "-c", CHILD]
        child = subprocess.run(command, close_fds=False, capture_output=True, check=True)
        seen = {
            "argv": sys.argv,
            "environ": dict(os.environ),
            "child": json.loads(child.stdout),
            "cpus": sorted(os.sched_getaffinity(0)),
            "niceness": os.nice(0),
        }
        path(f"seen {os.getpid()}").write_text(json.dumps(seen))

    def predict(self, batch: list[int]) -> list[int]:
        return batch


class Obeying(Model):
    """Doubles numbers; some numbers, and some files, are orders."""

    batching: ClassVar = Batching(max_batch_size=4)
    examples: ClassVar = [0]

    def load(self) -> None:
        if path("load raises").exists():
            raise OSError("no weights")
        if path("load exits").exists():
            os._exit(9)
        while path("load waits").exists():
            time.sleep(0.005)

    def predict(self, batch: list[int]) -> list[int]:
        if path("broken").exists():
            raise RuntimeError("out of memory")
        for n in batch:
            if n == -1:
                os._exit(3)
            if n == -2:
                whisper("hanging")
                time.sleep(1000)
            if n == -3:
                os.closerange(3, 64)
                time.sleep(1000)
            if n == -4:
                subprocess.Popen(["sleep", "1000"], close_fds=False)
            if n == -5:
                end_slowly()
        return [2 * n for n in batch]

    def unload(self) -> None:
        whisper("unloaded")


class Turning(Model):
    """Turns bytes around; ends its process at those that begin with an x."""

    batching: ClassVar = Batching(max_batch_size=4)

    def predict(self, batch: list[bytes]) -> list[bytes]:
        if any(body[:1] == b"x" for body in batch):
            os._exit(3)
        return [body[::-1] for body in batch]


BOTH = [Looking, Obeying]
"""A target of two models."""
