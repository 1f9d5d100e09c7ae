"""Why a worker ended, and which of its items may have ended it."""

from __future__ import annotations

import signal

import pytest

from headrace.batching import Batch, Cut, Item
from headrace.executors.verdict import Death, verdict
from headrace.wire import Bye
from headrace.workers.mark import Evidence

NOTHING = Evidence()
CRASHED = -signal.SIGSEGV
KILLED = -signal.SIGKILL


def batches_of(*sizes: int) -> dict[int, Batch]:
    """Batches 1, 2 and so on."""
    return {
        number: Batch(number, 0, 0, [Item(number=n) for n in range(size)], Cut.FULL, 0.0)
        for number, size in enumerate(sizes, 1)
    }


@pytest.mark.parametrize(
    ("death", "cause", "reason"),
    [
        (Death(3), "exited", "exited with code 3"),
        (Death(0), "exited", "exited with code 0"),
        (Death(CRASHED), "killed", "killed by SIGSEGV"),
        (Death(-64), "killed", "killed by SIGRTMAX"),
        (Death(-50), "killed", "killed by signal 50"),
        (Death(KILLED), "killed", "killed by SIGKILL"),
        (Death(KILLED, is_out_of_memory=True), "killed", "killed by SIGKILL, out of memory"),
        (Death(CRASHED, is_out_of_memory=True), "killed", "killed by SIGSEGV"),
        (Death(None), "disconnected", "the connection was lost"),
        (Death(2, Bye("config", "no such model")), "config", "no such model"),
        (Death(4, Bye("load_failed", "no weights")), "load", "no weights"),
        (Death(5, Bye("broken", "told to")), "broken", "told to"),
        (Death(0, Bye("stopped", "")), "exited", "exited with code 0"),
        (Death(1, Bye("some other word", "?")), "exited", "exited with code 1"),
        (
            Death(KILLED, killed_for="hung"),
            "hung",
            "a batch ran for longer than predict_timeout_s",
        ),
        (Death(KILLED, killed_for="protocol"), "protocol", "it broke the worker protocol"),
        (Death(KILLED, killed_for="disconnected"), "disconnected", "the connection was lost"),
        (Death(KILLED, Bye("broken", "told to"), killed_for="disconnected"), "broken", "told to"),
    ],
)
def test_the_cause(death: Death, cause: str, reason: str) -> None:
    loss = verdict(death, {})
    assert (loss.cause, loss.reason) == (cause, reason)
    assert loss.guilty is None and loss.suspects == ()


@pytest.mark.parametrize("code", [CRASHED, 1, 0, None])
def test_a_death_while_an_item_is_handled_convicts_it(code: int | None) -> None:
    batches = batches_of(3, 3)
    loss = verdict(Death(code, evidence=Evidence(item=(2, 1))), batches)
    assert loss.guilty == (batches[2], 1)
    assert loss.suspects == ()
    assert not loss.is_outside


@pytest.mark.parametrize("code", [CRASHED, 1, None])
def test_a_death_in_predict_makes_suspects_of_its_batch(code: int | None) -> None:
    batches = batches_of(3, 2)
    loss = verdict(Death(code, evidence=Evidence(batch=2)), batches)
    assert loss.guilty is None
    assert loss.suspects == ((batches[2], 0), (batches[2], 1))


def test_with_evidence_of_both_none_is_convicted() -> None:
    batches = batches_of(2, 2)
    loss = verdict(Death(CRASHED, evidence=Evidence(item=(2, 1), batch=1)), batches)
    assert loss.guilty is None
    assert loss.suspects == ((batches[1], 0), (batches[1], 1), (batches[2], 1))


def test_an_item_of_the_batch_that_ran_is_a_suspect_once() -> None:
    batches = batches_of(2)
    loss = verdict(Death(CRASHED, evidence=Evidence(item=(1, 1), batch=1)), batches)
    assert loss.suspects == ((batches[1], 0), (batches[1], 1))


@pytest.mark.parametrize("death", [Death(CRASHED), Death(1), Death(KILLED, killed_for="hung")])
def test_without_evidence_all_that_had_begun_are_suspects(death: Death) -> None:
    loss = verdict(death, batches_of(3))
    assert loss.guilty is None
    assert loss.suspects is None
    assert verdict(death, {}).suspects == ()


@pytest.mark.parametrize("death", [Death(KILLED), Death(5, Bye("broken", "told to"))])
def test_without_evidence_an_act_from_outside_or_a_farewell_accuses_nobody(death: Death) -> None:
    assert verdict(death, batches_of(3)).suspects == ()


def test_who_fails_on_its_own_example_suspects_the_batches_that_it_set_aside() -> None:
    batches = batches_of(3, 2)
    batches[2].isolated = True
    loss = verdict(Death(5, Bye("broken", "told to")), batches)
    assert loss.suspects == ((batches[2], 0), (batches[2], 1))
    assert loss.guilty is None


@pytest.mark.parametrize(
    "evidence", [Evidence(item=(1, 0)), Evidence(batch=1), Evidence(item=(2, 0), batch=1)]
)
def test_sigkill_comes_from_outside_and_convicts_nobody(evidence: Evidence) -> None:
    loss = verdict(Death(KILLED, evidence=evidence), batches_of(1, 1))
    assert loss.is_outside
    assert loss.guilty is None
    assert loss.suspects


def test_sigkill_for_memory_is_the_items_doing() -> None:
    batches = batches_of(2)
    death = Death(KILLED, is_out_of_memory=True, evidence=Evidence(item=(1, 0)))
    loss = verdict(death, batches)
    assert not loss.is_outside
    assert loss.guilty == (batches[1], 0)


@pytest.mark.parametrize("cause", ["hung", "protocol", "disconnected"])
def test_who_was_ended_by_this_side_was_not_ended_from_outside(cause: str) -> None:
    batches = batches_of(1)
    death = Death(KILLED, killed_for=cause, evidence=Evidence(batch=1))
    loss = verdict(death, batches)
    assert not loss.is_outside
    assert loss.suspects == ((batches[1], 0),)
    assert verdict(death._replace(evidence=Evidence(item=(1, 0))), batches).guilty is None


@pytest.mark.parametrize(
    "evidence",
    [Evidence(item=(9, 0)), Evidence(batch=9), Evidence(item=(9, 0), batch=9), Evidence((1, 2))],
    ids=["item", "batch", "both", "index"],
)
def test_what_is_not_known_here_is_passed_over(evidence: Evidence) -> None:
    loss = verdict(Death(CRASHED, evidence=evidence), batches_of(2))
    assert loss.guilty is None
    assert loss.suspects == ()


def test_an_unknown_item_does_not_hide_the_batch_that_ran() -> None:
    batches = batches_of(1)
    loss = verdict(Death(CRASHED, evidence=Evidence(item=(9, 0), batch=1)), batches)
    assert loss.suspects == ((batches[1], 0),)


def test_batches_up_to_the_newest_whose_predict_began_have_begun() -> None:
    batches = batches_of(1, 2, 3)
    loss = verdict(Death(CRASHED, evidence=Evidence(batch=2, begun=2)), batches)
    assert loss.begun == (batches[1], batches[2])
    assert loss.suspects == ((batches[2], 0), (batches[2], 1))
