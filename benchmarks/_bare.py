"""python _bare.py PORT: gives each body back; as little as an answer over HTTP takes."""

from __future__ import annotations

import asyncio
import re
import sys

import uvloop

_LENGTH = re.compile(rb"content-length: (\d+)", re.IGNORECASE)


class BareEcho(asyncio.Protocol):
    """One request at a time on each connection, which our clients see to."""

    def __init__(self) -> None:
        self._transport: asyncio.Transport
        self._received = bytearray()
        self._body_begin = self._end = 0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport  # type: ignore[assignment]  # uvloop's are no subclass

    def data_received(self, data: bytes) -> None:
        self._received += data
        if not self._end:
            head_end = self._received.find(b"\r\n\r\n")
            if head_end < 0:
                return
            found = _LENGTH.search(self._received, 0, head_end)
            assert found is not None, self._received[:head_end]
            self._body_begin = head_end + 4
            self._end = self._body_begin + int(found[1])
        if len(self._received) < self._end:
            return
        body = memoryview(self._received)[self._body_begin : self._end]
        self._received = bytearray()
        self._end = 0
        self._transport.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(body))
        self._transport.write(body)


async def serve(port: int) -> None:
    """Until the process is ended; says where it listens."""
    server = await asyncio.get_running_loop().create_server(BareEcho, "127.0.0.1", port)
    print(f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}", flush=True)
    await server.serve_forever()


if __name__ == "__main__":
    uvloop.run(serve(int(sys.argv[1])))
