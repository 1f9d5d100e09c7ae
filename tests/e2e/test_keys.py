"""API keys of real servers: rotated while they serve, and never to be seen."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.e2e.conftest import Serve, Served, Wire, eventually, starter

ALICE, BOB, CAROL = (name + ":" + name * 6 for name in ("alice", "bob", "carol"))
WAYS = ("true", "false")


def secret(entry: str) -> str:
    return entry.partition(":")[2]


def bearer(entry: str) -> str:
    return f"authorization: Bearer {secret(entry)}\r\n"


class Locked:
    """A server with a file of keys."""

    def __init__(self, serve: Serve, file: Path, way: str) -> None:
        self.file = file
        self.write(ALICE, BOB)
        env = {"HEADRACE_AUTH_KEYS": CAROL}
        self.server: Served = serve(
            "Scripted", executor="thread", env=env, fast_path=way, auth__keys_file=file
        )

    def write(self, *entries: str, mode: int = 0o600) -> None:
        new = self.file.with_suffix(".new")
        new.write_text("\n".join(entries))
        new.chmod(mode)
        new.rename(self.file)

    def reload(self, message: str) -> None:
        """Have the file read again, until the log says so."""
        before = len(self.server.log_lines)
        self.server.signal(signal.SIGHUP)
        eventually(lambda: any(message in line for line in self.server.log_lines[before:]), message)

    def status(self, wire: Wire, entry: str) -> int:
        wire.post("/predict", '{"n": 1}', bearer(entry))
        return wire.answer().status


@pytest.fixture(scope="module", params=WAYS)
def locked(
    request: pytest.FixtureRequest,
    short_folder: Path,
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Locked]:
    servers: list[Served] = []
    file = tmp_path_factory.mktemp("keys") / "keys"
    locked = Locked(starter(short_folder, servers), file, request.param)
    yield locked
    for server in servers:
        server.terminate()
        assert server.exit_code() == 0
        said = "\n".join([*server.output, *server.log_lines])
        assert not any(secret(entry) in said for entry in (ALICE, BOB, CAROL))
        server.stop()


def test_a_removed_key_stops_working_on_a_connection_that_is_open(locked: Locked) -> None:
    server = locked.server
    alice, bob, carol = server.wire(), server.wire(), server.wire()
    for _ in range(4):  # so that the fast path remembers them
        assert [locked.status(*who) for who in ((alice, ALICE), (bob, BOB), (carol, CAROL))] == [
            200
        ] * 3
    locked.write(BOB)
    locked.reload("API keys were read again")
    assert locked.status(alice, ALICE) == 401
    assert locked.status(server.wire(), ALICE) == 401
    assert locked.status(bob, BOB) == locked.status(carol, CAROL) == 200
    locked.write(ALICE, BOB)
    locked.reload("API keys were read again")
    assert locked.status(server.wire(), ALICE) == 200


@pytest.mark.parametrize("entries", [(), ("dave:short",)])
def test_a_broken_file_leaves_the_old_keys_and_is_told_of(
    locked: Locked, entries: tuple[str, ...]
) -> None:
    locked.write(*entries)
    locked.reload("the old API keys stay")
    assert locked.status(locked.server.wire(), ALICE) == 200
    assert "auth.keys_file" in locked.server.records()[-1]["reason"]
    locked.write(ALICE, BOB, mode=0o644)
    locked.reload("the old API keys stay")
    assert locked.status(locked.server.wire(), ALICE) == 200
    locked.write(ALICE, BOB)
    locked.reload("API keys were read again")


def test_probes_are_open_and_pages_locked(locked: Locked) -> None:
    server = locked.server
    for path in ("/livez", "/readyz"):
        assert server.get(path).status_code == 200
    for path in ("/", "/metrics", "/docs", "/openapi.json", "/models/scripted"):
        assert server.get(path).status_code == 401
    metrics = server.get("/metrics", headers={"x-api-key": secret(BOB)}).text
    assert 'headrace_http_client_requests_total{client="alice",status="200"}' in metrics


def test_keys_of_the_environment_are_not_handed_on(serve: Serve, tmp_path: Path) -> None:
    server = serve("Scripted", env={"HEADRACE_AUTH_KEYS": CAROL})
    children = Path(f"/proc/{server.process.pid}/task/{server.process.pid}/children")
    [worker, *_] = children.read_text().split()
    assert secret(CAROL).encode() not in Path(f"/proc/{worker}/environ").read_bytes()
    owner = os.stat(f"/proc/{server.process.pid}/environ")
    assert owner.st_mode & 0o077 == 0


SLOW_TO_IMPORT = """
import os, time
from pathlib import Path
from headrace import Model

folder = Path(os.environ["E2E_FOLDER"])
(folder / "importing").touch()
while not (folder / "imported").exists():
    time.sleep(0.002)

class Echo(Model):
    def predict(self, batch: list[int]) -> list[int]:
        return batch
"""


def test_a_hangup_while_it_imports_the_model_is_heard_when_it_serves(
    serve: Serve, tmp_path: Path
) -> None:
    (tmp_path / "slow.py").write_text(SLOW_TO_IMPORT)
    keys = tmp_path / "keys"
    keys.touch(mode=0o600)
    keys.write_text(ALICE)
    target = f"{tmp_path / 'slow.py'}:Echo"
    server = serve(target, executor="thread", is_ready=False, auth__keys_file=keys)
    eventually(lambda: server.is_set("importing"), "the import")
    keys.write_text(BOB)
    server.signal(signal.SIGHUP)
    server.set("imported")
    server.wait_ready()
    told = "API keys were read again"
    eventually(lambda: any(told in line for line in list(server.log_lines)), told)
    answers = [
        server.post("/predict", 1, x_api_key=secret(entry)).status_code for entry in (ALICE, BOB)
    ]
    assert answers == [401, 200]


def test_without_keys_a_hangup_ends_the_server_as_ever(serve: Serve) -> None:
    server = serve("Scripted", executor="thread")
    server.signal(signal.SIGHUP)
    assert server.exit_code() == -signal.SIGHUP
