"""Programs of virtex under gunicorn and uvicorn, in processes of their own, and load on them."""

from __future__ import annotations

import contextlib
import json
import os
import random
import re
import select
import selectors
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import httpx

from tests.e2e.conftest import WAIT_S, Answer, Served, Wire, eventually
from tests.e2e.models import FOLDER

PROGRAMS = Path(__file__).with_name("programs")
ROOT = Path(__file__).parents[3]


class Service(Served):
    """A server that has processes under it."""

    def wait_ready(self) -> Service:
        """Wait until it listens."""

        def listens() -> bool:
            if self.process.poll() is not None:
                raise AssertionError(f"exit {self.process.returncode}: {self.log_lines}")
            with contextlib.suppress(OSError), socket.create_connection(self.host_and_port):
                return True
            return False

        eventually(listens, "it to listen")
        return self

    def workers(self) -> set[int]:
        """The processes that gunicorn has now."""
        pid = self.process.pid
        return {int(word) for word in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()}

    def ask(self, *elements: Any) -> httpx.Response:
        return self.post("/", {"data": elements})

    def calls(self) -> list[list[Any]]:
        """The batches that the handler got, in order."""
        path = self.folder / "calls"
        return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []

    def open_wires(self, count: int) -> list[Wire]:
        """Connections that the server has taken and answered on."""
        wires = [self.wire() for _ in range(count)]
        for wire in wires:
            wire.post("/", '{"data": []}')
        for wire in wires:
            assert wire.answer().status == 200
        return wires

    def block(self) -> Wire:
        """Have the handler wait for `go`; what is sent meanwhile comes to it at once."""
        (wire,) = self.open_wires(1)
        wire.post("/", '{"data": ["wait"]}')
        eventually(lambda: ["wait"] in self.calls(), "the handler to be busy")
        return wire

    def stop(self) -> None:
        if self.process.poll() is None:
            os.killpg(self.process.pid, signal.SIGKILL)
        super().stop()


class Launch:
    """Starts servers, which the caller stops.

    Args:
        folder: For folders of their own.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self.services: list[Service] = []

    def gunicorn(
        self, program: str, *options: str, workers: int = 1, env: Mapping[str, str] | None = None
    ) -> Service:
        """The documented command line; `options` come after it, and so win."""
        line = (
            f"--workers {workers} --worker-class virtex.VirtexWorker --bind 127.0.0.1:PORT"
            " --max-requests 10000 --worker-connections 10000 --log-level critical"
        )
        command = ["gunicorn", "server:app", *line.split(), *options]
        return self._start(program, command, env).wait_ready()

    def uvicorn(
        self,
        program: str,
        *options: str,
        env: Mapping[str, str] | None = None,
        is_ready: bool = True,
    ) -> Service:
        line = ["uvicorn", "server:app", "--host", "127.0.0.1", "--port", "PORT"]
        service = self._start(program, [*line, *options], env)
        return service.wait_ready() if is_ready else service

    def headrace(self, program: str, *options: str) -> Service:
        """As `headrace serve server:app`."""
        line = "headrace serve server:app --host 127.0.0.1 --port PORT"
        service = self._start(program, [*line.split(), *options], None).wait_ready()
        eventually(lambda: service.get("/readyz").status_code == 200, "it to be ready")
        return service

    def _start(self, program: str, command: list[str], env: Mapping[str, str] | None) -> Service:
        own = Path(tempfile.mkdtemp(dir=self._folder))
        shutil.copy(PROGRAMS / f"{program}.py", own / "server.py")
        port = free_port()
        name, *words = (word.replace("PORT", str(port)) for word in command)
        process = subprocess.Popen(
            [Path(sys.executable).with_name(name), *words],
            cwd=own,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            errors="replace",
            start_new_session=True,
            env={
                **os.environ,
                FOLDER: str(own),
                "HOME": str(own),  # gunicorn has a socket there
                "PYTHONDONTWRITEBYTECODE": "1",  # a changed program may be as old and as long
                "PYTHONPATH": str(ROOT),
                **(env or {}),
            },
        )
        service = Service(process, own, None, f"http://127.0.0.1:{port}")
        self.services.append(service)
        return service

    def stop(self) -> None:
        for service in self.services:
            service.stop()


def free_port() -> int:
    """A port that nobody listens on, and that the system gives no client of its own accord."""
    first_given = int(Path("/proc/sys/net/ipv4/ip_local_port_range").read_text().split()[0])
    while True:
        port = random.randrange(10_000, max(first_given, 20_000))
        with socket.socket() as probe, contextlib.suppress(OSError):
            probe.bind(("127.0.0.1", port))
            return port


class ClosedLoop:
    """Load by clients that each send a number when they have the answer to the one before.

    A client connects again where its last answer said `connection: close`, or where the server
    ended the connection before it sent the next request. One that is closed on a request that
    was sent is an error: that request is lost.

    Args:
        service: Whom to ask.
        clients: How many.
        total: How many requests.
        reconnects: Whether clients come again.
    """

    def __init__(
        self,
        service: Service,
        clients: int,
        total: int,
        *,
        reconnects: bool = True,
    ) -> None:
        self._service = service
        self._clients = clients
        self._total = total
        self._sent = 0
        self._reconnects = reconnects
        self._selector = selectors.DefaultSelector()
        self.connections = 0
        self.answered = 0

    def end(self) -> None:
        """Send no more."""
        self._total = self._sent

    def __iter__(self) -> Iterator[tuple[int, Answer]]:
        """Each number with its answer, as they come."""
        try:
            for _ in range(self._clients):
                self._connect()
            while self._selector.get_map():
                ready = self._selector.select(WAIT_S)
                assert ready, f"no answer to {len(self._selector.get_map())} clients"
                for key, _ in ready:
                    yield self._read(key.data)
        finally:
            for key in list(self._selector.get_map().values()):
                key.data.wire.socket.close()
            self._selector.close()

    def _connect(self) -> None:
        if self._sent < self._total:
            client = _Client(self._service.wire())
            self.connections += 1
            self._selector.register(client.wire.socket, selectors.EVENT_READ, client)
            self._send(client)

    def _read(self, client: _Client) -> tuple[int, Answer]:
        number, answer = client.number, client.wire.answer()
        self.answered += 1
        is_last = answer.headers.get("connection") == "close" or client.has_ended()
        if self._sent < self._total and not is_last:
            self._send(client)
        else:
            self._selector.unregister(client.wire.socket)
            client.wire.socket.close()
            if self._reconnects:
                self._connect()
        return number, answer

    def _send(self, client: _Client) -> None:
        client.number = self._sent
        self._sent += 1
        client.wire.post("/", json.dumps({"data": [client.number]}))


class _Client:
    def __init__(self, wire: Wire) -> None:
        self.wire = wire
        self.number = -1

    def has_ended(self) -> bool:
        """Whether the server closed the connection, while nothing was asked on it."""
        readable, _, _ = select.select([self.wire.socket], [], [], 0)
        return bool(readable) and self.wire.socket.recv(1, socket.MSG_PEEK) == b""


def scrape(port: int) -> dict[str, float]:
    """The samples at a port by their names, labels left out; nothing if nobody listens.

    The label `server_instance` is told as the sample `pid`.
    """
    try:
        text = httpx.get(f"http://127.0.0.1:{port}/metrics", trust_env=False).text
    except httpx.TransportError:
        return {}
    return samples(text)


def samples(text: str) -> dict[str, float]:
    found: dict[str, float] = {}
    for name, labels, value in _SAMPLE.findall(text):
        instance = re.search(r'server_instance="[^"]*:(\d+)"', labels)
        if instance is not None:
            found[name] = float(value)
            found["pid"] = float(instance[1])
    return found


_SAMPLE = re.compile(r"^(\w+)\{(.*)\} (\S+)$", re.MULTILINE)
