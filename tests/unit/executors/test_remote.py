"""The gate for workers of other hosts: who gets in, and how soon everybody else is gone."""

from __future__ import annotations

import asyncio
import errno
import os
import secrets
import socket
import ssl
import subprocess
import time
from collections.abc import Callable, Coroutine, Iterator
from pathlib import Path
from typing import Any

import pytest
import uvloop

from headrace.batching import Batch, Cut, Item
from headrace.call import Payload
from headrace.card import ModelCard
from headrace.clock import NEVER, Instant, system_clock
from headrace.config import Batching, ServerSettings, Workers
from headrace.errors import ConfigError
from headrace.executors import Loss, RemoteExecutor
from headrace.executors.remote import MAX_STRANGERS, Gate, differences
from headrace.executors.socket import Peer
from headrace.executors.trust import check_trust, front_tls, parse_address, read_secret
from headrace.listener import is_loopback
from headrace.wire import Cards, Connection
from headrace.workers.sockets import FIRST_RETRY_S, LAST_RETRY_S, Retries
from tests.contract.record import Record

CLOSED_WITHIN_S = 3.0
"""A second is what is promised, and the rest for a busy machine."""

RUNNERS: dict[str, Callable[[Coroutine[Any, Any, None]], None]] = {
    "asyncio": asyncio.run,
    "uvloop": uvloop.run,
}

CARD = ModelCard(
    name="m",
    version="1",
    description="",
    request_schema={},
    response_schema={},
    reads=("application/json",),
    writes=("application/json",),
    examples=(),
    batching=Batching(),
    idempotent=True,
)


@pytest.fixture(params=RUNNERS)
def runner(request: pytest.FixtureRequest) -> Callable[[Coroutine[Any, Any, None]], None]:
    return RUNNERS[request.param]


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A certificate for 127.0.0.1 by itself, and its key, in one file."""
    folder = tmp_path_factory.mktemp("tls")
    subject = ["-subj", "/CN=front", "-addext", "subjectAltName=IP:127.0.0.1", "-days", "2"]
    files = ["-keyout", "key.pem", "-out", "cert.pem"]
    command = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", *files, *subject]
    subprocess.run(command, cwd=folder, check=True, capture_output=True)
    both = folder / "both.pem"
    both.touch(mode=0o600)
    both.write_bytes((folder / "cert.pem").read_bytes() + (folder / "key.pem").read_bytes())
    return both


class Home:
    """A gate with the executors of the models that came through it."""

    def __init__(self, folder: Path, **workers: Any) -> None:
        self.secret = secrets.token_bytes()
        (folder / "secret").touch(mode=0o600)
        (folder / "secret").write_bytes(self.secret.hex().encode())
        self.executors: dict[str, RemoteExecutor] = {}
        self.has_joined = asyncio.Event()
        settings = Workers(listen="127.0.0.1:0", secret_file=str(folder / "secret"), **workers)
        self.gate = Gate(ServerSettings(executor="remote", workers=settings), self._joined)
        self.gate.bind()

    def worker(self, secret: bytes | None = None) -> Connection:
        """A worker's end, without I/O."""
        known = self.secret.hex().encode() if secret is None else secret
        return Connection("worker", secret=known, nonce=os.urandom(32))

    def _joined(self, card: ModelCard) -> RemoteExecutor:
        self.has_joined.set()
        return self.executors.setdefault(card.name, RemoteExecutor(card.name))


@pytest.fixture
def home(tmp_path: Path) -> Iterator[Home]:
    home = Home(tmp_path)
    yield home
    home.gate.close()


async def closed_after(reader: asyncio.StreamReader, began: float) -> float:
    """Read to the end of a connection; how long it was open."""
    async with asyncio.timeout(10.0):
        try:
            while await reader.read(4096):
                pass
        except OSError:
            pass
    return time.monotonic() - began


async def greet(
    reader: asyncio.StreamReader, writer: asyncio.StreamWriter, worker: Connection
) -> bytes:
    """Answer the front's challenge; what was sent."""
    worker.get_buffer()[:64] = await reader.readexactly(64)
    worker.received(64)
    hello = b"".join(worker.take_outgoing())
    writer.write(hello)
    return hello


NOISE = b"\xff\x00\x17" * 400
STRANGERS = {
    "nothing": b"",
    "one byte": b"h",
    "half a hello": b"hdrc\x01\x02",
    "a length of 2^64-1": b"hdrc\x01\x02\0\0" + b"\xff" * 16,
    "HTTP": b"GET / HTTP/1.1\r\nhost: x\r\n\r\n",
    "TLS": bytes.fromhex("16030100c5010000c10303") + bytes(190),
    "noise": NOISE,
    "much noise": NOISE * 10_000,
}


@pytest.mark.parametrize("what", STRANGERS)
def test_a_stranger_is_gone_within_a_second(
    runner: Callable[[Coroutine[Any, Any, None]], None], home: Home, what: str
) -> None:
    async def main() -> None:
        home.gate.open()
        reader, writer = await asyncio.open_connection(*home.gate.address)
        began = time.monotonic()
        writer.write(STRANGERS[what])
        assert await closed_after(reader, began) < CLOSED_WITHIN_S
        writer.close()
        assert not home.executors

    runner(main())


@pytest.mark.parametrize("what", STRANGERS)
def test_a_stranger_to_a_gate_with_tls_is_gone_within_a_second(
    runner: Callable[[Coroutine[Any, Any, None]], None],
    tmp_path: Path,
    certificate: Path,
    what: str,
) -> None:
    home = Home(tmp_path, tls_cert=str(certificate))

    async def main() -> None:
        home.gate.open()
        reader, writer = await asyncio.open_connection(*home.gate.address)
        began = time.monotonic()
        writer.write(STRANGERS[what])
        assert await closed_after(reader, began) < CLOSED_WITHIN_S
        writer.close()
        home.gate.close()

    runner(main())


def test_who_knows_another_secret_is_gone_at_once(
    runner: Callable[[Coroutine[Any, Any, None]], None], home: Home
) -> None:
    async def main() -> None:
        home.gate.open()
        reader, writer = await asyncio.open_connection(*home.gate.address)
        began = time.monotonic()
        await greet(reader, writer, home.worker(b"another secret, long enough"))
        assert await closed_after(reader, began) < 0.8 * CLOSED_WITHIN_S
        writer.close()

    runner(main())


def test_a_hello_that_was_overheard_is_worth_nothing(
    runner: Callable[[Coroutine[Any, Any, None]], None], home: Home
) -> None:
    async def main() -> None:
        home.gate.open()
        reader, writer = await asyncio.open_connection(*home.gate.address)
        hello = await greet(reader, writer, home.worker())
        assert await reader.readexactly(64), "the welcome"
        thief, thief_writer = await asyncio.open_connection(*home.gate.address)
        await thief.readexactly(64)
        thief_writer.write(hello)
        assert await closed_after(thief, time.monotonic()) < CLOSED_WITHIN_S
        writer.close()
        thief_writer.close()

    runner(main())


@pytest.mark.parametrize("has_tls", [False, True])
def test_who_knows_the_secret_stays_and_joins_with_its_card(
    runner: Callable[[Coroutine[Any, Any, None]], None],
    tmp_path: Path,
    certificate: Path,
    has_tls: bool,
) -> None:
    home = Home(tmp_path, **({"tls_cert": str(certificate)} if has_tls else {}))
    tls = ssl.create_default_context(cafile=str(certificate)) if has_tls else None

    async def main() -> None:
        home.gate.open()
        reader, writer = await asyncio.open_connection(*home.gate.address, ssl=tls)
        worker = home.worker()
        await greet(reader, writer, worker)
        messages: list[Any] = []
        while not messages:
            data = await reader.read(64)
            worker.get_buffer()[: len(data)] = data
            messages += worker.received(len(data))
        await asyncio.sleep(1.2)  # longer than a stranger may stay
        writer.writelines(worker.send(Cards((CARD,), 0)))
        async with asyncio.timeout(10.0):
            await home.has_joined.wait()
        await asyncio.sleep(0)
        assert list(home.executors["m"].peers) == [0]
        home.executors["m"].close()
        await closed_after(reader, time.monotonic())
        writer.close()
        home.gate.close()

    runner(main())


def test_strangers_beyond_the_most_are_closed_at_once(
    runner: Callable[[Coroutine[Any, Any, None]], None], home: Home
) -> None:
    async def main() -> None:
        home.gate.open()
        strangers = [
            await asyncio.open_connection(*home.gate.address) for _ in range(MAX_STRANGERS)
        ]
        for reader, _ in strangers:
            await reader.readexactly(64)
        reader, writer = await asyncio.open_connection(*home.gate.address)
        assert await reader.read() == b"", "not even a challenge"
        for each, _ in strangers:
            assert await closed_after(each, time.monotonic()) < CLOSED_WITHIN_S
        again, again_writer = await asyncio.open_connection(*home.gate.address)
        assert len(await again.readexactly(64)) == 64
        for _, each_writer in [*strangers, (reader, writer), (again, again_writer)]:
            each_writer.close()

    runner(main())


def test_a_closed_gate_lets_nobody_in_and_keeps_nobody(
    runner: Callable[[Coroutine[Any, Any, None]], None], home: Home
) -> None:
    async def main() -> None:
        home.gate.open()
        address = home.gate.address
        reader, writer = await asyncio.open_connection(*address)
        await reader.readexactly(64)
        home.gate.close()
        home.gate.close()
        assert await closed_after(reader, time.monotonic()) < CLOSED_WITHIN_S
        with pytest.raises(OSError):
            socket.create_connection(address, timeout=1.0)
        writer.close()

    runner(main())


@pytest.mark.parametrize(
    ("changed", "names"),
    [
        ({}, []),
        ({"version": "2", "description": "Better."}, []),
        ({"request_schema": {"type": "string"}}, ["request_schema"]),
        ({"batching": Batching(max_batch_size=2), "idempotent": False}, ["batching", "idempotent"]),
    ],
)
def test_cards_differ_in_what_callers_or_batches_depend_on(
    changed: dict[str, Any], names: list[str]
) -> None:
    fields = {name: getattr(CARD, name) for name in CARD.__struct_fields__}
    assert differences(CARD, ModelCard(**{**fields, **changed})) == names


@pytest.mark.parametrize(
    ("text", "address"),
    [
        ("h:1", ("h", 1)),
        ("h", ("h", 7317)),
        ("[::1]:5", ("::1", 5)),
        ("[::1]", ("::1", 7317)),
    ],
)
def test_an_address_is_a_host_and_a_port(text: str, address: tuple[str, int]) -> None:
    assert parse_address(text, where="x") == address


@pytest.mark.parametrize("text", ["", ":1", "h:", "h:x", "h:65536", "::1", "a:b:1"])
def test_what_is_no_address_is_refused(text: str) -> None:
    with pytest.raises(ConfigError, match=r"^x: expected host:port"):
        parse_address(text, where="x")


def test_a_secret_is_a_file_of_sixteen_bytes_or_more(tmp_path: Path) -> None:
    file = tmp_path / "secret"
    file.touch(mode=0o600)
    file.write_bytes(b"0123456789abcdef\n")
    assert read_secret(str(file), where="x") == b"0123456789abcdef"
    file.write_bytes(b"0123456789abcde\n")
    with pytest.raises(ConfigError, match=r"at least 16 bytes in .*, got 15"):
        read_secret(str(file), where="x")
    with pytest.raises(ConfigError, match="x: expected a file"):
        read_secret(None, where="x")
    file.chmod(0o640)
    file.write_bytes(b"0123456789abcdef\n")
    assert read_secret(str(file), where="x")
    file.chmod(0o644)
    with pytest.raises(ConfigError, match=f"x: {file}: .*got mode 0644; run chmod 600 {file}"):
        read_secret(str(file), where="x")


@pytest.mark.parametrize("has_own_key", [False, True])
def test_the_key_that_workers_are_shown_a_certificate_by_is_read_by_no_others(
    certificate: Path, tmp_path: Path, has_own_key: bool
) -> None:
    cert, key = tmp_path / "cert.pem", tmp_path / "key.pem"
    for file in (cert, key):
        file.touch(mode=0o600)
        file.write_bytes(certificate.read_bytes())
    name, secret = ("workers.tls_key", key) if has_own_key else ("workers.tls_cert", cert)
    if has_own_key:
        cert.chmod(0o644)
    settings = Workers(tls_cert=str(cert), tls_key=str(key) if has_own_key else None)
    assert front_tls("10.0.0.1", settings)
    secret.chmod(0o604)
    with pytest.raises(ConfigError, match=f"{name}: .*got mode 0604; run chmod 600 {secret}"):
        front_tls("10.0.0.1", settings)


def test_a_worker_trusts_in_one_way_and_needs_none_within_its_machine(certificate: Path) -> None:
    assert check_trust("127.0.0.1", None, False, False) is None
    assert check_trust("h", None, False, True) is None
    assert check_trust("h", None, True, False) == "system"
    assert check_trust("h", certificate, False, False) == str(certificate)
    with pytest.raises(ConfigError, match="beyond loopback"):
        check_trust("h", None, False, False)
    with pytest.raises(ConfigError, match="got several"):
        check_trust("h", certificate, True, False)


@pytest.mark.parametrize("host", ["localhost", "127.0.0.1", "127.9.8.7", "::1"])
def test_loopback_is_an_address_or_the_name_for_it(host: str) -> None:
    assert is_loopback(host)


@pytest.mark.parametrize("host", ["127.example.com", "127.0.0.1.example.com", "0.0.0.0", "::", "h"])
def test_a_name_that_begins_like_loopback_is_none(host: str) -> None:
    assert not is_loopback(host)
    with pytest.raises(ConfigError, match="beyond loopback"):
        check_trust(host, None, False, False)


class Heard(Record):
    """Keeps when each event was told, and when the worker should be back."""

    def __init__(self) -> None:
        super().__init__()
        self.back_at: list[Instant] = []
        self.unready_at: list[Instant] = []

    def unready(self, replica: int, reason: str, back_at: Instant = NEVER) -> None:
        self.unready_at.append(system_clock())
        super().unready(replica, reason, back_at)

    def lost(self, replica: int, loss: Loss, back_at: Instant = NEVER) -> None:
        self.back_at.append(back_at)
        super().lost(replica, loss, back_at)


def join(executor: RemoteExecutor) -> Peer:
    """A worker that is ready."""
    peer = Peer(0, Connection("front", b"a secret", os.urandom(32)), executor)
    peer.card = CARD
    executor.join_in(peer)
    executor.is_ready(peer)
    return peer


@pytest.mark.parametrize(
    ("error", "is_expected"),
    [
        (None, True),
        (ConnectionResetError(), True),
        (ssl.SSLEOFError(), True),
        (TimeoutError(), False),
        (OSError(errno.EHOSTUNREACH, "no route"), False),
    ],
)
def test_an_end_without_a_bye_accuses_what_ran_only_if_it_repeats_itself(
    runner: Callable[[Coroutine[Any, Any, None]], None], error: Exception | None, is_expected: bool
) -> None:
    async def main() -> None:
        heard, executor = Heard(), RemoteExecutor("m")
        executor.open(heard)
        peer = join(executor)
        payload = Payload(body=b"1", input_type="a/b", output_type="a/b")
        batch = Batch(1, 0, 0, [Item(payload)], Cut.FULL, 0.0)
        peer.batches[1] = batch
        executor.disconnected(peer, error)
        [(_, _, loss)] = heard.of("lost")
        assert loss.is_outside and loss.suspects is None and loss.begun == (batch,)
        assert (heard.back_at[0] < NEVER) is is_expected
        executor.close()

    runner(main())


def test_what_waits_is_let_go_when_the_worker_that_was_lost_last_is_overdue(
    runner: Callable[[Coroutine[Any, Any, None]], None],
) -> None:
    async def main() -> None:
        heard, executor = Heard(), RemoteExecutor("m", restart_s=0.4)
        executor.open(heard)
        first, second = join(executor), join(executor)
        executor.disconnected(first, None)
        await asyncio.sleep(0.2)
        executor.disconnected(second, None)
        await heard.until("unready")
        await asyncio.sleep(0.3)
        assert len(heard.unready_at) == 1
        assert heard.unready_at[0] >= heard.back_at[1] - 0.01, "not when the first was"
        executor.close()

    runner(main())


def test_tries_come_less_and_less_often_until_a_connection_has_lasted() -> None:
    retries = Retries("h:1")
    waits = [retries.next_s() for _ in range(10)]
    assert waits[:3] == [FIRST_RETRY_S, 2 * FIRST_RETRY_S, 4 * FIRST_RETRY_S]
    assert waits[-1] == LAST_RETRY_S
    retries.lost(0.1, was_welcome=False)
    assert retries.next_s() == LAST_RETRY_S
    retries.lost(LAST_RETRY_S + 1.0, was_welcome=False)
    assert retries.next_s() == LAST_RETRY_S, "a front that says nothing keeps it as long"
    retries.lost(LAST_RETRY_S + 1.0, was_welcome=True)
    assert retries.next_s() == FIRST_RETRY_S
