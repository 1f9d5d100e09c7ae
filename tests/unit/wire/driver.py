"""What the tests of the wire share: two ends in memory, and messages to send."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, Protocol, TypeVar

from headrace.call import Failure, Payload, Value
from headrace.card import ModelCard
from headrace.config import Batching, Limits
from headrace.wire import (
    Ask,
    Bye,
    Cancel,
    Cards,
    Challenge,
    Chunk,
    Connection,
    Drain,
    End,
    Family,
    Frame,
    FrameLimits,
    FrameReader,
    Hello,
    Memory,
    Message,
    Parts,
    Ready,
    Run,
    Sample,
    Setup,
    Started,
    Stats,
    Welcome,
    decode,
    encode,
)

SECRET = b"a secret"
FRONT_NONCE = bytes(range(32))
WORKER_NONCE = bytes(range(32, 64))

CARD = ModelCard(
    name="m",
    version="1",
    description="Says what it hears.",
    request_schema={"type": "string", "examples": ["a"]},
    response_schema={},
    reads=("application/json", "image/*"),
    writes=("application/json",),
    examples=(Payload(body=b'"a"', input_type="application/json", output_type="application/json"),),
    batching=Batching(max_batch_size=8, cost="bytes", bucket_bytes=(10, 20)),
    idempotent=True,
)
RUN = Run(
    7,
    (
        (
            0,
            Payload(body=b'"a"', input_type="application/json", output_type="application/json"),
        ),
        (
            2,
            Payload(
                body=b"\x01\x02",
                input_type="application/octet-stream",
                output_type="application/json",
            ),
        ),
    ),
    {0: 1.5},
)
FAILURE = Failure(code="item_error", message="no face", status=422)
PARTS = Parts(7, ((0, Value(b'"b"', "application/json")), (2, FAILURE)), End.ENDED)
STATS = Stats(
    (
        Family(
            "requests", "counter", "Requests.", "", (Sample("requests_total", {"model": "m"}, 2.0),)
        ),
    )
)
EXAMPLES: Sequence[Message] = (
    Challenge(FRONT_NONCE),
    Hello(0, WORKER_NONCE, bytes(32)),
    Welcome(
        bytes(32),
        Setup(
            limits=Limits(max_depth=3),
            batching={"max_batch_size": 4, "cost": "bytes", "bucket_bytes": (10, 20)},
            model="m",
            replica=1,
        ),
    ),
    Cards((CARD,), 0),
    Ready(),
    RUN,
    Started(7),
    PARTS,
    Cancel(7, 2),
    Ask(),
    STATS,
    Drain(),
    Bye("drained", ""),
)
"""A message of each kind, in the order of their numbers."""

R = TypeVar("R")


class Taker(Protocol[R]):
    """What takes bytes: a reader of frames, or a connection."""

    def get_buffer(self) -> memoryview: ...

    def received(self, size: int) -> list[R]: ...


def joined(chunks: Iterable[Chunk]) -> bytes:
    """What a gathered write puts on the wire."""
    return b"".join(chunks)


def feed(taker: Taker[R], data: bytes, sizes: Iterable[int] = ()) -> list[R]:
    """Everything that some bytes bring, read in pieces of these sizes and then whole."""
    found: list[R] = []
    planned = iter(sizes)
    while data:
        buffer = taker.get_buffer()
        size = min(len(buffer), len(data), next(planned, len(data)))
        buffer[:size] = data[:size]
        data = data[size:]
        found += taker.received(size)
    return found


def frame_of(data: bytes) -> Frame:
    """The one frame that some bytes are."""
    (frame,) = feed(FrameReader(FrameLimits()), data)
    return frame


def frame(message: Message) -> Frame:
    """A message's frame as it is received."""
    return frame_of(joined(encode(message)))


def front(secret: bytes = SECRET, limits: FrameLimits | None = None) -> Connection:
    """A server's end."""
    return Connection("front", secret, FRONT_NONCE, limits)


def worker(secret: bytes = SECRET, limits: FrameLimits | None = None) -> Connection:
    """A worker's end."""
    return Connection("worker", secret, WORKER_NONCE, limits)


class Decoding(FrameReader):
    """Decodes frames while their views live."""

    def received(self, size: int) -> list[Any]:
        return [decode(frame) for frame in self.frames(size)]


class Pair:
    """Two ends that have proven themselves to each other.

    Args:
        limits: Of frames.
        segment_bytes: Of each segment of the memory that they share; 0 for none.
    """

    def __init__(self, limits: FrameLimits | None = None, segment_bytes: int = 0) -> None:
        self.memory = bytearray(2 * segment_bytes)
        first, second = (
            memoryview(self.memory)[:segment_bytes],
            memoryview(self.memory)[segment_bytes:],
        )
        self.front = Connection(
            *("front", SECRET, FRONT_NONCE, limits),
            memory=Memory(first, second) if segment_bytes else None,
        )
        self.worker = Connection(
            *("worker", SECRET, WORKER_NONCE, limits),
            memory=Memory(second, first) if segment_bytes else None,
        )
        feed(self.worker, joined(self.front.opening()))
        feed(self.front, joined(self.worker.take_outgoing()))
        feed(self.worker, joined(self.front.take_outgoing()))

    def ask(self, *messages: Message) -> list[Message]:
        """What the worker takes of these messages of the front."""
        return feed(self.worker, b"".join(joined(self.front.send(each)) for each in messages))

    def answer(self, *messages: Message) -> list[Message]:
        """What the front takes of these messages of the worker."""
        return feed(self.front, b"".join(joined(self.worker.send(each)) for each in messages))


def ready_pair(limits: FrameLimits | None = None, segment_bytes: int = 0) -> Pair:
    """Two ends between which batches may run."""
    pair = Pair(limits, segment_bytes)
    pair.answer(Cards((CARD,), 0), Ready())
    return pair
