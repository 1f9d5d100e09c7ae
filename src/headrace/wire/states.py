"""The one table of what may be said when. Both ends follow it, each at its own pace.

Messages cross on the way, so it lets each side go on for a while with what the other has just
made pointless; and whichever of two crossing messages an end takes first, it comes to the same
state.
"""

from __future__ import annotations

import enum
from collections.abc import Mapping
from types import MappingProxyType
from typing import Final, Literal

from .frames import Kind

Side = Literal["front", "worker"]
"""An end of a connection: the server's, or the worker's."""

FRONT: Final = "front"
WORKER: Final = "worker"


class State(enum.Enum):
    """How far a connection is."""

    OPENED = "opened"
    """Nothing has been said."""
    CHALLENGED = "challenged"
    """The worker is to prove itself."""
    ANSWERED = "answered"
    """The worker has; the front is to prove itself."""
    LOADING = "loading"
    """Both are proven; the worker imports its target."""
    CARDED = "carded"
    """The front knows the worker's models; the one that it runs is being loaded."""
    READY = "ready"
    """Batches are run."""
    DRAINING = "draining"
    """The worker finishes what it has."""
    CLOSING = "closing"
    """The front has said bye."""
    PARTED = "parted"
    """The worker has said bye."""
    CLOSED = "closed"
    """Both have, or the protocol was broken."""


def _rules() -> dict[tuple[State, Side], dict[Kind, State]]:
    s, k = State, Kind
    return {
        (s.OPENED, FRONT): {k.CHALLENGE: s.CHALLENGED},
        (s.CHALLENGED, WORKER): {k.HELLO: s.ANSWERED},
        (s.ANSWERED, FRONT): {k.WELCOME: s.LOADING},
        (s.LOADING, FRONT): {k.DRAIN: s.DRAINING, k.BYE: s.CLOSING},
        (s.LOADING, WORKER): {k.CARDS: s.CARDED, k.BYE: s.PARTED},
        (s.CARDED, FRONT): {k.ASK: s.CARDED, k.DRAIN: s.DRAINING, k.BYE: s.CLOSING},
        (s.CARDED, WORKER): {k.READY: s.READY, k.STATS: s.CARDED, k.BYE: s.PARTED},
        (s.READY, FRONT): {
            k.RUN: s.READY,
            k.CANCEL: s.READY,
            k.ASK: s.READY,
            k.DRAIN: s.DRAINING,
            k.BYE: s.CLOSING,
        },
        (s.READY, WORKER): {
            k.STARTED: s.READY,
            k.PARTS: s.READY,
            k.STATS: s.READY,
            k.BYE: s.PARTED,
        },
        (s.DRAINING, FRONT): {k.CANCEL: s.DRAINING, k.ASK: s.DRAINING, k.BYE: s.CLOSING},
        (s.DRAINING, WORKER): {
            k.CARDS: s.DRAINING,
            k.READY: s.DRAINING,
            k.STARTED: s.DRAINING,
            k.PARTS: s.DRAINING,
            k.STATS: s.DRAINING,
            k.BYE: s.PARTED,
        },
        (s.CLOSING, WORKER): {
            k.CARDS: s.CLOSING,
            k.READY: s.CLOSING,
            k.STARTED: s.CLOSING,
            k.PARTS: s.CLOSING,
            k.STATS: s.CLOSING,
            k.BYE: s.CLOSED,
        },
        (s.PARTED, FRONT): {
            k.RUN: s.PARTED,
            k.CANCEL: s.PARTED,
            k.ASK: s.PARTED,
            k.DRAIN: s.PARTED,
            k.BYE: s.CLOSED,
        },
    }


AFTER: Final[Mapping[tuple[State, Side], Mapping[int, State]]] = MappingProxyType(
    {
        (state, side): {int(kind): after for kind, after in _rules().get((state, side), {}).items()}
        for state in State
        for side in (FRONT, WORKER)
    }
)
"""The states after a side's messages by their kind, by the state before."""

NEXT: Final[Mapping[tuple[State, Side, int], State]] = MappingProxyType(
    {(*key, kind): after for key, kinds in AFTER.items() for kind, after in kinds.items()}
)
"""The same in one table: by state, side and kind."""
