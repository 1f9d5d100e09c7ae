"""Every way of a predict request from the socket to the engine gives the same bytes.

Where there is one way only, two servers that go it are compared: what differs between them is no
business of the way, and `plain` has to hide it.
"""

from __future__ import annotations

import re
import socket
from collections.abc import Iterator
from contextlib import ExitStack, suppress

import pytest

from tests.e2e.conftest import Served
from tests.faults.conftest import TIGHT, served_http
from tests.faults.contract import WAYS, message
from tests.faults.test_a_http import CHUNKS, HEADS, LARGE_HEADS, LENGTHS, NOISE
from tests.faults.test_a_requests import BAD
from tests.faults.test_b_bodies import JSONS, MSGPACKS, NOT_THE_TYPE, WRONG_TYPES

pytestmark = pytest.mark.slow

ID = "x-request-id: mine\r\n"
LAST = message("/livez", "", "connection: close\r\nx-request-id: last\r\n", method="GET")
LIMIT = int(TIGHT["limits__max_json_bytes"])


@pytest.fixture(scope="module")
def servers() -> Iterator[list[Served]]:
    """One a way, and at least two."""
    with ExitStack() as stack:
        ways = WAYS if len(WAYS) > 1 else WAYS * 2
        made = [stack.enter_context(served_http(way, **TIGHT)) for way in ways]
        yield made
        for server in made:
            server.set("size")  # what `held` was asked


def get(path: str, headers: str = "", method: str = "GET") -> bytes:
    return f"{method} {path} HTTP/1.1\r\nhost: x\r\n{ID}{headers}\r\n".encode()


def post(path: str, body: bytes | str, headers: str = "") -> bytes:
    return message(path, body, ID + headers)


def old(path: str, body: str = "", headers: str = "") -> bytes:
    return message(path, body, ID + headers).replace(b"HTTP/1.1", b"HTTP/1.0")


def chunked(path: str, *chunks: bytes, headers: str = "", trailers: str = "") -> bytes:
    head = f"POST {path} HTTP/1.1\r\nhost: x\r\n{ID}transfer-encoding: chunked\r\n{headers}\r\n"
    parts = b"".join(b"%x\r\n%s\r\n" % (len(chunk), chunk) for chunk in chunks)
    return head.encode() + parts + f"0\r\n{trailers}\r\n".encode()


PATHS = (
    "/predict",
    "/models/echo/predict",
    "/v1/models/echo:predict",
    "/models/echo/messages",
    "/",
)
STRANGE_PATHS = (
    "/predict/",
    "//predict",
    "/predict?",
    "/predict?a=1&b=%20",
    "/predict#fragment",
    "/predict.",
    "/./predict",
    "/x/../predict",
    "/Predict",
    "/%70redict",
    "/predic%74",
    "/predict%",
    "/predict%zz",
    "/predict%00",
    "/predict%2f",
    "/predict;a=1",
    "/models/%65cho/predict",
    "/models/echo%2fpredict",
    "/models/ECHO/predict",
    "/models/echo./predict",
    "/models//predict",
    "/models/%c3%a4/predict",
    "/models/%ff/predict",
    "/models/" + "a" * 2000 + "/predict",
    "/models/echo%20/predict",
    "/v1/models/echo%3apredict",
    "/v1/models/echo:predict:predict",
    "/v1/models/:predict",
    "/v1/models/echo:predict/",
    "/v2/models/echo/infer",
    "/livez",
    "/livez/",
    "/nowhere",
    "http://x/predict",
    "http://other.example/predict?a=1",
    "https://x/predict",
    "HTTP://X/predict",
    "http://x/models/%65cho/predict",
    "http://x",
    "http://x/livez",
    "*",
    "predict",
    "?",
)
HEADERS = (
    "connection: close\r\n",
    "connection: Close\r\n",
    "Connection: keep-alive\r\n",
    "connection: keep-alive, close\r\n",
    "connection: close, TE\r\n",
    "CONTENT-TYPE: application/json\r\n",
    "content-type: application/json\r\ncontent-type: application/json\r\n",
    "content-type: application/json\r\ncontent-type: text/plain\r\n",
    "content-type:application/json\r\n",
    "content-type: \t application/json \t \r\n",
    "content-type: APPLICATION/JSON; Charset=UTF-8\r\n",
    "accept: application/msgpack\r\n",
    "accept: application/json\r\naccept: application/msgpack\r\n",
    "accept: text/html\r\n",
    "accept: \r\n",
    "x-request-timeout: 5\r\n",
    "x-request-timeout: soon\r\n",
    "x-request-timeout: 5\r\nx-request-timeout: 6\r\n",
    "x-request-id: second\r\n",
    "prefer: handling=lenient\r\n",
    "content-encoding: gzip\r\n",
    "content-encoding: identity\r\n",
    "expect: 200-ok\r\n",
    "expect: 100-CONTINUE\r\n",
    "x-ä: 1\r\n",
    "x-latin: \xe4\r\n",
    "x-empty:\r\n",
    "host: y\r\n",
    "te: trailers\r\n",
    "cookie: a=b\r\ncookie: c=d\r\n",
    "origin: http://other.example\r\n",
)
AWAITED = "expect: 100-continue\r\n"
JSON_TYPE = "content-type: application/json\r\n"

REQUESTS: dict[str, bytes] = {
    **{f"good {path}": post(path, b"[1]") for path in PATHS},
    **{f"v1 {n}": post("/v1/models/typed:predict", body) for n, body in enumerate((
        '{"instances":[]}',
        '{"instances":[{"n":1},{"n":2}]}',
        '{"instances":[{"n":1},{}]}',
        '{"instances":' + str([1] * 2000) + "}",
    ))},
    **{f"messages {n}": post("/models/typed/messages", body) for n, body in enumerate((
        '{"data":[{"n":1}]}', '{"data":[]}', '{"data":[1]}', "{",
    ))},
    **{
        f"{method} {path}": get(path, method=method)
        for path in (*PATHS, "/models/nope/predict", "/livez", "/nowhere", "/models/echo")
        for method in ("GET", "HEAD", "OPTIONS", "PUT", "DELETE", "PATCH", "TRACE")
    },
    **{f"PUT with a body {path}": post(path, "1").replace(b"POST", b"PUT") for path in PATHS},
    **{f"empty {path}": get(path, method="POST") for path in PATHS},
    **{f"at {path[:40]}": post(path, "1") for path in STRANGE_PATHS},
    **{f"get {path[:40]}": get(path) for path in STRANGE_PATHS},
    **{f"with {lines!r}": post("/predict", "1", lines) for lines in HEADERS},
    **{f"page with {lines!r}": get("/readyz", lines) for lines in HEADERS},
    **{f"id {name!r}": message("/predict", "1", f"x-request-id: {name}\r\n") for name in (
        "a", "a" * 128, "a" * 129, "a b", "", "<x>", "A.b:c_d/e+f=g@h-1",
    )},
    "1.0": old("/predict", "1"),
    "1.0 kept": old("/predict", "1", "connection: keep-alive\r\n"),
    "1.0 page": old("/livez").replace(b"POST", b"GET"),
    "1.0 kept page": old("/livez", "", "connection: keep-alive\r\n").replace(b"POST", b"GET"),
    "1.0 error": old("/predict", "{", "connection: keep-alive\r\n"),
    "1.0 expect": old("/predict", "1", AWAITED),
    "no host": post("/predict", "1").replace(b"host: x\r\n", b""),
    "expect": post("/predict", "1", AWAITED),
    "expect over the limit": get("/predict", f"{AWAITED}content-length: {LIMIT + 1}\r\n", "POST"),
    "expect at a page": get("/livez", f"{AWAITED}content-length: 1\r\n", "POST") + b"x",
    "expect nothing": get("/predict", AWAITED, "POST"),
    "expect at no model": post("/models/nope/predict", "1", AWAITED),
    "chunks": chunked("/predict", b"[1", b",2", b"]"),
    "chunk extension": chunked("/predict", b"1").replace(b"1\r\n1", b"1;a=b\r\n1"),
    "trailers": chunked("/predict", b"1", trailers="x-trailer: 1\r\nx-request-id: other\r\n"),
    "no chunks": chunked("/predict"),
    "chunks at a page": chunked("/livez", b"1"),
    "chunks at no model": chunked("/models/nope/predict", b"1"),
    "chunks over the limit": chunked("/predict", b" " * (LIMIT + 1)),
    "over the limit": post("/predict", b" " * (LIMIT + 1)),
    "at the limit": post("/predict", b" " * (LIMIT - 1) + b"1"),
    "too many instances": post("/v1/models/echo:predict", '{"instances":' + str([1] * 5000) + "}"),
    "late": post("/models/held/predict", b"1", "x-request-timeout: 0.125\r\n"),
    "late then good": post("/models/held/predict", b"1", "x-request-timeout: 0.125\r\n")
    + get("/livez") + post("/predict", "1"),
    "large": post("/models/large/predict", str(1 << 20)),
    "deep": post("/models/large/predict", "-100000"),
    "trailing line ends": post("/predict", "1") + b"\r\n\r\n" + post("/predict", "2"),
    "leading line ends": b"\r\n\r\n" + post("/predict", "1"),
    "two": post("/predict", "1") + post("/predict", "2"),
    "mixed": b"".join(
        post("/predict", str(n)) + get(("/livez", "/openapi.json", "/models/echo/predict")[n % 3])
        for n in range(12)
    ),
    "mixed errors": post("/predict", "{")
    + get("/nowhere") + post("/predict", "1") + get("/predict"),
    "mixed methods": get("/livez", method="HEAD")
    + post("/predict", "1") + get("/readyz", method="HEAD"),
    "close in the middle": post("/predict", "1")
    + post("/predict", "2", "connection: close\r\n") + post("/predict", "3"),
    **{f"json {name}": post("/predict", body, JSON_TYPE) for name, (body, *_) in JSONS.items()},
    **{f"msgpack {name}": post("/predict", body, "content-type: application/msgpack\r\n")
       for name, body in MSGPACKS.items()},
    **{f"typed {name}": post("/models/typed/predict", b) for name, b in NOT_THE_TYPE.items()},
    **{f"type {name}": post("/predict", "1", f"content-type: {media_type}\r\n")
       for name, media_type in WRONG_TYPES.items()},
}  # fmt: skip

BROKEN: dict[str, bytes] = {
    **{f"noise {name}": data for name, data in NOISE.items()},
    # The head of `coding-unknown` is refused twice, and which refusal is told may differ.
    **{f"length {name}": data for name, data in LENGTHS.items() if name != "coding-unknown"},
    **{f"head {name}": data for name, data in HEADS.items()},
    **{f"large {name}": data for name, data in LARGE_HEADS.items() if len(data) < 1 << 18},
    **{f"bad {name}": post("/predict", "1") * 3 + data for name, data in BAD.items()},
    **{f"chunk {name}": chunked("/predict")[:-5] + data for name, data in CHUNKS.items()},
}
"""Refused by the parser: whoever comes next on the connection is not answered."""

_DATE = re.compile(rb"(?m)^date: [^\r]*\r\n", re.IGNORECASE)
_MADE_ID = re.compile(rb"(?m)^(x-request-id: )(?:(?:refused-)?[0-9a-f]{12}-|page-)[0-9a-f]+\r$")


def plain(raw: bytes) -> bytes:
    """Answers without what two servers, or one at two times, may say differently."""
    return _MADE_ID.sub(rb"\1made\r", _DATE.sub(b"", raw))


def told(server: Served, *parts: bytes) -> bytes:
    """All that a server answers to parts that it reads one by one."""
    raw = b""
    with socket.create_connection(server.host_and_port, timeout=5.0) as wire:
        wire.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        with suppress(ConnectionError):
            for part in parts:
                wire.sendall(part)
            while data := wire.recv(1 << 20):
                raw += data
    return plain(raw)


def compare(servers: list[Served], *parts: bytes) -> bytes:
    one, *others = (told(server, *parts) for server in servers)
    assert all(other == one for other in others), (one, *others)
    return one


@pytest.mark.parametrize("request_", REQUESTS.values(), ids=REQUESTS)
def test_the_answer_is_the_same(servers: list[Served], request_: bytes) -> None:
    answer = compare(servers, request_ + LAST)
    assert answer.startswith(b"HTTP/1.1 ")


def test_the_answers_to_all_kinds_are_not_one(servers: list[Served]) -> None:
    """The table reaches all statuses that requests bring about."""
    firsts = {told(servers[0], request + LAST).split()[1] for request in REQUESTS.values()}
    assert firsts >= {b"%d" % n for n in (200, 400, 404, 405, 406, 413, 415, 422, 500, 504, 100)}


SPLIT = ("good /predict", "chunks", "trailers", "expect", "two", "mixed errors", "1.0 kept")


@pytest.mark.parametrize("name", SPLIT)
def test_the_answer_is_the_same_byte_by_byte(servers: list[Served], name: str) -> None:
    data = REQUESTS[name] + LAST
    answer = compare(servers, *(data[at : at + 1] for at in range(len(data))))
    assert answer.endswith(b"ok\n") or name.startswith("1.0")


@pytest.mark.parametrize("data", BROKEN.values(), ids=BROKEN)
def test_a_refusal_is_the_same(servers: list[Served], data: bytes) -> None:
    compare(servers, data)


UPGRADES = {
    "h2c": post("/predict", "1", "connection: upgrade, http2-settings\r\nupgrade: h2c\r\n"),
    "websocket": get("/livez", "connection: upgrade\r\nupgrade: websocket\r\n"),
    "connect": get("/predict", method="CONNECT"),
}


@pytest.mark.parametrize("data", UPGRADES.values(), ids=UPGRADES)
def test_an_upgrade_that_is_not_offered_is_passed_over(servers: list[Served], data: bytes) -> None:
    """As curl and Java ask for HTTP/2: the request counts, and the next one, too."""
    answer = compare(servers, data + LAST)
    assert answer.startswith((b"HTTP/1.1 200 ", b"HTTP/1.1 405 "))
    assert answer.endswith(b"ok\n") or b"connection: close" in answer
