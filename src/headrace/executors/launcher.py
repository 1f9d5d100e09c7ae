"""Starts worker processes: spawned, each with its share of the machine and no open files else."""

from __future__ import annotations

import math
import mmap
import os
import secrets
import select
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from typing import NamedTuple

from ..config import Workers, env_name
from ..wire import Memory
from ..workers.mark import Mark, create_memory
from ..workers.memory import SharedMemory, create_segments
from ..workers.resources import (
    DEVICE_VARIABLE,
    THREAD_VARIABLES,
    cpus_of,
    devices_of,
    threads_of,
)
from ..workers.start import Start

SECRET_BYTES = 32
PF_EXITING = 0x4
"""Of a process's flags, since Linux had any: it is past the point from which it can come back."""


class Launch(NamedTuple):
    """What all workers of a server have in common.

    Attributes:
        settings: Their share of the machine.
        start_timeout_s: How long one may take to get ready.
        log_level: As the server's.
        log_format: As the server's.
    """

    settings: Workers
    start_timeout_s: float = 600.0
    log_level: str = "info"
    log_format: str = "auto"


class Worker:
    """A process that was started, and this side's end of everything shared with it.

    Attributes:
        secret: What it proves itself by.
        mark: What it is at.
        crash_fd: Where its interpreter reports a fatal signal.
        memory: Shared for large bodies; None for none.
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
        with ExitStack() as held:
            mark_fd, self.crash_fd = (_memory(name, held) for name in ("mark", "crash"))
            self.mark = Mark(mark_fd)
            held.callback(self.mark.close)
            self.memory: Memory | None = None
            self._socket, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
            held.enter_context(self._socket)
            with theirs, self._share(launch.settings.shared_memory_bytes, held) as memory_fd:
                self._lent: socket.socket | None = self._socket.dup()
                held.callback(self._close_lent)
                shared = (theirs.fileno(), mark_fd, self.crash_fd, memory_fd)
                self._process = _launch(target, self.secret, seat, seats, launch, shared)
            self.pid_fd = _pid_fd(self._process)
            held.callback(os.close, self.pid_fd)
            self._held = held.pop_all()

    @contextmanager
    def _share(self, size: int, held: ExitStack) -> Iterator[int | None]:
        """Map memory for large bodies; gives its descriptor, for the worker."""
        if not size:
            yield None
            return
        fd = create_segments(-(-size // mmap.PAGESIZE) * mmap.PAGESIZE)
        try:
            shared = SharedMemory(fd, "front")
            held.callback(shared.close)
            self.memory = shared.memory
            yield fd
        finally:
            os.close(fd)

    def share_socket(self) -> socket.socket:
        """Connected to the worker; the caller's to close. It is to be had once."""
        lent, self._lent = self._lent, None
        assert lent is not None
        return lent

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

    def is_exiting(self) -> bool:
        """Whether its end has begun: the system closes its files before it tells of that."""
        try:
            with open(f"/proc/{self.pid}/stat", "rb") as stat:
                # Behind the name, which may hold anything: state, five numbers, flags.
                flags = stat.read().rpartition(b")")[2].split()[6]
        except (OSError, IndexError):
            return True
        return bool(int(flags) & PF_EXITING)

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
            with suppress(ProcessLookupError):  # should it have left its group
                signal.pidfd_send_signal(self.pid_fd, signal.SIGKILL)

    def wait(self, timeout_s: float) -> bool:
        """Wait for its end; False if it runs on. What it has spawned can still be killed after."""
        poll = select.poll()
        poll.register(self.pid_fd, select.POLLIN)
        return bool(poll.poll(math.ceil(timeout_s * 1000)))

    def close(self) -> None:
        """Give back what this side holds; the process has ended."""
        self._process.poll()
        self._held.close()

    def _close_lent(self) -> None:
        if self._lent is not None:
            self._lent.close()


def _memory(name: str, held: ExitStack) -> int:
    fd = create_memory(name)
    held.callback(os.close, fd)
    return fd


def _pid_fd(process: subprocess.Popen[bytes]) -> int:
    try:
        return os.pidfd_open(process.pid)
    except OSError:
        process.kill()
        process.wait()
        raise


def _launch(
    target: str,
    secret: bytes,
    seat: int,
    seats: int,
    launch: Launch,
    shared: tuple[int, int, int, int | None],
) -> subprocess.Popen[bytes]:
    """Start a worker with its ends of the socket, the mark and the crash report."""
    settings = launch.settings
    cpus = sorted(os.sched_getaffinity(0))
    fd, mark_fd, crash_fd, memory_fd = shared
    start = Start(
        secret=secret,
        fd=fd,
        mark_fd=mark_fd,
        crash_fd=crash_fd,
        memory_fd=memory_fd,
        parent=os.getpid(),
        cpus=cpus_of(seat, seats, cpus) if settings.pin_cpus else None,
        niceness=settings.niceness,
        devices=settings.devices,
        seat=seat,
        log_level=launch.log_level,  # type: ignore[arg-type]  # checked where it was set
        log_format=launch.log_format,  # type: ignore[arg-type]  # as above
    )
    return spawn(target, start, environment(os.environ, start, settings, seats, cpus))


def spawn(target: str, start: Start, environ: Mapping[str, str]) -> subprocess.Popen[bytes]:
    """Start a worker's process: in a group of its own, with the descriptors that it is told of.

    Raises:
        OSError: There is no process to be had.
    """
    fds = (start.fd, start.mark_fd, start.crash_fd, start.memory_fd)
    shared = (fd for fd in fds if fd is not None)
    return subprocess.Popen(
        [sys.executable, "-m", "headrace.workers", target],
        env=environ,
        stdin=subprocess.DEVNULL,
        pass_fds=tuple(shared),
        # ^C on a terminal is the parent's to pass on.
        process_group=0,
    )


def environment(
    base: Mapping[str, str],
    start: Start,
    settings: Workers,
    seats: int,
    cpus: Sequence[int],
) -> dict[str, str]:
    """A worker's environment: the front's, its orders, and its share of threads and devices.

    The API keys are not in it: the model's code has no use for them.
    """
    own = {**base, **start.to_environment()}
    own.pop(env_name("auth.keys"), None)
    threads = settings.threads or threads_of(seats, len(cpus))
    for name in THREAD_VARIABLES:
        own.setdefault(name, str(threads))
    if settings.devices:
        own[DEVICE_VARIABLE] = devices_of(start.seat, settings.devices)
    return own
