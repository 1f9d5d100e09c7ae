"""Workers that speak the batching protocol's bytes, against the real engine and executor."""

from __future__ import annotations

import asyncio
import itertools
import socket
import tempfile
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import msgspec
import pytest
import uvloop

from headrace.call import Call, Failure, Outcome, Payload, Value
from headrace.card import ModelCard
from headrace.clock import NEVER, system_clock
from headrace.config import Batching, Limits
from headrace.engine import Engine, Ticket
from headrace.executors import PullExecutor
from headrace.executors.pull import (
    ASK_TIMEOUT_S,
    JOB_OVERHEAD_BYTES,
    MAX_STRANGERS,
    NOBODY,
    JobSizes,
)
from headrace.jobs import ASK, JobFrames, JobResults, read_jobs, write_jobs, write_results
from headrace.listener import bind_tcp, bind_unix
from headrace.workers.sockets import DEAD_AFTER_S

WAIT_S = 20.0
"""For what should happen soon; a busy machine may be late."""
TEXT = "text/plain"

RUNNERS: dict[str, Callable[[Coroutine[Any, Any, None]], None]] = {
    "asyncio": asyncio.run,
    "uvloop": uvloop.run,
}


@pytest.fixture(params=RUNNERS)
def run(request: pytest.FixtureRequest) -> Callable[[Coroutine[Any, Any, None]], None]:
    return RUNNERS[request.param]


@pytest.fixture
def folder() -> Iterator[Path]:
    """One whose path is short enough for Unix sockets."""
    with tempfile.TemporaryDirectory(prefix="hr-") as name:
        yield Path(name)


class Job:
    """A sink for one call."""

    def __init__(self, on_part: Callable[[], None] = lambda: None) -> None:
        self.ticket: Ticket | None = None
        self._done: asyncio.Future[Outcome] = asyncio.get_running_loop().create_future()
        self._on_part = on_part

    def part(self, index: int, outcome: Outcome, last: bool) -> None:
        assert (index, last) == (0, True)
        self._done.set_result(outcome)
        self._on_part()

    def cancel(self) -> None:
        assert self.ticket is not None
        self.ticket.cancel()

    @property
    def is_done(self) -> bool:
        return self._done.done()

    async def outcome(self) -> Outcome:
        async with asyncio.timeout(WAIT_S):
            return await self._done

    async def value(self) -> bytes:
        outcome = await self.outcome()
        assert isinstance(outcome, Value), outcome
        return outcome.body

    async def code(self) -> str:
        outcome = await self.outcome()
        assert isinstance(outcome, Failure), outcome
        return outcome.code


class Worker:
    """The other end, which does what a test says and nothing else."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.ids: list[str] = []
        self._reader = reader
        self._writer = writer
        self._frames = JobFrames()
        self._messages: list[bytes] = []

    def send(self, data: bytes) -> None:
        self._writer.write(data)

    async def send_in_pieces(self, data: bytes, size: int = 1) -> None:
        for at in range(0, len(data), size):
            self._writer.write(data[at : at + size])
            await self._writer.drain()
            await asyncio.sleep(0)

    async def jobs(self) -> list[bytes]:
        """The bodies of the next batch."""
        async with asyncio.timeout(WAIT_S):
            while not self._messages:
                data = await self._reader.read(1 << 16)
                if not data:
                    raise ConnectionError("the service ended the connection")
                self._messages += self._frames.feed(data)
        jobs = read_jobs(self._messages.pop(0))
        self.ids = list(jobs)
        return list(jobs.values())

    def answer(self, *bodies: bytes) -> None:
        self.send(self.results(*bodies))

    def results(self, *bodies: bytes) -> bytes:
        return write_results(JobResults(dict(zip(self.ids, bodies, strict=True))))

    async def echo(self) -> list[bytes]:
        """Answer the next batch with its own bodies."""
        bodies = await self.jobs()
        self.answer(*bodies)
        return bodies

    async def is_dropped(self) -> bool:
        async with asyncio.timeout(WAIT_S):
            try:
                return await self._reader.read(1) == b""
            except ConnectionError:
                return True

    def has_nothing_more(self) -> bool:
        return not self._messages and self._frames.is_between

    def close(self) -> None:
        self._writer.close()


class Service:
    """An engine and its executor, behind a socket of either kind."""

    def __init__(self, listener: socket.socket, engine: Engine, executor: PullExecutor) -> None:
        self.engine = engine
        self.executor = executor
        self._listener = listener
        self._workers: list[Worker] = []

    def submit(
        self, body: bytes, within_s: float = NEVER, on_part: Callable[[], None] = lambda: None
    ) -> Job:
        job = Job(on_part)
        payload = Payload(body=body, input_type=TEXT, output_type=TEXT)
        call = Call(payloads=(payload,), deadline=system_clock() + within_s)
        job.ticket = self.engine.submit(call, job)
        return job

    async def connect(self) -> Worker:
        address = self._listener.getsockname()
        if self._listener.family == socket.AF_UNIX:
            worker = Worker(*await asyncio.open_unix_connection(address))
        else:
            worker = Worker(*await asyncio.open_connection(*address[:2]))
        self._workers.append(worker)
        return worker

    async def worker(self) -> Worker:
        """One that has asked for work."""
        before = self.engine.ready_replicas
        worker = await self.connect()
        worker.send(ASK)
        await self.until(lambda: self.engine.ready_replicas > before)
        return worker

    async def until(self, is_true: Callable[[], bool]) -> None:
        async with asyncio.timeout(WAIT_S):
            while not is_true():  # noqa: ASYNC110  # the engine tells nobody
                await asyncio.sleep(0.002)

    def close(self) -> None:
        for worker in self._workers:
            worker.close()


@asynccontextmanager
async def serving(
    where: Path | None = None,
    *,
    size: int = 32,
    delay_s: float = 0.0,
    max_bytes: float = NEVER,
    predict_timeout_s: float = 60.0,
    max_results_bytes: int = 1 << 20,
    ask_timeout_s: float = ASK_TIMEOUT_S,
) -> AsyncIterator[Service]:
    """A service at a Unix socket in a folder, or on TCP."""
    listener = bind_tcp("127.0.0.1", 0) if where is None else bind_unix(str(where / "s"))
    batching = Batching(max_batch_size=size, max_batch_delay_s=delay_s, max_batch_cost=max_bytes)
    card = ModelCard(
        name="jobs",
        version="1",
        description="",
        request_schema={},
        response_schema={},
        reads=(TEXT,),
        writes=(TEXT,),
        examples=(),
        batching=batching,
        idempotent=True,
    )
    executor = PullExecutor(card, listener, max_results_bytes, ask_timeout_s)
    engine = Engine(
        card,
        executor,
        loop=asyncio.get_running_loop(),
        limits=Limits(predict_timeout_s=predict_timeout_s),
        sizing=JobSizes(),
    )
    service = Service(listener, engine, executor)
    engine.open()
    try:
        yield service
        assert engine.queued_items == engine.running_items == 0
    finally:
        service.close()
        engine.close()
        assert engine.join(0.0)
        await asyncio.sleep(0.01)  # for what both loops do behind a close


@pytest.mark.parametrize("kind", ["unix", "tcp"])
def test_a_worker_asks_gets_jobs_in_order_and_answers_them(
    run: Callable[[Coroutine[Any, Any, None]], None], folder: Path, kind: str
) -> None:
    async def main() -> None:
        async with serving(folder if kind == "unix" else None, size=3) as service:
            worker = await service.worker()
            for _ in range(3):
                jobs = [service.submit(body) for body in (b"a", b"b", b"c")]
                assert await worker.jobs() == [b"a", b"b", b"c"]
                worker.answer(b"A", b"", b"C")
                assert [await job.value() for job in jobs] == [b"A", b"", b"C"]
            assert all(len(name) == 36 for name in worker.ids)

    run(main())


def test_results_belong_to_their_ids_in_whatever_order_and_of_whatever_kind(
    run: Callable[[Coroutine[Any, Any, None]], None],
) -> None:
    async def main() -> None:
        async with serving() as service:
            worker = await service.worker()
            jobs = [service.submit(body) for body in (b"a", b"b", b"c", b"d")]
            await worker.jobs()
            a, b, c, d = worker.ids
            answer = {
                "failed_ids": c,
                d: b"four",
                b: "zwei",
                "error_ids": b + c,
                a: "eins",
                c: b"three",
            }
            packed = msgspec.msgpack.encode(answer)
            worker.send(len(packed).to_bytes(4, "big") + packed)
            outcomes = [await job.outcome() for job in jobs]
            assert outcomes == [
                Value(b"eins", TEXT, 200),
                Value(b"zwei", TEXT, 422),
                Value(b"three", TEXT, 500),
                Value(b"four", TEXT, 200),
            ]
            assert service.engine.counts.items == {"ok": 2, "item_error": 2}

    run(main())


@pytest.mark.parametrize("size", [1, 3])
def test_a_worker_may_say_everything_in_pieces(
    run: Callable[[Coroutine[Any, Any, None]], None], size: int
) -> None:
    async def main() -> None:
        async with serving() as service:
            worker = await service.connect()
            await worker.send_in_pieces(ASK, size)
            for body in (b"one", b"two"):
                job = service.submit(body)
                assert await worker.jobs() == [body]
                await worker.send_in_pieces(worker.results(body.upper()), size)
                assert await job.value() == body.upper()

    run(main())


def test_a_worker_that_asks_again_is_heard_once(
    run: Callable[[Coroutine[Any, Any, None]], None],
) -> None:
    async def main() -> None:
        async with serving() as service:
            worker = await service.connect()
            worker.send(ASK * 2 + ASK[:3])
            job = service.submit(b"a")
            await worker.jobs()
            worker.send(ASK[3:] + ASK)
            worker.answer(b"A")
            assert await job.value() == b"A"
            worker.send(ASK)
            job = service.submit(b"b")
            assert await worker.echo() == [b"b"]
            assert await job.value() == b"b"

    run(main())


def _with(ids: list[str], **more: Any) -> dict[str, Any]:
    return {**dict.fromkeys(ids, b"x"), **more}


def _message(value: Any) -> bytes:
    packed = msgspec.msgpack.encode(value)
    return len(packed).to_bytes(4, "big") + packed


BROKEN: Mapping[str, Callable[[list[str]], bytes]] = {
    "a job is missing": lambda ids: _message({ids[0]: b"x"}),
    "none is there": lambda ids: _message({}),
    "one is too many": lambda ids: _message(_with(ids, **{"0" * 36: b"x"})),
    "another is there": lambda ids: _message({ids[0]: b"x", "0" * 36: b"x"}),
    "a list": lambda ids: _message([b"x", b"x"]),
    "no msgpack": lambda ids: (3).to_bytes(4, "big") + b"\xc1\xc1\xc1",
    "a number as result": lambda ids: _message(_with(ids[:1], **{ids[1]: 7})),
    "errors of others": lambda ids: _message(_with(ids, error_ids="0" * 36)),
    "failed without error": lambda ids: _message(_with(ids, failed_ids=ids[0])),
    "a negative length": lambda ids: b"\xff\xff\xff\xff",
    "a length without end": lambda ids: b"\x7f\xff\xff\xff",
    "one over the bound": lambda ids: _message(_with(ids[:1], **{ids[1]: bytes(1 << 20)})),
    "HTTP": lambda ids: b"HTTP/1.1 200 OK\r\n\r\n",
}


@pytest.mark.parametrize("what", BROKEN)
def test_a_worker_that_breaks_the_protocol_is_dropped_and_its_jobs_run_alone_elsewhere(
    run: Callable[[Coroutine[Any, Any, None]], None], what: str
) -> None:
    async def main() -> None:
        async with serving(size=2) as service:
            bad = await service.worker()
            jobs = [service.submit(body) for body in (b"a", b"b", b"c", b"d")]
            assert await bad.jobs() == [b"a", b"b"]
            good = await service.worker()
            bad.send(BROKEN[what](bad.ids))
            assert await bad.is_dropped()
            seen = [await good.echo() for _ in range(3)]
            # What it had not got runs as it would have: c and d bear no suspicion.
            assert sorted(seen) == [[b"a"], [b"b"], [b"c", b"d"]]
            assert [await job.value() for job in jobs] == [b"a", b"b", b"c", b"d"]
            assert service.engine.counts.restarts == {"protocol": 1}

    run(main())


def test_a_job_that_breaks_every_worker_fails_and_its_mates_do_not(
    run: Callable[[Coroutine[Any, Any, None]], None],
) -> None:
    async def main() -> None:
        async with serving() as service:
            jobs = {body: service.submit(body) for body in (b"good", b"evil", b"fine")}
            breaches = 0
            while not all(job.is_done for job in jobs.values()):
                worker = await service.worker()
                while not all(job.is_done for job in jobs.values()):
                    bodies = await worker.jobs()
                    if b"evil" in bodies:
                        breaches += 1
                        worker.send(b"\xff\xff\xff\xff")
                        assert await worker.is_dropped()
                        break
                    worker.answer(*bodies)
                    await asyncio.gather(*(jobs[body].value() for body in bodies))
                await asyncio.sleep(0.01)
            assert breaches == 2
            assert await jobs[b"evil"].code() == "replica_lost"
            assert await jobs[b"good"].value() == b"good"
            assert await jobs[b"fine"].value() == b"fine"

    run(main())


def test_results_that_nobody_asked_for_drop_the_worker(
    run: Callable[[Coroutine[Any, Any, None]], None],
) -> None:
    async def main() -> None:
        async with serving() as service:
            worker = await service.worker()
            worker.ids = ["0" * 36]
            worker.answer(b"x")
            assert await worker.is_dropped()
            job = service.submit(b"a")
            other = await service.worker()
            await other.echo()
            assert await job.value() == b"a"

    run(main())


def test_an_answer_counts_though_nonsense_came_with_it(
    run: Callable[[Coroutine[Any, Any, None]], None],
) -> None:
    async def main() -> None:
        async with serving() as service:
            worker = await service.worker()
            job = service.submit(b"a")
            await worker.jobs()
            worker.send(worker.results(b"A") + b"\xff\xff\xff\xff")
            assert await job.value() == b"A"
            assert await worker.is_dropped()

    run(main())


def test_the_jobs_of_a_worker_that_dies_go_to_another_at_once_and_together(
    run: Callable[[Coroutine[Any, Any, None]], None],
) -> None:
    async def main() -> None:
        async with serving(size=3) as service:
            worker = await service.worker()
            jobs = [service.submit(body) for body in (b"a", b"b", b"c")]
            await worker.jobs()
            other = await service.worker()
            await worker.send_in_pieces(worker.results(b"A", b"B", b"C")[:-1], 10)
            worker.close()
            assert await other.echo() == [b"a", b"b", b"c"]
            assert [await job.value() for job in jobs] == [b"a", b"b", b"c"]
            assert service.engine.counts.restarts == {"disconnected": 1}

    run(main())


def test_what_waited_behind_a_batch_goes_to_another_unsuspected(
    run: Callable[[Coroutine[Any, Any, None]], None],
) -> None:
    async def main() -> None:
        async with serving(size=2) as service:
            jobs = [service.submit(bytes([n])) for n in range(4)]
            for _ in range(3):  # more deaths than any job could be forgiven
                worker = await service.worker()
                first = await worker.jobs()
                worker.close()
                await service.until(lambda: service.engine.ready_replicas == 0)
            assert first == [b"\0"], "a suspect, alone"
            assert await jobs[0].code() == "replica_lost"
            worker = await service.worker()
            seen = [await worker.echo(), await worker.echo()]
            assert sorted(seen) == [[b"\1"], [b"\2", b"\3"]]
            assert [await job.value() for job in jobs[1:]] == [b"\1", b"\2", b"\3"]

    run(main())


def test_expired_and_cancelled_jobs_are_never_sent(
    run: Callable[[Coroutine[Any, Any, None]], None],
) -> None:
    async def main() -> None:
        async with serving(size=2) as service:
            worker = await service.worker()
            first = [service.submit(b"a"), service.submit(b"b")]
            await worker.jobs()
            behind = [service.submit(b"c", within_s=0.05), service.submit(b"d")]
            waiting = [service.submit(b"e", within_s=0.05), service.submit(b"f")]
            assert await behind[0].code() == await waiting[0].code() == "deadline_exceeded"
            behind[1].cancel()
            worker.answer(b"A", b"B")
            assert [await job.value() for job in first] == [b"A", b"B"]
            assert await worker.echo() == [b"f"]
            assert await waiting[1].value() == b"f"
            assert worker.has_nothing_more()
            assert not behind[1].is_done

    run(main())


def test_an_answer_that_comes_too_late_is_nobodys_and_the_worker_stays(
    run: Callable[[Coroutine[Any, Any, None]], None],
) -> None:
    async def main() -> None:
        async with serving() as service:
            worker = await service.worker()
            late = service.submit(b"a", within_s=0.05)
            await worker.jobs()
            assert await late.code() == "deadline_exceeded"
            worker.answer(b"A")
            job = service.submit(b"b")
            assert await worker.echo() == [b"b"]
            assert await job.value() == b"b"
            assert service.engine.counts.restarts == {}

    run(main())


def test_a_batch_is_sent_once_though_it_fills_while_answers_are_given(
    run: Callable[[Coroutine[Any, Any, None]], None],
) -> None:
    async def main() -> None:
        async with serving(size=2) as service:
            worker = await service.worker()
            more: list[Job] = []

            def ask_again() -> None:
                more.append(service.submit(b"c"))

            jobs = [
                service.submit(b"a", on_part=ask_again),
                service.submit(b"b", on_part=ask_again),
            ]
            await worker.echo()
            for job in jobs:
                await job.outcome()
            assert await worker.echo() == [b"c", b"c"]
            assert [await job.value() for job in more] == [b"c", b"c"]
            last = service.submit(b"d")
            assert await worker.echo() == [b"d"]
            assert await last.value() == b"d"

    run(main())


def test_a_worker_has_its_next_batch_before_the_answers_are_given(
    run: Callable[[Coroutine[Any, Any, None]], None],
) -> None:
    async def main() -> None:
        async with serving(size=1) as service:
            worker = await service.worker()
            started: list[Any] = []

            def note() -> None:
                under_way = service.engine._batcher._fleet.under_way()
                started.extend(batch.started_at for batch, _ in under_way)

            first = service.submit(b"a", on_part=note)
            await worker.jobs()
            second = service.submit(b"b")
            await service.until(lambda: service.engine.queued_items == 0)
            worker.answer(b"A")
            await first.value()
            assert len(started) == 2 and None not in started
            await worker.echo()
            await second.value()

    run(main())


def test_a_worker_that_hangs_is_dropped_and_its_jobs_run_elsewhere(
    run: Callable[[Coroutine[Any, Any, None]], None],
) -> None:
    async def main() -> None:
        async with serving(predict_timeout_s=0.2) as service:
            hung = await service.worker()
            jobs = [service.submit(b"a"), service.submit(b"b")]
            await hung.jobs()
            assert await hung.is_dropped()
            worker = await service.worker()
            assert sorted([await worker.echo(), await worker.echo()]) == [[b"a"], [b"b"]]
            assert sorted([await job.value() for job in jobs]) == [b"a", b"b"]
            assert service.engine.counts.restarts == {"hung": 1}

    run(main())


def test_without_a_worker_jobs_wait_for_one_as_long_as_they_may(
    run: Callable[[Coroutine[Any, Any, None]], None],
) -> None:
    async def main() -> None:
        async with serving() as service:
            assert service.engine.reason == NOBODY
            short, long = service.submit(b"a", within_s=0.05), service.submit(b"b")
            assert await short.code() == "deadline_exceeded"
            worker = await service.worker()
            assert await worker.echo() == [b"b"]
            assert await long.value() == b"b"
            worker.close()
            await service.until(lambda: service.engine.ready_replicas == 0)
            assert service.engine.reason == NOBODY
            again = service.submit(b"c")
            assert await (await service.worker()).echo() == [b"c"]
            assert await again.value() == b"c"

    run(main())


def test_jobs_that_wait_for_company_outlive_the_idle_worker(
    run: Callable[[Coroutine[Any, Any, None]], None],
) -> None:
    async def main() -> None:
        async with serving(delay_s=5.0, size=2) as service:
            worker = await service.worker()
            job = service.submit(b"a")
            await asyncio.sleep(0.02)
            assert service.engine.queued_items == 1
            worker.close()
            await service.until(lambda: service.engine.ready_replicas == 0)
            other = await service.worker()
            mate = service.submit(b"b")
            assert await other.echo() == [b"a", b"b"]
            assert [await job.value(), await mate.value()] == [b"a", b"b"]

    run(main())


def test_workers_share_the_jobs_and_one_that_leaves_idle_is_forgotten(
    run: Callable[[Coroutine[Any, Any, None]], None],
) -> None:
    async def main() -> None:
        async with serving(size=1) as service:
            one, two = await service.worker(), await service.worker()
            jobs = [service.submit(b"a"), service.submit(b"b")]
            assert sorted(await one.echo() + await two.echo()) == [b"a", b"b"]
            for job in jobs:
                await job.value()
            assert list(service.engine.replicas) == [0, 1]
            two.close()
            await service.until(lambda: list(service.engine.replicas) == [0])
            await service.worker()
            assert list(service.engine.replicas) == [0, 1], "numbers are used again"

    run(main())


@pytest.mark.parametrize("data", [b"", ASK[:3]])
def test_a_connection_that_does_not_ask_gets_no_jobs_and_little_time(
    run: Callable[[Coroutine[Any, Any, None]], None], data: bytes
) -> None:
    async def main() -> None:
        async with serving(ask_timeout_s=0.1) as service:
            worker = await service.worker()
            silent = await service.connect()
            silent.send(data)
            assert await silent.is_dropped()
            job = service.submit(b"a")
            assert await worker.echo() == [b"a"], "who has asked may be silent for longer"
            assert await job.value() == b"a"
            assert service.engine.counts.restarts == {}

    run(main())


@pytest.mark.parametrize("data", [b"GET / HTTP/1.1\r\n\r\n", b"\0\0\0\1\0", b"\xff", b"\0\1"])
def test_who_says_something_else_first_is_gone_at_once(
    run: Callable[[Coroutine[Any, Any, None]], None], data: bytes
) -> None:
    async def main() -> None:
        async with serving() as service:
            stranger = await service.connect()
            stranger.send(data)
            assert await stranger.is_dropped()
            assert service.engine.replicas.keys() == {0}
            assert service.engine.ready_replicas == 0

    run(main())


def test_connections_that_do_not_ask_are_bounded_and_let_go(
    run: Callable[[Coroutine[Any, Any, None]], None],
) -> None:
    async def main() -> None:
        async with serving() as service:
            await service.worker()
            for _ in range(2):
                strangers = [await service.connect() for _ in range(MAX_STRANGERS)]
                assert await (await service.connect()).is_dropped()
                strangers[0].send(ASK)
                await service.until(lambda: service.engine.ready_replicas == 2)
                for stranger in strangers:
                    stranger.close()
                await service.until(lambda: len(service.executor._connected) == 1)
            await service.worker()

    run(main())


def test_a_tcp_worker_whose_host_is_gone_is_noticed(
    run: Callable[[Coroutine[Any, Any, None]], None],
) -> None:
    async def main() -> None:
        async with serving() as service:
            await service.worker()
            (puller,) = service.executor._connected
            sock = puller._tcp
            assert sock is not None
            assert sock.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE) == 1
            timeout_ms = sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT)
            assert timeout_ms == 1000 * DEAD_AFTER_S
            assert sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY) == 1

    run(main())


def test_close_ends_what_runs_and_every_connection(
    run: Callable[[Coroutine[Any, Any, None]], None],
) -> None:
    async def main() -> None:
        async with serving(size=1) as service:
            worker, silent = await service.worker(), await service.connect()
            jobs = [service.submit(bytes([n])) for n in range(4)]
            await worker.jobs()
            worker.send(worker.results(b"half")[:-1])
            service.engine.close()
            assert [await job.code() for job in jobs] == ["draining"] * 4
            assert await worker.is_dropped()
            assert await silent.is_dropped()
            with pytest.raises(OSError):
                await service.connect()

    run(main())


def test_a_drain_waits_for_what_workers_have(
    run: Callable[[Coroutine[Any, Any, None]], None],
) -> None:
    async def main() -> None:
        async with serving(size=1) as service:
            jobs = [service.submit(b"a"), service.submit(b"b")]
            empty = asyncio.Event()
            service.engine.drain(empty.set)
            worker = await service.worker()
            await worker.echo()
            assert not empty.is_set()
            await worker.echo()
            assert [await job.value() for job in jobs] == [b"a", b"b"]
            async with asyncio.timeout(WAIT_S):
                await empty.wait()

    run(main())


@pytest.mark.parametrize("body_bytes", [0, 1, 255, 256, 65535, 65536])
def test_a_jobs_cost_is_what_it_adds_to_the_message(body_bytes: int) -> None:
    payload = Payload(body=bytes(body_bytes), input_type=TEXT, output_type=TEXT)
    ids = (f"{n:036}" for n in itertools.count())
    sizes = [len(write_jobs({next(ids): payload.body for _ in range(n)})) for n in (1, 2)]
    cost = JobSizes().cost(payload)
    assert cost - 3 <= sizes[1] - sizes[0] <= cost
    assert JOB_OVERHEAD_BYTES == cost - body_bytes


def test_a_batch_is_bounded_in_bytes_and_a_larger_job_goes_alone(
    run: Callable[[Coroutine[Any, Any, None]], None],
) -> None:
    async def main() -> None:
        async with serving(max_bytes=3 * (100 + JOB_OVERHEAD_BYTES)) as service:
            sizes = [100, 100, 100, 100, 1000, 0, 0, 0, 0, 0, 0, 0, 0, 0]
            jobs = [service.submit(bytes(size)) for size in sizes]
            worker = await service.worker()
            seen: list[list[int]] = []
            while sum(map(len, seen)) < len(jobs):
                seen.append([len(body) for body in await worker.echo()])
            assert seen == [[100] * 3, [100], [1000], [0] * 9]
            for job in jobs:
                await job.value()

    run(main())
