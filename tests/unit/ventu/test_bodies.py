"""What is sent: instances of the schema, and errors of all kinds."""

from __future__ import annotations

import asyncio
import threading
from typing import Any

import falcon
import httpx
import msgspec
import pytest
from falcon import testing
from pydantic import BaseModel, ConfigDict, Field, RootModel

from tests.unit.ventu.models import Length, Single, Text
from ventu import Ventu
from ventu.bodies import Bodies, BrokenResponse, refusal_of


class Inner(BaseModel):
    x: int = Field(alias="ex")


class Outer(BaseModel):
    inner: Inner
    others: list[Inner] = []
    by_name: dict[str, Inner] = {}
    hidden: int = Field(default=7, exclude=True)


class Numbers(RootModel[list[int]]):
    pass


class Named(RootModel[dict[str, Inner]]):
    pass


def written(schema: type[BaseModel], value: Any, use_msgpack: bool = False) -> Any:
    body = Bodies(Text, schema, use_msgpack).write(value)
    return msgspec.msgpack.decode(body) if use_msgpack else msgspec.json.decode(body)


@pytest.mark.parametrize("use_msgpack", [False, True])
def test_instances_are_sent_as_they_are(use_msgpack: bool) -> None:
    one = Inner(ex=1)
    outer = Outer(inner=one, others=[one], by_name={"a": one}, hidden=7)
    expected = {"inner": {"ex": 1}, "others": [{"ex": 1}], "by_name": {"a": {"ex": 1}}}
    assert written(Outer, outer, use_msgpack) == expected
    assert written(Numbers, Numbers([1, 2]), use_msgpack) == [1, 2]
    assert written(Named, Named({"a": one}), use_msgpack) == {"a": {"ex": 1}}


def test_an_instance_that_was_changed_within_is_not_sent() -> None:
    for place in ("inner", "others", "by_name"):
        one, bad = Inner(ex=1), Inner.model_construct(x="bad")
        outer = Outer(inner=one, others=[one], by_name={"a": one}, hidden=7)
        setattr(outer, place, {"inner": bad, "others": [bad], "by_name": {"a": bad}}[place])
        with pytest.raises(BrokenResponse, match=place):
            written(Outer, outer)
    with pytest.raises(BrokenResponse):
        written(Numbers, Numbers.model_construct(["bad"]))  # type: ignore[list-item]


def test_what_an_error_says_can_be_sent() -> None:
    refusal = refusal_of(falcon.HTTPBadRequest(title="t", description="\udc80"))
    assert refusal is not None and refusal.problem == {"title": "t", "description": "\\udc80"}

    class Odd(Single):
        def preprocess(self, data: Text) -> str:
            raise falcon.HTTPBadRequest(title="t", description=f"no \udc80 in {data.text}")

    app = Odd(Text, Length)
    app.examples = []  # it would fail its health check
    answer = testing.TestClient(app.app).simulate_post("/inference", json={"text": "a"})
    assert (answer.status_code, answer.json["description"]) == (400, "no \\udc80 in a")


class Stream:
    """A body that ends early, or fails, as a server's may."""

    def __init__(self, data: bytes, error: Exception | None = None) -> None:
        self._data = data
        self._error = error

    def read(self, size: int = -1) -> bytes:
        if self._error is not None:
            raise self._error
        data, self._data = self._data, b""
        return data


@pytest.mark.parametrize(
    ("length", "stream", "status", "text"),
    [
        (40, Stream(b'{"text": "a"}'), 400, "expected a body of 40 bytes, got 13"),
        (40, Stream(b"", OSError("reset")), 400, "the body could not be read"),
        (10**11, Stream(b""), 413, "expected a body of at most 67108864 bytes"),
    ],
)
def test_a_body_that_does_not_come_is_the_clients_fault(
    length: int, stream: Stream, status: int, text: str, caplog: pytest.LogCaptureFixture
) -> None:
    model = Single(Text, Length)
    environ = testing.create_environ("/inference", method="POST")
    environ |= {"CONTENT_LENGTH": str(length), "wsgi.input": stream}
    started: list[str] = []

    def start_response(status: str, headers: Any, *_: Any) -> Any:
        started.append(status)

    body = b"".join(model.app(environ, start_response))
    assert started[0].startswith(str(status))
    assert text in body.decode()
    assert not [record for record in caplog.records if record.levelname == "ERROR"]


def test_a_stop_during_the_first_health_check_is_not_lost() -> None:
    entered, go_on = threading.Event(), threading.Event()

    class Slow(Single):
        def batch_inference(self, batch: list[str]) -> list[int]:
            entered.set()
            assert go_on.wait(30)
            return [len(text) for text in batch]

    model = Slow(Text, Length)
    thread = threading.Thread(target=model.run_unix, args=["nobody-listens-here"])
    thread.start()
    assert entered.wait(30)
    model.stop()
    go_on.set()
    thread.join(30)
    assert not thread.is_alive()


def test_a_function_may_add_the_examples() -> None:
    def add(schema: dict[str, Any]) -> None:
        schema["example"] = {"text": "hello"}
        schema["properties"]["text"].pop("title")

    class Asked(BaseModel):
        text: str
        model_config = ConfigDict(json_schema_extra=add)

    model: Ventu = Single(Asked, Length)
    assert model.req_example == {"text": "hello"}
    assert model.health_check() is True


def test_a_service_below_a_path_knows_its_own() -> None:
    app = Single(Text, Length).asgi_app

    async def test() -> list[Any]:
        # httpx is stricter than servers are: a scope is any mapping to it, and a dict in fact.
        transport = httpx.ASGITransport(app, root_path="/api")  # type: ignore[arg-type]
        async with httpx.AsyncClient(transport=transport, base_url="http://x") as client:
            answers = [
                await client.get("/api/health"),
                await client.post("/api/inference", json={"text": "abc"}),
                await client.get("/health"),
            ]
        await app.shutdown()
        return [(answer.status_code, answer.json()) for answer in answers]

    health = 200, {"inference": "OK", "service": "OK"}
    assert asyncio.run(test()) == [health, (200, {"length": 3}), health]
