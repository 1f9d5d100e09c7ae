"""What a dead worker leaves behind, read from processes that really die."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator

import pytest

from headrace.workers.mark import (
    EXITING,
    HANDLED,
    HANDLER_THREAD,
    ITEM,
    MAIN_THREAD,
    MAX_CRASH_BYTES,
    PREDICTED,
    PREDICTING,
    Evidence,
    Mark,
    create_memory,
    examine,
)

BEGIN = """
import os, signal, subprocess, sys, threading
from headrace.workers.mark import (
    EXITING, HANDLED, HANDLER_THREAD, ITEM, MAIN_THREAD, PREDICTED, PREDICTING, Mark
)
from headrace.workers.process import take_over
from headrace.workers.start import Start

mark_fd, crash_fd = map(int, sys.argv[1:])
mark = Mark(mark_fd)
take_over(Start(secret=b"s", mark_fd=mark_fd, crash_fd=crash_fd), mark)
slots = mark.slots

def on_handler(work):
    def run():
        slots[HANDLER_THREAD] = threading.get_ident()
        work()
    thread = threading.Thread(target=run)
    thread.start()
    thread.join()

def crash_here():
    signal.pthread_kill(threading.get_ident(), signal.SIGSEGV)
"""

AT_BOTH = """
slots[HANDLED], slots[ITEM] = 8, 3
slots[PREDICTED], slots[PREDICTING] = 7, 1
"""


class Dead:
    """A process that ran some code after `take_over`, and its memory."""

    def __init__(self) -> None:
        self.mark_fd, self.crash_fd = create_memory("mark"), create_memory("crash")
        self.mark = Mark(self.mark_fd)

    def run(self, code: str) -> int:
        """Its exit code."""
        fds = (self.mark_fd, self.crash_fd)
        command = [sys.executable, "-c", BEGIN + code, *map(str, fds)]
        return subprocess.run(command, pass_fds=fds, timeout=60).returncode

    def close(self) -> None:
        self.mark.close()
        os.close(self.mark_fd)
        os.close(self.crash_fd)


@pytest.fixture
def dead() -> Iterator[Dead]:
    dead = Dead()
    yield dead
    dead.close()


def test_who_was_at_nothing_leaves_nothing(dead: Dead) -> None:
    assert examine(dead.mark, dead.crash_fd) == Evidence()


def test_an_item_is_told_by_its_batch_and_index(dead: Dead) -> None:
    dead.mark.slots[HANDLED], dead.mark.slots[ITEM] = 8, 1
    assert examine(dead.mark, dead.crash_fd) == Evidence(item=(8, 0))


def test_the_batch_in_predict_is_told(dead: Dead) -> None:
    dead.mark.slots[PREDICTED], dead.mark.slots[PREDICTING] = 7, 1
    assert examine(dead.mark, dead.crash_fd) == Evidence(batch=7, begun=7)


def test_a_replica_writes_what_is_examined(dead: Dead) -> None:
    dead.mark.slots[HANDLED], dead.mark.slots[PREDICTED] = 8, 7
    dead.mark.replica_slots[0] = 3
    assert examine(dead.mark, dead.crash_fd) == Evidence(item=(8, 2), begun=7)
    dead.mark.replica_slots[0], dead.mark.replica_slots[1] = 0, 1
    assert examine(dead.mark, dead.crash_fd) == Evidence(batch=7, begun=7)


def test_two_maps_of_one_memory_show_the_same(dead: Dead) -> None:
    other = Mark(dead.mark_fd)
    dead.mark.slots[HANDLED] = 2**63
    assert other.slots[HANDLED] == 2**63
    other.close()


@pytest.mark.parametrize("crash", ["crash_here()", "os._exit(3)"])
def test_a_death_of_the_main_thread_is_of_predict(dead: Dead, crash: str) -> None:
    code = dead.run(AT_BOTH + "on_handler(lambda: None)\n" + crash)
    assert code == (3 if "exit" in crash else -signal.SIGSEGV)
    evidence = examine(dead.mark, dead.crash_fd)
    assert (evidence.item, evidence.batch) == (None, 7)


@pytest.mark.parametrize("crash", ["crash_here()", "os._exit(3)"])
def test_a_death_of_the_second_thread_is_of_its_item(dead: Dead, crash: str) -> None:
    dead.run(AT_BOTH + f"on_handler(lambda: {crash})")
    evidence = examine(dead.mark, dead.crash_fd)
    assert (evidence.item, evidence.batch) == ((8, 2), None)


def test_a_thread_of_the_models_own_may_be_of_either(dead: Dead) -> None:
    dead.run(
        AT_BOTH
        + "on_handler(lambda: None)\n"
        + "slots[HANDLER_THREAD] = 1\n"
        + "t = threading.Thread(target=crash_here); t.start(); t.join()"
    )
    evidence = examine(dead.mark, dead.crash_fd)
    assert (evidence.item, evidence.batch) == ((8, 2), 7)


def test_a_second_thread_that_dies_at_no_item_does_not_accuse_the_predict(dead: Dead) -> None:
    dead.run(AT_BOTH + "slots[ITEM] = 0\n" + "on_handler(crash_here)")
    evidence = examine(dead.mark, dead.crash_fd)
    assert (evidence.item, evidence.batch) == (None, None)


def test_sigkill_leaves_both(dead: Dead) -> None:
    assert dead.run(AT_BOTH + "os.kill(os.getpid(), signal.SIGKILL)") == -signal.SIGKILL
    assert examine(dead.mark, dead.crash_fd) == Evidence((8, 2), 7, 7)


def test_the_report_names_the_place_of_the_crash(dead: Dead) -> None:
    dead.run("def the_guilty_function():\n    crash_here()\n\nthe_guilty_function()")
    crash = examine(dead.mark, dead.crash_fd).crash
    assert crash.startswith("Fatal Python error: Segmentation fault\n")
    assert "in the_guilty_function" in crash


def test_however_many_threads_there_are_the_one_that_crashed_comes_first(dead: Dead) -> None:
    dead.run(
        AT_BOTH
        + """
def deep(n):
    deep(n - 1) if n else (reached.release(), threading.Event().wait())

reached = threading.Semaphore(0)
for _ in range(20):
    threading.Thread(target=deep, args=(90,), daemon=True).start()
for _ in range(20):
    reached.acquire()
crash_here()
"""
    )
    evidence = examine(dead.mark, dead.crash_fd)
    assert os.fstat(dead.crash_fd).st_size > MAX_CRASH_BYTES >= len(evidence.crash)
    assert (evidence.item, evidence.batch) == (None, 7)
    title, _, stack = evidence.crash.split("\n")[:3]
    assert title.startswith("Fatal Python error")
    assert stack.startswith("Current thread")


@pytest.mark.parametrize("end", ["os._exit(3)", "crash_here()", "sys.exit(3)"])
def test_the_end_of_a_forked_child_is_not_the_workers(dead: Dead, end: str) -> None:
    code = dead.run(AT_BOTH + f"if not os.fork():\n    {end}\nos.wait()\nos.abort()")
    assert code == -signal.SIGABRT
    evidence = examine(dead.mark, dead.crash_fd)
    assert evidence.crash.startswith("Fatal Python error: Aborted")
    assert evidence.crash.count("Fatal") == 1
    assert dead.mark.slots[EXITING] == 0


def test_a_forked_child_that_ends_leaves_no_trace(dead: Dead) -> None:
    dead.run("if not os.fork():\n    os._exit(3)\nos.wait()\nos.kill(os.getpid(), signal.SIGKILL)")
    assert examine(dead.mark, dead.crash_fd) == Evidence()


def test_what_the_model_starts_inherits_none_of_it(dead: Dead) -> None:
    code = dead.run(
        "sys.exit(subprocess.call([sys.executable, '-c', '''\n"
        "import os, sys\n"
        "for fd in map(int, sys.argv[1:]):\n"
        "    try:\n"
        "        os.fstat(fd)\n"
        "    except OSError:\n"
        "        continue\n"
        "    sys.exit(9)\n"
        "''', *sys.argv[1:]], close_fds=False))"
    )
    assert code == 0


def test_the_threads_are_noted_from_the_start(dead: Dead) -> None:
    dead.run("sys.exit(slots[MAIN_THREAD] != threading.get_ident())")
    assert dead.mark.slots[MAIN_THREAD]
    assert dead.mark.slots[HANDLER_THREAD] == 0
