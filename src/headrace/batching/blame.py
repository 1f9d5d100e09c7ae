"""Whom the loss of a replica is laid to."""

from __future__ import annotations

from collections.abc import Collection, Sequence, Set

from .item import DONE, FAILED, Batch, Item


class Blame:
    """Judges the items that a lost replica leaves behind; see `Batcher.lost`.

    Args:
        batches: What the replica leaves behind.
        guilty: The item that is known to have ended it.
        suspects: The items of which one may have; None where that is not known.
        is_outside: Whether it looks like an act from outside.
    """

    def __init__(
        self,
        batches: Sequence[Batch],
        guilty: Item | None,
        suspects: Collection[Item] | None,
        is_outside: bool,
    ) -> None:
        self._guilty = guilty
        self._accused = _accused(batches, suspects) if guilty is None else frozenset[int]()
        self._pardons = is_outside

    def convicts(self, item: Item) -> bool:
        """Whether the item is guilty; if not, it bears from here on what it is suspected of."""
        if item.number not in self._accused:
            return item is self._guilty
        if self._pardons and not item.pardoned:
            item.pardoned = True
            return False
        if len(self._accused) == 1:  # as always where it is a suspect: that runs alone
            return True
        item.suspect = True
        return False


def _accused(batches: Sequence[Batch], suspects: Collection[Item] | None) -> Set[int]:
    """The numbers of the items of which one may have ended the replica of these batches."""
    named = None if suspects is None else {item.number for item in suspects}
    return {
        item.number
        for batch in batches
        for item in batch.items
        # One that was given up may still be what did it.
        if item.state is not DONE
        and item.state is not FAILED
        and (batch.started_at is not None if named is None else item.number in named)
    }
