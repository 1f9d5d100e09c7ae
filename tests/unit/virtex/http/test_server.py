"""The server as an ASGI application, whose server the tests play."""

from __future__ import annotations

import asyncio
import inspect
import json
import pickle
import subprocess
import sys
import threading
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import httpx
import pytest

import virtex
import virtex.http
from headrace.replica import Replica
from headrace.targets import models_of
from virtex import RequestHandler, http_server
from virtex.http.server import MessageServer


class Twice(RequestHandler):
    def __init__(self) -> None:
        self.calls: list[list[Any]] = []

    def process_request(self, data: list[Any]) -> list[Any]:
        self.calls.append(list(data))
        if "raise" in data:
            raise ValueError("no number")
        return data

    def run_inference(self, model_input: Any) -> Iterable[Any]:
        return (2 * number for number in model_input)

    def process_response(self, model_output_item: Any) -> Any:
        return model_output_item


def made(handler: RequestHandler | None = None, **options: Any) -> MessageServer:
    return http_server("My service", handler or Twice(), metrics_mode="off", **options)


def messages(*each: list[Any]) -> list[bytes]:
    return [json.dumps({"data": data, "error": None}).encode() for data in each]


async def post_all(app: Any, bodies: list[bytes]) -> list[httpx.Response]:
    """The answers to requests that arrive in one turn of the event loop."""
    # httpx is stricter than servers are: a scope is any mapping to it, and a dict in fact.
    transport = httpx.ASGITransport(app)
    async with httpx.AsyncClient(transport=transport, base_url="http://app") as client:
        answers = await asyncio.gather(*(client.post("/", content=body) for body in bodies))
    return list(answers)


def ask(app: Any, bodies: list[bytes]) -> list[tuple[int, Any]]:
    async def all_answered() -> list[httpx.Response]:
        await app.startup()
        try:
            return await post_all(app, bodies)
        finally:
            await app.shutdown()

    return [(answer.status_code, answer.json()) for answer in asyncio.run(all_answered())]


def test_the_published_names_are_one_callable() -> None:
    assert virtex.HttpServer is http_server
    assert virtex.http.Server is virtex.http.http_server is http_server
    found = list(inspect.signature(http_server).parameters)[:8]
    assert found == [
        "name",
        "handler",
        "max_batch_size",
        "max_time_on_queue",
        "metrics_host",
        "metrics_port",
        "metrics_mode",
        "metrics_interval",
    ]


def test_messages_are_batched_across_their_bounds() -> None:
    one, many = Twice(), Twice()
    numbers = list(range(100))
    answers = ask(made(one, max_batch_size=32), messages(numbers))
    assert answers == [(200, {"data": [2 * n for n in numbers], "error": None})]
    answers = ask(made(many, max_batch_size=32), messages(*([n] for n in numbers)))
    assert answers == [(200, {"data": [2 * n], "error": None}) for n in numbers]
    assert one.calls == many.calls
    assert [len(call) for call in many.calls] == [32, 32, 32, 4]


def test_one_raising_element_among_64_in_flight_is_one_error() -> None:
    handler = Twice()
    bodies = messages(*([n] for n in range(63)), ["raise"])
    answers = ask(made(handler), bodies)
    assert answers[:63] == [(200, {"data": [2 * n], "error": None}) for n in range(63)]
    error = "My service caught exception: ValueError: no number"
    assert answers[63] == (500, {"data": [], "error": error})


@pytest.mark.parametrize(
    "body",
    [b"", b"{", b"[1]", b'{"data": 1}', pickle.dumps({"data": [1]}), b'{"data": [NaN]}', b"\xff"],
)
def test_a_body_that_is_no_message_is_the_only_one_refused(body: bytes) -> None:
    handler = Twice()
    good, bad = ask(made(handler), [*messages([1]), body])
    assert good == (200, {"data": [2], "error": None})
    assert bad[0] == 400
    assert bad[1]["data"] == [] and bad[1]["error"]
    assert handler.calls == [[1]]


@pytest.mark.parametrize("body", [b"{}", b'{"data": null}', b'{"data": [], "error": "mine"}'])
def test_an_empty_message_is_answered_without_the_handler(body: bytes) -> None:
    handler = Twice()
    assert ask(made(handler), [body]) == [(200, {"data": [], "error": None})]
    assert handler.calls == []


def test_a_full_queue_says_when_to_come_again() -> None:
    async def test() -> list[httpx.Response]:
        app = made(max_queue_items=4)
        await app.startup()
        try:
            return await post_all(app, messages(*([n] for n in range(12))))
        finally:
            await app.shutdown()

    answers = asyncio.run(test())
    refused = [answer for answer in answers if answer.status_code == 503]
    assert len(refused) == 8
    for answer in refused:
        assert int(answer.headers["retry-after"]) >= 1
        assert answer.json()["data"] == [] and "queue" in answer.json()["error"]


def test_bodies_and_messages_have_bounds() -> None:
    app = made(max_queue_items=4, max_body_bytes=100)
    ((status, answer),) = ask(app, messages([1, 2, 3, 4, 5]))
    assert (status, answer["error"]) == (413, "expected at most 4 elements a message, got 5")
    ((status, answer),) = ask(app, messages(["x" * 100]))
    assert (status, answer["error"]) == (413, "expected a body of at most 100 bytes, got more")


def test_an_underfull_batch_waits_only_if_it_is_told_to() -> None:
    for fixed_wait, delay_s in ((False, 0.0), (True, 0.25)):
        app = made(max_time_on_queue=0.25, fixed_wait=fixed_wait)
        batching = Replica(app.__headrace_model__()).card.batching
        assert batching.max_batch_delay_s == delay_s


def test_it_can_be_a_factory_or_asgi_2() -> None:
    app = made()
    assert app() is app

    async def double_callable(scope: Any, receive: Any, send: Any) -> None:
        await app(scope)(receive, send)

    async def test() -> None:
        for application in (app, double_callable):
            (answer,) = await post_all(application, messages([1]))
            assert answer.json() == {"data": [2], "error": None}
        await app.shutdown()

    asyncio.run(test())


def test_it_starts_nothing_before_it_serves() -> None:
    threads = threading.active_count()
    app = http_server("x", Twice(), metrics_mode="scrape", metrics_port=1)
    assert threading.active_count() == threads
    assert app.engines == []


def test_it_stands_for_its_handlers_model() -> None:
    (make,) = models_of(made(max_batch_size=7), where="app")
    card = Replica(make()).card
    assert (card.name, card.batching.max_batch_size) == ("my-service", 7)


def test_what_is_served_is_counted() -> None:
    app = made()

    async def test() -> None:
        await app.startup()
        await post_all(app, [*messages([1, 2, 3], [4], []), b"nonsense"])
        counts = app._read()
        assert (counts.requests, counts.queries) == (4, 4)
        assert (counts.queries_per_request.count, counts.queries_per_request.total) == (4, 4)
        assert (counts.inference_batch_size.count, counts.inference_batch_size.total) == (1, 4)
        assert counts.server_latency.count == 4 and counts.server_latency.total > 0
        for stage in ("process_request", "run_inference", "process_response"):
            summed = getattr(counts, f"{stage}_latency")
            assert summed.count == 1 and summed.total >= 0
        await app.shutdown()

    asyncio.run(test())


@pytest.mark.parametrize(
    ("options", "error"),
    [
        ({"metrics_mode": "pull"}, "metrics_mode: expected scrape, push, off, got 'pull'"),
        ({"metrics_port": 9, "prom_port": 9}, "metrics_port: expected it once, got prom_port"),
        ({"metrics_host": "a b://c"}, "metrics_host"),
        ({"metrics_port": 70_000}, "metrics_port: expected int of 0 to 65535"),
        ({"metrics_mode": "push", "prom_push_interval": 0}, "metrics_interval: expected"),
        ({"metrics_mode": "push", "metrics_shared": True}, "metrics_shared: expected"),
        ({"metrics_port": "9090"}, "metrics_port: expected int of 0 to 65535, got '9090'"),
        ({"metrics_host": 5}, "metrics_host: expected text, got 5"),
        ({"max_batch_size": 0}, "max_batch_size: expected int of 1 to 65536, got 0"),
        ({"max_batch_size": True}, "max_batch_size: expected int"),
        ({"max_time_on_queue": -1}, "max_time_on_queue: expected float of 0 to 60, got -1"),
        ({"max_queue": 7}, "max_queue: no such option; .* max_queue_items"),
        ({"max_queue_items": 0}, "max_queue_items"),
    ],
)
def test_wrong_arguments_are_named(options: dict[str, Any], error: str) -> None:
    with pytest.raises(ValueError, match=error):
        http_server("x", Twice(), **options)


def test_a_handler_is_expected() -> None:
    with pytest.raises(TypeError, match=r"handler: expected an instance .* <class .*Twice"):
        http_server("x", Twice)  # type: ignore[arg-type]  # that is the point


def test_the_names_of_old_are_taken() -> None:
    app = http_server(
        "x", Twice(), prom_host="http://0.0.0.0", prom_port=9, prom_mode="off", prom_push_interval=1
    )
    found = app._metrics
    assert (found.metrics_host, found.metrics_port) == ("http://0.0.0.0", 9)
    assert (found.metrics_mode, found.metrics_interval) == ("off", 1)


def test_the_package_is_imported_without_any_framework() -> None:
    program = (
        "import sys; import virtex; from virtex.serial import *; import virtex.http.message;"
        "from virtex import HttpMessage, RequestHandler, http_server;"
        "heavy = {'numpy', 'pandas', 'PIL', 'torch', 'httpx2', 'gunicorn'};"
        "print(sorted(heavy & set(sys.modules)))"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )
    assert done.stdout == "[]\n"


def test_a_message_must_bring_an_api_key_where_there_are_any(tmp_path: Path) -> None:
    file = tmp_path / "keys"
    file.touch(mode=0o600)
    file.write_text("alice:correct-horse-battery")
    app: Any = made(keys_file=str(file))
    transport = httpx.ASGITransport(app)

    async def test() -> None:
        async with httpx.AsyncClient(transport=transport, base_url="http://app") as client:
            [body] = messages([1])
            refused = await client.post("/any/path", content=body)
            assert refused.status_code == 401
            assert "Bearer" in refused.headers["www-authenticate"]
            headers = {"authorization": "Bearer correct-horse-battery"}
            answer = await client.post("/any/path", content=body, headers=headers)
            assert (answer.status_code, answer.json()["data"]) == (200, [2])
        await app.shutdown()

    asyncio.run(test())
