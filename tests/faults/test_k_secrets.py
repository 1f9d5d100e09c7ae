"""Secrets are with those who need them, and nowhere else: not in logs, errors, metrics or argv."""

from __future__ import annotations

import functools
import os
import re
import signal
import stat
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.conftest import Served, eventually, starter
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
    argv = []
    for pid in pids:
        with suppress(OSError):
            argv.append(Path(f"/proc/{pid}/cmdline").read_bytes())
    environs = {
        pid: Path(f"/proc/{pid}/environ").read_bytes() for pid in pids - {server.process.pid}
    }
    server.terminate()
    assert server.exit_code() == 0
    seen: Mapping[str, bytes] = {
        "an answer": b"\n".join(answers),
        "a log record": "\n".join(server.log_lines).encode(),
        "standard output": "\n".join(server.output).encode(),
        "argv": b"\n".join(argv),
        "a worker's environment": b"\n".join(environs.values()),
    }
    pattern = re.compile("|".join(map(re.escape, SECRETS)).encode())
    return [where for where, text in seen.items() if pattern.search(text)]


@pytest.mark.row("K5")
def test_secrets_are_nowhere_to_be_seen(way: str) -> None:
    with served(way) as (server, file):
        status = os.stat(f"/proc/{server.process.pid}/environ")
        assert status.st_uid == os.getuid()
        assert not status.st_mode & (stat.S_IRWXG | stat.S_IRWXO)
        assert leaks(server, file) == []
        assert len(server.log_lines) > 10, "it had something to tell"


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
