"""The engine, with time moved by hand and an executor that does what the test says."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from typing import Any, ClassVar

import pytest

from headrace import Batching, Model
from headrace.batching import Batch, Cut
from headrace.call import Call, Failure, Outcome, Payload, Value
from headrace.card import ModelCard
from headrace.clock import LOOK_S, NEVER
from headrace.config import Limits
from headrace.engine import Engine, Ticket
from headrace.errors import Draining, NotReady, PayloadTooLarge, ProtocolError, QueueFull
from headrace.executors import Loss, ReplicaStatus
from headrace.replica import Replica
from headrace.testing import ManualClock, ManualLoop, ScriptedExecutor

JSON = "application/json"


class Echo(Model):
    batching: ClassVar = Batching(max_batch_size=4)

    def predict(self, batch: list[Any]) -> list[Any]:
        return batch


class Sized(Echo):
    """Its key and cost are what the body says; some say nonsense."""

    def key(self, payload: Payload) -> Any:
        if payload.body == b'"key raises"':
            raise ValueError("secret")
        return [1] if payload.body == b'"unhashable"' else payload.body[:2]

    def cost(self, payload: Payload) -> float:
        if payload.body == b'"cost raises"':
            raise ValueError("secret")
        return {b'"negative"': -1.0, b'"nan"': float("nan")}.get(payload.body, 1.0)


class Heard:
    """A sink that writes down what it hears."""

    def __init__(self) -> None:
        self.parts: list[tuple[int, Outcome, bool]] = []

    def part(self, index: int, outcome: Outcome, last: bool) -> None:
        self.parts.append((index, outcome, last))

    @property
    def codes(self) -> list[str]:
        """What became of each item: its body's text, or its failure's code."""
        return [o.code if isinstance(o, Failure) else o.body.decode() for _, o, _ in self.parts]

    @property
    def failure(self) -> Failure:
        """The only outcome."""
        [(_, outcome, _)] = self.parts
        assert isinstance(outcome, Failure)
        return outcome


class House:
    """An engine that is ready, with all that surrounds it."""

    def __init__(
        self,
        model: Model | None = None,
        *,
        replicas: int = 1,
        limits: Limits | None = None,
        sizing: Model | None = None,
        can_replace: bool = False,
        make_loop: Callable[[ManualClock], ManualLoop] = ManualLoop,
        make_executor: type[ScriptedExecutor] = ScriptedExecutor,
    ) -> None:
        self.clock = ManualClock(100.0)
        self.loop = make_loop(self.clock)
        card = Replica(model or Echo()).card
        self.executor = make_executor(card, replicas=replicas, can_replace=can_replace)
        self.hung = 0
        self.became_ready = 0
        self.start_failures: list[str] = []
        self.engine = Engine(
            card,
            self.executor,
            loop=self.loop,
            limits=limits,
            clock=self.clock,
            sizing=sizing,
            on_hung=self._on_hung,
            on_ready=self._on_ready,
            on_start_failed=self.start_failures.append,
        )
        self.engine.open()
        self.loop.run()

    def ask(self, *bodies: str, deadline: float = NEVER) -> tuple[Heard, Ticket]:
        heard = Heard()
        payloads = tuple(
            Payload(body=body.encode(), input_type=JSON, output_type=JSON) for body in bodies
        )
        return heard, self.engine.submit(Call(payloads=payloads, deadline=deadline), heard)

    def begin(self, *bodies: str, deadline: float = NEVER) -> tuple[Heard, Batch]:
        """Ask, and let the one batch begin; the executor forgets it."""
        heard, _ = self.ask(*bodies, deadline=deadline)
        self.loop.run()
        batch = self.executor.begin()
        self.executor.batches.clear()
        return heard, batch

    def states(self) -> dict[int, str]:
        return {number: status.state for number, status in self.engine.replicas.items()}

    def _on_hung(self) -> None:
        self.hung += 1

    def _on_ready(self) -> None:
        self.became_ready += 1


def test_what_one_turn_of_the_loop_brings_leaves_in_one_batch() -> None:
    house = House()
    heard = [house.ask(str(n))[0] for n in range(3)]
    assert not house.executor.batches
    house.loop.run()
    assert [len(batch.items) for batch in house.executor.batches] == [3]
    house.executor.begin()
    house.executor.finish()
    house.loop.run()
    assert [each.codes for each in heard] == [["0"], ["1"], ["2"]]
    assert house.engine.counts.items == {"ok": 3}
    assert house.engine.counts.batches == {Cut.IDLE.value: 1}


def test_a_calls_outcomes_are_told_by_their_place_in_it() -> None:
    house = House()
    heard, _ = house.ask("1", "2", "3")
    house.loop.run()
    failure = Failure(code="item_error", message="no")
    house.executor.finish({1: failure})
    assert [(index, last) for index, _, last in heard.parts] == [(0, True), (1, True), (2, True)]
    assert heard.codes == ["1", "item_error", "3"]


def test_a_deadline_in_the_queue_is_answered_at_its_instant_and_never_dispatched() -> None:
    house = House()
    for n in range(4):
        house.ask(str(n))
    house.loop.run()
    house.executor.begin()
    late, _ = house.ask("late", deadline=house.clock.now + 0.25)
    house.loop.run()
    house.loop.advance(0.2499)
    assert late.parts == []
    house.loop.advance(0.0001)
    assert late.codes == ["deadline_exceeded"]
    assert late.failure.details == ({"stage": "queued"},)
    assert late.failure.message == "there was no answer by the deadline"
    house.executor.finish()
    house.loop.run()
    assert not house.executor.batches
    assert house.engine.queued_items == 0 and house.engine.queued_bytes == 0


def test_a_deadline_while_running_is_answered_at_its_instant_and_the_late_answer_dropped() -> None:
    house = House()
    late, _ = house.ask("late", deadline=house.clock.now + 0.25)
    mate, _ = house.ask("mate")
    house.loop.run()
    house.executor.begin()
    house.loop.advance(0.25)
    assert late.failure.details == ({"stage": "running"},)
    assert house.executor.cancelled == [(house.executor.batches[0].id, 0)]
    house.executor.finish()
    house.loop.run()
    assert (late.codes, mate.codes) == (["deadline_exceeded"], ["mate"])
    assert house.engine.counts.items == {"deadline_exceeded": 1, "ok": 1}


def test_a_cancelled_call_leaves_the_queue_at_once_and_hears_no_more() -> None:
    house = House()
    for n in range(4):
        house.ask(str(n))
    house.loop.run()
    heard, ticket = house.ask("a", "b")
    assert house.engine.queued_items == 2
    ticket.cancel()
    assert house.engine.queued_items == 0
    ticket.cancel()
    house.executor.finish()
    house.loop.run()
    assert heard.parts == [] and not house.executor.batches
    assert house.engine.counts.items["cancelled"] == 2


def test_cancelling_a_running_item_tells_the_executor_and_changes_nothing_for_its_mates() -> None:
    house = House()
    heard, ticket = house.ask("gone")
    mate, _ = house.ask("mate")
    house.loop.run()
    batch = house.executor.begin()
    ticket.cancel()
    house.loop.run()
    assert house.executor.cancelled == [(batch.id, 0)]
    house.executor.finish()
    assert heard.parts == [] and mate.codes == ["mate"]


def test_before_a_replica_is_ready_calls_are_refused_without_the_reason() -> None:
    house = House(replicas=0)
    with pytest.raises(NotReady) as caught:
        house.ask("1")
    assert caught.value.retry_after_s > 0
    assert (house.engine.is_ready, house.engine.reason) == (False, "loading")
    house.engine.start_failed(0, "load raised OSError: /secret/weights.bin")
    assert house.start_failures == ["load raised OSError: /secret/weights.bin"]
    assert house.engine.reason == "load raised OSError: /secret/weights.bin"
    with pytest.raises(NotReady) as caught:
        house.ask("1")
    assert "secret" not in str(caught.value)
    assert house.engine.counts.refused == {"not_ready": 2}


def test_an_unready_replica_answers_those_who_wait_and_may_come_back() -> None:
    house = House()
    for n in range(4):
        house.ask(str(n))
    house.loop.run()
    waiting, _ = house.ask("waiting")
    house.engine.unready(0, "broken")
    house.loop.run()
    assert waiting.codes == ["not_ready"]
    assert house.engine.reason == "broken" and not house.engine.is_ready
    assert house.executor.events is not None
    house.executor.events.ready(0, house.engine.card)
    house.loop.run()
    assert (house.engine.is_ready, house.engine.reason, house.became_ready) == (True, "", 2)


def test_a_full_queue_refuses_with_the_time_after_which_it_pays_to_come_back() -> None:
    house = House(limits=Limits(max_queue_items=4))
    for n in range(4):
        house.ask(str(n))
    house.loop.run()
    house.executor.begin()
    house.loop.advance(1.0)
    house.executor.finish()
    house.loop.run()
    # Four a second is what was measured; of these eight four run and four wait.
    for n in range(4):
        house.ask(str(n))
    house.loop.run()
    for n in range(4):
        house.ask(str(n))
    with pytest.raises(QueueFull) as caught:
        house.ask("more")
    assert caught.value.retry_after_s == pytest.approx(1.0, rel=0.5)
    assert house.engine.counts.refused == {"queue_full": 1}


def test_a_call_is_admitted_whole_or_not_at_all() -> None:
    house = House(limits=Limits(max_queue_items=4))
    house.ask("1", "2")
    with pytest.raises(QueueFull):
        house.ask("3", "4", "5")
    with pytest.raises(PayloadTooLarge):
        house.ask("1", "2", "3", "4", "5")
    assert house.engine.queued_items == 2
    house.loop.run()
    assert [len(batch.items) for batch in house.executor.batches] == [2]


@pytest.mark.parametrize("body", ["key raises", "unhashable", "cost raises", "negative", "nan"])
def test_a_key_or_cost_that_raises_fails_its_item_only(body: str) -> None:
    house = House(Sized(), sizing=Sized())
    heard, _ = house.ask('"1"', f'"{body}"', '"1"')
    house.loop.run()
    assert heard.failure.code == "model_error"
    assert "secret" not in heard.failure.message
    assert heard.failure.log and "Error" in heard.failure.log
    house.executor.finish()
    assert sorted(index for index, _, _ in heard.parts) == [0, 1, 2]
    assert house.engine.counts.items == {"model_error": 1, "ok": 2}


@pytest.mark.parametrize("bodies", [['"key raises"'], ['"key raises"', '"cost raises"']])
def test_a_call_whose_every_key_or_cost_raises_is_answered_under_overload(
    bodies: list[str],
) -> None:
    house = House(Sized(), sizing=Sized())
    house.ask(*['"1"'] * 4)
    house.loop.run()
    house.executor.begin()
    house.loop.advance(1.0)
    house.executor.finish()
    house.loop.run()
    for _ in range(13):
        house.ask('"1"')  # one batch runs, and more than another waits
    house.loop.run()
    assert house.engine.queued_items > 4
    heard, _ = house.ask(*bodies)
    posted = Heard()
    payload = Payload(body=b'"key raises"', input_type=JSON, output_type=JSON)
    house.engine.post(house.clock(), payload, house.clock() + 1.0, posted)
    house.loop.run()
    assert heard.codes == ["model_error"] * len(bodies)
    assert posted.codes == ["model_error"]


def test_a_call_whose_key_raised_can_be_cancelled_before_it_is_told() -> None:
    house = House(Sized(), sizing=Sized())
    heard, ticket = house.ask('"key raises"')
    ticket.cancel()
    house.loop.run()
    assert heard.parts == [] and house.engine.counts.items == {"cancelled": 1}


def test_items_with_different_keys_never_share_a_batch() -> None:
    house = House(Sized(), sizing=Sized(), replicas=2)
    house.ask('"a1"', '"b1"', '"a2"')
    house.loop.run()
    batches = [[item.payload.body for item in batch.items] for batch in house.executor.batches]
    assert batches == [[b'"a1"', b'"a2"'], [b'"b1"']]


def test_a_sink_that_raises_stops_nobody(caplog: pytest.LogCaptureFixture) -> None:
    class Broken(Heard):
        def part(self, index: int, outcome: Outcome, last: bool) -> None:
            raise RuntimeError("a fault of the face")

    house = House()
    payload = Payload(body=b"1", input_type=JSON, output_type=JSON)
    house.engine.submit(Call(payloads=(payload,)), Broken())
    mate, _ = house.ask("mate")
    house.loop.run()
    house.executor.finish()
    house.loop.run()
    assert mate.codes == ["mate"]
    assert [record.levelno for record in caplog.records] == [logging.ERROR]


class Refusing(ScriptedExecutor):
    """Cannot start a batch that holds a certain body."""

    def start(self, batch: Batch) -> None:
        if any(item.payload.body == b"no" for item in batch.items):
            raise ProtocolError("Run: expected at most 64 bytes of bodies", side="local")
        super().start(batch)


def test_a_batch_that_cannot_be_started_fails_alone(caplog: pytest.LogCaptureFixture) -> None:
    house = House(replicas=2, make_executor=Refusing)
    refused, _ = house.ask("1", "2", "no", "3")
    mate, _ = house.ask("4")
    late, _ = house.ask("5", deadline=house.clock.now + 0.5)
    house.loop.run()
    assert refused.codes == 4 * ["internal_error"]
    assert [len(batch.items) for batch in house.executor.batches] == [2]
    assert [record.message for record in caplog.records] == ["a batch could not be started"]
    # The timer was set all the same.
    house.executor.begin()
    house.loop.advance(0.5)
    assert late.codes == ["deadline_exceeded"]
    house.executor.finish()
    house.loop.run()
    assert mate.codes == ["4"]
    assert house.engine.counts.items == {"internal_error": 4, "ok": 1, "deadline_exceeded": 1}


def test_a_batch_that_could_not_be_started_holds_no_slot() -> None:
    house = House(make_executor=Refusing)
    for _ in range(3):
        refused, _ = house.ask("no")
        house.loop.run()
        assert "64 bytes" not in refused.failure.message
    heard, _ = house.begin("1")
    assert heard.parts == [] and house.engine.running_items == 1


def test_a_drain_ends_behind_the_answers_of_a_batch_that_could_not_be_started() -> None:
    house = House(make_executor=Refusing)
    refused, _ = house.ask("no")
    told: list[list[str]] = []
    house.engine.drain(lambda: told.append(refused.codes))
    house.loop.run()
    assert told == [["internal_error"]]


def test_a_batch_past_predict_timeout_is_told_once_and_its_replica_given_up() -> None:
    house = House(limits=Limits(predict_timeout_s=2.0))
    heard, _ = house.ask("1")
    house.loop.run()
    house.loop.advance(1.5)
    batch = house.executor.begin()
    house.loop.run()
    house.loop.advance(1.999)
    assert (house.hung, heard.parts) == (0, [])
    house.loop.advance(0.001)
    assert house.hung == 1
    assert heard.codes == ["replica_lost"]
    assert not house.engine.is_ready and "predict_timeout_s" in house.engine.reason
    with pytest.raises(NotReady):
        house.ask("2")
    # The replica comes back to life, too late.
    house.executor.finish()
    house.loop.advance(10.0)
    assert (house.hung, heard.codes) == (1, ["replica_lost"])
    assert batch.overrun


def stopped(house: House, seconds: float) -> None:
    """Time passes, and nothing of the process runs meanwhile."""
    house.clock.advance(seconds)


def test_a_stop_that_ends_as_a_batch_is_due_is_not_held_against_it() -> None:
    house = House(limits=Limits(predict_timeout_s=2.0))
    heard, _ = house.begin("1")
    house.loop.run()
    house.loop.advance(0.2)
    stopped(house, 1.9)
    house.loop.advance(1.5)
    assert (house.hung, heard.parts) == (0, [])


@pytest.mark.parametrize("is_woken", [False, True])
def test_after_a_stop_of_the_process_a_batch_gets_its_time_anew(is_woken: bool) -> None:
    house = House(limits=Limits(predict_timeout_s=2.0))
    heard, batch = house.begin("1")
    late, _ = house.ask("2", deadline=house.clock() + 5.0)
    house.loop.run()
    stopped(house, 10.0)
    if is_woken:  # what came meanwhile is read before the timer is looked at
        house.ask("3")
    house.loop.advance(1.9)
    assert (house.hung, heard.parts, late.codes) == (0, [], ["deadline_exceeded"])
    house.loop.advance(0.2)
    assert (house.hung, heard.codes, batch.overrun) == (1, ["replica_lost"], True)


def test_how_long_a_batch_took_that_was_stopped_says_nothing_of_the_model() -> None:
    house = House(limits=Limits(predict_timeout_s=2.0))
    for is_stopped in (False, True):
        house.ask("1")
        house.loop.run()
        house.executor.begin()
        house.loop.advance(1.0)
        if is_stopped:
            stopped(house, 10.0)
            house.loop.run()
        house.executor.finish()
        house.loop.run()
    assert house.engine._batcher._policy.lowest_batch_s == pytest.approx(1.0)


def test_the_batch_of_a_hung_replica_runs_again_elsewhere() -> None:
    house = House(limits=Limits(predict_timeout_s=1.0), replicas=2)
    heard, _ = house.ask("1", "2")
    house.loop.run()
    house.executor.begin()
    house.loop.run()
    house.loop.advance(1.0)
    hung = house.executor.batches.popleft()
    while house.executor.batches:
        assert house.executor.batches[0].replica != hung.replica
        house.executor.begin()
        house.executor.finish()
        house.loop.run()
    assert heard.codes == ["1", "2"]
    assert house.engine.ready_replicas == 1


def test_items_of_a_lost_replica_are_answered_or_run_again() -> None:
    house = House(replicas=2)
    heard, _ = house.ask("1", "2")
    house.loop.run()
    batch = house.executor.begin()
    house.executor.batches.clear()
    house.engine.lost(batch.replica, Loss("exited", "exited with code 1", guilty=(batch, 0)))
    house.loop.run()
    assert heard.codes == ["replica_lost"]
    house.executor.finish()
    assert heard.codes == ["replica_lost", "2"]


KILLED = Loss("killed", "killed by SIGSEGV")


def test_a_lost_replica_is_counted_by_its_cause_and_told_with_its_reason() -> None:
    house = House()
    house.engine.lost(0, KILLED)
    assert house.engine.counts.restarts == {"killed": 1}
    assert house.engine.replicas == {0: ReplicaStatus("unready", "killed by SIGSEGV")}
    assert (house.engine.is_ready, house.engine.reason) == (False, "killed by SIGSEGV")


@pytest.mark.parametrize(
    ("suspects", "is_outside", "cut"),
    [
        (None, False, Cut.SUSPECT),
        ((0, 1), False, Cut.SUSPECT),
        ((0, 1), True, Cut.IDLE),
        ((), False, Cut.IDLE),
    ],
    ids=["unknown", "named", "outside", "nobody"],
)
def test_whom_a_loss_names_decides_how_its_items_run_again(
    suspects: tuple[int, ...] | None, is_outside: bool, cut: Cut
) -> None:
    house = House(replicas=2)
    heard, batch = house.begin("1", "2")
    named = None if suspects is None else tuple((batch, index) for index in suspects)
    loss = Loss("killed", "killed", suspects=named, is_outside=is_outside)
    house.engine.lost(batch.replica, loss)
    house.loop.run()
    assert house.executor.batches[0].cut is cut
    while house.executor.batches:
        house.executor.finish()
        house.loop.run()
    assert heard.codes == ["1", "2"]


def test_a_loss_may_convict_the_only_suspect() -> None:
    house = House(replicas=2)
    heard, batch = house.begin("1", "2")
    house.engine.lost(batch.replica, Loss("exited", "exited", suspects=((batch, 1),)))
    house.loop.run()
    assert heard.codes == ["replica_lost"]


class Counter(Echo):
    idempotent = False


def test_what_a_replica_had_begun_without_having_told_is_not_run_again_unasked() -> None:
    house = House(Counter(), replicas=2)
    heard, _ = house.ask("1")
    house.loop.run()
    batch = house.executor.batches.popleft()
    house.engine.lost(batch.replica, Loss("killed", "killed", suspects=(), begun=(batch,)))
    house.loop.run()
    assert heard.codes == ["replica_lost"]
    assert not house.executor.batches


def test_while_a_recovery_is_expected_calls_that_can_wait_are_admitted() -> None:
    house = House()
    first, _ = house.begin("1", "2")
    house.engine.lost(0, KILLED, house.clock.now + 1.0)
    house.engine.status(0, ReplicaStatus("starting", "loading"))
    assert (house.engine.is_ready, house.engine.reason) == (False, "loading")
    later, _ = house.ask("3", deadline=house.clock.now + 2.0)
    with pytest.raises(NotReady) as caught:
        house.ask("4", deadline=house.clock.now + 0.5)
    assert caught.value.retry_after_s == pytest.approx(1.0)
    house.loop.advance(1.0)
    assert first.parts == [] and later.parts == []
    house.engine.ready(0, house.engine.card)
    house.loop.run()
    while house.executor.batches:
        house.executor.finish()
        house.loop.run()
    assert (first.codes, later.codes) == (["1", "2"], ["3"])


def test_in_back_off_all_are_refused_and_the_reason_says_so() -> None:
    house = House()
    heard, _ = house.begin("1", "2")
    house.engine.lost(0, KILLED)
    house.engine.status(0, ReplicaStatus("restarting", "the next start is in 4 s"))
    house.loop.run()
    assert heard.codes == 2 * ["not_ready"]
    assert house.engine.reason == "the next start is in 4 s"
    with pytest.raises(NotReady):
        house.ask("3")


def test_a_status_does_not_make_a_model_unready_that_another_replica_serves() -> None:
    house = House(replicas=2)
    house.engine.lost(0, KILLED)
    house.engine.status(0, ReplicaStatus("restarting", "the next start is in 4 s"))
    assert (house.engine.is_ready, house.engine.reason) == (True, "")
    assert house.states() == {0: "restarting", 1: "ready"}


def test_an_unready_replica_may_say_when_it_will_be_back() -> None:
    house = House()
    house.engine.unready(0, "broken", house.clock.now + 1.0)
    heard, _ = house.ask("1")
    house.loop.run()
    assert heard.parts == [] and house.engine.reason == "broken"
    house.engine.unready(0, "broken still")
    house.loop.run()
    assert heard.codes == ["not_ready"]


def test_a_withdrawn_replica_finishes_what_it_has_and_retires() -> None:
    house = House(replicas=2)
    heard, batch = house.begin("1")
    house.engine.withdrawn(batch.replica, "recycled")
    assert house.states()[batch.replica] == "draining"
    house.ask("2")
    house.loop.run()
    assert house.executor.batches[0].replica != batch.replica
    house.engine.part(batch, 0, Value(b"1", JSON), True)
    house.engine.ended(batch)
    house.engine.retired(batch.replica, "recycled")
    assert heard.codes == ["1"]
    assert house.states() == {house.executor.batches[0].replica: "ready"}
    assert house.engine.counts.restarts == {"recycled": 1}


def test_what_a_retired_replica_leaves_runs_elsewhere_and_nobody_is_suspected() -> None:
    house = House(replicas=2)
    heard, batch = house.begin("1")
    house.engine.withdrawn(batch.replica, "scaled")
    house.engine.retired(batch.replica, "scaled")
    house.loop.run()
    assert house.executor.batches[0].cut is Cut.IDLE
    house.executor.finish()
    assert heard.codes == ["1"]


def test_retiring_a_replica_changes_nothing_of_what_is_expected() -> None:
    house = House()
    house.engine.lost(0, KILLED, house.clock.now + 1.0)
    heard, _ = house.ask("1")
    house.engine.withdrawn(7, "scaled")
    house.engine.retired(7, "scaled")
    house.loop.run()
    assert heard.parts == [] and house.states() == {0: "unready"}


def test_a_hung_replica_that_can_be_replaced_is_left_to_the_executor() -> None:
    house = House(limits=Limits(predict_timeout_s=1.0), can_replace=True)
    heard, batch = house.begin("1", "2")
    house.loop.run()
    house.loop.advance(1.0)
    assert (house.executor.replaced, house.hung, heard.parts) == ([0], 0, [])
    assert not house.engine.is_ready and "predict_timeout_s" in house.engine.reason
    later, _ = house.ask("3")
    house.loop.run()
    suspects = tuple((batch, index) for index in range(2))
    house.engine.lost(0, Loss("hung", "hung", suspects=suspects), house.clock.now + 1.0)
    house.executor.batches.clear()
    house.engine.ready(0, house.engine.card)
    house.loop.run()
    assert house.engine.counts.restarts == {"hung": 1}
    while house.executor.batches:
        house.executor.finish()
        house.loop.run()
    assert (sorted(heard.codes), later.codes) == (["1", "2"], ["3"])


def test_a_batch_set_aside_frees_its_slot_and_is_counted_once() -> None:
    house = House()
    heard, _ = house.ask("1", "2", "3", "4")
    house.loop.run()
    ill = house.executor.begin()
    house.executor.batches.clear()
    house.engine.set_aside(ill)
    other, _ = house.ask("5")
    house.loop.run()
    house.engine.started(ill)
    house.engine.set_aside(ill)
    assert house.engine.counts.isolations == 1
    house.executor.begin()
    house.executor.finish()
    for index in range(4):
        house.engine.part(ill, index, Value(b"x", JSON), True)
    house.engine.ended(ill)
    house.loop.run()
    assert other.codes == ["5"] and heard.codes == 4 * ["x"]


def test_there_is_one_timer_however_much_happens() -> None:
    set_timers: list[float] = []

    class CountingLoop(ManualLoop):
        def call_later(self, delay: float, callback: Callable[..., object], *args: object) -> Any:
            set_timers.append(delay)
            return super().call_later(delay, callback, *args)

    house = House(make_loop=CountingLoop)
    for _ in range(100):
        house.ask("1", deadline=house.clock.now + 5.0)
        house.loop.run()
    assert set_timers == [LOOK_S], "no further ahead than that, so that a stop is noticed"
    house.ask("2", deadline=house.clock.now + LOOK_S / 2)
    house.loop.run()
    assert set_timers == [LOOK_S, LOOK_S / 2]


def test_draining_refuses_new_calls_and_tells_when_the_last_one_has_ended() -> None:
    house = House()
    heard, _ = house.ask("1")
    house.loop.run()
    done: list[str] = []
    house.engine.drain(lambda: done.append("done"))
    house.loop.run()
    assert done == [] and house.engine.reason == "draining" and not house.engine.is_ready
    with pytest.raises(Draining):
        house.ask("2")
    house.executor.finish()
    house.loop.run()
    assert (heard.codes, done) == (["1"], ["done"])


def test_closing_answers_all_that_has_not_ended_and_stops_the_executor() -> None:
    house = House()
    running, _ = house.ask("1", "2", "3", "4")
    house.loop.run()
    waiting, _ = house.ask("5", deadline=house.clock.now + 1.0)
    house.loop.run()
    house.engine.close()
    assert running.codes == 4 * ["draining"] and waiting.codes == ["draining"]
    assert house.executor.closed and house.engine.join(0.0)
    house.loop.advance(2.0)
    assert waiting.codes == ["draining"]
    assert house.engine.running_items == 0


def test_the_awaitable_form_gives_outcomes_in_order_and_cancels_with_its_task() -> None:
    async def main() -> None:
        loop = asyncio.get_running_loop()
        card: ModelCard = Replica(Echo()).card
        executor = ScriptedExecutor(card)
        engine = Engine(card, executor, loop=loop)
        engine.open()
        payloads = tuple(
            Payload(body=body, input_type=JSON, output_type=JSON) for body in (b"1", b"2")
        )
        answered = asyncio.create_task(engine.ask(Call(payloads=payloads)))
        given_up = asyncio.create_task(engine.ask(Call(payloads=payloads[:1])))
        for _ in range(3):  # the tasks begin, then the engine makes its pass
            await asyncio.sleep(0)
        given_up.cancel()
        with pytest.raises(asyncio.CancelledError):
            await given_up
        executor.finish()
        assert [o.body for o in await answered if isinstance(o, Value)] == [b"1", b"2"]
        assert engine.counts.items == {"cancelled": 1, "ok": 2}
        engine.close()

    asyncio.run(main())
