"""A server inside of a program: started and stopped from its threads."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import pytest

from headrace import Auth, ConfigError, Model, Server, ServerSettings, workers
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
