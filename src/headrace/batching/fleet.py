"""The replicas as the batcher sees them: their slots, and which of them gets the next batch."""

from __future__ import annotations

from collections.abc import Iterator

from ..clock import NEVER, Instant
from .item import SLOTS, Batch, Cut


class Replica:
    """One replica.

    Attributes:
        id: Its number.
        ready: Whether it takes batches.
        slots: The batches that it works on or has at hand.
        held: How many slots are taken.
        open: Batches with a slot or, set aside for isolation, without one.
        since: When it began on the older of its batches.
        turn: When the first of what it has came to its turn.
        suspect: The suspect's batch that it runs, which shall not take others with it.
    """

    __slots__ = ("held", "id", "open", "ready", "since", "slots", "suspect", "turn")

    def __init__(self, number: int) -> None:
        self.id = number
        self.ready = True
        self.slots: list[Batch | None] = [None] * SLOTS
        self.held = 0
        self.open: list[Batch] = []
        self.since: Instant = -NEVER
        self.suspect: Batch | None = None
        self.turn: Instant = -NEVER


class Fleet:
    """All replicas of a model.

    Args:
        second_slot: Whether a busy replica gets a second batch.

    Attributes:
        ready_count: Replicas that take batches.
        held: Slots that are taken, of all replicas.
        quarantined: The suspect's batch that runs; there is at most one.
    """

    def __init__(self, *, second_slot: bool) -> None:
        self.ready_count = 0
        self.held = 0
        self.quarantined: Batch | None = None
        self._second_slot = second_slot
        self._replicas: dict[int, Replica] = {}

    def ready(self, number: int) -> None:
        """A replica takes batches, for the first time or again."""
        replica = self._replicas.get(number)
        if replica is None:
            self._replicas[number] = Replica(number)
        elif replica.ready:
            return
        else:
            replica.ready = True
        self.ready_count += 1

    def unready(self, number: int) -> None:
        """A replica takes no further batches."""
        replica = self._replicas.get(number)
        if replica is not None and replica.ready:
            replica.ready = False
            self.ready_count -= 1

    def lose(self, number: int) -> list[Batch]:
        """A replica is gone: the batches that it leaves behind."""
        self.unready(number)
        replica = self._replicas.pop(number, None)
        if replica is None:
            return []
        self.held -= replica.held
        if replica.suspect is not None:
            self.quarantined = None
        for batch in replica.open:
            batch.holds_slot = False
        return replica.open

    def place(self, now: Instant, replica: Replica, batch: Batch) -> None:
        """A replica is given a batch, in a free slot."""
        replica.slots[batch.slot] = batch
        if not replica.open:
            replica.turn = now
        replica.open.append(batch)
        if not replica.held:
            replica.since = now
        replica.held += 1
        self.held += 1
        if batch.cut is Cut.SUSPECT:
            replica.suspect = self.quarantined = batch

    def release(self, now: Instant, batch: Batch) -> bool:
        """A batch gives its slot up; whether its replica is idle now."""
        replica = self._replicas.get(batch.replica)
        if replica is None:
            return False
        if batch in replica.open:  # else it is of another replica of this number
            replica.turn = now
        if not batch.holds_slot:
            return False
        batch.holds_slot = False
        replica.slots[batch.slot] = None
        replica.since = now
        replica.held -= 1
        self.held -= 1
        return not replica.held

    def finish(self, now: Instant, batch: Batch) -> bool:
        """A batch is done with, but for its slot; False if it was done with before, or lost."""
        replica = self._replicas.get(batch.replica)
        if replica is None or batch not in replica.open:
            return False
        replica.open.remove(batch)
        replica.turn = now
        if batch is replica.suspect:
            replica.suspect = self.quarantined = None
        return True

    def open_batches(self) -> Iterator[Batch]:
        """The batches that are with a replica."""
        for replica in self._replicas.values():
            yield from replica.open

    def resumed(self, now: Instant) -> None:
        """The process was stopped: what is with the replicas begins its turn, or its time, anew."""
        for replica in self._replicas.values():
            replica.turn = now
            for batch in replica.open:
                if batch.started_at is not None:
                    batch.started_at = now
                    batch.was_stopped = True

    def under_way(self) -> Iterator[tuple[Batch, Instant]]:
        """The batches that replicas work on, and since when.

        A replica that has begun on none of what it has should have begun on the first.
        """
        for replica in self._replicas.values():
            if not replica.open:
                continue
            is_working = False
            for batch in replica.open:
                if batch.started_at is not None:
                    is_working = True
                    yield batch, batch.started_at
            if not is_working:
                yield replica.open[0], replica.turn

    def vacant(self) -> Replica | None:
        """A ready replica with nothing open: nothing there could share a suspect's fate."""
        replica = self._emptiest()
        return None if replica is None or replica.open else replica

    def free(self, *, keep_one: bool) -> Replica | None:
        """Who gets the next batch: an idle replica, else the one longest at its only batch.

        Args:
            keep_one: Leave one replica out, so that it becomes vacant.
        """
        kept = self._emptiest() if keep_one else None
        busy: Replica | None = None
        for replica in self._replicas.values():
            if not replica.ready or replica is kept or replica.suspect is not None:
                continue
            if not replica.held:
                return replica
            if replica.held < SLOTS and (busy is None or replica.since < busy.since):
                busy = replica
        return busy if self._second_slot else None

    def _emptiest(self) -> Replica | None:
        ready = (replica for replica in self._replicas.values() if replica.ready)
        return min(ready, key=lambda replica: len(replica.open), default=None)
