"""A worker of another host that hangs: it does not notice that its connection has ended.

The front gives such a worker up, but cannot end its process; nor can a thread of that, where the
model holds the interpreter's lock. So its parent looks, every now and then, in the system's table.
A descriptor of the connection would tell it at once, but keep that open when the worker has died,
for as long as the parent is stopped or busy: the front would wait for the dead.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import suppress

from ..clock import NEVER, Clock, system_clock
from ..workers.mark import CONNECTION, PATIENCE_MS, Mark

_TABLES = ("/proc/net/tcp", "/proc/net/tcp6")
_STATE, _INODE = 3, 9
_ESTABLISHED = b"01"
LEAST_CHECK_S = 0.1
MOST_CHECK_S = 10.0
IDLE_CHECK_S = 1.0
"""How soon a connection that is made is known of."""


class LossWatch:
    """Knows for how long a worker's connection has ended without the worker's notice.

    Args:
        mark: Where the worker writes which connection it serves, and how long it may take to see
            its end: a batch that runs may come to its own.
        clock: Tells the time.
    """

    def __init__(self, mark: Mark, clock: Clock = system_clock) -> None:
        self._mark = mark
        self._clock = clock
        self._lost = 0
        self._lost_at = NEVER

    @property
    def check_s(self) -> float:
        """How soon to look again."""
        if not self._mark.slots[CONNECTION]:
            return IDLE_CHECK_S
        return min(max(self._patience_s / 8, LEAST_CHECK_S), MOST_CHECK_S)

    def is_overdue(self) -> bool:
        """Whether the worker should have noticed by now."""
        inode, now = self._mark.slots[CONNECTION], self._clock()
        if not inode or is_established(inode, map(_lines, _TABLES)):
            self._lost = 0
            return False
        if inode != self._lost:
            self._lost, self._lost_at = inode, now
        return now - self._lost_at >= self._patience_s

    @property
    def _patience_s(self) -> float:
        return self._mark.slots[PATIENCE_MS] / 1000


def is_established(inode: int, tables: Iterable[Iterable[bytes]]) -> bool:
    """Whether both ends of a TCP connection are there.

    Args:
        inode: Of its socket.
        tables: As the system lists the connections, each with a line of titles.
    """
    wanted, has_any = b"%d" % inode, False
    for lines in tables:
        for line in lines:
            has_any = True
            fields = line.split()
            if fields[_INODE : _INODE + 1] == [wanted]:
                return fields[_STATE] == _ESTABLISHED
    return not has_any  # nobody is ended where the system does not tell


def _lines(path: str) -> Iterator[bytes]:
    with suppress(OSError), open(path, "rb") as table:
        yield from table
