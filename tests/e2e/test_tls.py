"""HTTPS, and how the other end of a connection is told over TLS and over Unix sockets."""

from __future__ import annotations

import contextlib
import json
import socket
import ssl
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.e2e.conftest import WAIT_S, Answer, Serve, Served, Wire, eventually, starter

WAYS = ("true", "false")


class Certificate:
    """A certificate for 127.0.0.1, which its clients trust.

    Attributes:
        cert: Its file.
        key: Its key's.
        trust: What a client trusts it by.
    """

    def __init__(self, folder: Path) -> None:
        self.cert, self.key = folder / "server.pem", folder / "server.key"
        command = ["openssl", "req", "-x509", "-newkey", "ec", "-nodes", "-days", "2"]
        command += ["-pkeyopt", "ec_paramgen_curve:prime256v1", "-subj", "/CN=a test"]
        command += ["-addext", "subjectAltName=IP:127.0.0.1"]
        command += ["-keyout", str(self.key), "-out", str(self.cert)]
        subprocess.run(command, check=True, capture_output=True)
        self.trust = ssl.create_default_context(cafile=str(self.cert))


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Certificate:
    return Certificate(tmp_path_factory.mktemp("tls"))


@pytest.fixture(scope="module", params=WAYS)
def server(
    request: pytest.FixtureRequest, certificate: Certificate, short_folder: Path
) -> Iterator[Served]:
    """A server of HTTPS, by each way of a predict request."""
    servers: list[Served] = []
    yield starter(short_folder, servers)(
        "Scripted",
        "Size",
        executor="thread",
        fast_path=request.param,
        tls_cert=certificate.cert,
        tls_key=certificate.key,
        limits__body_timeout_s=0.5,
        limits__max_json_bytes=1000,
    )
    for each in servers:
        each.terminate()
        assert each.exit_code() == 0
        assert not [line for line in each.log_lines if "Traceback" in line]
        each.stop()


class TlsWire(Wire):
    """A bare connection over TLS."""

    def __init__(self, server: Served, certificate: Certificate) -> None:
        super().__init__(server)
        trust = certificate.trust
        self.socket = trust.wrap_socket(self.socket, server_hostname="127.0.0.1")


def test_predictions_and_pages_over_https(server: Served, certificate: Certificate) -> None:
    assert server.address.startswith("https://127.0.0.1:")
    with httpx.Client(verify=certificate.trust, timeout=WAIT_S, trust_env=False) as client:
        for n in range(1, 20):
            answer = client.post(server.address + "/predict", json={"n": n})
            assert (answer.status_code, answer.json()) == (200, 2 * n)
        assert client.get(server.address + "/livez").text == "ok\n"
        overview = client.get(server.address + "/").json()
        assert [model["name"] for model in overview["models"]] == ["scripted", "size"]
        large = client.post(server.address + "/models/size/predict", content=b"x" * 3_000_000)
        assert large.json() == 3_000_000


def test_requests_sent_at_once_over_https_are_answered_in_order(
    server: Served, certificate: Certificate
) -> None:
    with TlsWire(server, certificate) as wire:
        for n in range(50):
            wire.post("/predict", json.dumps({"n": n}))
        assert [wire.answer().json() for _ in range(50)] == [2 * n for n in range(50)]


def test_a_refusal_before_its_body_is_read_over_https(
    server: Served, certificate: Certificate
) -> None:
    with TlsWire(server, certificate) as wire:
        wire.send("POST /predict HTTP/1.1\r\nhost: x\r\ncontent-length: 1001\r\n\r\n")
        wire.send(b" " * 500)
        assert wire.answer().status == 413
        assert wire.is_closed()


def test_a_client_without_tls_is_closed(server: Served) -> None:
    before = len(server.log_lines)
    with Wire(server) as wire:
        wire.send("GET /livez HTTP/1.1\r\nhost: x\r\n\r\n")
        with pytest.raises(ConnectionError):
            wire.answer()
    assert server.log_lines[before:] == []


def test_a_client_that_ends_over_https_is_done_with(
    server: Served, certificate: Certificate
) -> None:
    """An end over TLS is that of both directions, so nobody waits for the answer."""
    with httpx.Client(verify=certificate.trust, timeout=WAIT_S, trust_env=False) as client:

        def gone() -> float:
            text = client.get(server.address + "/metrics").text
            name = "headrace_http_disconnects_total "
            return float(next(li for li in text.splitlines() if li.startswith(name)).split()[1])

        before = gone()
        wire = TlsWire(server, certificate)
        wire.post("/predict", json.dumps({"n": 77, "do": "wait"}))
        eventually(lambda: 77 in server.ran(), "it to run")
        assert isinstance(wire.socket, ssl.SSLSocket)
        with contextlib.suppress(OSError):  # it does not answer our end
            wire.socket.settimeout(0.2)
            wire.socket.unwrap()
        eventually(lambda: gone() == before + 1, "the client to be known as gone")
        wire.socket.close()
        server.set("go")


@pytest.mark.parametrize(
    ("cert", "key", "told"),
    [
        ("server.pem", None, "tls_cert, tls_key: expected both or neither, got tls_cert alone"),
        ("none", "server.key", "none: No such file or directory"),
        ("server.key", "server.key", "tls_cert: expected a certificate in PEM"),
    ],
)
def test_a_certificate_that_is_none_ends_the_server_with_2(
    serve: Serve, certificate: Certificate, cert: str, key: str | None, told: str
) -> None:
    folder = certificate.cert.parent
    given: dict[str, Any] = {"tls_cert": folder / cert} | ({"tls_key": folder / key} if key else {})
    wrong = serve("Scripted", is_ready=False, **given)
    assert wrong.exit_code() == 2
    assert told in wrong.log_lines[-1]
    assert len(wrong.log_lines) == 1


# The end of one direction


def finish(wire: Wire) -> None:
    wire.socket.shutdown(socket.SHUT_WR)


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("is_unix", [False, True])
def test_a_client_that_sends_no_more_gets_its_answers(
    serve: Serve, uds: Path, way: str, is_unix: bool
) -> None:
    server = serve("Scripted", executor="thread", fast_path=way, uds=uds if is_unix else None)
    for before in (0, 3):
        with server.wire() as wire:
            for _ in range(before):  # until its head is known
                wire.post("/predict", '{"n":1}')
                assert wire.answer().json() == 2
            for n in (1, 2):
                wire.post("/predict", json.dumps({"n": n}))
            finish(wire)
            answers: list[Answer] = []
            while len(answers) < 2:
                answer = wire.answer()
                answers += [answer] if answer.status != 100 else []
            assert [answer.json() for answer in answers] == [2, 4]
            assert wire.is_closed()


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("is_unix", [False, True])
def test_a_client_that_has_gone_is_not_worked_for(
    serve: Serve, uds: Path, way: str, is_unix: bool
) -> None:
    server = serve("Scripted", executor="thread", fast_path=way, uds=uds if is_unix else None)
    wire = server.wire()
    wire.post("/predict", json.dumps({"n": 1, "do": "wait"}))
    eventually(lambda: server.metric("headrace_running_items") == 1, "it to run")
    wire.socket.close()
    eventually(lambda: server.metric("headrace_http_disconnects_total") == 1, "it to be known")
    assert server.metric("headrace_http_requests_in_flight") == 0
    server.set("go")
