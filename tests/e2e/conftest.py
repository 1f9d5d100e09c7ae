"""Real servers in processes of their own, and clients that can misbehave."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import httpx
import pytest

from tests.e2e.models import FOLDER

MODELS = Path(__file__).with_name("models.py")
WAIT_S = 20.0
"""For what should happen soon; a busy machine may be late."""


def eventually(is_true: Callable[[], Any], what: str, within_s: float = WAIT_S) -> Any:
    """Wait, with an end, until something is so; what it gave."""
    ends = time.monotonic() + within_s
    while not (value := is_true()):
        assert time.monotonic() < ends, f"not within {within_s} s: {what}"
        time.sleep(0.005)
    return value


class Answer:
    """A parsed HTTP answer."""

    def __init__(self, status: int, headers: Mapping[str, str], body: bytes) -> None:
        self.status = status
        self.headers = headers
        self.body = body

    def json(self) -> Any:
        return json.loads(self.body)

    @property
    def code(self) -> Any:
        return self.json()["code"]


class Wire:
    """A bare connection, for what no well-behaved client sends."""

    def __init__(self, server: Served) -> None:
        if server.uds is not None:
            self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
            self.socket.settimeout(WAIT_S)
            self.socket.connect(str(server.uds))
        else:
            self.socket = socket.create_connection(server.host_and_port, timeout=WAIT_S)
        self._buffer = b""

    def __enter__(self) -> Wire:
        return self

    def __exit__(self, *_: object) -> None:
        self.socket.close()

    def send(self, data: bytes | str) -> None:
        self.socket.sendall(data.encode() if isinstance(data, str) else data)

    def post(self, path: str, body: bytes | str, headers: str = "") -> None:
        """Send a whole request; `headers` are lines that end with CR LF."""
        raw = body.encode() if isinstance(body, str) else body
        head = f"POST {path} HTTP/1.1\r\nhost: x\r\ncontent-length: {len(raw)}\r\n{headers}\r\n"
        self.send(head.encode() + raw)

    def answer(self) -> Answer:
        """The next answer on the connection."""
        while b"\r\n\r\n" not in self._buffer:
            self._more()
        head, _, self._buffer = self._buffer.partition(b"\r\n\r\n")
        first, *lines = head.decode("latin-1").split("\r\n")
        headers = {k.lower(): v.strip() for k, _, v in (line.partition(":") for line in lines)}
        status = int(first.split()[1])
        size = 0 if status == 100 else int(headers.get("content-length", 0))
        while len(self._buffer) < size:
            self._more()
        body, self._buffer = self._buffer[:size], self._buffer[size:]
        return Answer(status, headers, body)

    def is_closed(self) -> bool:
        """Whether the server ends the connection, with nothing more to say."""
        try:
            return self._buffer == b"" and self.socket.recv(1) == b""
        except ConnectionError:
            return True

    def _more(self) -> None:
        data = self.socket.recv(1 << 16)
        if not data:
            raise ConnectionError(f"closed after {self._buffer!r}")
        self._buffer += data


class Served:
    """A server in a process of its own."""

    def __init__(
        self, process: subprocess.Popen[str], folder: Path, uds: Path | None, address: str
    ) -> None:
        self.process = process
        self.folder = folder
        self.uds = uds
        self.address = address
        self.output: list[str] = []
        self.log_lines: list[str] = []
        self._wires: list[Wire] = []
        streams = ((process.stdout, self.output), (process.stderr, self.log_lines))
        self._readers = [self._read(stream, into) for stream, into in streams if stream]
        transport = None if uds is None else httpx.HTTPTransport(uds=str(uds))
        self._client = httpx.Client(transport=transport, timeout=WAIT_S, trust_env=False)

    @property
    def host_and_port(self) -> tuple[str, int]:
        url = httpx.URL(self.address)
        assert url.port is not None
        return url.host, url.port

    def wait_ready(self) -> Served:
        """Wait until it says so, and where."""

        def address() -> str | None:
            if self.process.poll() is not None:
                raise AssertionError(f"exit {self.process.returncode}: {self.log_lines}")
            return next((m[1] for m in map(_READY.search, self.output) if m), None)

        said = eventually(address, "ready")
        self.address = "http://x" if self.uds is not None else said
        return self

    def request(self, method: str, path: str, **more: Any) -> httpx.Response:
        return self._client.request(method, self.address + path, **more)

    def get(self, path: str, **more: Any) -> httpx.Response:
        return self.request("GET", path, **more)

    def post(self, path: str, value: Any, **headers: str) -> httpx.Response:
        """Post a value as JSON; underscores in header names are dashes."""
        named = {name.replace("_", "-"): text for name, text in headers.items()}
        return self.request("POST", path, json=value, headers=named)

    def predict(self, n: int, **more: Any) -> httpx.Response:
        return self.post("/predict", {"n": n, **more})

    def wire(self) -> Wire:
        """A connection, closed at the latest when the server is stopped."""
        wire = Wire(self)
        self._wires.append(wire)
        return wire

    def metric(self, name: str, **labels: str) -> float:
        """The sum of the samples that have these labels; 0 if there is none."""
        total = 0.0
        for line in self.get("/metrics").text.splitlines():
            named, _, value = line.rpartition(" ")
            if re.split("[{ ]", named)[0] == name and all(
                f'{key}="{text}"' in named for key, text in labels.items()
            ):
                total += float(value)
        return total

    def set(self, name: str) -> None:
        """Make a file that a model waits for."""
        (self.folder / name).touch()

    def is_set(self, name: str) -> bool:
        return (self.folder / name).exists()

    def ran(self) -> list[int]:
        """The numbers that predict has seen, without the examples'."""
        path = self.folder / "journal"
        text = path.read_text() if path.exists() else ""
        return [int(word) for word in text.split() if word != "0"]

    def records(self) -> list[dict[str, Any]]:
        """The log so far; each line is one JSON object."""
        return [json.loads(line) for line in list(self.log_lines)]

    def signal(self, number: int) -> None:
        os.kill(self.process.pid, number)

    def terminate(self) -> None:
        self.signal(signal.SIGTERM)

    def exit_code(self, within_s: float = WAIT_S) -> int:
        code = self.process.wait(within_s)
        for reader in self._readers:
            reader.join(WAIT_S)
        return code

    def stop(self) -> None:
        """End it if it runs, whatever it does."""
        self._client.close()
        for wire in self._wires:
            wire.socket.close()
        if self.process.poll() is None:
            self.process.kill()
        self.exit_code()
        for stream in (self.process.stdout, self.process.stderr):
            if stream is not None:
                stream.close()

    @staticmethod
    def _read(stream: Any, into: list[str]) -> threading.Thread:
        def read() -> None:
            while line := stream.readline():
                into.append(line.removesuffix("\n"))

        thread = threading.Thread(target=read, daemon=True)
        thread.start()
        return thread


_READY = re.compile(r"is ready on (\S+)")


class Serve(Protocol):
    """Starts a server of some of a file's models; `prefix` is a command that executes it."""

    def __call__(
        self,
        *names: str,
        executor: str = "process",
        uds: Path | None = None,
        is_ready: bool = True,
        stdout: int = subprocess.PIPE,
        stderr: int = subprocess.PIPE,
        prefix: Sequence[str] = (),
        env: Mapping[str, str] | None = None,
        **settings: Any,
    ) -> Served: ...


def _target(models: Path, name: str) -> str:
    """A model of the file, or one of another file that is named with it."""
    return name if ":" in name else f"{models}:{name}"


def starter(folder: Path, servers: list[Served], models: Path = MODELS) -> Serve:
    """A `Serve` whose servers are to be stopped by the caller."""

    def serve(
        *names: str,
        executor: str = "process",
        uds: Path | None = None,
        is_ready: bool = True,
        stdout: int = subprocess.PIPE,
        stderr: int = subprocess.PIPE,
        prefix: Sequence[str] = (),
        env: Mapping[str, str] | None = None,
        **settings: Any,
    ) -> Served:
        own = Path(tempfile.mkdtemp(dir=folder))
        temporary = own / "tmp"
        temporary.mkdir()
        place = ["--port", "0"] if uds is None else ["--uds", str(uds)]
        for key, value in settings.items():
            place += ["--set", f"{key.replace('__', '.')}={value}"]
        command = [sys.executable, "-m", "headrace", "serve", "--executor", executor]
        process = subprocess.Popen(
            [
                *prefix,
                *command,
                "--log-format",
                "json",
                *place,
                *(_target(models, name) for name in names),
            ],
            stdout=stdout,
            stderr=stderr,
            text=True,
            errors="replace",
            env={**os.environ, FOLDER: str(own), "TMPDIR": str(temporary), **(env or {})},
        )
        served = Served(process, own, uds, "http://x")
        servers.append(served)
        return served.wait_ready() if is_ready else served

    return serve


@pytest.fixture(scope="session")
def short_folder() -> Iterator[Path]:
    """A folder whose path is short enough for Unix sockets."""
    with tempfile.TemporaryDirectory(prefix="hr-") as name:
        yield Path(name)


@pytest.fixture
def serve(short_folder: Path) -> Iterator[Serve]:
    """Starts servers that this test ends."""
    servers: list[Served] = []
    yield starter(short_folder, servers)
    for server in servers:
        server.stop()


@pytest.fixture
def uds(short_folder: Path) -> Path:
    """A path for a Unix socket that nothing is at."""
    return Path(tempfile.mkdtemp(dir=short_folder)) / "s"


EXECUTORS = ("process", "thread", "inline")


@pytest.fixture(params=EXECUTORS)
def executor(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="session", params=EXECUTORS)
def shared(request: pytest.FixtureRequest, short_folder: Path) -> Iterator[Served]:
    """One server for all tests that leave it as it was."""
    servers: list[Served] = []
    yield starter(short_folder, servers)(
        "Scripted",
        "Anything",
        "Size",
        executor=str(request.param),
        limits__max_json_bytes=1000,
        limits__max_body_bytes=200_000,
        limits__body_timeout_s=0.5,
        limits__head_timeout_s=0.5,
    )
    for server in servers:
        server.terminate()
        assert server.exit_code() == 0
        server.stop()
