"""What the system knows of a server's processes."""

from __future__ import annotations

import os
import signal
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

from tests.e2e.conftest import Served
from tests.e2e.models import FOLDER

SLACK_BYTES = 2 << 20
"""What the server's memory may grow by over many rounds."""


def tree(server: Served) -> set[int]:
    """All processes that live and came of a server, whoever is their parent now."""
    mark = f"{FOLDER}={server.folder}".encode()
    found = set()
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            with suppress(OSError):
                if mark in (entry / "environ").read_bytes().split(b"\0"):
                    found.add(int(entry.name))
    return found


def workers(server: Served) -> set[int]:
    """The server's own children that live."""
    return {pid for pid, state in children(server).items() if state != "Z"}


def zombies(server: Served) -> int:
    return sum(state == "Z" for state in children(server).values())


def children(server: Served) -> dict[int, str]:
    """The states of the server's own children."""
    states = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            with suppress(OSError):
                state, parent = (entry / "stat").read_text().rpartition(")")[2].split()[:2]
                if int(parent) == server.process.pid:
                    states[int(entry.name)] = state
    return states


def lives(pid: int) -> bool:
    with suppress(OSError):
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    return False


def kill(pid: int) -> None:
    with suppress(ProcessLookupError):
        os.kill(pid, signal.SIGKILL)


def noted(server: Served, name: str) -> list[int]:
    """The numbers that models have noted in a file."""
    path = server.folder / name
    return [int(line) for line in path.read_text().split()] if path.exists() else []


class Held(NamedTuple):
    """What a server holds that must not grow."""

    fds: int
    threads: int
    zombies: int
    files: int


def held(server: Served) -> Held:
    proc = Path(f"/proc/{server.process.pid}")
    temporary = list((server.folder / "tmp").glob("**/*"))
    shared = [path for path in Path("/dev/shm").iterdir() if "headrace" in path.name]
    return Held(
        fds=len(list((proc / "fd").iterdir())),
        threads=len(list((proc / "task").iterdir())),
        zombies=zombies(server),
        files=len(temporary) + len(shared),
    )


def rss_bytes(server: Served) -> int:
    pages = int(Path(f"/proc/{server.process.pid}/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE")


def peak_bytes(server: Served) -> int:
    """The most memory that the server's process has had resident, since that was last forgotten."""
    status = Path(f"/proc/{server.process.pid}/status").read_text()
    return next(int(line.split()[1]) for line in status.splitlines() if "VmHWM" in line) << 10


def size_bytes(server: Served) -> int:
    """The memory that a process has, used or not."""
    pages = int(Path(f"/proc/{server.process.pid}/statm").read_text().split()[0])
    return pages * os.sysconf("SC_PAGE_SIZE")


def cpu_s(server: Served) -> float:
    """The processor time that a server's own process has had."""
    fields = Path(f"/proc/{server.process.pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
