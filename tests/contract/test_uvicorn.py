"""What headrace needs of uvicorn; `scripts/uvicorns` runs it over each release that is allowed."""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import os
import re
import socket
import ssl
import subprocess
import tempfile
import threading
import tomllib
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from pathlib import Path
from typing import Any

import pytest
import uvicorn
import uvloop

from headrace import Limits, Model, Server, ServerSettings
from headrace.http import server as http_server
from headrace.http.insides import FIRST_TESTED, FIRST_UNTESTED, is_tested
from headrace.http.server import UvicornServer, uvicorn_options
from headrace.listener import bind
from tests.unit.http.peers import Answer, get, parse, post

WAIT_S = 20.0
ROOT = Path(__file__).parents[2]

inside = pytest.mark.skipif(not is_tested(), reason="not one that headrace is tested with")
outside = pytest.mark.skipif(is_tested(), reason="one that headrace is tested with")


class Echo(Model):
    """Answers what it was asked; what it was asked to wait for comes late."""

    gate = threading.Event()
    is_running = threading.Event()

    def predict(self, batch: list[Any]) -> list[Any]:
        if "wait" in batch:
            self.is_running.set()
            self.gate.wait(WAIT_S)
        return batch


class Place:
    """Where a server listens.

    Args:
        address: A port, or a socket's path.
        trust: What a client trusts the server by, over TLS.
    """

    def __init__(self, address: int | str, trust: ssl.SSLContext | None = None) -> None:
        self.address = address
        self.trust = trust

    def connect(self) -> socket.socket:
        """A client's socket."""
        if isinstance(self.address, str):
            client = socket.socket(socket.AF_UNIX)
            client.settimeout(WAIT_S)
            client.connect(self.address)
            return client
        client = socket.create_connection(("127.0.0.1", self.address), timeout=WAIT_S)
        if self.trust is not None:
            return self.trust.wrap_socket(client, server_hostname="127.0.0.1")
        return client

    def talk(self, *pieces: bytes, finish: bool = False, count: int | None = None) -> list[Answer]:
        """Send; what is answered, until there are so many, or the server closes."""
        with self.connect() as client:
            for piece in pieces:
                client.sendall(piece)
            if finish:
                client.shutdown(socket.SHUT_WR)
            return take(client, count)

    def ask(self, path: str, **more: Any) -> Answer:
        [answer] = self.talk(get(path, **more), count=1)
        return answer


def take(client: socket.socket, count: int | None = None) -> list[Answer]:
    """What is answered, until there are so many, or the server closes."""
    data = b""
    while count is None or len(parse(data)) < count:
        piece = client.recv(1 << 16)
        if not piece:
            assert count is None, data
            break
        data += piece
    return parse(data)


@contextlib.contextmanager
def headrace_at(**settings: Any) -> Iterator[tuple[Place, Server]]:
    """`headrace serve`, on a thread."""
    ready = threading.Event()
    given = ServerSettings(**{"port": 0, "executor": "thread", **settings})
    server = Server(Echo, given, on_ready=lambda _: ready.set())
    code: Future[int] = Future()

    def run() -> None:
        try:
            code.set_result(server.run())
        except BaseException as error:
            code.set_exception(error)
            ready.set()

    thread = threading.Thread(target=run)
    thread.start()
    assert ready.wait(WAIT_S)
    trust = None if given.tls_cert is None else ssl.create_default_context(cafile=given.tls_cert)
    port = server.address.rpartition(":")[2]
    try:
        yield Place(given.uds or int(port), trust), server
    finally:
        Echo.gate.set()
        server.stop()
        thread.join(WAIT_S)
        assert code.result(0) == 0


@contextlib.contextmanager
def uvicorn_at(
    app: Any, *, options: dict[str, Any] | None = None, **settings: Any
) -> Iterator[tuple[Place, UvicornServer]]:
    """Another's application in uvicorn, with our connections, on a thread."""
    with bind(ServerSettings(port=0)) as listener:
        given = options or uvicorn_options(Limits(head_timeout_s=1.0), grace_s=0.05)
        config = uvicorn.Config(app, **given, lifespan="off", log_config=None, **settings)
        server = UvicornServer(config)
        thread = threading.Thread(target=lambda: uvloop.run(server.serve([listener])))
        port = listener.getsockname()[1]
        thread.start()
        try:
            yield Place(port), server
        finally:
            server.should_exit = True
            thread.join(WAIT_S)
            assert not thread.is_alive()


@pytest.fixture(autouse=True)
def gate() -> Iterator[None]:
    Echo.gate.clear()
    Echo.is_running.clear()
    yield
    Echo.gate.set()


@pytest.fixture(scope="module", params=[True, False], ids=["fast", "asgi"])
def served(request: pytest.FixtureRequest) -> Iterator[Place]:
    """One server for all tests that leave it as it was, by each way of a predict request."""
    with headrace_at(fast_path=request.param, limits=Limits(max_json_bytes=1000)) as (place, _):
        yield place


# The range


def test_this_is_the_release_that_is_to_be_tested() -> None:
    minor = os.environ.get("UVICORN_MINOR")
    assert minor is None or uvicorn.__version__.startswith(minor + ".")


def test_the_releases_that_are_installed_are_those_that_are_tested() -> None:
    with (ROOT / "pyproject.toml").open("rb") as file:
        wanted = tomllib.load(file)["project"]["dependencies"]
    [numbers] = [
        m.groups() for m in (re.fullmatch(r"uvicorn>=(\S+),<(\S+)", w) for w in wanted) if m
    ]
    assert [tuple(map(int, each.split("."))) for each in numbers] == [FIRST_TESTED, FIRST_UNTESTED]


def test_another_release_is_told_once_and_serves_with_its_own_connections(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    if is_tested():  # else it is true as it stands
        monkeypatch.setattr(http_server, "is_tested", lambda: False)
    for fast_path in (True, False):
        caplog.clear()
        with headrace_at(fast_path=fast_path) as (place, _):
            [told] = [r for r in caplog.records if "is not one that headrace" in r.message]
            assert told.levelno == logging.WARNING
            assert "(0.48 to before 0.55)" in told.message
            assert [a.body for a in place.talk(post(b"[1]") * 2, count=2)] == [b"[1]"] * 2
            assert place.ask("/livez").body == b"ok\n"


@outside
def test_it_is_outside_of_the_range() -> None:
    assert uvicorn_options()["http"] == "httptools"


# headrace serve


@inside
def test_predictions_and_pages(served: Place) -> None:
    answers = served.talk(*[post(b"[%d]" % n) for n in range(9)], count=9)
    assert [answer.body for answer in answers] == [b"[%d]" % n for n in range(9)]
    for path in ("/livez", "/readyz", "/metrics", "/openapi.json", "/"):
        assert served.ask(path).status == 200
    assert served.ask("/nowhere").status == 404
    assert "date" in served.ask("/livez").headers and "date" in answers[-1].headers
    assert served.ask("/livez").headers.get("server") is None


@inside
def test_requests_sent_at_once_are_answered_in_order(served: Place) -> None:
    both = b"".join(post(b"[%d]" % n) + get("/livez") for n in range(100))
    bodies = [answer.body for answer in served.talk(both, count=200)]
    assert bodies == [body for n in range(100) for body in (b"[%d]" % n, b"ok\n")]


@inside
def test_a_head_has_no_body(served: Place) -> None:
    with served.connect() as client:
        client.sendall(get("/livez", "connection: close\r\n", method="HEAD"))
        data = b""
        while piece := client.recv(1 << 16):
            data += piece
    assert data.startswith(b"HTTP/1.1 200 OK\r\n") and data.endswith(b"\r\n\r\n")


@inside
@pytest.mark.parametrize(
    "last",
    [
        post(b"[1]", "connection: close\r\n"),
        post(b"[1]", version="1.0"),
        get("/livez", "connection: close\r\n"),
        b"GET /livez HTTP/1.0\r\n\r\n",
    ],
)
def test_the_last_request_ends_the_connection(served: Place, last: bytes) -> None:
    assert [answer.status for answer in served.talk(post(b"[1]") + last)] == [200, 200]


@inside
def test_a_body_is_asked_for(served: Place) -> None:
    head, body = post(b"[1]", "expect: 100-continue\r\nconnection: close\r\n"), b"[1]"
    with served.connect() as client:
        client.sendall(head[: -len(body)])
        assert [answer.status for answer in take(client, 1)] == [100]
        client.sendall(body)
        assert [answer.body for answer in take(client)] == [body]


@inside
def test_a_body_over_the_limit_is_refused(served: Place) -> None:
    [answer] = served.talk(post(b" " * 1001))
    assert (answer.status, answer.headers["connection"]) == (413, "close")


@inside
def test_what_is_no_http_is_refused(served: Place) -> None:
    [answer] = served.talk(b"NONSENSE\r\n\r\n")
    assert (answer.status, json.loads(answer.body)["code"]) == (400, "bad_request")


@inside
def test_a_client_that_sends_no_more_gets_its_answers(served: Place) -> None:
    for before in (0, 3):
        answers = served.talk(*[post(b"[1]")] * before, post(b"[2]") + get("/livez"), finish=True)
        bodies = [answer.body for answer in answers if answer.status != 100]
        assert bodies == [b"[1]"] * before + [b"[2]", b"ok\n"]


@inside
@pytest.mark.parametrize("fast_path", [True, False])
def test_a_drain_answers_what_it_has_and_ends_what_is_idle(fast_path: bool) -> None:
    with headrace_at(fast_path=fast_path) as (place, server):
        with place.connect() as idle, place.connect() as busy:
            idle.sendall(get("/livez"))
            assert len(take(idle, 1)) == 1
            busy.sendall(post(b'"wait"'))
            assert Echo.is_running.wait(WAIT_S)
            server.stop()
            assert idle.recv(1) == b"", "it is ended while the other is waited for"
            Echo.gate.set()
            [answer] = take(busy)
            assert (answer.status, answer.headers["connection"]) == (200, "close")


@inside
@pytest.mark.parametrize("fast_path", [True, False])
def test_over_unix_sockets_and_tls(fast_path: bool, tmp_path: Path) -> None:
    with tempfile.TemporaryDirectory() as folder:
        with headrace_at(fast_path=fast_path, uds=folder + "/s") as (place, _):
            assert [a.body for a in place.talk(*[post(b"[1]")] * 4, count=4)] == [b"[1]"] * 4
            assert place.ask("/livez").status == 200
    cert, key = str(tmp_path / "cert"), str(tmp_path / "key")
    command = ["openssl", "req", "-x509", "-newkey", "ec", "-nodes", "-days", "2"]
    command += ["-pkeyopt", "ec_paramgen_curve:prime256v1", "-subj", "/CN=a test"]
    command += ["-addext", "subjectAltName=IP:127.0.0.1", "-keyout", key, "-out", cert]
    subprocess.run(command, check=True, capture_output=True)
    with headrace_at(fast_path=fast_path, tls_cert=cert, tls_key=key) as (place, _):
        assert [a.body for a in place.talk(*[post(b"[1]")] * 4, count=4)] == [b"[1]"] * 4
        assert place.ask("/livez", headers="connection: close\r\n").status == 200


# Others' applications


Receive = Callable[[], Any]
Send = Callable[[dict[str, Any]], Any]


async def application(scope: dict[str, Any], receive: Receive, send: Send) -> None:
    """Does what the path says."""
    what = scope["path"].strip("/")
    if what == "raise":
        raise ValueError("on purpose")
    body = b""
    if what == "read":
        is_more = True
        while is_more:
            message = await receive()
            body += message["body"]
            is_more = message["more_body"]
    if what == "scope":
        told = {key: scope[key] for key in ("type", "method", "http_version", "scheme", "path")}
        body = json.dumps({**told, "client": scope["client"][0]}).encode()
    if what == "vanished":
        while (await receive())["type"] != "http.disconnect":
            pass
        application_was_told.set()
        return
    await send({"type": "http.response.start", "status": 200, "headers": []})
    for piece in (b"one", b"two"):
        await send({"type": "http.response.body", "body": piece, "more_body": True})
    if what == "half":
        return
    if what == "large":
        for _ in range(64):
            await send({"type": "http.response.body", "body": b"x" * 65536, "more_body": True})
    await send({"type": "http.response.body", "body": body})


application_was_told = threading.Event()


@pytest.fixture(scope="module")
def others() -> Iterator[Place]:
    with uvicorn_at(application) as (place, _):
        yield place


@inside
def test_a_chunked_answer_is_put_together(others: Place) -> None:
    answers = others.talk(get("/") + get("/large") + get("/"), count=3)
    assert [len(answer.body) for answer in answers] == [6, 6 + 64 * 65536, 6]
    assert answers[0].headers["transfer-encoding"] == "chunked"


@inside
def test_a_body_is_read_whatever_its_form(others: Place) -> None:
    chunked = (
        b"POST /read HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n"
    )
    large = b"x" * 300_000
    answers = others.talk(chunked + post(large, path="/read") + get("/read"), count=3)
    assert [answer.body for answer in answers] == [b"onetwoabc", b"onetwo" + large, b"onetwo"]


@inside
def test_the_scope_says_what_there_is(others: Place) -> None:
    told = json.loads(others.ask("/scope").body.removeprefix(b"onetwo"))
    assert told == {
        "type": "http",
        "method": "GET",
        "http_version": "1.1",
        "scheme": "http",
        "path": "/scope",
        "client": "127.0.0.1",
    }


@inside
def test_an_application_that_fails_is_answered_for_and_logged(
    others: Place, caplog: pytest.LogCaptureFixture
) -> None:
    [answer] = others.talk(get("/raise") + get("/"))
    assert (answer.status, answer.headers["connection"]) == (500, "close")
    assert "Exception in ASGI application" in caplog.text
    with others.connect() as client:
        client.sendall(get("/half"))
        data = b""
        while piece := client.recv(1 << 16):
            data += piece
    assert data.endswith(b"3\r\ntwo\r\n"), "an answer that is not whole has no end"


@inside
def test_an_application_is_told_that_its_client_has_gone(others: Place) -> None:
    application_was_told.clear()
    client = others.connect()
    client.sendall(get("/vanished"))
    client.close()
    assert application_was_told.wait(WAIT_S)


@inside
def test_a_head_that_does_not_come_is_answered(others: Place) -> None:
    [answer] = others.talk(b"GET /")
    assert answer.status == 408


@inside
def test_more_at_once_than_uvicorn_may_run_are_told_so() -> None:
    with uvicorn_at(application, limit_concurrency=2) as (place, _):
        with place.connect():
            assert place.ask("/").status == 503


@inside
def test_more_connections_than_wanted_are_told_so() -> None:
    options = uvicorn_options(max_connections=1)
    with uvicorn_at(application, options=options) as (place, _), place.connect() as first:
        first.sendall(get("/"))
        take(first, 1)
        assert [answer.status for answer in place.talk(get("/"))] == [503]


@inside
def test_a_drain_waits_for_an_application() -> None:
    begun, gate = threading.Event(), asyncio.Event()
    loops: list[asyncio.AbstractEventLoop] = []

    async def slow(scope: Any, receive: Receive, send: Send) -> None:
        loops.append(asyncio.get_running_loop())
        begun.set()
        await gate.wait()
        await application(scope, receive, send)

    with uvicorn_at(slow) as (place, server), place.connect() as client:
        client.sendall(get("/"))
        assert begun.wait(WAIT_S)
        server.should_exit = True
        threading.Timer(0.3, loops[0].call_soon_threadsafe, [gate.set]).start()
        [answer] = take(client)
        assert answer.body == b"onetwo"
