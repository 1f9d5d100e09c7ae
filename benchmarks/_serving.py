"""What the benchmarks share: `headrace serve`, and a client that waits."""

from __future__ import annotations

import contextlib
import re
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from _processes import cpu_s

ROOT = Path(__file__).resolve().parent.parent


@dataclass(frozen=True)
class Running:
    """A server that is ready.

    Attributes:
        port: On 127.0.0.1.
        pid: Of its process.
    """

    port: int
    pid: int

    @property
    def cpu_s(self) -> float:
        """User and system time of the process so far, and of its ended children."""
        return cpu_s(self.pid)


@contextlib.contextmanager
def serving(target: str, *options: str) -> Iterator[Running]:
    """`headrace serve` on a free port, until the block ends."""
    command = [sys.executable, "-m", "headrace", "serve", target, "--port", "0", *options]
    process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        first = process.stdout.readline()
        found = re.search(r"http://127\.0\.0\.1:(\d+)", first)
        if found is None:
            raise RuntimeError(f"the server did not become ready: {first!r}")
        yield Running(int(found[1]), process.pid)
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(timeout=30)


class Connection:
    """A keep-alive connection that sends one request at a time.

    Args:
        port: On 127.0.0.1.
    """

    def __init__(self, port: int) -> None:
        self._socket = socket.create_connection(("127.0.0.1", port))
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._buffer = bytearray()

    def ask(self, request: bytes) -> tuple[int, bytes]:
        """The status and body that a request is answered with."""
        self._socket.sendall(request)
        while (end := self._buffer.find(b"\r\n\r\n")) < 0:
            self._receive()
        head = bytes(self._buffer[:end])
        found = re.search(rb"content-length: (\d+)", head, re.IGNORECASE)
        size = int(found[1]) if found else 0
        whole = end + 4 + size
        while len(self._buffer) < whole:
            self._receive()
        body = bytes(self._buffer[end + 4 : whole])
        del self._buffer[:whole]
        return int(head.split(None, 2)[1]), body

    def close(self) -> None:
        self._socket.close()

    def _receive(self) -> None:
        data = self._socket.recv(65536)
        if not data:
            raise ConnectionError("the server closed the connection")
        self._buffer += data


def get(path: str) -> bytes:
    """A GET request's bytes."""
    return f"GET {path} HTTP/1.1\r\nHost: localhost\r\n\r\n".encode()


def post(path: str, body: bytes, media_type: str) -> bytes:
    """A POST request's bytes."""
    head = (
        f"POST {path} HTTP/1.1\r\nHost: localhost\r\n"
        f"Content-Type: {media_type}\r\nContent-Length: {len(body)}\r\n\r\n"
    )
    return head.encode() + body
