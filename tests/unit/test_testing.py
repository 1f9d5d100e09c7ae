"""The doubles that ship."""

from __future__ import annotations

import random
from typing import Any, ClassVar

import pytest

from headrace import Batching, ItemError, Limits, Model, model
from headrace.errors import HeadraceError, ReplicaStartFailed, TargetError
from headrace.testing import (
    CheckFailed,
    Client,
    ManualClock,
    ManualLoop,
    PredictionFailed,
    check,
)


class Doubled(Model):
    batching: ClassVar = Batching(max_batch_size=4)
    examples: ClassVar = [1, 2]
    sizes: ClassVar[list[int]] = []
    unloaded: ClassVar[list[str]] = []

    def predict(self, batch: list[int]) -> list[int]:
        self.sizes.append(len(batch))
        return [2 * n for n in batch]

    def unload(self) -> None:
        self.unloaded.append("once")


@model
def length(batch: list[bytes]) -> list[int]:
    return [len(body) for body in batch]


def test_a_clock_stands_still_until_it_is_told() -> None:
    clock = ManualClock(5.0)
    assert (clock(), clock()) == (5.0, 5.0)
    clock.advance(0.5)
    assert clock() == 5.5


def test_a_loop_runs_what_is_due_in_order_and_at_its_own_instant() -> None:
    clock = ManualClock()
    loop = ManualLoop(clock)
    ran: list[tuple[str, float]] = []

    def note(name: str) -> None:
        ran.append((name, clock.now))

    loop.call_later(2.0, note, "second")
    loop.call_later(1.0, note, "first")
    loop.call_later(1.5, note, "never").cancel()
    loop.call_soon(lambda: loop.call_soon(note, "at once"))
    loop.run()
    assert ran == [("at once", 0.0)]
    loop.advance(1.9)
    assert ran[1:] == [("first", 1.0)] and clock.now == 1.9
    loop.call_later(0.05, lambda: loop.call_later(0.05, note, "made by one"))
    loop.advance(10.0)
    assert ran[2:] == [("made by one", pytest.approx(2.0)), ("second", 2.0)] or ran[2:] == [
        ("second", 2.0),
        ("made by one", pytest.approx(2.0)),
    ]
    assert clock.now == 11.9


def test_a_client_asks_the_real_engine() -> None:
    Doubled.sizes.clear()
    with Client(Doubled) as client:
        assert client.predict(21) == 42
        Doubled.sizes.clear()
        assert client.predict_many(list(range(10))) == [2 * n for n in range(10)]
        assert Doubled.sizes == [4, 4, 2]


def test_a_client_of_several_models_asks_each_by_its_name() -> None:
    with Client([Doubled, length]) as client:
        assert client.predict(1) == 2
        assert client.predict(b"abc", model="length") == 3
        assert client.predict_many([b"", b"x"], model="length") == [0, 1]


def test_a_failed_prediction_says_why() -> None:
    with Client(Doubled) as client, pytest.raises(PredictionFailed, match="422 invalid") as caught:
        client.predict_many([1, "two", 3])
    assert caught.value.code == "invalid"
    assert caught.value.response.status == 422


def test_a_client_unloads_once_however_often_it_is_closed() -> None:
    Doubled.unloaded.clear()
    client = Client(Doubled)
    client.close()
    client.close()
    assert Doubled.unloaded == ["once"]


def test_a_client_keeps_to_the_limits_it_is_given() -> None:
    with Client(Doubled, limits=Limits(max_json_bytes=3)) as client:
        assert client.predict(123) == 246
        with pytest.raises(PredictionFailed, match="413 too_large"):
            client.predict(1234)


def test_a_client_of_what_is_no_model_or_does_not_load_is_refused() -> None:
    class Broken(Model):
        def load(self) -> None:
            raise OSError("no weights")

        def predict(self, batch: list[int]) -> list[int]:
            return batch

    with pytest.raises(TargetError):
        Client(7)
    with pytest.raises(HeadraceError, match="did not become ready: load raised OSError"):
        Client(Broken)


def test_a_good_model_passes_its_check() -> None:
    Doubled.unloaded.clear()
    found = check(Doubled)
    assert (found.answers, found.max_batch_size, found.worst_difference) == ([2, 4], 4, 0.0)
    assert found.card.name == "doubled"
    assert Doubled.unloaded == ["once"]


class Drifting(Model):
    """Its numbers depend on the batch's size, as those of a GPU do."""

    batching: ClassVar = Batching(max_batch_size=2)
    examples: ClassVar = [1.0]
    drift: ClassVar = 1e-3

    def predict(self, batch: list[float]) -> list[Any]:
        return [{"scores": [n, n + self.drift * (len(batch) - 1)], "label": "x"} for n in batch]


def test_numbers_within_the_tolerance_pass_and_the_worst_is_told() -> None:
    class Tolerant(Drifting):
        tolerance: ClassVar = 1e-2

    assert check(Tolerant).worst_difference == pytest.approx(1e-3)
    with pytest.raises(CheckFailed, match=r"examples\[0\]: alone and in a batch of 2 .* differ by"):
        check(Drifting)


class Leaking(Model):
    """Answers all with the label of the first."""

    batching: ClassVar = Batching(max_batch_size=4)
    examples: ClassVar = ["a", "b"]

    def predict(self, batch: list[str]) -> list[Any]:
        return [{"label": batch[0], "n": [True]} for _ in batch]


def test_an_answer_that_depends_on_its_batch_is_found_and_placed() -> None:
    with pytest.raises(CheckFailed, match=r"examples\[1\]: \$\.label: alone 'b', in a batch 'a'"):
        check(Leaking)


class Turning(Model):
    """Answers the next of its answers each time."""

    examples: ClassVar = [1]
    batching: ClassVar = Batching(max_batch_size=1)
    answers: ClassVar[list[Any]] = []

    def __init__(self) -> None:
        self._left = [self.answers[0], *self.answers]

    def predict(self, batch: list[int]) -> list[Any]:
        return [self._left.pop(0)]


@pytest.mark.parametrize(
    ("alone", "together"),
    [
        (1.0, "1.0"),
        ([1], [1, 2]),
        ({"a": 1}, {"b": 1}),
        ({"a": 1}, [1]),
        (True, 1),
        (None, 0),
    ],
)
def test_answers_of_another_shape_differ(alone: Any, together: Any) -> None:
    class Now(Turning):
        answers: ClassVar = [alone, together]

    with pytest.raises(CheckFailed, match="alone"):
        check(Now)


@pytest.mark.parametrize("value", [1, 1.5, "x", None, True, [], {}, [{"a": [1, 2.5]}]])
def test_equal_answers_do_not(value: Any) -> None:
    class Now(Turning):
        answers: ClassVar = [value, value]

    assert check(Now).worst_difference == 0.0


def test_a_model_without_examples_cannot_be_checked() -> None:
    with pytest.raises(CheckFailed, match="expected at least one item to check with, found none"):
        check(length)


def test_a_model_that_fails_its_example_does_not_pass() -> None:
    class Refusing(Model):
        examples: ClassVar = [1]

        def predict(self, batch: list[int]) -> list[Any]:
            return [ItemError("never") for _ in batch]

    with pytest.raises(ReplicaStartFailed, match="never"):
        check(Refusing)


def test_a_model_that_fails_at_times_does_not_pass() -> None:
    class Moody(Model):
        examples: ClassVar = [1]
        batching: ClassVar = Batching(max_batch_size=8)

        def __init__(self) -> None:
            self.calls = 0
            self.rng = random.Random(1)

        def predict(self, batch: list[int]) -> list[Any]:
            self.calls += 1
            if self.calls > 2:
                raise RuntimeError("moody")
            return batch

    with pytest.raises(CheckFailed, match="RuntimeError: moody"):
        check(Moody)
