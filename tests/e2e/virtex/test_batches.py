"""Batches are made of elements, however messages bundle them."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterable, Sequence
from itertools import chain
from typing import Any

import pytest

from tests.e2e.virtex.served import Launch
from virtex import RequestHandler, http_server


class Recorded(RequestHandler):
    """Doubles, and keeps its calls."""

    def __init__(self) -> None:
        self.calls: list[list[int]] = []

    def process_request(self, data: list[int]) -> list[int]:
        self.calls.append(data)
        return data

    def run_inference(self, model_input: list[int]) -> Iterable[int]:
        if -1 in model_input:
            raise ValueError("negative")
        return (2 * number for number in model_input)

    def process_response(self, model_output_item: int) -> int:
        return model_output_item


class Asked:
    """A request on an ASGI application, without a server."""

    def __init__(self, data: Sequence[int]) -> None:
        self.body = json.dumps({"data": data}).encode()
        self.sent: list[dict[str, Any]] = []
        self._is_read = False

    async def receive(self) -> dict[str, Any]:
        if self._is_read:
            await asyncio.Event().wait()
        self._is_read = True
        return {"type": "http.request", "body": self.body, "more_body": False}

    async def send(self, message: dict[str, Any]) -> None:
        self.sent.append(message)

    @property
    def status(self) -> int:
        return int(self.sent[0]["status"])

    @property
    def headers(self) -> dict[bytes, bytes]:
        return dict(self.sent[0]["headers"])

    @property
    def answer(self) -> Any:
        return json.loads(self.sent[1]["body"])


SCOPE = {
    "type": "http",
    "method": "POST",
    "path": "/",
    "query_string": b"",
    "headers": [(b"content-type", b"application/json")],
}


def ask_at_once(app: Any, messages: Iterable[Sequence[int]]) -> list[Asked]:
    """Send messages in one pass of an event loop."""
    asked = [Asked(data) for data in messages]

    async def ask() -> None:
        said: asyncio.Queue[str] = asyncio.Queue()
        told: asyncio.Queue[str] = asyncio.Queue()

        async def receive() -> dict[str, str]:
            return {"type": await told.get()}

        async def send(message: dict[str, str]) -> None:
            said.put_nowait(message["type"])

        life = asyncio.ensure_future(app({"type": "lifespan"}, receive, send))
        told.put_nowait("lifespan.startup")
        assert await said.get() == "lifespan.startup.complete"
        await asyncio.gather(*(app(SCOPE, one.receive, one.send) for one in asked))
        told.put_nowait("lifespan.shutdown")
        await life

    asyncio.run(ask())
    return asked


@pytest.mark.parametrize("max_batch_size", [512, 100, 32, 7, 1])
@pytest.mark.parametrize("fixed_wait", [False, True])
def test_the_handler_cannot_tell_many_messages_from_one(
    max_batch_size: int, fixed_wait: bool
) -> None:
    calls = []
    numbers = list(range(100))
    for messages in ([numbers], [[n] for n in numbers], [[], numbers[:33], numbers[33:]]):
        handler = Recorded()
        app = http_server("x", handler, max_batch_size, metrics_mode="off", fixed_wait=fixed_wait)
        asked = ask_at_once(app, messages)
        assert [one.answer for one in asked] == [
            {"data": [2 * n for n in message], "error": None} for message in messages
        ]
        calls.append(handler.calls)
    assert calls[0] == calls[1] == calls[2]
    assert list(chain(*calls[0])) == numbers
    assert [len(call) for call in calls[0]] == _sizes(100, max_batch_size)


def _sizes(count: int, most: int) -> list[int]:
    return [min(most, count - begin) for begin in range(0, count, most)]


def test_one_that_raises_among_many_is_the_only_error() -> None:
    handler = Recorded()
    app = http_server("x", handler, metrics_mode="off")
    numbers = [-1 if n == 40 else n for n in range(64)]
    asked = ask_at_once(app, [[n] for n in numbers])
    assert [one.status for one in asked] == [500 if n == -1 else 200 for n in numbers]
    assert asked[40].answer == {"data": [], "error": "x caught exception: ValueError: negative"}
    assert handler.calls[0] == numbers, "they were one batch"
    # By halves: the runs that still had the guilty one, and those that were rid of it.
    assert len(handler.calls) <= 1 + 2 * 6


def test_a_handler_that_is_not_idempotent_runs_once() -> None:
    class Once(Recorded):
        idempotent = False

    handler = Once()
    asked = ask_at_once(http_server("x", handler, metrics_mode="off"), [[n] for n in (1, -1, 2)])
    assert [one.status for one in asked] == [500] * 3
    assert handler.calls == [[1, -1, 2]]


def test_a_full_queue_says_so_in_the_header_and_in_the_message() -> None:
    handler = Recorded()
    app = http_server("x", handler, metrics_mode="off", max_queue_items=4)
    asked = ask_at_once(app, [[n] for n in range(10)])
    assert [one.status for one in asked] == [200] * 4 + [503] * 6
    for one in asked[4:]:
        assert int(one.headers[b"retry-after"]) >= 1
        assert one.answer["data"] == []
        assert "queue" in one.answer["error"]
    assert list(chain(*handler.calls)) == [0, 1, 2, 3]


def test_it_serves_on_one_event_loop_after_another() -> None:
    handler = Recorded()
    app = http_server("x", handler, metrics_mode="off")
    for n in range(3):
        (one,) = ask_at_once(app, [[n]])
        assert one.answer["data"] == [2 * n]


def test_served_messages_become_batches(launch: Launch) -> None:
    service = launch.uvicorn("scripted", env={"OPTIONS": '{"max_batch_size": 32}'})
    calls = []
    wires = service.open_wires(100)
    for messages in ([list(range(100))], [[n] for n in range(100)]):
        (service.folder / "go").unlink(missing_ok=True)
        (service.folder / "calls").unlink(missing_ok=True)
        blocked = service.block()
        for wire, message in zip(wires, messages, strict=False):
            wire.post("/", json.dumps({"data": message}))
        service.set("go")
        assert blocked.answer().status == 200
        for wire, message in zip(wires, messages, strict=False):
            assert wire.answer().json()["data"] == [2 * n for n in message]
        calls.append(service.calls()[1:])
    assert [[len(call) for call in some] for some in calls] == [[32, 32, 32, 4]] * 2
    assert list(chain(*calls[0])) == list(range(100))
    # The order of arrival over many connections is what the system made it.
    assert sorted(chain(*calls[1])) == list(range(100))


def test_one_served_element_that_raises_is_one_error(launch: Launch) -> None:
    service = launch.uvicorn("scripted")
    wires = service.open_wires(64)
    blocked = service.block()
    elements = ["raise" if n == 40 else n for n in range(64)]
    for wire, element in zip(wires, elements, strict=True):
        wire.post("/", json.dumps({"data": [element]}))
    service.set("go")
    assert blocked.answer().status == 200
    answers = [wire.answer() for wire in wires]
    statuses = [answer.status for answer in answers]
    assert statuses == [500 if element == "raise" else 200 for element in elements]
    assert max(len(call) for call in service.calls() if "raise" in call) > 1, "it had mates"


def test_a_served_queue_that_is_full_sends_the_rest_away(launch: Launch) -> None:
    service = launch.uvicorn("scripted", env={"OPTIONS": '{"max_queue_items": 4}'})
    wires = service.open_wires(10)
    blocked = service.block()
    for n, wire in enumerate(wires):
        wire.post("/", json.dumps({"data": [n]}))
    service.set("go")
    assert blocked.answer().status == 200
    refused = 0
    for n, wire in enumerate(wires):
        answer = wire.answer()
        if answer.status == 503:
            refused += 1
            assert int(answer.headers["retry-after"]) >= 1
            assert (answer.json()["data"], "queue" in answer.json()["error"]) == ([], True)
        else:
            assert answer.json() == {"data": [2 * n], "error": None}
    assert refused == 6
    assert service.ask(7).json()["data"] == [14]


def test_a_message_larger_than_the_queue_is_413(launch: Launch) -> None:
    asked = ask_at_once(
        http_server("x", Recorded(), metrics_mode="off", max_queue_items=4), [list(range(5))]
    )
    assert asked[0].status == 413
    assert "4" in asked[0].answer["error"]
