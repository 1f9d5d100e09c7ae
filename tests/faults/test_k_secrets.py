"""Secrets are with those who need them, and nowhere else: not in logs, errors, metrics or argv."""

from __future__ import annotations

import base64
import functools
import os
import re
import signal
import stat
import subprocess
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.conftest import Served, eventually, starter
from tests.e2e.remote import House, has_said, listens_at
from tests.faults.conftest import HTTP_MODELS
from tests.faults.contract import by
from tests.faults.defences import without
from tests.faults.watch import tree

pytestmark = pytest.mark.slow

FILED, GIVEN, WRONG, BROKEN = (f"{word}-horse-battery" for word in ("kept", "env", "odd", "tiny"))
BROKEN = BROKEN[:12]
SECRETS = (FILED, GIVEN, WRONG, BROKEN)
"""A key of the file, one of the environment, one that is none, and one that is too short."""


@contextmanager
def served(way: str, **environment: str) -> Iterator[tuple[Served, Path]]:
    """A server with keys, and their file."""
    servers: list[Served] = []
    with tempfile.TemporaryDirectory(prefix="hr-") as folder:
        file = Path(folder, "keys")
        file.touch(mode=0o600)
        file.write_text(f"filed:{FILED}\n")
        env = {"HEADRACE_AUTH_KEYS": f"given:{GIVEN}", **environment}
        start = starter(Path(folder), servers, HTTP_MODELS)
        settings: dict[str, Any] = {"auth__keys_file": file, "log_level": "debug", **by(way)}
        try:
            yield start("Canary", env=env, **settings), file
        finally:
            for server in servers:
                server.stop()


def provoke(server: Served, file: Path) -> list[bytes]:
    """Have everything go wrong that a secret is near to; what clients were answered."""
    answers = []
    for secret in SECRETS:
        for header in ("authorization: Bearer ", "authorization: Basic ", "x-api-key: "):
            for path, body in (
                ("/predict", "21"),
                ("/predict", "nonsense"),
                ("/nope", "1"),
                ("/v1/models/canary:predict", "[]"),
            ):
                wire = server.wire()
                wire.post(path, body, f"{header}{secret}\r\n")
                answers.append(wire.answer().body)
                wire.send(f"POST {path} HTTP/1.1\r\n{header}{secret}\r\nx : 1\r\n\r\n")
                wire.socket.close()
            for page in ("/", "/metrics", "/openapi.json", "/readyz", "/health"):
                name, _, start = header.partition(": ")
                answers.append(server.get(page, headers={name: start + secret}).content)
    for text, said in ((f"a:{BROKEN}\n", "the old API keys stay"), (None, "were read again")):
        file.write_text(text or f"filed:{FILED}\n")
        server.signal(signal.SIGHUP)
        eventually(functools.partial(is_told, server, said), said)
    return answers


def is_told(server: Served, text: str) -> bool:
    return any(text in line for line in list(server.log_lines))


def leaks(server: Served, file: Path) -> list[str]:
    """Where a secret is to be seen."""
    answers = provoke(server, file)
    pids = tree(server)
    assert server.process.pid in pids and len(pids) > 1
    argv = arguments_of(pids)
    environs = {
        pid: Path(f"/proc/{pid}/environ").read_bytes() for pid in pids - {server.process.pid}
    }
    server.terminate()
    assert server.exit_code() == 0
    seen: Mapping[str, bytes] = {
        "an answer": b"\n".join(answers),
        "a log record": "\n".join(server.log_lines).encode(),
        "standard output": "\n".join(server.output).encode(),
        "argv": argv,
        "a worker's environment": b"\n".join(environs.values()),
    }
    return found_in(seen, SECRETS)


def arguments_of(pids: set[int]) -> bytes:
    """What `ps` shows of these processes to everybody."""
    argv = []
    for pid in pids:
        with suppress(OSError):
            argv.append(Path(f"/proc/{pid}/cmdline").read_bytes())
    return b"\n".join(argv)


def found_in(seen: Mapping[str, bytes], secrets: Sequence[str]) -> list[str]:
    """Where one of these secrets is to be seen, as it is or in base 64."""
    forms = [form for each in secrets for form in (each.encode(), base64.b64encode(each.encode()))]
    pattern = re.compile(b"|".join(map(re.escape, forms)))
    return [where for where, text in seen.items() if pattern.search(text)]


@pytest.mark.row("K5")
def test_secrets_are_nowhere_to_be_seen(way: str) -> None:
    with served(way) as (server, file):
        status = os.stat(f"/proc/{server.process.pid}/environ")
        assert status.st_uid == os.getuid()
        assert not status.st_mode & (stat.S_IRWXG | stat.S_IRWXO)
        assert leaks(server, file) == []
        assert len(server.log_lines) > 10, "it had something to tell"


TELLS = """
import os, subprocess
from headrace import Model

class Tells(Model):
    def predict(self, batch: list[int]) -> list[str]:
        command = ["cat", "/proc/self/environ"]
        child = subprocess.run(command, capture_output=True, check=True).stdout.decode()
        return [repr(dict(os.environ)) + child] * len(batch)
"""
"""A model that tells what its code, and a process that it starts, have in their environments."""


def shared_secrets_seen(*, has_stranger: bool = True) -> list[str]:
    """Where the secret of a front and its workers of other hosts is to be seen, or a wrong one."""
    with tempfile.TemporaryDirectory(prefix="hr-") as folder:
        house = House(Path(folder))
        (house.folder / "tells.py").write_text(TELLS)
        wrong = house.folder / "wrong"
        wrong.touch(mode=0o600)
        wrong.write_text(WRONG)
        try:
            front = house.front(log_level="debug")
            at = listens_at(front)
            debug = ("--log-level", "debug")
            ours = [front, house.worker(f"{house.folder / 'tells.py'}:Tells", at, *debug)]
            if has_stranger:
                other = house.worker("Double", at, "--secret-file", str(wrong), *debug)
                refused = "the front did not let this worker in"
                eventually(lambda: has_said(other, refused), "a refusal")
                ours.append(other)
            front.wait_ready()
            told = front.post("/predict", 1)
            assert told.status_code == 200 and "PATH" in told.text
            pages = [front.get(page).content for page in ("/", "/metrics", "/readyz")]
            pages.append(front.post("/predict", "nonsense").content)
            pids = {pid for each in ours for pid in tree(each)}
            assert len(pids) > len(ours), "each, and the worker of a parent"
            seen = {
                "the model's environment": told.content,
                "an answer": b"\n".join(pages),
                "argv": arguments_of(pids),
                "a log": "\n".join(line for each in ours for line in list(each.log_lines)).encode(),
            }
            return found_in(seen, [house.secret.read_text(), WRONG])
        finally:
            house.stop()


@pytest.mark.row("K5")
def test_the_secret_that_workers_share_is_nowhere_to_be_seen() -> None:
    assert shared_secrets_seen() == []


@pytest.mark.row("K5")
@pytest.mark.parametrize("is_right", [True, False], ids=["right", "wrong"])
def test_the_password_of_a_private_key_is_nowhere_to_be_seen(is_right: bool) -> None:
    servers: list[Served] = []
    with tempfile.TemporaryDirectory(prefix="hr-") as folder:
        files = {name: Path(folder, name) for name in ("key", "cert", "password")}
        command = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-passout", f"pass:{FILED}"]
        command += ["-keyout", str(files["key"]), "-out", str(files["cert"]), "-subj", "/CN=x"]
        subprocess.run(command, check=True, capture_output=True)
        files["password"].touch(mode=0o600)
        files["password"].write_text(FILED if is_right else WRONG)
        settings: dict[str, Any] = {
            "tls_cert": files["cert"],
            "tls_key": files["key"],
            "tls_key_password_file": files["password"],
        }
        start = starter(Path(folder), servers, HTTP_MODELS)
        try:
            server = start("Canary", is_ready=is_right, log_level="debug", **settings)
            argv = arguments_of(tree(server)) if is_right else b""
            if is_right:
                server.terminate()
            assert server.exit_code() == (0 if is_right else 2)
            said = "\n".join([*server.log_lines, *server.output]).encode()
            assert is_right or b"under that password" in said
            assert found_in({"argv": argv, "what it said": said}, SECRETS) == []
        finally:
            for each in servers:
                each.stop()


@pytest.mark.counter("K5")
def test_a_secret_that_a_worker_hands_on_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    for variable, text in without("a worker's orders are not its children's").items():
        monkeypatch.setenv(variable, text)
    assert shared_secrets_seen(has_stranger=False) == ["the model's environment"]


@pytest.mark.counter("K5")
@pytest.mark.parametrize(
    ("name", "where"),
    [
        ("an error about keys does not repeat them", "a log record"),
        ("workers do not inherit the keys", "a worker's environment"),
        ("a refusal does not repeat the key", "an answer"),
    ],
)
def test_where_a_secret_is_told_it_is_noticed(name: str, where: str) -> None:
    with served("fast", **without(name)) as (server, file):
        assert where in leaks(server, file)
