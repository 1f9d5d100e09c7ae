"""A worker's loop over a real connection, with the test as its front."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack

import msgspec
import pytest

from headrace.call import Failure, Value
from headrace.clock import NEVER
from headrace.errors import ProtocolError
from headrace.wire import (
    Ask,
    Bye,
    Cancel,
    Drain,
    End,
    Family,
    Message,
    Parts,
    Sample,
    Started,
    Stats,
)
from headrace.workers import pace
from headrace.workers.loop import Broken
from headrace.workers.mark import HANDLED, ITEM, PREDICTED, PREDICTING
from tests.unit.workers.driver import Front, Gated, run

MODES = {"in turn": float("inf"), "overlapped": -1.0}
"""The time from which on batches are overlapped."""

STATS = Stats((Family("calls", "counter", "Calls.", "", (Sample("calls_total", {}, 3.0),)),))

Serve = Callable[[str], Front]


@pytest.fixture
def model() -> Gated:
    return Gated()


@pytest.fixture
def serve(model: Gated, monkeypatch: pytest.MonkeyPatch) -> Iterator[Serve]:
    """Begins to serve the model in a mode; everything is stopped after the test."""
    with ExitStack() as stack:

        def begin(mode: str) -> Front:
            monkeypatch.setattr(pace, "OVERLAP_S", MODES[mode])
            monkeypatch.setattr(pace, "IN_TURN_S", MODES[mode])
            front = Front(model, STATS)
            stack.callback(front.close)
            stack.callback(open_all, model)
            front.warm_up()
            model.calls.clear()
            return front

        yield begin


@pytest.fixture(params=MODES)
def front(serve: Serve, request: pytest.FixtureRequest) -> Front:
    """Of a worker in each of the two modes."""
    return serve(request.param)


def open_all(model: Gated) -> None:
    for gate in (*model.in_predict.values(), *model.in_preprocess.values()):
        gate.open()


def story(messages: list[Message]) -> list[tuple[str, int]]:
    """What was told of batches, in its order."""
    told = []
    for message in messages:
        if isinstance(message, Started):
            told.append(("started", message.batch))
        elif isinstance(message, Parts):
            told.append((message.end.name.lower(), message.batch))
    return told


def test_batches_are_answered_in_their_order(front: Front) -> None:
    front.send(*(run(k, *range(k, k + 4)) for k in range(1, 21)))
    for k in range(1, 21):
        assert front.ended(k) == {n: 2 * (k + n) for n in range(4)}
    expected = [(told, k) for k in range(1, 21) for told in ("started", "ended")]
    assert story(front.messages) == expected


def test_batches_that_come_one_by_one_are_answered_too(front: Front) -> None:
    for k in range(1, 21):
        front.send(run(k, k))
        assert front.ended(k) == {0: 2 * k}


def test_a_batch_is_told_to_have_started_before_its_predict_ends(
    front: Front, model: Gated
) -> None:
    gate = model.gate(model.in_predict, 5)
    front.send(run(1, 5))
    gate.await_reached()
    front.next(Started)
    assert story(front.messages) == [("started", 1)]
    gate.open()
    assert front.ended(1) == {0: 10}


def test_parts_of_a_batch_and_the_start_of_the_next_are_one_write(
    front: Front, model: Gated
) -> None:
    first, second = model.gate(model.in_predict, 1), model.gate(model.in_predict, 2)
    front.send(run(1, 1), run(2, 2))
    first.await_reached()
    front.next(Started)
    first.open()
    second.await_reached()
    front.next(Started, lambda started: started.batch == 2)
    second.open()
    front.ended(2)
    written = front.kinds_written()[2:]  # behind those of the warm-up
    assert written == [["started"], ["parts", "started"], ["parts"]]


def test_a_batch_alone_takes_two_writes(front: Front, model: Gated) -> None:
    front.send(run(1, *range(8)))
    front.ended(1)
    assert front.kinds_written()[2:] == [["started"], ["parts"]]


def test_an_item_cancelled_before_its_batch_began_is_skipped(front: Front, model: Gated) -> None:
    gate = model.gate(model.in_predict, 1)
    front.send(run(1, 1))
    gate.await_reached()
    front.send(run(2, 5, 6, 7), Cancel(2, 1))
    gate.open()
    assert front.ended(2) == {0: 10, 1: None, 2: 14}
    assert model.calls == [[1], [5, 7]]


@pytest.mark.parametrize("mode", MODES)
def test_an_item_cancelled_while_its_batch_is_at_hand_is_skipped(
    serve: Serve, model: Gated, mode: str
) -> None:
    """It was read, and in the one mode prepared, before anybody gave it up."""
    front = serve(mode)
    gate = model.gate(model.in_predict, 1)
    front.send(run(1, 1), run(2, 5, 6, 7), run(3, 8))
    gate.await_reached()
    front.send(Cancel(2, 1), Cancel(3, 0), Ask())
    if mode == "overlapped":
        front.next(Stats)  # then it has read what was before that
    gate.open()
    assert front.ended(2) == {0: 10, 1: None, 2: 14}
    assert front.ended(3) == {0: None}
    assert model.calls == [[1], [5, 7]]


@pytest.mark.parametrize("mode", MODES)
def test_an_item_cancelled_while_its_batch_is_isolated_is_not_run_again(
    serve: Serve, model: Gated, mode: str
) -> None:
    front = serve(mode)
    model.raises[13] = ValueError()
    canary = model.gate(model.in_predict, 0)
    front.send(run(1, 11, 12, 13, 14))
    canary.await_reached()
    front.send(Cancel(1, 1), Cancel(1, 3))
    canary.open()
    assert front.ended(1) == {0: 22, 1: None, 2: "model_error", 3: None}
    assert model.calls == [[11, 12, 13, 14], [0], [11], [13]]


def test_cancelling_what_has_begun_or_ended_changes_nothing(front: Front, model: Gated) -> None:
    gate = model.gate(model.in_predict, 1)
    front.send(run(1, 1, 2))
    gate.await_reached()
    front.send(Cancel(1, 1))
    gate.open()
    assert front.ended(1) == {0: 2, 1: 4}
    front.send(Cancel(1, 0), run(2, 3))
    assert front.ended(2) == {0: 6}


def test_an_expired_item_never_reaches_the_model(front: Front, model: Gated) -> None:
    front.send(run(1, 5, 6, 7, left_s=[0.0, NEVER, 1000.0]))
    assert front.ended(1) == {0: None, 1: 12, 2: 14}
    assert model.calls == [[6, 7]]


def test_a_batch_of_which_nobody_wants_anything_just_ends(front: Front, model: Gated) -> None:
    front.send(run(1, 5, 6, left_s=[0.0, 0.0]), run(2, 7))
    assert front.ended(1) == {0: None, 1: None}
    assert front.ended(2) == {0: 14}
    assert model.calls == [[7]]
    assert story(front.messages) == [("started", 1), ("ended", 1), ("started", 2), ("ended", 2)]


@pytest.mark.parametrize("error", [ValueError(), SystemExit(3), KeyboardInterrupt()], ids=repr)
def test_a_batch_whose_predict_raises_is_set_aside_and_its_item_found(
    front: Front, model: Gated, error: BaseException
) -> None:
    model.raises[13] = error
    front.send(run(1, 11, 12, 13, 14))
    assert front.ended(1) == {0: 22, 1: 24, 2: "model_error", 3: 28}
    told = story(front.messages)
    assert told[:2] == [("started", 1), ("set_aside", 1)]
    assert told[-1] == ("ended", 1)
    front.send(run(2, 1))
    assert front.ended(2) == {0: 2}


def test_others_run_between_the_steps_of_an_isolation(serve: Serve, model: Gated) -> None:
    front = serve("in turn")
    model.raises[13] = ValueError()
    gate = model.gate(model.in_predict, 13)
    front.send(run(1, 11, 12, 13))
    gate.await_reached()
    front.send(run(2, 21), run(3, 31))
    gate.open()
    assert front.ended(2) == {0: 42}
    assert front.ended(3) == {0: 62}
    assert front.ended(1) == {0: 22, 1: 24, 2: "model_error"}
    # Between the batches of others the canary, and then the halves.
    assert model.calls == [[11, 12, 13], [21], [0], [31], [11, 12], [13]]


def test_two_batches_that_fail_at_once_both_come_to_their_end(front: Front, model: Gated) -> None:
    model.raises[13] = model.raises[23] = ValueError()
    front.send(run(1, 11, 13), run(2, 23, 24), run(3, 31))
    assert front.ended(1) == {0: 22, 1: "model_error"}
    assert front.ended(2) == {0: "model_error", 1: 48}
    assert front.ended(3) == {0: 62}


def test_a_batch_that_waits_while_another_fails_is_started_once(serve: Serve, model: Gated) -> None:
    front = serve("overlapped")
    model.raises[1] = ValueError()
    predict = model.gate(model.in_predict, 1)
    preprocess = model.gate(model.in_preprocess, 2)
    front.send(run(1, 1), run(2, 2))
    predict.await_reached()
    preprocess.await_reached()
    while front.channel.woken.acquire(blocking=False):
        pass
    predict.open()
    assert front.channel.woken.acquire(timeout=10), "predict has raised"
    front.send(run(3, 3))
    preprocess.open()
    assert front.ended(3) == {0: 6}
    assert front.ended(1) == {0: "model_error"}
    assert story(front.messages).count(("started", 3)) == 1


def test_a_worker_whose_batches_become_quick_takes_turns_again_under_load(
    serve: Serve, model: Gated, monkeypatch: pytest.MonkeyPatch
) -> None:
    front = serve("overlapped")
    front.send(run(1, 1))
    front.ended(1)
    gate = model.gate(model.in_predict, 2)
    front.send(run(2, 2))
    gate.await_reached()
    monkeypatch.setattr(pace, "IN_TURN_S", float("inf"))
    monkeypatch.setattr(pace, "OVERLAP_S", float("inf"))
    front.send(*(run(k, k) for k in range(3, 30)))
    gate.open()
    for k in range(2, 30):
        assert front.ended(k) == {0: 2 * k}
    told = story(front.messages)
    assert [batch for what, batch in told if what == "started"] == [1, *range(2, 30)]


def test_a_drained_worker_finishes_what_it_has(front: Front, model: Gated) -> None:
    gate = model.gate(model.in_predict, 1)
    model.raises[13] = ValueError()
    front.send(run(1, 1))
    gate.await_reached()
    front.send(run(2, 12, 13), run(3, 3), Drain())
    gate.open()
    assert front.join() is True
    assert [front.ended(k) for k in (1, 2, 3)] == [{0: 2}, {0: 24, 1: "model_error"}, {0: 6}]


def test_an_idle_worker_drains_at_once(front: Front) -> None:
    front.send(Drain())
    assert front.join() is True


def test_a_worker_leaves_when_the_front_says_bye(front: Front) -> None:
    front.send(Bye("stopped", ""))
    assert front.join() is True


def test_a_connection_that_ends_is_told_from_a_farewell(front: Front) -> None:
    front.sock.close()
    assert front.join() is False


@pytest.mark.parametrize("where", ["in_predict", "in_preprocess"])
def test_a_connection_that_ends_in_the_middle_of_work_ends_the_loop(
    front: Front, model: Gated, where: str
) -> None:
    gate = model.gate(getattr(model, where), 2)
    front.send(run(1, 2), run(2, 3))
    gate.await_reached()
    front.sock.close()
    gate.open()
    assert front.join() is False


def test_a_connection_that_ends_within_a_frame_is_lost(front: Front) -> None:
    [frame] = [b"".join(front.connection.send(run(1, 1)))]
    front.sock.sendall(frame[:-1])
    front.sock.close()
    assert front.join() is False


@pytest.mark.parametrize("is_busy", [False, True], ids=["idle", "in predict"])
def test_a_front_that_breaks_the_protocol_ends_the_loop(
    front: Front, model: Gated, is_busy: bool
) -> None:
    gate = model.gate(model.in_predict, 1)
    if is_busy:
        front.send(run(1, 1))
        gate.await_reached()
    front.sock.sendall(bytes(64))
    gate.open()
    with pytest.raises(ProtocolError):
        front.join()


def test_a_model_that_fails_on_its_own_example_ends_the_loop(front: Front, model: Gated) -> None:
    model.raises[0] = model.raises[1] = RuntimeError("broken for good")
    front.send(run(1, 1))
    with pytest.raises(Broken, match="the model failed in predict"):
        front.join()
    front.channel.flush()
    assert front.ended(1) == {0: "model_error"}


def test_items_among_which_one_broke_the_model_are_left_to_the_next_worker(
    front: Front, model: Gated
) -> None:
    model.raises[0] = model.raises[1] = RuntimeError("broken for good")
    front.send(run(1, 1, 2))
    with pytest.raises(Broken, match="the model failed in predict"):
        front.join()
    front.channel.flush()
    assert front.next(Parts) == Parts(1, (), End.SET_ASIDE)


def test_a_worker_that_overlaps_tells_its_metrics_while_it_predicts(
    serve: Serve, model: Gated
) -> None:
    front = serve("overlapped")
    gate = model.gate(model.in_predict, 1)
    front.send(run(1, 1))
    gate.await_reached()
    front.send(Ask())
    assert front.next(Stats) == STATS
    gate.open()
    assert front.ended(1) == {0: 2}


def test_in_turn_metrics_are_told_once_the_batch_is_done(serve: Serve, model: Gated) -> None:
    front = serve("in turn")
    gate = model.gate(model.in_predict, 1)
    front.send(run(1, 1))
    gate.await_reached()
    front.send(Ask(), Ask())
    gate.open()
    assert front.next(Stats) == STATS
    assert front.ended(1) == {0: 2}


def test_items_that_fail_before_predict_do_not_reach_it(front: Front, model: Gated) -> None:
    bad = run(1, 1, 2, 3)
    items = list(bad.items)
    items[1] = (1, msgspec.structs.replace(items[1][1], body=b"{"))
    front.send(type(bad)(1, tuple(items)))
    assert front.ended(1) == {0: 2, 1: "malformed", 2: 6}
    assert model.calls == [[1, 3]]


def test_parts_say_what_they_are(front: Front) -> None:
    front.send(run(1, 21))
    parts = front.next(Parts)
    assert parts == Parts(1, ((0, Value(b"42", "application/json")),), End.ENDED)
    assert not isinstance(parts.parts[0][1], Failure)


def test_the_mark_names_the_batch_that_is_run(front: Front, model: Gated) -> None:
    predict, preprocess = model.gate(model.in_predict, 1), model.gate(model.in_preprocess, 5)
    slots = front.mark.slots
    front.send(run(71, 1))
    predict.await_reached()
    assert (slots[PREDICTED], slots[PREDICTING], slots[ITEM]) == (71, 1, 0)
    predict.open()
    front.ended(71)
    front.send(run(72, 4, 5))
    preprocess.await_reached()
    assert (slots[HANDLED], slots[ITEM], slots[PREDICTING]) == (72, 2, 0)
    preprocess.open()
    front.ended(72)
    assert (slots[ITEM], slots[PREDICTING]) == (0, 0)
