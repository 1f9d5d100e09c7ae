"""Batches on threads of this process, one for each replica.

A model that holds the GIL slows the server down, and one that crashes takes it along; a hang is
noticed and ends the server. Only worker processes contain those.
"""

from __future__ import annotations

import asyncio
import logging
import queue
import threading
import time
from collections import deque
from collections.abc import Callable

from ..batching import Batch
from ..errors import ReplicaStartFailed
from ..lane import Lane, Report
from ..replica import Replica
from .base import FIRST_RETRY_S, LAST_RETRY_S, Events, MakeReplica, tell, unwanted, wanted

_log = logging.getLogger(__name__)


class ThreadExecutor:
    """Runs each replica on a thread of its own.

    Args:
        make: Makes a replica.
        replicas: How many.
        loop: The engine's event loop.
        predict_timeout_s: How long a broken replica may try its canary.
        on_hung: Called on the event loop when it took longer; a batch that takes longer is the
            engine's to notice.
    """

    def __init__(
        self,
        make: MakeReplica,
        *,
        replicas: int = 1,
        loop: asyncio.AbstractEventLoop,
        predict_timeout_s: float = 60.0,
        on_hung: Callable[[], None] = lambda: None,
    ) -> None:
        def watch() -> asyncio.TimerHandle:
            return loop.call_later(predict_timeout_s, on_hung)

        self._threads = [_ReplicaThread(number, make(), loop, watch) for number in range(replicas)]

    def open(self, events: Events) -> None:
        for thread in self._threads:
            thread.open(events)

    def start(self, batch: Batch) -> None:
        self._threads[batch.replica].put(batch)

    def cancel(self, batch: Batch, index: int) -> None:
        """Nothing to do: the item's own state is looked at before it is prepared."""

    def replace(self, replica: int) -> bool:
        return False

    def close(self) -> None:
        for thread in self._threads:
            thread.close()

    def join(self, timeout_s: float) -> bool:
        ends = time.monotonic() + timeout_s
        return all(thread.join(ends - time.monotonic()) for thread in self._threads)


class _ReplicaThread:
    """A replica, its thread, and what the event loop's side knows of them."""

    def __init__(
        self,
        number: int,
        replica: Replica,
        loop: asyncio.AbstractEventLoop,
        watch: Callable[[], asyncio.TimerHandle],
    ) -> None:
        self._watch = watch
        self._canary_timer: asyncio.TimerHandle | None = None
        self._number = number
        self._lane: Lane[Batch] = Lane(replica)
        self._loop = loop
        self._inbox: queue.SimpleQueue[Batch | None] = queue.SimpleQueue()
        self._at_hand: deque[Batch] = deque()
        self._events: Events | None = None
        self._thread = threading.Thread(
            target=self._work, name=f"{replica.card.name}-{number}", daemon=True
        )

    # On the event loop

    def open(self, events: Events) -> None:
        self._events = events
        self._thread.start()

    def put(self, batch: Batch) -> None:
        self._at_hand.append(batch)
        if len(self._at_hand) == 1:
            self._loop.call_soon(self._started, batch)
        self._inbox.put(batch)

    def close(self) -> None:
        self._events = None
        self._end_canary()
        self._inbox.put(None)

    def join(self, timeout_s: float) -> bool:
        self._thread.join(max(0.0, timeout_s))
        return not self._thread.is_alive()

    def _started(self, batch: Batch) -> None:
        if self._events is not None:
            self._events.started(batch)

    def _ran(self, report: Report[Batch]) -> None:
        """A batch left the thread, answered or set aside: the next at hand has begun."""
        self._at_hand.popleft()
        # One that the engine gives in return begins by itself.
        following = self._at_hand[0] if self._at_hand else None
        if self._events is not None:
            tell(self._events, self._number, report)
            if following is not None:
                self._events.started(following)

    def _isolated(self, report: Report[Batch]) -> None:
        if self._events is not None:
            tell(self._events, self._number, report)
            if self._at_hand:
                # It was told to have begun, but the isolation's step went first.
                self._events.started(self._at_hand[0])

    def _begin_canary(self) -> None:
        self._canary_timer = self._watch()

    def _end_canary(self) -> None:
        if self._canary_timer is not None:
            self._canary_timer.cancel()

    def _is_ready(self) -> None:
        if self._events is not None:
            self._events.ready(self._number, self._lane.replica.card)

    def _start_failed(self, reason: str) -> None:
        if self._events is not None:
            self._events.start_failed(self._number, reason)

    # On the replica's thread

    def _post(self, tell_it: Callable[..., None], *about: object) -> None:
        try:
            self._loop.call_soon_threadsafe(tell_it, *about)
        except RuntimeError:
            _log.debug("the event loop has closed before the replica's thread")

    def _work(self) -> None:
        try:
            self._lane.replica.load()
        except ReplicaStartFailed as error:
            _log.exception("replica %d failed to start", self._number)
            self._post(self._start_failed, error.message)
            self._lane.replica.unload()
            return
        self._post(self._is_ready)
        self._serve()
        self._lane.replica.unload()

    def _serve(self) -> None:
        retry_s: float | None = None
        while True:
            isolated = self._lane.next_isolated
            try:
                wait_s = 0.0 if isolated else retry_s
                batch = self._inbox.get(block=wait_s != 0.0, timeout=wait_s or None)
                if batch is None:
                    return
                self._post(self._ran, self._lane.run(batch, wanted(batch)))
            except queue.Empty:
                if not isolated and retry_s is not None:
                    retry_s = self._recover(retry_s)
            if isolated:
                self._post(self._started, isolated)
                report = self._lane.isolate(unwanted(isolated))
                if report.broken is not None:
                    retry_s = FIRST_RETRY_S
                self._post(self._isolated, report)

    def _recover(self, retry_s: float) -> float | None:
        """Try a broken replica again; None if it is well, else the time to the next try."""
        self._post(self._begin_canary)
        is_well = self._lane.recover()
        self._post(self._end_canary)
        if not is_well:
            return min(2 * retry_s, LAST_RETRY_S)
        self._post(self._is_ready)
        return None
