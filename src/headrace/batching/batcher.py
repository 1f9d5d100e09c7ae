"""The batcher: what runs, where, and when. It decides, and its owner carries the decisions out.

Everything that happens is told to it with the instant at which it happened; `tick` returns what
to do about it and when to ask again. It reads no clock and does no I/O, so that the same events
bring the same decisions, in production, in tests and in the simulator.
"""

from __future__ import annotations

import bisect
from collections.abc import Collection, Iterator, Sequence

import msgspec

from ..call import INTERNAL_ERROR, Failure, Outcome, Value
from ..clock import NEVER, Instant
from ..config import Batching
from ..errors import DeadlineExceeded, HeadraceError, NotReady, ReplicaLost
from .admission import Admission
from .blame import Blame
from .fleet import Fleet, Replica
from .item import CANCELLED, DONE, EXPIRED, FAILED, QUEUED, RUNNING, Batch, Cut, Item, State
from .policy import DEFAULT_ITEM_S, Policy, Rules
from .queue import LEAST_RETRY_S, Bucket, Deadlines, Queue


class Run(msgspec.Struct, frozen=True):
    """Start this batch on its replica, in its slot."""

    batch: Batch


class Cancel(msgspec.Struct, frozen=True):
    """Nobody wants this running item any more."""

    batch: Batch
    index: int


class Answer(msgspec.Struct, frozen=True):
    """This item has ended without the model's answer."""

    item: Item
    failure: Failure


class Overrun(msgspec.Struct, frozen=True):
    """This batch has run for longer than `predict_timeout_s`: its replica hangs."""

    batch: Batch


Action = Run | Cancel | Answer | Overrun


class Batcher:
    """The rules of dynamic batching.

    Args:
        batching: How items are put together.
        max_items: Items that may wait.
        max_bytes: Bytes of payload that may wait, and that a batch may hold.
        predict_timeout_s: How long a batch may run.
        idempotent: Whether the items of a lost replica may run again.
        rules: Which rules are in force; all, but for the simulator.

    Attributes:
        queue: What waits.
        back_at: When a replica should be ready, where none is; NEVER if that cannot be foreseen.
    """

    def __init__(
        self,
        batching: Batching,
        *,
        max_items: int,
        max_bytes: int,
        predict_timeout_s: float = NEVER,
        idempotent: bool = True,
        rules: Rules | None = None,
    ) -> None:
        self.queue = Queue(
            max_items=max_items, max_bytes=max_bytes, priority_step_s=batching.priority_step_s
        )
        self._max_size = batching.max_batch_size
        self._max_cost = batching.max_batch_cost
        self._rules = rules or Rules()
        self._policy = Policy(batching, self._rules)
        self._fleet = Fleet(second_slot=self._rules.second_slot)
        self._admission = Admission(self._max_size, self.queue, self._policy, self._fleet)
        self._predict_timeout_s = predict_timeout_s
        self._idempotent = idempotent
        self._live: dict[int, Item] = {}
        self._deadlines = Deadlines(self._live)
        self._suspects: list[Item] = []
        self.back_at: Instant = NEVER
        self._actions: list[Action] = []
        self._cuts = 0

    # What happens

    def submit(self, now: Instant, items: Sequence[Item]) -> None:
        """Admit the items of one call, all or none.

        Raises:
            NotReady: No replica is ready, and none is expected to be by their deadline.
            QueueFull: The queue has no room for them now.
            Overloaded: They would be answered after their deadline.
            PayloadTooLarge: The queue will never have room.
        """
        if not items:
            return  # of a call all of whose items have failed before
        replicas, wait_s = self._fleet.ready_count, 0.0
        if not replicas:
            wait_s = self._recovery_s(now, items)
        # Room that expired items hold is free.
        self._expire(now)
        item_s = self._policy.item_s / max(replicas, 1)
        if self._rules.admission and self._admission.is_needed(now, items):
            self._admission.check(now, items, item_s=item_s)
        count = self.queue.admit(now, items, item_s=item_s, wait_s=wait_s)
        for item in items:
            self._live[item.number] = item
            self._deadlines.add(item)
        self._policy.arrived(now, count)

    def submit_each(
        self, now: Instant, items: Sequence[Item]
    ) -> Sequence[tuple[Item, HeadraceError]]:
        """Admit items each of which is a call of its own; returns those refused, and why.

        Their instants of arrival are theirs; the errors are those that `submit` raises.
        """
        replicas, wait_s = self._fleet.ready_count, 0.0
        refusals: list[tuple[Item, HeadraceError]] = []
        if not replicas:
            wait_s = max(self.back_at - now, 0.0)
            late = [item for item in items if self._is_too_late(item)]
            refusals += [(item, self._not_ready(now)) for item in late]
            refused_ids = set(map(id, late))
            items = [item for item in items if id(item) not in refused_ids]
        self._expire(now)
        item_s = self._policy.item_s / max(replicas, 1)
        if self._rules.admission and items and self._admission.is_needed(now, items):
            admitted, refused = self._admission.admit_each(now, items, item_s=item_s)
        else:
            admitted, refused = self.queue.admit_each(items, item_s=item_s, wait_s=wait_s)
        live, count = self._live, 0
        for item in admitted:
            live[item.number] = item
            count += item.count
        self._deadlines.add_all(admitted)
        self._policy.arrived(now, count)
        return [*refusals, *refused]

    def cancel(self, now: Instant, item: Item) -> bool:
        """Nobody wants this item any more. False if it has ended already."""
        if item.number not in self._live:
            return False
        self._withdraw(item, CANCELLED)
        return True

    def ready(self, now: Instant, replica: int) -> None:
        """A replica takes batches, for the first time or again."""
        self._fleet.ready(replica)
        self.back_at = NEVER

    def unready(self, now: Instant, replica: int, *, back_at: Instant | None = None) -> None:
        """A replica takes no further batches; what it runs goes on.

        Args:
            now: The instant.
            replica: Which.
            back_at: As in `expect`; None leaves it at what was told before.
        """
        self._fleet.unready(replica)
        self.expect(now, self.back_at if back_at is None else back_at)

    def expect(self, now: Instant, back_at: Instant) -> None:
        """When a replica should be ready again; it replaces what was told before.

        It means nothing while a replica is ready. When none is, what waits and is wanted until
        then or longer goes on waiting, for as long as its own deadline allows, even when that
        instant passes; the rest is answered at once.

        Args:
            now: The instant.
            back_at: The instant at which some replica should be ready, NEVER if that cannot be
                foreseen.
        """
        if self._fleet.ready_count:
            return
        self.back_at = back_at
        failure = Failure.of(self._not_ready(now))
        for item in [*self.queue, *self._suspects]:
            if self._is_too_late(item):
                self._leave(item)
                self._answer(item, FAILED, failure)

    def started(self, now: Instant, batch: Batch) -> Instant:
        """A replica began to work on a batch, or on one that it had set aside.

        Returns:
            When to ask again at the latest. Nothing else changes by it.
        """
        batch.started_at = now
        return now + self._predict_timeout_s

    def resumed(self, now: Instant) -> None:
        """The process was stopped, and goes on: what runs gets the time that it may take anew.

        The replicas may have been stopped, too, and nobody knows for how long.
        """
        self._fleet.resumed(now)

    def part(
        self, now: Instant, batch: Batch, index: int, *, failed: bool = False, last: bool = True
    ) -> bool:
        """A replica answered an item. False if the item had ended: nobody wants the answer."""
        item = batch.items[index]
        if item.state is not RUNNING or item.batch is not batch:
            return False
        if last:
            self._end(item, FAILED if failed else DONE)
            item.batch = None  # no circle of references shall keep the payload
            batch.answered += item.count
        return True

    def parts(
        self, now: Instant, batch: Batch, outcomes: Sequence[tuple[int, Outcome]]
    ) -> list[tuple[Item, Outcome]]:
        """A replica answered items, by their index; those that somebody still waits for."""
        live, items = self._live, batch.items
        wanted = []
        answered = 0
        for index, outcome in outcomes:
            item = items[index]
            if item.state is RUNNING and item.batch is batch:
                item.state = DONE if type(outcome) is Value else FAILED
                item.batch = None
                del live[item.number]
                answered += item.count
                wanted.append((item, outcome))
        batch.answered += answered
        return wanted

    def set_aside(self, now: Instant, batch: Batch) -> None:
        """A batch's predict failed: its slot is free, its items follow in turn with others."""
        batch.started_at = None
        batch.isolated = True
        self._free_slot(now, batch, sent=0)

    def ended(self, now: Instant, batch: Batch) -> None:
        """A replica is done with a batch."""
        if not self._fleet.finish(now, batch):
            return
        # A worker passes over what has expired, and may be heard before our own timer.
        self._expire(now)
        answered = batch.answered
        if answered < batch.count:
            for item in batch.items:
                if item.state is RUNNING:
                    failure = Failure(code=INTERNAL_ERROR, message="the item was not answered")
                    self._answer(item, FAILED, failure)
                item.batch = None
        is_usual = not (batch.isolated or batch.was_stopped) and batch.cut is not Cut.SUSPECT
        if batch.started_at is not None and is_usual and answered:
            was_guess = not self._policy.is_measured
            self._policy.measured(now - batch.started_at, batch.count)
            if was_guess:
                # Since its cut: a server that is busy may hear of start and end in one breath.
                item_s = (now - batch.cut_at) / batch.count
                self.queue.rescale(item_s / DEFAULT_ITEM_S)
            if batch.leaves_others or batch.count > self._admission.batch_items:
                self._admission.measured(batch.count)
        self._free_slot(now, batch, sent=answered)

    def lost(
        self,
        now: Instant,
        replica: int,
        *,
        guilty: Item | None = None,
        suspects: Collection[Item] | None = None,
        is_outside: bool = False,
        back_at: Instant = NEVER,
    ) -> None:
        """A replica is gone.

        Its items go back to their place, but for the guilty one, which fails. Where that is not
        known, those that may be it become suspects, and run alone. Where only one may be it, as
        when a suspect's replica is lost, that one is guilty. An act from outside is pardoned to
        each item once, which goes back as it came: who kills replicas at random convicts nobody,
        and need not make the rest run alone. So an item that ends its replicas itself costs at
        most two of them, and one that is met by acts from outside as well three.

        Args:
            now: The instant.
            replica: Which.
            guilty: The item that is known to have ended it; nobody else is suspected then.
            suspects: The items of which one may have ended it, given up or not; empty where none
                can have. None where that is not known: each one that was being worked on.
            is_outside: Whether it looks like an act from outside.
            back_at: As in `expect`.
        """
        batches = self._fleet.lose(replica)
        if not self._fleet.ready_count:
            self.back_at = back_at
        blame = Blame(batches, guilty, suspects, is_outside)
        for batch in batches:
            self._recover(batch, blame)
        if not self._fleet.held:
            self._policy.idle(now)
        self.expect(now, back_at)

    def close(self, now: Instant, error: HeadraceError) -> None:
        """End every item that has not ended, with this error."""
        failure = Failure.of(error)
        for item in [*self._live.values()]:
            if item.state is QUEUED:
                self._leave(item)
            self._answer(item, FAILED, failure)

    # What to do about it

    def tick(self, now: Instant) -> tuple[list[Action], Instant]:
        """What to do now, in this order, and the instant at which to ask again at the latest."""
        self._expire(now)
        wake = min(self._dispatch(now), self._check_overruns(now), self._deadlines.next())
        actions, self._actions = self._actions, []
        return actions, wake

    @property
    def is_open(self) -> bool:
        """Whether a call may be admitted: a replica is ready, or should be."""
        return self._fleet.ready_count > 0 or self.is_expected

    @property
    def is_expected(self) -> bool:
        """Whether no replica is ready, but one should be: calls that can wait are admitted."""
        return self.back_at < NEVER

    @property
    def has_full_batch(self) -> bool:
        """Whether a batch waits that would not grow any more."""
        bounds = self._bounds
        return any(bucket.fills(*bounds) for bucket in self.queue.buckets.values())

    @property
    def running(self) -> Iterator[Item]:
        """The items that replicas work on and that somebody waits for."""
        return (item for item in self._live.values() if item.state is RUNNING)

    @property
    def empty(self) -> bool:
        """Whether every admitted item has ended."""
        return not self._live

    def _expire(self, now: Instant) -> None:
        for item in self._deadlines.passed(now):
            failure = _too_late(item)
            self._withdraw(item, EXPIRED)
            self._actions.append(Answer(item, failure))

    def _dispatch(self, now: Instant) -> Instant:
        """Give batches to replicas; returns when an underfull one has waited enough."""
        fleet, wake = self._fleet, NEVER
        suspects_wait = bool(self._suspects) and fleet.quarantined is None
        if suspects_wait and (vacant := fleet.vacant()) is not None:
            self._run(now, vacant, [self._suspects.pop(0)], Cut.SUSPECT)
            suspects_wait = False
        while self.queue and (replica := fleet.free(keep_one=suspects_wait)) is not None:
            bucket, wake = self._choose(now, is_idle=not replica.held)
            if bucket is None:
                break
            self._cut(now, replica, bucket)
        return wake

    def _choose(self, now: Instant, *, is_idle: bool) -> tuple[Bucket | None, Instant]:
        """The bucket to serve now, if any, and when one that still waits is due.

        The bucket with the oldest head goes first, but a full one before an underfull one whose
        head is older by no more than a batch time. A replica that is not idle takes only a full
        one: where an underfull one goes first, it takes none, so as to be idle soon.
        """
        policy, bounds, wake = self._policy, self._bounds, NEVER
        full: Bucket | None = None
        underfull: Bucket | None = None
        for bucket in self.queue.buckets.values():
            if bucket.fills(*bounds):
                if full is None or bucket.items[0] < full.items[0]:
                    full = bucket
            elif (due := policy.due(bucket)) > now:
                wake = min(wake, due)
            elif underfull is None or bucket.items[0] < underfull.items[0]:
                underfull = bucket
        if underfull is None or (full is not None and not self._is_first(underfull, full)):
            return full, wake
        if not is_idle and self._rules.second_slot_needs_full:
            return None, wake
        if full is None and (settled := policy.settled(now)) > now:
            return None, min(wake, settled)
        return underfull, wake

    def _is_first(self, underfull: Bucket, full: Bucket) -> bool:
        return full.items[0].rank - underfull.items[0].rank > self._policy.batch_s

    def _cut(self, now: Instant, replica: Replica, bucket: Bucket) -> None:
        bounds = self._bounds
        is_full, size = bucket.fills(*bounds), bucket.fitting(*bounds)
        if self._policy.was_busy(now):
            latest = now + self._policy.lowest_batch_s
            hopeless = [item for item in bucket.items[:size] if item.deadline < latest]
            if hopeless:
                # They take no place from others: what is to run is chosen without them.
                for item in hopeless:
                    self.queue.remove(item)
                    self._answer(item, EXPIRED, _too_late(item))
                return
        cut = Cut.FULL if is_full else self._policy.underfull_cut(now)
        self._run(now, replica, self.queue.take(bucket, size), cut)

    def _run(self, now: Instant, replica: Replica, items: list[Item], cut: Cut) -> None:
        self._cuts += 1
        batch = Batch(self._cuts, replica.id, replica.slots.index(None), items, cut, now)
        batch.leaves_others = bool(self.queue)
        self._fleet.place(now, replica, batch)
        self._policy.cut(now)
        self._actions.append(Run(batch))

    def _check_overruns(self, now: Instant) -> Instant:
        wake = NEVER
        for batch, since in self._fleet.under_way():
            if batch.overrun:
                continue
            limit = since + self._predict_timeout_s
            if now >= limit:
                batch.overrun = True
                self._actions.append(Overrun(batch))
            elif limit < wake:
                wake = limit
        return wake

    # Within

    @property
    def _bounds(self) -> tuple[int, float, float]:
        """The most items, cost and bytes of a batch."""
        return self._max_size, self._max_cost, self.queue.batch_bytes

    def _free_slot(self, now: Instant, batch: Batch, *, sent: int) -> None:
        if self._fleet.release(now, batch):
            self._policy.freed(now, sent=sent, waiting=self.queue.count)
            if not self._fleet.held:
                self._policy.idle(now)

    def _recover(self, batch: Batch, blame: Blame) -> None:
        """Decide on the items of a batch whose replica is gone."""
        has_begun = batch.started_at is not None or batch.isolated
        failure = Failure.of(ReplicaLost("the replica was lost while it ran this item"))
        for item in batch.items:
            item.batch = None
            if item.state is not RUNNING:
                continue
            no_time = self.is_expected and self._is_too_late(item)
            may_run_again = not has_begun or (self._idempotent and not no_time)
            if blame.convicts(item) or not may_run_again:
                self._answer(item, FAILED, failure)
            else:
                self._requeue(item)

    def _requeue(self, item: Item) -> None:
        item.state = QUEUED
        if item.suspect:
            bisect.insort(self._suspects, item)
        else:
            self.queue.insert(item)

    def _withdraw(self, item: Item, end: State) -> None:
        """End an item from outside: out of the queue, or off the replica's hands."""
        if item.batch is not None:
            self._actions.append(Cancel(item.batch, item.index))
        else:
            self._leave(item)
        self._end(item, end)

    def _leave(self, item: Item) -> None:
        if item.suspect:
            self._suspects.remove(item)
        else:
            self.queue.remove(item)

    def _answer(self, item: Item, end: State, failure: Failure) -> None:
        self._end(item, end)
        self._actions.append(Answer(item, failure))

    def _end(self, item: Item, end: State) -> None:
        item.state = end
        del self._live[item.number]

    def _is_too_late(self, item: Item) -> bool:
        """Whether no replica will be ready by its deadline, as far as is known; none is now."""
        return not self.is_expected or item.deadline < self.back_at

    def _recovery_s(self, now: Instant, items: Sequence[Item]) -> float:
        """How long it should take until a replica is ready; none is now.

        Raises:
            NotReady: Longer than the items have time, or nobody knows.
        """
        if any(self._is_too_late(item) for item in items):
            raise self._not_ready(now)
        return max(self.back_at - now, 0.0)

    def _not_ready(self, now: Instant) -> NotReady:
        message = "no replica of the model is ready"
        if not self.is_expected:
            return NotReady(message)
        return NotReady(message, retry_after_s=max(self.back_at - now, LEAST_RETRY_S))


def _too_late(item: Item) -> Failure:
    is_queued = item.state is QUEUED
    message = "there was no answer by the deadline"
    return Failure.of(DeadlineExceeded(message, stage="queued" if is_queued else "running"))
