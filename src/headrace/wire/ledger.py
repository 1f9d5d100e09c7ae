"""Which batches are open on a connection, and what is still owed of each. Both ends keep one."""

from __future__ import annotations

from collections.abc import Set
from typing import Any, Final, Literal

from ..call import Value
from ..errors import ProtocolError
from .frames import Kind
from .messages import End, Parts, Run, Started

BOOKED: Final = frozenset(map(int, (Kind.RUN, Kind.STARTED, Kind.PARTS)))
"""The kinds of messages that are of batches."""


class _Open:
    """A batch that has not ended.

    Attributes:
        owed: Indexes of the items whose last part has not come.
        started: Whether the worker has begun, or its parts say so, since it was set aside last.
        pauses: How often it may still be set aside without an outcome of any item.
    """

    __slots__ = ("owed", "pauses", "started")

    def __init__(self, owed: set[int]) -> None:
        self.owed = owed
        self.started = False
        # Once as it fails, once for the example, and once for each part of it that fails.
        self.pauses = len(owed) + 1


class Ledger:
    """Books the messages of batches; a message that is refused leaves it as it was."""

    def __init__(self) -> None:
        self._open: dict[int, _Open] = {}

    def __contains__(self, batch: int) -> bool:
        return batch in self._open

    def book(self, message: Any, side: Literal["local", "remote"]) -> None:
        """Take note of a message that is sent or was received.

        Args:
            message: One of a kind that is `BOOKED`.
            side: Who is at fault if it breaks a rule.

        Raises:
            ProtocolError: It does not fit what went before.
        """
        try:
            if isinstance(message, Parts):
                self._parts(message)
            elif isinstance(message, Run):
                self._run(message)
            else:
                self._started(message)
        except _Breach as breach:
            raise ProtocolError(str(breach), side=side) from None

    def _run(self, run: Run) -> None:
        indexes = [index for index, _ in run.items]
        owed = set(indexes)
        if run.batch in self._open:
            raise _Breach(f"batch {run.batch} is open already")
        if indexes != sorted(owed):
            raise _Breach(f"the items of batch {run.batch} are not in ascending order")
        self._open[run.batch] = _Open(owed)

    def _started(self, started: Started) -> None:
        batch = self._find(started.batch)
        if batch.started:
            raise _Breach(f"batch {started.batch} was started already")
        batch.started = True

    def _parts(self, message: Parts) -> None:
        batch = self._find(message.batch)
        parts, owed = message.parts, batch.owed
        ended = {index for index, _ in parts}
        # Usually each part is the only one of its item.
        if message.more or len(ended) != len(parts) or not ended <= owed:
            ended = self._ended(message, owed)
        if message.end is End.ENDED:
            if len(ended) != len(owed):
                left = len(owed) - len(ended)
                raise _Breach(f"batch {message.batch} ended with {left} items unanswered")
            del self._open[message.batch]
        elif message.end is End.SET_ASIDE and not ended:
            if not batch.pauses:
                raise _Breach(f"batch {message.batch} is set aside for nothing")
            batch.pauses -= 1
        owed -= ended
        batch.started = message.end is not End.SET_ASIDE

    @staticmethod
    def _ended(message: Parts, owed: Set[int]) -> set[int]:
        """The items that have had their last part, looked at one by one."""
        ended: set[int] = set()
        for place, (index, outcome) in enumerate(message.parts):
            if index not in owed or index in ended:
                raise _Breach(f"batch {message.batch} is owed no part of item {index}")
            if type(outcome) is not Value or place not in message.more:
                ended.add(index)
        return ended

    def _find(self, batch: int) -> _Open:
        try:
            return self._open[batch]
        except KeyError:
            raise _Breach(f"batch {batch} is not open") from None


class _Breach(Exception):
    """Which rule a message breaks."""
