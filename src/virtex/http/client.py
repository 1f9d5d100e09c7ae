"""The client: a message goes out, and a message comes back whatever happens."""

from __future__ import annotations

import asyncio
import itertools
import math
import os
import ssl
import threading
import time
from collections.abc import AsyncGenerator, Iterable, Mapping, MutableMapping
from concurrent.futures import ThreadPoolExecutor
from types import TracebackType
from typing import Any, Self

from ..core.logging import LOGGER
from ._httpx import httpcore2, httpx2
from .exchange import Answer, HttpError, Reading, Target, header_lines, target_of
from .message import HttpMessage, to_json
from .streams import DeadlineBackend, LoopBackend

__all__ = ["HttpClient", "HttpError", "Message"]

Message = Mapping[str, Any]
"""What is posted: an `HttpMessage`, or a plain dict of that form."""

_Extensions = MutableMapping[str, Any]
_Loops = dict[asyncio.AbstractEventLoop, "_LoopPool"]

# Less than any server's: gunicorn ends an idle connection after 2 s, and a post that goes out on
# one that is being ended is lost, for it cannot be sent again.
_KEEP_ALIVE_S = 1.5

_FIRST_PAUSE_S = 0.1


class HttpClient:
    """Posts messages to a server, and gives the messages that it answers.

    Every post returns an `HttpMessage`. If no answer came, or none that can be read, its `.error`
    says what happened and where (`localhost:8081: connection refused`); if the server answered an
    error, its `.error` is the server's own text.

    A post is sent again, at most `retries` times, where it surely was not processed: when the
    connection was refused, after a pause of 0.1 s that doubles; and when the answer is a 503 with
    a Retry-After, after that time. It is not sent again where it may have been processed, such as
    when a connection broke, nor when the pause would end after the deadline.

    Connections are kept alive for 1.5 s. Redirects are not followed, cookies not kept, and the
    environment's proxies and .netrc not used; SSL_CERT_FILE and SSL_CERT_DIR are, for https.

    One client may be used by many threads and event loops at once. `post` and `post_bundle` block
    their thread, in a running event loop too, which stands still meanwhile: use `post_async` there.
    Threads share one set of connections; each event loop has its own. Close a client when no post
    is on its way; a loop's connections are closed at the latest when `asyncio.run` ends the loop.

    Args:
        url: Where to post if a post does not say; `http://user:password@host` is authenticated.
        timeout_s: For one message, from its sending to the last byte of its answer, waiting for
            a connection and retries included. Only the resolver of host names may take longer.
        retries: How many times, at most, a message is sent again.
        max_connections: For the threads together, and for each event loop; more posts wait.
        max_response_bytes: A larger answer is an error, and not read to its end.
        headers: Sent with every post, whatever its URL.
        ssl_context: For https; by default the system's certificate authorities are trusted.
        uds: Path of a Unix socket, to which all connections go in place of the URL's host.

    Raises:
        ValueError: An argument is out of its range.
    """

    def __init__(
        self,
        url: str = "http://localhost:8081",
        timeout_s: float = 60.0,
        retries: int = 2,
        *,
        max_connections: int = 100,
        max_response_bytes: int = 256 * 1024 * 1024,
        headers: Mapping[str, str] | None = None,
        ssl_context: ssl.SSLContext | None = None,
        uds: str | None = None,
    ) -> None:
        if not (timeout_s > 0 and math.isfinite(timeout_s)):
            raise ValueError(f"timeout_s: expected more than 0, got {timeout_s}")
        for name, value, least in (
            ("retries", retries, 0),
            ("max_connections", max_connections, 1),
            ("max_response_bytes", max_response_bytes, 1),
        ):
            if value < least:
                raise ValueError(f"{name}: expected {least} or more, got {value}")
        self._url = url
        self._timeout_s = timeout_s
        self._retries = retries
        self._max_connections = max_connections
        self._max_response_bytes = max_response_bytes
        self._headers = header_lines(headers or {})
        self._ssl_context = ssl_context
        self._uds = uds
        if target_of(url, uds).url.scheme == b"https" and ssl_context is None:
            self._ssl_context = httpx2.create_ssl_context()
        self._lock = threading.Lock()
        self._is_closed = False
        self._pool: httpcore2.ConnectionPool | None = None
        self._pool_pid = 0
        self._loops: _Loops = {}

    def post(
        self,
        url: str | Message | None = None,
        message: Message | None = None,
        *,
        raise_errors: bool = False,
    ) -> HttpMessage:
        """Post a message and wait for its answer: `post(message)` or `post(url, message)`.

        Raises:
            ValueError: The message cannot be written as JSON; the URL is none.
            TypeError: The message cannot be written as JSON, or is no dict.
            HttpError: The answer has an error, and `raise_errors` is set.
            RuntimeError: The client is closed.
        """
        target, message = self._addressed(url, message)
        return self._post(target, _body(message), raise_errors)

    async def post_async(
        self,
        url: str | Message | None = None,
        message: Message | None = None,
        *,
        raise_errors: bool = False,
    ) -> HttpMessage:
        """`post`, without blocking the event loop. Cancelling it ends its connection."""
        target, message = self._addressed(url, message)
        return await self._post_async(target, _body(message), raise_errors)

    def post_bundle(
        self,
        url: str | Iterable[Message] | None = None,
        messages: Iterable[Message] | None = None,
        *,
        raise_errors: bool = False,
    ) -> list[HttpMessage]:
        """Post messages at once; their answers, in order.

        All messages are written as JSON before the first is sent. At most `max_connections` are on
        their way at a time, each in a thread, and a message's time counts from its own sending.

        Raises:
            ValueError: A message cannot be written as JSON; the URL is none.
            TypeError: A message cannot be written as JSON, or is no dict.
            HttpError: An answer has an error, and `raise_errors` is set: the first one, in the
                order of the messages. Messages that were not sent by then are not sent.
            RuntimeError: The client is closed.
        """
        target, bodies = self._bundle(url, messages)
        if not bodies:
            return []
        threads = ThreadPoolExecutor(min(len(bodies), self._max_connections), "virtex-bundle")
        try:
            return list(threads.map(lambda body: self._post(target, body, raise_errors), bodies))
        finally:
            threads.shutdown(cancel_futures=True)

    async def post_bundle_async(
        self,
        url: str | Iterable[Message] | None = None,
        messages: Iterable[Message] | None = None,
        *,
        raise_errors: bool = False,
    ) -> list[HttpMessage]:
        """`post_bundle`, without blocking the event loop; the first error to happen is raised."""
        target, bodies = self._bundle(url, messages)
        answers: dict[int, HttpMessage] = {}
        waiting = iter(enumerate(bodies))

        async def send() -> None:
            for index, body in waiting:
                answers[index] = await self._post_async(target, body, raise_errors)

        try:
            async with asyncio.TaskGroup() as group:
                for _ in range(min(len(bodies), self._max_connections)):
                    group.create_task(send())
        except BaseExceptionGroup as errors:
            raise errors.exceptions[0] from None
        return [answers[index] for index in range(len(bodies))]

    @staticmethod
    def validate_message(message: Any) -> bool:
        """Whether a message can be posted; if not, the reason is logged. Never raises."""
        try:
            _body(message)
        except Exception as error:
            LOGGER.error("the message cannot be posted: %s", error)
            return False
        return True

    def close(self) -> None:
        """Close the connections; those of running event loops close soon after. Idempotent."""
        pool, loops = self._end()
        if pool is not None:
            pool.close()
        for loop, opened in loops.items():
            opened.close_soon(loop)

    async def aclose(self) -> None:
        """`close`; this event loop's connections are closed when it returns."""
        pool, loops = self._end()
        if pool is not None:
            pool.close()
        own = loops.pop(asyncio.get_running_loop(), None)
        for loop, opened in loops.items():
            opened.close_soon(loop)
        if own is not None:
            await own.aclose()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self.aclose()

    def _addressed(self, url: Any, given: Any) -> tuple[Target, Any]:
        """Tell `(url, what to post)` from `(what to post,)`."""
        if given is None:
            url, given = None, url
        if url is not None and not isinstance(url, str):
            raise TypeError(f"url: expected text, got {type(url).__name__}")
        if given is None or isinstance(given, str):
            raise TypeError("expected a message, got none: post(message) or post(url, message)")
        return target_of(self._url if url is None else url, self._uds), given

    def _bundle(self, url: Any, messages: Any) -> tuple[Target, list[bytes]]:
        target, messages = self._addressed(url, messages)
        if isinstance(messages, dict):
            raise TypeError("expected a list of messages, got one message")
        return target, [_body(message) for message in messages]

    def _post(self, target: Target, body: bytes, raise_errors: bool) -> HttpMessage:
        deadline = time.monotonic() + self._timeout_s
        pool = self._pool_of_threads()
        for retry in itertools.count():
            answer = self._exchange(pool, target, body, deadline)
            pause_s = self._pause_s(target, answer, retry, deadline)
            if pause_s is None:
                break
            time.sleep(pause_s)
        return answer.result(raise_errors)

    async def _post_async(self, target: Target, body: bytes, raise_errors: bool) -> HttpMessage:
        deadline = time.monotonic() + self._timeout_s
        pool = await self._pool_of_loop()
        try:
            async with asyncio.timeout(self._timeout_s):
                for retry in itertools.count():
                    answer = await self._exchange_async(pool, target, body)
                    pause_s = self._pause_s(target, answer, retry, deadline)
                    if pause_s is None:
                        break
                    await asyncio.sleep(pause_s)
        except TimeoutError:
            answer = Answer.failed(target, self._late())
        return answer.result(raise_errors)

    def _pause_s(self, target: Target, answer: Answer, retry: int, deadline: float) -> float | None:
        """How long to wait before the message is sent again; None if it is not."""
        pause_s = _FIRST_PAUSE_S * 2**retry if answer.is_refused else answer.retry_after_s
        if (
            retry >= self._retries
            or not (answer.is_refused or answer.status == 503)
            or pause_s is None
            or time.monotonic() + pause_s >= deadline
        ):
            return None
        why = "connection refused" if answer.is_refused else "503"
        LOGGER.info("%s: %s; sent again in %g s", target.place, why, pause_s)
        return pause_s

    def _exchange(
        self, pool: httpcore2.ConnectionPool, target: Target, body: bytes, deadline: float
    ) -> Answer:
        # Instants, for DeadlineBackend; only the pool itself takes a duration.
        timeouts = {"connect": deadline, "read": deadline, "write": deadline}
        timeouts["pool"] = max(0.0, deadline - time.monotonic())
        reading = Reading(target, self._max_response_bytes, self._late())
        with reading.outcome():
            response = pool.handle_request(self._request(target, body, {"timeout": timeouts}))
            reading.start(response)
            try:
                for chunk in response.iter_stream():
                    reading.add(chunk)
            finally:
                response.close()
        return reading.answer

    async def _exchange_async(
        self, pool: httpcore2.AsyncConnectionPool, target: Target, body: bytes
    ) -> Answer:
        reading = Reading(target, self._max_response_bytes, self._late())
        with reading.outcome():
            response = await pool.handle_async_request(self._request(target, body, {}))
            reading.start(response)
            try:
                async for chunk in response.aiter_stream():
                    reading.add(chunk)
            finally:
                await response.aclose()
        return reading.answer

    def _request(self, target: Target, body: bytes, extensions: _Extensions) -> httpcore2.Request:
        headers = [*target.headers, (b"content-length", b"%d" % len(body)), *self._headers]
        return httpcore2.Request(
            "POST", target.url, headers=headers, content=body, extensions=extensions
        )

    def _late(self) -> str:
        return f"no answer within {self._timeout_s:g} s"

    def _pool_of_threads(self) -> httpcore2.ConnectionPool:
        with self._lock:
            self._check_open()
            # A forked child must not write on its parent's connections.
            if self._pool is None or self._pool_pid != os.getpid():
                self._pool_pid = os.getpid()
                self._pool = httpcore2.ConnectionPool(
                    ssl_context=self._ssl_context,
                    max_connections=self._max_connections,
                    keepalive_expiry=_KEEP_ALIVE_S,
                    max_keepalive_connections=self._max_connections,
                    uds=self._uds,
                    network_backend=DeadlineBackend(),
                )
            return self._pool

    async def _pool_of_loop(self) -> httpcore2.AsyncConnectionPool:
        loop = asyncio.get_running_loop()
        opened = self._loops.get(loop)
        if opened is None:
            with self._lock:
                self._check_open()
                for other in [other for other in self._loops if other.is_closed()]:
                    del self._loops[other]
                opened = self._loops[loop] = _LoopPool(
                    httpcore2.AsyncConnectionPool(
                        ssl_context=self._ssl_context,
                        max_connections=self._max_connections,
                        max_keepalive_connections=self._max_connections,
                        keepalive_expiry=_KEEP_ALIVE_S,
                        uds=self._uds,
                        network_backend=LoopBackend(),
                    )
                )
            await opened.open(self._loops)
        return opened.pool

    def _check_open(self) -> None:
        if self._is_closed:
            raise RuntimeError("expected an open client, got one that is closed")

    def _end(self) -> tuple[httpcore2.ConnectionPool | None, _Loops]:
        """Take what is to be closed: it is given once."""
        with self._lock:
            self._is_closed = True
            pool, self._pool = self._pool, None
            loops = dict(self._loops)
            self._loops.clear()
            return pool, loops


def _body(message: Message) -> bytes:
    if not isinstance(message, dict):
        raise TypeError(f"expected an HttpMessage or a dict, got {type(message).__name__}")
    return to_json(message)


class _LoopPool:
    """An event loop's connections, closed by `aclose` or at the end of `asyncio.run`."""

    def __init__(self, pool: httpcore2.AsyncConnectionPool) -> None:
        self.pool = pool
        self._life: AsyncGenerator[None] | None = None

    async def open(self, loops: _Loops) -> None:
        """Begin in the running loop; at its end, leave `loops`."""
        loop = asyncio.get_running_loop()

        # A loop that ends by asyncio.run ends its asynchronous generators: the one moment at
        # which connections can still be closed, and the loop be let go.
        async def live() -> AsyncGenerator[None]:
            try:
                yield
            finally:
                loops.pop(loop, None)
                await self.pool.aclose()

        self._life = live()
        await anext(self._life)

    async def aclose(self) -> None:
        if self._life is not None:
            await self._life.aclose()

    def close_soon(self, loop: asyncio.AbstractEventLoop) -> None:
        if not loop.is_closed():
            loop.call_soon_threadsafe(lambda: loop.create_task(self.aclose()))
