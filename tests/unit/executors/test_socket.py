"""A peer and its executor on a real loop, with the test as the worker's end of the socket."""

from __future__ import annotations

import asyncio
import logging
import socket
from collections.abc import Callable, Coroutine, Sequence
from typing import Any

import pytest
import uvloop

from headrace.batching import Batch, Cut, Item
from headrace.call import Payload, Value
from headrace.errors import ProtocolError
from headrace.executors import Executor
from headrace.executors.socket import MAX_UNASKED, Owner, Peer, SocketExecutor, Usage
from headrace.testing import ManualClock
from headrace.wire import (
    Ask,
    Bye,
    Cancel,
    Cards,
    Connection,
    Drain,
    End,
    Family,
    FrameLimits,
    Message,
    Parts,
    Ready,
    Run,
    Sample,
    Started,
    Stats,
)
from tests.contract.record import WAIT_S, Record
from tests.unit.wire.driver import CARD, FRONT_NONCE, SECRET, WORKER_NONCE

LOOPS: dict[str, Callable[[], asyncio.AbstractEventLoop]] = {
    "asyncio": asyncio.new_event_loop,
    "uvloop": uvloop.new_event_loop,
}

MOST = 16 * 1024 * 1024
"""Bytes of bodies in a frame to the worker."""


class Owning(SocketExecutor):
    """An executor of one peer that writes down what it is told."""

    def __init__(self) -> None:
        self.metered: list[tuple[str, Sequence[Family]]] = []
        super().__init__(self)
        self.told: list[tuple[Any, ...]] = []
        self.changed = asyncio.Event()
        self.raised_when_ready: ProtocolError | None = None

    def tell(self, *told: Any) -> None:
        self.told.append(told)
        self.changed.set()

    async def until(self, what: str) -> tuple[Any, ...]:
        async with asyncio.timeout(WAIT_S):
            while not (found := [told for told in self.told if told[0] == what]):
                self.changed.clear()
                await self.changed.wait()
        return found[0]

    def carded(self, peer: Peer, cards: Cards) -> None:
        self.tell("carded", cards)

    def proven(self, peer: Peer) -> None:
        self.tell("proven")

    def is_ready(self, peer: Peer) -> None:
        self.tell("ready")
        if self.raised_when_ready is not None:
            raise self.raised_when_ready

    def broken(self, peer: Peer, reason: str) -> None:
        self.tell("broken", reason)

    def batch_ended(self, peer: Peer, batch: Batch) -> None:
        self.tell("batch_ended", batch.id)

    def disconnected(self, peer: Peer, error: Exception | None) -> None:
        self._forget(peer)
        self.tell("disconnected", peer.error)

    # What it is told as its own `Metrics`

    def update(self, replica: str, life: int, families: Sequence[Family]) -> None:
        self.metered.append((replica, families))
        self.tell("metered")

    def ended(self, life: int) -> None:
        self.tell("ended", life)


class House:
    """A peer with its owner, and the other end of its connection."""

    def __init__(self) -> None:
        self.clock = ManualClock()
        self.owner = Owning()
        self.record = Record()
        limits = FrameLimits(max_payload_bytes=MOST)
        connection = Connection("front", SECRET, FRONT_NONCE, limits)
        owner: Owner = self.owner
        self.peer = Peer(3, connection, owner, self.clock)
        self.peer.events = self.record
        self.owner.peers[3] = self.peer
        ours, self.sock = socket.socketpair()
        self.sock.setblocking(False)
        self._ours = ours
        self.worker = Connection("worker", SECRET, WORKER_NONCE)
        self.inbox: list[Message] = []

    async def connect(self) -> None:
        loop = asyncio.get_running_loop()
        await loop.create_unix_connection(lambda: self.peer, sock=self._ours)

    async def prove(self) -> None:
        await self.connect()
        await self.read()
        await self.read()

    async def get_ready(self) -> None:
        await self.prove()
        await self.say(Cards((CARD,), 0), Ready())
        await self.owner.until("ready")

    async def read(self) -> list[Message]:
        """What one read of the worker brings."""
        loop = asyncio.get_running_loop()
        async with asyncio.timeout(WAIT_S):
            size = await loop.sock_recv_into(self.sock, self.worker.get_buffer())
        messages = self.worker.received(size)
        await self.write(self.worker.take_outgoing())
        return messages

    async def next(self) -> Message:
        """The next message that the worker takes."""
        while not self.inbox:
            self.inbox += await self.read()
        return self.inbox.pop(0)

    async def say(self, *messages: Message) -> None:
        await self.write([chunk for message in messages for chunk in self.worker.send(message)])

    async def write(self, chunks: Sequence[Any]) -> None:
        loop = asyncio.get_running_loop()
        async with asyncio.timeout(WAIT_S):
            await loop.sock_sendall(self.sock, b"".join(chunks))

    async def close(self) -> None:
        self.sock.close()
        if "disconnected" not in [told[0] for told in self.owner.told]:
            await self.owner.until("disconnected")


Test = Callable[[House], Coroutine[Any, Any, None]]


@pytest.fixture(params=LOOPS)
def drive(request: pytest.FixtureRequest) -> Callable[[Test], None]:
    """Runs a test on a loop of each kind."""

    async def main(test: Test) -> None:
        house = House()
        try:
            await test(house)
        finally:
            await house.close()

    def run(test: Test) -> None:
        with asyncio.Runner(loop_factory=LOOPS[request.param]) as runner:
            runner.run(main(test))

    return run


Drive = Callable[[Test], None]


def batch_of(number: int, size: int, body: bytes = b"1") -> Batch:
    payload = Payload(body=body, input_type="application/json", output_type="application/json")
    items = [Item(payload, number=n) for n in range(size)]
    return Batch(number, 3, 0, items, Cut.FULL, 0.0)


def parts_of(batch: Batch, end: End = End.ENDED) -> Parts:
    value = Value(b"2", "application/json")
    return Parts(batch.id, tuple((n, value) for n in range(len(batch.items))), end)


def test_the_owner_is_told_how_a_worker_gets_ready(drive: Drive) -> None:
    async def test(house: House) -> None:
        await house.prove()
        await house.owner.until("proven")
        assert not house.peer.is_known
        await house.say(Cards((CARD,), 0))
        assert await house.owner.until("carded") == ("carded", Cards((CARD,), 0))
        assert house.peer.is_known and house.peer.card == CARD
        await house.say(Ready())
        await house.owner.until("ready")
        assert house.record.events == []

    drive(test)


def test_a_batch_goes_there_and_its_answers_come_back(drive: Drive) -> None:
    async def test(house: House) -> None:
        await house.get_ready()
        batch = batch_of(7, 3)
        house.owner.start(batch)
        run = await house.next()
        assert isinstance(run, Run)
        assert [*run.items] == [(n, item.payload) for n, item in enumerate(batch.items)]
        await house.say(Started(7), parts_of(batch))
        await house.record.until("ended", 7)
        kinds = [event[0] for event in house.record.events]
        assert kinds == ["started", "part", "part", "part", "ended"]
        assert ("batch_ended", 7) in house.owner.told
        assert house.peer.batches == {}

    drive(test)


def test_a_batch_set_aside_is_told_and_stays_the_workers(drive: Drive) -> None:
    async def test(house: House) -> None:
        await house.get_ready()
        batch = batch_of(7, 1)
        house.owner.start(batch)
        await house.next()
        await house.say(Started(7), Parts(7, (), End.SET_ASIDE))
        await house.record.until("set_aside", 7)
        assert house.peer.batches == {7: batch}
        await house.say(Started(7), Parts(7, ((0, None),), End.ENDED))
        await house.record.until("ended", 7)
        assert house.record.of("part") == [], "nobody wanted it"

    drive(test)


def test_what_an_item_has_left_until_its_deadline_goes_along(drive: Drive) -> None:
    async def test(house: House) -> None:
        await house.get_ready()
        house.clock.now = 100.0
        batch = batch_of(7, 3)
        batch.items[0].deadline = 101.5
        batch.items[1].deadline = 99.0
        house.owner.start(batch)
        run = await house.next()
        assert isinstance(run, Run)
        assert run.left_s == {0: 1.5, 1: 0.0}

    drive(test)


def test_an_item_is_cancelled_only_while_its_batch_is_there(drive: Drive) -> None:
    async def test(house: House) -> None:
        await house.get_ready()
        batch, other = batch_of(7, 2), batch_of(8, 1)
        house.owner.cancel(other, 0)
        house.owner.start(batch)
        house.owner.cancel(batch, 1)
        house.peer.drain()
        run = await house.next()
        assert isinstance(run, Run) and run.batch == 7
        assert [await house.next(), await house.next()] == [Cancel(7, 1), Drain()]

    drive(test)


def test_usage_counts_the_time_with_a_batch_and_the_bytes(drive: Drive) -> None:
    async def test(house: House) -> None:
        await house.get_ready()
        before = house.owner.usage
        assert before.busy_s == 0.0 and before.sent_bytes > 0 and before.received_bytes > 0
        first, second = batch_of(1, 1), batch_of(2, 1)
        house.clock.now = 10.0
        house.owner.start(first)
        house.clock.now = 12.0
        house.owner.start(second)
        assert house.owner.usage.busy_s == 2.0
        await house.next()
        await house.next()
        house.clock.now = 15.0
        await house.say(Started(1), parts_of(first))
        await house.record.until("ended", 1)
        assert house.owner.usage.busy_s == 5.0
        await house.say(Started(2), parts_of(second))
        await house.record.until("ended", 2)
        house.clock.now = 99.0
        usage = house.owner.usage
        assert usage.busy_s == 5.0
        assert usage.sent_bytes == house.worker.received_bytes
        assert usage.received_bytes == house.worker.sent_bytes

    drive(test)


def test_what_a_worker_has_done_counts_after_its_end(drive: Drive) -> None:
    async def test(house: House) -> None:
        await house.get_ready()
        house.owner.start(batch_of(1, 1))
        house.clock.now += 4.0
        usage = house.owner.usage
        house.sock.close()
        await house.owner.until("disconnected")
        assert house.owner.peers == {}
        house.clock.now += 4.0
        assert house.owner.usage == usage
        assert usage.busy_s == 4.0
        assert ("ended", house.peer.life) in house.owner.told

    drive(test)


def test_usages_add_up() -> None:
    assert Usage(1.5, 2, 3).plus(Usage(0.5, 10, 20)) == Usage(2.0, 12, 23)


FAMILIES = (Family("n", "gauge", "", "", (Sample("n", {}, 1.0),)),)


def test_a_refresh_waits_for_the_workers_metrics(drive: Drive) -> None:
    async def test(house: House) -> None:
        await house.get_ready()
        refresh = asyncio.ensure_future(house.owner.refresh(WAIT_S))
        await house.next()
        assert not refresh.done()
        await house.say(Stats(FAMILIES))
        await refresh
        assert house.owner.metered == [("m/3", FAMILIES)]

    drive(test)


def test_who_is_late_is_not_waited_for_and_is_asked_again_once_it_has_answered(
    drive: Drive,
) -> None:
    async def test(house: House) -> None:
        await house.get_ready()
        for _ in range(3):
            await house.owner.refresh(0.0)
        assert house.owner.metered == []
        refresh = asyncio.ensure_future(house.owner.refresh(WAIT_S))
        assert await house.next() == Ask()
        await house.say(Stats(()))
        await refresh
        refresh = asyncio.ensure_future(house.owner.refresh(WAIT_S))
        assert await house.next() == Ask(), "the first four were one"
        await house.say(Stats(FAMILIES))
        await refresh
        assert [families for _, families in house.owner.metered] == [(), FAMILIES]

    drive(test)


def test_a_refresh_ends_with_the_connection(drive: Drive) -> None:
    async def test(house: House) -> None:
        await house.get_ready()
        refresh = asyncio.ensure_future(house.owner.refresh(WAIT_S))
        await house.next()
        house.sock.close()
        await refresh

    drive(test)


def test_a_refresh_asks_nobody_who_has_not_told_his_card(drive: Drive) -> None:
    async def test(house: House) -> None:
        await house.owner.refresh(WAIT_S)
        await house.prove()
        await house.owner.refresh(WAIT_S)

    drive(test)


def test_a_worker_that_is_broken_says_why(drive: Drive) -> None:
    async def test(house: House) -> None:
        await house.get_ready()
        await house.say(Bye("broken", "it fails on its own example"))
        await house.owner.until("broken")
        assert ("broken", "broken: it fails on its own example") in house.owner.told
        assert house.peer.bye == Bye("broken", "it fails on its own example")

    drive(test)


@pytest.mark.parametrize("when", ["at once", "proven", "ready"])
def test_a_breach_of_the_protocol_ends_the_connection(
    drive: Drive, when: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)

    async def test(house: House) -> None:
        steps = {"at once": house.connect, "proven": house.prove, "ready": house.get_ready}
        await steps[when]()
        await house.write([b"GET / HTTP/1.1\r\n\r\n" + bytes(64)])
        _, error = await house.owner.until("disconnected")
        assert error is house.peer.error is not None
        assert not house.peer.is_known
        # Whatever is asked of it now, it is gone.
        house.peer.run(batch_of(9, 1))
        house.peer.drain()
        house.peer.abort()

    drive(test)
    [level] = [each.levelno for each in caplog.records if "broke the protocol" in each.message]
    assert level == (logging.DEBUG if when == "at once" else logging.ERROR)


def test_an_answer_to_what_was_not_asked_is_a_breach(drive: Drive) -> None:
    async def test(house: House) -> None:
        await house.get_ready()
        batch = batch_of(1, 1)
        house.owner.start(batch)
        await house.next()
        await house.say(Started(1), parts_of(batch))
        await house.record.until("ended", 1)
        # Its own end would not let it say so once more.
        again = Connection("worker", SECRET, WORKER_NONCE)
        again.state, again._ledger = house.worker.state, house.worker._ledger
        again._ledger.book(Run(1, ((0, batch.items[0].payload),)), "local")
        await house.write(again.send(parts_of(batch)))
        _, error = await house.owner.until("disconnected")
        assert "batch 1 is not open" in str(error)
        assert len(house.record.of("ended")) == 1

    drive(test)


@pytest.mark.parametrize("message", [Stats(()), Parts(1, ())], ids=["statistics", "no answers"])
def test_a_worker_that_goes_on_with_what_nobody_asked_for_is_dropped(
    drive: Drive, message: Message
) -> None:
    async def test(house: House) -> None:
        await house.get_ready()
        house.owner.start(batch_of(1, 1))
        await house.next()
        await house.say(*[message] * MAX_UNASKED)
        asked = asyncio.ensure_future(house.owner.refresh(WAIT_S))
        await house.next()
        await house.say(Stats(()))  # what was asked for does not count
        await asked
        assert house.peer.error is None
        await house.say(message)
        _, error = await house.owner.until("disconnected")
        assert "what it was not asked for" in str(error)

    drive(test)


def test_a_flood_of_junk_does_not_keep_the_loop(drive: Drive) -> None:
    async def test(house: House) -> None:
        await house.connect()
        junk = bytes(1024 * 1024)
        turns = 0
        with pytest.raises(OSError):
            while True:
                await house.write([junk])
                turns += 1
        assert turns <= 1, "the first of it ends the connection"
        await house.owner.until("disconnected")
        assert house.owner.usage.received_bytes <= 256 * 1024

    drive(test)


def test_a_worker_that_does_not_read_does_not_keep_the_front(drive: Drive) -> None:
    async def test(house: House) -> None:
        await house.get_ready()
        body = bytes(1024 * 1024)
        batches = [batch_of(n, 8, body) for n in (1, 2)]
        for batch in batches:
            house.owner.start(batch)
        house.owner.cancel(batches[1], 0)
        assert house.owner.usage.sent_bytes > 16 * len(body)
        for batch in batches:
            run = await house.next()
            assert isinstance(run, Run) and run.batch == batch.id and len(run.items) == 8
        assert await house.next() == Cancel(2, 0)

    drive(test)


def test_a_batch_that_cannot_be_sent_is_not_the_workers(drive: Drive) -> None:
    async def test(house: House) -> None:
        await house.get_ready()
        house.clock.now = 10.0
        with pytest.raises(ProtocolError, match="bytes of bodies"):
            house.owner.start(batch_of(1, 1, bytes(MOST + 1)))
        house.clock.now = 12.0
        assert (house.peer.batches, house.owner.usage.busy_s) == ({}, 0.0)
        house.owner.start(batch_of(2, 1))
        run = await house.next()
        assert isinstance(run, Run) and run.batch == 2

    drive(test)


def test_what_cannot_be_sent_is_no_breach_of_the_workers(
    drive: Drive, caplog: pytest.LogCaptureFixture
) -> None:
    async def test(house: House) -> None:
        house.owner.raised_when_ready = ProtocolError("it cannot be written", side="local")
        await house.prove()
        batch = batch_of(1, 1)
        await house.say(Cards((CARD,), 0), Ready(), Stats(FAMILIES))
        await house.owner.until("metered")
        assert house.peer.error is None
        house.owner.start(batch)
        await house.next()
        await house.say(Started(1), parts_of(batch))
        await house.record.until("ended", 1)
        assert [r.message for r in caplog.records] == ["a message to a worker could not be sent"]

    drive(test)


def test_a_breach_that_the_owner_finds_ends_the_connection(drive: Drive) -> None:
    async def test(house: House) -> None:
        house.owner.raised_when_ready = ProtocolError("it lies", side="remote")
        await house.prove()
        await house.say(Cards((CARD,), 0), Ready())
        _, error = await house.owner.until("disconnected")
        assert error is house.owner.raised_when_ready

    drive(test)


def test_nothing_is_told_once_there_is_no_engine(drive: Drive) -> None:
    async def test(house: House) -> None:
        await house.get_ready()
        batch = batch_of(1, 1)
        house.owner.start(batch)
        await house.next()
        house.peer.events = None
        await house.say(Started(1), parts_of(batch), Bye("broken", ""))
        await house.owner.until("broken")
        assert house.record.events == []
        assert house.peer.batches == {}
        assert house.owner.usage.busy_s == 0.0

    drive(test)


def test_a_batch_for_a_worker_that_has_just_gone_is_kept_for_its_end(drive: Drive) -> None:
    async def test(house: House) -> None:
        await house.get_ready()
        house.peer.abort()
        batch = batch_of(1, 1)
        house.owner.start(batch)
        await house.owner.until("disconnected")
        assert house.peer.batches == {1: batch}

    drive(test)


def test_it_is_most_of_an_executor() -> None:
    missing = {name for name in vars(Executor) if not name.startswith("_")} - set(dir(Owning))
    assert missing == {"open", "replace", "close", "join"}
