"""Keeps one worker for a front on another host: starts it, and again whenever it has crashed."""

from __future__ import annotations

import logging
import math
import os
import select
import signal
import subprocess
from contextlib import ExitStack, suppress
from typing import NamedTuple

from ..config import ServerSettings
from ..workers.exits import Exit
from ..workers.mark import HANDLED, WAS_READY, Mark, create_memory
from ..workers.start import Start
from .launcher import environment, spawn
from .loss import LossWatch
from .restarts import Restarts

_log = logging.getLogger("headrace.worker")


class Remote(NamedTuple):
    """Where the front is, and how both ends know each other.

    Attributes:
        address: Its host and port.
        secret: Shared with it.
        tls: How to trust it: a file of certificates, "system", or None for no TLS.
        model: Which of the target's models to serve; empty for the first.
    """

    address: tuple[str, int]
    secret: bytes
    tls: str | None = None
    model: str = ""


class Keeper:
    """The parent of a worker.

    Args:
        target: What it serves.
        remote: Where the front is.
        settings: The worker's share of the machine, and how to log.
    """

    def __init__(self, target: str, remote: Remote, settings: ServerSettings) -> None:
        self._target = target
        self._remote = remote
        self._settings = settings
        self._restarts = Restarts()
        self._stops = 0
        self._woken = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)

    def run(self) -> int:
        """Keep the worker until SIGTERM or SIGINT, in the main thread; returns the exit code.

        The worker finishes what it has then; a second signal ends it at once.
        """
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self._told_to_stop)
        while True:
            code, delay_s = self._live()
            if self._is_told():
                return Exit.STOPPED
            if not self._restarts.was_ever_ready:
                if code in (Exit.CONFIG, Exit.LOAD_FAILED):
                    return code
                if self._restarts.is_hopeless:
                    return Exit.LOAD_FAILED
            self._wait(delay_s)
            if self._is_told():
                return Exit.STOPPED

    def _is_told(self) -> bool:
        return self._stops > 0

    def _live(self) -> tuple[int, float]:
        """One worker's life: its exit code, and after how many seconds the next one is due."""
        with ExitStack() as held:
            try:
                mark_fd, crash_fd = create_memory("mark"), os.dup(2)
                held.callback(os.close, mark_fd)
                held.callback(os.close, crash_fd)
                mark = Mark(mark_fd)
                held.callback(mark.close)
                process = self._spawn(mark_fd, crash_fd)
            except OSError as error:
                _log.error("a worker cannot be started", extra={"reason": str(error)})
                return 1, self._restarts.ended(was_ready=False, items=0)
            code = self._wait_for(process, LossWatch(mark))
            was_ready, items = bool(mark.slots[WAS_READY]), int(bool(mark.slots[HANDLED]))
        if was_ready:
            self._restarts.was_ready(0.0)
        delay_s = self._restarts.ended(was_ready=was_ready, items=items)
        if not self._stops:
            extra = {"target": self._target, "reason": _reason(code), "retry_s": delay_s}
            _log.error("the worker ended", extra=extra)
        return code, delay_s

    def _spawn(self, mark_fd: int, crash_fd: int) -> subprocess.Popen[bytes]:
        settings, remote = self._settings, self._remote
        start = Start(
            secret=remote.secret,
            mark_fd=mark_fd,
            crash_fd=crash_fd,
            address=remote.address,
            tls=remote.tls,
            model=remote.model,
            parent=os.getpid(),
            niceness=settings.workers.niceness,
            devices=settings.workers.devices,
            log_level=settings.log_level,
            log_format=settings.log_format,
        )
        cpus = sorted(os.sched_getaffinity(0))
        environ = environment(os.environ, start, settings.workers, 1, cpus)
        return spawn(self._target, start, environ)

    def _wait_for(self, process: subprocess.Popen[bytes], watch: LossWatch) -> int:
        """Wait for a worker's end, and pass signals on meanwhile; returns its exit code.

        One that hangs when it has lost its front is ended.
        """
        pid_fd = os.pidfd_open(process.pid)
        passed_on = 0
        try:
            has_ended = False
            while not has_ended:
                while passed_on < self._stops:
                    passed_on += 1
                    if passed_on == 1:
                        process.terminate()
                    else:
                        _kill(process.pid)
                has_ended = self._wait(watch.check_s, pid_fd)
                if not has_ended and watch.is_overdue():
                    _log.critical("the model hangs, and the front is gone; the worker is ended")
                    process.kill()  # should it have left its group
                    break
        finally:
            os.close(pid_fd)
        _kill(process.pid)  # its children
        return process.wait()

    def _wait(self, timeout_s: float | None, fd: int | None = None) -> bool:
        """Wait for a signal, or for something to read from `fd`; whether there is."""
        poll = select.poll()
        poll.register(self._woken, select.POLLIN)
        if fd is not None:
            poll.register(fd, select.POLLIN)
        ready = poll.poll(None if timeout_s is None else math.ceil(timeout_s * 1000))
        with suppress(BlockingIOError):
            os.eventfd_read(self._woken)
        return any(found == fd for found, _ in ready)

    def _told_to_stop(self, number: int, frame: object) -> None:
        self._stops += 1
        os.eventfd_write(self._woken, 1)


def _kill(pid: int) -> None:
    """End a worker and what it has spawned; it was not waited for yet, so the id is its own."""
    with suppress(ProcessLookupError, PermissionError):
        os.killpg(pid, signal.SIGKILL)


def _reason(code: int) -> str:
    return f"exited with code {code}" if code >= 0 else f"killed by signal {-code}"
