"""Worker processes that come and go: what the engine is told, and that nothing is left behind."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import uvloop

from headrace.batching import Batch, Cut, Item
from headrace.call import Payload, Value
from headrace.config import MIB, Workers
from headrace.executors import Launch, Loss, ProcessExecutor, process
from headrace.workers.start import VARIABLE
from tests.contract.record import WAIT_S, Record
from tests.unit.executors.targets import FOLDER

OBEYING = "tests.unit.executors.targets:Obeying"
TURNING = "tests.unit.executors.targets:Turning"
EXIT, HANG, HANG_UP, BEAR_CHILD, END_SLOWLY = -1, -2, -3, -4, -5
"""Numbers that are orders to that model."""

LOOPS: dict[str, Callable[[], asyncio.AbstractEventLoop]] = {
    "asyncio": asyncio.new_event_loop,
    "uvloop": uvloop.new_event_loop,
}


_OTHERS: set[str] = set()


@pytest.fixture(autouse=True)
def others() -> None:
    """Note the processes that are there already."""
    _OTHERS.clear()
    _OTHERS.update(children_of(os.getpid()))


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv(FOLDER, str(tmp_path))
    return tmp_path


def executor_of(
    target: str = OBEYING, replicas: int = 1, start_timeout_s: float = 60.0, **settings: Any
) -> ProcessExecutor:
    launch = Launch(Workers(**settings), start_timeout_s)
    return ProcessExecutor(target, replicas=replicas, launch=launch)


@asynccontextmanager
async def opened(executor: ProcessExecutor) -> AsyncIterator[Record]:
    """An open executor's record; it is stopped after, and leaves nothing."""
    before = open_files()
    record = Record()
    executor.open(record)
    try:
        yield record
    finally:
        executor.close()
        executor.close()
        assert executor.join(WAIT_S)
        assert executor.join(0.0)
        executor.close()
        assert children() == []
    # The transports close in the loop's next turns.
    for _ in range(3):
        await asyncio.sleep(0)
    assert open_files() == before


def batch_of(number: int, *values: int, replica: int = 0) -> Batch:
    json_type = "application/json"
    items = [
        Item(Payload(body=str(n).encode(), input_type=json_type, output_type=json_type), number=n)
        for n in values
    ]
    return Batch(number, replica, 0, items, Cut.FULL, time.monotonic())


async def ask(executor: ProcessExecutor, record: Record, batch: Batch) -> list[Any]:
    """A batch's answers."""
    executor.start(batch)
    await record.until("ended", batch.id)
    outcomes = record.outcomes(batch)
    return [json.loads(each.body) for each in outcomes.values() if isinstance(each, Value)]


class Ear:
    """Hears what a model whispers in another process."""

    def __init__(self, folder: Path) -> None:
        os.mkfifo(folder / "ear")
        self._fd = os.open(folder / "ear", os.O_RDONLY | os.O_NONBLOCK)
        # Its own writer: without one, the end of the last writer would be the end of all.
        self._writer = os.open(folder / "ear", os.O_WRONLY)
        self.heard = ""

    async def until(self, text: str) -> None:
        while text not in self.heard.split("\n"):
            await readable(self._fd)
            self.heard += os.read(self._fd, 1024).decode()

    def close(self) -> None:
        os.close(self._fd)
        os.close(self._writer)


async def readable(fd: int) -> None:
    loop = asyncio.get_running_loop()
    told = asyncio.Event()
    loop.add_reader(fd, told.set)
    try:
        async with asyncio.timeout(WAIT_S):
            await told.wait()
    finally:
        loop.remove_reader(fd)


@pytest.fixture
def ear(folder: Path) -> Iterator[Ear]:
    ear = Ear(folder)
    yield ear
    ear.close()


def open_files() -> int:
    """How many this process has, but for the one that uvloop keeps in reserve."""
    return sum(name != "/dev/null" for name in map(link_of, os.listdir("/proc/self/fd")))


def link_of(fd: str) -> str:
    try:
        return os.readlink(f"/proc/self/fd/{fd}")
    except OSError:
        return "/dev/null"  # that of the folder which was listed


def children_of(pid: int) -> list[str]:
    """Those included whose end nobody has looked at."""
    return Path(f"/proc/{pid}/task/{pid}/children").read_text().split()


def children() -> list[str]:
    """Those that this test has made: servers of others may live as long as the session."""
    return [child for child in children_of(os.getpid()) if child not in _OTHERS]


def pid_of(executor: ProcessExecutor, number: int = 0) -> int:
    return executor._lives[number].worker.pid


def loss_of(record: Record) -> Loss:
    loss: Loss = record.of("lost")[-1][2]
    return loss


@pytest.mark.parametrize("loop", LOOPS)
def test_a_worker_that_dies_is_replaced_on_either_loop(loop: str) -> None:
    async def main() -> None:
        async with opened(executor := executor_of()) as record:
            await record.until("ready", 0)
            assert await ask(executor, record, batch_of(1, 4, 5)) == [8, 10]
            executor.start(fatal := batch_of(2, 6, EXIT))
            await record.until("lost", 0)
            loss = loss_of(record)
            assert (loss.cause, loss.reason) == ("exited", "exited with code 3")
            assert loss.suspects == ((fatal, 0), (fatal, 1))
            record.events.clear()
            await record.until("ready", 0)
            assert await ask(executor, record, batch_of(3, 7)) == [14]

    with asyncio.Runner(loop_factory=LOOPS[loop]) as runner:
        runner.run(main())


def test_one_that_hangs_is_replaced(ear: Ear) -> None:
    async def main() -> None:
        async with opened(executor := executor_of()) as record:
            await record.until("ready", 0)
            executor.start(hung := batch_of(1, HANG))
            await ear.until("hanging")
            assert executor.replace(0)
            await record.until("lost", 0)
            loss = loss_of(record)
            assert loss.cause == "hung"
            assert not loss.is_outside
            assert loss.suspects == ((hung, 0),)
            record.events.clear()
            await record.until("ready", 0)
            assert executor.replace(17), "one that has gone meanwhile"

    asyncio.run(main())


def test_one_that_drops_its_connection_is_replaced() -> None:
    async def main() -> None:
        async with opened(executor := executor_of()) as record:
            await record.until("ready", 0)
            executor.start(batch := batch_of(1, HANG_UP))
            await record.until("lost", 0)
            loss = loss_of(record)
            assert (loss.cause, loss.is_outside) == ("disconnected", False)
            assert loss.suspects == ((batch, 0),)

    asyncio.run(main())


def test_one_that_is_killed_by_another_is_replaced_and_nobody_blamed() -> None:
    async def main() -> None:
        async with opened(executor := executor_of()) as record:
            await record.until("ready", 0)
            os.kill(pid_of(executor), 9)
            await record.until("lost", 0)
            assert loss_of(record).is_outside
            assert loss_of(record).reason == "killed by SIGKILL"
            record.events.clear()
            await record.until("ready", 0)

    asyncio.run(main())


def test_an_end_that_takes_long_is_told_as_what_it_was() -> None:
    async def main() -> None:
        async with opened(executor := executor_of()) as record:
            await record.until("ready", 0)
            executor.start(batch_of(1, END_SLOWLY))
            await record.until("lost", 0)
            loss = loss_of(record)
            assert (loss.cause, loss.reason) == ("killed", "killed by SIGKILL")
            assert loss.is_outside

    asyncio.run(main())


def test_an_end_that_does_not_come_is_made(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(process, "KILL_TIMEOUT_S", 0.05)

    async def main() -> None:
        async with opened(executor := executor_of()) as record:
            await record.until("ready", 0)
            executor.start(batch_of(1, END_SLOWLY))
            await record.until("lost", 0)
            assert loss_of(record).cause == "disconnected"

    asyncio.run(main())


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_signals_that_a_whole_service_gets_end_no_worker(number: int) -> None:
    async def main() -> None:
        async with opened(executor := executor_of()) as record:
            await record.until("ready", 0)
            os.kill(pid_of(executor), number)
            assert await ask(executor, record, batch_of(1, 4)) == [8]
            assert record.of("lost") == []

    asyncio.run(main())


def test_one_that_does_not_get_ready_in_time_is_killed(folder: Path) -> None:
    (folder / "load waits").touch()

    async def main() -> None:
        async with opened(executor_of(start_timeout_s=0.2)) as record:
            await record.until("start_failed", 0)
            assert "start_timeout_s" in record.events[0][2]

    asyncio.run(main())


def test_one_that_takes_much_longer_than_the_last_is_not_waited_for(folder: Path) -> None:
    async def main() -> None:
        async with opened(executor := executor_of()) as record:
            await record.until("ready", 0)
            (folder / "load waits").touch()
            os.kill(pid_of(executor), signal.SIGKILL)
            await record.until("lost", 0)
            await record.until("unready", 0)
            (reason,) = {event[2] for event in record.of("unready")}
            assert "longer" in reason
            (folder / "load waits").unlink()
            record.events.clear()
            await record.until("ready", 0)
            assert await ask(executor, record, batch_of(1, 4)) == [8]

    asyncio.run(main())


def test_of_fewer_replicas_those_that_serve_stay(folder: Path) -> None:
    async def main() -> None:
        async with opened(executor := executor_of(replicas=2)) as record:
            await record.until("ready", 0)
            await record.until("ready", 1)
            (folder / "load waits").touch()
            os.kill(pid_of(executor), signal.SIGKILL)
            await record.until("lost", 0)
            executor.scale(1)
            await record.until("retired", 0, "scaled")
            assert await ask(executor, record, batch_of(1, 4, replica=1)) == [8]

    asyncio.run(main())


def test_what_is_closed_does_not_grow() -> None:
    async def main() -> None:
        executor = executor_of()
        async with opened(executor) as record:
            await record.until("ready", 0)
        executor.scale(3)
        assert children() == []

    asyncio.run(main())


def test_more_and_fewer_replicas() -> None:
    async def main() -> None:
        async with opened(executor := executor_of()) as record:
            await record.until("ready", 0)
            executor.scale(3)
            assert executor.replicas == 3
            await record.until("ready", 1)
            await record.until("ready", 2)
            assert await ask(executor, record, batch_of(1, 4, replica=2)) == [8]
            executor.scale(1)
            assert executor.replicas == 1
            await record.until("retired", 1, "scaled")
            await record.until("retired", 2, "scaled")
            assert await ask(executor, record, batch_of(2, 5)) == [10]
            executor.scale(0)
            assert executor.replicas == 1
            assert record.of("lost") == []

    asyncio.run(main())


def test_fewer_replicas_than_are_started_yet(folder: Path) -> None:
    async def main() -> None:
        async with opened(executor := executor_of()) as record:
            await record.until("ready", 0)
            (folder / "load waits").touch()
            executor.scale(2)
            executor.scale(1)
            await record.until("retired", 1, "scaled")
            assert record.of("withdrawn", "lost") == []

    asyncio.run(main())


def test_a_replica_that_is_to_go_finishes_what_it_has() -> None:
    async def main() -> None:
        async with opened(executor := executor_of(replicas=2)) as record:
            await record.until("ready", 0)
            await record.until("ready", 1)
            executor.start(batch := batch_of(1, 3, replica=1))
            executor.scale(1)
            await record.until("retired", 1, "scaled")
            kinds = [event[0] for event in record.events if event[0] != "ready"]
            assert kinds == ["withdrawn", "started", "part", "ended", "retired"]
            assert len(record.outcomes(batch)) == 1

    asyncio.run(main())


def test_the_cores_are_divided_among_all_that_are_to_be(monkeypatch: pytest.MonkeyPatch) -> None:
    async def main() -> None:
        async with opened(executor := executor_of()) as record:
            await record.until("ready", 0)
            executor.scale(3)
            threads = {
                variables_of(pid_of(executor, number))["OMP_NUM_THREADS"] for number in (1, 2)
            }
            assert threads == {str(max(1, len(os.sched_getaffinity(0)) // 3))}

    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    asyncio.run(main())


def variables_of(pid: int) -> dict[str, str]:
    """The environment that a process was started with; it may only just have begun."""
    while not (text := Path(f"/proc/{pid}/environ").read_text()):
        pass
    pairs = (line.partition("=") for line in text.split("\0"))
    return {name: value for name, _, value in pairs}


def test_a_worn_replica_goes_on_until_another_is_ready(folder: Path) -> None:
    async def main() -> None:
        async with opened(executor := executor_of(recycle_after_items=4)) as record:
            await record.until("ready", 0)
            (folder / "load waits").touch()
            await ask(executor, record, batch_of(1, 1, 2, 3, 4))
            assert len(children()) == 2
            assert await ask(executor, record, batch_of(2, 5)) == [10]
            assert record.of("withdrawn") == []
            (folder / "load waits").unlink()
            await record.until("retired", 0, "recycled")
            assert [event[:2] for event in record.of("ready", "withdrawn", "retired")] == [
                ("ready", 0),
                ("ready", 1),
                ("withdrawn", 0),
                ("retired", 0),
            ]
            assert await ask(executor, record, batch_of(3, 6, replica=1)) == [12]
            assert len(children()) == 1

    asyncio.run(main())


def test_a_worn_replica_whose_successors_fail_goes_on_and_they_come_ever_more_rarely(
    folder: Path,
) -> None:
    async def main() -> None:
        async with opened(executor := executor_of(recycle_after_items=1)) as record:
            await record.until("ready", 0)
            (folder / "load raises").touch()
            await ask(executor, record, batch_of(1, 1))
            await record.until("retired", 1, "load")
            for number in range(2, 20):
                assert await ask(executor, record, batch_of(number, number)) == [2 * number]
            assert len(children()) == 1, "the next successor waits"
            assert record.of("lost") == []

    asyncio.run(main())


def test_a_successor_takes_the_place_of_one_that_dies_before_its_time(folder: Path) -> None:
    async def main() -> None:
        async with opened(executor := executor_of(recycle_after_items=1)) as record:
            await record.until("ready", 0)
            (folder / "load waits").touch()
            await ask(executor, record, batch_of(1, 1))
            os.kill(pid_of(executor), 9)
            await record.until("lost", 0)
            assert record.events[-1] == ("retired", 0, "recycled")
            (folder / "load waits").unlink()
            await record.until("ready", 1)
            assert len(children()) == 1
            os.kill(pid_of(executor, 1), 9)
            await record.until("lost", 1)
            record.events.clear()
            await record.until("ready", 1)

    asyncio.run(main())


def test_a_target_that_is_not_there_fails_at_once() -> None:
    async def main() -> tuple[str, bool]:
        failed: asyncio.Future[tuple[str, bool]] = asyncio.get_running_loop().create_future()
        executor = ProcessExecutor(
            "tests.unit.executors.targets:Nobody",
            launch=Launch(Workers()),
            on_start_failed=lambda *failure: failed.set_result(failure),
        )
        executor.launch()
        executor.attach()
        async with asyncio.timeout(WAIT_S):
            failure = await failed
        executor.close()
        assert executor.join(WAIT_S)
        assert children() == []
        return failure

    reason, is_config = asyncio.run(main())
    assert is_config
    assert "Nobody" in reason


def test_a_worker_that_dies_before_it_is_ready_is_tried_again_and_then_given_up(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (folder / "load exits").touch()
    monkeypatch.setattr("headrace.executors.restarts.FIRST_DELAY_S", 0.001)

    async def main() -> None:
        async with opened(executor_of()) as record:
            await record.until("start_failed", 0, "exited with code 9")
            assert [event[2].cause for event in record.of("lost")] == ["exited", "exited"]

    asyncio.run(main())


def test_a_seat_for_which_no_process_can_be_had_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("headrace.executors.restarts.FIRST_DELAY_S", 0.001)

    async def main() -> None:
        async with opened(executor := executor_of()) as record:
            await record.until("ready", 0)
            interpreter = sys.executable
            monkeypatch.setattr(sys, "executable", "/nowhere/python")
            os.kill(pid_of(executor), 9)
            await record.until("lost", 0)
            executor.scale(2)
            assert children() == []
            monkeypatch.setattr(sys, "executable", interpreter)
            record.events.clear()
            await record.until("ready", 0)
            await record.until("ready", 1)

    asyncio.run(main())


def test_an_empty_seat_that_is_given_up_is_retired(monkeypatch: pytest.MonkeyPatch) -> None:
    async def main() -> None:
        async with opened(executor := executor_of()) as record:
            await record.until("ready", 0)
            monkeypatch.setattr(sys, "executable", "/nowhere/python")
            executor.scale(2)
            executor.scale(1)
            assert record.of("retired") == [("retired", 1, "scaled")]

    asyncio.run(main())


@pytest.mark.parametrize("turns", [0, 1, 2, 5, 50])
def test_closing_while_it_starts(turns: int) -> None:
    async def main() -> None:
        async with opened(executor_of(replicas=2)) as record:
            for _ in range(turns):
                await asyncio.sleep(0)
            assert record.events == []

    asyncio.run(main())


def test_closing_before_there_is_a_loop() -> None:
    before = open_files()
    executor = executor_of(replicas=2)
    executor.launch()
    assert len(children()) == 2
    executor.close()
    assert executor.join(WAIT_S)
    assert children() == []
    assert open_files() == before


def test_workers_unload_even_where_the_loop_goes_on_before_they_are_waited_for(
    ear: Ear,
) -> None:
    async def main() -> None:
        async with opened(executor := executor_of()) as record:
            await record.until("ready", 0)
            executor.close()
            await ear.until("unloaded")

    asyncio.run(main())
    assert ear.heard == "unloaded\n"


def test_one_that_does_not_stop_is_killed(ear: Ear) -> None:
    async def main() -> None:
        executor = executor_of()
        async with opened(executor) as record:
            await record.until("ready", 0)
            executor.start(batch_of(1, HANG))
            await ear.until("hanging")
            executor.close()
            assert executor.join(0.01)

    asyncio.run(main())


@pytest.mark.parametrize("how", ["close", "kill"])
def test_what_the_model_has_started_ends_with_its_worker(how: str) -> None:
    async def main() -> None:
        async with opened(executor := executor_of()) as record:
            await record.until("ready", 0)
            await ask(executor, record, batch_of(1, BEAR_CHILD))
            [child] = children_of(pid_of(executor))
            watch = os.pidfd_open(int(child))
            if how == "kill":
                os.kill(pid_of(executor), 9)
                await record.until("lost", 0)
            else:
                executor.close()
                assert executor.join(WAIT_S)
            await readable(watch)
            os.close(watch)

    asyncio.run(main())


def test_the_users_code_and_its_children_find_no_secret(folder: Path) -> None:
    seen: list[Any] = []

    async def main() -> None:
        executor = executor_of("tests.unit.executors.targets:Looking", niceness=1)
        async with opened(executor) as record:
            await record.until("ready", 0)
            [life] = executor._lives.values()
            seen.extend([life.worker.secret, json.loads(read_seen(folder, life.worker.pid))])

    asyncio.run(main())
    secret, found = seen
    assert VARIABLE not in found["environ"]
    assert VARIABLE not in found["child"]["environ"]
    assert secret.hex() not in json.dumps(found)
    assert found["niceness"] == os.nice(0) + 1
    leaked = [link for link in found["child"]["links"] if "memfd" in link or "socket" in link]
    assert leaked == []


def read_seen(folder: Path, pid: int) -> str:
    return (folder / f"seen {pid}").read_text()


def bytes_of(number: int, *bodies: bytes) -> Batch:
    raw = "application/octet-stream"
    items = [
        Item(Payload(body=body, input_type=raw, output_type=raw), number=n)
        for n, body in enumerate(bodies)
    ]
    return Batch(number, 0, 0, items, Cut.FULL, time.monotonic())


async def turned(executor: ProcessExecutor, record: Record, batch: Batch) -> list[bytes]:
    executor.start(batch)
    await record.until("ended", batch.id)
    outcomes = record.outcomes(batch)
    return [each.body for each in outcomes.values() if isinstance(each, Value)]


@pytest.mark.parametrize(
    ("shared_memory_bytes", "crosses"), [(4 * MIB, False), (MIB // 3 + 1, True), (0, True)]
)
@pytest.mark.parametrize("loop", LOOPS)
def test_large_bodies_come_back_by_whichever_way(
    loop: str, shared_memory_bytes: int, crosses: bool
) -> None:
    bodies = (b"1" + bytes(300_000), b"2", b"3" + bytes(100_000), b"4" + bytes(300_000))

    async def main() -> None:
        executor = executor_of(TURNING, shared_memory_bytes=shared_memory_bytes)
        async with opened(executor) as record:
            await record.until("ready", 0)
            for number in range(1, 20):
                before = executor.usage
                batch = bytes_of(number, *bodies)
                assert await turned(executor, record, batch) == [body[::-1] for body in bodies]
                sent = executor.usage.sent_bytes - before.sent_bytes
                received = executor.usage.received_bytes - before.received_bytes
                assert (sent > 300_000) == (received > 300_000) == crosses

    with asyncio.Runner(loop_factory=LOOPS[loop]) as runner:
        runner.run(main())


def test_one_that_dies_with_large_bodies_in_its_memory_spoils_no_other() -> None:
    async def main() -> None:
        executor = executor_of(TURNING, shared_memory_bytes=MIB)
        async with opened(executor) as record:
            await record.until("ready", 0)
            for number in range(1, 4):
                executor.start(bytes_of(2 * number, b"x" + bytes(300_000)))
                await record.until("lost", 0)
                record.events.clear()
                await record.until("ready", 0)
                body = bytes([number]) * 300_000 + b"end"
                answers = await turned(executor, record, bytes_of(2 * number + 1, body, body))
                assert answers == [body[::-1]] * 2

    asyncio.run(main())


@pytest.mark.slow
def test_twenty_lives_leave_nothing_behind() -> None:
    async def main() -> None:
        async with opened(executor := executor_of()) as record:
            await record.until("ready", 0)
            counts = set()
            for number in range(20):
                await ask(executor, record, batch_of(2 * number + 1, 3))
                record.events.clear()
                executor.start(batch_of(2 * number + 2, EXIT))
                await record.until("lost", 0)
                await record.until("ready", 0)
                counts.add((open_files(), len(children())))
            assert len(counts) == 1

    asyncio.run(main())
