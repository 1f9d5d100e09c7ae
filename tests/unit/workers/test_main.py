"""A worker's life in a process of its own: what it says, and the code that it exits with."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from headrace.config import Workers
from headrace.executors.launcher import Launch, Worker
from headrace.wire import Bye, Cards, Connection, Drain, End, Message, Parts, Ready, Setup, Stats
from headrace.workers.exits import Exit
from tests.unit.executors.targets import FOLDER
from tests.unit.wire.driver import FRONT_NONCE
from tests.unit.workers.driver import WAIT_S, answer, run

OBEYING = "tests.unit.executors.targets:Obeying"


class Front:
    """The front's end of a real worker."""

    def __init__(self, target: str, setup: Setup, secret: bytes | None) -> None:
        self.worker = Worker(target, 0, 1, Launch(Workers()))
        self.sock = self.worker.share_socket()
        self.sock.settimeout(WAIT_S)
        secret = secret or self.worker.secret
        self.connection = Connection("front", secret, FRONT_NONCE, setup=setup)
        self.sock.sendall(b"".join(self.connection.opening()))

    def send(self, *messages: Message) -> None:
        self.sock.sendall(b"".join(c for m in messages for c in self.connection.send(m)))

    def until(self, kind: type[Message]) -> list[Message]:
        """All that comes, up to such a message."""
        found: list[Message] = []
        while not any(isinstance(message, kind) for message in found):
            size = self.sock.recv_into(self.connection.get_buffer())
            assert size, f"the connection ended after {found}"
            found += self.connection.received(size)
            if outgoing := self.connection.take_outgoing():
                self.sock.sendall(b"".join(outgoing))
        return found

    def exit_code(self) -> int | None:
        assert self.worker.wait(WAIT_S), "the worker goes on"
        return self.worker.exit_code()

    def close(self) -> None:
        self.sock.close()
        self.worker.kill()
        assert self.worker.wait(WAIT_S)
        self.worker.close()


Begin = Callable[..., Front]


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv(FOLDER, str(tmp_path))
    return tmp_path


@pytest.fixture
def begin() -> Iterator[Begin]:
    """Starts a worker; all that were are stopped after the test."""
    fronts: list[Front] = []

    def start(
        target: str = OBEYING, setup: Setup | None = None, secret: bytes | None = None
    ) -> Front:
        fronts.append(Front(target, setup or Setup(), secret))
        return fronts[-1]

    yield start
    for front in fronts:
        front.close()


def test_it_tells_its_card_before_it_loads_and_then_that_it_is_ready(begin: Begin) -> None:
    front = begin()
    front.until(Ready)
    front.send(run(1, 4, 5), Drain())
    said = front.until(Bye)
    parts = [part for each in said if isinstance(each, Parts) for part in each.parts]
    assert [answer(outcome) for _, outcome in parts] == [8, 10]
    assert said[-1] == Bye("stopped", "")
    assert front.exit_code() == Exit.STOPPED


def test_it_serves_the_model_that_it_is_asked_for(begin: Begin) -> None:
    front = begin("tests.unit.executors.targets:BOTH", Setup(model="obeying"))
    [cards] = [each for each in front.until(Cards) if isinstance(each, Cards)]
    assert cards.cards[cards.serves].name == "obeying"
    assert [card.name for card in cards.cards] == ["looking", "obeying"]


@pytest.mark.parametrize(
    ("target", "setup", "reason"),
    [
        ("tests.nowhere", Setup(), "nowhere"),
        ("tests.unit.executors.targets:Nobody", Setup(), "Nobody"),
        (OBEYING, Setup(model="other"), "there is no model other"),
        (OBEYING, Setup(batching={"max_batch_size": -1}), "max_batch_size"),
    ],
)
def test_what_cannot_be_served_is_told_with_its_reason(
    begin: Begin, target: str, setup: Setup, reason: str
) -> None:
    front = begin(target, setup)
    bye = front.until(Bye)[-1]
    assert isinstance(bye, Bye) and bye.code == "config"
    assert reason in bye.reason
    assert front.exit_code() == Exit.CONFIG


def test_a_load_that_fails_is_told_with_its_reason(begin: Begin, folder: Path) -> None:
    (folder / "load raises").touch()
    front = begin()
    said = front.until(Bye)
    assert [type(each) for each in said if not isinstance(each, Stats)][-2:] == [Cards, Bye]
    assert said[-1] == Bye("load_failed", "load raised OSError: no weights")
    assert front.exit_code() == Exit.LOAD_FAILED


@pytest.mark.parametrize(
    ("numbers", "ends"), [((4,), [End.SET_ASIDE, End.ENDED]), ((4, 5), [End.SET_ASIDE])]
)
def test_one_that_fails_on_its_own_example_says_so_and_ends(
    begin: Begin, folder: Path, numbers: tuple[int, ...], ends: list[End]
) -> None:
    """It answers an item that was alone; of several the next worker tells which it was."""
    front = begin()
    front.until(Ready)
    (folder / "broken").touch()
    front.send(run(1, *numbers))
    said = front.until(Bye)
    assert [each.end for each in said if isinstance(each, Parts)] == ends
    bye = said[-1]
    assert isinstance(bye, Bye) and bye.code == "broken"
    assert bye.reason.endswith("and so did it on its own example")
    assert front.exit_code() == Exit.BROKEN


@pytest.mark.parametrize("when", ["at once", "ready"])
def test_a_front_that_has_gone_ends_it(begin: Begin, when: str) -> None:
    front = begin()
    if when == "ready":
        front.until(Ready)
    front.worker.hang_up()
    assert front.exit_code() == Exit.FRONT_LOST


@pytest.mark.parametrize("when", ["at once", "ready"])
def test_a_front_that_breaks_the_protocol_ends_it(begin: Begin, when: str) -> None:
    front = begin()
    if when == "ready":
        front.until(Ready)
    front.sock.sendall(bytes(64))
    assert front.exit_code() == Exit.PROTOCOL


def test_a_front_that_does_not_know_the_secret_learns_nothing(begin: Begin) -> None:
    """Its own end would refuse the worker's proof, so its bytes are made here."""
    front = begin()
    front.sock.recv_into(buffer := bytearray(65536))
    forged = Connection("front", b"another secret", FRONT_NONCE)
    worker = Connection("worker", b"another secret", os.urandom(32))
    for sender, receiver in ((forged.opening(), worker), (None, forged)):
        data = b"".join(sender if sender is not None else worker.take_outgoing())
        receiver.get_buffer()[: len(data)] = data
        receiver.received(len(data))
    front.sock.sendall(b"".join(forged.take_outgoing()))
    assert front.exit_code() == Exit.PROTOCOL
    assert front.sock.recv(1) == b""
    assert any(buffer)


def test_it_ends_when_the_front_says_bye(begin: Begin) -> None:
    front = begin()
    front.until(Ready)
    front.send(Bye("stopped", ""))
    assert front.exit_code() == Exit.STOPPED


def test_being_drained_before_it_is_ready_it_still_parts_in_peace(begin: Begin) -> None:
    front = begin()
    front.until(Cards)
    front.send(Drain())
    assert front.until(Bye)[-1] == Bye("stopped", "")
    assert front.exit_code() == Exit.STOPPED
