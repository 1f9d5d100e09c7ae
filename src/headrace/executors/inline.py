"""Batches on the event loop's own thread: nothing is handed over, and nothing else runs meanwhile.

The fastest way for a model that is quick or leaves the processor (to an accelerator), and the
least forgiving: while it computes, the server reads and answers nothing.
"""

from __future__ import annotations

import contextlib
import logging
import threading
from collections import deque
from collections.abc import Callable

from ..batching import Batch
from ..clock import LOOK_S, NEVER, STOPPED_S, Clock, Instant, Scheduler, system_clock
from ..errors import ReplicaStartFailed
from ..lane import Lane
from .base import FIRST_RETRY_S, LAST_RETRY_S, Events, MakeReplica, tell, unwanted, wanted

STUCK_S = 0.001
"""A model that takes longer keeps the loop from what happens meanwhile: clients go, and others ask
another model."""
TURNS = 4
"""What the loop needs to read that a client is gone, to tell its connection, and that the task
which serves it over ASGI, before the next batch."""

_log = logging.getLogger(__name__)


class InlineExecutor:
    """Runs one replica between the loop's other callbacks, one batch a turn.

    Args:
        make: Makes the replica.
        loop: The engine's event loop.
        clock: The engine's clock.
        predict_timeout_s: How long a turn may take before `on_hung` is called.
        on_hung: Called on a thread of its own, as the loop's is stuck; None watches nothing.
    """

    def __init__(
        self,
        make: MakeReplica,
        *,
        loop: Scheduler,
        clock: Clock = system_clock,
        predict_timeout_s: float = NEVER,
        on_hung: Callable[[], None] | None = None,
    ) -> None:
        self._lane: Lane[Batch] = Lane(make())
        self._loop = loop
        self._clock = clock
        self._at_hand: deque[Batch] = deque()
        self._events: Events | None = None
        self._turn_due = False
        self._is_recovering = False
        self._watchdog = None if on_hung is None else _Watchdog(clock, predict_timeout_s, on_hung)

    def open(self, events: Events) -> None:
        self._events = events
        self._loop.call_soon(self._load)

    def start(self, batch: Batch) -> None:
        self._at_hand.append(batch)
        self._take_turn_soon()

    def cancel(self, batch: Batch, index: int) -> None:
        """Nothing to do: the item's own state is looked at before it is prepared."""

    def replace(self, replica: int) -> bool:
        return False

    def close(self) -> None:
        if self._events is None:
            return
        self._events = None
        if self._watchdog is not None:
            self._watchdog.close()
        self._lane.replica.unload()

    def join(self, timeout_s: float) -> bool:
        return True

    def _load(self) -> None:
        if self._events is None:
            return
        try:
            self._lane.replica.load()
        except ReplicaStartFailed as error:
            _log.exception("a replica failed to start")
            self._events.start_failed(0, error.message)
        else:
            self._events.ready(0, self._lane.replica.card)

    def _take_turn_soon(self) -> None:
        if not self._turn_due:
            self._turn_due = True
            self._loop.call_soon(self._turn)

    def _turn(self) -> None:
        """Run one batch, then one step of an isolation if there is one; then perhaps again."""
        events, lane = self._events, self._lane
        if events is None:
            return
        isolated, began = lane.next_isolated, self._clock()
        if self._at_hand:
            batch = self._at_hand.popleft()
            events.started(batch)
            with self._watched():
                report = lane.run(batch, wanted(batch, self._clock()))
            tell(events, 0, report)
        if isolated is not None:
            events.started(isolated)
            with self._watched():
                report = lane.isolate(unwanted(isolated, self._clock()))
            tell(events, 0, report)
            if report.broken is not None and not self._is_recovering:
                self._is_recovering = True
                self._loop.call_later(FIRST_RETRY_S, self._recover, FIRST_RETRY_S)
        if self._clock() - began > STUCK_S:
            self._turn_after(TURNS)
        elif self._at_hand or lane.next_isolated is not None:
            self._turn_after(1)
        else:
            self._turn_due = False

    def _turn_after(self, turns: int) -> None:
        """Take a turn when the loop has had so many."""
        if turns > 1:
            self._loop.call_soon(self._turn_after, turns - 1)
        else:
            self._loop.call_soon(self._turn)

    def _watched(self) -> contextlib.AbstractContextManager[object]:
        """Model code runs within: the watchdog looks at how long."""
        return contextlib.nullcontext() if self._watchdog is None else self._watchdog

    def _recover(self, retry_s: float) -> None:
        if self._events is None:
            return
        with self._watched():
            is_well = self._lane.recover()
        if is_well:
            self._is_recovering = False
            self._events.ready(0, self._lane.replica.card)
        else:
            later_s = min(2 * retry_s, LAST_RETRY_S)
            self._loop.call_later(later_s, self._recover, later_s)


class _Watchdog:
    """Notices a turn that does not end. Costs two assignments a turn.

    Its thread wakes up twice a second while there are turns, and not at all while there are
    none: were it woken by each turn, it would take the interpreter from it.
    """

    def __init__(self, clock: Clock, timeout_s: float, on_hung: Callable[[], None]) -> None:
        self._clock = clock
        self._timeout_s = timeout_s
        self._on_hung = on_hung
        self._began: Instant | None = None
        self._busy = threading.Event()
        self._closed = threading.Event()
        threading.Thread(target=self._watch, name="inline-watchdog", daemon=True).start()

    def __enter__(self) -> None:
        self._began = self._clock()
        if not self._busy.is_set():
            self._busy.set()

    def __exit__(self, *_: object) -> None:
        self._began = None

    def close(self) -> None:
        self._closed.set()
        self._busy.set()

    def _watch(self) -> None:
        resumed = -NEVER
        while not self._closed.is_set():
            began = self._began
            if began is None:
                # Cleared before the second look: a turn that begins between sets it again.
                self._busy.clear()
                if self._began is None:
                    self._busy.wait()
                left_s = self._timeout_s
            else:
                left_s = max(began, resumed) + self._timeout_s - self._clock()
            if left_s <= 0:
                self._on_hung()
                return
            look_s = min(left_s, LOOK_S)
            due = self._clock() + look_s
            self._closed.wait(look_s)
            now = self._clock()
            if now > due + STOPPED_S:
                resumed = now
