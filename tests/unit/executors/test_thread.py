"""What only the thread executor has: time that passes meanwhile, and threads that may not end."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from typing import Any, ClassVar

from headrace import Model
from headrace.batching import Batch, Cut, Item
from headrace.call import Payload
from headrace.executors import ThreadExecutor
from headrace.replica import Replica
from tests.contract.record import WAIT_S, Record


class Plain(Model):
    examples: ClassVar = [0]

    def predict(self, batch: list[int]) -> list[int]:
        if 13 in batch:
            raise ValueError("unlucky")
        return batch


def batch_of(number: int, *values: int, replica: int = 0) -> Batch:
    json_type = "application/json"
    items = [
        Item(Payload(body=b"%d" % value, input_type=json_type, output_type=json_type), number=n)
        for n, value in enumerate(values, 1)
    ]
    return Batch(number, replica, 0, items, Cut.FULL, 0.0)


def executor_of(make: Callable[[], Model], replicas: int = 1) -> ThreadExecutor:
    loop = asyncio.get_running_loop()
    return ThreadExecutor(lambda: Replica(make()), replicas=replicas, loop=loop)


def test_the_time_of_an_isolations_step_is_not_counted_to_the_batch_behind_it() -> None:
    async def main() -> None:
        executor, record = executor_of(Plain), Record()
        executor.open(record)
        await record.until("ready")
        for batch in (batch_of(1, 1, 13), batch_of(2, 2), batch_of(3, 3)):
            executor.start(batch)
        await record.until("ended", 3)
        # It is told to have begun when the second has ended, and once more when the step has.
        own = [event[0] for event in record.events if event[1] == 3]
        assert own == ["started", "started", "part", "ended"]
        await record.until("ended", 1)
        executor.close()
        assert executor.join(WAIT_S)

    asyncio.run(main())


def test_a_replica_that_does_not_stop_is_not_waited_for_without_end() -> None:
    released = threading.Event()

    class Stuck(Model):
        def predict(self, batch: list[int]) -> list[int]:
            released.wait(WAIT_S)
            return batch

    async def main() -> None:
        executor, record = executor_of(Stuck), Record()
        executor.open(record)
        await record.until("ready")
        executor.start(batch_of(1, 1))
        await record.until("started", 1)
        executor.close()
        assert not executor.join(0.01)
        released.set()
        assert executor.join(WAIT_S)

    asyncio.run(main())


def test_a_loop_that_has_closed_does_not_disturb_the_thread() -> None:
    released, unloaded = threading.Event(), threading.Event()

    class Late(Model):
        def predict(self, batch: list[int]) -> list[int]:
            released.wait(WAIT_S)
            return batch

        def unload(self) -> None:
            unloaded.set()

    async def main() -> ThreadExecutor:
        executor, record = executor_of(Late), Record()
        executor.open(record)
        await record.until("ready")
        executor.start(batch_of(1, 1))
        await record.until("started", 1)
        executor.close()
        return executor

    executor = asyncio.run(main())
    released.set()
    assert executor.join(WAIT_S)
    assert unloaded.is_set()


def test_replicas_run_at_the_same_time_each_with_a_model_of_its_own() -> None:
    both = threading.Barrier(2)
    models: list[Any] = []

    class Meeting(Model):
        def load(self) -> None:
            models.append(self)

        def predict(self, batch: list[int]) -> list[int]:
            both.wait(WAIT_S)
            return batch

    async def main() -> None:
        executor, record = executor_of(Meeting, replicas=2), Record()
        executor.open(record)
        await record.until("ready", 0)
        await record.until("ready", 1)
        assert len(models) == 2 and models[0] is not models[1]
        for replica in (0, 1):
            executor.start(batch_of(replica, 1, replica=replica))
        for replica in (0, 1):
            await record.until("ended", replica)
        executor.close()
        assert executor.join(WAIT_S)

    asyncio.run(main())


def test_a_canary_that_hangs_is_told() -> None:
    released = threading.Event()
    calls: list[str] = []

    class Broken(Model):
        examples: ClassVar = [0]

        def predict(self, batch: list[int]) -> list[int]:
            if "hang" in calls:
                released.wait(WAIT_S)
            if calls:
                raise ValueError("broken")
            return batch

    async def main() -> None:
        hung = asyncio.Event()
        executor = ThreadExecutor(
            lambda: Replica(Broken()),
            loop=asyncio.get_running_loop(),
            predict_timeout_s=0.05,
            on_hung=hung.set,
        )
        record = Record()
        executor.open(record)
        await record.until("ready")
        calls.append("fail")
        executor.start(batch_of(1, 1))
        await record.until("unready")
        assert not hung.is_set()
        calls.append("hang")
        async with asyncio.timeout(WAIT_S):
            await hung.wait()
        released.set()
        executor.close()
        assert executor.join(WAIT_S)

    asyncio.run(main())
