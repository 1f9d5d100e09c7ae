"""A program of ventu, over HTTP in all the ways in which it is served."""

from __future__ import annotations

import asyncio
import contextlib
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.e2e.conftest import WAIT_S, Served, eventually
from tests.e2e.virtex.served import free_port

PROGRAM = Path(__file__).with_name("http_programs") / "lengths.py"
TOO_SHORT = {
    "loc": ["text"],
    "msg": "String should have at least 1 character",
    "type": "string_too_short",
}

INVALID, RAISING, BROKEN = {"text": ""}, {"text": "raise"}, {"text": "a broken one"}


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

    def ask(self, text: str) -> httpx.Response:
        return self.post("/inference", {"text": text})

    def together(self, path: str, values: list[dict[str, str]]) -> list[tuple[int, Any]]:
        """The answers to requests that are sent at once, each on its connection."""

        async def post_all() -> list[httpx.Response]:
            limits = httpx.Limits(max_connections=len(values))
            client = httpx.AsyncClient(limits=limits, timeout=WAIT_S, trust_env=False, verify=False)
            async with client:
                url = self.address + path
                return await asyncio.gather(*(client.post(url, json=value) for value in values))

        return [(each.status_code, each.json()) for each in asyncio.run(post_all())]

    def stop(self) -> None:
        if self.process.poll() is None:
            os.killpg(self.process.pid, signal.SIGKILL)
        super().stop()


class Launch:
    """Starts the program in one of the ways; the caller stops it."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self.services: list[Service] = []

    def __call__(self, *command: str, env: Mapping[str, str] | None = None) -> Service:
        """`PORT` in the command stands for a free one; programs are those of this environment."""
        own = Path(tempfile.mkdtemp(dir=self._folder))
        shutil.copy(PROGRAM, own)
        port = free_port()
        name, *words = (word.replace("PORT", str(port)) for word in command)
        program = sys.executable if name == "python" else Path(sys.executable).with_name(name)
        process = subprocess.Popen(
            [program, *words],
            cwd=own,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            errors="replace",
            start_new_session=True,
            env={**os.environ, "HOME": str(own), "PYTHONPATH": str(own), **(env or {})},
        )
        service = Service(process, own, None, f"http://127.0.0.1:{port}")
        self.services.append(service)
        return service.wait_ready()


@pytest.fixture
def launch(short_folder: Path) -> Iterator[Launch]:
    """Starts servers that this test ends."""
    launch = Launch(short_folder)
    yield launch
    for service in launch.services:
        service.stop()


RUN_HTTP = ("python", "lengths.py", "PORT")
UVICORN = ("uvicorn", "lengths:asgi_app", "--host", "127.0.0.1", "--port", "PORT")
GUNICORN = ("gunicorn", "-w", "2", "-b", "127.0.0.1:PORT", "lengths:create_app()")


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGTERM])
def test_run_http_ends_by_a_signal_without_a_word(how: signal.Signals, launch: Launch) -> None:
    service = launch(*RUN_HTTP, env={"ventu_host": "127.0.0.1"})
    assert service.ask("one").json() == {"length": 3}
    service.signal(how)
    assert service.exit_code() == 0
    assert service.log_lines == []


def test_the_pages(launch: Launch) -> None:
    service = launch(*UVICORN)
    assert service.get("/health").json() == {"inference": "OK", "service": "OK"}
    assert service.get("/apidoc/openapi.json").json()["info"]["version"] == "latest"
    for page in ("redoc", "swagger"):
        assert service.get(f"/apidoc/{page}").headers["content-type"].startswith("text/html")
    assert service.metric("process_worker", protocol="http") == 1
    assert service.request("GET", "/inference").status_code == 405


@pytest.mark.parametrize("command", [RUN_HTTP, UVICORN], ids=["run_http", "uvicorn"])
def test_one_invalid_and_one_that_raises_among_32(command: tuple[str, ...], launch: Launch) -> None:
    service = launch(*command)
    good = [{"text": "a" * (1 + number % 9)} for number in range(30)]
    answers = service.together("/inference", [*good[:9], INVALID, *good[9:20], RAISING, *good[20:]])
    assert answers.pop(21) == (500, {"title": "500 Internal Server Error"})
    assert answers.pop(9) == (422, [TOO_SHORT])
    assert answers == [(200, {"length": len(each["text"])}) for each in good]
    eventually(lambda: any("no such word" in line for line in service.log_lines), "the record")


@pytest.mark.parametrize("command", [RUN_HTTP, UVICORN], ids=["run_http", "uvicorn"])
def test_a_response_that_breaks_its_schema_is_logged_and_not_sent(
    command: tuple[str, ...], launch: Launch
) -> None:
    service = launch(*command)
    answer = service.post("/inference", BROKEN)
    assert (answer.status_code, answer.json()) == (500, {"title": "500 Internal Server Error"})
    eventually(
        lambda: any("a response was not sent" in line for line in service.log_lines), "the record"
    )


@pytest.mark.parametrize("executor", ["inline", "thread", "process"])
def test_headrace_serve(executor: str, launch: Launch) -> None:
    service = launch(
        *("headrace", "serve", "lengths:model", "--port", "PORT", "--executor", executor)
    )
    eventually(lambda: service.get("/readyz").status_code == 200, "it to be ready")
    (described,) = service.get("/").json()["models"]
    assert described["name"] == "lengths"
    assert described["description"] == "How long is a text?"
    good = [{"text": "a" * (1 + number % 9)} for number in range(30)]
    answers = service.together("/predict", [*good[:9], INVALID, *good[9:20], RAISING, *good[20:]])
    status, failed = answers.pop(21)
    assert (status, failed["error"]) == (500, "the model failed")
    status, invalid = answers.pop(9)
    assert (status, invalid["details"][0]["path"]) == (422, "$.text")
    assert answers == [(200, {"length": len(each["text"])}) for each in good]
    answer = service.post("/predict", BROKEN)
    assert (answer.status_code, answer.json()["error"]) == (500, "the model failed")
    eventually(
        lambda: any("a response was not sent" in line for line in service.log_lines), "the record"
    )
    post = service.get("/openapi.json").json()["paths"]["/models/lengths/predict"]["post"]
    content = post["requestBody"]["content"]["application/json"]
    assert content["schema"]["properties"]["text"]["minLength"] == 1
    assert content["examples"] == {"example 1": {"value": {"text": "hello"}}}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("worker", "name"),
    [("sync", "prometheus_multiproc_dir"), ("gthread", "PROMETHEUS_MULTIPROC_DIR")],
)
def test_gunicorns_workers_count_together(
    worker: str, name: str, launch: Launch, tmp_path: Path
) -> None:
    extra = ("--worker-class", worker, *(("--threads", "4") if worker == "gthread" else ()))
    service = launch(*GUNICORN, *extra, env={name: str(tmp_path)})
    values = [INVALID if number % 20 == 0 else {"text": "abc"} for number in range(1_000)]
    statuses: Counter[int] = Counter()
    for begin in range(0, len(values), 50):
        for status, body in service.together("/inference", values[begin : begin + 50]):
            statuses[status] += 1
            assert body == ([TOO_SHORT] if status == 422 else {"length": 3})
    assert statuses == {200: 950, 422: 50}
    # Whichever worker answers, it tells of both; each has checked its health once.
    for _ in range(4):
        text = service.get("/metrics").text
        assert "validation_error_counter_total 50.0" in text
        for step in ("preprocess", "inference", "postprocess"):
            found = re.findall(rf'single_process_time_count{{process="{step}"}} (\S+)', text)
            assert [float(each) for each in found] == [950 + 2]
    files = list(tmp_path.glob("summary_*.db"))
    # The master imports nothing of the program.
    assert len(files) == 2
    service.terminate()
    assert service.exit_code() == 0


@pytest.mark.slow
@pytest.mark.parametrize("worker", ["sync", "gthread"])
def test_a_chunked_body_under_gunicorn(worker: str, launch: Launch) -> None:
    service = launch(*GUNICORN, "--worker-class", worker)
    with service.wire() as wire:
        wire.send(
            "POST /inference HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n"
            'content-type: application/json\r\n\r\n5\r\n{"tex\r\n9\r\nt":"one"}\r\n0\r\n\r\n'
        )
        answer = wire.answer()
    assert (answer.status, answer.json()) == (200, {"length": 3})
