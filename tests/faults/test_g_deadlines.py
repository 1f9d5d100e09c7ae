"""Deadlines that pass, at each stage of a request, over every executor, way and face.

The answer is a 504 then, whatever the model is at; and its journal proves that what has expired
is never begun. A model on the server's own loop keeps that from answering while it runs: the
answers come when it is done.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any

import pytest

from tests.e2e.conftest import Answer, Wire, eventually
from tests.faults.contract import LATE_S, WAYS, Contract
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

GIVEN_S = 1.0
"""Enough to bring a request to its stage."""
EARLY_S = 0.02
"""By how much an answer may come before its deadline, as the clocks are two."""
LATER_S = 0.1
"""How much later a server on whose loop the model runs reads what was sent."""
PATIENCE_S = GIVEN_S + 3.0


RESTARTS = "replica_restarts_total"


def within(s: float) -> str:
    return f"x-request-timeout: {s}\r\n"


def expired(cell: Cell, wire: Wire, sent: float, given_s: float = GIVEN_S) -> Answer:
    """The answer at the deadline; behind a model on the loop, when that was done."""
    wire.socket.settimeout(PATIENCE_S)
    answer = wire.answer()
    took_s = time.monotonic() - sent
    assert answer.status == (408 if cell.face == "batching" else 504), answer.body
    if cell.face == "headrace":
        assert answer.code == "deadline_exceeded"
    assert took_s > given_s - EARLY_S
    assert cell.is_blocking or took_s < given_s + LATE_S, f"late by {took_s - given_s} s"
    return answer


@pytest.mark.row("G3")
@cells(CELLS)
def test_what_expires_while_it_waits_or_runs(cell: Cell) -> None:
    """Of twelve, four run, four are with the worker or at hand, and four in the queue."""
    restarts = cell.metric(RESTARTS) if cell.tells else 0
    wires = dict(zip(cell.numbers(3 * ONE), cell.connect(3 * ONE), strict=True))
    blocker, place = cell.block()
    short = list(wires)[::2]
    sent = {}
    for n, wire in wires.items():
        sent[n] = time.monotonic()
        wire.send(cell.request(n, within(GIVEN_S) if n in short else "", step=True))
    cell.wait_admitted(1 + len(wires))
    cell.go_on(place)
    running = cell.call(place + 1)
    if cell.is_blocking:
        time.sleep(GIVEN_S + LATER_S)
    else:
        for n in short:
            expired(cell, wires[n], sent[n])
    cell.go_on(place + 1, place + MANY)
    cell.value(blocker.answer())
    for n, wire in wires.items():
        if n not in short:
            assert cell.value(wire.answer()) == 2 * n
        elif cell.is_blocking and n not in running:
            expired(cell, wire, sent[n])
    cell.check_free()
    check_not_begun(cell, set(short), place + 1)
    if cell.tells:
        assert cell.metric(RESTARTS) == restarts, "the worker is left alone"


def check_not_begun(cell: Cell, numbers: set[int], after: int) -> None:
    begun = {n for call in cell.calls()[after:] for n in call} & numbers
    assert not begun, "what has expired is run"


@pytest.mark.row("G3")
@cells(ISOLATING)
def test_what_expires_while_its_batch_is_taken_apart(cell: Cell) -> None:
    wires = dict(zip(cell.numbers(ONE), cell.connect(ONE), strict=True))
    blocker, place = cell.block()
    *others, guilty = wires
    sent = {}
    for n, wire in wires.items():
        sent[n] = time.monotonic()
        order = {"do": "raise"} if n == guilty else {}
        wire.send(cell.request(n, "" if n == guilty else within(GIVEN_S), step=True, **order))
    cell.wait_admitted(1 + ONE)
    cell.go_on(place, place + 1)
    assert sorted(cell.call(place + 1)) == list(wires)
    half = cell.call(place + 2)
    if cell.is_blocking:
        time.sleep(GIVEN_S + LATER_S)
    else:
        for n in others:
            expired(cell, wires[n], sent[n])
    cell.go_on(place + 2, place + MANY)
    cell.value(blocker.answer())
    assert wires[guilty].answer().status == 500
    cell.check_free()
    check_not_begun(cell, {n for n in others if n not in half}, place + 2)


@pytest.mark.row("G3")
@cells([name for name in CELLS if name.startswith("process")])
def test_what_expires_while_it_is_suspected_of_a_death(cell: Cell) -> None:
    given_s = 2.5  # enough for another worker to come
    wires = dict(zip(cell.numbers(ONE), cell.connect(ONE), strict=True))
    blocker, place = cell.block()
    first, *others, guilty = wires
    sent = {}
    for n, wire in wires.items():
        sent[n] = time.monotonic()
        headers = within(given_s) if n in others else ""
        wire.send(cell.request(n, headers, step=True, do="exit" if n == guilty else ""))
    cell.wait_admitted(1 + ONE)
    cell.go_on(place)
    cell.value(blocker.answer())  # or it would be a suspect too
    cell.go_on(place + 1)
    assert cell.call(place + 2) == [first]
    for n in others:
        expired(cell, wires[n], sent[n], given_s)
    cell.go_on(place + 2, place + MANY)
    assert cell.value(wires[first].answer()) == 2 * first
    assert wires[guilty].answer().code == "replica_lost"
    cell.check_free()
    check_not_begun(cell, set(others), place + 2)


@pytest.mark.row("G3")
@cells(WITH_WORKERS)
def test_what_expires_while_no_worker_is_there(cell: Cell) -> None:
    """Answered at its deadline, or at once where a worker will surely come too late.

    Of a worker elsewhere nobody knows what it has begun of what it was given.
    """
    codes = [(503, "not_ready"), (504, "deadline_exceeded")]
    codes += [(500, "replica_lost")] * (cell.executor == "remote")
    wires = dict(zip(cell.numbers(ONE), cell.connect(ONE), strict=True))
    [killer] = cell.connect(1)
    place = len(cell.calls()) + 1
    killer.send(cell.request(cell.number(), step=True, do="exit"))
    cell.call(place)
    given_s = 0.2
    sent = time.monotonic()
    for n, wire in wires.items():
        wire.send(cell.request(n, within(given_s)))
    cell.wait_admitted(1 + len(wires))
    cell.go_on(place, place + MANY)
    assert killer.answer().code == "replica_lost"
    for wire in wires.values():
        answer = wire.answer()
        assert (answer.status, answer.code) in codes
    assert time.monotonic() - sent < given_s + LATE_S + RECOVERY_S
    eventually(lambda: cell.metric("replicas_ready") == 1, "another worker")
    cell.check_free()
    check_not_begun(cell, set(wires), place)


RECOVERY_S = 3.0
"""The killer itself is run twice before it is convicted, or three times elsewhere."""


@pytest.mark.row("G3")
@cells(CELLS)
def test_what_expires_before_its_body_is_whole(cell: Cell) -> None:
    [n], [wire] = cell.numbers(1), cell.connect(1)
    before, given_s = cell.calls(), 0.3
    sent = time.monotonic()
    wire.send(cell.request(n, within(given_s))[:-3])
    try:
        answer = expired(cell, wire, sent, given_s)
        assert answer.headers["connection"] == "close"
        if cell.face == "headrace":
            assert answer.json()["details"] == [{"stage": "reading"}]
        assert wire.is_closed()
    finally:
        wire.socket.close()
    cell.check_free()
    assert cell.calls() == before


# Deadlines that are none

NONE = ("0", "-1", "nan", "inf", "-inf", "soon", "", "1e999", "0x5", "1,2", "1_0")


@pytest.mark.row("G4")
@pytest.mark.parametrize("text", NONE)
def test_a_deadline_that_is_none_is_refused(contract: Contract, text: str) -> None:
    with contract.watch(reaches=0) as client:
        for _ in range(3):
            refused(client.ask("/predict", "1", f"x-request-timeout: {text}\r\n"))


def refused(answer: Answer) -> None:
    assert (answer.status, answer.code) == (400, "invalid_header")
    assert "X-Request-Timeout" in answer.json()["error"]


LONGEST: dict[str, Any] = {"limits__max_request_timeout_s": GIVEN_S}


@pytest.mark.row("G4")
@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("asked", ["1e12", "", "60"])
def test_a_deadline_is_never_beyond_the_servers_maximum(way: str, asked: str) -> None:
    """Nor is the default."""
    with headrace_cell("thread", way, **LONGEST) as cell:
        cut(cell, asked)


def cut(cell: Cell, asked: str) -> None:
    [wire] = cell.connect(1)
    [n] = cell.numbers(1)
    place = len(cell.calls()) + 1
    sent = time.monotonic()
    wire.send(cell.request(n, f"x-request-timeout: {asked}\r\n" if asked else "", step=True))
    expired(cell, wire, sent)
    cell.go_on(place)
    cell.check_free()


# The rows fail where deadlines are not looked at


@pytest.mark.counter("G3")
def test_without_a_look_at_deadlines_nobody_is_answered_at_theirs() -> None:
    with headrace_cell("process", "fast", without("what has expired is answered")) as cell:
        with pytest.raises(TimeoutError):
            test_what_expires_while_it_waits_or_runs(cell)
        cell.release()
        cell.check_free()


@pytest.mark.counter("G3")
def test_without_the_deadline_a_body_is_waited_for() -> None:
    with headrace_cell("inline", "fast", without("the wait for a body ends at the deadline")) as c:
        with pytest.raises(TimeoutError):
            test_what_expires_before_its_body_is_whole(c)


@pytest.mark.counter("G4")
def test_without_a_look_at_it_any_text_that_is_a_number_is_a_deadline() -> None:
    with headrace_cell("inline", "fast", without("a timeout has to be a positive number")) as cell:
        [wire] = cell.connect(1)
        wire.send(cell.request(cell.number(), "x-request-timeout: -1\r\n"))
        with pytest.raises(AssertionError):
            refused(wire.answer())


@pytest.mark.counter("G4")
def test_without_a_maximum_a_deadline_is_what_was_asked_for() -> None:
    env: Mapping[str, str] = without("a timeout is cut to the server's maximum")
    with headrace_cell("thread", "fast", env, **LONGEST) as cell:
        with pytest.raises(TimeoutError):
            cut(cell, "60")
        cell.release()
        cell.check_free()
