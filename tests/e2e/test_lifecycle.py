"""Start, drain, stop: exit codes, signals, sockets."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import pytest

from tests.e2e.conftest import Serve, Served, Wire, eventually

# Start


def test_it_says_in_a_few_lines_what_is_served_where(serve: Serve) -> None:
    server = serve("Scripted", "Size")
    lines = server.output
    assert len(lines) <= 6
    assert lines[0].endswith(server.address)
    assert "scripted: POST /models/scripted/predict" in lines[1]
    assert "size: POST /models/size/predict" in lines[2]
    assert "/docs" in lines[-1] and "/metrics" in lines[-1]
    assert server.log_lines == []


def test_while_a_model_loads_the_server_lives_but_is_not_ready(serve: Serve, uds: Path) -> None:
    server = serve("SlowToLoad", uds=uds, is_ready=False)
    eventually(lambda: server.is_set("loading"), "loading")
    assert server.get("/livez").status_code == 200
    unready = server.get("/readyz")
    assert (unready.status_code, unready.json()["ready"]) == (503, False)
    model = unready.json()["models"]["slow-to-load"]
    assert (model["ready"], model["reason"]) == (False, "loading")
    refused = server.predict(1)
    assert (refused.status_code, refused.json()["code"]) == (503, "not_ready")
    assert "retry-after" in refused.headers
    assert server.get("/health").status_code == 503
    server.set("loaded")
    server.wait_ready()
    assert server.get("/readyz").status_code == 200
    assert server.predict(1).json() == 2


def test_an_inline_model_is_ready_when_it_has_loaded(serve: Serve, uds: Path) -> None:
    server = serve("SlowToLoad", executor="inline", uds=uds, is_ready=False)
    eventually(lambda: server.is_set("loading"), "loading")
    server.set("loaded")
    server.wait_ready()
    assert server.predict(1).json() == 2


@pytest.mark.parametrize("name", ["LoadRaises", "ExampleFails"])
@pytest.mark.row("E6")
def test_a_model_that_never_gets_ready_ends_the_server_with_4_and_a_reason(
    serve: Serve, executor: str, name: str
) -> None:
    server = serve(name, executor=executor, is_ready=False)
    assert server.exit_code() == 4
    said = {"LoadRaises": "load raised OSError: no weights", "ExampleFails": "examples[0]"}
    told = [r for r in server.records() if r["message"] == "a model did not become ready"]
    assert any(said[name] in str(record["reason"]) for record in told)
    assert server.output == []


def test_a_worker_that_cannot_be_started_ends_the_server_with_4_and_a_reason(serve: Serve) -> None:
    few_files = ("sh", "-c", 'ulimit -n 10; exec "$@"', "sh")
    server = serve("Scripted", is_ready=False, prefix=few_files, replicas=4)
    assert server.exit_code() == 4
    [record] = server.records()
    assert record["message"] == "a worker cannot be started"
    assert "Too many open files" in record["reason"]


def test_a_target_that_is_not_there_ends_the_server_with_2_and_a_hint(
    serve: Serve, executor: str
) -> None:
    server = serve("Scriptet", executor=executor, is_ready=False)
    assert server.exit_code() == 2
    assert "has no Scriptet; did you mean Scripted?" in "".join(server.log_lines)
    assert server.output == []


@pytest.mark.slow
@pytest.mark.row("E6")
def test_a_start_that_takes_too_long_ends_with_4(serve: Serve, executor: str) -> None:
    server = serve("SlowToLoad", executor=executor, is_ready=False, start_timeout_s=0.3)
    assert server.exit_code() == 4
    assert "start_timeout_s" in "".join(server.log_lines)


BUSY_S = 0.75
"""What a busy machine may add."""


def own_start_s() -> float:
    """What Python takes to start the command, on the machine as it is now."""
    began = time.monotonic()
    command = [sys.executable, "-m", "headrace", "--version"]
    subprocess.run(command, check=True, capture_output=True)
    return time.monotonic() - began


def ended_within_a_second(start: Callable[[], Served]) -> Served:
    """A server that ends with 3, within a second of what the command's start takes."""
    before_s = own_start_s()
    began = time.monotonic()
    server = start()
    assert server.exit_code() == 3
    took_s = time.monotonic() - began
    assert took_s < max(before_s, own_start_s()) + 1.0 + BUSY_S
    return server


@pytest.mark.row("I6")
def test_an_address_in_use_is_told_within_a_second_of_the_start_with_3(serve: Serve) -> None:
    first = serve("Scripted")
    host, port = first.host_and_port
    quick = ended_within_a_second(lambda: serve("Scripted", is_ready=False, port=port))
    [record] = quick.records()
    assert f"{host}:{port}" in record["message"] and "another server has it" in record["message"]
    assert first.predict(1).json() == 2


def test_an_address_that_is_not_this_machines_is_told_with_3(serve: Serve) -> None:
    for host in ("192.0.2.1", "no.such.host.invalid"):
        server = serve("Scripted", is_ready=False, host=host)
        assert server.exit_code() == 3
        assert host in server.records()[-1]["message"]


# Unix sockets


def test_a_unix_socket_serves_and_is_gone_after(serve: Serve, uds: Path, executor: str) -> None:
    server = serve("Scripted", uds=uds, executor=executor)
    assert server.predict(1).json() == 2
    assert f"unix:{uds}" in server.output[0]
    server.terminate()
    assert server.exit_code() == 0
    assert not uds.exists()


@pytest.mark.row("I7")
def test_a_stale_socket_is_replaced(serve: Serve, uds: Path) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as stale:
        stale.bind(str(uds))
    assert uds.exists()
    assert serve("Scripted", uds=uds).predict(1).json() == 2


@pytest.mark.row("I6")
def test_a_live_socket_is_left_alone(serve: Serve, uds: Path) -> None:
    first = serve("Scripted", uds=uds)
    second = ended_within_a_second(lambda: serve("Scripted", uds=uds, is_ready=False))
    assert "another server has it" in second.records()[-1]["message"]
    assert first.predict(1).json() == 2


def test_a_socket_that_a_successor_put_in_place_outlives_the_one_that_drains(
    serve: Serve, uds: Path
) -> None:
    old = serve("Scripted", uds=uds)
    with old.wire() as wire:
        wire.post("/predict", '{"n": 7, "do": "wait"}')
        eventually(lambda: 7 in old.ran(), "it to run")
        old.terminate()

        def listens() -> bool:
            with socket.socket(socket.AF_UNIX) as probe:
                return probe.connect_ex(str(uds)) == 0

        eventually(lambda: not listens(), "the listener to close")
        new = serve("Scripted", uds=uds)
        old.set("go")
        assert wire.answer().json() == 14
    assert old.exit_code() == 0
    assert new.predict(1).json() == 2


@pytest.mark.row("I7")
def test_a_path_where_no_socket_can_be_is_told_with_3(serve: Serve, uds: Path) -> None:
    folder = uds.parent
    (folder / "file").write_text("kept")
    (folder / "link").symlink_to(folder / "nothing")
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as stale:
        stale.bind(str(folder / "stale"))
    (folder / "to-stale").symlink_to(folder / "stale")
    paths = {
        folder: "no socket",
        folder / "file": "no socket",
        folder / "link": "no socket",
        folder / "to-stale": "no socket",
        folder / "file" / "s": "Not a directory",
        Path("/proc/self/s"): "cannot listen on /proc/self/s: ",  # nobody may write there
        folder / ("x" * 108): "107 bytes",
        folder / "missing" / "s": "No such file or directory",
    }
    servers = {path: serve("Scripted", uds=path, is_ready=False) for path in paths}
    for path, said in paths.items():
        assert servers[path].exit_code() == 3
        assert said in servers[path].records()[-1]["message"]
    assert (folder / "file").read_text() == "kept"
    assert (folder / "link").is_symlink() and (folder / "stale").is_socket()


# Stop


def in_flight(server: Served, count: int, seconds: float) -> list[Wire]:
    """Requests on connections of their own, all of them read by the server."""
    wires = [server.wire() for _ in range(count)]
    for n, wire in enumerate(wires, 1):
        wire.post("/predict", json.dumps({"n": n, "s": seconds}))
    return wires


def test_sigterm_with_64_in_flight_answers_them_all_and_exits_with_0(
    serve: Serve, executor: str
) -> None:
    server = serve("Scripted", executor=executor)
    idle = [server.wire() for _ in range(10)]
    wires = in_flight(server, 64, 0.03)
    if executor != "inline":
        running = "headrace_http_requests_in_flight"
        done = "headrace_http_requests_total"
        eventually(lambda: server.metric(running) + server.metric(done) >= 64, "all 64 to be read")
    else:
        eventually(lambda: server.ran(), "the first to run")
        time.sleep(0.2)
    server.terminate()
    answers = [wire.answer() for wire in wires]
    assert [answer.json() for answer in answers] == [2 * n for n in range(1, 65)]
    assert server.exit_code() == 0
    assert all(wire.is_closed() for wire in idle)
    assert server.is_set("unloaded")


def test_what_the_system_holds_for_the_server_at_sigterm_is_answered_too(serve: Serve) -> None:
    server = serve("Scripted", executor="inline")
    known, silent = server.wire(), server.wire()
    known.post("/predict", '{"n": 1}')
    assert known.answer().json() == 2
    with server.wire() as busy:
        busy.post("/predict", '{"n": 2, "do": "wait"}')
        eventually(lambda: 2 in server.ran(), "it to run")
        known.post("/predict", '{"n": 3}')
        unknown = in_flight(server, 64, 0.0)
        server.terminate()
        server.set("go")
        assert busy.answer().json() == 4
    assert known.answer().json() == 6
    assert [wire.answer().json() for wire in unknown] == [2 * n for n in range(1, 65)]
    assert silent.is_closed()
    assert server.exit_code() == 0


def test_sigint_drains_too(serve: Serve, executor: str) -> None:
    server = serve("Scripted", executor=executor)
    [wire] = in_flight(server, 1, 0.3)
    eventually(lambda: 1 in server.ran(), "it to run")
    server.signal(signal.SIGINT)
    assert wire.answer().json() == 2
    assert server.exit_code() == 0
    assert server.log_lines == []


@pytest.mark.slow
@pytest.mark.parametrize("models", [["SlowToLoad"], ["SlowToLoad", "SlowToo"], ["Pooled"]])
def test_sigterm_while_loading_ends_it_within_five_seconds(
    serve: Serve, executor: str, models: list[str]
) -> None:
    server = serve(*models, executor=executor, is_ready=False)
    eventually(lambda: server.is_set("loading"), "loading")
    began = time.monotonic()
    server.terminate()
    assert server.exit_code() == 0
    assert time.monotonic() - began < 5.0


def test_while_it_drains_it_is_not_ready_but_accepts_for_the_delay(serve: Serve) -> None:
    server = serve("Scripted", drain_delay_s=1.0)
    server.terminate()
    eventually(lambda: server.get("/readyz").status_code == 503, "not ready")
    draining = server.get("/readyz").json()
    assert (draining["ready"], draining["reason"]) == (False, "draining")
    model = draining["models"]["scripted"]
    assert (model["ready"], model["reason"]) == (False, "draining")
    time.sleep(0.4)  # longer than it takes to close the listener without a delay
    with httpx.Client(trust_env=False) as fresh:
        assert fresh.post(server.address + "/predict", json={"n": 4}).json() == 8
    assert server.get("/livez").status_code == 200
    assert server.exit_code() == 0


def test_a_second_signal_ends_the_delay(serve: Serve) -> None:
    server = serve("Scripted", drain_delay_s=60)
    server.terminate()
    eventually(lambda: server.get("/readyz").status_code == 503, "not ready")
    began = time.monotonic()
    server.terminate()
    assert server.exit_code() == 0
    assert time.monotonic() - began < 5.0


@pytest.mark.slow
def test_what_outlasts_the_drain_is_answered_with_503(serve: Serve) -> None:
    server = serve("Scripted", drain_timeout_s=0.3)
    with server.wire() as wire:
        wire.post("/predict", '{"n": 7, "do": "wait"}')
        eventually(lambda: 7 in server.ran(), "it to run")
        server.terminate()
        answer = wire.answer()
        assert (answer.status, answer.code) == (503, "draining")
    assert server.exit_code() == 0


def test_a_request_during_the_drain_is_answered_and_its_connection_closed(serve: Serve) -> None:
    server = serve("Scripted")
    with server.wire() as busy, server.wire() as other:
        busy.post("/predict", '{"n": 7, "do": "wait"}')
        eventually(lambda: 7 in server.ran(), "it to run")
        other.send("POST /predict HTTP/1.1\r\nhost: x\r\ncontent-length: 7\r\n\r\n")
        eventually(lambda: server.metric("headrace_http_requests_in_flight") == 2, "its head")
        server.terminate()
        time.sleep(0.3)
        other.send('{"n":8}')
        server.set("go")
        for wire, expected in ((busy, 14), (other, 16)):
            answer = wire.answer()
            assert (answer.json(), answer.headers["connection"]) == (expected, "close")
    assert server.exit_code() == 0


# A replica that hangs


@pytest.mark.slow
@pytest.mark.row("E5")
def test_a_hung_replica_on_a_thread_is_told_at_livez_and_ends_the_server_with_5(
    serve: Serve,
) -> None:
    server = serve("Scripted", "Size", executor="thread", limits__predict_timeout_s=0.5)
    with ThreadPoolExecutor(1) as pool:
        hung = pool.submit(server.predict, 7, do="hang")
        eventually(lambda: 7 in server.ran(), "it to run")
        assert server.request("POST", "/models/size/predict", content=b"ab").json() == 2
        eventually(lambda: server.get("/livez").status_code == 503, "not alive")
        assert server.get("/readyz").status_code == 503
        assert hung.result().status_code in (500, 503)
    assert server.exit_code() == 5
    assert any(record["level"] == "critical" for record in server.records())


@pytest.mark.slow
@pytest.mark.row("E5")
def test_a_hung_inline_replica_ends_the_server_with_5(serve: Serve) -> None:
    server = serve("Scripted", executor="inline", limits__predict_timeout_s=0.5)
    with server.wire() as wire:
        wire.post("/predict", '{"n": 7, "do": "hang"}')
        assert server.exit_code() == 5
    assert any(record["level"] == "critical" for record in server.records())


# Standard output


def test_serving_goes_on_when_standard_output_is_closed(serve: Serve, uds: Path) -> None:
    reading, writing = os.pipe()
    os.close(reading)
    server = serve("Scripted", uds=uds, is_ready=False, stdout=writing)
    os.close(writing)
    eventually(lambda: uds.exists(), "listening")
    eventually(lambda: server.get("/readyz").status_code == 200, "ready")
    assert server.predict(1).json() == 2
    server.terminate()
    assert server.exit_code() == 0


def test_serving_goes_on_when_standard_output_is_full(serve: Serve, uds: Path) -> None:
    with open("/dev/full", "w") as full:
        server = serve("Scripted", uds=uds, is_ready=False, stdout=full.fileno())
    eventually(lambda: uds.exists(), "listening")
    eventually(lambda: server.get("/readyz").status_code == 200, "ready")
    assert server.predict(1).json() == 2
    server.terminate()
    assert server.exit_code() == 0


@pytest.mark.slow
def test_a_second_signal_does_not_wait_for_a_body_that_does_not_come(serve: Serve) -> None:
    server = serve("Scripted", drain_timeout_s=60)
    with server.wire() as wire:
        head = "POST /predict HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
        wire.send(head + 'Content-Length: 100\r\n\r\n{"n":')
        assert server.get("/livez").status_code == 200
        server.terminate()
        # The same signal twice at once is one signal: the first must have been heard.
        eventually(lambda: refuses_connections(server), "the listener to close")
        began = time.monotonic()
        server.terminate()
        assert server.exit_code() == 0
        assert time.monotonic() - began < 12.0, "five seconds, and some more on a busy machine"


def refuses_connections(server: Served) -> bool:
    try:
        socket.create_connection(server.host_and_port, timeout=1.0).close()
    except ConnectionRefusedError:
        return True
    except TimeoutError:  # it was passed over as the listener closed
        pass
    return False
