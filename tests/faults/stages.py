"""Requests brought to a stage of their way, and held there: in every executor and every face."""

from __future__ import annotations

import functools
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from tests.e2e.conftest import Answer, Served, Wire, eventually, starter
from tests.e2e.remote import House, listens_at
from tests.e2e.ventu.services import Service as BatchingService
from tests.e2e.virtex.served import ROOT, Service, free_port
from tests.faults.contract import by, message
from tests.faults.journal import FOLDER, MAX_BATCH_SIZE

HERE = Path(__file__).parent
STEPPED = f"{HERE / 'journal.py'}:Stepped"
ONE = MAX_BATCH_SIZE
"""Items of a batch."""
MANY = 60
"""Calls, more than a test has."""
WARM = -1
"""The number of a request that only makes a connection known."""


class Form(NamedTuple):
    """How a face wants an order, and where it has the answer's value."""

    path: str
    write: Callable[[dict[str, Any]], Any]
    read: Callable[[Any], Any]


FORMS = {
    "headrace": Form("/predict", lambda order: order, lambda answer: answer),
    "virtex": Form("/", lambda order: {"data": [order]}, lambda answer: answer["data"][0]),
    "ventu": Form("/inference", lambda order: order, lambda answer: answer["value"]),
    "batching": Form("/", lambda order: order, lambda answer: answer["value"]),
}


class Cell:
    """A server whose model is `journal.py`'s, in one of the ways in which there are servers.

    Attributes:
        is_blocking: Whether the model runs on the loop, so that nobody is heard meanwhile.
        tells: Whether it has headrace's metrics.

    Args:
        server: Ready.
        folder: Of the model.
        face: One of `FORMS`.
        executor: Where batches run.
    """

    def __init__(self, server: Served, folder: Path, face: str, executor: str) -> None:
        self.server = server
        self.face = face
        self.executor = executor
        self.is_blocking = executor == "inline"
        self.tells = face in ("headrace", "batching")
        self._form = FORMS[face]
        self._folder = folder
        self._next = 0
        self._ended = 0.0

    def connect(self, count: int) -> list[Wire]:
        """Connections that the server has answered on, more than once."""
        wires = [self.server.wire() for _ in range(count)]
        if self.tells:  # what was before may have ended a worker
            eventually(lambda: self.metric("replicas_ready"), "a replica to be ready")
        for _ in range(2):
            for wire in wires:
                wire.send(self.request(WARM))
            assert {self.value(wire.answer()) for wire in wires} == {2 * WARM}
        self._ended = self._sum("items_total") if self.tells else 0.0
        return wires

    def request(self, n: int, headers: str = "", **order: Any) -> bytes:
        body = json.dumps(self._form.write({"n": n, **order}))
        return message(self._form.path, body, f"content-type: application/json\r\n{headers}")

    def value(self, answer: Answer) -> Any:
        """What a right answer says."""
        assert answer.status == 200, answer.body
        return self._form.read(answer.json())

    def numbers(self, count: int) -> list[int]:
        """Such as no request had before."""
        self._next += count
        return list(range(self._next - count + 1, self._next + 1))

    def number(self) -> int:
        """One that no request had before."""
        [n] = self.numbers(1)
        return n

    def calls(self) -> list[list[int]]:
        """The model's calls so far, without those that only made connections known."""
        path = self._folder / "journal"
        lines = path.read_text().splitlines() if path.exists() else []
        return [json.loads(line) for line in lines]

    def call(self, place: int) -> list[int]:
        """Wait for the call at a place, counted from 1."""
        eventually(lambda: len(self.calls()) >= place, f"call {place}")
        return self.calls()[place - 1]

    def go_on(self, first: int, last: int | None = None) -> None:
        """Let the calls at these places go on."""
        for place in range(first, (last or first) + 1):
            (self._folder / f"step-{place}").touch()

    def begin(self) -> None:
        """Forget which calls may go on: those to come are others."""
        for path in self._folder.glob("step-*"):
            path.unlink()

    def release(self) -> None:
        """Let everything go on."""
        self.go_on(1, len(self.calls()) + MANY)

    def metric(self, name: str) -> float:
        return self.server.metric(f"headrace_{name}")

    def _sum(self, *names: str) -> float:
        """Of one scrape."""
        lines = self.server.get("/metrics").text.splitlines()
        starts = tuple(f"headrace_{name}" + "{" for name in names)
        return sum(float(line.rpartition(" ")[2]) for line in lines if line.startswith(starts))

    def wait_admitted(self, count: int) -> None:
        """Wait until so many items wait or run; one that blocks reads them when it can."""
        if self.tells and not self.is_blocking:
            names = ("queue_items", "running_items", "items_total")
            eventually(lambda: self._sum(*names) >= self._ended + count, f"{count} items")

    def settle(self) -> None:
        """Wait until nothing waits or runs."""
        if self.tells:
            names = ("queue_items", "queue_bytes", "running_items")
            eventually(lambda: not self._sum(*names), "nothing to wait or run")

    def check_free(self) -> None:
        """Nothing is held for anybody."""
        self.settle()
        if self.tells:
            eventually(lambda: not self.metric("http_requests_in_flight"), "none in flight")
            assert self.server.get("/livez").status_code == 200

    def block(self) -> tuple[Wire, int]:
        """A request that runs until its call, the place of which is told, may go on."""
        [wire] = self.connect(1)
        place = len(self.calls()) + 1
        [n] = self.numbers(1)
        wire.send(self.request(n, step=True))
        assert self.call(place) == [n]
        return wire, place


@contextmanager
def headrace_cell(
    executor: str, way: str, env: Mapping[str, str] | None = None, **settings: Any
) -> Iterator[Cell]:
    """`headrace serve`; with an environment, it is undefended, and may end as it likes."""
    servers: list[Served] = []
    with tempfile.TemporaryDirectory(prefix="hr-") as folder:
        try:
            serve = starter(Path(folder), servers, HERE / "journal.py")
            server = serve("Stepped", executor=executor, env=env, **(settings | by(way)))
            yield Cell(server, server.folder, "headrace", executor)
            if env is None:
                end(server)
        finally:
            for each in servers:
                each.stop()


@contextmanager
def remote_cell(way: str) -> Iterator[Cell]:
    with tempfile.TemporaryDirectory(prefix="hr-") as folder:
        house = House(Path(folder))
        try:
            settings: dict[str, Any] = by(way)
            front = house.front(**settings)
            worker = house.worker(STEPPED, listens_at(front))
            front.wait_ready()
            yield Cell(front, worker.folder, "headrace", "remote")
            end(front)
        finally:
            house.stop()


@contextmanager
def program_cell(face: str) -> Iterator[Cell]:
    """virtex or ventu, under uvicorn."""
    app = {"virtex": "app", "ventu": "asgi_app"}[face]
    with tempfile.TemporaryDirectory(prefix="hr-") as folder:
        port = free_port()
        target = f"tests.faults.journal_{face}:{app}"
        command = [sys.executable, "-m", "uvicorn", target, "--port", str(port)]
        server = Service(
            started(command, Path(folder)), Path(folder), None, f"http://127.0.0.1:{port}"
        )
        try:
            server.wait_ready()
            yield Cell(server, server.folder, face, "inline")
        finally:
            server.stop()


@contextmanager
def batching_cell() -> Iterator[Cell]:
    """`headrace batching`, with a worker of ventu."""
    with tempfile.TemporaryDirectory(prefix="hr-") as name:
        folder = Path(name)
        command = [sys.executable, "-m", "headrace", "batching", "--log-format", "json"]
        command += ["--host", "127.0.0.1", "--port", "0", "--address", str(folder / "s")]
        command += ["--batch", "4", "--timeout", "60000"]
        service = BatchingService(started(command, folder), folder, None, "http://x")
        try:
            service.wait_ready()
            program = [sys.executable, "-m", "tests.faults.journal_ventu", service.workers_at]
            worker = started(program, folder)
            try:
                service.wait_workers(1)
                yield Cell(service, folder, "batching", "pull")
                end(service)
            finally:
                worker.kill()
                worker.communicate()
        finally:
            service.stop()


def started(command: Sequence[str], folder: Path) -> subprocess.Popen[str]:
    """A program that finds the tests' modules."""
    return subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        errors="replace",
        start_new_session=True,
        env={**os.environ, FOLDER: str(folder), "PYTHONPATH": str(ROOT)},
    )


def end(server: Served) -> None:
    """It drains, and has told of nothing but failed requests and lost workers."""
    server.terminate()
    assert server.exit_code() == 0
    assert not any("Traceback" in line for line in server.log_lines if '"code"' not in line)


CELLS: Mapping[str, Callable[[], AbstractContextManager[Cell]]] = {
    **{
        f"{executor}-{way}": functools.partial(headrace_cell, executor, way)
        for executor in ("inline", "thread", "process")
        for way in ("fast", "asgi")
    },
    **{f"remote-{way}": functools.partial(remote_cell, way) for way in ("fast", "asgi")},
    "virtex": functools.partial(program_cell, "virtex"),
    "ventu": functools.partial(program_cell, "ventu"),
    "batching": batching_cell,
}
"""By a name of the executor and the way, or of the face."""
ISOLATING = [name for name in CELLS if name != "batching"]
"""Its protocol cannot recall a job that was sent."""
WITH_WORKERS = [name for name in CELLS if name.startswith(("process", "remote"))]


def cells(names: Collection[str]) -> pytest.MarkDecorator:
    """The cells in which a test runs; the tests of one server follow each other."""
    return pytest.mark.parametrize("served_cell", names, indirect=True, scope="session")
