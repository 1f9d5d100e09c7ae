"""The programs in examples/ventu run in a folder of their own, and answer what is right.

They are started as their own first lines say, in each of the ways, but on free ports.
"""

from __future__ import annotations

import json
import re
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

import pytest

from .copies import Copy
from .pages import ROOT, TIMEOUT_S

pytestmark = [pytest.mark.examples, pytest.mark.slow]

FOLDER = ROOT / "examples" / "ventu"

ANSWERS = [
    r"I cannot log in any more\.  200  Choose 'Forgotten' where you log in\.",
    r"Where is my parcel\?        200  Follow the link in our last mail\.",
    r"Can I pay by credit card\?  200  Cards and bank transfers\.",
    r"Do you deliver to Norway\?  200  Yes, to all of Europe\.",
    r"When does the shop close\?  200  From 9 to 6 on weekdays\.",
    r"Will it rain tomorrow\?     200  None",
]
"""What each line that the client prints must be, but for the last."""
FAULT: dict[str, Any] = {
    "loc": ["text"],
    "msg": "String should have at least 1 character",
    "type": "string_too_short",
}
"""What is wrong with the last."""

_JOBS = r"jobs on (http://\S+), workers on (\S+)\s"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Copy:
    return Copy(FOLDER, tmp_path_factory.mktemp("ventu") / "copy")


def test_every_program_is_here() -> None:
    assert {file.stem for file in FOLDER.glob("*.py")} == {"app", "client", "test_app"}


def test_run_http(folder: Copy) -> None:
    command, *_ = folder.commands("app")
    with folder.running(on_free_ports(command), r"listens on (http://\S+)\s") as (found, _):
        address = found[1]
        assert_answers(folder, f"{address}/inference")
        assert_pages(address)


def test_gunicorn(folder: Copy) -> None:
    _, command, *_ = folder.commands("app")
    with folder.running(on_free_ports(command), r"Listening at: (http://\S+)\s") as (found, _):
        address = found[1]
        assert_answers(folder, f"{address}/inference")
        assert_pages(address)


def test_a_worker_over_unix(folder: Copy) -> None:
    _, _, service, worker, *_ = folder.commands("app")
    with folder.running(on_free_ports(service), _JOBS) as (found, _):
        address, at = found.groups()
        assert at == "batching.socket"
        with folder.running(worker, "connected to batching.socket"):
            assert_answers(folder, f"{address}/inference")


def test_workers_over_tcp(folder: Copy) -> None:
    _, _, _, _, service, worker, _ = folder.commands("app")
    with folder.running(on_free_ports(service), _JOBS) as (found, _):
        address, at = found.groups()
        worker = on_free_ports(worker, at.rpartition(":")[2])
        with folder.running(worker, "connected to"), folder.running(worker, "connected to"):
            assert_answers(folder, f"{address}/inference")


def test_headrace_serve(folder: Copy) -> None:
    *_, command = folder.commands("app")
    with folder.running(on_free_ports(command), r"is ready on (http://\S+)\s") as (found, _):
        address = found[1]
        code, printed = folder.run(at_url(folder, f"{address}/predict"))
        assert code == 0, printed
        *valid, invalid = printed.splitlines()
        assert_lines(valid)
        # It has its own form of errors, around what pydantic says.
        assert " 422  {" in invalid and FAULT["msg"] in invalid, invalid


def test_the_client_without_a_service(folder: Copy) -> None:
    # Nobody listens on port 1.
    code, printed = folder.run(at_url(folder, "http://127.0.0.1:1"))
    assert code == 1
    assert re.fullmatch(r"http://127\.0\.0\.1:1: .*[Rr]efused\n", printed), printed


def test_the_unit_tests_pass(folder: Copy) -> None:
    (command,) = folder.commands("test_app")
    code, printed = folder.run(f"{command} -p no:cacheprovider")
    assert code == 0 and "5 passed" in printed, printed


def test_a_model_that_answers_otherwise_is_not_served(folder: Copy, tmp_path: Path) -> None:
    wrong = Copy(FOLDER, tmp_path / "copy")
    app = wrong.path / "app.py"
    text, right = app.read_text(), "data.argmax()"
    assert text.count(right) == 1
    app.write_text(text.replace(right, "data.argmin()"))
    command, *_ = wrong.commands("app")
    code, printed = wrong.run(on_free_ports(command))
    assert code == 1
    assert "AssertionError: expected {'question': 'Where is my order?'" in printed, printed


def assert_answers(folder: Copy, url: str) -> None:
    """The client prints what is right, and of what is invalid pydantic's own list."""
    code, printed = folder.run(at_url(folder, url))
    assert code == 0, printed
    *valid, invalid = printed.splitlines()
    assert_lines(valid)
    assert invalid.split() == f"422 {[FAULT]}".split()

    status, body = ask(url, {"text": [1]})
    assert status == 422
    (fault,) = body
    assert (fault["loc"], fault["type"]) == (["text"], "string_type")


def assert_lines(lines: list[str]) -> None:
    for line, expected in zip(lines, ANSWERS, strict=True):
        assert re.fullmatch(expected, line), lines


def assert_pages(address: str) -> None:
    """Health, metrics and the API document are there."""
    assert ask(f"{address}/health") == (200, {"inference": "OK", "service": "OK"})
    status, document = ask(f"{address}/apidoc/openapi.json")
    assert (status, document["info"]["title"]) == (200, "Customers' questions")
    for page, text in (
        ("metrics", "# TYPE validation_error_counter"),
        ("apidoc/swagger", "/apidoc/openapi.json"),
        ("apidoc/redoc", "/apidoc/openapi.json"),
    ):
        with urllib.request.urlopen(f"{address}/{page}", timeout=TIMEOUT_S) as response:
            assert text in response.read().decode()


def ask(url: str, value: Any = None) -> tuple[int, Any]:
    """The status and the body that a value, or a GET without one, is answered."""
    body = None if value is None else json.dumps(value).encode()
    request = urllib.request.Request(url, body, {"content-type": "application/json"})
    try:
        with urllib.request.urlopen(request, timeout=TIMEOUT_S) as response:
            return response.status, json.load(response)
    except urllib.error.HTTPError as error:
        with error:
            return error.code, json.load(error)


def at_url(folder: Copy, url: str) -> str:
    """The client's command with another address."""
    (command,) = folder.commands("client")
    found, changed = "http://localhost:8080/inference", command.replace
    assert found in command
    return changed(found, url)


def on_free_ports(command: str, workers_port: str = "0") -> str:
    """A command that listens on free ports, or connects to the one that a service has."""
    return re.sub(r"\b8080\b", "0", re.sub(r"\b8000\b", workers_port, command))
