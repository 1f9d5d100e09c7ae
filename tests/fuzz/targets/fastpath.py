"""The fast path: what a client is answered depends on its bytes alone.

Not on how they were cut on their way, not on whether heads like theirs were seen before, and not on
which way their requests take: each is compared with the bytes in one read, on a connection that
remembers no head. Afterwards nothing is in flight, and within the limits' time the connection is
closed.

An input is a byte for a head that was seen before, one for the size of reads, and what is sent;
`SPLIT` in it divides what comes in reads of their own.
"""

from __future__ import annotations

import asyncio
import atexit
import re
from collections.abc import Iterable, Sequence
from typing import Any

from headrace import Limits
from headrace.http import App
from headrace.http.fastpath import FastConnection
from headrace.http.memo import MAX_STRANGE, Memos
from headrace.http.turns import AsgiTurn
from tests.unit.http.peers import Peer, Peers, get, post

MEASURED = (
    *("headrace.http.fastpath", "headrace.http.memo", "headrace.http.connection"),
    *("headrace.http.predict", "headrace.http.exchange", "headrace.http.parsers"),
)
SPLIT = b"\xff\xff"
TOKENS = (
    SPLIT,
    *(b"POST ", b"GET ", b"HEAD ", b"CONNECT ", b"/predict", b"/v1/models/echo:predict", b"/livez"),
    *(
        b" HTTP/1.1\r\n",
        b" HTTP/1.0\r\n",
        b"\r\n\r\n",
        b"\r\n",
        b"host: x\r\n",
        b": ",
        b"0\r\n\r\n",
    ),
    *(b"content-length: 3\r\n", b"Content-Length:3\r\n", b"transfer-encoding: chunked\r\n"),
    *(b"connection: close\r\n", b"connection: keep-alive\r\n", b"expect: 100-continue\r\n"),
    *(b"connection: upgrade\r\nupgrade: h2c\r\n", b"x-request-id: mine\r\n", b"traceparent: "),
    *(b"x-request-timeout: 5\r\n", b"content-type: application/msgpack\r\n", b"prefer: lenient"),
    *(b"accept: */*\r\n", b"content-encoding: gzip\r\n", b'{"instances":[1,2]}', b"[1]"),
)
TRACE = f"traceparent: 00-{32 * 'a'}-{16 * 'b'}-01\r\n"
WARM = (
    post(b"[1]"),
    post(b"[1]", "x-request-id: first\r\n"),
    post(b'{"instances":[1]}', TRACE, path="/v1/models/echo:predict"),
    post(b"[1]", "content-type: application/json\r\nx-request-timeout: 5\r\n" + TRACE),
)
LIMITS = Limits(
    max_body_bytes=600, max_json_bytes=300, max_head_bytes=400, max_headers=12, max_queue_items=20
)
PAGES = ("/", "/livez", "/readyz", "/health", "/metrics", "/openapi.json", "/docs", "/redoc")
RUN_S = 1.0
"""How long each batch takes: a request that has less time is answered so."""
MALFORMED = b"expected a well-formed HTTP/1.1 request"
TOO_LARGE = b'"code":"head_too_large"'
AROUND = b"bytes around chunks"
LATE = b'[{"stage":"reading"}]'
CLOSE = b"connection: close\r\n"
_HEAD = re.compile(rb"HTTP/1\.1 \d.*?\r\n\r\n", re.DOTALL)
_loop = asyncio.new_event_loop()
atexit.register(_loop.close)


class Server:
    """Connections of one kind, over a model that answers what it was asked.

    Args:
        fast: Whether predict requests take the fast path.
    """

    def __init__(self, fast: bool) -> None:
        peers = Peers(self._app, limits=LIMITS, fast=fast)
        self._peers = peers
        self._service = App(peers.service)
        prefix = peers.service.predict.id_prefix.encode()
        self._our_id = re.compile(
            rb"x-request-id: (?:page-|refused-[0-9a-f]+-|%b)[0-9a-f]+" % prefix
        )

    async def _app(self, scope: Any, receive: Any, send: Any) -> None:
        """What headrace serves, but that its pages, which tell of the moment, are all the same."""
        if scope["method"] == "POST" or scope["path"] not in PAGES:
            await self._service(scope, receive, send)
            return
        headers = [(b"content-length", b"4")]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": b"page"})

    def told(self, warm: bytes, reads: Iterable[bytes], *, remembers: bool) -> tuple[bytes, bool]:
        """What a client is answered that sends a request twice, and then this; and whether all."""
        return _loop.run_until_complete(self._told(warm, reads, remembers))

    async def _told(
        self, warm: bytes, reads: Iterable[bytes], remembers: bool
    ) -> tuple[bytes, bool]:
        peers = self._peers
        peer = peers.connect()
        connection = peer.connection
        if isinstance(connection, FastConnection):
            type(connection).memos = Memos()
            connection._strange = 0 if remembers else MAX_STRANGE
        for read in (warm, warm, *reads):
            if not peer.is_closed:
                peer.send(read)
                await self._settle(peer)
        found = self._plain(peer.got), peer.has_end
        await self._end(peer)
        return found

    async def _settle(self, peer: Peer) -> None:
        peers = self._peers
        peers.loop.run()
        if peers.executor.batches:
            peers.loop.advance(RUN_S)
        peers.run()
        for _ in range(30):
            if not isinstance(peer.connection.oldest, AsgiTurn):
                return
            await _pass()
            peers.loop.run()
            if peers.executor.batches:
                peers.loop.advance(RUN_S)
            peers.run()

    def _plain(self, got: bytes) -> bytes:
        """Without what is of the moment, and each head's lines in order."""
        got = self._our_id.sub(b"ours", got.replace(b"HTTP/1.1 100 Continue\r\n\r\n", b""))
        return _HEAD.sub(lambda head: _sorted(head[0]), got)

    async def _end(self, peer: Peer) -> None:
        """Wait for as long as a connection may live; or, as applications do not wait, go away."""
        peers = self._peers
        if not isinstance(peer.connection.oldest, AsgiTurn):
            for _ in range(4):
                peers.loop.advance(LIMITS.keep_alive_s + LIMITS.body_timeout_s)
                await self._settle(peer)
            assert peer.is_closed
        peer.reset()
        await _pass()
        peers.run()
        assert not peers.in_flight
        assert not peers.state.connections
        peers._peers.clear()


def _sorted(head: bytes) -> bytes:
    first, *lines = head.removesuffix(b"\r\n\r\n").split(b"\r\n")
    return b"\r\n".join([first, *sorted(lines), b"", b""])


async def _pass() -> None:
    """Let applications go on."""
    for _ in range(3):
        await asyncio.sleep(0)


_fast, _slow = Server(fast=True), Server(fast=False)


def check(data: bytes) -> None:
    if len(data) < 2:
        return
    warm, size = WARM[data[0] % len(WARM)], data[1] % 64 + 1
    reads = [read for read in data[2:].split(SPLIT) if read]
    sent = b"".join(reads)
    if not sent:
        return
    expected = _fast.told(warm, [sent], remembers=False)
    for number, others in enumerate((reads, cut(sent, size))):
        assert same(_fast.told(warm, others, remembers=True), expected, sent), number
    if data[0] & 128:
        assert same(_slow.told(warm, [sent], remembers=False), expected, sent)


def same(one: tuple[bytes, bool], other: tuple[bytes, bool], sent: bytes) -> bool:
    """Whether they are the same, but for what depends on how much has come.

    A head that is malformed and too large may be refused as either. What a head alone asks for may
    be answered before it is known that its body, in chunks, is malformed; and what stands around
    chunks is bounded only where a body comes in pieces. An answer to who waits to be asked for the
    body is the last one if that has not come by then. And a body that is not whole may be late
    where others' batches have run meanwhile.
    """
    if one == other:
        return True
    sent = sent.lower()
    for short, long in ((one, other), (other, one)):
        at = max((found.start() for found in _HEAD.finditer(short[0])), default=0)
        before, last, others = short[0][:at], short[0][at:], long[0][at:]
        if LATE in last and before == long[0]:
            return True
        if not short[1] or not long[0].startswith(before):
            continue
        is_single = len(_HEAD.findall(others)) <= 1
        if TOO_LARGE in last and MALFORMED in others and is_single and long[1]:
            return True
        if b"transfer-encoding" in sent and (AROUND in last or (MALFORMED in last and is_single)):
            return True
        if b"100-continue" in sent and CLOSE in last:
            return others.startswith(last.replace(CLOSE, b"", 1))
    return False


def cut(data: bytes, size: int) -> Sequence[bytes]:
    return [data[at : at + size] for at in range(0, len(data), size)]


def longer(request: bytes) -> bytes:
    """A request whose body is as long as before, and ten times as long by its head."""
    head, _, body = request.partition(b"\r\n\r\n")
    size = b"content-length: %d" % len(body)
    longer = head.replace(size, size + b"0") + b"\r\n\r\n"
    return longer + body + SPLIT + body * 9 + SPLIT + request


def seeds() -> list[bytes]:
    chunked = b"POST /predict HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\n"
    requests = [
        *WARM,
        post(b"[23]", "x-request-id: second\r\n"),
        post(b"[1]").replace(b"content-length", b"Content-LENGTH"),
        post(b"", "connection: close\r\n"),
        post(b"[1]", version="1.0"),
        post(b"[1]", "expect: 100-continue\r\n"),
        post(b"[1]", "connection: upgrade\r\nupgrade: h2c\r\n"),
        post(b"[1]", "accept: text/html\r\n"),
        post(b"[1]", "content-encoding: gzip\r\n"),
        post(b"[" + b" " * 300 + b"]"),
        post(b"[1]", "".join(f"a{n}: b\r\n" for n in range(12))),
        post(b"[1]", path="/models/none/predict"),
        chunked + b"3\r\n[1]\r\n0\r\n\r\n",
        chunked + b"3\r\n[1]\r\n0\r\nx: y\r\n\r\n",
        chunked + b"3\r\n[1]x",
        get("/livez"),
        get("/predict"),
        get("/nothing", method="HEAD"),
        b"CONNECT x:1 HTTP/1.1\r\nhost: x\r\n\r\nabc",
        b"nonsense\r\n\r\n",
        b"POST /predict HTTP/1.1\r\ncontent-length: 1\r\ncontent-length: 2\r\n\r\n[]",
    ]
    found = [bytes([n % 4 | 128 * (n % 2), 7 * n % 60]) + each for n, each in enumerate(requests)]
    pairs = zip(requests, requests[1:] + requests[:1], strict=True)
    return [
        *found,
        *(bytes([n % 4, 3]) + a + SPLIT + b for n, (a, b) in enumerate(pairs)),
        b"\x00\x05" + b"".join(requests[:5]),
        *(bytes([n, 4]) + SPLIT.join([each, each]) for n, each in enumerate(WARM)),
        *(bytes([n, 60]) + longer(each) for n, each in enumerate(WARM)),
        b"\x03\x3f" + WARM[3].replace(b"timeout: 5", b"timeout: 0.5"),
    ]
