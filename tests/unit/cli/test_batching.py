"""The options of `headrace batching`; what it does is tested with the real command."""

from __future__ import annotations

import os
import re
import socket
import stat
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from headrace import Fairness, Limits
from headrace.cli import batching, main
from headrace.cli.settings import resolve_settings
from headrace.config import env_name

Cli = Callable[..., tuple[int, str]]


@pytest.fixture
def folder(monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The current folder; its path is short enough for Unix sockets."""
    with tempfile.TemporaryDirectory(prefix="hr-") as name:
        monkeypatch.chdir(name)
        yield Path(name)


@pytest.fixture
def cli(capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, folder: Path) -> Cli:
    """Runs the command to its end: the exit code, and what it wrote."""

    def run(*arguments: str) -> tuple[int, str]:
        monkeypatch.setattr(sys, "argv", ["headrace", "batching", *arguments])
        with pytest.raises(SystemExit) as caught:
            main()
        captured = capfd.readouterr()
        code = caught.value.code
        assert isinstance(code, int) or code is None
        return code or 0, captured.out + captured.err

    return run


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("--protocol", "udp"), "--protocol: expected unix or tcp, got 'udp'"),
        (("--batch", "0"), "--batch: expected 1 to 65536, got 0"),
        (("-batch=65537",), "--batch: expected 1 to 65536, got 65537"),
        (("-latency", "-1"), "--latency: expected 0 to 60000, got -1"),
        (("-latency=60001",), "--latency: expected 0 to 60000, got 60001"),
        (("-timeout=0",), "--timeout: expected 1 to 86400000, got 0"),
        (("-capacity=0",), "--capacity: expected 1 to"),
        (("--batch-bytes", "0"), "--batch-bytes: expected 1 to"),
        (("-port", "65536"), "--port: expected 0 to 65535, got 65536"),
        (("-port", "x"), "Invalid value for '--port' / '-port'"),
        (("--log-level", "loud"), "--log-level: expected 'debug'"),
        (("-protocol", "tcp"), "--address: expected host:port with --protocol tcp, got 'batch.so"),
        (("-protocol=tcp", "-address", "localhost"), "--address: expected host:port"),
        (("-protocol=tcp", "-address", "[::1]"), "--address: expected host:port"),
        (("-protocol=tcp", "-address", "h:x"), "--address: expected host:port"),
        (("-protocol=tcp", "-address", ":65536"), "--address: expected host:port"),
        (("-protocol=tcp", "-address", ""), "--address: expected host:port"),
        (("--speed", "9"), "No such option"),
        (("more",), "unexpected extra argument"),
    ],
)
def test_a_wrong_option_exits_with_2_and_says_why(
    cli: Cli, arguments: tuple[str, ...], said: str
) -> None:
    code, output = cli(*arguments)
    assert code == 2
    # The command line's own errors are in a box as wide as the terminal.
    plain = " ".join(re.sub(r"\x1b\[[0-9;]*m|[│╭╮╰╯─]", " ", output).split())
    assert said in plain
    assert "Traceback" not in output


def test_help_names_every_flag_in_both_spellings(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    monkeypatch.setenv("NO_COLOR", "1")
    code, output = cli("--help")
    assert code == 0
    for name in "address protocol host port batch latency capacity timeout".split():
        assert re.search(rf"--{name}\b.* -{name}\b", output), name
    assert "--fixed-wait" in output and "--batch-bytes" in output
    assert "mode 600" in output


def test_an_address_that_is_taken_exits_with_3(cli: Cli, folder: Path) -> None:
    path = folder / "live"
    with socket.socket(socket.AF_UNIX) as live, socket.create_server(("127.0.0.1", 0)) as taken:
        live.bind(str(path))
        live.listen()
        code, output = cli("--port", "0", "--address", str(path))
        assert (code, "another server has it" in output) == (3, True)
        assert path.exists()
        number = str(taken.getsockname()[1])
        code, output = cli("--host", "127.0.0.1", "--port", number, "--address", "unused")
        assert (code, "another server has it" in output) == (3, True)
        assert not (folder / "unused").exists()
        tcp = ("--protocol", "tcp", "--address", f"127.0.0.1:{number}")
        code, output = cli("--port", "0", *tcp)
        assert (code, "another server has it" in output) == (3, True)


def test_a_file_that_is_no_socket_is_left_alone(cli: Cli, folder: Path) -> None:
    (folder / "file").write_text("mine")
    code, output = cli("--port", "0", "--address", "file")
    assert (code, "no socket" in output) == (3, True)
    assert (folder / "file").read_text() == "mine"


@pytest.mark.parametrize("mask", [0o022, 0o002, 0o000])
def test_the_socket_is_the_users_alone_and_removed_in_the_end(folder: Path, mask: int) -> None:
    before = os.umask(mask)
    try:
        with batching._listening_for_workers("s") as listener:
            assert stat.S_IMODE((folder / "s").stat().st_mode) == 0o600
            assert batching._shown(listener) == "s"
        assert not (folder / "s").exists()
        assert os.umask(mask) == mask, "other files are made as before"
    finally:
        os.umask(before)


def test_a_stale_socket_is_replaced(folder: Path) -> None:
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind("s")
    with batching._listening_for_workers("s"):
        with socket.socket(socket.AF_UNIX) as worker:
            worker.connect("s")


def test_a_port_without_host_is_every_address_and_is_warned_of(
    caplog: pytest.LogCaptureFixture,
) -> None:
    assert batching._where(":0", "tcp") == ("0.0.0.0", 0)
    assert batching._where("[::1]:7", "tcp") == ("::1", 7)
    assert batching._where("a:b", "unix") == "a:b"
    with batching._listening_for_workers(("127.0.0.1", 0)) as listener:
        assert batching._shown(listener) == "{}:{}".format(*listener.getsockname())
    assert not caplog.records
    with batching._listening_for_workers(("0.0.0.0", 0)):
        pass
    assert ["gets clients' jobs" in record.message for record in caplog.records] == [True]


OWN = {
    "tls_cert": "cert.pem",
    "tls_key": "key.pem",
    "tls_client_ca": "ca.pem",
    "tls_min_version": "1.3",
    "fairness.client_header": "x-tenant",
    "fast_path": "false",
    "admin_port": "1",
    "auth.keys_file": "keys",
    "limits.max_connections": "7",
    "drain_timeout_s": "3",
}
"""Settings that concern clients."""
MODELS_OWN = {"executor": "inline", "replicas": "3", "start_timeout_s": "1", "host": "127.0.0.2"}
"""Those of models, and one that the command has a default of its own for."""


def test_what_concerns_clients_is_set_as_for_other_servers(
    monkeypatch: pytest.MonkeyPatch, folder: Path
) -> None:
    for key, text in (OWN | MODELS_OWN).items():
        monkeypatch.setenv(env_name(key), text)
    got = batching._settings(resolve_settings({"port": "5"}), capacity=9, timeout_s=2.0)
    assert (got.tls_cert, got.tls_key, got.tls_client_ca) == ("cert.pem", "key.pem", "ca.pem")
    assert (got.tls_min_version, got.fast_path, got.admin_port) == ("1.3", False, 1)
    assert got.fairness == Fairness(client_header="x-tenant")
    assert (got.auth.keys_file, got.drain_timeout_s) == ("keys", 3.0)
    assert got.limits == Limits(
        max_connections=7, max_queue_items=9, request_timeout_s=2.0, max_request_timeout_s=2.0
    )
    assert (got.host, got.port) == ("127.0.0.2", 5)
    assert (got.executor, got.replicas) == ("process", 1)
    assert got.start_timeout_s == batching.FOREVER_S


def test_clients_are_listened_for_where_the_original_does_unless_it_is_said(folder: Path) -> None:
    got = batching._settings(resolve_settings({}), capacity=9, timeout_s=2.0)
    assert (got.host, got.port) == ("0.0.0.0", 8080)
