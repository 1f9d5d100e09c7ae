"""A quick closed loop: many connections on one event loop, each sends again once it is answered."""

from __future__ import annotations

import asyncio
import re

import uvloop

_LENGTH = re.compile(rb"content-length: (\d+)", re.IGNORECASE)


class _Client(asyncio.Protocol):
    def __init__(self, request: bytes, counts: list[int]) -> None:
        self._request = request
        self._counts = counts
        self._buffer = b""
        self._transport: asyncio.Transport | None = None
        self.is_over = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport  # type: ignore[assignment]  # uvloop's are no subclass
        self.send()

    def send(self) -> None:
        assert self._transport is not None
        self._transport.write(self._request)

    def data_received(self, data: bytes) -> None:
        self._buffer += data
        end = self._buffer.find(b"\r\n\r\n")
        if end < 0:
            return
        found = _LENGTH.search(self._buffer, 0, end)
        assert found is not None, self._buffer
        if len(self._buffer) < end + 4 + int(found[1]):
            return
        if not self._buffer.startswith(b"HTTP/1.1 200"):
            raise RuntimeError(f"expected 200, got {self._buffer[:200]!r}")
        self._buffer = b""
        self._counts[0] += 1
        if self.is_over:
            assert self._transport is not None
            self._transport.close()
        else:
            self.send()


def quick_closed_loop(
    port: int, request: bytes, *, connections: int, seconds: float, on_warm: object = None
) -> tuple[int, float]:
    """The answers that came, and in how many seconds, after a tenth of the time to warm up.

    Args:
        port: On 127.0.0.1.
        request: What each connection sends.
        connections: How many.
        seconds: How long.
        on_warm: Called when the counted time begins.
    """

    async def main() -> tuple[int, float]:
        counts = [0]
        loop = asyncio.get_running_loop()
        clients = [_Client(request, counts) for _ in range(connections)]
        for client in clients:
            await loop.create_connection(lambda client=client: client, "127.0.0.1", port)  # type: ignore[misc]
        await asyncio.sleep(seconds / 10)
        if callable(on_warm):
            on_warm()
        before, began = counts[0], loop.time()
        await asyncio.sleep(seconds)
        answered, took_s = counts[0] - before, loop.time() - began
        for client in clients:
            client.is_over = True
        await asyncio.sleep(0.2)
        return answered, took_s

    return uvloop.run(main())
