"""What a request costs between the engine and the model's predict, with no HTTP.

    python benchmarks/wire.py                       # all of it
    python benchmarks/wire.py --only json --size 32 --seconds 5

The front is a `Peer` on uvloop, which gives its worker the next batch as soon as one has ended;
the worker is the `Loop` of worker processes, in a process of its own, with a model that echoes.
CPU is user and system time a request, of each. With --profile, what the front or the worker spends
it on, by cProfile.
"""

from __future__ import annotations

import argparse
import asyncio
import cProfile
import os
import socket
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar, cast

import uvloop

from headrace import Batching, Model
from headrace.batching import Batch, Cut, Item
from headrace.call import Outcome, Payload, Value
from headrace.executors.socket import Peer, SocketExecutor
from headrace.lane import Lane
from headrace.replica import Replica
from headrace.wire import Cards, Connection, Memory, Ready, Setup, Welcome
from headrace.workers.channel import Channel
from headrace.workers.heap import keep_freed_memory
from headrace.workers.loop import Job, Loop
from headrace.workers.mark import Mark, create_memory
from headrace.workers.memory import SharedMemory, create_segments

BODY = b'{"id": 7, "text": "water to the wheel", "values": [0.25, 0.5, 0.75, 1.0]}'
SECRET = b"of a benchmark"


class Echo(Model):
    """Answers what it was sent."""

    batching: ClassVar = Batching(max_batch_size=1024)

    def predict(self, batch: list[Any]) -> list[Any]:
        return batch


class Bytes(Model):
    """Answers the bytes that it was sent."""

    batching: ClassVar = Batching(max_batch_size=1024)

    def predict(self, batch: list[bytes]) -> list[bytes]:
        return batch


CASES: dict[str, tuple[type[Model], str, bytes]] = {
    "json": (Echo, "application/json", BODY),
    "bytes": (Bytes, "application/octet-stream", BODY),
    "large": (Bytes, "application/octet-stream", bytes(600_000)),
}


def work(sock: socket.socket, model: Model, memory: Memory | None, profile: bool) -> None:
    """Be the worker, until the front hangs up."""
    channel = Channel(sock, Connection("worker", SECRET, os.urandom(32), memory=memory))
    mark = Mark(create_memory("mark"))
    replica = Replica(model, mark=mark.replica_slots)
    while not any(isinstance(m, Welcome) for m in channel.receive() or ()):
        pass
    channel.put(Cards((replica.card,), 0))
    replica.load()
    channel.put(Ready())
    loop = Loop(channel, Lane[Job](replica), mark)
    if not profile:
        loop.serve()
        return
    profiler = cProfile.Profile()
    profiler.runcall(loop.serve)
    profiler.print_stats("tottime")


class Front(SocketExecutor):
    """The engine's part and the executor's: one batch after another."""

    def __init__(self, media_type: str, body: bytes, size: int, slots: int) -> None:
        super().__init__()
        self._payload = Payload(body=body, input_type=media_type, output_type=media_type)
        self._expected = Value(body, media_type) if media_type != "application/json" else None
        self._size, self._slots, self._number = size, slots, 0
        self.ready = asyncio.get_running_loop().create_future()
        self.over = asyncio.get_running_loop().create_future()
        self.answered = 0
        self.is_over = False

    def open(self, events: Any) -> None:
        raise NotImplementedError

    def begin(self) -> None:
        for _ in range(self._slots):
            self._next()

    def _next(self) -> None:
        self._number += 1
        items = [Item(self._payload) for _ in range(self._size)]
        self.start(Batch(self._number, 0, 0, items, Cut.FULL, 0.0))

    # The owner's

    def carded(self, peer: Peer, cards: Cards) -> None:
        pass

    def is_ready(self, peer: Peer) -> None:
        self.ready.set_result(None)

    def broken(self, peer: Peer, reason: str) -> None:
        raise RuntimeError(reason)

    def batch_ended(self, peer: Peer, batch: Batch) -> None:
        pass

    def disconnected(self, peer: Peer, error: Exception | None) -> None:
        self.over.set_result(None)

    # The engine's

    def started(self, batch: Batch) -> None:
        pass

    def parts(self, batch: Batch, outcomes: Sequence[tuple[int, Outcome]]) -> None:
        assert all(type(outcome) is Value for _, outcome in outcomes)
        self.answered += len(outcomes)

    def ended(self, batch: Batch) -> None:
        if not self.is_over:
            self._next()


def cpu_s(pid: int) -> tuple[float, float]:
    """A process's time on processors so far, and the user's part of it.

    All of it is by the scheduler's account, the part by the clock's ticks.
    """
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    user, system = int(fields[11]), int(fields[12])
    total_s = int(Path(f"/proc/{pid}/schedstat").read_text().split()[0]) / 1e9
    return total_s, total_s * user / max(1, user + system)


def measure(name: str, options: argparse.Namespace) -> None:
    """Print what a request of one case costs."""
    model, media_type, body = CASES[name]
    ours, theirs = socket.socketpair()
    fd = create_segments(options.memory * 2**20) if options.memory else None
    pid = os.fork()
    if not pid:
        ours.close()
        try:
            memory = None if fd is None else SharedMemory(fd, "worker").memory
            work(theirs, model(), memory, options.profile == "worker")
        finally:
            os._exit(0)
    theirs.close()
    ours.setblocking(False)
    size = options.size or (4 if name == "large" else 32)

    async def main() -> None:
        front = Front(media_type, body, size, options.slots)
        memory = None if fd is None else SharedMemory(fd, "front").memory
        connection = Connection("front", SECRET, os.urandom(32), setup=Setup(), memory=memory)
        peer = Peer(0, connection, front)
        peer.events = cast(Any, front)
        front.peers[0] = peer
        loop = asyncio.get_running_loop()
        await loop.create_unix_connection(lambda: peer, sock=ours)
        await front.ready
        front.begin()
        await asyncio.sleep(options.seconds / 10)
        profiler = cProfile.Profile()
        if options.profile == "front":
            profiler.enable()
        before = front.answered, *cpu_s(os.getpid()), *cpu_s(pid), time.monotonic()
        await asyncio.sleep(options.seconds)
        after = front.answered, *cpu_s(os.getpid()), *cpu_s(pid), time.monotonic()
        answered, *seconds, took_s = (b - a for a, b in zip(before, after, strict=True))
        if options.profile == "front":
            profiler.disable()
            profiler.print_stats("tottime")
        front.is_over = True
        await asyncio.sleep(0.1)
        peer.abort()
        await front.over
        print(
            f"{name}, batches of {size}: CPU a request:"
            " front {:.2f} us, {:.2f} of it the user's; worker {:.2f} us, {:.2f} of it".format(
                *(1e6 * each / answered for each in seconds)
            ),
            f"({answered / took_s:.0f} requests/s)",
        )

    uvloop.run(main())
    os.waitpid(pid, 0)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", choices=list(CASES))
    parser.add_argument("--size", type=int, default=0, help="items a batch")
    parser.add_argument("--slots", type=int, default=1, help="batches at once")
    parser.add_argument("--memory", type=int, default=64, help="MiB of each segment")
    parser.add_argument("--seconds", type=float, default=3.0)
    parser.add_argument("--profile", choices=["front", "worker"])
    options = parser.parse_args()
    keep_freed_memory()
    for name in CASES:
        if options.only in (None, name):
            measure(name, options)


if __name__ == "__main__":
    main()
