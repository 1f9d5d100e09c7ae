"""Who has lost its front, and does not notice."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator

import pytest

from headrace.executors.loss import (
    IDLE_CHECK_S,
    LEAST_CHECK_S,
    MOST_CHECK_S,
    LossWatch,
    is_established,
)
from headrace.testing import ManualClock
from headrace.workers.mark import CONNECTION, PATIENCE_MS, Mark, create_memory


@pytest.fixture
def mark() -> Iterator[Mark]:
    fd = create_memory("mark")
    mark = Mark(fd)
    yield mark
    mark.close()
    os.close(fd)


def connected(host: str) -> tuple[socket.socket, socket.socket]:
    """Both ends of a connection."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.create_server((host, 0), family=family) as listener:
        one = socket.create_connection(listener.getsockname()[:2])
        return one, listener.accept()[0]


def serve(mark: Mark, sock: socket.socket, patience_s: float = 2.0) -> None:
    mark.slots[CONNECTION] = os.fstat(sock.fileno()).st_ino
    mark.slots[PATIENCE_MS] = int(1000 * patience_s)


@pytest.mark.parametrize("is_reset", [False, True])
@pytest.mark.parametrize("host", ["127.0.0.1", "::1"])
def test_a_worker_may_take_its_patience_to_see_that_its_front_is_gone(
    mark: Mark, host: str, is_reset: bool
) -> None:
    clock = ManualClock()
    watch = LossWatch(mark, clock)
    assert not watch.is_overdue()
    own, front = connected(host)
    with own:
        serve(mark, own)
        clock.advance(100.0)
        assert not watch.is_overdue()
        if is_reset:
            front.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
        front.close()
        assert not watch.is_overdue()
        clock.advance(1.9)
        assert not watch.is_overdue()
        clock.advance(0.2)
        assert watch.is_overdue()
        mark.slots[CONNECTION] = 0
        assert not watch.is_overdue(), "it has noticed"


def test_the_next_connection_has_its_own_patience(mark: Mark) -> None:
    clock = ManualClock()
    watch = LossWatch(mark, clock)
    (first, gone), (second, gone_too) = connected("127.0.0.1"), connected("127.0.0.1")
    with first, second:
        for own, front in ((first, gone), (second, gone_too)):
            serve(mark, own)
            front.close()
            assert not watch.is_overdue()
            clock.advance(1.5)
            assert not watch.is_overdue()
        clock.advance(2.0)
        assert watch.is_overdue()


def test_it_is_looked_at_as_often_as_its_patience_asks_for(mark: Mark) -> None:
    watch = LossWatch(mark)
    assert watch.check_s == IDLE_CHECK_S
    for patience_ms, check_s in ((10, LEAST_CHECK_S), (8000, 1.0), (10**9, MOST_CHECK_S)):
        mark.slots[CONNECTION], mark.slots[PATIENCE_MS] = 1, patience_ms
        assert watch.check_s == check_s


TITLES = b"  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid"
LINE = b"   0: 0100007F:1F90 00000000:0000 %b 00000000:00000000 00:00000000 00000000  0  0 7 1"


@pytest.mark.parametrize(
    ("tables", "is_there"),
    [
        ([[TITLES, LINE % b"01"]], True),
        ([[TITLES], [TITLES, LINE % b"01"]], True),
        ([[TITLES, LINE % b"08"]], False),
        ([[TITLES], [TITLES]], False),
        ([[], []], True),
        ([[TITLES, b"nonsense"]], False),
    ],
)
def test_the_systems_tables_tell(tables: list[list[bytes]], is_there: bool) -> None:
    assert is_established(7, tables) == is_there
