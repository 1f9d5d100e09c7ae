"""Too much: it is refused at the limit, before memory is spent on it."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import suppress

import msgspec
import pytest

from tests.e2e.conftest import WAIT_S, Serve, Served, eventually
from tests.faults.conftest import ECHO, HTTP_MODELS, IS_LONG, MIB, TIGHT
from tests.faults.contract import Client, Contract, message
from tests.faults.defences import Defence, lacking, without
from tests.faults.watch import SLACK_BYTES, takes_at_most

pytestmark = pytest.mark.slow

JSON_LIMIT = int(TIGHT["limits__max_json_bytes"])
BODY_LIMIT = int(TIGHT["limits__max_body_bytes"])
QUEUE_LIMIT = int(TIGHT["limits__max_queue_bytes"])
CHUNKED = "host: x\r\ntransfer-encoding: chunked\r\n\r\n"

SOCKET_BYTES = 16 * MIB
READ_BYTES = 4 * MIB
"""What is read at a time, and takes shape, beside the body."""
BUSY_TRIES = 3
"""On a busy machine the time may be over first that a body has."""
PLATEAU_BYTES = 8 * MIB
"""What memory may grow by in a few rounds where it is known to stop: the allocator keeps what large
bodies, of many pieces, took. Over ASGI, bodies over their limit take 14 to 20 MiB in thirty rounds
and nothing in the next; 100,000 instances 7 MiB in the first, and 4 KiB in the next hundred."""


def spaces(size: int) -> bytes:
    return b"[" + b" " * (size - 2) + b"]"


def chunked(path: str, chunk: bytes, count: int) -> bytes:
    head = f"POST {path} HTTP/1.1\r\n{CHUNKED}".encode()
    return head + b"%x\r\n%s\r\n" % (len(chunk), chunk) * count + b"0\r\n\r\n"


@pytest.mark.row("C1")
@pytest.mark.parametrize(
    ("path", "limit"), [("/predict", JSON_LIMIT), ("/models/size/predict", BODY_LIMIT)]
)
def test_a_body_at_the_limit_is_taken(contract: Contract, path: str, limit: int) -> None:
    def act(client: Client) -> None:
        assert client.ask(path, spaces(limit)).json() == ([] if limit == JSON_LIMIT else limit)
        whole = chunked(path, spaces(limit), 1)
        wire = client.wire()
        wire.send(whole)
        assert wire.answer().status == 200

    # Over ASGI the two bodies of a round may come to be held at once, for the first time, late.
    slack = SLACK_BYTES if contract.way == "fast" else SLACK_BYTES + 2 * limit
    contract.hold(act, rounds=10, reaches=2, slack_bytes=slack)


@pytest.mark.row("C1")
@pytest.mark.parametrize(
    ("path", "limit"), [("/predict", JSON_LIMIT), ("/models/size/predict", BODY_LIMIT)]
)
def test_one_byte_over_the_limit_is_refused(contract: Contract, path: str, limit: int) -> None:
    def act(client: Client) -> None:
        over_the_limit(client, path, limit)

    slack = SLACK_BYTES if contract.way == "fast" else PLATEAU_BYTES
    contract.hold(act, rounds=10, reaches=0, slack_bytes=slack)


def over_the_limit(client: Client, path: str, limit: int) -> None:
    body = spaces(limit + 1)
    for data in (message(path, body), chunked(path, body, 1), chunked(path, body[:-1], 9)):
        wire = client.wire()
        with suppress(ConnectionError):
            wire.send(data)
        with suppress(ConnectionResetError):  # what it does not read it may throw away
            answer = wire.answer()
            assert (answer.status, answer.headers["connection"]) == (413, "close")
            continue
        client.abandon(1)


@pytest.mark.row("C1")
@pytest.mark.parametrize(
    "declared", [JSON_LIMIT + 1, 2**31, 2**63 - 1], ids=["limit+1", "2^31", "2^63-1"]
)
def test_a_declared_body_over_the_limit_is_refused_at_its_head(
    contract: Contract, declared: int
) -> None:
    def act(client: Client) -> None:
        wire = client.wire()
        wire.send(f"POST /predict HTTP/1.1\r\nhost: x\r\ncontent-length: {declared}\r\n\r\n")
        answer = wire.answer()
        assert (answer.status, answer.code) == (413, "too_large")
        assert wire.has_ended()

    contract.hold(act, reaches=0)


@pytest.mark.row("C2")
@pytest.mark.parametrize("size", [1, 10, 4096, MIB])
def test_chunks_without_end_are_cut_off_at_the_limit(contract: Contract, size: int) -> None:
    slack = SLACK_BYTES if contract.way == "fast" else PLATEAU_BYTES

    def act(client: Client) -> None:
        for _ in range(BUSY_TRIES):
            if cut_off(client, size) != 408:
                return
        pytest.fail("so many chunks take too long")

    contract.hold(act, rounds=2, reaches=0, slack_bytes=slack)


def cut_off(client: Client, size: int) -> int:
    """Send chunks without end; the status that they are refused with, by their size or time."""
    chunk = b"%x\r\n%s\r\n" % (size, b" " * size)
    wire = client.wire()
    wire.socket.settimeout(10.0)
    wire.send(f"POST /predict HTTP/1.1\r\n{CHUNKED}")
    sent = 0
    piece = chunk * max(1, 65536 // len(chunk))
    # What may be sent of it, with its frames, and what the system holds of a connection.
    most = JSON_LIMIT * len(chunk) // size + SOCKET_BYTES
    with takes_at_most(client.server, JSON_LIMIT + READ_BYTES), suppress(ConnectionError):
        while sent < most:
            wire.socket.sendall(piece)
            sent += len(piece)
    assert sent < most
    try:
        status = wire.answer().status
    except ConnectionError:
        client.abandon(1)  # it was answered; the reset overtook the answer
        return 413
    assert status in (408, 413)
    return status


@pytest.mark.row("C2")
def test_a_million_chunks_of_a_byte_are_one_body(undefended: Served) -> None:
    """As many as the limit lets in; what they cost stays near what they hold."""
    with Client(undefended) as client:  # where a busy machine has the time that it takes
        a_million_chunks(client)


def a_million_chunks(client: Client) -> None:
    wire, body = client.wire(), chunked("/models/size/predict", b"x", 1_000_000)
    with takes_at_most(client.server, READ_BYTES):
        wire.send(body)
        assert wire.answer().json() == 1_000_000


@pytest.mark.row("C5")
def test_more_instances_than_the_queue_takes_are_refused_whole(contract: Contract) -> None:
    contract.hold(refused_whole, rounds=5, reaches=0, slack_bytes=PLATEAU_BYTES)


def refused_whole(client: Client) -> None:
    answer = client.ask("/v1/models/echo:predict", json.dumps({"instances": [1] * 100_000}))
    assert answer.status == 413
    assert answer.code == "too_large"


@pytest.fixture
def held(contract: Contract) -> Iterator[Served]:
    """Its model `held` works on nothing before it is told to."""
    flag = contract.server.folder / "size"
    flag.unlink(missing_ok=True)
    yield contract.server
    flag.touch()


@pytest.mark.row("C6")
def test_bodies_that_wait_have_a_budget(contract: Contract, held: Served) -> None:
    with contract.watch() as client:
        a_budget_holds(client, WAIT_S)


def a_budget_holds(client: Client, within_s: float) -> None:
    server, body = client.server, bytes(BODY_LIMIT - 1)
    wires = [client.wire() for _ in range(40)]
    for wire in wires:
        wire.send(message("/models/held/predict", body))
    # At least so many bodies are over it, whatever the replica has taken already.
    over = len(wires) - 2 - QUEUE_LIMIT // len(body)
    requests = "headrace_http_requests_total"
    eventually(lambda: server.metric(requests, status="503") >= over, "refusals", within_s)
    assert server.metric("headrace_queue_bytes", model="held") <= QUEUE_LIMIT
    server.set("size")
    answers = [wire.answer() for wire in wires]
    refused = [answer for answer in answers if answer.status == 503]
    assert over <= len(refused) < len(wires)
    assert all(answer.code == "queue_full" for answer in refused)
    assert all(int(answer.headers["retry-after"]) >= 1 for answer in refused)
    assert all(a.json() == len(body) for a in answers if a.status == 200)


@pytest.mark.row("C7")
@pytest.mark.parametrize("order", [-100_000, 13 * MIB], ids=["deep", "large"])
def test_an_answer_that_is_too_much_fails_its_own_item(contract: Contract, order: int) -> None:
    contract.hold(
        lambda client: fails_alone(client, order), rounds=2, reaches=4, slack_bytes=PLATEAU_BYTES
    )


@pytest.mark.row("C7")
@pytest.mark.skipif(not IS_LONG, reason="it takes 3 GiB of memory: in the long version")
def test_an_answer_of_a_gibibyte_fails_its_own_item(contract: Contract) -> None:
    with contract.watch(reaches=4) as client:
        fails_alone(client, 1024 * MIB)


@pytest.mark.row("C7")
def test_an_answer_2000_deep_is_written_or_fails_its_own_item(contract: Contract) -> None:
    """How deep Python can write is its own affair: so deep 3.12 can, and 3.11 cannot."""

    def act(client: Client) -> None:
        body = json.dumps({"instances": [5, -2000, 6]})
        answer = client.ask("/v1/models/large:predict", body, "prefer: handling=lenient\r\n")
        before, deep, after = map(
            bytes, msgspec.json.decode(answer.body, type=_Predictions).predictions
        )
        assert (before, after) == (b'"xxxxx"', b'"xxxxxx"')
        if deep == b"null":
            assert answer.json()["errors"]["1"]["code"] == "output_error"
        else:
            assert deep == b"[" * 2001 + b"]" * 2001

    contract.hold(act, rounds=2, reaches=3)


class _Predictions(msgspec.Struct):
    predictions: list[msgspec.Raw]


def fails_alone(client: Client, order: int) -> None:
    body = json.dumps({"instances": [5, order, 6]})
    answer = client.ask("/v1/models/large:predict", body, "prefer: handling=lenient\r\n")
    assert answer.json()["predictions"] == ["xxxxx", None, "xxxxxx"]
    assert answer.json()["errors"]["1"]["code"] == "output_error"
    answer = client.ask("/models/large/predict", str(order))
    assert answer.status == 500
    assert answer.code == "output_error"


# The rows fail where nothing is limited


@pytest.mark.counter("C1")
def test_without_its_limit_a_large_body_passes(undefended: Served) -> None:
    with Client(undefended) as client, pytest.raises((AssertionError, KeyError)):
        over_the_limit(client, "/models/size/predict", BODY_LIMIT)


@pytest.mark.counter("C2")
def test_where_nothing_is_counted_chunks_go_on_without_end(serve: Serve) -> None:
    env = without("a body is counted while it is read")
    server = serve(ECHO, executor="inline", env=env, limits__max_json_bytes=JSON_LIMIT)
    with Client(server) as client, pytest.raises(AssertionError):
        cut_off(client, 4096)


@pytest.mark.counter("C2")
def test_where_each_piece_is_kept_by_itself_they_take_too_much(serve: Serve) -> None:
    apart = Defence(
        "headrace.http.fastpath", "SMALL_PIECE_BYTES = 1024\n", "SMALL_PIECE_BYTES = 0\n"
    )
    server = serve(f"{HTTP_MODELS}:Size", executor="thread", env=lacking(apart))
    with Client(server) as client, pytest.raises(AssertionError, match="it took"):
        a_million_chunks(client)


@pytest.mark.counter("C5")
def test_with_a_longer_queue_many_instances_are_taken(serve: Serve) -> None:
    server = serve(ECHO, executor="inline", limits__max_queue_items=1 << 20)
    with Client(server) as client, pytest.raises(AssertionError):
        refused_whole(client)


@pytest.mark.counter("C6")
def test_without_a_budget_all_bodies_wait(serve: Serve) -> None:
    server = serve(f"{HTTP_MODELS}:Held", limits__max_queue_bytes=1 << 40)
    with Client(server) as client:
        with pytest.raises(AssertionError, match="refusals"):
            a_budget_holds(client, 1.0)
        server.set("size")


@pytest.mark.counter("C7")
def test_without_a_look_at_its_size_a_large_answer_is_given(serve: Serve) -> None:
    env, large = without("an answer's size is looked at"), f"{HTTP_MODELS}:Large"
    server = serve(large, executor="inline", env=env, limits__max_response_bytes=MIB)
    with Client(server) as client, pytest.raises(AssertionError):
        fails_alone(client, 2 * MIB)
