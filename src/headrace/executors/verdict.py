"""Why a worker ended, and which of its items, if any, may have ended it: a pure rule."""

from __future__ import annotations

import signal
from collections.abc import Mapping
from typing import NamedTuple

from ..batching import Batch
from ..wire import Bye
from ..workers.exits import Exit
from ..workers.mark import Evidence
from .base import Loss, items_of

_TOLD = {
    Exit.CONFIG.name.lower(): "config",
    Exit.LOAD_FAILED.name.lower(): "load",
    Exit.BROKEN.name.lower(): "broken",
}
_ENDED_FOR = {
    "hung": "a batch ran for longer than predict_timeout_s",
    "protocol": "it broke the worker protocol",
    "load": "it did not get ready within start_timeout_s",
}


_SENT = (signal.SIGKILL, signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
"""Signals that operators and systems send, and crashes do not."""


class Death(NamedTuple):
    """What is known of a worker's end.

    Attributes:
        exit_code: As `subprocess` gives it, negative for a signal; None where it is not known.
        bye: What the worker said, if it did.
        killed_for: Why this side ended it, if it did: "hung", "protocol" or "disconnected".
        is_out_of_memory: Whether the system has killed for memory meanwhile.
        evidence: What the worker was at.
    """

    exit_code: int | None
    bye: Bye | None = None
    killed_for: str = ""
    is_out_of_memory: bool = False
    evidence: Evidence = Evidence()


def verdict(death: Death, batches: Mapping[int, Batch]) -> Loss:
    """The loss that a death is.

    One that was in the middle of decoding, preprocessing, postprocessing or encoding an item
    convicts it. One in predict makes suspects of the batch, and so does a model that fails on its
    own example behind it. A SIGKILL or SIGTERM is an act from
    outside, of an operator or of the system: what ran is accused only if that repeats itself. One
    between two stages, by itself, makes suspects of all that had begun.
    """
    cause, reason = _cause(death)
    evidence = death.evidence
    item = _item_of(evidence, batches)
    running = batches.get(evidence.batch) if evidence.batch is not None else None
    is_outside = cause == "killed" and _is_from_outside(death)
    begun = tuple(batch for batch in batches.values() if batch.id <= evidence.begun)
    loss = Loss(cause, reason, begun=begun, is_outside=is_outside)
    if cause == "broken":
        return loss._replace(suspects=set_aside(batches))
    if item is not None and running is None and not is_outside and not death.killed_for:
        return loss._replace(guilty=item, suspects=())
    has_evidence = evidence.item is not None or evidence.batch is not None
    if batches and not has_evidence and not is_outside and death.bye is None:
        # Something that an item left behind, perhaps: without a suspect it would come again.
        return loss
    suspects = () if running is None else items_of([running])
    if item is not None and item not in suspects:
        suspects = (*suspects, item)
    return loss._replace(suspects=suspects)


def set_aside(batches: Mapping[int, Batch]) -> tuple[tuple[Batch, int], ...]:
    """The items of batches whose predict has failed."""
    return items_of(batch for batch in batches.values() if batch.isolated)


def _item_of(evidence: Evidence, batches: Mapping[int, Batch]) -> tuple[Batch, int] | None:
    if evidence.item is None:
        return None
    batch, index = batches.get(evidence.item[0]), evidence.item[1]
    return (batch, index) if batch is not None and index < len(batch.items) else None


def _cause(death: Death) -> tuple[str, str]:
    """A loss's cause, and the reason for people."""
    if death.killed_for in _ENDED_FOR:
        return death.killed_for, _ENDED_FOR[death.killed_for]
    if death.bye is not None and death.bye.code in _TOLD:
        return _TOLD[death.bye.code], death.bye.reason
    code = death.exit_code
    if code is None or (death.killed_for and _is_sigkill(death)):
        return "disconnected", "the connection was lost"
    if code < 0:
        memory = ", out of memory" if death.is_out_of_memory and _is_sigkill(death) else ""
        return "killed", f"killed by {_signal_name(-code)}{memory}"
    return "exited", f"exited with code {code}"


def _is_from_outside(death: Death) -> bool:
    return -(death.exit_code or 0) in _SENT and not death.is_out_of_memory


def _is_sigkill(death: Death) -> bool:
    return death.exit_code == -signal.SIGKILL


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"
