"""The batching protocol: each end takes what is right however it is cut, and ends for the rest.

The service's end (`PullExecutor`'s connection) hands every item of a batch to the engine once, or
reports the batch lost; it answers nobody twice, and before a connection has asked for work, no more
than that is kept of it. The worker's end (ventu's `BatchProtocol`) answers a batch with one result
a job, which the service's reader takes, or says that the stream is over.

An input is a byte for the end and the form, one for the size of reads, and what the other end says;
in the framed form it is divided into messages whose lengths are right.
"""

from __future__ import annotations

import asyncio
import atexit
import socket
from collections.abc import Sequence
from typing import Any

import msgspec

from headrace.call import Call, Outcome, Payload, Value
from headrace.clock import NEVER
from headrace.config import Batching
from headrace.engine import Engine
from headrace.errors import HeadraceError, ProtocolError
from headrace.executors.pull import Puller, PullExecutor
from headrace.jobs import (
    ASK,
    LENGTH_BYTES,
    JobFrames,
    JobResults,
    read_jobs,
    read_results,
    write_jobs,
    write_results,
)
from tests.unit.ventu.models import Length, Text
from tests.unit.wire.driver import CARD
from ventu import BatchProtocol

MEASURED = ("headrace.jobs", "headrace.executors.pull", "ventu.protocol", "ventu.bodies")
IDS = [f"{number:036x}" for number in range(4)]
MAX_BYTES = 4096
SPLIT = b"\xff\xfe"
TOKENS = (
    *(SPLIT, b"\x00\x00\x00\x00", b"\x81\xd9$" + IDS[0].encode(), b"\xd9$" + IDS[1].encode()),
    *(b"\xa9error_ids\xd9$", b"\xaafailed_ids\xd9$", b"\xc4\x02{}", b'\xc4\x0e{"text": "abc"}'),
    *(b"\x7f\xff\xff\xff", b"\xff\xff\xff\xff", b"\x82", b"\x81\xa4text\xa1a"),
)


def check(data: bytes) -> None:
    if len(data) < 2:
        return
    form, size = data[0], data[1] + 1
    parts = data[2:].split(SPLIT)
    if form & 2:
        parts = [len(part).to_bytes(4, "big") + part for part in parts]
    if form & 1:
        parts = [ASK, *parts] if form & 4 else parts
        whole = _loop.run_until_complete(served(parts, 1 << 20))
        assert _loop.run_until_complete(served(parts, size)) == whole
    else:
        assert worked(parts, 1 << 20, bool(form & 4)) == worked(parts, size, bool(form & 4))


# The service's end


class Transport(asyncio.Transport):
    """Keeps what is written."""

    def __init__(self) -> None:
        super().__init__()
        self.sent = b""
        self.is_over = False

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        return _socket if name == "socket" else default

    def write(self, data: Any) -> None:
        if not self.is_over:
            self.sent += bytes(data)

    def abort(self) -> None:
        self.is_over = True

    def close(self) -> None:
        self.is_over = True


class Executor(PullExecutor):
    """Listens nowhere, and counts its jobs from 0."""

    def __init__(self) -> None:
        super().__init__(_CARD, _socket, MAX_BYTES)
        self._id_prefix = IDS[0][:-12]

    async def _listen(self) -> None:
        pass


class Sink:
    """Is told the outcome of its item, once."""

    def __init__(self) -> None:
        self.outcome: Any = None

    def part(self, index: int, outcome: Outcome, last: bool) -> None:
        assert (index, last) == (0, True) and self.outcome is None
        if isinstance(outcome, Value):
            self.outcome = outcome.status, outcome.body
        else:
            self.outcome = outcome.code


async def served(parts: Sequence[bytes], size: int) -> Any:
    """What becomes of two batches of two, when a worker says this; each part in pieces at once."""
    executor = Executor()
    engine = Engine(_CARD, executor, loop=_loop)
    engine.open()
    sinks = [Sink() for _ in IDS]
    for number, sink in enumerate(sinks):
        body = b"%d" % number
        engine.submit(Call((Payload(body=body, input_type="a/b", output_type="a/b"),), NEVER), sink)
    puller, transport = Puller(executor, MAX_BYTES), Transport()
    puller.connection_made(transport)
    for part in parts:
        for at in range(0, len(part), size):
            if not transport.is_over:
                puller.data_received(part[at : at + size])
        await _pass()
    found = [sink.outcome for sink in sinks]
    read_all_jobs(transport.sent)
    assert len(puller._opening) <= LENGTH_BYTES
    puller.connection_lost(None)
    await _pass()
    engine.close()
    executor.close()
    await _pass()
    assert all(sink.outcome is not None for sink in sinks)
    return found, transport.sent, transport.is_over


async def _pass() -> None:
    for _ in range(4):
        await asyncio.sleep(0)


def read_all_jobs(sent: bytes) -> None:
    """What was sent to the worker is whole batches, and no job is in two of them."""
    jobs = [job for message in JobFrames().feed(sent) for job in read_jobs(message)]
    assert len(jobs) == len(set(jobs)) <= len(IDS)


# The worker's end


class Conn:
    """A connection whose other end has said its part, and closed."""

    def __init__(self, data: bytes, size: int) -> None:
        self.sent = b""
        self._data = data
        self._size = size

    def recv(self, most: int) -> bytes:
        assert 0 < most <= 1 << 20
        size = min(most, self._size)
        found, self._data = self._data[:size], self._data[size:]
        return found

    def sendall(self, data: bytes) -> None:
        self.sent += data

    def settimeout(self, seconds: float | None) -> None:
        pass


def worked(parts: Sequence[bytes], size: int, use_msgpack: bool) -> Any:
    """What a worker answers to this, batch by batch, and why it ends."""
    worker = BatchProtocol(_lengths, Text, Length, use_msgpack)
    conn: Any = Conn(b"".join(parts), size)
    found: list[Any] = []
    while True:
        jobs = next_jobs(conn._data)
        conn.sent = b""
        try:
            worker.process(conn)
        except (EOFError, HeadraceError) as error:
            return found, type(error).__name__, str(error)
        (message,) = JobFrames().feed(conn.sent)
        results = read_results(message, jobs)
        codec = msgspec.msgpack if use_msgpack else msgspec.json
        for body in results.bodies.values():
            codec.decode(body)
        again = write_results(results, as_text=not use_msgpack)
        assert read_results(again[LENGTH_BYTES:], jobs) == results
        found.append(results)


def next_jobs(data: bytes) -> Sequence[str]:
    """The ids of the batch that a stream begins with, if it does."""
    size = int.from_bytes(data[:LENGTH_BYTES], "big", signed=True)
    try:
        jobs = read_jobs(data[LENGTH_BYTES : LENGTH_BYTES + max(size, 0)])
    except ProtocolError:
        return ()
    assert read_jobs(write_jobs(jobs)[LENGTH_BYTES:]) == jobs
    return list(jobs)


def _lengths(batch: list[Text]) -> list[Any]:
    if any(request.text == "raise" for request in batch):
        raise LookupError
    return [{"length": len(request.text)} for request in batch]


class _Socket:
    family = socket.AF_UNIX

    def close(self) -> None:
        pass


_socket: Any = _Socket()
_CARD = msgspec.structs.replace(CARD, batching=Batching(max_batch_size=2))
_loop = asyncio.new_event_loop()
atexit.register(_loop.close)


def seeds() -> list[bytes]:
    bodies = {IDS[0]: b'{"text": "abc"}', IDS[1]: b'{"text": 1}', IDS[2]: b"{", IDS[3]: b""}
    packed = {IDS[0]: b"\x81\xa4text\xa1a", IDS[1]: b"\x81\xa4text\xa5raise"}
    first, second = (
        write_results(JobResults(dict.fromkeys(ids, b"{}"))) for ids in (IDS[:2], IDS[2:])
    )
    failed = write_results(
        JobResults(dict.fromkeys(IDS[:2], b"e"), frozenset(IDS[:2]), frozenset(IDS[:1])),
        as_text=True,
    )
    return [
        b"\x00\x05" + write_jobs(bodies) * 2,
        b"\x04\x05" + write_jobs(packed),
        b"\x02\x05" + write_jobs(bodies)[4:] + SPLIT + write_jobs({IDS[0]: b'{"text":"a"}'})[4:],
        b"\x06\x05" + write_jobs(packed)[4:],
        b"\x05\x07" + first + second,
        b"\x07\x07" + first[4:] + SPLIT + second[4:],
        b"\x07\x07" + failed[4:],
        b"\x05\x01" + failed + SPLIT + second,
        b"\x01\x01" + ASK + ASK + first,
        b"\x01\x01GET / HTTP/1.1\r\n\r\n",
        b"\x00\x01\xff\xff\xff\xff",
    ]
