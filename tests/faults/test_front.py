"""The server itself is killed or told to stop, whatever its workers do: nobody is left behind."""

from __future__ import annotations

import json
import os
import signal
import socket
import time
from contextlib import suppress
from pathlib import Path

import pytest

from tests.e2e.conftest import Serve, Served, Wire, eventually
from tests.faults.client import Load, Log
from tests.faults.watch import kill, noted, tree, workers

pytestmark = pytest.mark.slow

LATE_S = 1.0
"""For a busy machine, beyond what is promised."""


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


@pytest.mark.parametrize("hangs", [False, True])
def test_the_workers_of_a_server_that_is_killed_are_gone_within_a_second(
    serve: Serve, hangs: bool
) -> None:
    server = serve("Faulty", replicas=2)
    host, port = server.host_and_port
    with Load(Log(server), 8) as load:
        load.rate(0.3)
        if hangs:
            make_hang(server)
        began = time.monotonic()
        server.signal(signal.SIGKILL)
        server.process.wait(5.0)
        eventually(lambda: is_left_alone(server), "all workers to be gone")
        assert time.monotonic() - began < 1.0 + LATE_S
    again = serve("Faulty", port=port)
    assert again.host_and_port == (host, port)
    assert again.predict(4).json() == 8


def test_a_socket_file_that_a_killed_server_left_is_no_hindrance(
    serve: Serve, tmp_path: Path
) -> None:
    path = Path(os.path.relpath(tmp_path / "s"))
    server = serve("Faulty", uds=path)
    server.signal(signal.SIGKILL)
    server.process.wait(5.0)
    assert path.exists()
    assert serve("Faulty", uds=path).predict(4).json() == 8


def test_sigterm_under_load_loses_nothing_and_leaves_nothing(serve: Serve) -> None:
    server = serve("Faulty", replicas=2)
    with Load(Log(server), 64, {"s": 0.01, "do": "note"}) as load:
        load.rate(0.5)
        server.terminate()
        assert server.exit_code() == 0
    assert [got for got in load.wrong if got.code != "draining"] == []
    # A keep-alive connection may end while a request is on its way there: it was not taken.
    assert [lost for lost in load.lost if "0 bytes read" not in lost] == []
    assert noted(server, "ran") and not set(noted(server, "ran")) & {
        int(lost.partition(":")[0]) for lost in load.lost
    }
    assert is_left_alone(server)
    assert len(noted(server, "unloads")) == 2


def test_sigterm_answers_all_that_was_accepted(serve: Serve) -> None:
    server = serve("Faulty")
    wires = [server.wire() for _ in range(64)]
    for n, wire in enumerate(wires):
        wire.post("/predict", json.dumps({"n": n, "s": 0.05}))
    eventually(lambda: server.metric("headrace_queue_items") >= 40, "them to queue")
    eventually(lambda: are_read(server, 64), "all to be read")
    server.terminate()
    assert [wire.answer().json() for wire in wires] == [2 * n for n in range(64)]
    assert server.exit_code() == 0
    assert is_left_alone(server)


def test_sigterm_ends_a_server_whose_worker_hangs_with_the_lock_held(serve: Serve) -> None:
    server = serve("Faulty", drain_timeout_s=0.5)
    wire = make_hang(server)
    server.terminate()
    assert wire.answer().code == "draining"
    assert server.exit_code(15.0) == 0
    assert is_left_alone(server)


def stop_within_five_seconds(server: Served) -> None:
    began = time.monotonic()
    server.terminate()
    assert server.exit_code() == 0
    assert time.monotonic() - began < 5.0
    assert is_left_alone(server)


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


@pytest.mark.parametrize(
    ("model", "file"),
    [("SlowToLoad", "loads"), ("SlowToWarmUp", "warms up"), ("HangsOnLoad", "hung")],
)
def test_sigterm_while_a_worker_loads_or_warms_up(serve: Serve, model: str, file: str) -> None:
    server = serve(model, is_ready=False)
    eventually(lambda: noted(server, file), "it to be at it")
    stop_within_five_seconds(server)


def test_sigterm_while_a_worker_is_restarted(serve: Serve) -> None:
    server = serve("SlowSecond")
    kill(noted(server, "loads")[0])
    eventually(lambda: len(noted(server, "loads")) == 2, "the next to load")
    stop_within_five_seconds(server)


def test_sigterm_in_the_back_off_between_two_starts(serve: Serve) -> None:
    server = serve("FailsLater")
    kill(noted(server, "loads")[0])
    eventually(lambda: "the next start is in" in server.get("/readyz").text, "the back-off")
    stop_within_five_seconds(server)


def test_a_second_sigterm_does_not_wait_for_the_drain(serve: Serve) -> None:
    server = serve("Faulty", drain_delay_s=60)
    server.terminate()
    eventually(lambda: server.get("/readyz").status_code == 503, "not ready")
    stop_within_five_seconds(server)


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
