"""One timer for all deadlines, at a clock by hand."""

from __future__ import annotations

from collections.abc import Callable
from weakref import WeakKeyDictionary

import pytest
from uvicorn.server import ServerState

from headrace import Limits
from headrace.clock import NEVER, Instant
from headrace.http.sweep import COARSE_S, Sweep
from headrace.testing import ManualClock, ManualLoop
from tests.unit.http.peers import Peers

LIMITS = Limits(head_timeout_s=2.0, body_timeout_s=3.0, keep_alive_s=5.0, write_timeout_s=4.0)


class Asked:
    """Is asked by the sweep, and notes when."""

    def __init__(self, answer: Callable[[Instant], Instant]) -> None:
        self.at: list[Instant] = []
        self._answer = answer

    def overdue(self, now: Instant) -> Instant:
        self.at.append(now)
        return self._answer(now)


class House:
    def __init__(self, *asked: Asked) -> None:
        self.clock = ManualClock()
        self.loop = ManualLoop(self.clock)
        self.asked = set(asked)
        self.sweep = Sweep(LIMITS, loop=self.loop, connections=self.asked, clock=self.clock)


def test_the_grain_is_a_tenth_of_the_shortest_wait_and_a_second_at_most() -> None:
    house = House()
    assert house.sweep.grain_s == pytest.approx(0.2)
    assert Sweep(Limits(), loop=house.loop, connections=()).grain_s == COARSE_S


def test_it_asks_at_the_earliest_instant_that_was_named_and_late_by_its_grain_at_most() -> None:
    asked = Asked(lambda now: NEVER)
    house = House(asked)
    for due in (5.0, 2.0, 3.0):
        house.sweep.expect(due)
    house.loop.advance(1.99)
    assert asked.at == []
    house.loop.advance(0.21)
    [at] = asked.at
    assert 2.0 <= at <= 2.0 + house.sweep.grain_s
    house.loop.advance(100.0)
    assert len(asked.at) == 1, "nobody wanted to be asked again"


def test_it_asks_again_when_the_most_urgent_wants_it() -> None:
    slow, quick = Asked(lambda now: now + 50.0), Asked(lambda now: now + 2.0)
    house = House(slow, quick)
    house.sweep.expect(1.0)
    house.loop.advance(9.9)
    assert slow.at == quick.at
    assert 3 <= len(slow.at) <= 5


def test_one_that_is_overdue_for_ever_does_not_keep_it_busy() -> None:
    asked = Asked(lambda now: now - 1.0)
    house = House(asked)
    house.sweep.expect(0.0)
    house.loop.advance(10.0)
    assert len(asked.at) <= 10.0 / (house.sweep.grain_s / 2) + 1


def test_an_instant_in_the_past_is_due_now() -> None:
    asked = Asked(lambda now: NEVER)
    house = House(asked)
    house.clock.advance(10.0)
    house.sweep.expect(1.0)
    house.loop.advance(house.sweep.grain_s)
    assert len(asked.at) == 1


def test_one_that_leaves_while_others_are_asked_harms_none() -> None:
    def leave(now: Instant) -> Instant:
        house.asked.clear()
        return NEVER

    house = House(Asked(leave), Asked(leave))
    everybody = list(house.asked)
    house.sweep.expect(1.0)
    house.loop.advance(2.0)
    assert [len(one.at) for one in everybody] == [1, 1]


def test_two_servers_of_one_class_have_a_sweep_each() -> None:
    with Peers(limits=LIMITS, fast=False) as peers:
        first = peers.connect()
        second = peers.connect(state=ServerState())
        assert first.connection.sweep is not second.connection.sweep
        assert peers.connect().connection.sweep is first.connection.sweep
        peers.loop.advance(3.0)
        assert first.is_closed and second.is_closed


def test_the_sweep_of_a_server_goes_with_it() -> None:
    with Peers(fast=False) as peers:
        sweeps = peers.protocol.sweeps
        assert isinstance(sweeps, WeakKeyDictionary)
        state = ServerState()
        peer = peers.connect(state=state)
        assert len(sweeps) == 1
        peer.reset()
        del state, peer.connection
        assert len(sweeps) == 0
