"""A server inside of a program: started and stopped from its threads."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest

from headrace import Auth, ConfigError, Model, Server, ServerSettings, workers
from headrace.http.fastpath import FastConnection
from headrace.server import UNGUARDED

WAIT_S = 30.0


class Echo(Model):
    def predict(self, batch: list[Any]) -> list[Any]:
        return batch


def test_a_server_can_be_stopped_before_during_and_after_its_run() -> None:
    ready = threading.Event()
    settings = ServerSettings(port=0, executor="thread")
    server = Server(Echo, settings, on_ready=lambda _: ready.set())
    server.stop()
    codes: list[int] = []

    def run() -> None:
        codes.append(server.run())

    for is_stopped_before in (True, False):
        thread = threading.Thread(target=run)
        thread.start()
        if not is_stopped_before:
            assert ready.wait(WAIT_S)
            server.stop()
        thread.join(WAIT_S)
        assert not thread.is_alive()
        ready.clear()
    assert codes == [0, 0]
    server.stop()


def test_a_worker_does_not_serve(monkeypatch: pytest.MonkeyPatch) -> None:
    server = Server(Echo, ServerSettings(port=0, executor="thread"))
    monkeypatch.setattr(workers, "is_worker", True)
    with pytest.raises(ConfigError, match="put the call under `if __name__"):
        server.run()


UNGUARDED_PROGRAM = """
from headrace import Model, Server, ServerSettings

class Echo(Model):
    def predict(self, batch: list[int]) -> list[int]:
        return batch

Server(Echo, ServerSettings(port=0)).run()
"""


@pytest.mark.slow
def test_a_program_without_a_guard_is_told_to_have_one(tmp_path: Path) -> None:
    program = tmp_path / "program.py"
    program.write_text(UNGUARDED_PROGRAM)
    environment = {name: os.environ[name] for name in ("PATH", "HOME") if name in os.environ}
    ran = subprocess.run(
        [sys.executable, program], env=environment, capture_output=True, text=True, timeout=WAIT_S
    )
    assert ran.returncode == 1
    last = ran.stderr.splitlines()[-1]
    assert last.startswith("headrace.errors.ConfigError: ") and UNGUARDED in last


@pytest.mark.parametrize("executor", ["process", "remote"])
def test_the_cards_of_workers_are_not_known_before_they_come(executor: str) -> None:
    settings = ServerSettings(executor=executor)  # type: ignore[arg-type]
    with (
        pytest.raises(ConfigError, match=r"workers\.listen")
        if executor == "remote"
        else (pytest.raises(ConfigError, match="expected at least one, got none"))
    ):
        Server([], settings)


def test_only_worker_processes_can_be_more_or_fewer() -> None:
    with pytest.raises(ConfigError, match="only worker processes"):
        Server(Echo, ServerSettings(executor="thread")).scale(2)
    Server("nowhere:Echo", ServerSettings()).scale(2)


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        ({}, []),
        ({"host": "0.0.0.0"}, ["whoever reaches this address may ask the models"]),
        ({"host": "0.0.0.0", "auth": Auth(keys=("a:correct-horse-battery",))}, []),
        (
            {"admin_port": 0, "admin_host": "0.0.0.0"},
            ["whoever reaches this address sees the metrics"],
        ),
    ],
)
def test_a_server_that_strangers_can_reach_says_so(
    settings: dict[str, Any], told: list[str], caplog: pytest.LogCaptureFixture
) -> None:
    server = Server([Echo], ServerSettings(executor="thread", port=0, **settings))
    server.stop()
    assert server.run() == 0
    records = [record.getMessage() for record in caplog.records if record.levelname == "WARNING"]
    assert [record.startswith(text) for record, text in zip(records, told, strict=True)] == [
        True
    ] * len(told)


# Keys that change

ALICE, BOB = "alice-correct-horse", "bob-correct-horse"


@pytest.fixture
def keys(tmp_path: Path) -> Path:
    """The file of API keys, with Alice's."""
    file = tmp_path / "keys"
    file.touch(mode=0o600)
    file.write_text(f"alice:{ALICE}")
    return file


@contextmanager
def running(server: Server, ready: threading.Event) -> Iterator[httpx.Client]:
    """A client of a server that runs on a thread."""
    thread = threading.Thread(target=server.run)
    thread.start()
    try:
        assert ready.wait(WAIT_S)
        with httpx.Client(base_url=server.address, trust_env=False, timeout=WAIT_S) as client:
            yield client
    finally:
        server.stop()
        thread.join(WAIT_S)


def locked(keys: Path) -> tuple[Server, threading.Event]:
    ready = threading.Event()
    settings = ServerSettings(port=0, executor="thread", auth=Auth(keys_file=str(keys)))
    return Server(Echo, settings, on_ready=lambda _: ready.set()), ready


def connected(server: Server) -> socket.socket:
    url = httpx.URL(server.address)
    return socket.create_connection((url.host, url.port), timeout=WAIT_S)


def status(client: httpx.Client, secret: str) -> int:
    return client.post("/predict", json=1, headers={"x-api-key": secret}).status_code


def test_a_reload_before_the_run_is_not_lost(keys: Path) -> None:
    server, ready = locked(keys)
    keys.write_text(f"bob:{BOB}")
    server.reload()
    with running(server, ready) as client:
        assert (status(client, ALICE), status(client, BOB)) == (401, 200)


def test_with_the_keys_the_heads_that_hold_them_are_forgotten(
    keys: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    server, ready = locked(keys)
    head = f"POST /predict HTTP/1.1\r\nhost: x\r\ncontent-length: 1\r\nx-api-key: {ALICE}\r\n\r\n"
    with running(server, ready) as client, connected(server) as peer:
        for _ in range(3):
            peer.sendall(head.encode() + b"1")
            assert peer.recv(4096).startswith(b"HTTP/1.1 200")
        assert server._run is not None
        http = server._run._http
        [connection] = http.server_state.connections
        assert isinstance(connection, FastConnection)
        assert connection._memo is not None and connection.memos._by_pattern
        server.reload()
        # It is done in a turn of the loop.
        while "API keys were read again" not in caplog.text:
            assert client.get("/livez").status_code == 200
        assert connection._memo is None and not connection.memos._by_pattern
