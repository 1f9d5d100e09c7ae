"""The client, against servers that do just what a test says."""

from __future__ import annotations

import asyncio
import base64
import datetime
import email.utils
import gc
import json
import logging
import os
import socket
import ssl
import subprocess
import sys
import textwrap
import threading
import time
import warnings
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from virtex.core.logging import LOGGER
from virtex.http.client import HttpClient, HttpError
from virtex.http.exchange import target_of
from virtex.http.message import HttpMessage

WAIT_S = 20.0
"""For what should happen soon; a busy machine may be late."""


def eventually(is_true: Callable[[], Any], what: str) -> None:
    ends = time.monotonic() + WAIT_S
    while not is_true():
        assert time.monotonic() < ends, f"not within {WAIT_S} s: {what}"
        time.sleep(0.005)


async def soon(is_true: Callable[[], Any], what: str) -> None:
    """`eventually`, while the event loop goes on."""
    await asyncio.to_thread(eventually, is_true, what)


class Request:
    """What came: the head, the body, and where it came in."""

    def __init__(self, head: str, body: bytes, connection: int, number: int) -> None:
        self.head = head
        self.line, *lines = head.split("\r\n")
        self.headers = dict(line.lower().split(": ", 1) for line in lines)
        self.body = body
        self.connection = connection
        self.number = number


def answer(status: int, body: bytes, headers: str = "") -> bytes:
    return f"HTTP/1.1 {status} X\r\ncontent-length: {len(body)}\r\n{headers}\r\n".encode() + body


def echo(request: Request) -> bytes:
    return answer(200, request.body)


def read_request(wire: socket.socket) -> None:
    """Read to a request's end: who hangs up before has reset the connection."""
    with wire.makefile("rb") as reading:
        length = 0
        while (line := reading.readline()) != b"\r\n":
            if line.lower().startswith(b"content-length:"):
                length = int(line.partition(b":")[2])
        reading.read(length)


class Server:
    """A server of one script: it answers a request by what `script` returns; None hangs up.

    The script may also write on `wire(request)` itself.
    """

    def __init__(
        self,
        script: Callable[[Request], bytes | None] = echo,
        tls: ssl.SSLContext | None = None,
    ) -> None:
        self.script = script
        self.tls = tls
        self.requests: list[Request] = []
        self.connections = 0
        self.open = 0
        self.most_open = 0
        self.released = threading.Event()
        self._wires: dict[int, socket.socket] = {}
        self._threads: list[threading.Thread] = []
        self._lock = threading.Lock()
        self.listener = socket.create_server(("127.0.0.1", 0), backlog=256)
        self.place = f"127.0.0.1:{self.listener.getsockname()[1]}"
        self.url = f"http://{self.place}/"
        self._begin(self._accept)

    def wire(self, request: Request) -> socket.socket:
        return self._wires[request.connection]

    def close(self) -> None:
        self.released.set()
        # Wakes the thread that accepts, which close alone does not.
        self.listener.shutdown(socket.SHUT_RDWR)
        with self._lock:
            for wire in self._wires.values():
                try:
                    wire.shutdown(socket.SHUT_RDWR)
                except OSError:
                    pass  # its client has ended it
        for thread in list(self._threads):
            thread.join(WAIT_S)
            assert not thread.is_alive()
        self.listener.close()

    def _begin(self, work: Callable[..., None], *arguments: Any) -> None:
        thread = threading.Thread(target=work, args=arguments, daemon=True)
        self._threads.append(thread)
        thread.start()

    def _accept(self) -> None:
        while not self.released.is_set():
            try:
                wire, _ = self.listener.accept()
            except OSError:
                return
            with self._lock:
                self.connections += 1
                self.open += 1
                self.most_open = max(self.most_open, self.open)
                self._wires[self.connections] = wire
                number = self.connections
            if self.released.is_set():
                wire.close()
                return
            self._begin(self._serve, wire, number)

    def _serve(self, wire: socket.socket, connection: int) -> None:
        try:
            if self.tls is not None:
                wire = self.tls.wrap_socket(wire, server_side=True)
                self._wires[connection] = wire
            with wire, wire.makefile("rb") as reading:
                while request := self._read(reading, connection):
                    reply = self.script(request)
                    if reply is None:
                        break
                    wire.sendall(reply)
        except OSError:
            pass  # the client has gone
        finally:
            with self._lock:
                self.open -= 1
                del self._wires[connection]

    def _read(self, reading: Any, connection: int) -> Request | None:
        head = b""
        while not head.endswith(b"\r\n\r\n"):
            line = reading.readline()
            if not line:
                return None
            head += line
        request = Request(head.decode().strip(), b"", connection, 0)
        request.body = reading.read(int(request.headers["content-length"]))
        with self._lock:
            self.requests.append(request)
            request.number = len(self.requests)
        return request


@contextmanager
def serving(
    script: Callable[[Request], bytes | None] = echo, tls: ssl.SSLContext | None = None
) -> Iterator[Server]:
    server = Server(script, tls)
    try:
        yield server
    finally:
        server.close()


Post = Callable[..., HttpMessage]


@pytest.fixture(params=["sync", "async"])
def post(request: pytest.FixtureRequest) -> Post:
    """One post by a client of its own, in either way: `post(server_url, message, **options)`."""

    def once(url: str, message: Any, *, raise_errors: bool = False, **options: Any) -> HttpMessage:
        if request.param == "sync":
            with HttpClient(url, **options) as client:
                return client.post(message, raise_errors=raise_errors)

        async def run() -> HttpMessage:
            async with HttpClient(url, **options) as client:
                return await client.post_async(message, raise_errors=raise_errors)

        return asyncio.run(run())

    return once


@pytest.fixture
def refusing() -> Iterator[socket.socket]:
    """A port that is taken, so that nobody else gets it, and to which nobody listens."""
    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))
        yield bound


def url_of(bound: socket.socket) -> str:
    return f"http://127.0.0.1:{bound.getsockname()[1]}/"


# What goes out, and what comes back


def test_a_message_is_posted_as_json_and_its_answer_is_a_message(post: Post) -> None:
    with serving() as server:
        got = post(server.url + "some/path?q=1", HttpMessage(data=[1, "zwei"], user="ann"))
    assert type(got) is HttpMessage
    assert got == HttpMessage(data=[1, "zwei"], user="ann")
    (sent,) = server.requests
    assert sent.line == "POST /some/path?q=1 HTTP/1.1"
    assert sent.headers["host"] == server.place
    assert sent.headers["content-type"] == "application/json"
    assert json.loads(sent.body) == {"data": [1, "zwei"], "error": None, "user": "ann"}


def test_a_plain_dict_is_a_message_too(post: Post) -> None:
    with serving() as server:
        assert post(server.url, {"data": [1]}) == HttpMessage(data=[1])
    assert server.requests[0].body == b'{"data":[1]}'


def test_a_url_of_its_own_takes_the_place_of_the_clients() -> None:
    with serving() as server, HttpClient("http://127.0.0.1:9/") as client:
        assert client.post(server.url, {"data": [1]}).data == [1]
        assert client.post(url=server.url, message={"data": [2]}).data == [2]
        assert client.post_bundle(server.url, [{"data": [3]}])[0].data == [3]

        async def run() -> list[Any]:
            answers = await client.post_bundle_async(server.url, [{"data": [4]}])
            return [*answers, await client.post_async(server.url, {"data": [5]})]

        assert [answered.data for answered in asyncio.run(run())] == [[4], [5]]


def test_the_urls_user_and_the_clients_headers_are_sent(post: Post) -> None:
    with serving() as server:
        url = server.url.replace("http://", "http://ann:s%20t@")
        post(url, {"data": []}, headers={"X-Trace": "1 2"})
    headers = server.requests[0].headers
    assert headers["x-trace"] == "1 2"
    scheme, credentials = server.requests[0].head.partition("uthorization: ")[2].split()[:2]
    assert (scheme, base64.b64decode(credentials)) == ("Basic", b"ann:s t")
    assert headers["host"] == server.place


@pytest.mark.parametrize(
    ("message", "kind"),
    [
        pytest.param({"data": [float("nan")]}, ValueError, id="nan"),
        pytest.param({"data": [object()]}, TypeError, id="object"),
        pytest.param([1, 2], TypeError, id="list"),
        pytest.param("text", TypeError, id="text"),
        pytest.param(None, TypeError, id="none"),
    ],
)
def test_what_is_no_message_raises_at_once_and_validate_message_says_so(
    post: Post, message: Any, kind: type[Exception]
) -> None:
    with serving() as server:
        with pytest.raises(kind):
            post(server.url, message)
        with HttpClient(server.url) as client, pytest.raises(kind):
            client.post_bundle([{"data": [1]}, message])
        assert server.requests == []
    assert HttpClient().validate_message(message) is False


def test_validate_message_is_true_for_what_can_be_posted() -> None:
    assert HttpClient().validate_message(HttpMessage(data=[1])) is True
    assert HttpClient().validate_message({"data": []}) is True


def test_validate_message_logs_the_reason(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.ERROR, LOGGER.name):
        HttpClient().validate_message([])
    assert "expected an HttpMessage or a dict, got list" in caplog.text


# Errors of the server


def test_an_error_status_gives_the_servers_own_text(post: Post) -> None:
    body = HttpMessage(error="echo caught exception: no", code="model").json
    with serving(lambda _: answer(500, body)) as server:
        got = post(server.url, {"data": [1]})
        assert got == HttpMessage(error="echo caught exception: no", code="model")
        with pytest.raises(HttpError, match=r"^echo caught exception: no$") as raised:
            post(server.url, {"data": [1]}, raise_errors=True)
    assert raised.value.error == "echo caught exception: no"
    assert (raised.value.status, raised.value.retry_after_s) == (500, None)


@pytest.mark.parametrize(
    "body", [b"<h1>no</h1>", b"", b'{"error": null}', b"[1]", b"\xff"], ids=repr
)
def test_an_error_status_without_an_error_text_gives_the_status(post: Post, body: bytes) -> None:
    with serving(lambda _: answer(502, body)) as server:
        assert post(server.url, {}).error == f"{server.place}: 502 Bad Gateway"


def test_an_error_status_with_unusable_data_keeps_the_servers_text(post: Post) -> None:
    with serving(lambda _: answer(500, b'{"data":5,"error":"it broke"}')) as server:
        assert post(server.url, {}) == HttpMessage(error="it broke")


def test_a_redirect_is_not_followed(post: Post) -> None:
    with serving() as other:
        location = f"location: {other.url}\r\n"
        with serving(lambda _: answer(307, b"", location)) as server:
            assert post(server.url, {}).error == f"{server.place}: 307 Temporary Redirect"
        assert other.connections == 0


def test_an_unknown_status_is_given_by_its_number(post: Post) -> None:
    with serving(lambda _: answer(599, b"")) as server:
        assert post(server.url, {}).error == f"{server.place}: 599"


def test_an_error_in_a_good_answer_stands_and_is_raised_when_asked(post: Post) -> None:
    with serving(lambda _: answer(200, b'{"data":[1],"error":"half"}')) as server:
        assert post(server.url, {}) == HttpMessage(data=[1], error="half")
        with pytest.raises(HttpError, match="half"):
            post(server.url, {}, raise_errors=True)


@pytest.mark.parametrize(
    ("body", "says"),
    [
        (b"<html>", "expected a message (a JSON object), got no JSON"),
        (b"", "expected a message (a JSON object), got no JSON"),
        (b"\xff\xfe", "expected a message (a JSON object), got no JSON"),
        (b"[" * 100_000, "expected a message (a JSON object), got no JSON"),
        (b"[1,2]", "expected a message (a JSON object), got a list"),
        (b'"text"', "expected a message (a JSON object), got text"),
        (b"null", "expected a message (a JSON object), got null"),
        (b"1.5", "expected a message (a JSON object), got a number"),
        (b'{"data":{}}', "expected a list as `data`, got an object"),
        (b'{"data":true}', "expected a list as `data`, got true or false"),
    ],
    ids=lambda value: repr(value)[:20],
)
def test_a_body_that_is_no_message_is_an_error_that_says_so(
    post: Post, body: bytes, says: str
) -> None:
    with serving(lambda _: answer(200, body)) as server:
        got = post(server.url, {"data": [1]})
    assert got == HttpMessage(error=f"{server.place}: {says}")


@pytest.mark.parametrize("body", [b"{}", b'{"data":null}', b'{"data":[],"self":1}'], ids=repr)
def test_any_object_whose_data_is_a_list_or_absent_is_a_message(post: Post, body: bytes) -> None:
    with serving(lambda _: answer(200, body)) as server:
        got = post(server.url, {})
    assert (got.data, got.error, got.get("self")) == ([], None, json.loads(body).get("self"))


# Errors on the way


def test_a_refused_connection_is_an_error_that_says_where(
    post: Post, refusing: socket.socket
) -> None:
    url = url_of(refusing)
    got = post(url.replace("//", "//ann:secret@"), {"data": [1]}, retries=0)
    assert got == HttpMessage(error=f"127.0.0.1:{refusing.getsockname()[1]}: connection refused")
    with pytest.raises(HttpError, match="connection refused") as raised:
        post(url, {}, retries=0, raise_errors=True)
    assert (raised.value.status, raised.value.retry_after_s) == (None, None)


def test_an_unknown_host_is_an_error_that_is_not_retried(
    post: Post, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.INFO, LOGGER.name):
        got = post("http://ann:secret@nowhere.invalid/", {})
    assert got.error.startswith("nowhere.invalid:80: no connection: ")
    assert "secret" not in got.error
    assert caplog.records == []


def test_a_connection_that_ends_before_the_answer_is_not_retried(post: Post) -> None:
    with serving(lambda _: None) as server:
        got = post(server.url, {})
        assert got == HttpMessage(error=f"{server.place}: connection lost before an answer")
        assert len(server.requests) == 1


@pytest.mark.parametrize("head", ["HTTP/1.1 200 OK\r\n", "HTTP/1.1 200 OK\r\ncontent-length: 9"])
def test_a_head_that_is_cut_is_a_lost_connection(post: Post, head: str) -> None:
    def cut(request: Request) -> None:
        server.wire(request).sendall(head.encode())

    with serving(cut) as server:
        assert post(server.url, {}).error == f"{server.place}: connection lost before an answer"
        assert len(server.requests) == 1


@pytest.mark.parametrize("status", [200, 503])
def test_an_answer_that_is_cut_in_its_middle_is_not_retried(post: Post, status: int) -> None:
    def cut(request: Request) -> None:
        whole = answer(status, request.body, "retry-after: 0\r\n")
        server.wire(request).sendall(whole[:-3])

    with serving(cut) as server:
        got = post(server.url, {"data": [1]})
        assert got.error == f"{server.place}: connection lost in the middle of the answer"
        assert len(server.requests) == 1


def test_what_is_no_http_is_an_error_that_says_so(post: Post) -> None:
    with serving(lambda _: b"SSH-2.0-OpenSSH_9.6\r\n\r\n") as server:
        got = post(server.url, {})
        assert got.error.startswith(f"{server.place}: expected an HTTP answer, got none: ")
        assert len(server.requests) == 1


def test_an_endless_head_is_an_error(post: Post) -> None:
    with serving(lambda _: b"HTTP/1.1 200 OK\r\nx: " + b"y" * 200_000) as server:
        got = post(server.url, {})
    assert got.error.startswith(f"{server.place}: ")
    assert len(got.error) < 400


@pytest.mark.parametrize("framing", ["length", "chunks"])
def test_an_answer_may_be_as_large_as_allowed_and_no_larger(post: Post, framing: str) -> None:
    def script(request: Request) -> bytes:
        if framing == "length":
            return echo(request)
        chunk = b"%x\r\n%b\r\n0\r\n\r\n" % (len(request.body), request.body)
        return b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n" + chunk

    message = HttpMessage(data=["x" * 100_000])
    with serving(script) as server:
        most = len(message.json)
        assert post(server.url, message, max_response_bytes=most) == message
        got = post(server.url, message, max_response_bytes=most - 1)
    assert got.error == (
        f"{server.place}: expected an answer of at most {most - 1} bytes, got more"
    )


def test_an_endless_answer_is_ended_at_the_limit(post: Post) -> None:
    def endless(request: Request) -> None:
        wire = server.wire(request)
        wire.sendall(b"HTTP/1.1 200 OK\r\n\r\n")
        while not server.released.is_set():
            wire.sendall(b"x" * 65536)

    with serving(endless) as server:
        got = post(server.url, {}, max_response_bytes=1_000_000)
        assert "at most 1000000 bytes" in got.error
        eventually(lambda: server.open == 0, "the connection is ended")


# The deadline


def test_a_server_that_never_answers_meets_the_deadline(post: Post) -> None:
    def silent(request: Request) -> None:
        server.released.wait()

    with serving(silent) as server:
        got = post(server.url, {}, timeout_s=0.2)
        assert got == HttpMessage(error=f"{server.place}: no answer within 0.2 s")
        assert len(server.requests) == 1


@pytest.mark.parametrize("head", [b"HTTP/1.1 200 OK\r\nx: ", b"HTTP/1.1 200 OK\r\n\r\n"])
def test_a_server_that_trickles_meets_the_deadline(post: Post, head: bytes) -> None:
    """Each read brings something soon, so that no bound on a single read would end it."""

    def trickle(request: Request) -> None:
        wire = server.wire(request)
        wire.sendall(head)
        while not server.released.wait(0.02):
            wire.sendall(b"x")

    with serving(trickle) as server:
        got = post(server.url, {}, timeout_s=0.3)
        assert got.error == f"{server.place}: no answer within 0.3 s"
        eventually(lambda: server.open == 0, "the connection is ended")


def test_a_server_that_reads_slowly_meets_the_deadline(post: Post) -> None:
    class Lazy(Server):
        def _read(self, reading: Any, connection: int) -> Request | None:
            while not self.released.wait(0.02) and reading.read1(4096):
                pass
            return None

    server = Lazy()
    try:
        got = post(server.url, {"data": ["x" * 30_000_000]}, timeout_s=0.5)
        assert got.error == f"{server.place}: no answer within 0.5 s"
    finally:
        server.close()


def test_waiting_for_a_connection_counts_toward_the_deadline() -> None:
    def silent(request: Request) -> None:
        server.released.wait()

    async def all_at_once() -> list[HttpMessage]:
        return list(await asyncio.gather(*[client.post_async({}) for _ in range(20)]))

    with serving(silent) as server, HttpClient(server.url, 0.5, max_connections=1) as client:
        late = [f"{server.place}: no answer within 0.5 s"] * 20
        began = time.monotonic()
        with ThreadPoolExecutor(20) as threads:
            assert [a.error for a in threads.map(client.post, [{}] * 20)] == late
        between = time.monotonic()
        assert [a.error for a in asyncio.run(all_at_once())] == late
        # One after another they would take 10 s.
        assert max(between - began, time.monotonic() - between) < 5


def test_cancelling_a_post_ends_its_connection_and_the_client_goes_on() -> None:
    def script(request: Request) -> bytes | None:
        if b"slow" in request.body:
            server.released.wait()
        return echo(request)

    async def run() -> None:
        async with HttpClient(server.url, max_connections=1) as client:
            slow = asyncio.create_task(client.post_async({"data": ["slow"]}))
            await soon(lambda: server.requests, "the request has come")
            slow.cancel()
            with pytest.raises(asyncio.CancelledError):
                await slow
            assert (await client.post_async({"data": [1]})).data == [1]

    with serving(script) as server:
        asyncio.run(run())


# Retries


class OnRetry(logging.Handler):
    """Does something when a message is about to be sent again."""

    def __init__(self, do: Callable[[], object]) -> None:
        super().__init__()
        self.do = do
        self.times = 0

    def emit(self, record: logging.LogRecord) -> None:
        self.times += 1
        self.do()


@contextmanager
def on_retry(do: Callable[[], object] = lambda: None) -> Iterator[OnRetry]:
    handler, level = OnRetry(do), LOGGER.level
    LOGGER.addHandler(handler)
    LOGGER.setLevel(logging.INFO)
    try:
        yield handler
    finally:
        LOGGER.removeHandler(handler)
        LOGGER.setLevel(level)


def test_a_refused_connection_is_tried_again_until_it_is_accepted(
    post: Post, refusing: socket.socket
) -> None:
    listening = threading.Event()

    def listen() -> None:
        refusing.listen()
        listening.set()

    with on_retry(listen) as retried, ThreadPoolExecutor(1) as threads:
        posting = threads.submit(post, url_of(refusing), {"data": [1]})
        assert listening.wait(WAIT_S)
        wire, _ = refusing.accept()
        with wire:
            read_request(wire)
            wire.sendall(answer(200, b'{"data":[7]}'))
            assert posting.result(WAIT_S) == HttpMessage(data=[7])
    assert retried.times == 1


def test_a_refused_connection_is_tried_as_often_as_said(
    post: Post, refusing: socket.socket
) -> None:
    for retries in (0, 2):
        with on_retry() as retried:
            assert "connection refused" in post(url_of(refusing), {}, retries=retries).error
        assert retried.times == retries


def test_refused_by_all_addresses_of_localhost_is_refused(
    post: Post, refusing: socket.socket
) -> None:
    port = refusing.getsockname()[1]
    got = post(f"http://localhost:{port}", {}, retries=0)
    assert got.error == f"localhost:{port}: connection refused"


def test_no_retry_begins_after_the_deadline(post: Post, refusing: socket.socket) -> None:
    with on_retry() as retried:
        got = post(url_of(refusing), {}, retries=1000, timeout_s=1.0)
    assert "connection refused" in got.error or "within 1 s" in got.error
    assert retried.times < 5


BUSY = b'{"data":[],"error":"busy"}'


def busy_for(times: int, *, header: str) -> Callable[[Request], bytes]:
    def script(request: Request) -> bytes:
        return answer(503, BUSY, header) if request.number <= times else echo(request)

    return script


@pytest.mark.parametrize("seconds", [0, 1])
def test_a_503_is_sent_again_after_its_retry_after(post: Post, seconds: int) -> None:
    with serving(busy_for(1, header=f"Retry-After: {seconds}\r\n")) as server:
        began = time.monotonic()
        assert post(server.url, {"data": [1]}) == HttpMessage(data=[1])
        assert time.monotonic() - began >= seconds
        assert len(server.requests) == 2


def test_a_retry_after_may_be_a_date(post: Post) -> None:
    date = email.utils.format_datetime(datetime.datetime.now(datetime.UTC), usegmt=True)
    with serving(busy_for(1, header=f"retry-after: {date}\r\n")) as server:
        assert post(server.url, {"data": [1]}).data == [1]


def test_a_503_is_sent_again_as_often_as_said(post: Post) -> None:
    for retries in (0, 2):
        with serving(busy_for(99, header="retry-after: 0\r\n")) as server:
            with pytest.raises(HttpError, match=r"^busy$") as raised:
                post(server.url, {}, retries=retries, raise_errors=True)
            assert (raised.value.status, raised.value.retry_after_s) == (503, 0.0)
            assert len(server.requests) == retries + 1


@pytest.mark.parametrize("value", [None, "", "soon", "-1", "1.5", "9" * 5000, "Mon, 99 Foo"])
def test_a_503_without_a_readable_retry_after_is_not_sent_again(
    post: Post, value: str | None
) -> None:
    header = "" if value is None else f"retry-after: {value}\r\n"
    with serving(busy_for(99, header=header)) as server:
        assert post(server.url, {}).error == "busy"
        assert len(server.requests) == 1


def test_a_retry_after_beyond_the_deadline_is_not_waited_for(post: Post) -> None:
    with serving(busy_for(99, header="retry-after: 3600\r\n")) as server:
        with pytest.raises(HttpError) as raised:
            post(server.url, {}, raise_errors=True)
        assert raised.value.retry_after_s == 3600
        assert len(server.requests) == 1


@pytest.mark.parametrize("status", [429, 500, 502, 504])
def test_other_errors_are_not_sent_again(post: Post, status: int) -> None:
    with serving(lambda _: answer(status, BUSY, "retry-after: 0\r\n")) as server:
        assert post(server.url, {}).error == "busy"
        assert len(server.requests) == 1


# Connections


def test_posts_in_turn_share_a_connection() -> None:
    with serving() as server:
        with HttpClient(server.url) as client:
            for number in range(10):
                assert client.post({"data": [number]}).data == [number]
        assert server.connections == 1

        async def run() -> None:
            async with HttpClient(server.url) as client:
                for number in range(10):
                    assert (await client.post_async({"data": [number]})).data == [number]

        asyncio.run(run())
        assert server.connections == 2
        eventually(lambda: server.open == 0, "closing ends the connections")


def test_an_error_answer_keeps_its_connection() -> None:
    with (
        serving(lambda _: answer(500, b"{}")) as server,
        HttpClient(server.url) as client,
    ):
        for _ in range(5):
            client.post({})
        assert server.connections == 1


def test_a_connection_that_the_server_ended_while_idle_is_not_used_again() -> None:
    def once(request: Request) -> None:
        server.wire(request).sendall(echo(request))

    with serving(once) as server:
        with HttpClient(server.url) as client:
            for number in range(5):
                eventually(lambda: server.open == 0, "the server has hung up")
                assert client.post({"data": [number]}).data == [number]

        async def run() -> None:
            async with HttpClient(server.url) as client:
                for number in range(5):
                    await soon(lambda: server.open == 0, "the server has hung up")
                    assert (await client.post_async({"data": [number]})).data == [number]

        asyncio.run(run())
        assert (server.connections, len(server.requests)) == (10, 10)


def test_threads_share_a_client() -> None:
    with serving() as server, HttpClient(server.url) as client:

        def many(thread: int) -> bool:
            return all(client.post({"data": [thread, n]}).data == [thread, n] for n in range(50))

        with ThreadPoolExecutor(8) as threads:
            assert all(threads.map(many, range(8)))
        assert len(server.requests) == 400
        assert server.most_open <= 8


def test_a_post_blocks_a_running_loop_and_works() -> None:
    with serving() as server, HttpClient(server.url) as client:

        async def run() -> list[Any]:
            bundle = client.post_bundle([{"data": [1]}, {"data": [2]}])
            return [client.post({"data": [0]}).data, *[a.data for a in bundle]]

        assert asyncio.run(run()) == [[0], [1], [2]]


def test_several_loops_in_turn_use_one_client_and_leave_nothing() -> None:
    with warnings.catch_warnings(record=True) as caught, serving() as server:
        warnings.simplefilter("always")
        client = HttpClient(server.url)
        for number in range(5):
            assert asyncio.run(client.post_async({"data": [number]})).data == [number]
            eventually(lambda: server.open == 0, "the loop's end ends its connections")
        assert client._loops == {}
        client.close()
        gc.collect()
    assert [str(warning.message) for warning in caught] == []


def test_a_loop_that_is_closed_without_ceremony_is_forgotten() -> None:
    with serving() as server, HttpClient(server.url) as client:
        for number in range(3):
            loop = asyncio.new_event_loop()
            answered = loop.run_until_complete(
                client.post_async({"data": [number]}),
            )
            assert answered.data == [number]
            # What the loop's owner leaves open is closed here, so that no warning comes later.
            loop.run_until_complete(client._loops[loop].pool.aclose())
            loop.close()
            assert len(client._loops) == 1


def test_loops_of_several_threads_use_one_client() -> None:
    with serving() as server, HttpClient(server.url) as client:

        def run(thread: int) -> bool:
            async def many() -> bool:
                answers = [await client.post_async({"data": [thread, n]}) for n in range(20)]
                return [a.data for a in answers] == [[thread, n] for n in range(20)]

            return asyncio.run(many())

        with ThreadPoolExecutor(4) as threads:
            assert all(threads.map(run, range(4)))
        assert client._loops == {}


def test_close_ends_the_connections_of_running_loops_too() -> None:
    async def run() -> None:
        client = HttpClient(server.url)
        await client.post_async({"data": [1]})
        client.close()
        await soon(lambda: server.open == 0, "closing ends the connections")

    with serving() as server:
        asyncio.run(run())


def test_a_closed_client_says_so_and_may_be_closed_again() -> None:
    async def run() -> None:
        with pytest.raises(RuntimeError, match="closed"):
            await client.post_async({})
        await client.aclose()

    with serving() as server:
        with HttpClient(server.url) as client:
            client.post({})
        with pytest.raises(RuntimeError, match="closed"):
            client.post({})
        client.close()
        asyncio.run(run())


def test_a_closed_client_leaves_no_warning_behind() -> None:
    async def run() -> None:
        async with HttpClient(server.url) as client:
            await client.post_bundle_async([{"data": [n]} for n in range(20)])
            client.post({})

    with warnings.catch_warnings(record=True) as caught, serving() as server:
        warnings.simplefilter("always")
        with HttpClient(server.url) as client:
            client.post_bundle([{"data": [n]} for n in range(20)])
        del client
        asyncio.run(run())
        gc.collect()
    assert [str(warning.message) for warning in caught] == []


def test_a_client_that_was_never_used_needs_no_closing() -> None:
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        HttpClient()
        gc.collect()
    assert caught == []


def test_a_forked_child_opens_connections_of_its_own() -> None:
    program = """
        import os, sys, warnings
        from virtex.http.client import HttpClient

        client = HttpClient(sys.argv[1])
        assert client.post({"data": ["parent"]}).data == ["parent"]
        pid = os.fork()
        who = "parent" if pid else "child"
        right = all(client.post({"data": [who]}).data == [who] for _ in range(20))
        if not pid:
            os._exit(0 if right else 1)
        assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
        assert right
        client.close()
    """
    with serving() as server:
        done = subprocess.run(
            [sys.executable, "-c", textwrap.dedent(program), server.url],
            capture_output=True,
            text=True,
            timeout=WAIT_S * 3,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        assert server.connections == 2
        whose = {r.connection: set[str]() for r in server.requests}
        for sent in server.requests:
            whose[sent.connection].update(json.loads(sent.body)["data"])
        assert sorted(map(sorted, whose.values())) == [["child"], ["parent"]]


def test_proxies_of_the_environment_are_not_used(
    post: Post, monkeypatch: pytest.MonkeyPatch
) -> None:
    with serving(lambda _: None) as proxy, serving() as server:
        for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
            monkeypatch.setenv(name, proxy.url)
        assert post(server.url, {"data": [1]}).data == [1]
        assert proxy.connections == 0


def test_cookies_are_not_kept() -> None:
    with (
        serving(lambda _: answer(200, b"{}", "set-cookie: a=b\r\n")) as server,
        HttpClient(server.url) as client,
    ):
        client.post({})
        client.post({})
        assert "cookie" not in server.requests[1].headers


# Bundles


@pytest.fixture(params=["sync", "async"])
def post_bundle(request: pytest.FixtureRequest) -> Callable[..., list[HttpMessage]]:
    def once(
        url: str, messages: Any, *, raise_errors: bool = False, **options: Any
    ) -> list[HttpMessage]:
        if request.param == "sync":
            with HttpClient(url, **options) as client:
                return client.post_bundle(messages, raise_errors=raise_errors)

        async def run() -> list[HttpMessage]:
            async with HttpClient(url, **options) as client:
                return await client.post_bundle_async(messages, raise_errors=raise_errors)

        return asyncio.run(run())

    return once


Bundle = Callable[..., list[HttpMessage]]


def test_a_bundles_answers_are_in_order_whatever_the_order_of_their_coming(
    post_bundle: Bundle,
) -> None:
    def script(request: Request) -> bytes:
        # The first to be sent is answered last.
        if json.loads(request.body)["data"] == [0]:
            assert last.wait(WAIT_S)
        elif json.loads(request.body)["data"] == [19]:
            last.set()
        return echo(request)

    last = threading.Event()
    with serving(script) as server:
        answers = post_bundle(server.url, ({"data": [n]} for n in range(20)), max_connections=4)
    assert [a.data for a in answers] == [[n] for n in range(20)]


def test_a_bundle_is_sent_at_once(post_bundle: Bundle) -> None:
    together = threading.Barrier(8)

    def script(request: Request) -> bytes:
        together.wait(WAIT_S)
        return echo(request)

    with serving(script) as server:
        answers = post_bundle(server.url, [{"data": [n]} for n in range(8)])
    assert [a.error for a in answers] == [None] * 8


def test_a_large_bundle_opens_no_more_connections_than_allowed(post_bundle: Bundle) -> None:
    with serving() as server:
        answers = post_bundle(server.url, [{"data": [n]} for n in range(500)], max_connections=5)
        assert [a.data for a in answers] == [[n] for n in range(500)]
        assert server.connections <= 5


def test_an_empty_bundle_is_answered_by_nothing(post_bundle: Bundle) -> None:
    assert post_bundle("http://127.0.0.1:9/", []) == []


def test_a_bundles_failures_are_each_their_own(post_bundle: Bundle) -> None:
    def script(request: Request) -> bytes:
        bad = b"bad" in request.body
        return answer(500, b'{"error":"it was bad"}') if bad else echo(request)

    with serving(script) as server:
        messages = [{"data": ["good"]}, {"data": ["bad"]}, {"data": ["good"]}]
        answers = post_bundle(server.url, messages)
        assert [a.error for a in answers] == [None, "it was bad", None]
        with pytest.raises(HttpError, match=r"^it was bad$"):
            post_bundle(server.url, messages, raise_errors=True)


def test_after_a_raised_error_the_rest_of_a_bundle_is_not_sent(post_bundle: Bundle) -> None:
    with serving(lambda _: answer(500, b'{"error":"no"}')) as server:
        messages = [{"data": [n]} for n in range(10_000)]
        with pytest.raises(HttpError):
            post_bundle(server.url, messages, max_connections=1, raise_errors=True)
        assert len(server.requests) < len(messages)


# Arguments


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"timeout_s": 0}, "timeout_s: expected more than 0, got 0"),
        ({"timeout_s": float("inf")}, "timeout_s: expected more than 0, got inf"),
        ({"retries": -1}, "retries: expected 0 or more, got -1"),
        ({"max_connections": 0}, "max_connections: expected 1 or more, got 0"),
        ({"max_response_bytes": 0}, "max_response_bytes: expected 1 or more, got 0"),
        ({"url": "localhost:8081"}, "url: expected one like"),
        ({"url": "ftp://host/"}, "url: expected one like http://host:port/, got the scheme 'ftp'"),
        ({"url": "http://"}, "got one without a host"),
        ({"url": "http://ann:secret@host:port/"}, "got no valid URL"),
        ({"headers": {"a b": "c"}}, "headers: expected a header's name, got 'a b'"),
        ({"headers": {"key": "sec\nret"}}, "headers: expected printable ASCII as key"),
    ],
    ids=str,
)
def test_an_argument_out_of_range_is_an_error_that_names_it(
    options: dict[str, Any], says: str
) -> None:
    with pytest.raises(ValueError) as raised:
        HttpClient(**options)
    assert says in str(raised.value)
    assert "secret" not in str(raised.value)


def test_a_post_without_a_message_is_the_callers_error() -> None:
    client: Any = HttpClient()
    for post in (client.post, client.post_bundle):
        with pytest.raises(TypeError, match="expected a message, got none"):
            post()
        with pytest.raises(TypeError, match="expected a message, got none"):
            post("http://localhost:8081")
        with pytest.raises(TypeError, match="url: expected text"):
            post({"data": []}, {"data": []})
    with pytest.raises(ValueError, match="url: expected one like"):
        client.post("nonsense", {"data": []})
    with pytest.raises(TypeError, match="expected an HttpMessage or a dict, got list"):
        client.post([{"data": []}])
    with pytest.raises(TypeError, match="expected a list of messages, got one message"):
        client.post_bundle({"data": []})


@pytest.mark.parametrize(
    ("url", "place", "host"),
    [
        ("http://Example.com", "example.com:80", b"example.com"),
        ("https://example.com/x", "example.com:443", b"example.com"),
        ("http://[::1]:81/", "[::1]:81", b"[::1]:81"),
        ("http://ann:secret@h:1", "h:1", b"h:1"),
    ],
)
def test_errors_and_the_host_header_name_the_place_of_a_url(
    url: str, place: str, host: bytes
) -> None:
    target = target_of(url, None)
    assert target.place == place
    assert dict(target.headers)[b"host"] == host


# Unix sockets and TLS


def test_a_unix_socket_takes_the_place_of_host_and_port(post: Post, tmp_path: Path) -> None:
    path = os.path.relpath(tmp_path / "s") if len(str(tmp_path)) > 80 else str(tmp_path / "s")
    refused = post("http://host/", {}, uds=path, retries=0)
    assert refused.error == f"unix:{path}: connection refused"
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(path)
        listener.listen()
        listener.settimeout(WAIT_S)

        def serve() -> None:
            wire, _ = listener.accept()
            with wire:
                read_request(wire)
                wire.sendall(answer(200, b'{"data":[7]}'))

        thread = threading.Thread(target=serve)
        thread.start()
        assert post("http://host/", {}, uds=path).data == [7]
        thread.join(WAIT_S)


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A certificate for 127.0.0.1 by itself, and its key, in one file."""
    both = tmp_path_factory.mktemp("tls") / "both.pem"
    subject = ["-subj", "/CN=server", "-addext", "subjectAltName=IP:127.0.0.1", "-days", "2"]
    command = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", *subject]
    subprocess.run(
        [*command, "-keyout", both, "-out", both.with_name("cert.pem")],
        check=True,
        capture_output=True,
    )
    both.write_bytes(both.read_bytes() + both.with_name("cert.pem").read_bytes())
    return both


def test_https_is_spoken_with_those_who_can_be_trusted(post: Post, certificate: Path) -> None:
    tls = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    tls.load_cert_chain(certificate)
    trusting = ssl.create_default_context(cafile=str(certificate))
    message = HttpMessage(data=["x" * 1_000_000])
    with serving(tls=tls) as server:
        url = f"https://{server.place}/"
        assert post(url, message, ssl_context=trusting) == message
        with HttpClient(url, ssl_context=trusting) as client:
            assert [client.post({"data": [n]}).data for n in range(3)] == [[0], [1], [2]]
        assert server.connections == 2
        distrusted = post(url, message)
        assert distrusted.error.startswith(f"{server.place}: no connection: ")
        assert "certificate" in distrusted.error
        assert len(server.requests) == 4


def test_a_silent_handshake_meets_the_deadline(post: Post) -> None:
    with serving() as server:
        context = ssl.create_default_context()
        got = post(f"https://{server.place}/", {}, timeout_s=0.3, ssl_context=context)
        assert got.error == f"{server.place}: no answer within 0.3 s"


def test_a_server_that_speaks_no_tls_is_no_connection(post: Post) -> None:
    class Plain(Server):
        def _read(self, reading: Any, connection: int) -> Request | None:
            self._wires[connection].sendall(b"HTTP/1.1 400 Bad Request\r\n\r\n")
            return None

    server = Plain()
    try:
        context = ssl.create_default_context()
        got = post(f"https://{server.place}/", {}, ssl_context=context)
    finally:
        server.close()
    assert got.error.startswith(f"{server.place}: no connection: ")
    assert server.connections == 1
