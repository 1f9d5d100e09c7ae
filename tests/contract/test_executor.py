"""What every executor promises. A new one joins with a line in EXECUTORS, and passes unchanged."""

from __future__ import annotations

import asyncio
import itertools
import json
import os
import time
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

import pytest

from headrace.batching import Batch, Cut, Item, State
from headrace.call import Call, Failure, Outcome, Payload, Value
from headrace.config import Workers
from headrace.engine import Engine
from headrace.executors import (
    Executor,
    InlineExecutor,
    Launch,
    ProcessExecutor,
    ThreadExecutor,
)
from headrace.executors.socket import SocketExecutor
from headrace.replica import Replica
from tests.contract.models import FOLDER, Scripted
from tests.contract.record import WAIT_S, Record
from tests.contract.remote import OneRemoteWorker

MakeExecutor = Callable[[], Executor]
"""Makes an executor of one replica of Scripted, in the running event loop."""


def make_replica() -> Replica:
    return Replica(Scripted())


EXECUTORS: dict[str, MakeExecutor] = {
    "inline": lambda: InlineExecutor(make_replica, loop=asyncio.get_running_loop()),
    "thread": lambda: ThreadExecutor(make_replica, loop=asyncio.get_running_loop()),
    "process": lambda: ProcessExecutor("tests.contract.models:Scripted", launch=Launch(Workers())),
    "remote": lambda: OneRemoteWorker(Path(os.environ[FOLDER])),
}


@pytest.fixture(params=EXECUTORS)
def make(request: pytest.FixtureRequest) -> MakeExecutor:
    return EXECUTORS[request.param]


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv(FOLDER, str(tmp_path))
    return tmp_path


def payload(n: int, do: str = "") -> Payload:
    return raw_payload(json.dumps({"n": n, "do": do}))


def raw_payload(body: str) -> Payload:
    json_type = "application/json"
    return Payload(body=body.encode(), input_type=json_type, output_type=json_type)


def batch_of(number: int, payloads: list[Payload]) -> Batch:
    """A batch as the batcher gives it to an executor, in the first slot."""
    items = [Item(payload, number=index + 1) for index, payload in enumerate(payloads)]
    return Batch(number, 0, 0, items, Cut.FULL, time.monotonic())


def told(outcome: Outcome) -> Any:
    """An answer's value, or a failure's code."""
    return outcome.code if isinstance(outcome, Failure) else json.loads(outcome.body)


def predicts(folder: Path) -> list[list[int]]:
    """The numbers in each call of predict, after the two of the warm-up."""
    lines = (folder / "journal").read_text().splitlines()
    calls = [line.split()[1:] for line in lines if line.startswith("predict")]
    return [[int(number) for number in call] for call in calls][2:]


def run(make: MakeExecutor, test: Callable[[Executor, Record], Coroutine[Any, Any, None]]) -> None:
    """Run a test on an open executor that is ready, and stop it after."""

    async def main() -> None:
        executor, record = make(), Record()
        executor.open(record)
        try:
            await record.until("ready")
            await test(executor, record)
        finally:
            executor.close()
            assert executor.join(WAIT_S)

    asyncio.run(main())


def test_a_replica_is_loaded_and_warmed_up_before_it_is_ready(
    make: MakeExecutor, folder: Path
) -> None:
    async def test(executor: Executor, record: Record) -> None:
        assert record.events == [("ready", 0)]
        assert record.card is not None and record.card.name == "scripted"
        journal = (folder / "journal").read_text().splitlines()
        assert journal == ["load", "predict 0", "predict" + 32 * " 0"]

    run(make, test)


def test_opening_calls_nothing_back_before_it_returns(make: MakeExecutor) -> None:
    async def main() -> None:
        executor, record = make(), Record()
        executor.open(record)
        assert record.events == []
        await record.until("ready")
        executor.start(batch_of(1, [payload(1)]))
        assert record.events == [("ready", 0)]
        await record.until("ended")
        executor.close()
        assert executor.join(WAIT_S)

    asyncio.run(main())


def test_batches_run_in_the_order_of_their_start(make: MakeExecutor, folder: Path) -> None:
    async def test(executor: Executor, record: Record) -> None:
        batches = [batch_of(k, [payload(10 * k), payload(10 * k + 1)]) for k in range(1, 4)]
        for batch in batches:
            executor.start(batch)
        await record.until("ended", 3)
        steps = [("started", "part", "part", "ended") for _ in batches]
        assert [event[0] for event in record.events[1:]] == [
            kind for step in steps for kind in step
        ]
        assert [event[1] for event in record.of("started", "ended")] == [1, 1, 2, 2, 3, 3]
        assert predicts(folder) == [[10, 11], [20, 21], [30, 31]]

    run(make, test)


def test_each_item_is_answered_once_and_its_batch_ends_after(make: MakeExecutor) -> None:
    async def test(executor: Executor, record: Record) -> None:
        batches = [
            batch_of(k, [payload(100 * k + n) for n in range(k * 7 % 32 + 1)]) for k in range(1, 41)
        ]
        for batch in batches:
            executor.start(batch)
        await record.until("ended", 40)
        for batch in batches:
            expected = {n: 2 * (100 * batch.id + n) for n in range(len(batch.items))}
            answers = {n: told(outcome) for n, outcome in record.outcomes(batch).items()}
            assert answers == expected
            own = [
                event[0] for event in record.events if event[1] == batch.id and event[0] != "ready"
            ]
            assert own == ["started", *["part"] * len(batch.items), "ended"]

    run(make, test)


def test_an_item_that_ended_before_its_batch_began_never_reaches_the_model(
    make: MakeExecutor, folder: Path
) -> None:
    async def test(executor: Executor, record: Record) -> None:
        batch = batch_of(1, [payload(1), payload(2), payload(3)])
        batch.items[1].state = State.CANCELLED
        executor.cancel(batch, 1)
        executor.start(batch)
        await record.until("ended", 1)
        assert predicts(folder) == [[1, 3]]
        assert {n: told(o) for n, o in record.outcomes(batch).items() if n != 1} == {0: 2, 2: 6}

    run(make, test)


def test_a_batch_of_which_nobody_wants_anything_just_ends(make: MakeExecutor, folder: Path) -> None:
    async def test(executor: Executor, record: Record) -> None:
        batch = batch_of(1, [payload(1)])
        batch.items[0].state = State.EXPIRED
        executor.start(batch)
        await record.until("ended", 1)
        assert predicts(folder) == []

    run(make, test)


@pytest.mark.parametrize("do", ["predict", "exit", "interrupt"])
def test_the_item_that_predict_fails_by_fails_alone(
    make: MakeExecutor, folder: Path, do: str
) -> None:
    async def test(executor: Executor, record: Record) -> None:
        batch = batch_of(1, [payload(n, do if n == 5 else "") for n in range(8)])
        executor.start(batch)
        await record.until("ended", 1)
        answers = {n: told(outcome) for n, outcome in record.outcomes(batch).items()}
        assert answers == {n: "model_error" if n == 5 else 2 * n for n in range(8)}
        assert record.of("set_aside") and not record.of("unready")
        assert record.events[-1] == ("ended", 1)

    run(make, test)


@pytest.mark.parametrize("do", ["too few", "generator"])
def test_a_batch_with_another_number_of_outputs_gives_nobody_an_answer(
    make: MakeExecutor, do: str
) -> None:
    async def test(executor: Executor, record: Record) -> None:
        batch = batch_of(1, [payload(n, do if n == 1 else "") for n in range(4)])
        executor.start(batch)
        await record.until("ended", 1)
        assert [told(o) for o in record.outcomes(batch).values()] == 4 * ["batch_contract"]

    run(make, test)


@pytest.mark.row("E2")
def test_isolation_takes_at_most_every_second_predict_while_others_wait(
    make: MakeExecutor, folder: Path
) -> None:
    async def test(executor: Executor, record: Record) -> None:
        orders = {1: "wait", 13: "predict"}
        ill = batch_of(1, [payload(n, orders.get(n, "")) for n in range(1, 33)])
        others = [batch_of(k, [payload(100 * k)]) for k in range(2, 8)]
        for batch in (ill, *others):
            executor.start(batch)
        (folder / "go").touch()  # the others wait by now, wherever that is
        await record.until("ended", ill.id)
        await record.until("ended", others[-1].id)
        # The canary's item has the number 0.
        is_other = [call[0] >= 100 for call in predicts(folder)]
        last_other = len(is_other) - 1 - is_other[::-1].index(True)
        while_others_wait = is_other[1:last_other]
        pairs = itertools.pairwise(while_others_wait)
        assert all(first or second for first, second in pairs)
        assert while_others_wait.count(False) <= while_others_wait.count(True) + 1
        assert not all(is_other[1:last_other]), "nor does it wait for all others"
        answers = {n: told(outcome) for n, outcome in record.outcomes(ill).items()}
        assert answers == {n: "model_error" if n == 12 else 2 * (n + 1) for n in range(32)}

    run(make, test)


def test_two_batches_in_isolation_both_come_to_their_end(make: MakeExecutor) -> None:
    async def test(executor: Executor, record: Record) -> None:
        batches = [
            batch_of(k, [payload(n, "predict" if n in (k, 7) else "") for n in range(8)])
            for k in (1, 2)
        ]
        for batch in batches:
            executor.start(batch)
        for batch in batches:
            await record.until("ended", batch.id)
            answers = {n: told(outcome) for n, outcome in record.outcomes(batch).items()}
            bad = (batch.id, 7)
            assert answers == {n: "model_error" if n in bad else 2 * n for n in range(8)}

    run(make, test)


def test_a_model_that_fails_its_own_example_is_unready_until_it_passes(
    make: MakeExecutor, folder: Path
) -> None:
    async def test(executor: Executor, record: Record) -> None:
        (folder / "broken").touch()
        batch = batch_of(1, [payload(n) for n in range(1, 9)])
        executor.start(batch)
        await record.until("unready")
        assert len(predicts(folder)) == 2, "the batch, and the canary: no item is tried alone"
        kinds = [event[0] for event in record.of("set_aside", "ended", "unready")]
        told_all = [told(o) for o in record.outcomes(batch).values()]
        if isinstance(executor, SocketExecutor | OneRemoteWorker):
            # A new worker follows, and finds out which of the items did it.
            assert (told_all, kinds) == ([], ["set_aside", "unready"])
            await record.until("lost")
            (_, _, loss) = record.of("lost")[0]
            assert (loss.cause, loss.guilty) == ("broken", None)
            assert loss.suspects == tuple((batch, index) for index in range(8))
        else:
            assert told_all == 8 * ["model_error"]
            assert kinds == ["set_aside", "ended", "unready"]
        (folder / "broken").unlink()
        record.events.clear()
        await record.until("ready")
        executor.start(healed := batch_of(2, [payload(4)]))
        await record.until("ended", 2)
        assert [told(o) for o in record.outcomes(healed).values()] == [8]

    run(make, test)


def test_an_item_that_breaks_a_model_alone_is_told_why(make: MakeExecutor, folder: Path) -> None:
    async def test(executor: Executor, record: Record) -> None:
        (folder / "broken").touch()
        batch = batch_of(1, [payload(1)])
        executor.start(batch)
        await record.until("unready")
        assert [told(o) for o in record.outcomes(batch).values()] == ["model_error"]

    run(make, test)


def test_a_load_that_raises_is_told_with_its_reason(make: MakeExecutor, folder: Path) -> None:
    (folder / "load raises").touch()

    async def main() -> None:
        executor, record = make(), Record()
        executor.open(record)
        await record.until("start_failed", 0)
        assert "load raised OSError: no weights" in record.events[0][2]
        executor.close()
        assert executor.join(WAIT_S)
        assert [event[0] for event in record.events] == ["start_failed"]

    asyncio.run(main())


def test_an_example_that_fails_in_the_warm_up_is_told_with_its_reason(
    make: MakeExecutor, folder: Path
) -> None:
    (folder / "broken").touch()

    async def main() -> None:
        executor, record = make(), Record()
        executor.open(record)
        await record.until("start_failed", 0)
        assert "examples[0]" in record.events[0][2]
        executor.close()
        assert executor.join(WAIT_S)

    asyncio.run(main())


def test_closing_unloads_once_and_nothing_is_told_after(make: MakeExecutor, folder: Path) -> None:
    async def main() -> None:
        executor, record = make(), Record()
        executor.open(record)
        await record.until("ready")
        executor.start(batch_of(1, [payload(1)]))
        executor.close()
        executor.close()
        assert executor.join(WAIT_S)
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        assert [event[0] for event in record.events] == ["ready"]
        assert (folder / "journal").read_text().count("unload") == 1

    asyncio.run(main())


def test_closing_before_it_is_ready_is_clean(make: MakeExecutor) -> None:
    async def main() -> None:
        executor, record = make(), Record()
        executor.open(record)
        executor.close()
        assert executor.join(WAIT_S)
        await asyncio.sleep(0)
        assert record.events == []

    asyncio.run(main())


def test_of_32_in_one_batch_seven_fail_each_by_itself_and_25_are_answered(
    make: MakeExecutor, folder: Path
) -> None:
    payloads = [payload(n) for n in range(32)]
    payloads[3] = raw_payload('{"n": 3,')
    payloads[7] = raw_payload('{"n": "seven"}')
    payloads[11] = raw_payload('{"do": ""}')
    for n, do in ((15, "preprocess"), (19, "predict"), (23, "postprocess"), (27, "encode")):
        payloads[n] = payload(n, do)
    # Its code; where that is model_error, the stage that failed.
    failures = {
        3: "malformed",
        7: "invalid",
        11: "invalid",
        15: "preprocess",
        19: "predict",
        23: "postprocess",
        27: "output_error",
    }

    async def main() -> None:
        is_ready = asyncio.Event()
        engine = Engine(
            make_replica().card,
            make(),
            loop=asyncio.get_running_loop(),
            on_ready=is_ready.set,
        )
        engine.open()
        await is_ready.wait()
        calls = (engine.ask(Call(payloads=(each,))) for each in payloads)
        async with asyncio.timeout(WAIT_S):
            answers = [outcomes[0] for outcomes in await asyncio.gather(*calls)]
        engine.close()
        assert engine.join(WAIT_S)
        for n, outcome in enumerate(answers):
            if n not in failures:
                assert isinstance(outcome, Value) and json.loads(outcome.body) == 2 * n
                continue
            assert isinstance(outcome, Failure)
            stage = outcome.details[0].get("stage") if outcome.details else None
            assert failures[n] == (stage if outcome.code == "model_error" else outcome.code)
        assert engine.counts.items["ok"] == 25
        assert sum(engine.counts.items.values()) == 32
        assert sum(engine.counts.batches.values()) == 1, "they were one batch"
        # Four fail before predict; the first call has the other 28.
        assert len(predicts(folder)[0]) == 28

    asyncio.run(main())
