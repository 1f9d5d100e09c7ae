"""Large bodies in shared memory: given out, found, and free again when they are needed no more."""

from __future__ import annotations

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from headrace.call import Payload, Value
from headrace.errors import ProtocolError
from headrace.wire import (
    Cards,
    Connection,
    End,
    FrameLimits,
    Hello,
    Memory,
    Message,
    Parts,
    Ready,
    Run,
    Setup,
    Welcome,
    encode_frame,
)
from headrace.wire.segments import Arena, Inbox, Outbox, Segments

from .driver import CARD, FAILURE, FRONT_NONCE, SECRET, WORKER_NONCE, Pair, feed, joined

LARGE = 64 * 1024 + 1
SIZE = 1024 * 1024


class Shared(Pair):
    """Two ends with memory between them, which may run batches."""

    def __init__(self, size: int = SIZE, limits: FrameLimits | None = None) -> None:
        super().__init__(limits, size)
        self.answer(Cards((CARD,), 0), Ready())

    def used(self) -> tuple[int, int]:
        """Bytes given out of each segment."""
        return segments(self.front).outbox.used_bytes, segments(self.worker).outbox.used_bytes


def segments(end: Connection) -> Segments:
    assert end._segments is not None
    return end._segments


def meet(front: Connection, worker: Connection) -> list[Message]:
    """The handshake; what the worker is told."""
    feed(worker, joined(front.opening()))
    feed(front, joined(worker.take_outgoing()))
    return feed(worker, joined(front.take_outgoing()))


def run(batch: int, *bodies: bytes) -> Run:
    payloads = (Payload(body=body, input_type="a/b", output_type="a/b") for body in bodies)
    return Run(batch, tuple(enumerate(payloads)))


def parts(batch: int, *bodies: bytes, end: End = End.ENDED) -> Parts:
    return Parts(batch, tuple((i, Value(body, "a/b")) for i, body in enumerate(bodies)), end)


def patch(run: Run, taken: int) -> Run:
    return msgspec.structs.replace(run, taken=taken)


def test_large_bodies_cross_in_memory_and_small_ones_in_the_frame() -> None:
    shared = Shared()
    bodies = (b"small", b"1" * LARGE, b"", b"2" * 100_000, b"3" * (LARGE - 1))
    sent = joined(shared.front.send(run(1, *bodies)))
    assert len(sent) < LARGE + 1000
    assert shared.memory.count(b"1" * LARGE) == 1
    assert feed(shared.worker, sent) == [run(1, *bodies)]
    back = joined(shared.worker.send(parts(1, *bodies)))
    assert len(back) < LARGE + 1000
    assert feed(shared.front, back) == [parts(1, *bodies)]


def test_what_was_taken_is_a_copy() -> None:
    shared = Shared()
    (taken,) = shared.ask(run(1, b"1" * LARGE))
    shared.memory[:] = bytes(len(shared.memory))
    assert taken == run(1, b"1" * LARGE)


def test_a_batchs_memory_is_free_when_the_batch_has_ended() -> None:
    shared = Shared()
    shared.ask(run(1, b"1" * LARGE, b""), run(2, b"2" * LARGE))
    both, _ = shared.used()
    shared.answer(parts(1, b"", end=End.OPEN))
    assert shared.used() == (both, 0)
    shared.answer(Parts(1, ((1, None),), End.ENDED))
    assert shared.used() == (both // 2, 0)
    shared.answer(parts(2, b""))
    assert shared.used() == (0, 0)


def test_an_answers_memory_is_free_when_the_next_batch_says_so() -> None:
    shared = Shared()
    shared.ask(run(1, b""), run(2, b""))
    shared.answer(parts(1, b"1" * LARGE))
    _, one = shared.used()
    assert one >= LARGE
    not_taken = joined(shared.worker.send(parts(2, b"2" * LARGE)))
    assert shared.ask(run(3, b"")) == [patch(run(3, b""), 1)]
    assert shared.used() == (0, one)
    feed(shared.front, not_taken)
    shared.ask(run(4, b""))
    assert shared.used() == (0, 0)


def test_what_finds_no_room_goes_in_the_frame() -> None:
    shared = Shared(2 * (LARGE + 63))
    body = b"1" * LARGE
    assert len(joined(shared.front.send(run(1, body)))) < LARGE
    assert len(joined(shared.front.send(run(2, body, body)))) > 2 * LARGE
    assert len(joined(shared.front.send(run(3, body)))) < LARGE
    assert len(joined(shared.front.send(run(4, body)))) > LARGE


def test_what_is_refused_leaves_no_memory_taken() -> None:
    shared = Shared()
    shared.ask(run(1, b"1" * LARGE))
    before = shared.used()
    with pytest.raises(ProtocolError, match="batch 1 is open already"):
        shared.front.send(run(1, b"2" * LARGE))
    with pytest.raises(ProtocolError, match="batch 9 is not open"):
        shared.worker.send(parts(9, b"2" * LARGE))
    assert shared.used() == before
    shared.answer(parts(1, b"3" * LARGE))
    assert shared.ask(run(2, b"")) == [patch(run(2, b""), 1)]
    assert shared.used() == (0, 0)


def test_parts_that_one_frame_does_not_hold_go_in_frames() -> None:
    shared = Shared(limits=FrameLimits(max_header_bytes=1000, max_payload_bytes=65536 + 128))
    many = [b"s" * 60_000] * 3
    shared.ask(run(1, *[b""] * 4))
    sent = shared.worker.send(parts(1, *many, b"1" * LARGE))
    taken = feed(shared.front, joined(sent))
    assert [each.end for each in taken if isinstance(each, Parts)][-1] is End.ENDED
    assert len(taken) > 1
    assert shared.used() == (0, 0)


def test_a_failure_beside_a_large_value_crosses_too() -> None:
    shared = Shared()
    shared.ask(run(1, b"", b"", b""))
    answer = Parts(1, ((1, Value(b"1" * LARGE, "a/b")), (0, FAILURE), (2, None)), End.ENDED)
    assert shared.answer(answer) == [answer]


@pytest.mark.parametrize("has_front", [False, True])
def test_without_memory_on_both_sides_all_goes_in_the_frame(has_front: bool) -> None:
    memory = Memory(memoryview(bytearray(SIZE)), memoryview(bytearray(SIZE)))
    front = Connection("front", SECRET, FRONT_NONCE, memory=memory if has_front else None)
    worker = Connection("worker", SECRET, WORKER_NONCE, memory=None if has_front else memory)
    (welcome,) = meet(front, worker)
    assert isinstance(welcome, Welcome) and welcome.setup.segment_bytes == 0
    feed(front, joined(worker.send(Cards((CARD,), 0))) + joined(worker.send(Ready())))
    sent = joined(front.send(run(1, b"1" * LARGE)))
    assert len(sent) > LARGE
    assert feed(worker, sent) == [run(1, b"1" * LARGE)]


def test_a_worker_tells_that_it_has_memory() -> None:
    memory = Memory(memoryview(bytearray(SIZE)), memoryview(bytearray(SIZE)))
    for given_memory, bit in ((None, 0), (memory, 1)):
        front = Connection("front", SECRET, FRONT_NONCE)
        worker = Connection("worker", SECRET, WORKER_NONCE, memory=given_memory)
        feed(worker, joined(front.opening()))
        (hello,) = feed(front, joined(worker.take_outgoing()))
        assert isinstance(hello, Hello) and hello.capabilities == bit


def test_segments_of_another_size_are_refused() -> None:
    half, whole = (memoryview(bytearray(size)) for size in (SIZE // 2, SIZE))
    front = Connection("front", SECRET, FRONT_NONCE, memory=Memory(half, half))
    worker = Connection("worker", SECRET, WORKER_NONCE, memory=Memory(whole, whole))
    reason = f"expected segments of {SIZE} bytes, got {SIZE // 2}"
    with pytest.raises(ProtocolError, match=reason) as caught:
        meet(front, worker)
    assert caught.value.side == "remote"


def test_a_setup_may_not_claim_what_there_is_not() -> None:
    front = Connection("front", SECRET, FRONT_NONCE, setup=Setup(segment_bytes=SIZE))
    worker = Connection("worker", SECRET, WORKER_NONCE)
    (welcome,) = meet(front, worker)
    assert isinstance(welcome, Welcome) and welcome.setup.segment_bytes == 0


def lying_run(begin: object, sizes: list[int], taken: int = 0) -> bytes:
    header = (9, ["a/b"], len(sizes), 0, 0, 1, None, sizes, begin, taken)
    return joined(encode_frame(6, msgspec.msgpack.encode(header)))


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (lying_run(SIZE, [LARGE]), "expected bodies within a segment of 1048576 bytes"),
        (lying_run(SIZE - 64 * 1024, [LARGE]), "within a segment"),
        (lying_run(1, [LARGE]), "within a segment"),
        (lying_run(0, [LARGE] * 16), "within a segment"),
        (lying_run(2**62, [2**63]), "within a segment"),
        (lying_run(0, [1]), "expected bodies of 0 bytes"),
        (lying_run(None, [LARGE]), "expected bodies of 0 bytes"),
        (lying_run(None, [], taken=1), "expected 0 to 0 messages taken, got 1"),
    ],
)
def test_a_place_that_cannot_be_is_a_breach(data: bytes, reason: str) -> None:
    shared = Shared()
    with pytest.raises(ProtocolError, match=reason) as caught:
        feed(shared.worker, data)
    assert caught.value.side == "remote"


def test_what_was_taken_stays_taken() -> None:
    shared = Shared()
    shared.ask(run(1, b""))
    shared.answer(parts(1, b"1" * LARGE))
    shared.ask(run(2, b""))
    with pytest.raises(ProtocolError, match="expected 1 to 1 messages taken, got 0"):
        feed(shared.worker, lying_run(None, []))


def test_a_frame_names_no_byte_twice() -> None:
    data = lying_run(0, [LARGE, LARGE])
    shared = Shared()
    shared.memory[:LARGE] = b"1" * LARGE
    (taken,) = feed(shared.worker, data)
    assert isinstance(taken, Run)
    assert [payload.body[:1] for _, payload in taken.items] == [b"1", b"\0"]


@given(
    st.lists(
        st.tuples(st.booleans(), st.integers(1, 40), st.integers(0, 9)), min_size=1, max_size=60
    )
)
def test_blocks_never_overlap_and_the_first_gap_is_used(
    steps: list[tuple[bool, int, int]],
) -> None:
    arena = Arena(100)
    blocks: dict[int, int] = {}
    for takes, size, at in steps:
        if takes:
            begin = arena.take(size)
            gaps = [
                start
                for start in range(101 - size)
                if all(start + size <= b or start >= b + s for b, s in blocks.items())
            ]
            assert begin == (gaps[0] if gaps else None)
            if begin is not None:
                blocks[begin] = size
        elif blocks:
            begin = sorted(blocks)[at % len(blocks)]
            arena.free(begin)
            del blocks[begin]
        assert arena.used_bytes == sum(blocks.values())


def test_what_was_not_kept_is_not_freed_twice() -> None:
    outbox = Outbox(memoryview(bytearray(SIZE)))
    assert outbox.place([b"1" * LARGE]) == 0
    outbox.drop()
    outbox.drop()
    assert not outbox.keep(1)
    outbox.free(1)
    assert outbox.used_bytes == 0


def test_an_inbox_counts_the_messages_that_it_was_used_for() -> None:
    inbox = Inbox(memoryview(b"1" * SIZE))
    assert inbox.cut(64, [3, 65]) == [b"111", b"1" * 65]
    assert inbox.cut(0, []) == []
    assert inbox.taken == 2


sizes = st.sampled_from([0, 10, 64 * 1024, LARGE, 200_000])


class Exchanges(RuleBasedStateMachine):
    """Batches of large and small bodies that cross and end in any order."""

    @initialize(size=st.sampled_from([LARGE + 63, 300_000, SIZE]))
    def meet(self, size: int) -> None:
        self.shared = Shared(size // 64 * 64)
        self.to_worker: list[tuple[bytes, Run]] = []
        self.to_front: list[tuple[bytes, Parts]] = []
        self.owed: dict[int, list[int]] = {}
        self.open: set[int] = set()
        self.number = 0

    def body(self, size: int) -> bytes:
        self.number += 1
        return (self.number.to_bytes(4, "little") * (size // 4 + 1))[:size]

    @rule(each=st.lists(sizes, min_size=1, max_size=3))
    def run(self, each: list[int]) -> None:
        if len(self.open) < 4:
            self.number += 1
            sent = run(self.number, *map(self.body, each))
            self.open.add(sent.batch)
            self.to_worker.append((joined(self.shared.front.send(sent)), sent))

    @precondition(lambda self: self.to_worker)
    @rule()
    def take_run(self) -> None:
        data, sent = self.to_worker.pop(0)
        (taken,) = feed(self.shared.worker, data)
        assert isinstance(taken, Run)
        assert patch(taken, 0) == sent
        self.owed[sent.batch] = [index for index, _ in sent.items]

    @precondition(lambda self: self.owed)
    @rule(data=st.data(), each=st.lists(sizes, min_size=1, max_size=3))
    def answer(self, data: st.DataObject, each: list[int]) -> None:
        batch = data.draw(st.sampled_from(sorted(self.owed)))
        now, later = self.owed[batch][: len(each)], self.owed[batch][len(each) :]
        values = [Value(self.body(size), "a/b") for size in each]
        end = End.OPEN if later else End.ENDED
        sent = Parts(batch, tuple(zip(now, values, strict=False)), end)
        self.owed[batch] = later
        if not later:
            del self.owed[batch]
        self.to_front.append((joined(self.shared.worker.send(sent)), sent))

    @precondition(lambda self: self.to_front)
    @rule()
    def take_answer(self) -> None:
        data, sent = self.to_front.pop(0)
        assert feed(self.shared.front, data) == [sent]
        if sent.end is End.ENDED:
            self.open.remove(sent.batch)

    @invariant()
    def no_more_is_used_than_there_is(self) -> None:
        if hasattr(self, "shared"):
            for used in self.shared.used():
                assert 0 <= used <= len(self.shared.memory) // 2

    def teardown(self) -> None:
        while self.to_worker:
            self.take_run()
        for batch in list(self.owed):
            missing = Parts(batch, tuple((i, None) for i in self.owed[batch]), End.ENDED)
            self.to_front.append((joined(self.shared.worker.send(missing)), missing))
        while self.to_front:
            self.take_answer()
        self.shared.ask(run(10**6, b""))
        assert self.shared.used() == (0, 0)


test_batches_of_large_bodies_cross_in_any_order = Exchanges.TestCase
