from __future__ import annotations

import hmac
import itertools
import random
import struct
import tracemalloc
from typing import Literal

import msgspec
import pytest

from headrace.call import Failure, Payload, Value
from headrace.config import Limits
from headrace.errors import ConfigError, ProtocolError
from headrace.wire import (
    NEXT,
    Ask,
    Bye,
    Cancel,
    Cards,
    Challenge,
    Connection,
    Drain,
    End,
    FrameLimits,
    Hello,
    Kind,
    Message,
    Parts,
    Ready,
    Run,
    Setup,
    Started,
    State,
    Stats,
    Welcome,
    encode,
    encode_frame,
)

from .driver import (
    CARD,
    EXAMPLES,
    FAILURE,
    FRONT_NONCE,
    SECRET,
    WORKER_NONCE,
    Pair,
    feed,
    front,
    joined,
    ready_pair,
    worker,
)

CARDS = Cards((CARD,), 0)
Side = Literal["front", "worker"]
SIDES: tuple[Side, Side] = ("front", "worker")


def run(batch: int, *indexes: int) -> Run:
    payload = Payload(body=b"1", input_type="a/b", output_type="a/b")
    return Run(batch, tuple((index, payload) for index in indexes))


def value(index: int) -> tuple[int, Value]:
    return (index, Value(b"2", "a/b"))


def proof(side: str, first: bytes, second: bytes, secret: bytes = SECRET) -> bytes:
    label = b"headrace " + side.encode() + b" 1"
    return hmac.new(secret, label + b"\1\0\0\0\0" + first + second, "sha256").digest()


# The handshake


def test_two_ends_with_one_secret_prove_themselves() -> None:
    setup = Setup(limits=Limits(max_depth=3), model="m", replica=2)
    server = Connection("front", SECRET, FRONT_NONCE, setup=setup)
    child = worker()
    assert child.opening() == []
    assert feed(child, joined(server.opening())) == []
    hello = Hello(0, WORKER_NONCE, proof("worker", FRONT_NONCE, WORKER_NONCE))
    assert feed(server, joined(child.take_outgoing())) == [hello]
    welcome = Welcome(proof("front", WORKER_NONCE, FRONT_NONCE), setup)
    assert feed(child, joined(server.take_outgoing())) == [welcome]
    assert (server.state, child.state) == (State.LOADING, State.LOADING)
    assert server.take_outgoing() == child.take_outgoing() == []
    assert (server.sent_bytes, server.received_bytes) == (child.received_bytes, child.sent_bytes)
    assert child.sent_bytes == 128


def test_what_follows_a_welcome_in_the_same_read_is_taken() -> None:
    server, child = front(), worker()
    feed(child, joined(server.opening()))
    feed(server, joined(child.take_outgoing()))
    stream = joined([*server.take_outgoing(), *server.send(Drain())])
    assert feed(child, stream)[1:] == [Drain()]


@pytest.mark.parametrize("side", SIDES)
def test_an_end_without_a_secret_is_not_made(side: Side) -> None:
    with pytest.raises(ConfigError, match="secret"):
        Connection(side, b"", FRONT_NONCE)


def test_a_nonce_has_32_bytes() -> None:
    with pytest.raises(ConfigError, match="nonce: expected 32 bytes, got 31"):
        Connection("front", SECRET, bytes(31))


@pytest.mark.parametrize(
    "setup", [Setup(model="m" * 65536), Setup(limits=Limits(max_body_bytes=2**70))]
)
def test_a_setup_that_cannot_be_sent_is_a_fault_of_the_configuration(setup: Setup) -> None:
    with pytest.raises(ConfigError, match="the setup cannot be sent"):
        Connection("front", SECRET, FRONT_NONCE, setup=setup)


def test_a_worker_with_another_secret_is_refused() -> None:
    server, child = front(), worker(b"another")
    feed(child, joined(server.opening()))
    with pytest.raises(ProtocolError, match="the worker has not proven") as caught:
        feed(server, joined(child.take_outgoing()))
    assert caught.value.side == "remote"
    assert server.take_outgoing() == []
    assert server.state is State.CLOSED
    for refused in (server.get_buffer, lambda: server.received(0), lambda: server.send(Ask())):
        with pytest.raises(ProtocolError) as again:
            refused()
        assert again.value is caught.value


def test_a_hello_recorded_from_another_connection_is_refused() -> None:
    child = worker()
    feed(child, joined(front().opening()))
    recorded = joined(child.take_outgoing())
    server = Connection("front", SECRET, bytes(32))
    server.opening()
    with pytest.raises(ProtocolError, match="the worker has not proven"):
        feed(server, recorded)


def test_the_fronts_own_proof_sent_back_is_refused() -> None:
    # An attacker between two connections that lets the front prove itself first.
    server = front()
    server.opening()
    reflected = Hello(0, WORKER_NONCE, proof("front", WORKER_NONCE, FRONT_NONCE))
    with pytest.raises(ProtocolError, match="the worker has not proven"):
        feed(server, joined(encode(reflected)))


def test_the_challenge_sent_back_is_refused() -> None:
    server = front()
    with pytest.raises(ProtocolError, match="another kind of message, got 1"):
        feed(server, joined(server.opening()))


def test_capabilities_are_part_of_the_proof() -> None:
    server = front()
    server.opening()
    forged = Hello(1, WORKER_NONCE, proof("worker", FRONT_NONCE, WORKER_NONCE))
    with pytest.raises(ProtocolError, match="the worker has not proven"):
        feed(server, joined(encode(forged)))


@pytest.mark.parametrize("behind", [b"", b"\xc1", b"\xdd\xff\xff\xff\xff", b"\x91" * 60_000])
def test_nothing_behind_a_wrong_proof_is_parsed(behind: bytes) -> None:
    child = worker()
    feed(child, joined(front().opening()))
    with pytest.raises(ProtocolError, match="the front has not proven"):
        feed(child, joined(encode_frame(Kind.WELCOME, bytes(32) + behind)))


def test_a_malformed_setup_behind_a_right_proof_is_refused() -> None:
    child = worker()
    feed(child, joined(front().opening()))
    header = proof("front", WORKER_NONCE, FRONT_NONCE) + b"\xc1"
    with pytest.raises(ProtocolError, match="a malformed message of kind welcome"):
        feed(child, joined(encode_frame(Kind.WELCOME, header)))


STRANGERS = [
    b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n",
    b"POST /models/m/predict HTTP/1.1\r\nContent-Length: 4\r\n\r\nabcd",
    bytes.fromhex("16030100f0010000ec0303") + bytes(200),
    random.Random(1).randbytes(4096),
    bytes(4096),
    b"\xff" * 4096,
    b"hdrc\x02" + bytes(59),
    *(
        struct.pack("<4sBBHQQ", b"hdrc", 1, kind, 0, header, payload)
        for kind in (1, 2, 3, 6)
        for header, payload in itertools.product((0, 2**31, 2**64 - 1), repeat=2)
        if header or payload
    ),
]


@pytest.mark.parametrize("data", STRANGERS, ids=lambda data: data[:24].hex())
@pytest.mark.parametrize("side", SIDES)
def test_strangers_are_refused_on_their_first_bytes(side: Side, data: bytes) -> None:
    end = front() if side == "front" else worker()
    end.opening()
    tracemalloc.start()
    try:
        with pytest.raises(ProtocolError):
            feed(end, data)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 64 * 1024
    for refused in (end.get_buffer, lambda: end.received(0), lambda: end.send(Ask())):
        with pytest.raises(ProtocolError):
            refused()


def test_an_unproven_end_reads_no_more_than_the_message_that_is_due() -> None:
    server, child = front(), worker()
    opening = server.opening()
    assert (len(server.get_buffer()), len(child.get_buffer())) == (128, 64)
    feed(child, joined(opening))
    assert len(child.get_buffer()) <= 65 * 1024
    feed(server, joined(child.take_outgoing()))
    assert len(server.get_buffer()) == 256 * 1024


@pytest.mark.parametrize("message", EXAMPLES[:3], ids=lambda each: type(each).__name__)
def test_the_handshake_is_not_for_the_owner_to_send(message: Message) -> None:
    for end in (front(), worker()):
        with pytest.raises(ProtocolError, match="handshake") as caught:
            end.send(message)
        assert caught.value.side == "local"


# States

BY_KIND = dict(enumerate([*EXAMPLES[:5], run(7, 0), Started(7), Parts(7, ()), *EXAMPLES[8:]], 1))
WAYS: dict[State, list[tuple[Side, Message]]] = {
    State.LOADING: [],
    State.CARDED: [("worker", CARDS)],
    State.READY: [("worker", CARDS), ("worker", Ready())],
    State.DRAINING: [("worker", CARDS), ("worker", Ready()), ("front", Drain())],
    State.CLOSING: [("worker", CARDS), ("worker", Ready()), ("front", Bye("a", ""))],
    State.PARTED: [("worker", CARDS), ("worker", Ready()), ("worker", Bye("a", ""))],
    State.CLOSED: [("front", Bye("a", "")), ("worker", Bye("b", ""))],
}


def pair_in(state: State) -> Pair:
    """Both ends in a state, with batch 7 open where there can be one."""
    pair = Pair()
    for sender, message in WAYS[state]:
        if message in (Drain(), Bye("a", "")) and state is not State.CLOSED:
            pair.ask(run(7, 0))
        pair.ask(message) if sender == "front" else pair.answer(message)
    assert pair.front.state is pair.worker.state is state
    return pair


@pytest.mark.parametrize("kind", Kind, ids=lambda kind: kind.name)
@pytest.mark.parametrize("sender", SIDES)
@pytest.mark.parametrize("state", WAYS, ids=lambda state: state.value)
def test_only_what_the_table_allows_is_sent_and_taken(
    state: State, sender: Side, kind: Kind
) -> None:
    pair = pair_in(state)
    ends = (pair.front, pair.worker)
    sending, taking = ends if sender == "front" else ends[::-1]
    message = BY_KIND[kind]
    if isinstance(message, Run) and state is State.PARTED:
        message = run(8, 0)
    if isinstance(message, Started | Parts | Cancel) and state is State.READY:
        pair.ask(run(7, 0))
    after = NEXT.get((state, sender, kind))
    if after is None:
        with pytest.raises(ProtocolError) as caught:
            sending.send(message)
        assert caught.value.side == "local"
        assert sending.state is state
        with pytest.raises(ProtocolError) as caught:
            feed(taking, joined(encode(message)))
        assert caught.value.side == "remote"
        assert taking.state is State.CLOSED
    else:
        data = joined(sending.send(message))
        assert feed(taking, data) == [message]
        assert sending.state is taking.state is after


@pytest.mark.parametrize("state", [State.OPENED, State.CHALLENGED, State.ANSWERED])
@pytest.mark.parametrize("kind", Kind, ids=lambda kind: kind.name)
def test_before_the_proof_only_the_message_that_is_due_is_taken(state: State, kind: Kind) -> None:
    server, child = front(), worker()
    taking, due = child, Kind.CHALLENGE
    if state is not State.OPENED:
        opening = joined(server.opening())
        taking, due = server, Kind.HELLO
    if state is State.ANSWERED:
        feed(child, opening)
        taking, due = child, Kind.WELCOME
    assert taking.state is state
    if kind != due:
        with pytest.raises(ProtocolError, match="expected"):
            feed(taking, joined(encode(BY_KIND[kind])))


def test_a_front_takes_nothing_before_it_has_said_something() -> None:
    with pytest.raises(ProtocolError, match="may not send hello to a connection that is opened"):
        feed(front(), joined(encode(EXAMPLES[1])))


def test_messages_that_cross_lead_to_the_same_state() -> None:
    said: dict[Side, list[Message]] = {
        "front": [Ask(), Cancel(7, 0), Drain(), Bye("a", ""), run(9, 0)],
        "worker": [CARDS, Ready(), Started(7), Parts(7, ()), Stats(()), Bye("b", "")],
    }
    crossed = 0
    for state, ours, theirs in itertools.product(WAYS, said["front"], said["worker"]):
        if state is State.CLOSED:
            continue
        pair = pair_in(state)
        if state is State.READY:
            pair.ask(run(7, 0))
        try:
            asked, answered = pair.front.send(ours), pair.worker.send(theirs)
        except ProtocolError:
            continue
        feed(pair.worker, joined(asked))
        feed(pair.front, joined(answered))
        assert pair.front.state is pair.worker.state
        crossed += 1
    assert crossed > 40


# Batches


def test_a_batch_runs() -> None:
    pair = ready_pair()
    assert pair.ask(run(1, 0, 2), run(2, 5)) == [run(1, 0, 2), run(2, 5)]
    assert pair.answer(Started(1)) == [Started(1)]
    first = Parts(1, (value(0), value(2)), more=(0,))
    rest = Parts(1, (value(0), value(0)), End.ENDED, more=(0,))
    assert pair.answer(first, rest) == [first, rest]
    assert pair.answer(Parts(2, ((5, None),), End.ENDED))
    assert pair.ask(run(1, 0)) == [run(1, 0)]


def test_a_batch_without_items_ends_without_parts() -> None:
    pair = ready_pair()
    pair.ask(run(1))
    assert pair.answer(Parts(1, (), End.ENDED)) == [Parts(1, (), End.ENDED)]


def test_a_batch_that_is_set_aside_starts_again_and_again() -> None:
    pair = ready_pair()
    pair.ask(run(1, 0, 1))
    aside = Parts(1, (value(0),), End.SET_ASIDE)
    assert pair.answer(Started(1), aside, Started(1), Parts(1, (), End.SET_ASIDE), Started(1))
    assert pair.answer(Parts(1, (value(1),), End.ENDED))


ASIDE = Parts(1, (), End.SET_ASIDE)


def test_a_batch_may_be_set_aside_for_nothing_as_often_as_its_halves_can_fail() -> None:
    pair = ready_pair()
    pair.ask(run(1, 0, 1))
    for _ in range(3):
        assert pair.answer(Started(1), ASIDE)
    pair.answer(Started(1), Parts(1, (value(0),), End.SET_ASIDE))
    assert pair.answer(Started(1), Parts(1, (value(1),), End.ENDED))


BREACHES: dict[str, tuple[list[Message], Message]] = {
    "is not open": ([], Started(1)),
    "batch 9 is not open": ([], Parts(9, ())),
    "was started already": ([Started(1)], Started(1)),
    "batch 1 was started already": ([Parts(1, (value(0),))], Started(1)),
    "1 was started already": ([Started(1), ASIDE, Started(1)], Started(1)),
    "batch 1 is set aside for nothing": ([Started(1), ASIDE] * 3, ASIDE),
    "owed no part of item 7": ([], Parts(1, (value(7),))),
    "owed no part of item 0": ([Parts(1, (value(0),))], Parts(1, (value(0),))),
    "batch 1 is owed no part of item 2": ([], Parts(1, (value(2), value(2)))),
    "owed no part of item 2": ([], Parts(1, (value(2), value(2)), more=(1,))),
    "batch 1 is owed no part of item 3": ([], Parts(1, (value(0), value(2), (3, None)))),
    "ended with 2 items unanswered": ([], Parts(1, (), End.ENDED)),
    "ended with 1 items unanswered": ([Parts(1, (value(0),))], Parts(1, (), End.ENDED)),
    "batch 1 is not open": ([Parts(1, (value(0), value(2)), End.ENDED)], Parts(1, ())),
}


@pytest.mark.parametrize("reason", BREACHES)
def test_a_breach_of_a_batchs_rules_is_found_at_both_ends(reason: str) -> None:
    before, breach = BREACHES[reason]
    pair = ready_pair()
    if reason != "is not open":
        pair.ask(run(1, 0, 2))
    pair.answer(*before)
    for _ in range(2):
        with pytest.raises(ProtocolError, match=reason) as caught:
            pair.worker.send(breach)
        assert caught.value.side == "local"
    assert pair.worker.state is State.READY
    with pytest.raises(ProtocolError, match=reason) as caught:
        feed(pair.front, joined(encode(breach)))
    assert caught.value.side == "remote"
    assert pair.front.state is State.CLOSED


@pytest.mark.parametrize(
    ("breach", "reason"),
    [
        (run(1, 0), "batch 1 is open already"),
        (run(2, 1, 0), "not in ascending order"),
        (run(2, 1, 1), "not in ascending order"),
    ],
)
def test_a_run_that_breaks_the_rules_is_found_at_both_ends(breach: Run, reason: str) -> None:
    pair = ready_pair()
    pair.ask(run(1, 0))
    with pytest.raises(ProtocolError, match=reason):
        pair.front.send(breach)
    assert pair.answer(Parts(1, (value(0),), more=(0,)))
    with pytest.raises(ProtocolError, match=reason):
        feed(pair.worker, joined(encode(breach)))


def test_a_refused_message_leaves_the_sender_as_it_was() -> None:
    pair = ready_pair()
    pair.ask(run(1, 0, 2))
    sent = pair.worker.sent_bytes
    with pytest.raises(ProtocolError):
        pair.worker.send(Parts(1, (value(0), value(9))))
    assert pair.worker.sent_bytes == sent
    assert pair.answer(Parts(1, (value(0), value(2)), End.ENDED))


def test_a_failure_is_an_items_last_part_whatever_it_says() -> None:
    pair = ready_pair()
    pair.ask(run(1, 0))
    assert pair.answer(Parts(1, ((0, FAILURE),), End.ENDED, more=(0,)))


def test_a_cancel_of_what_has_ended_is_not_told() -> None:
    pair = ready_pair()
    pair.ask(run(1, 0))
    assert pair.ask(Cancel(1, 0), Cancel(1, 9)) == [Cancel(1, 0), Cancel(1, 9)]
    pair.answer(Parts(1, (value(0),), End.ENDED))
    assert pair.ask(Cancel(1, 0), Cancel(5, 0), Ask()) == [Ask()]


def test_a_value_that_does_not_fit_is_booked_as_the_failure_that_it_becomes() -> None:
    pair = ready_pair(FrameLimits(1000, 64))
    pair.ask(run(1, 0))
    (answer,) = pair.answer(Parts(1, ((0, Value(bytes(65), "a/b")),), End.ENDED, more=(0,)))
    assert isinstance(answer, Parts)
    assert isinstance(answer.parts[0][1], Failure)


def test_parts_that_need_several_frames_are_booked_once() -> None:
    pair = ready_pair(FrameLimits(1000, 128))
    pair.ask(run(1, 0), run(2, *range(2)))
    message = Parts(2, tuple((i, Value(bytes(128), "a/b")) for i in range(2)), End.ENDED)
    assert pair.answer(message) == [
        Parts(2, message.parts[:1], End.OPEN),
        Parts(2, message.parts[1:], End.ENDED),
    ]


def test_the_servers_limits_bound_the_frames() -> None:
    small = Limits(max_queue_bytes=64, max_body_bytes=1, max_response_bytes=1)
    server = Connection("front", SECRET, FRONT_NONCE, setup=Setup(limits=small))
    child = worker()
    feed(child, joined(server.opening()))
    feed(server, joined(child.take_outgoing()))
    feed(child, joined(server.take_outgoing()))
    for end in (server, child):
        with pytest.raises(ProtocolError, match=f"at most {64 + 64 * 65536} bytes"):
            feed(end, struct.pack("<4sBBHQQ", b"hdrc", 1, 6, 0, 0, 128 + 64 * 65536))


def test_a_message_that_would_break_the_limits_is_not_sent() -> None:
    pair = ready_pair(FrameLimits(1000, 64))
    big = msgspec.structs.replace(run(1, 0, 1))
    with pytest.raises(ProtocolError, match="Run: expected at most 64 bytes of bodies") as caught:
        pair.front.send(big)
    assert caught.value.side == "local"
    assert pair.ask(run(1, 0)) == [run(1, 0)]


def test_an_end_of_a_connection_is_not_named_in_its_challenge() -> None:
    assert SECRET not in joined(front().opening()) + joined(encode(Challenge(FRONT_NONCE)))
