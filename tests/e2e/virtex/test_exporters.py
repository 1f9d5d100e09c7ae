"""Metrics as they are scraped from real processes, and as a real push gateway gets them."""

from __future__ import annotations

import contextlib
import http.server
import json
import logging
import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from collections import Counter
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from prometheus_client.core import Metric
from prometheus_client.parser import text_string_to_metric_families

from tests.e2e.conftest import WAIT_S, eventually
from virtex.core.exporters import Exporter, exporter_of
from virtex.core.metrics import Counts, ServerCollector

STOP_S = 8.0
"""A stop that took so long was not bounded: its own bound is a second."""


@pytest.fixture(autouse=True)
def no_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("no_proxy", "*")


@pytest.fixture
def port() -> Iterator[int]:
    """A port where nobody listens, and which nobody is given while the test runs."""
    with socket.socket() as held:
        held.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        held.bind(("127.0.0.1", 0))
        yield held.getsockname()[1]


def get(url: str, **headers: str) -> str:
    request = urllib.request.Request(url, headers=headers)
    with urllib.request.urlopen(request, timeout=WAIT_S) as answer:
        text: str = answer.read().decode()
    return text


def scraped(url: str) -> dict[str, Metric]:
    """The families at an address; each stands there once."""
    text = get(url)
    types = Counter(line.split()[2] for line in text.splitlines() if line.startswith("# TYPE"))
    assert set(types.values()) == {1}
    return {family.name: family for family in text_string_to_metric_families(text)}


def values(url: str, family: str, sample: str) -> dict[str, float]:
    """A metric's values by their instance; none where there is no such metric, or no answer."""
    try:
        samples = scraped(url)[family].samples
    except (OSError, KeyError):
        return {}
    return {s.labels["server_instance"]: s.value for s in samples if s.name == sample}


def requests(url: str) -> dict[str, float]:
    return values(url, "requests", "requests_total")


def answers(url: str, expected: dict[str, float]) -> bool:
    """Whether the requests of these instances, and of no others, are at an address."""
    return requests(url) == expected


# One process that serves: it counted some requests, starts its exporter, and ends when asked to.
PROGRAM = """
import json, logging, sys
from virtex.core.exporters import exporter_of
from virtex.core.metrics import Counts, ServerCollector
from virtex.core.logging import LOGGER

logging.basicConfig(stream=sys.stdout, format="%(message)s")
LOGGER.setLevel("INFO")
settings = json.loads(sys.argv[1])
counts = Counts()
counts.requests = settings.pop("requests")
counts.server_latency.observe(12.5)
collector = ServerCollector(lambda: counts, settings["instance"])
exporter = exporter_of(name="cats", collector=collector, interval_s=1, **settings)
sys.stdin.readline()
exporter.start()
sys.stdout.write("started\\n")
sys.stdout.flush()
sys.stdin.readline()
exporter.stop()
sys.stdout.write("stopped\\n")
sys.stdout.flush()
sys.stdin.readline()
"""


class Worker:
    """A process that exports its metrics."""

    def __init__(self, temporary: Path, **settings: Any) -> None:
        self.instance = settings["instance"]
        self.said: list[str] = []
        self.process = subprocess.Popen(
            [sys.executable, "-c", PROGRAM, json.dumps(settings)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            env={**os.environ, "TMPDIR": str(temporary), "LOG_LEVEL": ""},
        )
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            self.said.append(line.strip())

    def tell(self) -> None:
        """On to the next step: start, stop, end."""
        assert self.process.stdin is not None
        with contextlib.suppress(BrokenPipeError):
            self.process.stdin.write("\n")
            self.process.stdin.flush()

    def wait_for(self, word: str) -> None:
        eventually(lambda: word in self.said, f"{self.instance} says {word}: {self.said}")

    @property
    def address(self) -> str | None:
        """Where it says that metrics are served."""
        before = "metrics of cats are served at "
        return next((s.removeprefix(before) for s in self.said if s.startswith(before)), None)

    def kill(self) -> None:
        self.process.kill()
        self.process.wait(WAIT_S)

    def close(self) -> None:
        self.kill()
        self._reader.join(WAIT_S)
        for stream in (self.process.stdin, self.process.stdout):
            assert stream is not None
            with contextlib.suppress(BrokenPipeError):
                stream.close()


Start = Callable[..., list[Worker]]


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    """Starts workers w1, w2, ... at the same time, of which w1 counted one request, w2 two, ..."""
    workers: list[Worker] = []

    def start(how_many: int, first: int = 1, **settings: Any) -> list[Worker]:
        numbers = range(first, first + how_many)
        new = [
            Worker(
                tmp_path,
                **{"mode": "scrape", "host": "http://127.0.0.1", **settings},
                instance=f"w{number}",
                requests=number,
            )
            for number in numbers
        ]
        workers.extend(new)
        for worker in new:
            worker.tell()
        for worker in new:
            worker.wait_for("started")
        return new

    yield start
    for worker in workers:
        worker.close()


def holder(workers: list[Worker]) -> Worker:
    """The one that serves the shared port."""
    found = eventually(lambda: [w for w in workers if w.address], "somebody serves the shared port")
    assert len(found) == 1
    worker: Worker = found[0]
    return worker


@pytest.mark.slow
def test_processes_that_start_together_have_a_port_each(start: Start) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        first = taken.getsockname()[1]
        workers = start(4, port=first)
        addresses = [worker.address for worker in workers]
        ports = [int(str(address).split(":")[2].removesuffix("/metrics")) for address in addresses]
        assert len(set(ports)) == 4
        assert all(first < port < first + 1000 for port in ports)
        for number, address in enumerate(addresses, 1):
            families = scraped(str(address))
            assert requests(str(address)) == {f"w{number}": number}
            assert families["server_latency_milliseconds"].type == "summary"
            assert "process_cpu_seconds" in families
            latency = "server_latency_milliseconds"
            assert values(str(address), latency, f"{latency}_sum") == {f"w{number}": 12.5}


Local = Callable[..., Exporter]


@pytest.fixture
def local() -> Iterator[Local]:
    """Makes exporters in this process, of a server that counted three requests."""
    exporters: list[Exporter] = []

    def make(mode: str, port: int, **more: Any) -> Exporter:
        counts = Counts()
        counts.requests = 3
        settings = {
            "name": "cats",
            "collector": ServerCollector(lambda: counts, more.get("instance", "w1")),
            "instance": "w1",
            "host": "127.0.0.1",
            "interval_s": 0.01,
            "port": port,
            **more,
        }
        exporters.append(exporter_of(mode, **settings))
        return exporters[-1]

    yield make
    for exporter in exporters:
        exporter.stop()
    eventually(lambda: not working(), "its threads end")


def working() -> list[threading.Thread]:
    """The threads of this process's exporters."""
    return [t for t in threading.enumerate() if t.name.startswith("virtex-metrics")]


def stop(exporter: Exporter) -> None:
    """Stop it, twice; neither hangs."""
    began = time.monotonic()
    exporter.stop()
    exporter.stop()
    assert time.monotonic() - began < STOP_S


def is_free(port: int) -> bool:
    """Whether nobody listens on a port."""
    with socket.socket() as client:
        return client.connect_ex(("127.0.0.1", port)) != 0


def test_a_stopped_exporter_frees_its_port(port: int, local: Local) -> None:
    url = f"http://127.0.0.1:{port}/metrics"
    for _ in range(2):
        exporter = local("scrape", port)
        exporter.start()
        assert requests(url) == {"w1": 3}
        assert "# EOF" in get(url, Accept="application/openmetrics-text; version=1.0.0")
        assert get(f"{url}?name[]=requests_total").count("# TYPE") == 1
        stop(exporter)
        assert is_free(port)


def test_a_client_that_says_nothing_keeps_no_stop_waiting(port: int, local: Local) -> None:
    exporter = local("scrape", port)
    exporter.start()
    with socket.create_connection(("127.0.0.1", port)) as silent:
        silent.sendall(b"GET /met")
        stop(exporter)


def test_a_host_of_another_machine_is_an_error_that_says_so(local: Local) -> None:
    with pytest.raises(OSError, match=r"cannot listen on 192\.0\.2\.1, port 9090"):
        local("scrape", 9090, host="192.0.2.1").start()


def test_no_free_port_is_an_error_that_says_where_it_looked(local: Local) -> None:
    with socket.socket() as taken:
        taken.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            taken.bind(("127.0.0.1", 65535))
            taken.listen()
        except OSError:
            assert not is_free(65535)  # somebody else has it: as good
        with pytest.raises(OSError, match=r"expected a free port from 65535 to 65535, found none"):
            local("scrape", 65535).start()


@pytest.mark.slow
def test_one_port_has_the_metrics_of_all_workers(start: Start, port: int) -> None:
    workers = start(4, port=port, shared=True)
    holder(workers)
    url = f"http://127.0.0.1:{port}/metrics"
    expected = {"w1": 1.0, "w2": 2.0, "w3": 3.0, "w4": 4.0}
    eventually(partial(answers, url, expected), "the metrics of all")
    latency = "server_latency_milliseconds"

    def is_whole() -> bool:
        # What a process says of itself has the label as well: else four would have the same name.
        started = values(url, "process_start_time_seconds", "process_start_time_seconds")
        openmetrics = get(url, Accept="application/openmetrics-text; version=1.0.0")
        return (
            values(url, latency, f"{latency}_count") == dict.fromkeys(expected, 1)
            and set(started) == set(expected)
            and openmetrics.count("requests_total{") == 4
            and get(f"{url}?name[]=requests_total").count("requests_total{") == 4
        )

    eventually(is_whole, "all that there is to ask for")


@pytest.mark.slow
def test_when_the_worker_that_serves_the_port_is_killed_another_does(
    start: Start, port: int, tmp_path: Path
) -> None:
    url = f"http://127.0.0.1:{port}/metrics"
    workers = start(4, port=port, shared=True)
    while len(workers) > 1:
        first = holder(workers)
        first.kill()
        workers.remove(first)
        holder(workers)
        left = {worker.instance: float(worker.instance[1:]) for worker in workers}
        eventually(partial(answers, url, left), f"the metrics of {set(left)}")
        (folder,) = tmp_path.glob("virtex-metrics-*")
        assert len(list(folder.glob("*.json"))) == len(workers)


@pytest.mark.slow
def test_a_stopped_worker_takes_no_turn_anymore(start: Start, port: int, tmp_path: Path) -> None:
    url = f"http://127.0.0.1:{port}/metrics"
    workers = start(3, port=port, shared=True)
    serving = holder(workers)
    waiting, last = (worker for worker in workers if worker is not serving)
    for stopped in (waiting, serving):
        stopped.tell()
        stopped.wait_for("stopped")
    eventually(lambda: requests(url) == {last.instance: float(last.instance[1:])}, "the last one")
    assert holder([last, waiting]) is last
    last.tell()
    last.wait_for("stopped")
    assert is_free(port)
    assert all(worker.process.poll() is None for worker in workers)
    (folder,) = tmp_path.glob("virtex-metrics-*")
    assert [path.name for path in folder.iterdir()] == ["turn"]
    # Nobody of those who stopped holds the lock.
    (new,) = start(1, first=9, port=port, shared=True)
    eventually(lambda: requests(url) == {"w9": 9}, "a new one")
    assert holder([new, waiting]) is new


@pytest.mark.slow
def test_a_worker_that_hangs_is_left_out(start: Start, port: int) -> None:
    url = f"http://127.0.0.1:{port}/metrics"
    workers = start(3, port=port, shared=True)
    serving = holder(workers)
    hanging, other = (worker for worker in workers if worker is not serving)
    hanging.process.send_signal(signal.SIGSTOP)
    answered = {worker.instance: float(worker.instance[1:]) for worker in (serving, other)}
    eventually(lambda: requests(url) == answered, "the metrics of those that answer")
    hanging.process.send_signal(signal.SIGCONT)
    answered[hanging.instance] = float(hanging.instance[1:])
    eventually(lambda: requests(url) == answered, "the metrics of all")


def test_a_shared_port_that_a_stranger_has_is_taken_when_it_is_free(
    port: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, local: Local
) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    url = f"http://127.0.0.1:{port}/metrics"
    exporter = local("scrape", port, shared=True)
    with listener(port):
        exporter.start()
        other = local("scrape", port, shared=True, instance="w2")
        other.start()
        stop(other)  # while it waits for its turn
    eventually(lambda: requests(url) == {"w1": 3}, "the port is taken")
    stop(exporter)
    assert is_free(port)


@contextlib.contextmanager
def listener(port: int) -> Iterator[socket.socket]:
    """Somebody who accepts connections and never says a word."""
    with socket.socket() as listening:
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listening.bind(("127.0.0.1", port))
        listening.listen(128)
        yield listening


class Gateway:
    """A real push gateway that comes and goes, always at the same port."""

    def __init__(self, binary: str, port: int, folder: Path) -> None:
        self._binary = binary
        self.port = port
        self._folder = folder
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        with (self._folder / "gateway.log").open("ab") as log:
            self._process = subprocess.Popen(
                # Debian's keeps what it has in a file otherwise.
                [
                    self._binary,
                    f"--web.listen-address=127.0.0.1:{self.port}",
                    "--persistence.file=",
                ],
                stdout=log,
                stderr=log,
                cwd=self._folder,
            )
        eventually(lambda: not is_free(self.port), "the push gateway listens")

    def kill(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.wait(WAIT_S)

    def groups(self) -> list[dict[str, Any]]:
        """What it was given: one entry a group, with its labels."""
        told = json.loads(get(f"http://127.0.0.1:{self.port}/api/v1/metrics"))
        entries: list[dict[str, Any]] = told["data"]
        return entries

    def labels(self) -> list[dict[str, str]]:
        return [group["labels"] for group in self.groups()]

    def value(self, sample: str) -> float | None:
        """One sample of the only instance, as Prometheus would scrape it."""
        text = get(f"http://127.0.0.1:{self.port}/metrics")
        for family in text_string_to_metric_families(text):
            for found in family.samples:
                if found.name == sample and "server_instance" in found.labels:
                    assert found.labels["job"]
                    assert found.labels["instance"] == found.labels["server_instance"]
                    return float(found.value)
        return None


def pushed(gateway: Gateway, requests: int) -> bool:
    """Whether the gateway has this number of requests."""
    return gateway.value("requests_total") == requests


@pytest.fixture
def gateway(port: int, tmp_path: Path) -> Iterator[Gateway]:
    """A push gateway that is not started yet; where there is none at all, CI fails."""
    binary = shutil.which("prometheus-pushgateway") or shutil.which("pushgateway")
    if binary is None:
        if "CI" in os.environ:
            pytest.fail("expected the push gateway: apt-get install prometheus-pushgateway")
        pytest.skip("the push gateway is not installed: apt-get install prometheus-pushgateway")
    gateway = Gateway(binary, port, tmp_path)
    yield gateway
    gateway.kill()


@pytest.fixture
def log(caplog: pytest.LogCaptureFixture) -> Callable[[], list[str]]:
    """The warnings so far."""
    caplog.set_level(logging.WARNING, "virtex")
    return lambda: [record.getMessage() for record in caplog.records]


@pytest.mark.slow
@pytest.mark.parametrize("name", ["cats", "my service/1", "Katzen für: a?b#c%20&d"])
def test_metrics_are_pushed_and_the_group_is_deleted_at_the_end(
    gateway: Gateway, name: str, local: Local
) -> None:
    gateway.start()
    exporters = [
        local("push", gateway.port, name=name, host=host, instance=instance)
        for instance, host in (("w1", "127.0.0.1"), ("w2", "http://127.0.0.1"))
    ]
    exporters[0].start()
    eventually(lambda: gateway.value("requests_total") == 3, "the requests are pushed")
    assert gateway.value("server_latency_milliseconds_count") == 0
    assert gateway.value("metrics_push_failures_total") is not None
    exporters[1].start()
    both = [{"job": name, "instance": instance} for instance in ("w1", "w2")]
    eventually(lambda: gateway.labels() == both, f"two groups of {name}")
    # The gateway says yes before it deletes a group.
    stop(exporters[0])
    eventually(lambda: gateway.labels() == both[1:], "the first group is deleted")
    stop(exporters[1])
    eventually(lambda: gateway.groups() == [], "the second group is deleted")


@pytest.mark.slow
def test_pushes_follow_each_other_as_the_counts_change(gateway: Gateway, local: Local) -> None:
    counts = Counts()
    gateway.start()
    exporter = local("push", gateway.port, collector=ServerCollector(lambda: counts, "w1"))
    exporter.start()
    for _ in range(3):
        counts.requests += 5
        now = counts.requests
        eventually(partial(pushed, gateway, now), "the new count")
    stop(exporter)


@pytest.mark.slow
def test_a_gateway_that_comes_late_gets_the_metrics(
    gateway: Gateway, log: Callable[[], list[str]], local: Local
) -> None:
    exporter = local("push", gateway.port)
    exporter.start()
    eventually(log, "the failure is logged")
    gateway.start()
    eventually(lambda: gateway.value("requests_total") == 3, "the requests are pushed")
    failures = gateway.value("metrics_push_failures_total")
    assert failures is not None
    assert failures >= 1
    eventually(lambda: len(log()) == 2, "the recovery is logged")
    assert log()[0].startswith(f"metrics cannot be pushed to http://127.0.0.1:{gateway.port}: ")
    assert log()[1].startswith("metrics are pushed again after ")
    stop(exporter)
    eventually(lambda: gateway.groups() == [], "the group is deleted")


@pytest.mark.slow
def test_a_gateway_that_is_killed_and_comes_back_has_the_metrics_again(
    gateway: Gateway, log: Callable[[], list[str]], local: Local
) -> None:
    gateway.start()
    exporter = local("push", gateway.port)
    exporter.start()
    eventually(lambda: gateway.value("requests_total") == 3, "the requests are pushed")
    gateway.kill()
    eventually(log, "the failure is logged")
    gateway.start()
    eventually(lambda: gateway.value("requests_total") == 3, "the requests are pushed again")
    gateway.kill()
    stop(exporter)
    assert log()[-1].startswith(f"the metrics of cats stay at http://127.0.0.1:{gateway.port}")


class Answering(http.server.BaseHTTPRequestHandler):
    """Answers everything with an error."""

    protocol_version = "HTTP/1.0"
    seen: list[str]

    def answer(self) -> None:
        self.rfile.read(int(self.headers.get("content-length", 0)))
        self.seen.append(self.command)
        self.send_error(500)

    do_PUT = do_DELETE = answer

    def log_message(self, format: str, *args: Any) -> None: ...


def test_a_gateway_that_answers_500_is_asked_less_and_less(
    log: Callable[[], list[str]], local: Local
) -> None:
    class Here(Answering):
        seen: list[str] = []  # noqa: RUF012

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Here) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        exporter = local("push", server.server_port)
        exporter.start()
        eventually(lambda: len(Here.seen) >= 3, "three pushes")
        stop(exporter)
        server.shutdown()
        thread.join(WAIT_S)
    assert Here.seen[-1] == "DELETE"
    assert ["500" in line for line in log()] == [True, True]


def test_a_gateway_that_hangs_keeps_no_stop_waiting(
    port: int, log: Callable[[], list[str]], local: Local
) -> None:
    with listener(port):
        exporter = local("push", port)
        exporter.start()
        eventually(log, "a push has failed for lack of time")
        stop(exporter)


def test_a_gateway_whose_answer_never_ends_keeps_no_stop_waiting(port: int, local: Local) -> None:
    exporter = local("push", port)
    ending = threading.Event()

    def drip(client: socket.socket) -> None:
        with client, contextlib.suppress(OSError):
            while not ending.wait(0.1):
                client.sendall(b"H")  # each in time, and never the whole of a line

    with listener(port) as listening:
        exporter.start()
        client, _ = listening.accept()
        thread = threading.Thread(target=drip, args=(client,))
        thread.start()
        stop(exporter)
    ending.set()
    thread.join(WAIT_S)


def test_nothing_runs_where_metrics_are_off(port: int, local: Local) -> None:
    exporter = local("off", port)
    exporter.start()
    assert working() == []
    assert is_free(port)
    stop(exporter)
