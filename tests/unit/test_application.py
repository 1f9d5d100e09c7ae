"""headrace inside somebody else's ASGI server, which the tests play by hand."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any, ClassVar

import httpx
import pytest

from headrace import Application, Auth, ConfigError, Messages, Model, ServerSettings
from headrace.errors import HeadraceError

Message = dict[str, Any]


class Double(Model):
    loaded: ClassVar[list[str]] = []

    def load(self) -> None:
        self.loaded.append("load")

    def predict(self, batch: list[int]) -> list[int]:
        return [2 * number for number in batch]

    def unload(self) -> None:
        self.loaded.append("unload")


class Broken(Model):
    def load(self) -> None:
        raise OSError("no weights")

    def predict(self, batch: list[int]) -> list[int]:
        return batch


@pytest.fixture(autouse=True)
def forget() -> None:
    Double.loaded.clear()


def client(app: Application) -> httpx.AsyncClient:
    # httpx is stricter than servers are: a scope is any mapping to it, and a dict in fact.
    transport = httpx.ASGITransport(app)  # type: ignore[arg-type]
    return httpx.AsyncClient(transport=transport, base_url="http://app")


class Lifespan:
    """The lifespan that a server keeps with an application."""

    def __init__(self, app: Application) -> None:
        self._to_app: asyncio.Queue[Message] = asyncio.Queue()
        self._from_app: asyncio.Queue[Message] = asyncio.Queue()
        scope = {"type": "lifespan"}
        self._task = asyncio.ensure_future(app(scope, self._to_app.get, self._from_app.put))

    async def tell(self, kind: str) -> Message:
        await self._to_app.put({"type": f"lifespan.{kind}"})
        return await self._from_app.get()

    async def ended(self) -> None:
        await self._task


def run(test: Callable[[], Awaitable[None]]) -> None:
    async def bounded() -> None:
        async with asyncio.timeout(30):
            await test()

    asyncio.run(bounded())


@pytest.mark.parametrize("executor", ["inline", "thread"])
def test_it_lives_with_its_servers_lifespan(executor: Any) -> None:
    async def test() -> None:
        app = Application(Double, ServerSettings(executor=executor))
        assert Double.loaded == [] and app.engines == []
        lifespan = Lifespan(app)
        assert await lifespan.tell("startup") == {"type": "lifespan.startup.complete"}
        assert Double.loaded == ["load"]
        async with client(app) as asked:
            assert (await asked.post("/predict", json=21)).json() == 42
            assert (await asked.get("/readyz")).json()["ready"] is True
            assert "headrace_items_total" in (await asked.get("/metrics")).text
        assert await lifespan.tell("shutdown") == {"type": "lifespan.shutdown.complete"}
        await lifespan.ended()
        assert Double.loaded == ["load", "unload"]

    run(test)


def test_without_a_lifespan_the_first_request_begins_it() -> None:
    async def test() -> None:
        app = Application([Double])
        async with client(app) as asked:
            answers = await asyncio.gather(*(asked.post("/predict", json=n) for n in range(5)))
        assert [answer.json() for answer in answers] == [0, 2, 4, 6, 8]
        assert Double.loaded == ["load"]
        await app.shutdown()
        await app.shutdown()
        assert Double.loaded == ["load", "unload"]

    run(test)


def test_it_serves_again_on_another_loop() -> None:
    app = Application(Double)

    async def test() -> None:
        async with client(app) as asked:
            assert (await asked.post("/predict", json=4)).json() == 8
        assert app.http_counts.requests[("/predict", 200)] == 1

    run(test)  # this loop closes without a word
    run(test)
    assert Double.loaded == ["load", "unload", "load"]


def test_two_loops_at_once_are_refused() -> None:
    app = Application(Double)

    async def test() -> None:
        await app.startup()

        async def elsewhere() -> None:
            with pytest.raises(RuntimeError, match="another event loop"):
                await app.startup()

        await asyncio.to_thread(asyncio.run, elsewhere())
        await app.shutdown()

    run(test)


def test_a_start_that_raises_leaves_nothing_behind() -> None:
    told = []

    class Failing(Application):
        def on_startup(self) -> None:
            raise OSError("no port")

        def on_shutdown(self) -> None:
            told.append("shutdown")

    async def test() -> None:
        for _ in range(2):
            with pytest.raises(OSError, match="no port"):
                await Failing(Double).startup()
        assert told == ["shutdown"] * 2

    run(test)


def test_a_start_that_fails_is_told() -> None:
    async def test() -> None:
        lifespan = Lifespan(Application(Broken))
        told = await lifespan.tell("startup")
        assert told["type"] == "lifespan.startup.failed"
        assert told["message"] == "broken: load raised OSError: no weights"
        await lifespan.ended()
        with pytest.raises(HeadraceError, match="no weights"):
            await Application(Broken).startup()

    run(test)


def test_requests_to_a_model_that_failed_to_start_are_answered() -> None:
    async def test() -> None:
        async with client(Application(Broken)) as asked:
            answer = await asked.post("/predict", json=4)
        assert (answer.status_code, answer.json()["code"]) == (503, "not_ready")
        assert "weights" not in answer.text

    run(test)


def test_in_one_dialect_every_path_is_the_models() -> None:
    async def test() -> None:
        app = Application(Double, dialect=Messages("Twice"))
        async with client(app) as asked:
            for path in ("/", "/predict", "/any/where", "/metrics"):
                answer = await asked.post(path, content=b'{"data": [1, 2]}')
                assert answer.json() == {"data": [2, 4], "error": None}
            answer = await asked.get("/metrics")
            assert (answer.status_code, answer.headers["allow"]) == (400, "POST")
            assert answer.json() == {"data": [], "error": "expected POST, got GET"}
        assert app.engines[0].counts.items["ok"] == 8

    run(test)


def test_in_one_dialect_a_websocket_is_refused() -> None:
    async def test() -> None:
        app = Application(Double, dialect=Messages())
        sent: list[Message] = []

        async def receive() -> Message:
            return {"type": "websocket.connect"}

        async def send(message: Message) -> None:
            sent.append(message)

        await app({"type": "websocket", "path": "/"}, receive, send)
        assert sent == [{"type": "websocket.close", "code": 1003}]

    run(test)


def test_subclasses_are_told_when_it_begins_and_ends() -> None:
    told = []

    class Telling(Application):
        def on_startup(self) -> None:
            told.append("startup")

        def on_shutdown(self) -> None:
            told.append("shutdown")

    async def test() -> None:
        app = Telling(Double)
        assert told == []
        await app.startup()
        await app.startup()
        assert told == ["startup"]
        await app.shutdown()
        await app.shutdown()
        assert told == ["startup", "shutdown"]

    run(test)


@pytest.mark.parametrize("executor", ["process", "remote"])
def test_worker_processes_need_a_server_of_ours(executor: Any) -> None:
    with pytest.raises(ConfigError, match=f"expected inline or thread .* got {executor}"):
        Application("app:Double", ServerSettings(executor=executor))


def test_a_hung_replica_is_told_at_livez() -> None:
    async def test() -> None:
        app = Application(Double)
        async with client(app) as asked:
            assert (await asked.get("/livez")).status_code == 200
            app._running().replica_hung("double")
            assert (await asked.get("/livez")).status_code == 503
        await app.shutdown()

    run(test)


def test_json_goes_both_ways_in_the_page_of_what_is_served() -> None:
    async def test() -> None:
        app = Application(Double)
        async with client(app) as asked:
            overview = json.loads((await asked.get("/")).text)
            assert overview["models"][0]["name"] == "double"
            answer = await asked.post("/", content=b'{"data": [3]}')
            assert answer.json() == {"data": [6], "error": None}
        await app.shutdown()

    run(test)


def test_api_keys_are_asked_for_and_read_again(tmp_path: Path) -> None:
    file = tmp_path / "keys"
    file.touch(mode=0o600)
    file.write_text("alice:correct-horse-battery")
    app = Application(Double, ServerSettings(executor="inline", auth=Auth(keys_file=str(file))))

    async def test() -> None:
        async with client(app) as asked:

            async def status(secret: str) -> int:
                headers = {"x-api-key": secret}
                return (await asked.post("/predict", json=1, headers=headers)).status_code

            assert await status("correct-horse-battery") == 200
            assert await status("correct-horse-staple1") == 401
            file.write_text("alice:correct-horse-staple1")
            app.reload()
            assert await status("correct-horse-battery") == 401
            assert await status("correct-horse-staple1") == 200
            file.write_text("alice")
            with pytest.raises(ConfigError, match="line 1"):
                app.reload()
            assert await status("correct-horse-staple1") == 200
        await app.shutdown()

    run(test)
    with pytest.raises(ConfigError, match="No such file"):
        Application(Double, ServerSettings(executor="inline", auth=Auth(keys_file="/nowhere")))


def test_api_keys_may_be_read_again_before_it_serves(tmp_path: Path) -> None:
    Application(Double).reload()
