"""The contract itself: each part of it is broken on purpose, and has to notice."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.conftest import Answer, eventually
from tests.faults.canaries import LATE_S, check_soon
from tests.faults.conftest import served_anyhow
from tests.faults.contract import Client, Contract
from tests.faults.defences import Defence, lacking
from tests.faults.errors import check_error
from tests.faults.watch import takes_at_most, workers

pytestmark = pytest.mark.slow

MODELS = Path(__file__).with_name("contract_models.py")
MIB = 1 << 20
SETTLE_S = 2.0
PLAIN = f"{Path(__file__).with_name('http_models.py')}:Canary"


@contextmanager
def watched(
    *names: str, executor: str = "inline", settle_s: float = SETTLE_S, **more: Any
) -> Iterator[Contract]:
    """The contract of such a server."""
    with served_anyhow(MODELS, *names, executor=executor, **more) as server:
        contract = Contract(server, "fast", settle_s=settle_s)
        try:
            yield contract
        finally:
            contract.disconnect()


@pytest.fixture(scope="module", params=["inline", "process"])
def leaky(request: pytest.FixtureRequest) -> Iterator[Contract]:
    """A server whose own process, or whose worker, leaks what it is told to."""
    with watched("Leaky", PLAIN, executor=request.param, settle_s=0.5) as contract:
        yield contract
        contract.close()


@pytest.mark.row("M4")
@pytest.mark.parametrize("kind", ["file", "thread", "zombie", "memory", "shared", "temporary"])
def test_what_grows_is_noticed(leaky: Contract, kind: str) -> None:
    def act(client: Client, kind: str = kind) -> None:
        assert client.ask("/predict", json.dumps(kind)).status == 200

    leaky.hold(lambda client: act(client, "nothing"), rounds=5)
    try:
        with pytest.raises(AssertionError, match=r"memory grows|to be freed"):
            leaky.hold(act, rounds=5)
    finally:
        assert leaky.server.post("/predict", "forget").status_code == 200


def test_memory_that_is_held_for_a_moment_only_is_noticed(leaky: Contract) -> None:
    server = leaky.server
    with takes_at_most(server, 16 * MIB):
        assert server.post("/predict", "nothing").status_code == 200
    with pytest.raises(AssertionError, match="it took"), takes_at_most(server, 16 * MIB):
        assert server.post("/predict", "moment").status_code == 200


@pytest.fixture(scope="module")
def broken() -> Iterator[Contract]:
    """A server whose model `canary` does as it is told by files."""
    with watched("Canary", "Leaky") as contract:
        yield contract


def test_an_answer_that_the_client_did_not_get_is_noticed(broken: Contract) -> None:
    with pytest.raises(AssertionError), broken.watch() as client:
        client.ask("/models/leaky/predict", '""')
        client.statuses[200] -= 1


def test_an_answer_that_the_server_did_not_give_is_noticed(broken: Contract) -> None:
    with pytest.raises(AssertionError), broken.watch() as client:
        client.ask("/models/leaky/predict", '""')
        client.statuses[200] += 1


def test_a_refusal_that_is_counted_twice_is_noticed(broken: Contract) -> None:
    with pytest.raises(AssertionError), broken.watch() as client:
        assert [answer.status for answer in client.talk(b"\0\0\r\n\r\n")] == [400]
        client.refusals[400] -= 1


def test_an_item_that_reaches_a_model_is_noticed(broken: Contract) -> None:
    with pytest.raises(AssertionError), broken.watch(reaches=0) as client:
        client.ask("/models/leaky/predict", '""')


def told_to(contract: Contract, name: str, times: int) -> None:
    """Let a row pass during which the model `canary` does what a file of this name tells it to."""
    with contract.watch() as client:
        contract.server.set(name)
        try:
            for _ in range(times):
                client.ask("/models/canary/predict", "1")
        finally:
            (contract.server.folder / name).unlink()


def test_a_canary_that_is_answered_wrongly_is_noticed(broken: Contract) -> None:
    with pytest.raises(AssertionError):
        told_to(broken, "lies", 300)
    broken.restart_canaries()
    with broken.watch():
        pass


def test_canaries_and_probes_that_wait_are_noticed(broken: Contract) -> None:
    with pytest.raises(AssertionError, match="a canary waited"):
        told_to(broken, "sleeps", 1)


def test_a_probe_that_waits_is_noticed() -> None:
    with pytest.raises(AssertionError, match="waited"):
        check_soon([0.01, 0.2 + LATE_S], 0.1, "it waited")
    with pytest.raises(AssertionError, match="half"):
        check_soon([0.01] * 10 + [0.2] * 11, 0.1, "it waited")
    check_soon([0.01] * 20 + [0.2], 0.1, "it waited")


def test_a_server_that_is_another_is_noticed() -> None:
    with watched(PLAIN) as contract:
        with pytest.raises((AssertionError, OSError)), contract.watch():
            contract.server.signal(signal.SIGKILL)
            contract.server.process.wait()


def test_a_server_that_does_not_get_ready_again_is_noticed() -> None:
    with watched("Canary", executor="process") as contract:
        server = contract.server
        contract.check_alive()
        server.set("hangs")
        [worker] = workers(server)
        os.kill(worker, signal.SIGKILL)
        eventually(lambda: server.get("/readyz").status_code == 503, "it to be missed")
        with pytest.raises(AssertionError, match="s: ready"):
            contract.check_alive()


RECORD = "        held_back = self.predict.rate_limit.admit(self.predict.clock(), failure.code)\n"
MANY = 100


def fails_often(contract: Contract) -> None:
    """More requests fail at once than there are records in a second."""
    with contract.watch() as client:
        for _ in range(MANY):
            assert client.ask("/predict", "[").status == 400
    contract.close()


@pytest.mark.row("M4")
def test_of_failures_without_a_record_of_their_own_there_is_a_count() -> None:
    with watched(PLAIN) as contract:
        fails_often(contract)


def test_what_is_held_back_is_told_when_the_server_stops() -> None:
    with served_anyhow(MODELS, PLAIN, executor="inline") as server:
        with Client(server) as client:
            for _ in range(MANY):
                assert client.ask("/predict", "[").status == 400
        server.terminate()
        assert server.exit_code() == 0
        records = server.records()
    written = sum(record["message"] == "request failed" for record in records)
    held_back = sum(record.get("held_back", 0) for record in records)
    assert (written < MANY, written + held_back) == (True, MANY)


@pytest.mark.parametrize(
    "defence",
    [
        Defence("headrace.http.exchange", RECORD, "        held_back = None\n"),
        Defence("headrace.logs", "MAX_PER_SECOND = 10\n", "MAX_PER_SECOND = 1000\n"),
        Defence("headrace.logs", "            self._tell_later(reason, began)\n", ""),
    ],
    ids=["no-record", "a-flood", "no-count"],
)
def test_records_that_are_missing_or_too_many_are_noticed(defence: Defence) -> None:
    with watched(PLAIN, env=lacking(defence)) as contract, pytest.raises(AssertionError):
        fails_often(contract)


SENT = b"secret" * 20 + "wäter".encode() * 20


@pytest.mark.parametrize(
    "body",
    [
        b'{"error":"x","code":"c"}',
        b'{"error":"Traceback (most recent call last)","code":"c","details":[]}',
        b'{"error":"in model.py","code":"c","details":[]}',
        b'{"error":"' + b"y" * 2048 + b'","code":"c","details":[]}',
        b'{"error":"' + b"secret" * 11 + b'","code":"c","details":[]}',
        json.dumps({"error": "wäter" * 13, "code": "c", "details": []}).encode(),
        json.dumps({"error": "x", "code": "c", "details": [{"a": "wäter" * 13}]}).encode(),
        b'{"error":"worker 1234567 died","code":"c","details":[]}',
    ],
)
def test_an_error_that_says_too_much_is_noticed(broken: Contract, body: bytes) -> None:
    answer = Answer(500, {"content-type": "application/json"}, body)
    with pytest.raises(AssertionError):
        check_error(answer, broken.server, SENT, ["1234567"])


@pytest.mark.parametrize("error", ["x", "secret" * 10, "wäter" * 10])
def test_an_error_that_says_enough_passes(broken: Contract, error: str) -> None:
    body = json.dumps({"error": error, "code": "c", "details": []}).encode()
    answer = Answer(500, {"content-type": "application/json"}, body)
    check_error(answer, broken.server, SENT, ["1234567"])
