"""What a worker does to its own process before the user's code comes in."""

from __future__ import annotations

import ctypes
import faulthandler
import os
import signal
import sys
import threading
from typing import Any, NoReturn

from .heap import keep_freed_memory
from .mark import EXITING, HANDLER_THREAD, MAIN_THREAD, Mark
from .start import Start

_PR_SET_PDEATHSIG = 1
SWITCH_S = 0.001
"""How long a predict that holds the interpreter lock keeps the second thread from its work: by
default five times as much, which the answers of the batch before would wait."""


def take_over(start: Start, mark: Mark) -> None:
    """Tie the process to its front, give it its share of the machine, and note its end."""
    if start.parent is not None:
        _die_with(start.parent)
    for fd in (start.fd, start.mark_fd, start.crash_fd, start.memory_fd):
        if fd is not None:
            os.set_inheritable(fd, False)
    # Sent to all processes of a terminal or a service; the front tells its workers what to do.
    _leave_to_front(signal.SIGINT)
    if start.address is None:
        _leave_to_front(signal.SIGTERM)
    sys.setswitchinterval(SWITCH_S)
    keep_freed_memory()
    if start.niceness:
        os.nice(start.niceness)
    if start.cpus is not None:
        os.sched_setaffinity(0, start.cpus)
    if start.crash_fd is not None:
        # Only a report of all threads names the one that crashed.
        faulthandler.enable(start.crash_fd, all_threads=True)
        # A child of the user's that crashes is not this process.
        os.register_at_fork(after_in_child=faulthandler.disable)
    _note_exits(mark)


def _leave_to_front(number: signal.Signals) -> None:
    """Do nothing on a signal; what the user's code spawns is not to inherit that."""

    def do_nothing(*_: object) -> None:
        pass

    def restore() -> None:
        if signal.getsignal(number) is do_nothing:
            signal.signal(number, before)

    # A handler, unlike SIG_IGN, is gone in a program that is executed.
    before = signal.signal(number, do_nothing)
    os.register_at_fork(after_in_child=restore)


def _die_with(parent: int) -> None:
    """Be killed when the parent dies, whatever this process is in the middle of."""
    libc = ctypes.CDLL(None, use_errno=True)
    libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    if os.getppid() != parent:
        os._exit(0)  # it died before that was set


def _note_exits(mark: Mark) -> None:
    """Note which thread calls `os._exit`: nothing else would tell."""
    slots, own, leave = mark.slots, os.getpid(), os._exit
    slots[MAIN_THREAD] = threading.get_ident()
    slots[HANDLER_THREAD] = 0

    def noted_exit(status: int) -> NoReturn:
        if os.getpid() == own:
            slots[EXITING] = threading.get_ident()
        leave(status)

    noted: Any = noted_exit
    os._exit = noted
