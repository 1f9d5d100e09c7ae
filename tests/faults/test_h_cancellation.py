"""Clients that go, at each stage of their request, over every executor, way and face.

The model's own journal proves that nothing more is done for them, and that whoever shared a batch
with them is answered all the same.
"""

from __future__ import annotations

import random
import time
from collections import Counter
from collections.abc import Sequence

import pytest

from tests.e2e.conftest import Wire, eventually
from tests.faults.contract import LATE_S, LoggedWire
from tests.faults.defences import without
from tests.faults.stages import (
    CELLS,
    ISOLATING,
    MANY,
    ONE,
    WITH_WORKERS,
    Cell,
    cells,
    headrace_cell,
)

pytestmark = pytest.mark.slow

PROMISED_S = 0.05
"""How soon nothing more is done for a client that is gone."""
RESTARTS = "replica_restarts_total"


def leave(cell: Cell, wires: Sequence[Wire]) -> None:
    """They go, in one way and the other; the server has heard of it if it can hear anything.

    One whose model runs on its loop hears of all at once when the call ends: of a reset, before
    anything else runs; of a mere end, which may be a client that still reads, after a moment.
    """
    gone = "http_disconnects_total"
    before = cell.metric(gone) if cell.tells and not cell.is_blocking else 0
    began = time.monotonic()
    for place, wire in enumerate(wires):
        if place % 2 or cell.is_blocking:
            LoggedWire.reset(wire)  # type: ignore[arg-type]  # of any wire
        else:
            wire.socket.close()
    if cell.tells and not cell.is_blocking:
        eventually(lambda: cell.metric(gone) == before + len(wires), "the news")
        assert time.monotonic() - began <= PROMISED_S + LATE_S, "the news came late"
    time.sleep(PROMISED_S)


def check(cell: Cell, wires: dict[int, Wire], left: Sequence[int], after: int) -> None:
    """Who stayed is answered rightly; who left is in no call behind the first `after` ones."""
    for n, wire in wires.items():
        if n not in left:
            assert cell.value(wire.answer()) == 2 * n
    cell.settle()
    again = {n for call in cell.calls()[after:] for n in call} & set(left)
    assert not again, "what nobody waits for is run"
    cell.check_free()


@pytest.mark.row("H1", "F2")
@cells(CELLS)
def test_who_leaves_while_it_waits_or_runs(cell: Cell) -> None:
    """Of twelve, four run, four are with the worker or at hand, and four in the queue."""
    wires = dict(zip(cell.numbers(3 * ONE), cell.connect(3 * ONE), strict=True))
    blocker, place = cell.block()
    for n, wire in wires.items():
        wire.send(cell.request(n, step=True))
    cell.wait_admitted(1 + len(wires))
    cell.go_on(place)
    running = cell.call(place + 1)
    assert len(running) == ONE
    waiting = [n for n in wires if n not in running]
    left = [
        *random.sample(running, 1),
        *random.sample(waiting[:ONE], ONE - 1),
        *random.sample(waiting[ONE:], ONE - 1),
    ]
    leave(cell, [wires[n] for n in left])
    cell.go_on(place + 1, place + MANY)
    cell.value(blocker.answer())
    check(cell, wires, left, place + 1)
    calls = Counter(n for call in cell.calls()[place:] for n in call)
    assert all(calls[n] == 1 for n in wires if n not in left or n in running)


@pytest.mark.row("H1", "F2")
@cells(ISOLATING)
def test_who_leaves_while_its_batch_is_taken_apart(cell: Cell) -> None:
    wires = dict(zip(cell.numbers(ONE), cell.connect(ONE), strict=True))
    blocker, place = cell.block()
    guilty = list(wires)[-1]
    for n, wire in wires.items():
        wire.send(cell.request(n, step=True, do="raise" if n == guilty else ""))
    cell.wait_admitted(1 + ONE)
    cell.go_on(place, place + 1)
    assert sorted(cell.call(place + 1)) == list(wires)
    half = cell.call(place + 2)
    other = [n for n in wires if n not in half]
    left = [n for n in other if n != guilty]
    assert len(half) == ONE // 2 and left
    leave(cell, [wires[n] for n in left])
    cell.go_on(place + 2, place + MANY)
    cell.value(blocker.answer())
    assert wires.pop(guilty).answer().status == 500
    check(cell, wires, left, place + 2)


@pytest.mark.row("H1")
@cells(WITH_WORKERS)
def test_who_leaves_while_it_is_suspected_of_a_death(cell: Cell) -> None:
    wires = dict(zip(cell.numbers(ONE), cell.connect(ONE), strict=True))
    blocker, place = cell.block()
    guilty = list(wires)[-1]
    for n, wire in wires.items():
        wire.send(cell.request(n, step=True, do="exit" if n == guilty else ""))
    cell.wait_admitted(1 + ONE)
    cell.go_on(place)
    cell.value(blocker.answer())  # or it would be a suspect too
    at = place + 1
    while len(cell.call(at)) > 1:  # a worker elsewhere may have been killed: one death is pardoned
        cell.go_on(at)
        at += 1
    [first] = cell.call(at)
    left = [n for n in wires if n not in (first, guilty)]
    leave(cell, [wires[n] for n in left])
    cell.go_on(at, at + MANY)
    assert wires.pop(guilty).answer().code == "replica_lost"
    check(cell, wires, left, at)


@pytest.mark.row("H1")
@cells(WITH_WORKERS)
def test_who_leaves_while_no_worker_is_there(cell: Cell) -> None:
    wires = dict(zip(cell.numbers(2 * ONE), cell.connect(2 * ONE), strict=True))
    [killer] = cell.connect(1)
    place = len(cell.calls()) + 1
    killer.send(cell.request(cell.number(), step=True, do="exit"))
    cell.call(place)
    for n, wire in wires.items():
        wire.send(cell.request(n))
    cell.wait_admitted(1 + len(wires))
    before = cell.metric(RESTARTS)
    cell.go_on(place, place + MANY)
    # That none is ready lasts too short a while to be seen for sure.
    eventually(lambda: cell.metric(RESTARTS) > before, "it to die")
    left = list(wires)[1::2]
    leave(cell, [wires[n] for n in left])
    assert killer.answer().code == "replica_lost"
    check(cell, wires, left, place)


@pytest.mark.row("H1")
@cells(CELLS)
def test_who_leaves_before_its_body_is_whole(cell: Cell) -> None:
    wires = dict(zip(cell.numbers(ONE), cell.connect(ONE), strict=True))
    left = list(wires)[:-1]
    for n, wire in wires.items():
        wire.send(cell.request(n)[: -3 if n in left else None])
    if cell.tells and not cell.is_blocking:
        eventually(lambda: cell.metric("http_requests_in_flight") == len(left), "them to be taken")
    before = len(cell.calls())
    leave(cell, [wires[n] for n in left])
    check(cell, wires, left, min(before, len(cell.calls()) - 1))


@pytest.mark.row("H1")
@cells(CELLS)
def test_who_leaves_in_the_middle_of_its_answer(cell: Cell) -> None:
    wires = cell.connect(2)
    leaving = cell.numbers(2)
    for n, wire in zip(leaving, wires, strict=True):
        wire.send(cell.request(n, size=8 << 20))
    for wire in wires:
        assert wire.socket.recv(1000)
        LoggedWire.reset(wire)  # type: ignore[arg-type]  # of any wire
    [wire] = cell.connect(1)
    [n] = cell.numbers(1)
    wire.send(cell.request(n))
    check(cell, {n: wire}, (), 0)
    assert sum(n in leaving for call in cell.calls() for n in call) == 2


# The rows fail where nobody is given up, or more than who left


@pytest.mark.counter("H1")
def test_without_its_defence_who_leaves_is_run() -> None:
    env = without("a client that is gone gives up its call")
    with headrace_cell("process", "fast", env) as cell:
        with pytest.raises(AssertionError, match="nobody waits for"):
            test_who_leaves_while_it_waits_or_runs(cell)


@pytest.mark.counter("H1")
def test_without_a_look_before_each_batch_who_leaves_is_run() -> None:
    env = without("a worker reads who has gone before it runs what is at hand")
    with headrace_cell("process", "fast", env) as cell:
        with pytest.raises(AssertionError, match="nobody waits for"):
            test_who_leaves_while_its_batch_is_taken_apart(cell)


@pytest.mark.counter("F2")
def test_where_one_item_takes_its_mates_along_the_mates_are_not_answered() -> None:
    env = without("an item that is given up is passed over alone")
    with headrace_cell("process", "fast", env) as cell:
        with pytest.raises(AssertionError, match="not answered"):
            test_who_leaves_while_it_waits_or_runs(cell)
