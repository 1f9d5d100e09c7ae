"""A worker's main loop: batches one after another, each prepared, predicted and finished.

Quick batches are taken in turn on the main thread. Where a batch takes longer, a second thread
reads, prepares the next batch and finishes the last while the main thread predicts: `Pace` says
which. Isolations always run in turn.
"""

from __future__ import annotations

import logging
import queue
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any

from ..call import Outcome, Payload
from ..clock import Deadline
from ..lane import Lane
from ..replica import Prepared
from ..wire import Ask, Bye, Cancel, Drain, End, Message, Parts, Run, Started, Stats
from .channel import Channel
from .mark import HANDLED, HANDLER_THREAD, PREDICTED, Mark
from .pace import Pace

_log = logging.getLogger(__name__)


class Job:
    """A batch on its way through the worker."""

    __slots__ = (
        "began",
        "deadlines",
        "error",
        "id",
        "outputs",
        "parts",
        "payloads",
        "prepared",
        "spent_s",
        "told",
        "unwanted",
    )

    def __init__(self, run: Run, now: float) -> None:
        self.id = run.batch
        self.payloads: Sequence[tuple[int, Payload]] = run.items
        self.deadlines: dict[int, Deadline] = {
            index: now + left_s for index, left_s in run.left_s.items()
        }
        self.unwanted: set[int] = set()
        self.parts: list[tuple[int, Outcome | None]] = []
        self.prepared = Prepared([], [])
        self.outputs: Any = None
        self.error: BaseException | None = None
        self.told = False
        self.spent_s = 0.0

    def wanted(self, now: float) -> Sequence[tuple[int, Payload]]:
        """The items that somebody still waits for; the others become parts without an outcome."""
        self.expire(now)
        if not self.unwanted:
            return self.payloads
        self.parts += [(index, None) for index, _ in self.payloads if index in self.unwanted]
        return [entry for entry in self.payloads if entry[0] not in self.unwanted]

    def expire(self, now: float) -> None:
        """Note whose deadline has passed: nobody waits for those either."""
        for index, deadline in self.deadlines.items():
            if deadline <= now:
                self.unwanted.add(index)

    def drop_unwanted(self, now: float) -> bool:
        """Leave out what was prepared and is not wanted any more; whether anything is left."""
        self.expire(now)
        if self.unwanted:
            entries, self.prepared = self.prepared.entries, self.prepared.without(self.unwanted)
            kept = {index for index, _ in self.prepared.entries}
            self.parts += [(index, None) for index, _ in entries if index not in kept]
        return bool(self.prepared)


class Broken(Exception):
    """The model fails on its own example."""


class Loop:
    """Serves one connection.

    Attributes:
        bye: What the front said last, if it did.

    Args:
        channel: To the front, past its handshake.
        lane: The replica's work.
        mark: Where to note what is run.
        stats: Gives the model's own metrics.
    """

    def __init__(
        self,
        channel: Channel,
        lane: Lane[Job],
        mark: Mark,
        stats: Callable[[], Stats] = lambda: Stats(()),
    ) -> None:
        self._channel = channel
        self._lane = lane
        self._may_run_again = lane.replica.card.idempotent
        self._slots = mark.slots
        self._stats = stats
        self._pace = Pace()
        self._jobs: dict[int, Job] = {}
        self._at_hand: deque[Job] = deque()
        self._is_draining = False
        self._is_over = False
        self._is_lost = False
        self.bye: Bye | None = None

    def stop(self) -> None:
        """Finish what is at hand and take no more; from any thread, or a signal's handler."""
        self._is_draining = True
        self._channel.wake()

    def serve(self) -> bool:
        """Run until the front says that it is over; False if the connection was lost instead.

        Raises:
            Broken: The model fails on its own example.
            ProtocolError: The front broke the protocol.
        """
        while not self._has_ended:
            if self._pace.overlaps and self._lane.next_isolated is None:
                self._channel.flush()
                _Overlap(self).serve()
            else:
                self._turn()
        self._channel.flush()
        return not self._is_lost

    @property
    def _has_ended(self) -> bool:
        has_work = bool(self._at_hand) or self._lane.next_isolated is not None
        return self._is_over or self._is_lost or (self._is_draining and not has_work)

    # In turn

    def _turn(self) -> None:
        """Run one batch, then one step of an isolation if there is one."""
        isolated = self._lane.next_isolated
        is_idle = not self._at_hand and isolated is None
        if is_idle:
            self._channel.flush()
        # Also with a batch at hand: some of its items may have been given up meanwhile.
        self._receive(block=is_idle)
        if self._is_over or self._is_lost:
            return
        if self._at_hand:
            self._run(self._at_hand.popleft())
        if isolated is not None:
            self._isolate(isolated)

    def _run(self, job: Job) -> None:
        began = self._tell_started(job)
        self._note(job)
        payloads = job.wanted(began)
        report = self._lane.run(job, payloads)
        job.parts += report.parts
        self._put_parts(job, End.SET_ASIDE if report.is_set_aside else End.ENDED)
        self._pace.took(time.monotonic() - began)

    def _isolate(self, job: Job) -> None:
        self._tell_started(job)
        self._note(job)
        job.expire(time.monotonic())
        report = self._lane.isolate(job.unwanted)
        if report.broken is not None and self._may_run_again and len(report.parts) > 1:
            # One of them broke the model, and the others shall not fail with it: the front has
            # what nobody answered run alone, by the worker that follows this one.
            raise Broken(report.broken)
        job.parts += report.parts
        job.parts += [(index, None) for index in report.skipped]
        self._put_parts(job, End.SET_ASIDE if report.is_set_aside else End.ENDED)
        if report.broken is not None:
            raise Broken(report.broken)

    def _note(self, job: Job) -> None:
        self._slots[HANDLED] = self._slots[PREDICTED] = job.id

    # Messages

    def _receive(self, *, block: bool) -> None:
        messages = self._channel.receive(block=block)
        if messages is None:
            self._is_lost = True
            return
        for message in messages:
            self._take(message)

    def _take(self, message: Message) -> None:
        if isinstance(message, Run):
            if self._is_draining:
                return  # sent before the front knew: others run it
            job = Job(message, time.monotonic())
            self._jobs[job.id] = job
            self._at_hand.append(job)
        elif isinstance(message, Cancel):
            if (job_or_none := self._jobs.get(message.batch)) is not None:
                job_or_none.unwanted.add(message.index)
        elif isinstance(message, Ask):
            self._channel.put(self._stats())
            self._channel.flush()
        elif isinstance(message, Drain):
            self._is_draining = True
        elif isinstance(message, Bye):
            self.bye = message
            self._is_over = True

    def _tell_started(self, job: Job) -> float:
        """Tell the front, in one write with what the job before it brought."""
        self._channel.put(Started(job.id))
        self._channel.flush()
        return time.monotonic()

    def _put_parts(self, job: Job, end: End) -> None:
        parts, job.parts = job.parts, []
        if end is End.ENDED:
            del self._jobs[job.id]
        if parts or end is not End.OPEN:
            self._channel.put(Parts(job.id, parts, end))


class _Overlap:
    """A stretch of batches during which a second thread does all but predict."""

    def __init__(self, loop: Loop) -> None:
        self._loop = loop
        self._ready: queue.SimpleQueue[Job | None] = queue.SimpleQueue()
        self._predicted: deque[Job] = deque()
        self._order: deque[Job] = deque(loop._at_hand)
        self._in_predict = 0
        self._is_failing = False
        self._error: BaseException | None = None

    def serve(self) -> None:
        """Predict what the second thread prepares, until it has handed everything back."""
        loop = self._loop
        handler = threading.Thread(target=self._handle, name="handler", daemon=True)
        handler.start()
        replica, slots = loop._lane.replica, loop._slots
        while (job := self._ready.get()) is not None:
            slots[PREDICTED] = job.id
            began = time.monotonic()
            try:
                job.outputs = replica.predict(job.prepared) if job.drop_unwanted(began) else []
            except BaseException as error:
                job.error = error
            job.spent_s += time.monotonic() - began
            self._predicted.append(job)
            loop._channel.wake()
        handler.join()
        if self._error is not None:
            raise self._error

    # On the second thread

    def _handle(self) -> None:
        loop = self._loop
        loop._slots[HANDLER_THREAD] = threading.get_ident()
        try:
            while not self._is_over:
                self._turn()
        except BaseException as error:
            self._error = error
        self._ready.put(None)

    @property
    def _is_over(self) -> bool:
        loop = self._loop
        if loop._is_lost or loop._is_over:
            return True
        return self._wants_out and not self._in_predict

    @property
    def _wants_out(self) -> bool:
        """Whether what is at hand is left to be run in turn."""
        loop = self._loop
        return self._is_failing or loop._has_ended or not loop._pace.overlaps

    def _turn(self) -> None:
        """Finish what was predicted, tell, then prepare one batch."""
        loop = self._loop
        may_prepare = bool(loop._at_hand) and not self._wants_out
        has_news, _ = loop._channel.wait(block=not may_prepare)
        while self._predicted:
            self._finish(self._predicted.popleft())
        if has_news:
            before = len(loop._at_hand)
            loop._receive(block=False)
            self._order.extend(list(loop._at_hand)[before:])
        goes_on = not self._wants_out
        if self._order and (goes_on or self._in_predict):
            self._tell_started(self._order[0])
        loop._channel.flush()
        if loop._at_hand and goes_on:
            self._prepare(loop._at_hand.popleft())

    def _tell_started(self, job: Job) -> None:
        """With the next write: nothing is before it now."""
        if not job.told:
            job.told = True
            self._loop._channel.put(Started(job.id))

    def _prepare(self, job: Job) -> None:
        loop = self._loop
        loop._slots[HANDLED] = job.id
        began = time.monotonic()
        payloads = job.wanted(began)
        job.prepared = loop._lane.replica.prepare(payloads, job.parts.append)
        job.spent_s = time.monotonic() - began
        if job.prepared:
            self._in_predict += 1
            self._ready.put(job)
        else:
            self._tell_started(job)
            self._order.remove(job)
            loop._put_parts(job, End.ENDED)
            loop._channel.flush()

    def _finish(self, job: Job) -> None:
        """Answer a batch; one whose predict raised is isolated, in turn, once this is over."""
        loop, replica = self._loop, self._loop._lane.replica
        self._in_predict -= 1
        self._tell_started(job)
        self._order.remove(job)

        emit = job.parts.append
        loop._slots[HANDLED] = job.id
        began = time.monotonic()
        end = End.ENDED
        if job.error is None:
            replica.finish(job.prepared, job.outputs, emit)
        elif (isolation := replica.isolation(job.prepared, job.error, emit)) is not None:
            loop._lane.set_aside(job, isolation)
            self._is_failing = True
            end = End.SET_ASIDE
        loop._put_parts(job, end)
        job.prepared, job.outputs, job.error = Prepared([], []), None, None
        loop._pace.took(job.spent_s + time.monotonic() - began)
