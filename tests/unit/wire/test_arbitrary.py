"""Searches: any message comes back, any bytes are met with a ProtocolError at worst."""

from __future__ import annotations

import math
import random
import struct
import tracemalloc
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
)

from headrace.call import CODES, Failure, Payload, Value
from headrace.card import ModelCard
from headrace.config import Batching, Limits
from headrace.errors import ProtocolError
from headrace.wire import (
    Ask,
    Bye,
    Cancel,
    Cards,
    Connection,
    Drain,
    End,
    Family,
    FrameLimits,
    Kind,
    Message,
    Parts,
    Ready,
    Run,
    Sample,
    Setup,
    Started,
    State,
    Stats,
    Welcome,
    decode,
    encode,
    encode_frame,
    encode_parts,
)
from headrace.wire.rows import MAX_RETRY_S

from .driver import CARD, EXAMPLES, Decoding, Pair, feed, frame, front, joined, ready_pair, worker

LIMITS = FrameLimits(64 * 1024, 64 * 1024)

text = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)
numbers = st.integers(0, 2**64 - 1)
seconds = st.floats(0, allow_nan=False)
bodies = st.binary(max_size=200) | st.integers(0, 200_000).map(bytes)
types = st.sampled_from(["application/json", "a/b", ""]) | text
plain = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**63) | text,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(text, inner, max_size=3),
    max_leaves=8,
)
objects = st.dictionaries(text, plain, max_size=3)
payloads = st.builds(
    Payload, body=bodies, input_type=types, output_type=types, count=st.integers(0, 2**32)
)
examples = st.builds(Payload, body=bodies, input_type=types, output_type=types)
failures = st.builds(
    Failure,
    code=st.sampled_from(sorted(CODES)),
    message=text,
    details=st.lists(objects, max_size=2).map(tuple),
    status=st.none() | st.integers(400, 599),
    retry_after_s=st.none() | st.floats(0, MAX_RETRY_S),
    log=st.none() | text,
)
values = st.builds(
    Value,
    bodies,
    st.sampled_from(["application/json", "a/b", ""])
    | st.text(st.characters(min_codepoint=32, max_codepoint=126), max_size=20),
)
parts = st.builds(
    lambda batch, values, failures, skipped, end, more: Parts(
        batch,
        (*values, *failures, *skipped),
        end,
        tuple(place for place, _ in enumerate(values) if place in more),
    ),
    numbers,
    st.lists(st.tuples(numbers, values), max_size=4),
    st.lists(st.tuples(numbers, failures), max_size=4),
    st.lists(st.tuples(numbers, st.none()), max_size=4),
    st.sampled_from(End),
    st.just(()) | st.sets(st.integers(0, 3)),
)
runs = st.builds(
    lambda batch, items, left: Run(
        batch,
        tuple(items),
        {index: left_s for (index, _), left_s in zip(items, left, strict=False) if left_s},
    ),
    numbers,
    st.lists(st.tuples(numbers, payloads), max_size=5, unique_by=lambda item: item[0])
    | payloads.map(lambda each: [(0, each), (1, each)]),
    st.just(()) | st.lists(st.none() | seconds, max_size=5),
)
cards = st.builds(
    ModelCard,
    name=text,
    version=text,
    description=text,
    request_schema=objects,
    response_schema=objects,
    reads=st.lists(types, max_size=3).map(tuple),
    writes=st.lists(types, max_size=3).map(tuple),
    examples=st.lists(examples, max_size=2).map(tuple),
    batching=st.builds(
        Batching,
        max_batch_size=st.integers(1, 65536),
        max_batch_cost=st.just(math.inf) | st.floats(1, 9),
    ),
    idempotent=st.booleans(),
)
samples = st.builds(
    Sample, text, st.dictionaries(text, text, max_size=3), st.floats(allow_nan=False)
)
messages: st.SearchStrategy[Message] = st.one_of(
    st.builds(
        Welcome,
        st.binary(min_size=32, max_size=32),
        st.builds(
            Setup,
            limits=st.builds(Limits, max_depth=st.integers(1, 512)),
            batching=st.dictionaries(text, st.integers(0, 9) | st.floats(0, 9), max_size=3),
            model=text,
            replica=st.integers(0, 99),
        ),
    ),
    st.lists(cards, min_size=1, max_size=2).map(lambda each: Cards(tuple(each), 0)),
    runs,
    st.builds(Started, st.integers(0, 2**63)),
    parts,
    st.builds(Cancel, numbers, numbers),
    st.lists(
        st.builds(Family, text, text, text, text, st.lists(samples, max_size=3).map(tuple)),
        max_size=3,
    ).map(lambda each: Stats(tuple(each))),
    st.builds(Bye, text, text),
    st.sampled_from(EXAMPLES),
)


@given(messages)
def test_any_message_comes_back_as_it_was(message: Message) -> None:
    assert decode(frame(message)) == message


@given(parts, st.integers(0, 400))
def test_parts_are_never_lost_where_frames_are_small(each: Parts, most_payload: int) -> None:
    limits = FrameLimits(64 * 1024, most_payload // 64 * 64)
    sent, chunks = encode_parts(each, limits)
    assert [index for index, _ in sent.parts] == [index for index, _ in each.parts]
    for place, (_, outcome) in enumerate(sent.parts):
        if isinstance(outcome, Value):
            assert outcome == each.parts[place][1]
            assert (place in sent.more) == (place in each.more)
    received = feed(Decoding(limits), joined(chunks))
    assert sorted(index for message in received for index, _ in message.parts) == sorted(
        index for index, _ in each.parts
    )
    assert [message.end for message in received] == [End.OPEN] * (len(received) - 1) + [each.end]


SEGMENT_BYTES = 128 * 1024


class Ends:
    """Both ends in a state in which they take bytes."""

    def __init__(self, name: str) -> None:
        size = SEGMENT_BYTES if name == "shared" else 0
        pair = ready_pair(LIMITS, size) if name in ("ready", "shared") else Pair(LIMITS)
        self.front, self.worker = pair.front, pair.worker
        if name in ("ready", "shared"):
            pair.ask(Run(7, ((0, CARD.examples[0]), (2, CARD.examples[0]))))
        elif name == "unproven":
            self.front, self.worker = front(limits=LIMITS), worker(limits=LIMITS)
            self.front.opening()
        elif name == "challenged":
            self.front, self.worker = front(limits=LIMITS), worker(limits=LIMITS)
            feed(self.worker, joined(self.front.opening()))


ENDS = ["unproven", "challenged", "proven", "ready", "shared"]
prefixed = st.builds(
    lambda kind, header, payload, rest: (
        struct.pack("<4sBBHQQ", b"hdrc", 1, kind, 0, header, payload * 64) + rest
    ),
    st.integers(0, 15),
    st.integers(0, 200) | numbers,
    st.integers(0, 3) | st.integers(0, 2**58 - 1),
    st.binary(max_size=500),
)
framed = st.builds(
    lambda kind, header, body: joined(encode_frame(kind, header, body)),
    st.sampled_from(Kind),
    st.binary(max_size=100) | plain.map(msgspec.msgpack.encode),
    st.lists(st.binary(max_size=100), max_size=3),
)
damaged = st.builds(
    lambda message, at, byte: spoiled(joined(encode(message)), at, byte),
    st.sampled_from(EXAMPLES),
    st.integers(0, 255),
    st.integers(0, 255),
)


def spoiled(data: bytes, at: int, byte: int) -> bytes:
    """A frame with one byte changed."""
    at %= len(data)
    return data[:at] + bytes([byte]) + data[at + 1 :]


@pytest.mark.row("J5")
@pytest.mark.parametrize("state", ENDS)
@given(st.data())
def test_any_bytes_are_met_with_a_protocol_error_at_worst(state: str, data: st.DataObject) -> None:
    ends = Ends(state)
    stream = b"".join(data.draw(st.lists(st.binary() | prefixed | framed | damaged, max_size=4)))
    sizes = data.draw(st.lists(st.integers(1, 100), max_size=5))
    for end in (ends.front, ends.worker):
        try:
            feed(end, stream, sizes)
        except ProtocolError as error:
            assert error.side == "remote"
            assert end.state is State.CLOSED
        else:
            assert len(end.get_buffer()) <= LIMITS.max_frame_bytes


@pytest.mark.row("J5")
@pytest.mark.parametrize("state", ENDS)
def test_no_bytes_take_more_memory_than_the_limits(state: str) -> None:
    rng = random.Random(4)
    tracemalloc.start()
    try:
        for _ in range(200):
            ends = Ends(state)
            kind = rng.choice(list(Kind))
            claim = rng.choice([b"\xdd", b"\xdf", b"\xc6", b"\xdb"]) + b"\x0f\xff\xff\xff"
            header = rng.choice([b"", b"\x93\x01", b"\x96\x01\x00", b"\x91", b"\x91\x95"]) + claim
            for end in (ends.front, ends.worker):
                tracemalloc.reset_peak()
                before, _ = tracemalloc.get_traced_memory()
                with pytest.raises(ProtocolError):
                    feed(end, joined(encode_frame(kind, header)))
                _, peak = tracemalloc.get_traced_memory()
                assert peak - before < 2 * LIMITS.max_frame_bytes
    finally:
        tracemalloc.stop()


class Talk(RuleBasedStateMachine):
    """Two ends that say what they may, over pipes that cut the stream anywhere."""

    @initialize(limits=st.sampled_from([LIMITS, FrameLimits(2000, 128)]))
    def meet(self, limits: FrameLimits) -> None:
        self.ends: dict[str, Connection] = {
            "front": front(limits=limits),
            "worker": worker(limits=limits),
        }
        self.pipes = {"front": joined(self.ends["front"].opening()), "worker": b""}
        self.said: dict[str, list[Message]] = {"front": [], "worker": []}
        self.heard: dict[str, list[Message]] = {"front": [], "worker": []}
        self.owed: dict[int, list[int]] = {}
        self.sent_parts: list[tuple[int, int]] = []
        self.next_batch = 0

    def say(self, side: str, message: Message) -> None:
        self.pipes[side] += joined(self.ends[side].send(message))
        self.said[side].append(message)

    def may(self, side: str, *states: State) -> bool:
        return self.ends[side].state in states

    @rule(side=st.sampled_from(["front", "worker"]), size=st.integers(1, 500))
    def deliver(self, side: str, size: int) -> None:
        other = "worker" if side == "front" else "front"
        data, self.pipes[side] = self.pipes[side][:size], self.pipes[side][size:]
        taken = feed(self.ends[other], data)
        self.pipes[other] += joined(self.ends[other].take_outgoing())
        for message in taken:
            if isinstance(message, Run):
                self.owed[message.batch] = [index for index, _ in message.items]
            if not isinstance(message, Cancel):
                self.heard[other].append(message)

    @precondition(lambda self: self.may("worker", State.LOADING))
    @rule()
    def show_cards(self) -> None:
        self.say("worker", Cards((CARD,), 0))

    @precondition(lambda self: self.may("worker", State.CARDED))
    @rule()
    def get_ready(self) -> None:
        self.say("worker", Ready())

    @precondition(lambda self: self.may("front", State.READY))
    @rule(asked=st.lists(payloads.filter(lambda each: len(each.body) < 40), max_size=2))
    def run(self, asked: list[Payload]) -> None:
        self.next_batch += 1
        items = tuple((3 * place, payload) for place, payload in enumerate(asked))
        self.say("front", Run(self.next_batch, items))

    @precondition(lambda self: self.may("front", State.READY, State.DRAINING))
    @rule(batch=st.integers(0, 5), index=st.integers(0, 5))
    def cancel(self, batch: int, index: int) -> None:
        self.pipes["front"] += joined(self.ends["front"].send(Cancel(batch, index)))

    @precondition(lambda self: self.may("front", State.CARDED, State.READY, State.DRAINING))
    @rule()
    def ask(self) -> None:
        self.say("front", Ask())

    @precondition(lambda self: self.may("front", State.LOADING, State.CARDED, State.READY))
    @rule()
    def drain(self) -> None:
        self.say("front", Drain())

    @precondition(lambda self: self.may("worker", State.CARDED, State.READY, State.DRAINING))
    @rule()
    def tell(self) -> None:
        self.say("worker", Stats(()))

    @precondition(
        lambda self: (
            bool(self.owed) and self.may("worker", State.READY, State.DRAINING, State.CLOSING)
        )
    )
    @rule(data=st.data(), outcome=values | failures | st.none())
    def answer(self, data: st.DataObject, outcome: Any) -> None:
        batch = data.draw(st.sampled_from(sorted(self.owed)))
        owed = self.owed[batch]
        count = data.draw(st.integers(0, len(owed)))
        answered, self.owed[batch] = owed[:count], owed[count:]
        end = End.OPEN if self.owed[batch] else End.ENDED
        if end is End.ENDED:
            del self.owed[batch]
        message = Parts(batch, tuple((index, outcome) for index in answered), end)
        self.pipes["worker"] += joined(self.ends["worker"].send(message))
        self.sent_parts += [(batch, index) for index in answered]

    @precondition(lambda self: self.may("worker", State.DRAINING) and not self.owed)
    @rule()
    def leave(self) -> None:
        self.say("worker", Bye("drained", ""))

    @invariant()
    def what_was_heard_was_said(self) -> None:
        for side, other in (("front", "worker"), ("worker", "front")):
            heard = [each for each in self.heard[side] if not isinstance(each, Parts)]
            if heard:
                assert heard[1:] == self.said[other][: len(heard) - 1]
        parts_heard = [
            (message.batch, index)
            for message in self.heard["front"]
            if isinstance(message, Parts)
            for index, _ in message.parts
        ]
        assert parts_heard == self.sent_parts[: len(parts_heard)]

    def teardown(self) -> None:
        for _ in range(4):
            for side in ("front", "worker"):
                while self.pipes[side]:
                    self.deliver(side, 10_000)
        assert self.ends["front"].state is self.ends["worker"].state
        assert self.ends["front"].sent_bytes == self.ends["worker"].received_bytes
        assert self.ends["worker"].sent_bytes == self.ends["front"].received_bytes


test_two_ends_understand_each_other = Talk.TestCase
