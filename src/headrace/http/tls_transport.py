"""TLS with flow control: what a client has not read is counted, and held back until it reads.

The loop's TLS encrypts all that it is given at once, and hands it to the transport of the socket,
whose buffer nobody can look into from above: an answer of any size counts as read. So answers go
there in slices, and the next one only when the last is on its way.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Iterable
from typing import Any

SLICE_BYTES = 128 * 1024
"""What is encrypted at once. So much, and what the socket's transport takes, is out of sight."""
HIGH_WATER_BYTES, LOW_WATER_BYTES = 64 * 1024, 16 * 1024
"""With more unread than the first the protocol is paused, with no more than the second resumed."""

Data = bytes | bytearray | memoryview

_NOBODY = asyncio.Protocol()


class TlsTransport(asyncio.Transport, asyncio.Protocol):
    """Between a TLS transport and its protocol: to each it is the other one.

    Args:
        transport: The loop's, of a connection over TLS.
        protocol: Reads and writes what it carries.
    """

    def __init__(self, transport: asyncio.Transport, protocol: asyncio.Protocol) -> None:
        super().__init__()
        self._transport = transport
        self._protocol = protocol
        self._waiting: deque[Data] = deque()
        self._waiting_bytes = 0
        self._is_held = False
        self._is_paused = False
        self._is_closing = False
        transport.set_protocol(self)
        # It holds us up as soon as anything waits in it, and no longer than that.
        transport.set_write_buffer_limits(high=1, low=0)

    # As a transport

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        return self._transport.get_extra_info(name, default)

    def write(self, data: Data) -> None:
        if self._is_held or self._is_closing or len(data) > SLICE_BYTES:
            self._keep((data,))
        else:
            self._transport.write(data)

    def writelines(self, list_of_data: Iterable[Data]) -> None:
        pieces = list(list_of_data)
        if self._is_held or self._is_closing or sum(map(len, pieces)) > SLICE_BYTES:
            self._keep(pieces)
        else:
            self._transport.writelines(pieces)

    def _keep(self, pieces: Iterable[Data]) -> None:
        """Send later what cannot be sent now."""
        if self._is_closing:
            return
        for data in pieces:
            self._waiting.append(data)
            self._waiting_bytes += len(data)
        self._send()
        if not self._is_paused and self.get_write_buffer_size() > HIGH_WATER_BYTES:
            self._is_paused = True
            self._protocol.pause_writing()

    def can_write_eof(self) -> bool:
        return False

    def get_write_buffer_size(self) -> int:
        return self._waiting_bytes + self._transport.get_write_buffer_size()

    def is_closing(self) -> bool:
        return self._is_closing or self._transport.is_closing()

    def close(self) -> None:
        self._is_closing = True
        if not self._waiting:
            self._transport.close()

    def abort(self) -> None:
        self._is_closing = True
        self._drop()
        self._transport.abort()

    def pause_reading(self) -> None:
        self._transport.pause_reading()

    def resume_reading(self) -> None:
        self._transport.resume_reading()

    # As a protocol

    def data_received(self, data: bytes) -> None:
        if not self._is_closing:
            self._protocol.data_received(data)

    def eof_received(self) -> bool | None:
        # The transport closes after this: what it shall still send, it must have.
        self._send(is_last=True)
        return None if self._is_closing else self._protocol.eof_received()

    def connection_lost(self, exc: Exception | None) -> None:
        self._is_closing = True
        self._drop()
        protocol, self._protocol = self._protocol, _NOBODY  # it holds this
        protocol.connection_lost(exc)

    def pause_writing(self) -> None:
        self._is_held = True

    def resume_writing(self) -> None:
        self._is_held = False
        self._send()
        if self._is_closing:
            if not self._waiting:
                self._transport.close()
        elif self._is_paused and self.get_write_buffer_size() <= LOW_WATER_BYTES:
            self._is_paused = False
            self._protocol.resume_writing()

    def _send(self, *, is_last: bool = False) -> None:
        """Hand on what waits, until a slice of it waits below."""
        waiting = self._waiting
        while waiting and (is_last or not self._is_held):
            data = waiting[0]
            if len(data) > SLICE_BYTES:
                rest = memoryview(data)
                data, waiting[0] = rest[:SLICE_BYTES], rest[SLICE_BYTES:]
            else:
                waiting.popleft()
            self._waiting_bytes -= len(data)
            self._transport.write(data)

    def _drop(self) -> None:
        self._waiting.clear()
        self._waiting_bytes = 0
