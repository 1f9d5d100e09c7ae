"""The connections under the client's pools: sockets with a deadline, and asyncio's streams."""

from __future__ import annotations

import asyncio
import select
import socket
import ssl
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from ._httpx import httpcore2


class DeadlineBackend(httpcore2.NetworkBackend):
    """Sockets that take each `timeout` for an instant: the end of everything, not of one step.

    A server that sends a byte now and then would never meet the timeout of a single read.
    """

    def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,
        *_args: Any,
        **_kwargs: Any,
    ) -> httpcore2.NetworkStream:
        found = (httpcore2.ConnectTimeout, httpcore2.ConnectError)
        with _step(timeout, *found):
            addresses = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
        failures: list[OSError] = []
        for family, kind, protocol, _, address in addresses:
            made = socket.socket(family, kind, protocol)
            try:
                with _step(timeout, *found) as left_s:
                    made.settimeout(left_s)
                    try:
                        made.connect(address)
                    except TimeoutError:
                        raise
                    except OSError as error:
                        failures.append(error)
                        made.close()
                        continue
            except BaseException:
                made.close()
                raise
            made.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            return _DeadlineStream(made)
        with _step(timeout, *found):
            raise failures[-1] from ExceptionGroup("no address answered", failures)

    def connect_unix_socket(
        self,
        path: str,
        timeout: float | None = None,
        *_args: Any,
        **_kwargs: Any,
    ) -> httpcore2.NetworkStream:
        made = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            with _step(timeout, httpcore2.ConnectTimeout, httpcore2.ConnectError) as left_s:
                made.settimeout(left_s)
                made.connect(path)
        except BaseException:
            made.close()
            raise
        return _DeadlineStream(made)


class _DeadlineStream(httpcore2.NetworkStream):
    def __init__(self, connected: socket.socket) -> None:
        self._socket = connected

    def read(self, max_bytes: int, timeout: float | None = None) -> bytes:
        with _step(timeout, httpcore2.ReadTimeout, httpcore2.ReadError) as left_s:
            self._socket.settimeout(left_s)
            return self._socket.recv(max_bytes)

    def write(self, buffer: bytes, timeout: float | None = None) -> None:
        view = memoryview(buffer)
        while view:
            with _step(timeout, httpcore2.WriteTimeout, httpcore2.WriteError) as left_s:
                self._socket.settimeout(left_s)
                sent = self._socket.send(view)
            view = view[sent:]

    def close(self) -> None:
        self._socket.close()

    def start_tls(
        self,
        ssl_context: ssl.SSLContext,
        server_hostname: str | None = None,
        timeout: float | None = None,
    ) -> httpcore2.NetworkStream:
        try:
            with _step(timeout, httpcore2.ConnectTimeout, httpcore2.ConnectError) as left_s:
                self._socket.settimeout(left_s)
                secured = ssl_context.wrap_socket(self._socket, server_hostname=server_hostname)
        except BaseException:
            self.close()
            raise
        return _DeadlineStream(secured)

    def get_extra_info(self, info: str) -> Any:
        if info == "is_readable":
            return _is_readable(self._socket.fileno())
        if info == "ssl_object" and isinstance(self._socket, ssl.SSLSocket):
            return self._socket
        return None


class LoopBackend(httpcore2.AsyncNetworkBackend):
    """Streams of asyncio, without timeouts: the deadline ends a post as a whole.

    They cost half of the pool's own ones, and are closed too where a handshake is cut short.
    """

    async def connect_tcp(
        self, host: str, port: int, *_args: Any, **_kwargs: Any
    ) -> httpcore2.AsyncNetworkStream:
        loop = asyncio.get_running_loop()
        with _step(None, httpcore2.ConnectTimeout, httpcore2.ConnectError):
            addresses = await loop.getaddrinfo(host, port, type=socket.SOCK_STREAM)
            failures: list[OSError] = []
            for family, kind, protocol, _, address in addresses:
                try:
                    return await self._connect(socket.socket(family, kind, protocol), address)
                except OSError as error:
                    failures.append(error)
            raise failures[-1] from ExceptionGroup("no address answered", failures)

    async def connect_unix_socket(
        self, path: str, *_args: Any, **_kwargs: Any
    ) -> httpcore2.AsyncNetworkStream:
        with _step(None, httpcore2.ConnectTimeout, httpcore2.ConnectError):
            return await self._connect(socket.socket(socket.AF_UNIX, socket.SOCK_STREAM), path)

    @staticmethod
    async def _connect(made: socket.socket, address: Any) -> httpcore2.AsyncNetworkStream:
        try:
            made.setblocking(False)
            await asyncio.get_running_loop().sock_connect(made, address)
            if made.family == socket.AF_UNIX:
                return _LoopStream(*await asyncio.open_unix_connection(sock=made))
            return _LoopStream(*await asyncio.open_connection(sock=made))
        except BaseException:
            made.close()
            raise


class _LoopStream(httpcore2.AsyncNetworkStream):
    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer

    async def read(self, max_bytes: int, *_args: Any, **_kwargs: Any) -> bytes:
        with _step(None, httpcore2.ReadTimeout, httpcore2.ReadError):
            return await self._reader.read(max_bytes)

    async def write(self, buffer: bytes, *_args: Any, **_kwargs: Any) -> None:
        with _step(None, httpcore2.WriteTimeout, httpcore2.WriteError):
            self._writer.write(buffer)
            await self._writer.drain()

    async def aclose(self) -> None:
        self._writer.close()
        await asyncio.sleep(0)
        # What is left unsent goes with it: nobody waits for the answer.
        self._writer.transport.abort()
        await asyncio.sleep(0)

    async def start_tls(
        self,
        ssl_context: ssl.SSLContext,
        server_hostname: str | None = None,
        *_args: Any,
        **_kwargs: Any,
    ) -> httpcore2.AsyncNetworkStream:
        try:
            with _step(None, httpcore2.ConnectTimeout, httpcore2.ConnectError):
                await self._writer.start_tls(ssl_context, server_hostname=server_hostname)
        except BaseException:
            await self.aclose()
            raise
        return self

    def get_extra_info(self, info: str) -> Any:
        if info == "is_readable":
            plain = self._writer.get_extra_info("socket")
            return self._reader.at_eof() or plain is None or _is_readable(plain.fileno())
        return self._writer.get_extra_info(info)


def _is_readable(descriptor: int) -> bool:
    """Whether an idle connection has something to read: the server has ended it."""
    if descriptor < 0:
        return True
    poll = select.poll()
    poll.register(descriptor, select.POLLIN)
    return bool(poll.poll(0))


@contextmanager
def _step(
    deadline: float | None, late: type[Exception], failed: type[Exception]
) -> Iterator[float | None]:
    """What time is left; the errors of sockets become the pool's."""
    left_s = None if deadline is None else deadline - time.monotonic()
    if left_s is not None and left_s <= 0:
        raise late
    try:
        yield left_s
    except TimeoutError as error:
        raise late(error) from error
    except OSError as error:
        raise failed(error) from error
