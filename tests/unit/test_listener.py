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
from headrace.listener import (
    BindError,
    address_of,
    admin_listening,
    bind,
    bind_tcp,
    bind_unix,
    is_beyond_loopback,
    listening,
)


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


def test_an_address_with_tls_says_so(path: Path) -> None:
    with bind(ServerSettings(port=0)) as listener:
        port = listener.getsockname()[1]
        assert address_of(listener, is_tls=True) == f"https://127.0.0.1:{port}"
    with bind(unix(path)) as listener:
        assert address_of(listener, is_tls=True) == f"unix:{path}"


def test_who_has_connected_is_accepted_and_nobody_after_that() -> None:
    with bind_tcp("127.0.0.1", 0) as listener, socket.socket() as late:
        with socket.create_connection(listener.getsockname()) as known:
            known.sendall(b"x")
            listener.admit_no_more()
            late.setblocking(False)
            late.connect_ex(listener.getsockname())
            accepted, _ = listener.accept()
            with accepted:
                assert accepted.recv(1) == b"x"
                accepted.sendall(b"y")
                assert known.recv(1) == b"y"
                known.sendall(b"z")
                assert accepted.recv(1) == b"z", "what is connected is not filtered"
        listener.setblocking(False)
        with pytest.raises(BlockingIOError):
            listener.accept()


def test_a_unix_socket_that_admits_no_more_is_gone_for_others(path: Path) -> None:
    with bind_unix(str(path)) as listener, socket.socket(socket.AF_UNIX) as known:
        known.connect(str(path))
        listener.admit_no_more()
        assert not path.exists()
        listener.accept()[0].close()
        listener.close()
        with bind_unix(str(path)):
            listener.remove_file()
            assert path.exists(), "the next server's, whatever its number"


def test_only_this_machine_reaches_a_server_that_says_nothing_else() -> None:
    with listening(ServerSettings(port=0)) as listener:
        assert listener.getsockname()[0] == "127.0.0.1"
        assert not is_beyond_loopback(listener)


@pytest.mark.parametrize(
    ("host", "beyond"),
    [("127.0.0.1", False), ("127.8.8.8", False), ("localhost", False), ("0.0.0.0", True)],
)
def test_whether_others_may_reach_an_address(host: str, beyond: bool) -> None:
    with bind(ServerSettings(host=host, port=0)) as listener:
        assert is_beyond_loopback(listener) is beyond


def test_nobody_reaches_a_unix_socket_from_beyond(path: Path) -> None:
    with listening(unix(path)) as listener:
        assert not is_beyond_loopback(listener)


def test_operators_have_an_address_of_their_own_only_if_one_is_set(path: Path) -> None:
    with admin_listening(ServerSettings(port=0)) as none:
        assert none is None
    with admin_listening(ServerSettings(host="0.0.0.0", admin_port=0)) as listener:
        assert listener is not None and not is_beyond_loopback(listener)
    with admin_listening(ServerSettings(admin_uds=str(path))) as listener:
        assert listener is not None and path.is_socket()
    assert not path.exists()
