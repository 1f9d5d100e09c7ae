"""A scripted HTTP server on a thread, for what a well-behaved one never does."""

from __future__ import annotations

import asyncio
import contextlib
import ssl
import threading
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

WAIT_S = 20.0


@dataclass(frozen=True)
class Request:
    """One request.

    Attributes:
        head: Its lines, as they came.
        body: Its body.
        connection: The number of the connection it came on, from 0.
    """

    head: str
    body: bytes
    connection: int


Answering = Callable[[Request, asyncio.StreamWriter], Awaitable[object]]


class Server:
    """What the server saw.

    Attributes:
        url: Where it is; of its host and port only, with a slash.
        loop: The one that it runs on.
        requests: In the order of their coming.
        connections: How many were accepted.
        max_open: How many were open at once, at most.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self.url = "http://localhost/"
        self.loop = loop
        self.requests: list[Request] = []
        self.connections = 0
        self.max_open = 0
        self._open = 0

    @property
    def bodies(self) -> list[bytes]:
        return [request.body for request in self.requests]

    async def serve(
        self, answering: Answering, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        number = self.connections
        self.connections += 1
        self._open += 1
        self.max_open = max(self.max_open, self._open)
        try:
            while not writer.is_closing():
                head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
                size = int(head.lower().partition("content-length: ")[2].partition("\r\n")[0])
                request = Request(head, await reader.readexactly(size), number)
                self.requests.append(request)
                await answering(request, writer)
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            self._open -= 1
            writer.close()


def answer(body: bytes, status: str = "200 OK", *fields: str) -> bytes:
    """A whole answer."""
    lines = "".join(f"{field}\r\n" for field in fields)
    return f"HTTP/1.1 {status}\r\n{lines}Content-Length: {len(body)}\r\n\r\n".encode() + body


async def echo(request: Request, writer: asyncio.StreamWriter) -> None:
    """Answer with the request's body."""
    writer.write(answer(request.body))


@contextlib.contextmanager
def serving(
    answering: Answering = echo, *, uds: Path | None = None, tls: ssl.SSLContext | None = None
) -> Iterator[Server]:
    """The server, until the block ends."""
    loop = asyncio.new_event_loop()
    server = Server(loop)
    ready = threading.Event()
    over = asyncio.Event()

    async def main() -> None:
        tasks: set[asyncio.Task[None]] = set()
        writers: list[asyncio.StreamWriter] = []

        async def accepted(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            task = asyncio.current_task()
            assert task is not None
            tasks.add(task)
            task.add_done_callback(tasks.discard)
            writers.append(writer)
            with contextlib.suppress(asyncio.CancelledError):
                await server.serve(answering, reader, writer)

        if uds is not None:
            listening = await asyncio.start_unix_server(accepted, uds)
        else:
            listening = await asyncio.start_server(accepted, "127.0.0.1", 0, ssl=tls)
            port = listening.sockets[0].getsockname()[1]
            server.url = f"{'http' if tls is None else 'https'}://127.0.0.1:{port}/"
        ready.set()
        await over.wait()
        listening.close()
        while others := asyncio.all_tasks() - {asyncio.current_task()}:  # of those just accepted
            for task in tasks:
                task.cancel()
            await asyncio.wait(others)
        for writer in writers:
            writer.transport.abort()
        await asyncio.sleep(0)  # in which their sockets are closed

    def work() -> None:
        with asyncio.Runner(loop_factory=lambda: loop) as runner:
            runner.run(main())

    thread = threading.Thread(target=work, name="scripted-server")
    thread.start()
    try:
        assert ready.wait(WAIT_S)
        yield server
    finally:
        loop.call_soon_threadsafe(over.set)
        thread.join(WAIT_S)
        assert not thread.is_alive()
