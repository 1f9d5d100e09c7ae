"""Worker processes as they are started: what they get, what they do not, and what is left."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from headrace.config import Workers
from headrace.executors.launcher import Launch, Worker, environment
from headrace.workers import resources
from headrace.workers.exits import Exit
from headrace.workers.start import VARIABLE, Start
from tests.contract.record import WAIT_S

TARGET = "tests.unit.executors.targets:Looking"


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("TARGETS_FOLDER", str(tmp_path))
    return tmp_path


@pytest.fixture
def worker() -> Iterator[Worker]:
    """One that waits for its front to say something."""
    worker = Worker(TARGET, 0, 1, Launch(Workers()))
    yield worker
    worker.kill()
    assert worker.wait(WAIT_S)
    worker.close()


def fds() -> int:
    return len(os.listdir("/proc/self/fd"))


def test_it_leads_a_process_group_of_its_own(worker: Worker) -> None:
    assert os.getpgid(worker.pid) == worker.pid != os.getpgrp()


def test_its_arguments_name_the_target_and_tell_no_secret(worker: Worker) -> None:
    assert told(worker, "cmdline")[1:] == ["-m", "headrace.workers", TARGET]
    start = Start.take({VARIABLE: environment_of(worker)[VARIABLE]})
    assert start is not None and start.secret == worker.secret
    assert len(worker.secret) >= 32


def told(worker: Worker, what: str) -> list[str]:
    """A list of texts that the system tells of the process, which has only begun."""
    while not (text := Path(f"/proc/{worker.pid}/{what}").read_text()):
        pass
    return text.split("\0")[:-1]


def environment_of(worker: Worker) -> dict[str, str]:
    return {
        name: value for name, _, value in (line.partition("=") for line in told(worker, "environ"))
    }


def test_every_worker_has_a_secret_of_its_own(worker: Worker) -> None:
    other = Worker(TARGET, 0, 1, Launch(Workers()))
    other.kill()
    assert other.wait(WAIT_S)
    other.close()
    assert other.secret != worker.secret


def test_its_end_makes_the_descriptor_readable_and_is_told_by_its_code() -> None:
    worker = Worker(TARGET, 0, 1, Launch(Workers()))
    assert worker.exit_code() is None
    assert not worker.wait(0.0)
    worker.hang_up()
    assert worker.wait(WAIT_S)
    assert worker.exit_code() == Exit.FRONT_LOST
    worker.kill()
    worker.close()


def test_killing_it_is_told_as_its_signal(worker: Worker) -> None:
    assert worker.rss_bytes() > 0
    assert not worker.is_exiting()
    worker.kill()
    assert worker.wait(WAIT_S)
    assert worker.is_exiting()
    assert worker.exit_code() == -signal.SIGKILL
    assert worker.is_exiting()
    assert worker.rss_bytes() == 0
    worker.kill()


def test_nothing_stays_open_after_its_end() -> None:
    before = fds()
    for _ in range(3):
        worker = Worker(TARGET, 0, 1, Launch(Workers()))
        worker.kill()
        assert worker.wait(WAIT_S)
        worker.close()
    assert fds() == before


def test_a_socket_that_was_shared_is_the_takers_to_close() -> None:
    before = fds()
    worker = Worker(TARGET, 0, 1, Launch(Workers()))
    sock = worker.share_socket()
    worker.kill()
    assert worker.wait(WAIT_S)
    worker.close()
    assert sock.recv(1024) == b""
    sock.close()
    assert fds() == before


def test_without_an_interpreter_it_is_an_oserror_and_nothing_is_left(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    before = fds()
    monkeypatch.setattr(sys, "executable", "/nowhere/python")
    with pytest.raises(OSError):
        Worker(TARGET, 0, 1, Launch(Workers()))
    assert fds() == before


FULL_TABLE = """
import os, resource, sys
from headrace.config import Workers
from headrace.executors.launcher import Launch, Worker

def count():
    return len(os.listdir("/proc/self/fd"))

launch, failed = Launch(Workers()), 0
Worker(sys.argv[1], 0, 1, launch)  # what is imported late is, now
before, children = count(), set()
for room in range(40):
    hog = [os.dup(0) for _ in range(room)]
    last = max(hog, default=0) + 1
    for fd in hog:
        os.close(fd)
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(before, last), 1024))
    try:
        worker = Worker(sys.argv[1], 0, 1, launch)
    except OSError:
        failed += 1
    else:
        resource.setrlimit(resource.RLIMIT_NOFILE, (1024, 1024))
        worker.kill()
        assert worker.wait(10.0)
        worker.close()
        break
    resource.setrlimit(resource.RLIMIT_NOFILE, (1024, 1024))
    assert count() == before, (room, count(), before)
assert failed > 5, failed
children = open(f"/proc/self/task/{os.getpid()}/children").read().split()
assert len(children) == 1, children
os._exit(0)
"""


def test_with_a_full_table_it_is_an_oserror_and_nothing_is_left() -> None:
    """However many descriptors are free, up to as many as it takes."""
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", FULL_TABLE, TARGET],
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr


def made(settings: Workers, base: dict[str, str], seat: int = 0, seats: int = 1) -> dict[str, str]:
    return environment(base, Start(secret=b"s", seat=seat), settings, seats, range(8))


def test_threads_are_shared_out_where_nobody_has_set_them() -> None:
    own = made(Workers(), {"OMP_NUM_THREADS": "3", "PATH": "/bin"}, seats=2)
    assert own["OMP_NUM_THREADS"] == "3"
    others = {own[name] for name in resources.THREAD_VARIABLES if name != "OMP_NUM_THREADS"}
    assert others == {"4"}
    assert own["PATH"] == "/bin"


def test_the_number_of_threads_can_be_said() -> None:
    assert made(Workers(threads=5), {}, seats=2)["MKL_NUM_THREADS"] == "5"


def test_devices_are_the_operators_or_nobodys() -> None:
    base = {resources.DEVICE_VARIABLE: "7"}
    assert made(Workers(), base)[resources.DEVICE_VARIABLE] == "7"
    own = made(Workers(devices="0+1,2+3"), base, seat=1, seats=2)
    assert own[resources.DEVICE_VARIABLE] == "2,3"
    assert resources.DEVICE_VARIABLE not in made(Workers(), {})


def test_the_api_keys_are_not_handed_on() -> None:
    base = {"HEADRACE_AUTH_KEYS": "alice:correct-horse-battery", "HEADRACE_PORT": "1"}
    assert made(Workers(), base).keys() & base.keys() == {"HEADRACE_PORT"}


def test_the_fronts_environment_stays_as_it_is() -> None:
    before = dict(os.environ)
    worker = Worker(TARGET, 0, 1, Launch(Workers(devices="0")))
    worker.kill()
    assert worker.wait(WAIT_S)
    worker.close()
    assert dict(os.environ) == before
    assert VARIABLE not in os.environ
