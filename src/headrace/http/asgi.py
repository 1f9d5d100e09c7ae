"""Exchanges over ASGI: the way of predict requests on any ASGI server."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

import msgspec

from ..dialects import too_large
from ..errors import HeadraceError, InvalidHeader
from .budget import COUNTED_BYTES
from .errors import body_is_late
from .exchange import Exchange, Headers
from .fairness import client_at
from .heads import joined
from .predict import Place, Predict

Scope = dict[str, Any]
Message = dict[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]

_Reply = tuple[int, Headers, bytes]

_LENGTH = re.compile(r"[ \t]*[0-9]+[ \t]*")  # blanks may stand around any value
MAX_LENGTH_CHARS = 100
"""Of thousands of digits Python makes no number."""


class ClientGone(Exception):
    """The client went away before its request was read."""


class AsgiExchange(Exchange):
    """An `Exchange` in an ASGI scope; `finish` waits for the reply and sends it.

    Attributes:
        close_after: Whether the connection cannot carry another request.
        replied: The answer; None if the client went away.
        address: The client's; empty where it has none.
    """

    close_after: bool = False
    address: str = ""
    replied: asyncio.Future[_Reply | None] = msgspec.field(
        default_factory=lambda: asyncio.get_running_loop().create_future()
    )

    @property
    def peer(self) -> str | None:
        is_wanted = self.predict.fairness.peer_address and self.address
        return client_at(self.address) if is_wanted else None

    def reply(self, status: int, media_type: str, body: bytes, headers: Headers = ()) -> None:
        if not self.replied.cancelled():  # as a server does that waits no longer
            ends = (("content-type", media_type), *headers, ("x-request-id", self.request_id))
            self.replied.set_result((status, ends, body))

    def client_gone(self) -> None:
        """The answer has no reader."""
        self.abandon()
        if not self.replied.done():
            self.replied.set_result(None)

    async def finish(self, receive: Receive, send: Send) -> None:
        """Wait for the reply, or for the client to go away, and send it."""
        if not self.replied.done():
            watch = asyncio.ensure_future(self._watch(receive))
            try:
                await self.replied
            finally:
                watch.cancel()
        reply = self.replied.result()
        if reply is not None:
            await send_reply(send, *reply, close=self.close_after)

    async def _watch(self, receive: Receive) -> None:
        while (await receive())["type"] != "http.disconnect":
            pass
        self.client_gone()


async def serve_prediction(
    predict: Predict, place: Place, scope: Scope, receive: Receive, send: Send
) -> None:
    """Serve one predict request over ASGI."""
    headers = joined(scope["headers"])
    plan = predict.plan(place, scope["method"], headers)
    address = (scope.get("client") or ("",))[0]
    if predict.rates is not None and plan.error is None:
        plan.error = predict.throttle(plan, client_at(address))
    exchange = AsgiExchange(predict, plan, predict.clock(), predict.next_number(), address=address)
    try:
        if exchange.is_refused():
            # The body was not read, so the connection cannot carry another request.
            exchange.close_after = has_body(headers)
        else:
            await _read_and_run(exchange, headers, receive)
        await exchange.finish(receive, send)
    finally:
        exchange.abandon()  # where the server gives it up, and nobody was answered


async def _read_and_run(
    exchange: AsgiExchange, headers: Mapping[str, str], receive: Receive
) -> None:
    limits, timeout_s = exchange.predict.limits, exchange.plan.timeout_s
    try:
        async with asyncio.timeout(min(limits.body_timeout_s, timeout_s)):
            body = await _body(exchange, headers, receive)
    except TimeoutError:
        exchange.close_after = True
        exchange.fail(body_is_late(limits, timeout_s))
    except HeadraceError as error:
        exchange.close_after = True
        exchange.fail(error)
    except ClientGone:
        exchange.client_gone()
    else:
        exchange.run(body)


async def _body(exchange: AsgiExchange, headers: Mapping[str, str], receive: Receive) -> bytes:
    """A request's whole body.

    Raises:
        PayloadTooLarge: It is over the limit; it has not been read, or no further than that.
        QueueFull: All that is held of bodies is too much; likewise.
        ClientGone: The client went away.
    """
    limit = exchange.plan.max_body_bytes
    declared = headers.get("content-length")
    if declared is not None:
        if not _LENGTH.fullmatch(declared):
            raise InvalidHeader("Content-Length: expected a number of bytes")
        length = int(declared) if len(declared) <= MAX_LENGTH_CHARS else limit + 1
        if length > limit:
            raise too_large(limit)
        if length > COUNTED_BYTES:
            exchange.predict.budget.check(length)
    chunks: list[bytes] = []
    size = 0
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise ClientGone
        chunk = message.get("body", b"")
        size += len(chunk)
        if size > limit:
            raise too_large(limit)
        exchange.hold(size)
        chunks.append(chunk)
        if not message.get("more_body", False):
            return chunks[0] if len(chunks) == 1 else b"".join(chunks)


async def send_reply(
    send: Send, status: int, headers: Headers, body: bytes, *, close: bool
) -> None:
    """Send a whole answer."""
    raw = [(name.encode("latin-1"), value.encode("latin-1")) for name, value in headers]
    raw.append((b"content-length", str(len(body)).encode()))
    if close:
        raw.append((b"connection", b"close"))
    await send({"type": "http.response.start", "status": status, "headers": raw})
    await send({"type": "http.response.body", "body": body})


def has_body(headers: Mapping[str, str]) -> bool:
    """Whether a request announces a body."""
    return headers.get("content-length", "0") != "0" or "transfer-encoding" in headers
