"""Wrong data: a 422 that names the place, by whatever codec and schema; the model never sees it.

headrace has no arrays with a dtype yet: number types, ranks and dimensions are those of nested
lists with bounds. Nor has it versions of a model in its routes: those are unknown routes.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from copy import deepcopy
from pathlib import Path
from typing import Any

import msgspec
import pytest

from tests.e2e.conftest import Answer, Served
from tests.faults.contract import Client, Contract
from tests.faults.data_models import DATUM, GIVEN
from tests.faults.eight import CANARY, at_once, served, undefended

pytestmark = pytest.mark.slow

MODELS = Path(__file__).with_name("data_models.py")
NAMES = [f"{MODELS}:{name}" for name in ("Checked", "Twin", "Shaped", "Ragged")]
JSON, MSGPACK = "application/json", "application/msgpack"
ENCODE: Mapping[str, Callable[[Any], bytes]] = {
    JSON: msgspec.json.encode,
    MSGPACK: msgspec.msgpack.encode,
}
DECODE: Mapping[str, Callable[[bytes], Any]] = {JSON: json.loads, MSGPACK: msgspec.msgpack.decode}
BIG = 2**70
"""An integer that msgpack has no form for."""

NONE = object()
Cases = Mapping[str, tuple[str, Any]]
"""What is set at a place of a right datum, or taken away by NONE: its path, as errors name it."""

FIELDS: Cases = {
    "missing": ("$.x", NONE),
    "missing-within": ("$.where.x", NONE),
    "extra": ("$.more", 1),
    "extra-within": ("$.where.z", None),
    "extra-null": ("$.null", None),
    "null": ("$.name", None),
    "null-within": ("$.where.y", None),
    "null-in-list": ("$.vector[1]", None),
    "text-for-number": ("$.x", "1.5"),
    "number-for-text": ("$.name", 1),
    "list-for-object": ("$.where", []),
    "object-for-list": ("$.vector", {}),
    "text-for-flag": ("$.flag", "true"),
    "another-choice": ("$.colour", "green"),
    "case-of-choice": ("$.colour", "Red"),
    "text-for-optional": ("$.maybe", "1"),
    "whole-null": ("$", None),
    "whole-list": ("$", [DATUM]),
    "whole-text": ("$", json.dumps(DATUM)),
    "whole-empty": ("$.n", {}),
}
SHAPES: Cases = {
    "text-in-vector": ("$.vector[0]", "a"),
    "flag-in-vector": ("$.vector[2]", True),
    "short-vector": ("$.vector", [1.0, 2.0]),
    "long-vector": ("$.vector", [1.0, 2.0, 3.0, 4.0]),
    "empty-vector": ("$.vector", []),
    "number-for-vector": ("$.vector", 1.0),
    "vector-for-table": ("$.table[0]", 1.0),
    "block-for-table": ("$.table[0][0]", [1.0]),
    "number-for-table": ("$.table", 1.0),
}
NUMBERS: Cases = {
    "over": ("$.n", 128),
    "under": ("$.n", -129),
    "2^63": ("$.n", 2**63),
    "2^64-1": ("$.n", 2**64 - 1),
    "-2^63": ("$.n", -(2**63)),
    "2^70": ("$.n", BIG),
    "whole-float": ("$.n", 1.0),
    "half": ("$.n", 1.5),
    "flag-for-integer": ("$.n", True),
    "flag-for-integer-within": ("$.where.x", False),
    "float-for-integer-within": ("$.where.x", 2.0),
    "flag-for-float": ("$.x", True),
    "one-for-flag": ("$.flag", 1),
    "zero-for-flag": ("$.flag", 0.0),
}
RIGHT: Mapping[str, tuple[str, Any]] = {
    "as-it-is": ("$.maybe", None),
    "bounds": ("$.n", 127),
    "integer-for-float": ("$.x", 2**53 + 1),
    "optional": ("$.maybe", -(2**63)),
    "default": ("$.where.y", NONE),
    "nothing-in-table": ("$.table", []),
    "other-choice": ("$.colour", "blue"),
}
ROWS = {"D1": FIELDS, "D2": SHAPES, "D3": NUMBERS}


@pytest.fixture(scope="module")
def contract() -> Iterator[Contract]:
    """One server for all rows, each of which must leave it as it was."""
    with served(*NAMES, CANARY) as server:
        contract = Contract(server, "fast")
        yield contract
        contract.close()


def changed(path: str, value: Any) -> Any:
    """A right datum, but for one place."""
    if path == "$" or (path == "$.n" and value == {}):
        return value
    datum = deepcopy(DATUM)
    *above, last = path[2:].replace("]", "").replace("[", ".").split(".")
    place: Any = datum
    for step in above:
        place = place[int(step)] if isinstance(place, list) else place[step]
    if value is NONE:
        del place[last]
    elif isinstance(place, list):
        place[int(last)] = value
    else:
        place[last] = value
    return datum


def ask(client: Client, path: str, value: Any, media_type: str) -> Answer | None:
    """The answer; None where the codec has no form for the value."""
    try:
        body = ENCODE[media_type](value)
    except OverflowError:
        return None
    return client.ask(path, body, f"content-type: {media_type}\r\naccept: {JSON}\r\n")


def given(server: Served) -> int:
    """How many batches the models have seen."""
    path = server.folder / GIVEN
    return len(path.read_text().splitlines())


def are_refused(client: Client, cases: Cases, model: str, media_type: str) -> None:
    """Each gets a 422 that names its path, alone and in a v1 call, and no model sees it."""
    before = given(client.server)
    for name, (path, wrong) in cases.items():
        value = changed(path, wrong)
        answer = ask(client, f"/models/{model}/predict", value, media_type)
        if answer is None:
            continue
        assert answer.status == 422, (name, answer.body)
        told = answer.json()
        assert told["code"] == "invalid", name
        assert path in [fault["path"] for fault in told["details"]], (name, told)
        assert told["error"].startswith("$")
        call = ask(client, f"/v1/models/{model}:predict", {"instances": [value]}, media_type)
        assert call is not None and (call.status, call.code) == (422, "invalid"), name
        [failed] = call.json()["details"]
        assert (failed["index"], failed["error"]) == (0, told["error"]), name
    assert given(client.server) == before, "the model has seen it"


@pytest.mark.parametrize("media_type", ENCODE)
@pytest.mark.parametrize("model", ["checked", "twin"])
@pytest.mark.parametrize(
    "cases",
    [
        pytest.param(FIELDS, id="fields", marks=pytest.mark.row("D1")),
        pytest.param(SHAPES, id="shapes", marks=pytest.mark.row("D2")),
        pytest.param(NUMBERS, id="numbers", marks=pytest.mark.row("D3")),
    ],
)
def test_wrong_data_is_refused_by_its_path(
    contract: Contract, cases: Cases, model: str, media_type: str
) -> None:
    contract.hold(lambda client: are_refused(client, cases, model, media_type), rounds=2)


def verdict(answer: Answer | None) -> Any:
    """What an answer says of its value."""
    assert answer is not None
    if answer.status == 200:
        return answer.json()
    return answer.status, answer.code, [fault.get("path") for fault in answer.json()["details"]]


def are_met_alike(client: Client, model: str) -> None:
    """Each value has one verdict, whichever codec it came by."""
    cases = {**FIELDS, **SHAPES, **NUMBERS, **RIGHT}
    for name, (path, new) in cases.items():
        value = changed(path, new)
        expected = verdict(ask(client, f"/models/{model}/predict", value, JSON))
        assert (expected == DATUM["name"]) == (name in RIGHT), (name, expected)
        by_msgpack = ask(client, f"/models/{model}/predict", value, MSGPACK)
        assert by_msgpack is None or verdict(by_msgpack) == expected, name


@pytest.mark.row("D4")
@pytest.mark.parametrize("model", ["checked", "twin"])
def test_a_value_has_one_verdict_whatever_it_comes_by(contract: Contract, model: str) -> None:
    contract.hold(lambda client: are_met_alike(client, model), rounds=1)


@pytest.mark.row("D4")
def test_both_kinds_of_schema_give_the_same_verdict(contract: Contract) -> None:
    def act(client: Client) -> None:
        for name, (path, wrong) in {**FIELDS, **SHAPES, **NUMBERS}.items():
            value = changed(path, wrong)
            mine, theirs = (
                ask(client, f"/models/{model}/predict", value, JSON)
                for model in ("checked", "twin")
            )
            # Of several faults, such as fields that are missing, each may name more or fewer.
            assert verdict(mine)[:2] == verdict(theirs)[:2], name
            assert verdict(mine)[2][0] in verdict(theirs)[2], name

    contract.hold(act, rounds=1)


MODELS_UNKNOWN = (
    *("/models/none/predict", "/v1/models/none:predict", "/models/none/messages"),
    *("/models/Checked/predict", "/models/checked%20/predict", "/models/%63hecke/predict"),
    "/models/" + 200 * "a" + "/predict",
)
ROUTES_UNKNOWN = (
    *("/models/checked/predict/", "/models/checked/versions/1/predict"),
    *("/models/checked/versions/99/predict", "/v1/models/checked/versions/1:predict"),
    *("/v1/models/checked:explain", "/v2/models/checked/infer", "/v3/models/checked", "/nothing"),
)


def are_nowhere(client: Client) -> None:
    """A name or a route that is not there is a 404, and the connection goes on."""
    before = given(client.server)
    body = msgspec.json.encode(DATUM)
    for paths, code in ((MODELS_UNKNOWN, "model_not_found"), (ROUTES_UNKNOWN, "route_not_found")):
        for path in paths:
            answer = client.ask(path, body)
            assert answer.status == 404, (path, answer.body)
            assert answer.code == code, (path, answer.body)
    assert given(client.server) == before


@pytest.mark.row("D5")
def test_what_is_not_served_is_not_found(contract: Contract) -> None:
    contract.hold(are_nowhere, rounds=2)


LENGTHS = (4, 15, 30) * 8
BOUNDS = (10, 20)
"""Of texts; their bodies have two quotes more."""


def bucket(length: int) -> int:
    return sum(length > bound for bound in BOUNDS)


def meet_only_their_like(client: Client, model: str) -> None:
    """Texts that come at once are put together, and none with one of another length's."""
    bodies = [json.dumps("x" * length) for length in LENGTHS]
    answers = at_once(client, bodies, f"/models/{model}/predict")
    mates = [answer.json() for answer in answers]
    assert max(map(len, mates)) > 1, "nothing was put together"
    for length, others in zip(LENGTHS, mates, strict=True):
        assert length in others
        assert {bucket(other) for other in others} == {bucket(length)}, others


@pytest.mark.row("D6")
def test_items_of_different_shapes_never_share_a_batch(contract: Contract) -> None:
    contract.hold(
        lambda client: meet_only_their_like(client, "shaped"), rounds=3, reaches=len(LENGTHS)
    )


@pytest.mark.row("D6")
def test_a_model_that_takes_them_ragged_gets_them_together(contract: Contract) -> None:
    def act(client: Client) -> None:
        with pytest.raises(AssertionError):
            meet_only_their_like(client, "ragged")

    contract.hold(act, rounds=3, reaches=len(LENGTHS))


# Without the defences


@pytest.mark.counter("D1", "D2", "D3")
def test_data_that_nobody_checks_is_noticed() -> None:
    with undefended("items are checked", NAMES[0], NAMES[1]) as client:
        for cases in ROWS.values():
            for model in ("checked", "twin"):
                with pytest.raises(AssertionError):
                    are_refused(client, cases, model, JSON)


@pytest.mark.counter("D4")
def test_a_codec_whose_values_nobody_checks_is_noticed() -> None:
    with undefended("items of msgpack are checked", NAMES[0]) as client:
        are_refused(client, NUMBERS, "checked", JSON)
        with pytest.raises(AssertionError):
            are_met_alike(client, "checked")


@pytest.mark.counter("D5")
def test_an_unknown_model_that_is_taken_for_another_is_noticed() -> None:
    with undefended("an unknown name is no model's", NAMES[0]) as client:
        with pytest.raises(AssertionError):
            are_nowhere(client)


@pytest.mark.counter("D6")
def test_items_that_meet_without_their_bounds_are_noticed() -> None:
    settings = {"batching__bucket_bytes": 1000}  # one bound, which all are under
    with undefended("", NAMES[2], **settings) as client, pytest.raises(AssertionError):
        meet_only_their_like(client, "shaped")
