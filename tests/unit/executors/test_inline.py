"""The inline executor's watchdog: real time, as what it watches is the thread that is stuck."""

from __future__ import annotations

import asyncio
import socket
import threading
import time
from typing import Any, ClassVar

import pytest

from headrace import Model
from headrace.batching import Batch, Cut, Item, State
from headrace.call import Payload
from headrace.executors import InlineExecutor
from headrace.executors.inline import STUCK_S
from headrace.replica import Replica
from headrace.testing import ManualClock, ManualLoop
from tests.contract.record import WAIT_S, Record


class Stuck(Model):
    """Is stuck in predict, once it is told to, until it is released; or fails."""

    examples: ClassVar = [0]

    def __init__(self) -> None:
        self.is_stuck = False
        self.fails = False
        self.released = threading.Event()

    def predict(self, batch: list[int]) -> list[int]:
        if self.is_stuck:
            assert self.released.wait(WAIT_S), "the watchdog did not bark"
        if self.fails:
            raise RuntimeError("told to")
        return batch


class House:
    def __init__(self, timeout_s: float) -> None:
        self.model = Stuck()
        self.hung: list[str] = []
        self.loop = ManualLoop(ManualClock())
        before = set(threading.enumerate())
        self.executor = InlineExecutor(
            lambda: Replica(self.model),
            loop=self.loop,
            predict_timeout_s=timeout_s,
            on_hung=self._on_hung,
        )
        [self.watchdog] = set(threading.enumerate()) - before
        self.record = Record()
        self.executor.open(self.record)
        self.loop.run()
        assert self.record.of("ready")

    def run_batch(self) -> None:
        payload = Payload(body=b"1", input_type="application/json", output_type="application/json")
        self.executor.start(Batch(1, 0, 0, [Item(payload, number=1)], Cut.FULL, 0.0))
        self.loop.run()

    def close(self) -> None:
        self.executor.close()
        self.watchdog.join(WAIT_S)
        assert not self.watchdog.is_alive()

    def _on_hung(self) -> None:
        self.hung.append(threading.current_thread().name)
        self.model.released.set()


def test_a_batch_that_does_not_end_is_told_on_another_thread() -> None:
    house = House(timeout_s=0.05)
    house.model.is_stuck = True
    house.run_batch()
    assert house.hung == [house.watchdog.name]
    house.close()


def test_a_canary_that_does_not_end_is_told_too() -> None:
    house = House(timeout_s=0.05)
    house.model.fails = True
    house.run_batch()
    assert house.hung == [] and house.record.of("unready")
    house.model.is_stuck = True
    house.loop.advance(0.5)
    assert len(house.hung) == 1
    house.close()


def test_batches_that_end_in_time_are_never_told_however_many() -> None:
    house = House(timeout_s=WAIT_S)
    for _ in range(200):
        house.run_batch()
    house.close()
    assert house.hung == []


def test_a_broken_model_is_tried_again_ever_more_rarely() -> None:
    tries: list[Any] = []

    class Broken(Model):
        examples: ClassVar = [0]

        def predict(self, batch: list[int]) -> list[int]:
            tries.append(clock.now)
            if len(tries) > 2:
                raise RuntimeError("for good")
            return batch

    clock = ManualClock()
    loop = ManualLoop(clock)
    executor = InlineExecutor(lambda: Replica(Broken()), loop=loop, clock=clock)
    executor.open(Record())
    loop.run()
    payload = Payload(body=b"1", input_type="application/json", output_type="application/json")
    executor.start(Batch(1, 0, 0, [Item(payload, number=1)], Cut.FULL, 0.0))
    loop.advance(100.0)
    # The warm-up's two, the batch, its canary, and then the tries.
    assert tries[4:] == pytest.approx([0.5, 1.5, 3.5, 7.5, 15.5, 31.5, 61.5, 91.5])
    executor.close()
    loop.advance(100.0)
    assert len(tries) == 12, "nothing is tried after the end"


def test_what_has_expired_while_the_loop_was_stuck_is_not_run() -> None:
    ran: list[list[int]] = []
    clock = ManualClock()
    loop = ManualLoop(clock)

    class Slow(Model):
        def predict(self, batch: list[int]) -> list[int]:
            ran.append(batch)
            clock.now += 1.0
            return batch

    executor = InlineExecutor(lambda: Replica(Slow()), loop=loop, clock=clock)
    executor.open(Record())
    loop.run()
    ran.clear()
    for number, deadlines in enumerate([(9.0, 9.0), (0.5, 9.0)], 1):
        items = [
            Item(
                Payload(
                    body=b"%d" % deadline,
                    input_type="application/json",
                    output_type="application/json",
                ),
                deadline=clock.now + deadline,
                number=number,
            )
            for deadline in deadlines
        ]
        executor.start(Batch(number, 0, 0, items, Cut.FULL, 0.0))
    loop.run()
    executor.close()
    assert ran == [[9, 9], [9]]


def test_between_two_batches_the_loop_reads_who_has_gone() -> None:
    ran: list[list[int]] = []
    ours, theirs = socket.socketpair()

    class Noted(Model):
        def predict(self, batch: list[int]) -> list[int]:
            ran.append(batch)
            if batch == [1]:
                theirs.send(b"!")
                time.sleep(2 * STUCK_S)
            return batch

    first, gone, stays = (
        Item(Payload(body=body, input_type="application/json", output_type="application/json"))
        for body in (b"1", b"2", b"3")
    )

    def news() -> None:
        ours.recv(1)
        gone.state = State.CANCELLED

    async def serve() -> None:
        loop = asyncio.get_running_loop()
        loop.add_reader(ours, news)
        executor = InlineExecutor(lambda: Replica(Noted()), loop=loop)
        record = Record()
        executor.open(record)
        await record.until("ready", 0)
        for batch in (
            Batch(1, 0, 0, [first], Cut.FULL, 0.0),
            Batch(2, 0, 1, [gone, stays], Cut.FULL, 0.0),
        ):
            executor.start(batch)
        await record.until("ended", 2)
        loop.remove_reader(ours)
        executor.close()

    with ours, theirs:
        asyncio.run(serve())
    assert ran[-2:] == [[1], [3]]
