"""The machine: clocks that jump, processes that are stopped, cores that are busy, disks that go."""

from __future__ import annotations

import os
import shutil
import signal
import struct
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from email.utils import parsedate_to_datetime
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.conftest import Serve, Served, eventually
from tests.faults.client import Load, Log
from tests.faults.conftest import IS_LONG, seconds
from tests.faults.defences import without
from tests.faults.watch import kill, noted, tree

pytestmark = pytest.mark.slow

RESTARTS = "headrace_replica_restarts_total"
CLOCK = Path(__file__).with_name("clock.c")
HOUR_S = 3600
START_S = 8.0
"""How soon the process of a worker that is replaced has begun to load its model."""
STOP_S = 10.0 if IS_LONG else 2.5
PREDICT_TIMEOUT_S = 0.9 * STOP_S


# The wall clock


@pytest.fixture(scope="module")
def clock_library(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What turns the wall clock of programs that load it first."""
    compiler = shutil.which("cc")
    if compiler is None:
        if "CI" in os.environ:
            pytest.fail("expected a C compiler: apt-get install gcc libc6-dev")
        pytest.skip("there is no C compiler: apt-get install gcc libc6-dev")
    library = tmp_path_factory.mktemp("clock") / "clock.so"
    subprocess.run([compiler, "-shared", "-fPIC", "-O1", "-o", library, CLOCK], check=True)
    return library


class WallClock:
    """The wall clock of a server and its workers.

    Attributes:
        env: For the server.

    Args:
        folder: For a file.
        library: See `clock_library`.
    """

    def __init__(self, folder: Path, library: Path) -> None:
        self._path = folder / "shift"
        self._path.write_bytes(struct.pack("q", 0))
        self.env = {"LD_PRELOAD": str(library), "FAULT_CLOCK": str(self._path)}

    def shift(self, by_s: int) -> None:
        """Set it off against the machine's."""
        with self._path.open("r+b") as file:
            file.write(struct.pack("q", by_s))


def told_s(server: Served) -> float:
    """How far the server's idea of the hour is ahead of the machine's."""
    date = server.get("/livez").headers["date"]
    return parsedate_to_datetime(date).timestamp() - time.time()


def is_ahead(server: Served, by_s: int) -> bool:
    return abs(told_s(server) - by_s) < HOUR_S / 2


def keeps_its_time(serve: Serve, clock: WallClock, **more: Any) -> None:
    """Turn the wall clock to and fro under load, with requests that run and that wait."""
    env = {**clock.env, **more.pop("env", {})}
    # Each item is a batch, so that those who ask on are not all behind the two that wait.
    settings: dict[str, Any] = {"replicas": 3, "batching__max_batch_size": 1}
    server = serve("Faulty", limits__predict_timeout_s=30.0, env=env, **settings)
    log = Log(server)
    with Load(log, 4) as load:
        waiting = log.send([{"do": "wait"}] * 2, "X-Request-Timeout: 20\r\n")
        eventually(lambda: noted(server, "waits"), "one to run")
        for by_s in (HOUR_S, -HOUR_S, 0):
            clock.shift(by_s)
            eventually(partial(is_ahead, server, by_s), f"its date to be off by {by_s} s")
            load.rate(seconds(0.5))
        server.set("go")
        assert [got for got in log.answers(waiting) if not got.is_right] == []
    load.check()
    log.check()
    assert server.metric(RESTARTS) == 0
    assert server.log_lines == []
    server.terminate()
    assert server.exit_code() == 0


@pytest.mark.row("L1")
def test_nothing_moves_when_the_wall_clock_does(
    serve: Serve, clock_library: Path, tmp_path: Path
) -> None:
    keeps_its_time(serve, WallClock(tmp_path, clock_library))


@pytest.mark.counter("L1")
def test_timers_by_the_wall_clock_are_noticed(
    serve: Serve, clock_library: Path, tmp_path: Path
) -> None:
    env = without("time is that of the monotonic clock")
    with pytest.raises(AssertionError):
        keeps_its_time(serve, WallClock(tmp_path, clock_library), env=env)


# Stopped and continued


def stop_and_go(server: Served, stop_s: float) -> None:
    """Stop all processes of a server, and let them go on."""
    pids = tree(server)
    for number in (signal.SIGSTOP, signal.SIGCONT):
        for pid in pids:
            os.kill(pid, number)
        if number == signal.SIGSTOP:
            time.sleep(stop_s)


def outlives_a_stop(serve: Serve, executor: str, **more: Any) -> None:
    """Stop a server in the middle of a batch, for longer than a batch may take."""
    server = serve(
        "Faulty", executor=executor, limits__predict_timeout_s=PREDICT_TIMEOUT_S, replicas=2, **more
    )
    log = Log(server)
    with Load(log, 4) as load:
        load.rate(0.3)
        running = log.send([{"do": "wait"}])
        eventually(lambda: len(noted(server, "waits")) == 1, "one replica to wait")
        running += log.send([{"do": "wait"}])
        eventually(lambda: len(noted(server, "waits")) == 2, "both of them to wait")
        doomed = log.send([{}] * 4, f"X-Request-Timeout: {0.75 * STOP_S}\r\n")
        # All wait, those of the load too; some of them perhaps in a slot behind what runs.
        in_flight = "headrace_http_requests_in_flight"
        eventually(lambda: server.metric(in_flight) >= 10, "the others to wait")
        stop_and_go(server, STOP_S)
        assert {got.status for got in log.answers(doomed)} == {504}
        server.set("go")
        assert [got for got in log.answers(running) if not got.is_right] == []
        load.rate(0.3)
    load.check()
    log.check()
    assert server.metric(RESTARTS) == 0, "they were stopped, and did not hang"
    server.terminate()
    assert server.exit_code() == 0


@pytest.mark.row("L2")
@pytest.mark.parametrize("executor", ["process", "thread"])
def test_a_stopped_server_goes_on_and_takes_nobody_for_hung(serve: Serve, executor: str) -> None:
    outlives_a_stop(serve, executor)


@pytest.mark.row("L2")
def test_a_stopped_server_with_an_inline_model_goes_on(serve: Serve) -> None:
    server = serve("Faulty", executor="inline", limits__predict_timeout_s=PREDICT_TIMEOUT_S)
    log = Log(server)
    running = log.send([{"do": "wait"}])
    eventually(lambda: noted(server, "waits"), "it to run")
    stop_and_go(server, STOP_S)
    time.sleep(0.2)
    server.set("go")
    assert [got for got in log.answers(running) if not got.is_right] == []
    log.check()


@pytest.mark.counter("L2")
def test_taking_who_was_stopped_for_hung_is_noticed(serve: Serve) -> None:
    with pytest.raises(AssertionError):
        outlives_a_stop(serve, "process", env=without("who was stopped gets its time anew"))


# Busy cores


@contextmanager
def busy(loops: int) -> Iterator[None]:
    """Processes that never rest."""
    with ExitStack() as held:
        for _ in range(loops):
            process = held.enter_context(subprocess.Popen([sys.executable, "-c", "while 1: 1"]))
            held.callback(process.kill)
        yield


def outlives_busy_cores(serve: Serve, **settings: Any) -> None:
    server = serve("Faulty", replicas=2, **settings)
    log = Log(server)
    with busy(2 * len(os.sched_getaffinity(0))), Load(log, 16, {"s": 0.002}) as load:
        load.rate(seconds(2.0))
    load.check()
    log.check()
    assert server.metric(RESTARTS) == 0, "no healthy worker is killed"
    assert server.log_lines == []


@pytest.mark.row("L3")
def test_busy_cores_cost_time_and_nothing_else(serve: Serve) -> None:
    outlives_busy_cores(serve, limits__predict_timeout_s=10.0)


@pytest.mark.counter("L3")
def test_workers_that_get_too_little_time_are_noticed(serve: Serve) -> None:
    with pytest.raises(AssertionError):
        outlives_busy_cores(serve, limits__predict_timeout_s=0.01)


# Folders


def serves_and_restarts(server: Served, start_s: float) -> None:
    """Serve small and large bodies, and replace a worker."""
    log = Log(server)
    large = {"do": " " * 300_000}
    with Load(log, 4) as load:
        assert all(got.is_right for got in log.ask([large, {}]))
        kill(noted(server, "loads")[-1])
        eventually(lambda: len(noted(server, "loads")) == 2, "another worker", start_s)
        eventually(lambda: server.get("/readyz").status_code == 200, "ready again")
        assert all(got.is_right for got in log.ask([large, {}]))
    load.check()
    log.check()


def outlives_its_folder(serve: Serve, start_s: float = START_S, **more: Any) -> None:
    server = serve("Faulty", **more)
    shutil.rmtree(server.folder / "tmp")
    serves_and_restarts(server, start_s)
    server.terminate()
    assert server.exit_code() == 0


@pytest.mark.row("L4")
def test_serving_goes_on_when_the_temporary_folder_is_gone(serve: Serve) -> None:
    outlives_its_folder(serve)


@pytest.mark.counter("L4")
def test_a_server_that_needs_the_temporary_folder_is_noticed(serve: Serve) -> None:
    with pytest.raises(AssertionError):
        env = without("what workers share has no name on any disk")
        outlives_its_folder(serve, 2.0, env=env, limits__request_timeout_s=2.0)


@pytest.fixture
def full_folder(tmp_path: Path) -> Iterator[Path]:
    """A folder on a disk of its own that has no room left."""
    mount = ["mount", "-t", "tmpfs", "-o", "size=64k,nr_inodes=2", "tmpfs", str(tmp_path)]
    if os.getuid() or subprocess.run(mount, capture_output=True, check=False).returncode:
        pytest.skip("only root may mount a small disk")
    try:
        with (tmp_path / "all").open("wb", buffering=0) as file, suppress(OSError):
            while True:
                file.write(bytes(4096))
        with pytest.raises(OSError, match="No space left"):
            (tmp_path / "more").touch()
        yield tmp_path
    finally:
        subprocess.run(["umount", str(tmp_path)], check=True)


@pytest.mark.row("L4")
def test_serving_goes_on_when_the_temporary_folder_is_full(serve: Serve, full_folder: Path) -> None:
    server = serve("Faulty", env={"TMPDIR": str(full_folder)})
    serves_and_restarts(server, START_S)
    server.terminate()
    assert server.exit_code() == 0


@pytest.mark.row("L4")
def test_a_socket_whose_folder_is_gone_serves_who_is_connected_and_drains(serve: Serve) -> None:
    with tempfile.TemporaryDirectory(prefix="hr-") as name:
        folder = Path(name) / "run"
        folder.mkdir()
        server = serve("Faulty", uds=folder / "s")
        wire = server.wire()
        shutil.rmtree(folder)
        for n in range(3):
            wire.post("/predict", f'{{"n": {n}}}')
            assert wire.answer().json() == 2 * n
        kill(noted(server, "loads")[0])
        eventually(lambda: len(noted(server, "loads")) == 2, "another worker")
        wire.post("/predict", '{"n": 5}')
        assert wire.answer().json() == 10
        server.terminate()
        assert server.exit_code() == 0
