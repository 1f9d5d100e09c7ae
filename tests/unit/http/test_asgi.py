"""Exchanges over ASGI, with messages made by hand."""

from __future__ import annotations

import asyncio
import gc
from typing import Any

import pytest

from headrace import Limits, Model
from headrace.clock import system_clock
from headrace.engine import Engine
from headrace.executors import InlineExecutor
from headrace.http import App, Service
from headrace.http.asgi import AsgiExchange
from headrace.replica import Replica
from tests.unit.http.house import House


class Echo(Model):
    def predict(self, batch: list[Any]) -> list[Any]:
        return batch


async def app_of_an_echo() -> App:
    loop = asyncio.get_running_loop()
    executor = InlineExecutor(lambda: Replica(Echo()), loop=loop)
    engine = Engine(Replica(Echo()).card, executor, loop=loop)
    engine.open()
    await asyncio.sleep(0)
    assert engine.is_ready
    service = Service(limits=Limits(), clock=system_clock, version="1")
    service.set_engines([engine])
    service.complete()
    return App(service)


async def ask(
    app: App, *, leave: bool = False, length: bytes | None = None
) -> list[dict[str, Any]]:
    """One request whose client waits for the answer, or leaves as soon as it has asked."""
    sent: list[dict[str, Any]] = []
    asked = [{"type": "http.request", "body": b"[1]", "more_body": False}]
    answered = asyncio.Event()

    async def receive() -> dict[str, Any]:
        if asked:
            return asked.pop()
        if not leave:
            await answered.wait()
        return {"type": "http.disconnect"}

    async def send(message: dict[str, Any]) -> None:
        sent.append(message)

    headers = [(b"content-type", b"application/json")]
    if length is not None:
        headers.append((b"content-length", length))
    scope = {"type": "http", "method": "POST", "path": "/predict"}
    await app(scope | {"query_string": b"", "headers": headers}, receive, send)
    answered.set()
    return sent


@pytest.mark.parametrize(
    ("length", "status"),
    [
        (b"3", 200),
        (b" 003\t", 200),
        (b"9" * 18, 413),
        (b"9" * 5000, 413),
        (b"", 400),
        (b"-1", 400),
        (b"3, 3", 400),
    ],
)
def test_a_length_is_a_number_whatever_another_server_lets_through(
    length: bytes, status: int
) -> None:
    async def test() -> None:
        sent = await ask(await app_of_an_echo(), length=length)
        assert sent[0]["status"] == status

    asyncio.run(test())


@pytest.mark.parametrize("leave", [False, True])
def test_a_request_is_gone_with_its_answer_not_with_a_collection(leave: bool) -> None:
    async def test() -> None:
        app = await app_of_an_echo()
        gc.collect()
        gc.disable()
        try:
            for _ in range(3):
                await ask(app, leave=leave)
                for _ in range(10):  # turns of the loop, in which the batch runs and ends
                    await asyncio.sleep(0)
            left = [found for found in gc.get_objects() if isinstance(found, AsgiExchange)]
            assert left == []
        finally:
            gc.enable()

    asyncio.run(test())


def test_a_client_that_stays_is_answered() -> None:
    async def test() -> None:
        start, body = await ask(await app_of_an_echo(), leave=False)
        assert (start["status"], body["body"]) == (200, b"[1]")

    asyncio.run(test())


@pytest.mark.parametrize("body", [b"[1]", None])
def test_a_server_that_gives_a_request_up_gives_up_its_item(body: bytes | None) -> None:
    """While its body comes, or its answer is waited for."""

    async def receive() -> dict[str, Any]:
        if body is not None and not asked:
            asked.append(body)
            return {"type": "http.request", "body": body, "more_body": False}
        return await asyncio.get_running_loop().create_future()  # type: ignore[no-any-return]

    async def send(message: dict[str, Any]) -> None:
        raise AssertionError(message)

    async def test() -> None:
        house = House(Echo())
        house.open()
        scope = {"type": "http", "method": "POST", "path": "/predict", "query_string": b""}
        app, counts = App(house.service), house.service.predict.counts
        asking = asyncio.create_task(app(scope | {"headers": []}, receive, send))
        for _ in range(10):
            await asyncio.sleep(0)
        assert counts.in_flight == 1
        asking.cancel()
        with pytest.raises(asyncio.CancelledError):
            await asking
        assert counts.in_flight == 0
        assert len(house.executors[0].cancelled) == (body is not None)

    asked: list[bytes] = []
    asyncio.run(test())


def test_a_body_is_waited_for_until_the_callers_deadline_at_most() -> None:
    async def test() -> list[dict[str, Any]]:
        sent: list[dict[str, Any]] = []

        async def receive() -> dict[str, Any]:
            return await asyncio.get_running_loop().create_future()  # type: ignore[no-any-return]

        async def send(message: dict[str, Any]) -> None:
            sent.append(message)

        headers = [(b"content-length", b"3"), (b"x-request-timeout", b"0.01")]
        scope = {"type": "http", "method": "POST", "path": "/predict"}
        app = await app_of_an_echo()
        async with asyncio.timeout(10.0):
            await app(scope | {"query_string": b"", "headers": headers}, receive, send)
        return sent

    start, body = asyncio.run(test())
    assert start["status"] == 504
    assert (b"connection", b"close") in start["headers"]
    assert b'"stage":"reading"' in body["body"]
