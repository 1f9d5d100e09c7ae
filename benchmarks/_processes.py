"""Servers as processes: started, ended, and what they took, all that came of them included."""

from __future__ import annotations

import contextlib
import os
import resource
import signal
import socket
import subprocess
import time
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

TICKS = os.sysconf("SC_CLK_TCK")
PAGE = os.sysconf("SC_PAGE_SIZE")
_TAG = "BENCHMARK_TREE"


class Failed(Exception):
    """A server did not start, or did not do what was asked of it."""


class ProcessTree:
    """A program and every process that came of it, those that left for another parent included.

    Args:
        command: The program.
        env: Variables beside those of this process.
        cwd: Where it runs.
        log: Where both of its outputs go.
    """

    def __init__(
        self, command: Sequence[str], *, env: Mapping[str, str], cwd: Path, log: Path
    ) -> None:
        self._tag = f"{_TAG}={uuid.uuid4().hex}"
        self._log = log
        name, _, value = self._tag.partition("=")
        with log.open("wb") as output:
            self._process = subprocess.Popen(
                command,
                env={**os.environ, **env, name: value},
                cwd=cwd,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    @property
    def pid(self) -> int:
        """Of the program itself."""
        return self._process.pid

    @property
    def pids(self) -> list[int]:
        """Of all that live."""
        parents: dict[int, int] = {}
        found = {self.pid}
        tag = self._tag.encode()
        for folder in Path("/proc").glob("[0-9]*"):
            # One that ends meanwhile is none of them any more.
            with contextlib.suppress(OSError):
                parents[int(folder.name)] = int(_stat(int(folder.name))[1])
                if tag in (folder / "environ").read_bytes().split(b"\0"):
                    found.add(int(folder.name))
        # Some write a title over their environment: those are found by their parent.
        while more := {pid for pid, parent in parents.items() if parent in found} - found:
            found |= more
        return sorted(found & parents.keys())

    @property
    def cpu_s(self) -> float:
        """User and system time so far, that of ended children included."""
        return sum(map(cpu_s, self.pids))

    @property
    def pss_bytes(self) -> int:
        """Proportional set sizes: a page that several share counts once in all."""
        return sum(map(pss_bytes, self.pids))

    def check(self) -> None:
        """Raise unless the program still runs."""
        if self._process.poll() is not None:
            raise Failed(f"ended with {self._process.returncode}: {self.last_words()}")

    def last_words(self) -> str:
        """The end of its output, on one line."""
        lines = self._log.read_text(errors="replace").split("\n")
        return " / ".join([line.strip() for line in lines if line.strip()][-3:])[-400:]

    def stop(self) -> None:
        """SIGTERM to the program; SIGKILL to what is left after a while."""
        self._process.send_signal(signal.SIGTERM)
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(timeout=15)
        left = self.pids
        for pid in left:
            with contextlib.suppress(OSError):
                os.kill(pid, signal.SIGKILL)
        self._process.wait()


@contextlib.contextmanager
def running(
    command: Sequence[str], *, env: Mapping[str, str], cwd: Path, log: Path
) -> Iterator[ProcessTree]:
    """A process tree until the block ends."""
    tree = ProcessTree(command, env=env, cwd=cwd, log=log)
    try:
        yield tree
    finally:
        tree.stop()


class Surroundings:
    """What else this machine did since this was made."""

    def __init__(self) -> None:
        self._begin = time.monotonic()
        self._others_s = _machine_s() - _own_s()

    def others_cores(self, spent_s: float = 0.0) -> float:
        """How many cores others took: not this process, programs it waited for, or `spent_s`."""
        others_s = _machine_s() - _own_s() - self._others_s - spent_s
        return round(max(0.0, others_s) / (time.monotonic() - self._begin), 3)


def _machine_s() -> float:
    """The time that all cores were busy so far, or were kept from this machine by its host."""
    fields = [int(field) for field in Path("/proc/stat").read_text().split("\n")[0].split()[1:9]]
    user, nice, system, _idle, _iowait, irq, softirq, steal = fields
    return (user + nice + system + irq + softirq + steal) / TICKS


def _own_s() -> float:
    kinds = (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)
    return sum(used.ru_utime + used.ru_stime for used in map(resource.getrusage, kinds))


def cpu_s(pid: int) -> float:
    """User and system time of a process and of its ended children; 0 if it is gone."""
    with contextlib.suppress(OSError):
        return sum(map(int, _stat(pid)[11:15])) / TICKS
    return 0.0


def rss_bytes(pid: int) -> int:
    """The resident set size of a process."""
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * PAGE


def pss_bytes(pid: int) -> int:
    """The proportional set size of a process; 0 if it is gone."""
    with contextlib.suppress(OSError):
        for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
            if line.startswith("Pss:"):
                return int(line.split()[1]) * 1024
    return 0


def children(pid: int) -> list[int]:
    """The processes that one has started itself."""
    tasks = Path(f"/proc/{pid}/task").glob("*/children")
    return [int(child) for task in tasks for child in task.read_text().split()]


def free_port() -> int:
    """A port of 127.0.0.1 that nobody has."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def wait_until(is_true: Callable[[], bool], *, within_s: float, pause_s: float = 0.02) -> None:
    """Ask again and again.

    Raises:
        Failed: It did not come true in time.
    """
    until = time.monotonic() + within_s
    while not is_true():
        if time.monotonic() > until:
            raise Failed(f"not ready within {within_s:g} s")
        time.sleep(pause_s)


def _stat(pid: int) -> list[str]:
    """The fields of /proc/PID/stat after the name: the state is the first."""
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
