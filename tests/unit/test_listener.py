"""The listening socket."""

from __future__ import annotations

import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from headrace import ServerSettings
from headrace.listener import BindError, address_of, bind, listening


@pytest.fixture
def path() -> Iterator[Path]:
    """Where a Unix socket may be: a short path, as the system asks for."""
    with tempfile.TemporaryDirectory() as folder:
        yield Path(folder, "socket")


def unix(path: Path) -> ServerSettings:
    return ServerSettings(uds=str(path))


def test_it_is_imported_without_the_http_parts() -> None:
    source = (
        "import sys, headrace.listener\n"
        "print([name for name in ('headrace.http', 'falcon', 'uvicorn') if name in sys.modules])"
    )
    ran = subprocess.run([sys.executable, "-c", source], capture_output=True, text=True, timeout=30)
    assert (ran.stdout, ran.stderr) == ("[]\n", "")


def test_it_listens_as_soon_as_it_is_bound() -> None:
    with listening(ServerSettings(port=0)) as listener:
        host, port = listener.getsockname()
        assert address_of(listener) == f"http://{host}:{port}"
        socket.create_connection((host, port)).close()


def test_a_port_that_is_taken_is_refused_and_named() -> None:
    with bind(ServerSettings(port=0)) as listener:
        port = listener.getsockname()[1]
        with pytest.raises(BindError, match=rf":{port}: .*another server has it"):
            bind(ServerSettings(port=port))


def test_a_host_that_is_none_is_refused() -> None:
    with pytest.raises(BindError, match="cannot listen on"):
        bind(ServerSettings(host="no host"))


def test_a_unix_sockets_file_goes_with_it(path: Path) -> None:
    with listening(unix(path)) as listener:
        assert address_of(listener) == f"unix:{path}"
        assert path.is_socket()
    assert not path.exists()


def test_a_file_that_is_another_servers_by_then_is_left(path: Path) -> None:
    with listening(unix(path)):
        path.unlink()
        other = bind(unix(path))
    with other:
        assert path.is_socket()


def test_a_stale_socket_is_replaced_and_a_live_one_is_not(path: Path) -> None:
    bind(unix(path)).close()
    with bind(unix(path)), pytest.raises(BindError, match="another server has it"):
        bind(unix(path))


def test_a_file_that_is_no_socket_is_left_alone(path: Path) -> None:
    path.write_text("precious")
    with pytest.raises(BindError, match="no socket"):
        bind(unix(path))
    assert path.read_text() == "precious"


@pytest.mark.parametrize("given", ["a\0b", "/" + "a" * 107])
def test_a_path_that_the_system_cannot_bind_is_refused(given: str) -> None:
    with pytest.raises(BindError, match="expected"):
        bind(ServerSettings(uds=given))
