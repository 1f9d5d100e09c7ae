"""Models whose code raises or breaks its contract: an item that is at fault fails alone.

A batch holds eight items, of which seven are innocent. What is promised here holds in every
executor, but where a test says otherwise.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Callable, Iterator
from typing import Any

import msgspec
import pytest

from tests.e2e.conftest import EXECUTORS, Answer, Serve, eventually
from tests.faults.conftest import rounds
from tests.faults.contract import Client, Contract, message
from tests.faults.eight import (
    CANARY,
    EIGHT,
    MODELS,
    TOLD,
    at_once,
    eight,
    fail_alone,
    numbers,
    predicts,
    served,
    since,
    told,
    undefended,
)
from tests.faults.item_models import ANSWERS, BROKEN, NUMBERS, RETURNS, Sized

pytestmark = pytest.mark.slow

IN_PROCESS = ("thread", "inline")
RESTARTS = "headrace_replica_restarts_total"
EXPECTED = ("replica not ready", "a worker ended", "the replica failed to start")
"""What is logged of a model that fails on its own example."""
REFUSED = (418, "item_error", [{"why": "it was told to"}])


@pytest.fixture(scope="module", params=EXECUTORS)
def executor(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="module")
def contract(executor: str) -> Iterator[Contract]:
    """One server for all rows, each of which must leave it as it was."""
    sized = ["Sized"] if executor in IN_PROCESS else []
    with served("Told", "Numbers", "NullNumbers", *sized, CANARY, executor=executor) as server:
        contract = Contract(server, "fast", expects=EXPECTED)
        yield contract
        contract.close()


# E1

STAGES = {
    "preprocess-raises": ("preprocess: raise", 500, "model_error", 7),
    "preprocess-refuses": ("preprocess: refuse", *REFUSED[:2], 7),
    "preprocess-unprintable": ("preprocess: unprintable", 500, "model_error", 7),
    "predict-refuses-in-its-place": ("in its place", *REFUSED[:2], 8),
    "postprocess-raises": ("postprocess: raise", 500, "model_error", 8),
    "postprocess-refuses": ("postprocess: refuse", *REFUSED[:2], 8),
    "postprocess-unprintable": ("postprocess: unprintable", 500, "model_error", 8),
    **{f"encode-{what.replace(' ', '-')}": (what, 500, "output_error", 8) for what in ANSWERS},
}


def fails_in_one_batch(client: Client, do: str, status: int, code: str, size: int) -> None:
    before = len(predicts(client.server))
    [guilty] = fail_alone(client, [do], [(status, code)])
    if code == REFUSED[1]:
        assert guilty.json()["details"] == REFUSED[2]
    batches = since(client.server, before)
    assert [len(batch) for batch in batches] == [size], "the same batch, once"


@pytest.mark.row("E1")
@pytest.mark.parametrize(("do", "status", "code", "size"), STAGES.values(), ids=STAGES)
def test_what_fails_an_item_around_predict_fails_it_alone(
    contract: Contract, do: str, status: int, code: str, size: int
) -> None:
    contract.hold(
        lambda client: fails_in_one_batch(client, do, status, code, size),
        rounds=rounds(2),
        reaches=EIGHT,
    )


@pytest.mark.counter("E1")
def test_an_item_that_fails_all_that_are_finished_with_it_is_noticed() -> None:
    with undefended("an item that cannot be finished fails alone", "Told") as client:
        fails_in_one_batch(client, *STAGES["preprocess-raises"])
        with pytest.raises(AssertionError):
            fails_in_one_batch(client, *STAGES["postprocess-raises"])


# E7 and E8, as far as every executor promises them

ENDS = {
    f"{stage}-{fault}": f"{stage}: {fault}"
    for stage in ("preprocess", "predict", "postprocess")
    for fault in ("exit as told", "interrupt as told", "memory error as told")
}


@pytest.mark.row("E7", "E8")
@pytest.mark.parametrize("do", ENDS.values(), ids=ENDS)
def test_what_asks_to_exit_or_runs_out_of_memory_fails_its_own_item(
    contract: Contract, do: str
) -> None:
    restarts = contract.server.metric(RESTARTS)
    contract.hold(
        lambda client: fail_alone(client, ["", "", do], [(500, "model_error")]),
        rounds=rounds(1),
        reaches=EIGHT,
    )
    assert contract.server.metric(RESTARTS) == restarts


# E2

PREDICTS_THAT_RAISE = {
    "raise": (500, "model_error"),
    "refuse": REFUSED[:2],
    "unprintable": (500, "model_error"),
}


@pytest.mark.row("E2")
@pytest.mark.parametrize("fault", PREDICTS_THAT_RAISE)
def test_the_item_that_predict_raises_by_fails_alone(contract: Contract, fault: str) -> None:
    expected = PREDICTS_THAT_RAISE[fault]
    contract.hold(
        lambda client: fail_alone(client, [f"predict: {fault}"], [expected]),
        rounds=rounds(2),
        reaches=8,
    )


@pytest.mark.row("E2")
@pytest.mark.parametrize("guilty", [2, 3, 7, 8])
def test_each_of_several_that_predict_raises_by_fails(contract: Contract, guilty: int) -> None:
    orders = [
        f"predict: {fault}"
        for fault, _ in zip(["raise", "refuse"] * 4, range(guilty), strict=False)
    ]
    expected = [PREDICTS_THAT_RAISE[do.split()[1]] for do in orders]
    contract.hold(lambda client: fail_alone(client, orders, expected), rounds=rounds(2), reaches=8)


@pytest.mark.row("E2")
def test_what_predict_raises_for_together_is_answered_alone(contract: Contract) -> None:
    def act(client: Client) -> None:
        asked, answers = eight(client, ["only alone"] * 8)
        assert [each.json() for each in answers] == [2 * n for n in asked]

    contract.hold(act, rounds=rounds(2), reaches=8)


def costs_the_canary_at_most(client: Client) -> None:
    server = client.server
    before = len(predicts(server))
    try:
        _, answers = eight(client, ["break"])
        # A worker is replaced, and what it had is tried in the next one: there is none for now.
        assert told(answers) in ([(500, "model_error")] * EIGHT, [(503, "not_ready")] * EIGHT)
        batches = since(server, before)
        assert len(batches[0]) == EIGHT
        assert batches[1] == [0], "the example"
        assert not any(n for batch in batches[2:] for n in batch), "no item ran again"
        eventually(lambda: server.get("/readyz").status_code == 503, "not ready")
    finally:
        (server.folder / BROKEN).unlink(missing_ok=True)
    eventually(lambda: server.get("/readyz").status_code == 200, "it to heal by itself")
    fail_alone(client, [], [])


@pytest.mark.row("E2")
def test_a_fault_of_the_whole_batch_costs_at_most_the_canary(contract: Contract) -> None:
    with contract.watch(reaches=2 * EIGHT) as client:
        costs_the_canary_at_most(client)


def takes_half_of_the_time(client: Client) -> None:
    """One batch is isolated while forty others wait: they run in turn."""
    server = client.server
    before = len(predicts(server))
    (server.folder / "go").unlink(missing_ok=True)
    wires = [client.wire() for _ in range(6 * EIGHT)]
    asked = [next(numbers) for _ in wires]
    for place, (wire, n) in enumerate(zip(wires, asked, strict=True)):
        # Each predict takes longer than the way from the front to a worker does.
        order = {"n": n, "do": "wait, then raise" if place == 0 else "", "s": 0.01}
        wire.send(message(TOLD, json.dumps(order)))
        if place == EIGHT - 1:
            eventually(lambda: since(server, before), "the first batch to run")
    name = "headrace_http_requests_in_flight"
    eventually(lambda: server.metric(name) >= len(wires), "all to be taken")
    server.set("go")
    answers = [wire.answer() for wire in wires]
    assert answers[0].code == "model_error"
    assert [each.json() for each in answers[1:]] == [2 * n for n in asked[1:]]
    first = {0, *asked[:EIGHT]}
    of_isolation = ["i" if set(batch) <= first else "o" for batch in since(server, before)[1:]]
    turns = "".join(of_isolation).rstrip("i")
    assert turns.count("o") >= 5
    assert "ii" not in turns, f"while others waited: {turns}"


@pytest.mark.row("E2")
def test_isolation_takes_at_most_half_of_the_replicas_time(
    contract: Contract, executor: str
) -> None:
    if executor == "inline":
        pytest.skip("while predict runs nothing is read; tests/contract has the turns it takes")
    with contract.watch(reaches=6 * EIGHT) as client:
        takes_half_of_the_time(client)


@pytest.mark.counter("E2")
def test_a_batch_that_is_not_isolated_is_noticed() -> None:
    with undefended("a batch whose predict raised is isolated", "Told") as client:
        with pytest.raises(AssertionError):
            fail_alone(client, ["predict: raise"], [(500, "model_error")])


@pytest.mark.counter("E2")
def test_an_isolation_that_lets_nobody_in_is_noticed() -> None:
    with undefended("an isolation leaves every other turn to others", "Told") as client:
        with pytest.raises(AssertionError, match="while others waited"):
            takes_half_of_the_time(client)


# E3


def breaks_the_contract(client: Client, do: str) -> None:
    before = len(predicts(client.server))
    _, answers = eight(client, ["", do])
    assert told(answers) == [(500, "batch_contract")] * EIGHT
    assert [len(batch) for batch in since(client.server, before)] == [EIGHT]
    fail_alone(client, [], [])


@pytest.mark.row("E3")
@pytest.mark.parametrize("do", RETURNS, ids=lambda do: do.replace(" ", "-"))
def test_what_is_not_one_output_for_each_gives_nobody_an_answer(
    contract: Contract, do: str
) -> None:
    contract.hold(
        lambda client: breaks_the_contract(client, do), rounds=rounds(2), reaches=2 * EIGHT
    )


@pytest.mark.counter("E3")
@pytest.mark.parametrize("do", ["one too few", "one too many"])
def test_outputs_that_nobody_has_counted_are_noticed(do: str) -> None:
    with undefended("outputs are counted", "Told") as client:
        with pytest.raises(AssertionError):
            breaks_the_contract(client, do)


# E4

PLACES = ("", " in a list", " in a dict")
JSON, MSGPACK = "application/json", "application/msgpack"


def typed(media_type: str, accept: str) -> str:
    return f"content-type: {media_type}\r\naccept: {accept}\r\n"


def asked_for(client: Client, name: str, model: str, headers: str) -> Answer:
    """What one of a batch of eight is answered; the other seven get their 1.0."""
    path = f"/models/{model}/predict"
    answers = at_once(client, [json.dumps(name), *[b'"one"'] * 7], path, headers)
    decode: Callable[[bytes], Any] = json.loads if JSON in headers[30:] else msgspec.msgpack.decode
    assert [decode(each.body) for each in answers[1:]] == [1.0] * 7
    return answers[0]


def within(value: Any, place: str) -> Any:
    """What stands at its place in an answer."""
    if not place:
        return value
    return value[1][0] if place == " in a list" else value["a"]["b"]


def is_refused_as_json(client: Client, name: str) -> None:
    answer = asked_for(client, name, "numbers", typed(JSON, JSON))
    assert told([answer]) == [(500, "output_error")]


@pytest.mark.row("E4")
@pytest.mark.parametrize("place", PLACES, ids=["bare", "list", "dict"])
@pytest.mark.parametrize("number", ["nan", "inf", "-inf"])
def test_a_number_that_json_has_no_word_for_is_what_the_model_says(
    contract: Contract, number: str, place: str
) -> None:
    def strict(text: str) -> Any:
        raise AssertionError(f"{text} is no JSON")

    def act(client: Client) -> None:
        is_refused_as_json(client, number + place)
        null = asked_for(client, number + place, "null-numbers", typed(JSON, JSON))
        assert null.status == 200
        assert within(json.loads(null.body, parse_constant=strict), place) is None
        for model in ("numbers", "null-numbers"):
            exact = asked_for(client, number + place, model, typed(JSON, MSGPACK))
            found = within(msgspec.msgpack.decode(exact.body), place)
            assert struct.pack("<d", found) == struct.pack("<d", NUMBERS[number])

    contract.hold(act, rounds=rounds(2), reaches=4 * EIGHT)


@pytest.mark.counter("E4")
def test_a_nan_that_is_not_looked_for_is_noticed() -> None:
    with undefended("an answer is searched for NaN", "Numbers") as client:
        with pytest.raises(AssertionError):
            is_refused_as_json(client, "nan in a list")


# E13

SIZES = [name.decode() for name in (*Sized.KEYS, *Sized.COSTS)]


def fails_by_its_size(client: Client, do: str) -> None:
    [guilty] = fail_alone(client, [do], [(500, "model_error")], "/models/sized/predict")
    assert guilty.json()["details"] == [{"stage": "sizing"}]


@pytest.mark.row("E13")
@pytest.mark.parametrize("do", SIZES, ids=lambda do: do.replace(" ", "-"))
def test_an_item_that_cannot_be_sized_fails_alone(
    contract: Contract, executor: str, do: str
) -> None:
    if executor not in IN_PROCESS:
        pytest.skip("the server does not import a worker's model: it is refused, see below")
    contract.hold(lambda client: fails_by_its_size(client, do), rounds=rounds(2), reaches=EIGHT)


@pytest.mark.row("E13")
def test_a_model_with_such_functions_is_refused_where_nobody_could_call_them(serve: Serve) -> None:
    server = serve(f"{MODELS}:Sized", is_ready=False)
    assert server.exit_code() == 2
    assert "Sized.key: the server does not import the model" in "".join(server.log_lines)


@pytest.mark.counter("E13")
def test_a_size_that_raises_in_the_engine_is_noticed() -> None:
    with undefended("what sizes an item may raise", "Sized", executor="thread") as client:
        with pytest.raises((AssertionError, OSError)):
            fails_by_its_size(client, "cost raises")
