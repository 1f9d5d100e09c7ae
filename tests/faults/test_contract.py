"""The contract itself: it is broken on purpose, and has to notice."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.e2e.conftest import Answer, Served, starter
from tests.faults.conftest import HTTP_MODELS
from tests.faults.contract import Client, Contract, check_error

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def leaky() -> Iterator[Contract]:
    """A server whose own process leaks what it is told to."""
    servers: list[Served] = []
    with tempfile.TemporaryDirectory(prefix="hr-") as folder:
        server = starter(Path(folder), servers, HTTP_MODELS)("Leaky", "Canary", executor="inline")
        contract = Contract(server, "fast", settle_s=2.0)
        yield contract
        contract.close()
        for each in servers:
            each.stop()


@pytest.mark.row("M4")
@pytest.mark.parametrize("kind", ["file", "thread", "zombie", "memory"])
def test_what_grows_is_noticed(leaky: Contract, kind: str) -> None:
    def act(client: Client, kind: str = kind) -> None:
        assert client.ask("/predict", json.dumps(kind)).status == 200

    leaky.hold(lambda client: act(client, "nothing"), rounds=10)
    with pytest.raises(AssertionError, match=r"memory grows|to be freed"):
        leaky.hold(act, rounds=10)


def test_an_answer_that_the_client_did_not_get_is_noticed(leaky: Contract) -> None:
    with pytest.raises(AssertionError), leaky.watch() as client:
        client.ask("/predict", '""')
        client.statuses[200] -= 1


def test_an_answer_that_the_server_did_not_give_is_noticed(leaky: Contract) -> None:
    with pytest.raises(AssertionError), leaky.watch() as client:
        client.statuses[200] += 1


def test_an_item_that_reaches_a_model_is_noticed(leaky: Contract) -> None:
    with pytest.raises(AssertionError), leaky.watch(reaches=0) as client:
        client.ask("/predict", '""')


@pytest.mark.parametrize(
    "body",
    [
        b'{"error":"x","code":"c"}',
        b'{"error":"Traceback (most recent call last)","code":"c","details":[]}',
        b'{"error":"in model.py","code":"c","details":[]}',
        b'{"error":"' + b"y" * 2048 + b'","code":"c","details":[]}',
        b'{"error":"' + b"secret" * 11 + b'","code":"c","details":[]}',
    ],
)
def test_an_error_that_says_too_much_is_noticed(leaky: Contract, body: bytes) -> None:
    answer = Answer(500, {"content-type": "application/json"}, body)
    with pytest.raises(AssertionError):
        check_error(answer, leaky.server, b"secret" * 20)
