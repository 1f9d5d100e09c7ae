"""The engine of one model: carries out what the batcher decides, on one event loop, with no locks.

It owns one timer, set to the instant that the batcher names, and makes one pass for all that one
turn of the loop brought.
"""

from __future__ import annotations

import asyncio
import logging
import math
import traceback
from collections.abc import Callable, Sequence
from typing import Protocol

import msgspec

from .batching import Answer, Batch, Batcher, Cancel, Item, Overrun, Rules, Run, State, key_and_cost
from .call import INTERNAL_ERROR, Call, Failure, Outcome, Payload, Value
from .card import ModelCard
from .clock import (
    LOOK_S,
    NEVER,
    STOPPED_S,
    Cancellable,
    Clock,
    Instant,
    Scheduler,
    system_clock,
)
from .config import Limits
from .errors import Draining, HeadraceError, ItemError, ModelError, NotReady
from .executors import Executor, Loss, ReplicaStatus
from .metrics import ModelCounts
from .model import Model

_log = logging.getLogger(__name__)


class Sink(Protocol):
    """Who waits for a call's outcomes; called on the event loop's thread, and must not raise."""

    def part(self, index: int, outcome: Outcome, last: bool) -> None:
        """The outcome of the call's payload at `index`, or, if not `last`, a part of it."""


class Ticket(Protocol):
    """A call that was admitted, or will be with this turn of the loop."""

    def cancel(self) -> None:
        """Give the call up: what waits leaves the queue at once, and the sink hears no more."""


class Submitted(msgspec.Struct, eq=False):
    """The ticket of a call.

    Attributes:
        engine: Whose call it is.
        items: The call's.
    """

    engine: Engine
    items: Sequence[Item]

    def cancel(self) -> None:
        self.engine._cancel(self.items)


class Posted(Item, eq=False):
    """The item of a payload that was posted, and its ticket.

    Attributes:
        engine: Whose it is.
    """

    engine: Engine | None = None

    def cancel(self) -> None:
        if self.engine is not None:
            self.engine._cancel((self,))


class Engine:
    """Serves one model.

    Args:
        card: What the model is.
        executor: Where its batches run.
        loop: The event loop; every method is called on its thread.
        limits: The queue's bounds and the time a batch may run.
        clock: Tells the time in the loop's own pace.
        sizing: Gives key and cost of a payload; a model that need not be loaded.
        on_hung: Called when a replica has run one batch for `predict_timeout_s`.
        on_ready: Called each time that a replica becomes ready.
        on_start_failed: Called with the reason when a replica will never be ready.
        rules: Which batching rules are in force.
    """

    def __init__(
        self,
        card: ModelCard,
        executor: Executor,
        *,
        loop: Scheduler,
        limits: Limits | None = None,
        clock: Clock = system_clock,
        sizing: Model | None = None,
        on_hung: Callable[[], None] = lambda: None,
        on_ready: Callable[[], None] = lambda: None,
        on_start_failed: Callable[[str], None] = lambda reason: None,
        rules: Rules | None = None,
    ) -> None:
        limits = limits or Limits()
        self._describe(card)
        self.counts = ModelCounts()
        self.replicas: dict[int, ReplicaStatus] = {}
        self.draining = False
        self._executor = executor
        self._loop = loop
        self._clock = clock
        self._sizing = sizing
        self._on_hung = on_hung
        self._on_ready = on_ready
        self._on_start_failed = on_start_failed
        self._batcher = Batcher(
            card.batching,
            max_items=limits.max_queue_items,
            max_bytes=limits.max_queue_bytes,
            predict_timeout_s=limits.predict_timeout_s,
            idempotent=card.idempotent,
            rules=rules,
        )
        self._unsized: list[tuple[Item, Failure]] = []
        self._posted: list[Item] = []
        self._has_withdrawn = False
        self._pass_due = False
        self._timer: Cancellable | None = None
        self._timer_at: Instant = NEVER
        self._when_empty: list[Callable[[], None]] = []

    # For the faces

    def open(self) -> None:
        """Begin to get the replicas ready."""
        self._executor.open(self)

    def submit(self, call: Call, sink: Sink) -> Ticket:
        """Admit a call, whole or not at all. The sink is told of each payload's outcome once.

        Raises:
            Unavailable: Not now: no replica is ready, the queue is full, or the server drains.
            PayloadTooLarge: The call is larger than the queue.
        """
        try:
            return self._admit(call, sink)
        except HeadraceError as error:
            self.counts.refused[error.code] += 1
            raise

    def post(
        self,
        now: Instant,
        payload: Payload,
        deadline: Instant,
        sink: Sink,
        priority: int = 0,
        client: str | None = None,
    ) -> Ticket:
        """Admit one payload with all others that this turn of the loop brings, at its end.

        Unlike `submit` it never refuses at once: why it is not admitted is told to the sink.
        """
        if self._sizing is None:
            if self._is_plain:
                key, cost = payload.key, payload.cost
            else:
                key, cost = key_and_cost(self.card.batching, payload)
            size_bytes = len(payload.body)
            item = Posted(
                payload,
                sink,
                0,
                payload.count,
                cost,
                size_bytes,
                key,
                deadline,
                priority,
                client,
                arrived=now,
                engine=self,
            )
            self._posted.append(item)
            if not self._pass_due:
                self._pass_soon()
            return item
        try:
            return self.submit(Call((payload,), deadline, priority, client), sink)
        except HeadraceError as error:
            self._loop.call_soon(sink.part, 0, Failure.of(error), True)
            return Submitted(self, ())

    async def ask(self, call: Call) -> list[Outcome]:
        """The outcomes of a call, in the order of its payloads; cancelling this cancels it.

        Raises:
            Unavailable, PayloadTooLarge: As `submit`.
        """
        waiter = _Waiter(len(call.payloads), asyncio.get_running_loop().create_future())
        ticket = self.submit(call, waiter)
        try:
            return await waiter.done
        except asyncio.CancelledError:
            ticket.cancel()
            raise

    @property
    def ready_replicas(self) -> int:
        """Replicas that take batches."""
        return sum(status.state == "ready" for status in self.replicas.values())

    @property
    def is_ready(self) -> bool:
        """Whether a call would be run now, but for its size."""
        return self.ready_replicas > 0 and not self.draining

    @property
    def reason(self) -> str:
        """Why it is not ready, for people; empty if it is."""
        if self.draining:
            return "draining"
        if self.ready_replicas:
            return ""
        return next((s.reason for s in self.replicas.values() if s.reason), "loading")

    @property
    def queued_items(self) -> int:
        return self._batcher.queue.count

    @property
    def queued_bytes(self) -> int:
        return self._batcher.queue.size_bytes

    @property
    def running_items(self) -> int:
        return sum(item.count for item in self._batcher.running)

    def drain(self, when_empty: Callable[[], None]) -> None:
        """Refuse new calls; call back once all admitted ones have ended."""
        self.draining = True
        self._when_empty.append(when_empty)
        self._pass_soon()

    def close(self) -> None:
        """End what has not ended, and stop the replicas."""
        self.draining = True
        self._batcher.close(self._clock(), Draining("the server is shutting down"))
        self._pass()
        if self._timer is not None:
            self._timer.cancel()
        self._executor.close()

    def join(self, timeout_s: float) -> bool:
        """Wait, after `close`, until the replicas have stopped; False if one has not. Blocks."""
        return self._executor.join(timeout_s)

    # For the executor (see executors.Events)

    def ready(self, replica: int, card: ModelCard) -> None:
        self._describe(card)
        self.replicas[replica] = ReplicaStatus("ready")
        self._batcher.ready(self._clock(), replica)
        self._pass_soon()
        self._on_ready()

    def unready(self, replica: int, reason: str, back_at: Instant = NEVER) -> None:
        _log.error("replica not ready", extra={"model": self.card.name, "reason": reason})
        self.replicas[replica] = ReplicaStatus("unready", reason)
        self._batcher.unready(self._clock(), replica, back_at=back_at)
        self._pass_soon()

    def start_failed(self, replica: int, reason: str) -> None:
        self.replicas[replica] = ReplicaStatus("failed", reason)
        self._on_start_failed(reason)

    def started(self, batch: Batch) -> None:
        now = self._clock()
        self._set_timer(now, self._batcher.started(now, batch))

    def part(self, batch: Batch, index: int, outcome: Outcome, last: bool) -> None:
        failed = isinstance(outcome, Failure)
        if self._batcher.part(self._clock(), batch, index, failed=failed, last=last):
            self._deliver(batch.items[index], outcome, last)

    def parts(self, batch: Batch, outcomes: Sequence[tuple[int, Outcome]]) -> None:
        answered = 0
        for item, outcome in self._batcher.parts(self._clock(), batch, outcomes):
            if type(outcome) is Value and outcome.status < 400:
                answered += item.count
            else:
                self.counts.items[_code_of(outcome)] += item.count
            # Its ticket holds it: no circle shall keep the body alive.
            sink, item.owner = item.owner, None
            try:
                sink.part(item.place, outcome, True)
            except Exception:
                _log.exception("a sink raised")
        if answered:
            self.counts.items["ok"] += answered

    def set_aside(self, batch: Batch) -> None:
        if not batch.isolated:
            self.counts.isolations += 1
        self._batcher.set_aside(self._clock(), batch)
        self._pass_soon()

    def ended(self, batch: Batch) -> None:
        now = self._clock()
        if batch.started_at is not None:
            self.counts.batch_s.observe(now - batch.started_at)
        self._batcher.ended(now, batch)
        if self._batcher.has_full_batch:
            # It cannot grow, and the answers that are about to be written take their time.
            self._pass()
        else:
            self._pass_soon()

    def lost(self, replica: int, loss: Loss, back_at: Instant = NEVER) -> None:
        self.counts.restarts[loss.cause] += 1
        self.replicas[replica] = ReplicaStatus("unready", loss.reason)
        guilty = None if loss.guilty is None else loss.guilty[0].items[loss.guilty[1]]
        suspects, now = loss.suspects, self._clock()
        for batch in loss.begun:
            if batch.started_at is None:
                self._batcher.started(now, batch)
        self._batcher.lost(
            now,
            replica,
            guilty=guilty,
            suspects=None if suspects is None else [batch.items[i] for batch, i in suspects],
            is_outside=loss.is_outside,
            back_at=back_at,
        )
        self._pass_soon()

    def withdrawn(self, replica: int, cause: str) -> None:
        _log.info("replica withdrawn", extra={"model": self.card.name, "reason": cause})
        self.replicas[replica] = ReplicaStatus("draining", cause)
        self._batcher.unready(self._clock(), replica)
        self._pass_soon()

    def retired(self, replica: int, cause: str) -> None:
        self.counts.restarts[cause] += 1
        self.replicas.pop(replica, None)
        self._batcher.lost(self._clock(), replica, suspects=(), back_at=self._batcher.back_at)
        self._pass_soon()

    def expected(self, back_at: Instant) -> None:
        self._batcher.expect(self._clock(), back_at)
        self._pass_soon()

    def status(self, replica: int, status: ReplicaStatus) -> None:
        self.replicas[replica] = status

    # Within

    def _describe(self, card: ModelCard) -> None:
        self.card = card
        batching = card.batching
        self._is_plain = not batching.bucket_bytes and batching.cost == "items"

    def _admit(self, call: Call, sink: Sink) -> Ticket:
        if self.draining:
            raise Draining("the server is shutting down")
        if not self._batcher.is_open:
            # The reason is for the operator: it may name paths.
            raise NotReady("the model is not ready")
        batching = self.card.batching
        items = []
        for place, payload in enumerate(call.payloads):
            key, cost = key_and_cost(batching, payload)
            item = Item(
                payload,
                sink,
                place,
                count=payload.count,
                cost=cost,
                size_bytes=len(payload.body),
                key=key,
                deadline=call.deadline,
                priority=call.priority,
                client=call.client,
            )
            items.append(item)
        unsized = [] if self._sizing is None else self._size(self._sizing, items)
        failed = {id(item) for item, _ in unsized}
        sized = [item for item in items if id(item) not in failed] if failed else items
        self._batcher.submit(self._clock(), sized)
        self._unsized += unsized
        self._pass_soon()
        return Submitted(self, items)

    def _size(self, model: Model, items: list[Item]) -> list[tuple[Item, Failure]]:
        """Let the model's own functions say key and cost; returns the items that they failed."""
        unsized = []
        for item in items:
            declared = msgspec.structs.replace(item.payload, key=item.key, cost=item.cost)
            item.key, item.cost, failure = _size(model, declared)
            if failure is not None:
                unsized.append((item, failure))
        return unsized

    def _cancel(self, items: Sequence[Item]) -> None:
        now = self._clock()
        for item in items:
            is_outside = item.state is State.QUEUED and not item.number
            self._has_withdrawn |= is_outside
            if is_outside or self._batcher.cancel(now, item):
                item.state = State.CANCELLED
                item.owner = None
                self.counts.items["cancelled"] += item.count
        self._pass_soon()

    def _pass_soon(self) -> None:
        if not self._pass_due:
            self._pass_due = True
            self._loop.call_soon(self._pass)

    def _pass(self) -> None:
        """Let the batcher decide, and carry it out."""
        self._pass_due = False
        now = self._clock()
        if now > self._timer_at + STOPPED_S:
            self._batcher.resumed(now)
        if self._posted:
            self._admit_posted(now)
        actions, wake = self._batcher.tick(now)
        for action in actions:
            if isinstance(action, Run):
                self._run(action.batch, now)
            elif isinstance(action, Answer):
                self._deliver(action.item, action.failure, True)
            elif isinstance(action, Cancel):
                self._executor.cancel(action.batch, action.index)
            else:
                self._overran(action)
        if self._unsized:
            unsized, self._unsized = self._unsized, []
            for item, failure in unsized:
                if item.state is State.QUEUED:
                    item.state = State.FAILED
                    self._deliver(item, failure, True)
        self._set_timer(now, wake)
        if self._when_empty and self._batcher.empty and not self._posted:
            callbacks, self._when_empty = self._when_empty, []
            for callback in callbacks:
                callback()

    def _admit_posted(self, now: Instant) -> None:
        """Admit what was posted in this turn, each for itself, and tell who is refused."""
        wanted, self._posted = self._posted, []
        if self._has_withdrawn:
            self._has_withdrawn = False
            wanted = [item for item in wanted if item.state is State.QUEUED]
        if self.draining:
            refusals: Sequence[tuple[Item, HeadraceError]] = [
                (item, Draining("the server is shutting down")) for item in wanted
            ]
        elif not self._batcher.is_open:
            # The reason is for the operator: it may name paths.
            refusals = [(item, NotReady("the model is not ready")) for item in wanted]
        else:
            refusals = self._batcher.submit_each(now, wanted)
        for item, error in refusals:
            self.counts.refused[error.code] += 1
            item.state = State.FAILED
            sink, item.owner = item.owner, None
            self._tell(sink, item.place, Failure.of(error))

    def _run(self, batch: Batch, now: Instant) -> None:
        counts = self.counts
        counts.batches[batch.cut.value] += 1
        counts.batch_items.observe(batch.count)
        counts.queue_s.observe_all([now - item.arrived for item in batch.items])
        try:
            self._executor.start(batch)
        except Exception:
            _log.exception("a batch could not be started", extra={"model": self.card.name})
            self._give_up(batch)

    def _give_up(self, batch: Batch) -> None:
        """Answer what no replica has got, and give its slot back."""
        failure = Failure(code=INTERNAL_ERROR, message="the item could not be run")
        self.parts(batch, [(index, failure) for index in range(len(batch.items))])
        self._batcher.ended(self._clock(), batch)
        self._pass_soon()

    def _overran(self, action: Overrun) -> None:
        replica = action.batch.replica
        reason = "hung: a batch ran for longer than predict_timeout_s"
        if self._executor.replace(replica):
            self.status(replica, ReplicaStatus("unready", reason))
            return  # the executor will tell that it is lost, and what was running
        self.unready(replica, reason)
        self._batcher.lost(self._clock(), replica)
        self._on_hung()

    def _deliver(self, item: Item, outcome: Outcome, last: bool) -> None:
        if last:
            self.counts.items[_code_of(outcome)] += item.count
        sink = item.owner
        if last:
            item.owner = None  # its ticket holds it: no circle shall keep the body alive
        self._tell(sink, item.place, outcome, last)

    def _tell(self, sink: Sink, place: int, outcome: Outcome, last: bool = True) -> None:
        try:
            sink.part(place, outcome, last)
        except Exception:
            _log.exception("a sink raised")

    def _set_timer(self, now: Instant, wake: Instant) -> None:
        """Set the one timer; one that is too early is left, and finds nothing to do."""
        if wake >= self._timer_at or wake == NEVER:
            return
        wake = min(wake, now + LOOK_S)
        if wake >= self._timer_at:
            return
        if self._timer is not None:
            self._timer.cancel()
        self._timer_at = wake
        self._timer = self._loop.call_later(max(0.0, wake - now), self._timer_fired)

    def _timer_fired(self) -> None:
        now = self._clock()
        if now > self._timer_at + STOPPED_S:
            self._batcher.resumed(now)
        self._timer, self._timer_at = None, NEVER
        self._pass_soon()


class _Waiter:
    """A sink that gathers a call's outcomes into a future."""

    def __init__(self, size: int, done: asyncio.Future[list[Outcome]]) -> None:
        self.done = done
        self._outcomes: list[Outcome | None] = [None] * size
        self._left = size

    def part(self, index: int, outcome: Outcome, last: bool) -> None:
        self._outcomes[index] = outcome
        self._left -= last
        if not self._left and not self.done.done():
            self.done.set_result([part for part in self._outcomes if part is not None])


def _code_of(outcome: Outcome) -> str:
    """What an ended item counts as."""
    if isinstance(outcome, Failure):
        return outcome.code
    return "ok" if outcome.status < 400 else ItemError.code


def _size(model: Model, payload: Payload) -> tuple[object, float, Failure | None]:
    """A payload's key and cost by the model's own functions, or why they gave none.

    What the settings declare is in the payload: it is what a function that is not overridden gives.
    """
    try:
        key = model.key(payload)
        hash(key)
        cost = float(model.cost(payload))
        if not 0 <= cost < math.inf:
            raise ValueError(f"cost: expected a finite number of at least 0, got {cost}")
    except Exception as error:
        known = ModelError("the model failed in key or cost", details=({"stage": "sizing"},))
        log = "".join(traceback.format_exception(error))
        return None, 0.0, Failure.of(known, log=log)
    return key, cost, None
