"""A server that is busy, and clients that wait, give up or vanish."""

from __future__ import annotations

import json
import time
from concurrent.futures import Future, ThreadPoolExecutor

import httpx
import pytest

from tests.e2e.conftest import Serve, Served, Wire, eventually


def occupy(server: Served, wires: list[Wire]) -> None:
    """Fill the replica's two slots until it is told to `go`: all that follows queues."""
    for n in (901, 902, 903, 904, 905):
        wire = server.wire()
        wires.append(wire)
        wire.post("/predict", json.dumps({"n": n, "do": "wait"}))
        if n == 901:
            eventually(lambda: 901 in server.ran(), "the replica to be busy")
    eventually(lambda: server.metric("headrace_running_items", model="scripted") == 5, "both slots")


@pytest.fixture
def busy(serve: Serve) -> Served:
    """A server whose replica is busy until it is told to go on."""
    server = serve("Scripted", limits__max_queue_items=8)
    wires: list[Wire] = []
    occupy(server, wires)
    return server


def test_a_deadline_in_the_queue_is_answered_while_the_replica_is_busy(busy: Served) -> None:
    began = time.monotonic()
    answer = busy.post("/predict", {"n": 7}, x_request_timeout="0.2")
    took_s = time.monotonic() - began
    assert answer.status_code == 504
    assert (answer.json()["code"], answer.json()["details"]) == (
        "deadline_exceeded",
        [{"stage": "queued"}],
    )
    assert 0.19 < took_s < 2.0
    busy.set("go")
    assert busy.predict(8).json() == 16
    assert 7 not in busy.ran(), "it never reached predict"


def test_a_deadline_while_running_ends_only_its_own_item(serve: Serve) -> None:
    server = serve("Scripted")
    answer = server.post("/predict", {"n": 7, "do": "wait"}, x_request_timeout="0.2")
    assert (answer.status_code, answer.json()["details"]) == (504, [{"stage": "running"}])
    assert server.get("/readyz").status_code == 200
    server.set("go")
    assert server.predict(8).json() == 16


def test_a_client_that_goes_while_it_queues_never_reaches_predict(busy: Served) -> None:
    wire = busy.wire()
    wire.post("/predict", '{"n": 7}')
    eventually(lambda: busy.metric("headrace_queue_items", model="scripted") == 1, "it to queue")
    wire.socket.close()
    eventually(lambda: busy.metric("headrace_queue_items", model="scripted") == 0, "it to leave")
    assert busy.metric("headrace_http_disconnects_total") == 1
    assert busy.metric("headrace_items_total", model="scripted", code="cancelled") == 1
    busy.set("go")
    assert busy.predict(8).json() == 16
    assert 7 not in busy.ran()


def test_all_of_a_connections_requests_go_with_it(busy: Served) -> None:
    with busy.wire() as wire:
        wire.post("/predict", '{"n": 7}')
        eventually(lambda: busy.metric("headrace_queue_items", model="scripted") == 1, "the first")
        for n in (8, 9):
            wire.post("/predict", json.dumps({"n": n}))
            time.sleep(0.05)  # each in a read of its own
    eventually(lambda: busy.metric("headrace_queue_items", model="scripted") == 0, "it to leave")
    busy.set("go")
    assert busy.predict(10).json() == 20
    assert not {7, 8, 9} & set(busy.ran())


def test_a_client_that_goes_while_it_runs_changes_nothing_for_its_mates(serve: Serve) -> None:
    server = serve("Scripted")
    with ThreadPoolExecutor(1) as pool:
        leaving = server.wire()
        leaving.post("/v1/models/scripted:predict", '{"instances": [{"n": 1, "do": "wait"}]}')
        eventually(lambda: 1 in server.ran(), "it to run")
        staying: Future[httpx.Response] = pool.submit(server.predict, 2)
        leaving.socket.close()
        eventually(lambda: server.metric("headrace_http_disconnects_total") == 1, "the news")
        server.set("go")
        assert staying.result().json() == 4
    eventually(lambda: server.metric("headrace_running_items", model="scripted") == 0, "rest")
    assert not [record for record in server.records() if "traceback" in record]


def test_clients_that_vanish_before_in_and_after_the_body_leave_nothing(serve: Serve) -> None:
    server = serve("Scripted")
    for sent in (
        b"",
        b"POST",
        b"POST /predict HTTP/1.1\r\nhost: x\r\ncontent-length: 9\r\n\r\n",
        b"{}",
    ):
        for _ in range(20):
            wire = server.wire()
            wire.send(
                b"POST /predict HTTP/1.1\r\nhost: x\r\ncontent-length: 9\r\n\r\n{"
                if sent == b"{}"
                else sent
            )
            wire.socket.close()
    assert server.predict(1).json() == 2
    eventually(lambda: server.metric("headrace_http_requests_in_flight") == 0, "none in flight")
    # A client that only ends its own direction would read it.
    told = {record["error"] for record in server.records()}
    assert told <= {"expected the rest of the body, got the end"}


def test_a_full_queue_refuses_at_once_and_heals_when_there_is_room(busy: Served) -> None:
    with ThreadPoolExecutor(8) as pool:
        waiting = [pool.submit(busy.predict, n) for n in range(1, 9)]
        eventually(lambda: busy.metric("headrace_queue_items", model="scripted") == 8, "full")
        began = time.monotonic()
        answer = busy.predict(99)
        assert time.monotonic() - began < 2.0
        assert (answer.status_code, answer.json()["code"]) == (503, "queue_full")
        assert int(answer.headers["retry-after"]) >= 1
        assert busy.metric("headrace_refused_total", model="scripted", code="queue_full") == 1
        too_many = {"instances": [{"n": n} for n in range(9)]}
        assert busy.post("/v1/models/scripted:predict", too_many).status_code == 413
        busy.set("go")
        assert [each.result().json() for each in waiting] == [2 * n for n in range(1, 9)]
    assert busy.predict(99).json() == 198
    assert busy.metric("headrace_queue_items", model="scripted") == 0


def test_one_models_load_does_not_stop_another(serve: Serve) -> None:
    server = serve("Scripted", "Size", "Anything")
    wires: list[Wire] = []
    occupy(server, wires)
    assert server.request("POST", "/models/size/predict", content=b"abc").json() == 3
    assert server.post("/models/anything/predict", [1]).json() == [1]
    assert server.get("/livez").status_code == 200
    server.set("go")
    assert wires[0].answer().json() == 1802


def test_what_is_read_at_once_shares_a_batch_up_to_its_size(serve: Serve, executor: str) -> None:
    server = serve("Scripted", executor=executor)
    body = {"instances": [{"n": n} for n in range(1, 11)]}
    answer = server.post("/v1/models/scripted:predict", body)
    assert answer.json() == {"predictions": [2 * n for n in range(1, 11)]}
    sizes = [len(line.split()) for line in (server.folder / "journal").read_text().splitlines()]
    assert sizes[2:] == [4, 4, 2]
