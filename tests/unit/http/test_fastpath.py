"""The fast path: predict requests from the parser to the engine, and heads that are remembered."""

from __future__ import annotations

import gc
import json
import socket
import struct
from typing import Any

import pytest

from headrace import Limits, Model
from headrace.call import Failure, Payload, Value
from headrace.http.connection import MAX_AHEAD, MAX_WORK, REQUEST_WORK, SLICE_BYTES
from headrace.http.exchange import Exchange
from headrace.http.fastpath import (
    OWN_WRITE_BYTES,
    FastConnection,
    FastExchange,
    QuickExchange,
)
from headrace.http.memo import MAX_STRANGE
from tests.unit.http.peers import Echo, Peer, Peers, get, post

MIB = 2**20
HEAD = b"POST /predict HTTP/1.1\r\nhost: x\r\ncontent-length: 3\r\n\r\n"
TYPED = "content-type: application/json\r\n"


def turn_of(peer: Peer) -> Any:
    return peer.connection.oldest


def memo_of(peer: Peer) -> Any:
    assert isinstance(peer.connection, FastConnection)
    return peer.connection._memo


def remembered(
    peers: Peers, body: bytes = b"[1]", headers: str = "", *, is_tls: bool = False
) -> Peer:
    """A client whose head is remembered: it was seen twice."""
    peer = peers.connect(is_tls=is_tls)
    for _ in range(2):
        peer.send(post(body, headers))
        peers.run()
    assert peer.statuses == [200, 200]
    assert memo_of(peer) is not None
    peer.got = b""
    return peer


# What is remembered


def test_a_head_that_comes_again_is_neither_parsed_nor_planned_again() -> None:
    with Peers() as peers:
        peer = peers.connect()
        for number in range(4):
            peer.send(post(b"[%d]" % number))
            assert type(turn_of(peer)) is (FastExchange if number < 2 else QuickExchange)
            peers.run()
        assert [answer.body for answer in peer.answers] == [b"[%d]" % n for n in range(4)]
        ids = [answer.headers["x-request-id"] for answer in peer.answers]
        assert len(set(ids)) == 4
        # The order of the headers is all that tells a remembered head's answer.
        same = {
            frozenset(a.headers.items()) - {("x-request-id", a.headers["x-request-id"])}
            for a in peer.answers
        }
        assert len(same) == 1
        assert set(peer.answers[0].headers) == {
            "date",
            "content-type",
            "x-request-id",
            "content-length",
        }
        assert peers.in_flight == 0


def test_a_head_that_differs_in_its_length_is_remembered_with_it() -> None:
    with Peers(limits=Limits(max_json_bytes=100)) as peers:
        peer = remembered(peers)
        for body in (b"[12345]", b"[1]" + b" " * 97, b"[1]" + b" " * 98):
            peer.send(post(body))
            is_over = len(body) > 100
            assert (type(turn_of(peer)) is QuickExchange) == (not is_over)
            peers.run()
        assert peer.statuses == [200, 200, 413]


def test_a_remembered_head_whose_body_is_not_there_yet_is_parsed() -> None:
    with Peers() as peers:
        peer = remembered(peers)
        peer.send(HEAD + b"[1")
        assert type(turn_of(peer)) is FastExchange
        peer.send(b"]")
        peers.run()
        assert peer.statuses == [200]


def test_another_connection_parses_once_and_finds_the_memo() -> None:
    with Peers() as peers:
        assert memo_of(remembered(peers)) is memo_of(remembered(peers))


@pytest.mark.parametrize(
    ("headers", "kind"),
    [
        ("x-request-id: mine\r\n", QuickExchange),
        ("x-request-timeout: 5\r\n", QuickExchange),
        ("prefer: handling=lenient\r\n", QuickExchange),
    ],
)
def test_what_a_remembered_head_asks_for_is_kept_to(headers: str, kind: type[Exchange]) -> None:
    with Peers() as peers:
        peer = remembered(peers, headers=headers)
        peer.send(post(b"[2]", headers))
        assert type(turn_of(peer)) is kind
        if "timeout" in headers:
            peers.loop.advance(5.1)
        peers.run()
        assert peer.statuses == [504 if "timeout" in headers else 200]
        if "id" in headers:
            assert peer.answers[0].headers["x-request-id"] == "mine"


@pytest.mark.parametrize(
    "request_",
    [
        post(b"[1]", "connection: close\r\n"),
        post(b"[1]", "expect: 100-continue\r\n"),
        post(b"[1]", version="1.0"),
        post(b"{", "x-request-timeout: never\r\n"),
        b"POST /predict HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\n"
        b"3\r\n[1]\r\n0\r\n\r\n",
        get("/predict"),
        b"\r\n\r\n" + post(b"[1]"),
        post(b"[1]") + post(b"[1]"),
        post(b"[1]") + b"POST",
    ],
)
def test_what_is_not_one_usual_request_alone_is_not_remembered(request_: bytes) -> None:
    with Peers() as peers:
        for _ in range(3):
            peer = peers.connect()
            peer.send(request_)
            assert memo_of(peer) is None
            peers.run()
            assert memo_of(peer) is None
            peer.reset()


def test_the_end_of_a_head_or_of_a_body_is_not_remembered_for_a_head() -> None:
    with Peers() as peers:
        whole = post(b"[1]")
        for place in range(1, len(whole)):
            for _ in range(2):
                peer = peers.connect()
                peer.send(whole[:place])
                peer.send(whole[place:])
                peers.run()
                assert peer.answers[0].body == b"[1]"
                assert memo_of(peer) is None
        for _ in range(2):
            peer.send(whole[:-1])
            peer.send(whole[-1:] + whole)
            peers.run()
            assert memo_of(peer) is None


def test_an_empty_body_is_remembered_as_any_other() -> None:
    class Anything(Model):
        def predict(self, batch: list[bytes]) -> list[int]:
            return [len(item) for item in batch]

    with Peers(model=Anything) as peers:
        peer = remembered(peers, b"")
        peer.send(post(b""))
        assert type(turn_of(peer)) is QuickExchange
        peers.run()
        assert peer.statuses == [200]


def test_a_client_whose_heads_are_never_the_same_is_not_remembered_any_more() -> None:
    with Peers() as peers:
        peer = peers.connect()
        for number in range(MAX_STRANGE):
            peer.send(post(b"[1]", f"x-number: {number}\r\n"))
            peers.run()
        for _ in range(3):
            peer.send(post(b"[1]"))
            peers.run()
            assert memo_of(peer) is None
        assert set(peer.statuses) == {200}


def test_a_head_is_planned_again_where_paths_lead_elsewhere() -> None:
    with Peers() as peers:
        peer = remembered(peers)
        executor, engine = peers.engine_of(Echo)
        engine.open()
        peers.service.set_engines([engine])
        peer.send(post(b"[2]"))
        peers.loop.run()
        assert (len(peers.executor.batches), len(executor.batches)) == (0, 1)
        executor.begin()
        executor.finish()
        assert peer.answers[0].body == b"[2]"
        assert memo_of(peer).engine is engine, "the memo of before was replaced"


def test_a_head_is_planned_again_where_the_models_card_is_another() -> None:
    with Peers() as peers:
        peer = remembered(peers)
        before = memo_of(peer)
        _, engine = peers.engine_of(Echo)
        peers.engine.card = engine.card
        peer.send(post(b"[2]"))
        peers.run()
        assert peer.answers[0].body == b"[2]"
        assert memo_of(peer) is not before
        assert memo_of(peer).card is engine.card


def test_a_model_that_goes_is_not_asked_by_a_remembered_head() -> None:
    with Peers() as peers:
        peer = remembered(peers)
        peers.service.set_engines([])
        peer.send(post(b"[2]"))
        assert peer.statuses == [404]


def test_a_dialect_of_several_payloads_is_remembered_too() -> None:
    path = "/v1/models/echo:predict"
    with Peers() as peers:
        peer = peers.connect()
        for _ in range(3):
            peer.send(post(b'{"instances":[1,2]}', path=path))
            peers.run()
        assert [json.loads(a.body) for a in peer.answers] == [{"predictions": [1, 2]}] * 3
        peer.send(post(b'{"instances":[]  }x', path=path))
        assert peer.statuses[3:] == [400]


def test_heads_of_answers_are_made_anew_with_the_servers_own_headers() -> None:
    with Peers() as peers:
        peer = remembered(peers)
        for date in (b"monday", b"tuesday"):
            peers.state.default_headers = [(b"date", date)]
            peer.send(post(b"[2]"))
            peers.run()
        assert [a.headers["date"] for a in peer.answers] == ["monday", "tuesday"]


@pytest.mark.parametrize("size", [OWN_WRITE_BYTES, OWN_WRITE_BYTES + 1])
@pytest.mark.parametrize("is_quick", [True, False])
def test_a_large_answer_is_whole(size: int, is_quick: bool) -> None:
    with Peers() as peers:
        peer = remembered(peers) if is_quick else peers.connect()
        peer.send(post(b"[1]"))
        peers.run({0: Value(b"x" * size, "text/plain")})
        assert peer.answers[-1].body == b"x" * size


def test_a_status_of_the_models_own_is_sent_and_counted() -> None:
    with Peers() as peers:
        peer = remembered(peers)
        peer.send(post(b"[1]"))
        peers.run({0: Value(b"x", "text/plain", 201)})
        assert peer.statuses == [201]
        assert peers.service.counts.requests["/predict", 201] == 1


def test_a_failure_of_a_remembered_request_is_answered_in_our_form() -> None:
    with Peers() as peers:
        peer = remembered(peers)
        peer.send(post(b"[1]"))
        peers.run({0: Failure(code="model_error", message="no")})
        assert json.loads(peer.answers[0].body)["code"] == "model_error"
        peer.send(post(b"[1]"))
        peers.run()
        assert peer.statuses == [500, 200]


def test_a_failure_of_a_remembered_request_has_its_clients_id() -> None:
    headers = "x-request-id: mine\r\n"
    with Peers() as peers:
        peer = remembered(peers, headers=headers)
        peer.send(post(b"[1]", headers.replace("mine", "other")))
        peers.run({0: Failure(code="model_error", message="no")})
        assert peer.answers[0].status == 500
        assert peer.answers[0].headers["x-request-id"] == "other"


def test_an_engine_that_is_closed_says_so_to_a_remembered_request() -> None:
    with Peers() as peers:
        peer = remembered(peers)
        peers.engine.close()
        peer.send(post(b"[1]"))
        peers.run()
        assert peer.statuses == [503]


# What is refused


@pytest.mark.parametrize(
    ("request_", "status"),
    [
        (post(b"[1]", path="/models/none/predict"), 404),
        (post(b"[1]", "x-request-timeout: 0\r\n"), 400),
        (post(b"[1]", "content-type: text/html\r\n"), 415),
        (post(b"[1]", "accept: text/html\r\n"), 406),
        (post(b"[1]", "content-encoding: gzip\r\n"), 415),
        (HEAD.replace(b"content-length: 3", b"transfer-encoding: gzip, chunked"), 400),
        (HEAD.replace(b"length: 3", b"length: 99999999999"), 413),
    ],
)
def test_what_its_head_refuses_is_answered_before_its_body(request_: bytes, status: int) -> None:
    with Peers() as peers:
        peer = peers.connect()
        peer.send(request_[: request_.index(b"\r\n\r\n") + 4])
        assert peer.statuses == [status]
        assert peer.answers[0].headers["connection"] == "close"
        assert peer.has_end and not peer.is_closed, "what it still sends is read"
        peer.send(b"[1]" + post(b"[2]"))
        peers.loop.advance(1.0)
        assert peer.is_closed
        assert peer.statuses == [status]
        assert peers.in_flight == 0


def test_what_is_refused_and_has_no_body_may_be_followed_by_another() -> None:
    with Peers() as peers:
        peer = peers.connect()
        peer.send(post(b"", "accept: text/html\r\n") + post(b"[1]"))
        peers.run()
        assert peer.statuses == [406, 200]
        assert not peer.has_end


@pytest.mark.parametrize("is_chunked", [True, False])
def test_a_body_over_its_limit_is_refused_where_it_passes_it(is_chunked: bool) -> None:
    with Peers(limits=Limits(max_json_bytes=10)) as peers:
        peer = peers.connect()
        if is_chunked:
            peer.send(b"POST /predict HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\n")
            peer.send(b"a\r\n[123456789\r\n")
            assert peer.statuses == []
            peer.send(b"1\r\n]\r\n")
        else:
            peer.send(post(b"[12345678]"))
            peers.run()
            peer.send(post(b"[123456789]"))
        assert peer.statuses[-1] == 413
        assert peer.has_end
        peer.send(b"1\r\n]\r\n0\r\n\r\n" + post(b"[1]"))
        peers.run()
        assert peer.statuses[-1] == 413
        assert peers.in_flight == 0


def test_a_refusal_waits_for_the_answers_before_it_and_ends_what_comes_behind() -> None:
    with Peers(limits=Limits(max_json_bytes=10)) as peers:
        peer = peers.connect()
        peer.send(post(b"[1]"))
        peer.send(
            post(b"[2]")
            + b"POST /predict HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\n"
        )
        for _ in range(4):
            peer.send(b"4\r\n[1]]\r\n")
        peer.send(b"0\r\n\r\n" + post(b"[4]"))
        assert peer.statuses == []
        peers.run()
        assert peer.statuses == [200, 200, 413]
        assert peer.has_end
        assert peers.in_flight == 0


def test_answers_that_come_out_of_order_are_sent_in_order() -> None:
    with Peers() as peers:
        peer = peers.connect()
        for number in range(5):
            peer.send(post(b"[%d]" % number))
        peer.send(post(b"{", "content-type: text/html\r\n", path="/predict"))
        peers.loop.run()
        [batch] = peers.executor.batches
        assert peers.executor.events is not None
        peers.executor.begin()
        for index in (3, 1, 4, 2):
            outcome = Value(b"%d" % index, "text/plain")
            peers.executor.events.part(batch, index, outcome, True)
            assert peer.answers == []
        peers.executor.events.part(batch, 0, Value(b"0", "text/plain"), True)
        assert [a.body for a in peer.answers[:5]] == [b"0", b"1", b"2", b"3", b"4"]
        assert [a.status for a in peer.answers[5:]] == [415]
        assert peers.in_flight == 0


def test_a_body_is_asked_for_where_the_client_waits_for_that() -> None:
    expecting = "expect: 100-continue\r\n"
    with Peers() as peers:
        peer = peers.connect()
        peer.send(post(b"[1]") + post(b"[2]", expecting)[:-3])
        assert peer.statuses == [], "the answer before comes first"
        peers.run()
        assert peer.statuses == [200, 100]
        peer.send(b"[2]")
        peers.run()
        assert peer.statuses == [200, 100, 200]
        refused = peers.connect()
        refused.send(post(b"[1]", expecting + "accept: text/html\r\n")[:-3])
        assert refused.statuses == [406]


# Many at once


@pytest.mark.parametrize("count", [MAX_AHEAD, 1000])
def test_many_requests_in_one_read_are_answered_in_order_and_few_are_held(count: int) -> None:
    with Peers() as peers:
        peer = peers.connect()
        peer.send(b"".join(post(b"[%d]" % n, path="/predict") for n in range(count)))
        held = 0
        while len(peer.answers) < count:
            held = max(held, peers.in_flight)
            assert peer.is_reading or held > MAX_AHEAD
            peers.run()
        assert [answer.body for answer in peer.answers] == [b"[%d]" % n for n in range(count)]
        assert held <= MAX_AHEAD + 1 + 4096 // len(post(b"[1]"))
        assert peer.is_reading and not peer.has_end


def test_what_is_kept_is_answered_before_more_is_read() -> None:
    many = b"".join(post(b"[%d]" % n) for n in range(300))
    with Peers() as peers:
        peer = peers.connect()
        for _ in range(5):
            peer.send(many)
        kept = 0
        while len(peer.answers) < 5 * 300:
            kept = max(kept, len(peer.connection._rest))
            peers.loop.run()
            peers.executor.begin()
            peers.executor.finish()
        assert 0 < kept < len(many)
        assert peer.is_reading


def test_requests_refused_at_once_leave_others_their_turn() -> None:
    bad = post(b"", "x-request-timeout: soon\r\n")
    with Peers() as peers:
        peer = peers.connect()
        peer.send(bad * 1000)
        assert len(peer.answers) <= MAX_WORK / REQUEST_WORK + 1 + SLICE_BYTES / len(bad)
        assert not peer.is_reading
        peers.loop.run()
        assert peer.statuses == [400] * 1000
        assert peer.is_reading


@pytest.mark.parametrize("reads", [1, 4])
def test_a_body_in_many_chunks_leaves_others_their_turn(reads: int) -> None:
    count, chunk = 24_000, b"1\r\n7\r\n"
    with Peers() as peers:
        peer = peers.connect()
        peer.send(b"POST /predict HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\n")
        for _ in range(reads):
            peer.send(chunk * (count // reads))
        turn = peer.connection.reading
        assert isinstance(turn, FastExchange)
        assert turn.size <= MAX_WORK + 16 * SLICE_BYTES / len(chunk)
        assert not peer.is_reading
        peers.loop.run()
        assert turn.size == count
        assert peer.is_reading
        peer.send(b"0\r\n\r\n")
        peers.run()
        assert [answer.body for answer in peer.answers] == [b"7" * count]


def test_a_client_that_has_ended_is_answered_all_that_it_had_sent() -> None:
    with Peers() as peers:
        peer = peers.connect()
        peer.send(b"".join(post(b"[%d]" % n) for n in range(300)))
        peer.finish()
        for _ in range(100):
            peers.run()
        assert len([s for s in peer.statuses if s == 200]) == 300
        assert peer.has_end
        peers.loop.advance(1.0)
        assert peer.is_closed


# Slow and vanished clients


def test_a_body_that_is_late_is_answered_so() -> None:
    with Peers(limits=Limits(body_timeout_s=2.0)) as peers:
        peer = peers.connect()
        peer.send(HEAD)
        peers.loop.advance(1.9)
        assert peer.statuses == []
        peers.loop.advance(0.5)
        assert peer.statuses == [408]
        assert peer.has_end
        assert peers.in_flight == 0


def test_a_body_is_waited_for_until_the_callers_deadline_at_most() -> None:
    head = HEAD.replace(b"\r\n\r\n", b"\r\nx-request-timeout: 0.5\r\n\r\n")
    with Peers(limits=Limits(body_timeout_s=2.0)) as peers:
        peer = peers.connect()
        peer.send(head + b"[")
        peers.loop.advance(0.3)
        peer.send(b"1")
        peers.loop.advance(0.19)
        assert peer.statuses == []
        peers.loop.advance(0.02)
        assert peer.statuses == [504]
        assert json.loads(peer.answers[0].body)["details"] == [{"stage": "reading"}]
        assert peer.has_end and peers.in_flight == 0
        whole = peers.connect()
        whole.send(head + b"[")
        whole.send(b"1]")
        peers.run()
        peers.loop.advance(1.0)
        assert whole.statuses == [200], "the wait ends with the body"
        gone = peers.connect()
        gone.send(head)
        gone.reset()
        peers.loop.advance(1.0)
        assert (gone.statuses, peers.in_flight) == ([], 0)


def test_a_late_body_behind_others_is_answered_behind_them() -> None:
    with Peers(limits=Limits(body_timeout_s=2.0)) as peers:
        peer = peers.connect()
        peer.send(post(b"[1]") + HEAD)
        peers.loop.advance(10.0)
        assert peer.statuses == []
        assert peers.executor.batches
        peers.run()
        assert peer.statuses == [200, 408]
        assert peers.in_flight == 0


@pytest.mark.parametrize(
    ("sent", "taken"),
    [
        (b"", 0),
        (HEAD[:20], 0),
        (HEAD, 1),
        (HEAD + b"[1", 1),
        (post(b"[1]"), 1),
        (post(b"[1]") * 3, 3),
        (post(b"[1]") * 2 + HEAD[:20], 2),
        (post(b"[1]") * 2 + HEAD + b"[", 3),
    ],
)
@pytest.mark.parametrize("is_remembered", [True, False])
def test_a_client_that_vanishes_leaves_nothing_behind_in_any_state(
    sent: bytes, taken: int, is_remembered: bool
) -> None:
    with Peers() as peers:
        peer = remembered(peers) if is_remembered else peers.connect()
        peer.send(sent)
        assert peers.in_flight == taken
        peer.reset()
        assert peers.service.counts.disconnects == taken
        assert peers.in_flight == 0
        assert peers.state.connections == set()
        peers.run()
        peers.loop.advance(100.0)
        assert peer.answers == []
        assert peers.service.counts.disconnects == taken
        assert peers.in_flight == 0


def test_a_body_that_is_not_read_since_its_client_is_far_ahead_is_not_late() -> None:
    with Peers(limits=Limits(body_timeout_s=2.0)) as peers:
        peer = peers.connect()
        peer.send(post(b"[1]") * (MAX_AHEAD + 1) + HEAD)
        peer.send(b"[2]")
        assert not peer.is_reading
        peers.loop.advance(5.0)
        peers.run()
        peers.run()
        assert peer.statuses == [200] * (MAX_AHEAD + 2)


def test_a_client_that_vanishes_while_it_is_far_ahead_is_noticed() -> None:
    with Peers() as peers:
        peer = peers.connect()
        peer.send(post(b"[1]") * 400)
        assert not peer.is_reading
        peer.other.close()
        peers.loop.advance(3.0)
        assert peer.is_closed
        assert peers.in_flight == 0


def test_a_client_that_ends_gets_its_answer_and_the_end() -> None:
    for is_remembered in (True, False):
        with Peers() as peers:
            peer = remembered(peers) if is_remembered else peers.connect()
            peer.send(post(b"[1]"))
            peer.finish()
            assert peer.statuses[-1] == 100, "an interim answer finds out whether it is there"
            assert not peer.has_end
            peers.run()
            assert peer.answers[-1].headers["connection"] == "close"
            assert peer.has_end and peer.is_closed


def test_a_client_of_http_1_0_that_ends_gets_no_interim_answer() -> None:
    with Peers() as peers:
        peer = peers.connect()
        peer.send(post(b"[1]", version="1.0"))
        peer.finish()
        peers.run()
        assert peer.statuses == [200]


def test_a_client_that_has_really_gone_is_found_out_by_its_socket() -> None:
    with Peers() as peers, socket.create_server(("127.0.0.1", 0)) as listener:
        peer = peers.connect()
        client = socket.create_connection(listener.getsockname())
        peer.own.close()
        peer.own, _ = listener.accept()
        peer.send(post(b"[1]"))
        peer.finish()
        peers.loop.advance(0.1)
        assert peers.in_flight == 1
        client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        client.close()
        peers.loop.advance(0.2)
        assert peer.is_closed
        assert (peers.in_flight, peers.service.counts.disconnects) == (0, 1)


def test_an_end_over_tls_is_that_of_both_directions() -> None:
    with Peers() as peers:
        peer = peers.connect(is_tls=True)
        peer.send(post(b"[1]"))
        peer.finish()
        peers.run()
        assert peer.is_closed
        assert (peers.in_flight, peers.service.counts.disconnects) == (0, 1)


def test_a_half_sent_request_does_not_cost_the_answers_before_it() -> None:
    for rest, refusal in ((HEAD[:20], []), (HEAD + b"[", [400])):
        with Peers() as peers:
            peer = peers.connect()
            peer.send(post(b"[1]") * 2 + rest)
            peer.finish()
            peers.run()
            assert [s for s in peer.statuses if s != 100] == [200, 200, *refusal]
            assert peer.has_end
            assert peers.in_flight == 0


# Drains


def test_a_remembered_request_that_runs_at_a_drain_is_the_last() -> None:
    with Peers() as peers:
        peer = remembered(peers)
        peer.send(post(b"[2]"))
        peer.connection.shutdown()
        peers.run()
        assert peer.answers[0].headers["connection"] == "close"
        assert peer.has_end


def test_a_request_that_crosses_the_drain_is_answered_and_is_the_last() -> None:
    with Peers() as peers:
        peer = remembered(peers)
        peer.connection.shutdown()
        peer.send(post(b"[2]"))
        peers.run()
        assert peer.answers[0].headers["connection"] == "close"
        assert peer.has_end


def test_what_is_kept_of_a_client_that_does_not_read_is_answered_before_the_end() -> None:
    with Peers() as peers:
        peer = peers.connect()
        peer.is_stalled = True
        peer.send(post(b"[1]") * 400)
        large = Value(b"x" * 5000, "text/plain")
        peers.run(dict.fromkeys(range(64), large))
        assert turn_of(peer) is None and not peer.is_reading
        peer.connection.shutdown()
        peers.loop.advance(1.0)
        peer.is_stalled = False
        peer.read()
        peers.run()
        assert peer.answers[-1].body == b"[1]"
        assert peer.answers[-1].headers["connection"] == "close"
        assert peer.has_end


# Memory


@pytest.mark.parametrize("leave", [False, True])
@pytest.mark.parametrize("is_remembered", [False, True])
def test_a_request_and_its_body_are_gone_with_the_answer_not_with_a_collection(
    leave: bool, is_remembered: bool
) -> None:
    def held() -> list[object]:
        return [o for o in gc.get_objects() if isinstance(o, (FastExchange, Payload))]

    with Peers() as peers:
        peer = remembered(peers) if is_remembered else peers.connect()
        gc.collect()
        gc.disable()
        try:
            peer.send(post(b"[1]"))
            assert held() != []
            if leave:
                peer.reset()
            peers.run()
            peers.loop.advance(1.0)
            assert held() == []
        finally:
            gc.enable()


@pytest.mark.parametrize("is_tls", [False, True])
def test_a_connection_is_gone_with_its_client_not_with_a_collection(is_tls: bool) -> None:
    with Peers() as peers:
        gc.collect()
        gc.disable()
        try:
            peer = remembered(peers, is_tls=is_tls)
            number = id(peer.connection)
            peer.reset()
            del peer.connection
            left = [o for o in gc.get_objects() if isinstance(o, FastConnection)]
            assert number not in map(id, left)
        finally:
            gc.enable()
