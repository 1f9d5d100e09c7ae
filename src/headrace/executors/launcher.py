"""Starts worker processes: spawned, each with its share of the machine, and nothing inherited."""

from __future__ import annotations

import os
import secrets
import signal
import socket
import subprocess
import sys
from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import NamedTuple

from ..config import Workers
from ..workers.mark import Mark, create_memory
from ..workers.resources import (
    DEVICE_VARIABLE,
    THREAD_VARIABLES,
    cpus_of,
    devices_of,
    threads_of,
)
from ..workers.start import Start

SECRET_BYTES = 32


class Launch(NamedTuple):
    """What all workers of a server have in common.

    Attributes:
        settings: Their share of the machine.
        log_level: As the server's.
        log_format: As the server's.
    """

    settings: Workers
    log_level: str = "info"
    log_format: str = "auto"


class Worker:
    """A process that was started, and this side's end of everything shared with it.

    Attributes:
        secret: What it proves itself by.
        mark: What it is at.
        crash_fd: Where its interpreter reports a fatal signal.
        pid_fd: Readable once it has ended.

    Args:
        target: What it serves.
        seat: Its place among the replicas.
        seats: How many replicas there are.
        launch: What all workers have in common.

    Raises:
        OSError: There is no process, memory or descriptor to be had.
    """

    def __init__(self, target: str, seat: int, seats: int, launch: Launch) -> None:
        self.secret = secrets.token_bytes(SECRET_BYTES)
        self._fds = [create_memory("mark"), create_memory("crash")]
        try:
            self.mark = Mark(self._fds[0])
            self.crash_fd = self._fds[1]
            self._socket, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
        except OSError:
            self._close_fds()
            raise
        try:
            self._process = self._spawn(target, seat, seats, launch, theirs)
            self.pid_fd = os.pidfd_open(self._process.pid)
        except OSError:
            self._socket.close()
            self._close_fds()
            raise
        finally:
            theirs.close()

    def share_socket(self) -> socket.socket:
        """Connected to the worker; the caller's to close."""
        return self._socket.dup()

    def hang_up(self) -> None:
        """Let the worker see the end of the connection, once it has read what was sent."""
        with suppress(OSError):
            self._socket.shutdown(socket.SHUT_WR)

    @property
    def pid(self) -> int:
        return self._process.pid

    def exit_code(self) -> int | None:
        """As `subprocess` gives it, negative for a signal; None while it runs."""
        return self._process.poll()

    def rss_bytes(self) -> int:
        """The memory that it has resident; 0 if it has ended."""
        try:
            with open(f"/proc/{self.pid}/statm", "rb") as statm:
                return int(statm.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")
        except (OSError, IndexError):
            return 0

    def kill(self) -> None:
        """End it at once, and what it has spawned, but for what left its process group."""
        # Once its end was seen, the number may be another's.
        if self._process.returncode is None:
            with suppress(ProcessLookupError, PermissionError):
                os.killpg(self.pid, signal.SIGKILL)

    def wait(self, timeout_s: float) -> bool:
        """Wait for its end; False if it runs on."""
        try:
            self._process.wait(timeout_s)
        except subprocess.TimeoutExpired:
            return False
        return True

    def close(self) -> None:
        """Give back what this side holds; the process has ended."""
        os.close(self.pid_fd)
        self._socket.close()
        self._close_fds()

    def _close_fds(self) -> None:
        for fd in self._fds:
            os.close(fd)
        self._fds = []

    def _spawn(
        self, target: str, seat: int, seats: int, launch: Launch, theirs: socket.socket
    ) -> subprocess.Popen[bytes]:
        settings = launch.settings
        cpus = sorted(os.sched_getaffinity(0))
        start = Start(
            secret=self.secret,
            fd=theirs.fileno(),
            mark_fd=self._fds[0],
            crash_fd=self._fds[1],
            parent=os.getpid(),
            cpus=cpus_of(seat, seats, cpus) if settings.pin_cpus else None,
            niceness=settings.niceness,
            devices=settings.devices,
            seat=seat,
            log_level=launch.log_level,  # type: ignore[arg-type]  # checked where it was set
            log_format=launch.log_format,  # type: ignore[arg-type]  # as above
        )
        return subprocess.Popen(
            [sys.executable, "-m", "headrace.workers", target],
            env=environment(os.environ, start, settings, seat, seats, cpus),
            stdin=subprocess.DEVNULL,
            pass_fds=[theirs.fileno(), *self._fds],
            process_group=0,
        )


def environment(
    base: Mapping[str, str],
    start: Start,
    settings: Workers,
    seat: int,
    seats: int,
    cpus: Sequence[int],
) -> dict[str, str]:
    """A worker's environment: the front's, its orders, and its share of threads and devices."""
    own = {**base, **start.to_environment()}
    threads = settings.threads or threads_of(seats, len(cpus))
    for name in THREAD_VARIABLES:
        own.setdefault(name, str(threads))
    if settings.devices:
        own[DEVICE_VARIABLE] = devices_of(seat, settings.devices)
    return own
