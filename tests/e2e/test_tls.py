"""HTTPS, and how the other end of a connection is told over TLS and over Unix sockets."""

from __future__ import annotations

import contextlib
import json
import signal
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


# Options


class Authority:
    """Signs certificates of clients and of servers.

    Attributes:
        cert: Its own certificate's file.
    """

    def __init__(self, folder: Path, name: str) -> None:
        self.cert, self._key = folder / f"{name}.pem", folder / f"{name}.key"
        self._folder = folder
        self._run("req", "-x509", *self._new(self._key), "-subj", f"/CN={name}", "-out", self.cert)

    def signed(self, name: str) -> tuple[Path, Path]:
        """A certificate and its key."""
        cert, key, request = (self._folder / f"{name}.{kind}" for kind in ("crt", "pk", "csr"))
        self._run("req", *self._new(key), "-subj", f"/CN={name}", "-out", request)
        signer = ("-CA", self.cert, "-CAkey", self._key, "-CAcreateserial", "-days", "2")
        self._run("x509", "-req", "-in", request, *signer, "-out", cert)
        return cert, key

    @staticmethod
    def _new(key: Path) -> tuple[object, ...]:
        curve = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes")
        return (*curve, "-days", "2", "-keyout", key)

    @staticmethod
    def _run(*arguments: object) -> None:
        subprocess.run(["openssl", *map(str, arguments)], check=True, capture_output=True)


def status(server: Served, trust: ssl.SSLContext) -> int:
    """What a new connection is answered to a prediction."""
    with httpx.Client(verify=trust, timeout=WAIT_S, trust_env=False) as client:
        return client.post(server.address + "/predict", json={"n": 1}).status_code


def test_a_client_must_show_a_certificate_of_the_authority(
    serve: Serve, certificate: Certificate, tmp_path: Path
) -> None:
    ours, theirs = Authority(tmp_path, "ours"), Authority(tmp_path, "theirs")
    server = serve(
        "Scripted",
        executor="thread",
        tls_cert=certificate.cert,
        tls_key=certificate.key,
        tls_client_ca=ours.cert,
        admin_port=0,
    )

    def trust(signed: tuple[Path, Path] | None) -> ssl.SSLContext:
        context = ssl.create_default_context(cafile=str(certificate.cert))
        if signed is not None:
            context.load_cert_chain(*signed)
        return context

    assert status(server, trust(ours.signed("friend"))) == 200
    for stranger in (trust(theirs.signed("stranger")), trust(None)):
        with pytest.raises(httpx.TransportError):
            status(server, stranger)
    line = next(line for line in server.output if "metrics: http://" in line)
    probe = line.split("metrics: ")[1].split("/metrics")[0] + "/readyz"
    with httpx.Client(trust_env=False) as client:
        assert client.get(probe).status_code == 200, "probes have no certificate"


@pytest.mark.parametrize(("least", "answer"), [("1.2", 200), ("1.3", None)])
def test_old_versions_are_refused_where_the_setting_says_so(
    serve: Serve, certificate: Certificate, least: str, answer: int | None
) -> None:
    server = serve(
        "Scripted",
        executor="thread",
        tls_cert=certificate.cert,
        tls_key=certificate.key,
        tls_min_version=least,
    )
    old = ssl.create_default_context(cafile=str(certificate.cert))
    old.maximum_version = ssl.TLSVersion.TLSv1_2
    if answer is None:
        with pytest.raises(httpx.TransportError):
            status(server, old)
    else:
        assert status(server, old) == answer
    assert status(server, certificate.trust) == 200


@pytest.mark.parametrize("sent", [b"", b"\x16\x03\x01\x02\x00\x01"])
def test_a_handshake_that_does_not_come_is_waited_for_as_a_head_is(
    serve: Serve, certificate: Certificate, sent: bytes
) -> None:
    server = serve(
        "Scripted",
        executor="thread",
        tls_cert=certificate.cert,
        tls_key=certificate.key,
        limits__head_timeout_s=0.5,
    )
    with Wire(server) as silent:
        silent.socket.settimeout(WAIT_S)
        silent.send(sent)
        assert silent.is_closed()
    assert status(server, certificate.trust) == 200
    assert server.log_lines == []


def test_a_certificate_is_renewed_while_it_serves(serve: Serve, tmp_path: Path) -> None:
    first, second = tmp_path / "first", tmp_path / "second"
    first.mkdir()
    second.mkdir()
    old, new = Certificate(first), Certificate(second)
    server = serve("Scripted", executor="thread", tls_cert=old.cert, tls_key=old.key)
    with httpx.Client(verify=old.trust, timeout=WAIT_S, trust_env=False) as kept:
        address = server.address + "/predict"
        assert kept.post(address, json={"n": 1}).status_code == 200
        old.cert.write_bytes(new.cert.read_bytes())
        reload(server, "the old certificate stays")
        assert status(server, old.trust) == 200
        old.key.write_bytes(new.key.read_bytes())
        reload(server, "the certificate was read again")
        assert status(server, new.trust) == 200
        with pytest.raises(httpx.ConnectError):
            status(server, old.trust)
        assert kept.post(address, json={"n": 1}).status_code == 200, "it stays connected"


def reload(server: Served, said: str) -> None:
    server.signal(signal.SIGHUP)
    eventually(lambda: any(said in line for line in list(server.log_lines)), said)
