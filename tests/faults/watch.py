"""What the system knows of a server's processes."""

from __future__ import annotations

import os
import signal
from collections.abc import Collection, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import NamedTuple

from tests.e2e.conftest import Served
from tests.e2e.models import FOLDER

SLACK_BYTES = 2 << 20
"""What the memory of the server, or of a worker, may grow by over many rounds."""


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
    return children_of({server.process.pid})


def children_of(parents: Collection[int]) -> dict[int, str]:
    """The states of the children of some processes."""
    states: dict[int, str] = {}
    for parent in parents:
        for tasks in Path(f"/proc/{parent}/task").glob("*/children"):
            pids: list[int] = []
            with suppress(OSError):
                pids = [int(pid) for pid in tasks.read_text().split()]
            states |= {pid: state for pid in pids if (state := state_of(pid))}
    return states


def state_of(pid: int) -> str:
    """A process's, by its letter; empty if it is gone."""
    with suppress(OSError):
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    return ""


def lives(pid: int) -> bool:
    return state_of(pid) not in ("", "Z")


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
    """What its own process holds, and what zombies its workers leave."""
    pid = server.process.pid
    temporary = list((server.folder / "tmp").glob("**/*"))
    shared = [path for path in Path("/dev/shm").iterdir() if "headrace" in path.name]
    states = children_of({pid, *workers(server)})
    return Held(
        fds=len(list(Path(f"/proc/{pid}/fd").iterdir())),
        threads=len(list(Path(f"/proc/{pid}/task").iterdir())),
        zombies=sum(state == "Z" for state in states.values()),
        files=len(temporary) + len(shared),
    )


def held_by_workers(server: Served) -> dict[int, int]:
    """The file descriptors and the threads of each, together."""
    counts = {}
    for pid in workers(server):
        with suppress(OSError):  # it may end
            folders = (Path(f"/proc/{pid}/fd"), Path(f"/proc/{pid}/task"))
            counts[pid] = sum(len(list(folder.iterdir())) for folder in folders)
    return counts


def rss_bytes(server: Served) -> int:
    """The memory of its own process."""
    return rss_of(server.process.pid)


def rss_of(pid: int) -> int:
    pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE")


def peak_bytes(server: Served) -> int:
    """The most memory that the server's process has had resident, since that was last forgotten."""
    peak = _peak_of(server.process.pid)
    assert peak is not None
    return peak


def memory_of_all(server: Served) -> dict[int, int]:
    """The memory of it and of each of its workers."""
    memory = {}
    for pid in (server.process.pid, *workers(server)):
        with suppress(OSError):
            memory[pid] = rss_of(pid)
    return memory


@contextmanager
def takes_at_most(server: Served, size: int, *, worker: int | None = None) -> Iterator[None]:
    """What is done meanwhile takes no more memory, even for a moment, in any process of it.

    Args:
        server: It and its workers.
        size: In bytes, of the server's own process.
        worker: Of each worker's; as much if it is not given.
    """
    pids = {server.process.pid, *workers(server)}
    for pid in pids:
        with suppress(OSError):
            Path(f"/proc/{pid}/clear_refs").write_text("5")  # its peak is what it has now
    before = {pid: peak for pid in pids if (peak := _peak_of(pid)) is not None}
    yield
    for pid in before:
        peak = _peak_of(pid)
        most = size if pid == server.process.pid or worker is None else worker
        assert peak is None or peak - before[pid] <= most, f"it took {peak - before[pid]} bytes"


def _peak_of(pid: int) -> int | None:
    """The most memory that a process has had; None if it is gone."""
    with suppress(OSError):
        for line in Path(f"/proc/{pid}/status").read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
    return None


def size_bytes(server: Served) -> int:
    """The memory that a process has, used or not."""
    pages = int(Path(f"/proc/{server.process.pid}/statm").read_text().split()[0])
    return pages * os.sysconf("SC_PAGE_SIZE")


def cpu_s(server: Served) -> float:
    """The processor time that a server's own process has had."""
    fields = Path(f"/proc/{server.process.pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
