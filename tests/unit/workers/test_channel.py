"""A worker's end of its connection, over plain sockets and over TLS."""

from __future__ import annotations

import socket
import ssl
import subprocess
import threading
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from headrace.call import Payload, Value
from headrace.errors import ProtocolError
from headrace.wire import Ask, Bye, Cards, Connection, End, Message, Parts, Ready, Run, Welcome
from headrace.workers.channel import Channel
from tests.unit.wire.driver import CARD, FRONT_NONCE, SECRET, WORKER_NONCE
from tests.unit.workers.driver import WAIT_S, run

Sockets = Callable[[], tuple[socket.socket, socket.socket]]
"""Makes two ends of a connection: the front's, and the worker's."""


@pytest.fixture(scope="session")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file with a certificate of its own making, and its key."""
    folder = tmp_path_factory.mktemp("tls")
    command = "openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 2"
    names = ["-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost"]
    files = ["-keyout", str(folder / "key"), "-out", str(folder / "cert")]
    subprocess.run([*command.split(), *names, *files], check=True, capture_output=True)
    both = folder / "both"
    both.write_text((folder / "key").read_text() + (folder / "cert").read_text())
    return both


def plain() -> tuple[socket.socket, socket.socket]:
    ours, theirs = socket.socketpair()
    ours.settimeout(WAIT_S)
    return ours, theirs


def tls(certificate: Path) -> tuple[socket.socket, socket.socket]:
    server = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    server.load_cert_chain(certificate)
    client = ssl.create_default_context(cafile=str(certificate))
    ours, theirs = socket.socketpair()
    ours.settimeout(WAIT_S)
    found: list[socket.socket] = []
    accept = threading.Thread(target=lambda: found.append(server.wrap_socket(ours, True)))
    accept.start()
    wrapped = client.wrap_socket(theirs, server_hostname="localhost")
    accept.join(WAIT_S)
    return found[0], wrapped


@pytest.fixture(params=["plain", "tls"])
def sockets(request: pytest.FixtureRequest) -> Sockets:
    if request.param == "plain":
        return plain
    certificate: Path = request.getfixturevalue("certificate")
    return lambda: tls(certificate)


class Front:
    """The other end: the protocol's bytes, as they are."""

    def __init__(self, sock: socket.socket) -> None:
        self.sock = sock
        self.connection = Connection("front", SECRET, FRONT_NONCE)

    def send(self, *messages: Message) -> None:
        self.sock.sendall(self.bytes_of(*messages))

    def bytes_of(self, *messages: Message) -> bytes:
        return b"".join(bytes(c) for m in messages for c in self.connection.send(m))

    def read(self) -> list[Message]:
        found = self.connection.received(self.sock.recv_into(self.connection.get_buffer()))
        self.sock.sendall(b"".join(self.connection.take_outgoing()))
        return found


@pytest.fixture
def pair(sockets: Sockets) -> Iterator[tuple[Front, Channel]]:
    """Two ends between which batches may run."""
    ours, theirs = sockets()
    front, channel = Front(ours), Channel(theirs, Connection("worker", SECRET, WORKER_NONCE))
    ours.sendall(b"".join(front.connection.opening()))
    assert channel.receive() == []
    front.read()
    received = channel.receive()
    assert received is not None and isinstance(received[0], Welcome)
    channel.put(Cards((CARD,), 0))
    channel.put(Ready())
    channel.flush()
    while not any(isinstance(message, Ready) for message in front.read()):
        pass
    yield front, channel
    ours.close()
    channel.close()


Pair = tuple[Front, Channel]


def test_one_read_brings_all_that_is_there(pair: Pair) -> None:
    front, channel = pair
    front.send(run(1, 1), run(2, 2), Ask())
    assert channel.receive() == [run(1, 1), run(2, 2), Ask()]


@pytest.mark.parametrize("block", [True, False])
def test_the_end_of_the_connection_is_none(pair: Pair, block: bool) -> None:
    front, channel = pair
    front.sock.close()
    assert channel.wait(block=True) == (True, False)
    assert channel.receive(block=block) is None
    assert channel.receive(block=block) is None


def test_without_blocking_nothing_is_an_empty_list(pair: Pair) -> None:
    _, channel = pair
    assert channel.receive(block=False) == []
    assert channel.wait(block=False) == (False, False)


def test_what_is_there_is_received_without_blocking(pair: Pair) -> None:
    front, channel = pair
    front.send(run(1, 1))
    assert channel.wait(block=True) == (True, False)
    assert channel.receive(block=False) == [run(1, 1)]
    assert channel.receive(block=False) == []


def test_a_message_in_pieces_comes_when_it_is_whole(pair: Pair) -> None:
    front, channel = pair
    data = front.bytes_of(run(1, *range(8)))
    front.sock.sendall(data[:100])
    channel.wait(block=True)
    assert channel.receive(block=False) == []
    front.sock.sendall(data[100:])
    channel.wait(block=True)
    assert channel.receive(block=False) == [run(1, *range(8))]


def big(size: int) -> Parts:
    return Parts(1, ((0, Value(bytes(size), "application/octet-stream")),), End.ENDED)


def test_large_messages_pass_both_ways_whoever_waits_for_whom(pair: Pair) -> None:
    front, channel = pair
    front.send(run(1, 1))
    assert channel.receive() == [run(1, 1)]
    size = 8 * 1024 * 1024
    channel.put(big(size))
    writer = threading.Thread(target=channel.flush)
    writer.start()
    found: list[Message] = []
    while not found:
        found = front.read()
    writer.join(WAIT_S)
    assert found == [big(size)]
    payload = Payload(body=bytes(size), input_type="a/b", output_type="a/b")
    sent = Run(2, ((0, payload),))
    data = front.bytes_of(sent)
    sender = threading.Thread(target=front.sock.sendall, args=(data,))
    sender.start()
    taken: list[Message] = []
    while not taken:
        channel.wait(block=True)
        messages = channel.receive(block=False)
        assert messages is not None
        taken += messages
    sender.join(WAIT_S)
    assert taken == [sent]


def test_waiting_tells_news_a_wake_and_both(pair: Pair) -> None:
    front, channel = pair
    channel.wake()
    channel.wake()
    assert channel.wait(block=True) == (False, True)
    assert channel.wait(block=False) == (False, False)
    front.send(Ask())
    assert channel.wait(block=True) == (True, False)
    channel.wake()
    assert channel.wait(block=True) == (True, True)
    assert channel.receive(block=False) == [Ask()]


def test_a_wait_that_blocks_is_ended_from_another_thread(pair: Pair) -> None:
    _, channel = pair
    waker = threading.Thread(target=channel.wake)
    waker.start()
    assert channel.wait(block=True) == (False, True)
    waker.join(WAIT_S)


def test_a_receive_that_can_be_woken_waits_as_long_as_it_is_told() -> None:
    ours, theirs = plain()
    channel = Channel(theirs, Connection("worker", SECRET, WORKER_NONCE), is_wakeable=True)
    assert channel.wait(block=True, timeout_s=0.01) == (False, False)
    assert channel.receive(timeout_s=0.01) == []
    ours.close()
    assert channel.receive(timeout_s=WAIT_S) is None
    channel.close()


def test_what_is_put_goes_out_with_the_next_flush_only(pair: Pair) -> None:
    front, channel = pair
    front.send(run(1, 1))
    channel.receive()
    channel.put(Parts(1, ((0, None),), End.ENDED))
    channel.put(Bye("stopped", ""))
    front.sock.settimeout(0.0)
    with pytest.raises((BlockingIOError, ssl.SSLWantReadError)):
        front.read()
    front.sock.settimeout(WAIT_S)
    channel.flush()
    channel.flush()
    found = front.read()
    assert found == [Parts(1, ((0, None),), End.ENDED), Bye("stopped", "")]


def test_a_flush_into_a_connection_that_has_ended_says_nothing(pair: Pair) -> None:
    front, channel = pair
    front.send(run(1, 1))
    channel.receive()
    front.sock.close()
    channel.put(Bye("stopped", ""))
    channel.flush()
    channel.flush()
    assert channel.receive() is None


def test_a_breach_of_the_protocol_is_raised(pair: Pair) -> None:
    front, channel = pair
    front.sock.sendall(bytes(64))
    with pytest.raises(ProtocolError):
        channel.receive()
    with pytest.raises(ProtocolError):
        channel.receive(block=False)


class Relay(threading.Thread):
    """Carries bytes from one socket to another, the last of them only when it is told to."""

    def __init__(self, source: socket.socket, target: socket.socket) -> None:
        super().__init__(daemon=True)
        self.source, self.target = source, target
        self.held = b""
        self.holds = False
        self.has_held = threading.Event()

    def run(self) -> None:
        with suppress(OSError):  # the test is over
            while data := self.source.recv(65536):
                self._carry(data)

    def _carry(self, data: bytes) -> None:
        if not self.holds:
            self.target.sendall(data)
            return
        data, self.held = data[:-20], data[-20:]
        self.target.sendall(data)
        self.has_held.set()


def test_a_part_of_a_tls_record_does_not_block(certificate: Path) -> None:
    server = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    server.load_cert_chain(certificate)
    client = ssl.create_default_context(cafile=str(certificate))
    front_raw, front_relay = socket.socketpair()
    worker_relay, worker_raw = socket.socketpair()
    down, up = Relay(front_relay, worker_relay), Relay(worker_relay, front_relay)
    down.start()
    up.start()
    found: list[Any] = []
    accept = threading.Thread(target=lambda: found.append(server.wrap_socket(front_raw, True)))
    accept.start()
    sock = client.wrap_socket(worker_raw, server_hostname="localhost")
    accept.join(WAIT_S)
    channel = Channel(sock, Connection("worker", SECRET, WORKER_NONCE))
    # Whatever else TLS has sent is no message.
    assert channel.receive(block=False) == []
    front = Front(found[0])
    down.holds = True
    front.sock.sendall(b"".join(front.connection.opening()))
    assert down.has_held.wait(WAIT_S)
    channel.wait(block=True)
    assert channel.receive(block=False) == []
    worker_relay.sendall(down.held)
    channel.wait(block=True)
    assert channel.receive(block=False) == []
    [hello] = front.read()
    assert type(hello).__name__ == "Hello"
    for each in (front.sock, front_relay, worker_relay):
        each.shutdown(socket.SHUT_RDWR)
    down.join(WAIT_S)
    up.join(WAIT_S)
    for each in (front.sock, front_relay, worker_relay):
        each.close()
    channel.close()
