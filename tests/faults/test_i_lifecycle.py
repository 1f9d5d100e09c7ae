"""Start, drain, kill: nothing accepted is lost, whenever that comes, and nobody is left behind.

Addresses in use and odd socket paths are in tests/e2e/test_lifecycle.py, rolling replacement is in
test_recycling.py, and drains again and again are in test_i_drains.py.
"""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from tests.e2e import test_lifecycle as lifecycle
from tests.e2e.conftest import Serve, Served, Wire, eventually, starter
from tests.faults import test_recycling as recycling
from tests.faults.client import Load, Log
from tests.faults.conftest import MODELS
from tests.faults.contract import by
from tests.faults.defences import without
from tests.faults.watch import kill, noted, tree, workers

pytestmark = pytest.mark.slow

LATE_S = 1.0
"""For a busy machine, beyond what is promised."""


@pytest.fixture
def short_serve() -> Iterator[Serve]:
    """As `serve`, for servers that may leave processes behind, which are ended."""
    servers: list[Served] = []
    with tempfile.TemporaryDirectory(prefix="hr-") as folder:
        yield starter(Path(folder), servers, MODELS)
        for server in servers:
            server.process.kill()
            for pid in tree(server):
                kill(pid)
            server.stop()


def is_left_alone(server: Served) -> bool:
    return not tree(server)


def are_read(server: Served, count: int) -> bool:
    """Whether the server has read so many requests, answered or not."""
    names = ("headrace_http_requests_in_flight", "headrace_http_requests_total")
    return sum(map(server.metric, names)) >= count


def make_hang(server: Served) -> Wire:
    """Have a worker hang, with the interpreter's lock held."""
    wire = server.wire()
    wire.post("/predict", '{"n": 1, "do": "predict: hang"}')
    eventually(lambda: noted(server, "hung"), "it to hang")
    return wire


def are_gone_with_their_server(serve: Serve, *, hangs: bool) -> None:
    server = serve("Faulty", replicas=2)
    host, port = server.host_and_port
    with Load(Log(server), 8) as load:
        load.rate(0.3)
        if hangs:
            make_hang(server)
        began = time.monotonic()
        server.signal(signal.SIGKILL)
        server.process.wait(5.0)
        eventually(partial(is_left_alone, server), "all workers to be gone", 1.0 + LATE_S)
        assert time.monotonic() - began < 1.0 + LATE_S
    again = serve("Faulty", port=port)
    assert again.host_and_port == (host, port)
    assert again.predict(4).json() == 8


@pytest.mark.row("I5")
@pytest.mark.parametrize("hangs", [False, True])
def test_the_workers_of_a_server_that_is_killed_are_gone_within_a_second(
    serve: Serve, hangs: bool
) -> None:
    are_gone_with_their_server(serve, hangs=hangs)


@pytest.mark.counter("I5")
def test_workers_that_are_not_tied_to_their_server_outlive_it(short_serve: Serve) -> None:
    untied = partial(short_serve, env=without("a worker dies with its server"))
    with pytest.raises(AssertionError, match="all workers to be gone"):
        are_gone_with_their_server(untied, hangs=True)


@pytest.mark.row("I5", "I7")
def test_a_socket_file_that_a_killed_server_left_is_no_hindrance(
    serve: Serve, tmp_path: Path
) -> None:
    path = Path(os.path.relpath(tmp_path / "s"))
    server = serve("Faulty", uds=path)
    server.signal(signal.SIGKILL)
    server.process.wait(5.0)
    assert path.exists()
    assert serve("Faulty", uds=path).predict(4).json() == 8


def is_at_least(server: Served, name: str, count: int) -> bool:
    return server.metric(name) >= count


def drains_in_full(serve: Serve, way: str) -> None:
    """Stop a server with requests that run, requests that wait, and idle connections."""
    settings: dict[str, Any] = by(way)
    server = serve("Faulty", batching__max_batch_size=64, **settings)
    idle = [server.wire() for _ in range(50)]
    for n, wire in enumerate(idle[::2]):
        wire.post("/predict", json.dumps({"n": n}))
        assert wire.answer().json() == 2 * n
    wires = [server.wire() for _ in range(200)]
    for n, wire in enumerate(wires):
        wire.post("/predict", json.dumps({"n": n, "do": "wait"}))
    for name in ("headrace_running_items", "headrace_queue_items"):
        eventually(partial(is_at_least, server, name, 64), f"64 of {name}")
    server.terminate()
    for wire in idle:
        assert wire.socket.recv(1) == b"", "ended, not reset"
    server.set("go")
    answers = [wire.answer() for wire in wires]
    assert [answer.json() for answer in answers] == [2 * n for n in range(200)]
    assert {answer.headers.get("connection") for answer in answers} == {"close"}
    assert server.exit_code() == 0
    assert is_left_alone(server)
    assert list((server.folder / "tmp").iterdir()) == []
    assert len(noted(server, "unloads")) == 1
    assert server.log_lines == []


@pytest.mark.row("I1")
def test_sigterm_answers_all_that_was_accepted_and_leaves_nothing(serve: Serve, way: str) -> None:
    drains_in_full(serve, way)


@pytest.mark.counter("I1")
def test_a_server_that_does_not_wait_for_its_answers_loses_them(serve: Serve) -> None:
    hasty = partial(serve, env=without("a drain waits for what was accepted"))
    with pytest.raises((AssertionError, ConnectionError)):
        drains_in_full(hasty, "fast")


# On open connections


def answers_in_the_delay(serve: Serve, way: str) -> None:
    settings: dict[str, Any] = {"drain_delay_s": 2.0, **by(way)}
    server = serve("Faulty", **settings)
    used, unused, half = (server.wire() for _ in range(3))
    used.post("/predict", '{"n": 1}')
    assert "connection" not in used.answer().headers
    half.send("POST /predict HTTP/1.1\r\nhost: x\r\n")
    server.terminate()
    eventually(lambda: server.get("/readyz").status_code == 503, "not ready")
    half.send('content-length: 7\r\n\r\n{"n":9}')
    for wire in (used, unused, server.wire()):
        wire.post("/predict", '{"n":9}')
    for wire in (used, unused, half):
        answer = wire.answer()
        assert answer.json() == 18
        assert answer.headers.get("connection") == "close", "it asks elsewhere from now on"
        assert wire.is_closed()
    assert server.exit_code() == 0


@pytest.mark.row("I2")
def test_each_answer_of_the_drains_delay_is_the_last_of_its_connection(
    serve: Serve, way: str
) -> None:
    answers_in_the_delay(serve, way)


@pytest.mark.counter("I2")
def test_without_that_clients_stay_until_their_connection_is_cut(serve: Serve) -> None:
    silent = partial(serve, env=without("answers of the delay end their connections"))
    with pytest.raises(AssertionError, match="elsewhere"):
        answers_in_the_delay(silent, "fast")


TRIES = 20


def is_answered_when_it_crosses_the_end(serve: Serve) -> bool:
    """Whether a request is that comes when its connection is due to be ended, and not read yet.

    Something else holds the event loop up meanwhile. Where the machine is too busy to begin that
    before the connections are ended, it is tried again.
    """
    for _ in range(TRIES):
        server = serve("SlowToKey", executor="thread")
        busy, idle = server.wire(), server.wire()
        server.terminate()
        eventually(partial(lifecycle.refuses_connections, server), "the listener to close")
        busy.post("/predict", '{"n": 1, "do": "wait"}')
        while not (was_read := noted(server, "keys")) and server.process.poll() is None:
            time.sleep(0.001)
        if was_read:
            idle.post("/predict", '{"n": 2}')
            time.sleep(0.2)  # until its connection is overdue to be ended
            server.set("go")
            assert busy.answer().json() == 2
            with suppress(ConnectionError):
                return bool(idle.answer().json() == 4 and server.exit_code() == 0)
            return False
    pytest.fail("the machine is too busy")


@pytest.mark.row("I2")
def test_a_request_that_comes_before_the_end_of_its_connection_is_answered(serve: Serve) -> None:
    assert is_answered_when_it_crosses_the_end(serve)


@pytest.mark.counter("I2")
def test_an_end_that_does_not_look_loses_what_has_come(serve: Serve) -> None:
    blind = partial(serve, env=without("an end looks for what has come"))
    assert not is_answered_when_it_crosses_the_end(blind)


# Told while something else goes on


def test_sigterm_ends_a_server_whose_worker_hangs_with_the_lock_held(serve: Serve) -> None:
    server = serve("Faulty", drain_timeout_s=0.5)
    wire = make_hang(server)
    server.terminate()
    assert wire.answer().code == "draining"
    assert server.exit_code(15.0) == 0
    assert is_left_alone(server)


def stop_within_five_seconds(server: Served) -> None:
    server.terminate()
    assert server.exit_code(5.0) == 0
    assert is_left_alone(server)


@pytest.mark.row("I4")
def test_sigterm_while_the_interpreter_of_a_worker_starts(serve: Serve) -> None:
    server = serve("Faulty", is_ready=False)
    eventually(lambda: workers(server), "the first worker")
    eventually(lambda: handles(server, signal.SIGTERM), "the server to take the signal")
    stop_within_five_seconds(server)


def handles(server: Served, number: int) -> bool:
    """Whether a process has a handler of its own for a signal."""
    status = Path(f"/proc/{server.process.pid}/status").read_text()
    caught = int(status.split("SigCgt:")[1].split()[0], 16)
    return bool(caught >> (number - 1) & 1)


@pytest.mark.row("I4")
@pytest.mark.parametrize(
    ("model", "file"),
    [("SlowToLoad", "loads"), ("SlowToWarmUp", "warms up"), ("HangsOnLoad", "hung")],
)
def test_sigterm_while_a_worker_loads_or_warms_up(serve: Serve, model: str, file: str) -> None:
    server = serve(model, is_ready=False)
    eventually(lambda: noted(server, file), "it to be at it")
    stop_within_five_seconds(server)


@pytest.mark.counter("I4")
def test_a_start_whose_workers_are_left_alone_leaves_them_behind(short_serve: Serve) -> None:
    env = without("a stop ends the workers that start", "a worker dies with its server")
    server = short_serve("SlowToLoad", is_ready=False, env=env)
    eventually(lambda: noted(server, "loads"), "it to be at it")
    with pytest.raises((AssertionError, subprocess.TimeoutExpired)):
        stop_within_five_seconds(server)


@pytest.mark.row("I4")
def test_sigterm_while_a_worker_is_restarted(serve: Serve) -> None:
    server = serve("SlowSecond")
    kill(noted(server, "loads")[0])
    eventually(lambda: len(noted(server, "loads")) == 2, "the next to load")
    stop_within_five_seconds(server)


@pytest.mark.row("I4")
def test_sigterm_in_the_back_off_between_two_starts(serve: Serve) -> None:
    server = serve("FailsLater")
    kill(noted(server, "loads")[0])
    eventually(lambda: "the next start is in" in server.get("/readyz").text, "the back-off")
    stop_within_five_seconds(server)


def is_hastened(serve: Serve) -> None:
    server = serve("Faulty", drain_delay_s=60)
    log = Log(server)
    sent = log.send([{"do": "wait"}] * 20)
    eventually(lambda: noted(server, "waits") and are_read(server, 20), "them to be read")
    server.terminate()
    eventually(lambda: server.get("/readyz").status_code == 503, "not ready")
    server.terminate()
    eventually(partial(lifecycle.refuses_connections, server), "the delay to end", 5.0)
    server.set("go")
    assert [got for got in log.answers(sent) if not got.is_right] == []
    assert server.exit_code(5.0) == 0
    assert is_left_alone(server)


@pytest.mark.row("I3")
def test_a_second_sigterm_ends_the_delay_and_what_runs_is_answered(serve: Serve) -> None:
    is_hastened(serve)


@pytest.mark.counter("I3")
def test_a_second_sigterm_that_is_not_heard_changes_nothing(serve: Serve) -> None:
    deaf = partial(serve, env=without("a second signal hastens the drain"))
    with pytest.raises(AssertionError, match="the delay to end"):
        is_hastened(deaf)


@pytest.mark.row("I3")
def test_ctrl_c_in_the_whole_process_group_is_a_drain(serve: Serve) -> None:
    server = serve("Faulty", replicas=2)
    log = Log(server)
    sent = log.send([{"s": 0.5}] * 20)
    eventually(lambda: are_read(server, 20), "them to be read")
    for pid in {server.process.pid, *workers(server)}:
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGINT)
    assert [got for got in log.answers(sent) if not got.is_right] == []
    assert server.exit_code() == 0
    assert is_left_alone(server)
    assert server.log_lines == []


def test_the_port_is_free_for_the_next_while_the_last_still_drains(serve: Serve) -> None:
    server = serve("Faulty")
    _, port = server.host_and_port
    wire = server.wire()
    wire.post("/predict", '{"n": 5, "do": "wait"}')
    eventually(lambda: noted(server, "waits"), "it to run")
    server.terminate()

    def refuses() -> bool:
        with socket.socket() as probe:
            return probe.connect_ex(server.host_and_port) != 0

    eventually(refuses, "the listener to close")
    again = serve("Faulty", port=port)
    server.set("go")
    assert wire.answer().json() == 10
    assert server.exit_code() == 0
    assert again.predict(1).json() == 2


# Rows that are proven elsewhere can fail


@pytest.mark.counter("I6")
def test_a_port_that_may_be_shared_is_taken_twice(serve: Serve) -> None:
    sharing = partial(serve, env=without("a port is bound by one server alone"))
    with pytest.raises((AssertionError, subprocess.TimeoutExpired)):
        lifecycle.test_an_address_in_use_is_told_within_a_second_of_the_start_with_3(sharing)


@pytest.mark.counter("I6")
def test_a_socket_that_is_not_asked_whether_it_lives_is_taken_from_its_server(
    serve: Serve, tmp_path: Path
) -> None:
    rude = partial(serve, env=without("a socket is asked whether somebody listens"))
    with pytest.raises((AssertionError, subprocess.TimeoutExpired)):
        lifecycle.test_a_live_socket_is_left_alone(rude, Path(os.path.relpath(tmp_path / "s")))


@pytest.mark.counter("I7")
def test_a_stale_socket_that_is_left_is_a_hindrance(serve: Serve, tmp_path: Path) -> None:
    helpless = partial(serve, env=without("a stale socket is removed"))
    with pytest.raises(AssertionError):
        lifecycle.test_a_stale_socket_is_replaced(helpless, Path(os.path.relpath(tmp_path / "s")))


@pytest.mark.counter("I8")
def test_replicas_that_are_replaced_all_at_once_are_noticed(serve: Serve) -> None:
    eager = partial(serve, env=without("workers are recycled one at a time"))
    with pytest.raises(AssertionError):
        recycling.roll(eager)
