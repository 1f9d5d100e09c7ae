"""Metrics and logs: they stay small and right, and nobody waits for who takes them."""

from __future__ import annotations

import fcntl
import http.server
import json
import os
import random
import signal
import socket
import statistics
import string
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.conftest import Serve, Served, Wire, eventually
from tests.e2e.virtex.served import ROOT, Launch, Service
from tests.faults.client import Log
from tests.faults.conftest import IS_LONG, rounds
from tests.faults.contract import LATE_S, message
from tests.faults.defences import without
from tests.faults.report import repeated
from tests.faults.watch import kill, noted

pytestmark = pytest.mark.slow

PATHS = 100_000 if IS_LONG else 2_000
AT_ONCE = 16
PLACES = (
    "/{}",
    "/{}/{}",
    "/predict?{}",
    "/models/{}",
    "/models/{}/predict",
    "/v1/models/{}:predict",
)
LETTERS = string.ascii_letters + string.digits + "-._~"


# Series


def random_request() -> bytes:
    """A request for a path or a model that nobody knows, with an id of its own."""
    word = "".join(random.choices(LETTERS, k=random.randrange(1, 40)))
    path = random.choice(
        (
            "/{}",
            "/models/{}/predict",
            "/v1/models/{}:predict",
            "/models/{}",
            "/{}/{}",
            "/predict?{}",
        )
    ).replace("{}", word)
    method = random.choice(("GET", "POST", "PUT", "DELETE"))
    return message(path, "", f"x-request-id: page-{word[:30]}\r\n", method)


def ask_for_anything(server: Served, count: int) -> None:
    """Ask for so many random paths, some at a time."""
    for _ in range(0, count, 10 * AT_ONCE):
        with server.wire() as wire:
            for _ in range(10):
                wire.send(b"".join(random_request() for _ in range(AT_ONCE)))
                for _ in range(AT_ONCE):
                    assert wire.answer().status in (200, 400, 404, 405, 411, 415, 422)


def series(server: Served) -> int:
    """How many lines with values a scrape has."""
    lines = server.get("/metrics").text.splitlines()
    return sum(not line.startswith("#") for line in lines)


def keeps_its_series(server: Served, count: int) -> None:
    ask_for_anything(server, 800)  # each kind of answer has its series by then
    before = series(server)
    ask_for_anything(server, count)
    assert series(server) == before


@pytest.mark.row("K1")
def test_random_paths_and_names_add_no_series(serve: Serve, way: str) -> None:
    server = serve("Faulty", fast_path=way == "fast")
    keeps_its_series(server, repeated(PATHS))
    assert server.predict(2).json() == 4


@pytest.mark.counter("K1")
def test_paths_as_labels_are_noticed(serve: Serve) -> None:
    server = serve("Faulty", env=without("series are named by routes, not by paths"))
    with pytest.raises(AssertionError):
        keeps_its_series(server, 200)


# Counts


def count_over_deaths(serve: Serve, times: int) -> None:
    """Kill workers between scrapes: a model's own count never falls, and is never too high."""
    server = serve("Counting", replicas=2)
    log, asked, told = Log(server), 0, 0.0
    for _ in range(times):
        got = log.ask([{}] * 20)
        asked += 20
        assert all(each.is_right for each in got)
        now = server.metric("fault_items_total")
        assert now == asked, "each scrape has all that was run since the last one"
        assert now >= told
        told = now
        victim = random.choice([pid for pid in noted(server, "loads") if alive(pid)])
        kill(victim)
        eventually(partial(are_ready, server, 2), "two replicas again")
        assert server.metric("fault_items_total") == asked, "it stays"
    log.check()


def alive(pid: int) -> bool:
    return Path(f"/proc/{pid}/cmdline").exists() and bool(Path(f"/proc/{pid}/cmdline").read_bytes())


def are_ready(server: Served, count: int) -> bool:
    return server.metric("headrace_replicas_ready") == count


@pytest.mark.row("K2")
def test_counts_are_right_over_deaths_of_workers(serve: Serve) -> None:
    count_over_deaths(serve, rounds(2))


@pytest.mark.counter("K2")
def test_counts_that_go_with_their_worker_are_noticed(serve: Serve) -> None:
    forgetful = partial(serve, env=without("what a worker counted stays when it ends"))
    with pytest.raises(AssertionError):
        count_over_deaths(forgetful, 2)


# A push gateway


@pytest.fixture
def launch() -> Iterator[Launch]:
    """Starts servers of virtex that this test ends."""
    with tempfile.TemporaryDirectory(prefix="hr-") as folder:
        launch = Launch(Path(folder))
        yield launch
        launch.stop()


class _Failing(http.server.BaseHTTPRequestHandler):
    """A gateway that answers everything with an error."""

    def answer(self) -> None:
        self.rfile.read(int(self.headers.get("content-length", 0)))
        self.send_error(500)

    do_PUT = do_DELETE = answer

    def log_message(self, format: str, *args: Any) -> None: ...


@contextmanager
def down() -> Iterator[int]:
    """A port where nobody listens."""
    with socket.socket() as held:
        held.bind(("127.0.0.1", 0))
        yield held.getsockname()[1]


@contextmanager
def hanging() -> Iterator[int]:
    """A gateway that takes connections and never says a word."""
    with socket.create_server(("127.0.0.1", 0), backlog=128) as listener:
        yield listener.getsockname()[1]


@contextmanager
def failing() -> Iterator[int]:
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), _Failing) as gateway:
        thread = threading.Thread(target=gateway.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield gateway.server_port
        gateway.shutdown()
        thread.join()


def start(launch: Launch, env: Mapping[str, str], **options: Any) -> Service:
    return launch.uvicorn("scripted", env={"OPTIONS": json.dumps(options), **env})


def median_s(service: Service) -> float:
    """How long a request takes."""
    times = []
    for n in range(100):
        began = time.monotonic()
        assert service.ask(n).status_code == 200
        times.append(time.monotonic() - began)
    return statistics.median(times)


def stop_s(service: Service) -> float:
    """How long a server takes to end once it is told to."""
    began = time.monotonic()
    service.terminate()
    service.exit_code()
    return time.monotonic() - began


def push_without_harm(launch: Launch, port: int, env: Mapping[str, str]) -> None:
    quiet = start(launch, {}, metrics_mode="off")
    pushing = start(launch, env, metrics_mode="push", metrics_port=port)
    assert median_s(pushing) <= 2 * median_s(quiet) + 0.05
    assert stop_s(pushing) <= stop_s(quiet) + 1.0 + LATE_S, "it waits for the gateway"


@pytest.mark.row("K3")
@pytest.mark.parametrize("gateway", [down, hanging, failing])
def test_a_push_gateway_in_trouble_is_nobodys_trouble(
    launch: Launch, gateway: Callable[[], Any]
) -> None:
    with gateway() as port:
        push_without_harm(launch, port, {})


@pytest.mark.counter("K3")
def test_a_stop_that_waits_for_a_gateway_is_noticed(launch: Launch) -> None:
    env = dict(without("a stop waits for a gateway no longer than it may"))
    env["PYTHONPATH"] += os.pathsep + str(ROOT)
    with hanging() as port, pytest.raises(AssertionError, match="waits for the gateway"):
        push_without_harm(launch, port, env)


# Injection

NASTY = (
    'a\r\n{"level":"info","message":"forged"}\r\n',
    "\x1b[31mred\x1b[0m\x07\x00",
    "\u2028\u2029\x85\n",
    '"}\n{"message":"forged"',
)


def log_the_nasty(server: Served) -> None:
    """Fail with texts that would be records of their own, or colours, if they were just printed."""
    for text in NASTY:
        assert server.predict(1, do=text).status_code == 500
        assert server.predict(1, unknown=text).status_code == 422
        with server.wire() as wire:
            quoted = "".join(f"%{byte:02X}" for byte in text.encode())
            wire.post(f"/models/{quoted}/predict", "{}", "x-request-id: a%0Ab\r\n")
            assert wire.answer().status == 404
    eventually(lambda: len(server.log_lines) >= 2 * len(NASTY), "the records")
    for line in list(server.log_lines):
        assert line.isprintable(), line
        record = json.loads(line)
        assert record["message"] == "request failed"
        assert {"time", "level", "logger", "request_id"} <= set(record)


@pytest.mark.row("K4")
def test_a_record_is_one_line_whatever_is_in_it(serve: Serve, way: str) -> None:
    log_the_nasty(serve("Wordy", fast_path=way == "fast"))


@pytest.mark.counter("K4")
def test_records_that_are_printed_as_they_are_are_noticed(serve: Serve) -> None:
    with pytest.raises((AssertionError, ValueError)):
        log_the_nasty(serve("Wordy", env=without("a record is one line")))


# Standard output and error

ANSWER_S = 5.0


def full_pipe() -> tuple[int, int]:
    """A pipe that takes no byte more, and which nobody reads."""
    reading, writing = os.pipe()
    os.set_blocking(writing, False)
    with suppress(BlockingIOError):
        while True:
            os.write(writing, bytes(1 << 16))
    with suppress(BlockingIOError):
        while True:
            os.write(writing, b"\0")
    os.set_blocking(writing, True)
    return reading, writing


def predicts(wire: Wire, n: int, do: str = "") -> int:
    """The status of an answer, which has to come soon."""
    wire.socket.settimeout(ANSWER_S)
    wire.post("/predict", json.dumps({"n": n, "do": do}))
    answer = wire.answer()
    assert answer.status != 200 or answer.json() == 2 * n
    return answer.status


def is_ready(server: Served) -> bool:
    """Whether it says so where it listens, as nobody hears it."""
    with socket.socket(socket.AF_UNIX) as probe:
        if probe.connect_ex(str(server.uds)):
            return False
    return server.get("/readyz").status_code == 200


def serves_all_the_same(server: Served) -> None:
    """Serve, fail, lose a worker and drain, whatever becomes of the records of that."""
    eventually(partial(is_ready, server), "ready")
    with server.wire() as wire:
        for n in range(5):
            assert predicts(wire, n) == 200
            assert predicts(wire, n, "predict: memory error") == 500
        assert predicts(wire, 7, "predict: exit") == 500
        eventually(partial(is_ready, server), "ready again")
        assert predicts(wire, 8) == 200
    server.terminate()
    assert server.exit_code() == 0


def start_with(serve: Serve, fd: int, folder: Path, **more: Any) -> Served:
    """A server whose standard output and error are this."""
    uds = Path(os.path.relpath(folder / "s"))
    return serve("Faulty", uds=uds, is_ready=False, stdout=fd, stderr=fd, **more)


@pytest.mark.row("K6")
def test_serving_goes_on_when_nobody_reads_what_it_says(serve: Serve, tmp_path: Path) -> None:
    reading, writing = full_pipe()
    server = start_with(serve, writing, tmp_path)
    os.close(writing)
    serves_all_the_same(server)
    os.close(reading)


@pytest.mark.row("K6")
def test_what_was_lost_meanwhile_is_told_and_counted(serve: Serve, tmp_path: Path) -> None:
    reading, writing = full_pipe()
    size = fcntl.fcntl(reading, fcntl.F_GETPIPE_SZ)
    server = start_with(serve, writing, tmp_path)
    os.close(writing)
    eventually(partial(is_ready, server), "ready")
    with server.wire() as wire:
        for n in range(3):
            assert predicts(wire, n, "predict: memory error") == 500
        assert server.metric("headrace_log_records_lost_total") == 3
        while size > 0:
            size -= len(os.read(reading, size))
        assert predicts(wire, 4, "predict: memory error") == 500
    os.set_blocking(reading, False)
    lines = os.read(reading, 1 << 16).lstrip(b"\0").decode().splitlines()
    records = [json.loads(line) for line in lines if line.startswith("{")]
    assert [record.get("lost") for record in records] == [3, None]
    assert server.metric("headrace_log_records_lost_total") == 3
    os.close(reading)
    server.terminate()
    assert server.exit_code() == 0


@pytest.mark.row("K6")
def test_serving_goes_on_when_there_is_no_room(serve: Serve, tmp_path: Path) -> None:
    with open("/dev/full", "w") as full:
        server = start_with(serve, full.fileno(), tmp_path)
    serves_all_the_same(server)


@pytest.mark.row("K6")
def test_serving_goes_on_when_the_reader_has_left(serve: Serve, tmp_path: Path) -> None:
    reading, writing = os.pipe()
    os.close(reading)
    server = start_with(serve, writing, tmp_path)
    os.close(writing)
    serves_all_the_same(server)


@pytest.mark.row("K6")
def test_serving_goes_on_when_all_three_are_closed(serve: Serve, tmp_path: Path) -> None:
    closing = ("sh", "-c", 'exec "$@" <&- >&- 2>&-', "sh")
    with open(os.devnull, "w") as null:
        server = start_with(serve, null.fileno(), tmp_path, prefix=closing)
    serves_all_the_same(server)


@pytest.mark.counter("K6")
def test_a_server_that_waits_for_its_reader_is_noticed(serve: Serve, tmp_path: Path) -> None:
    reading, writing = full_pipe()
    waiting = without("a log that nobody reads is not waited for")
    server = start_with(serve, writing, tmp_path, env=waiting)
    os.close(writing)
    with pytest.raises(TimeoutError):
        serves_all_the_same(server)
    server.signal(signal.SIGKILL)
    os.close(reading)
