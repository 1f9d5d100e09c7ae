"""Connections that have been answered once and are kept."""

from __future__ import annotations

import contextlib
import resource
import socket
from collections.abc import Iterator

SOURCES = 8
"""Addresses of 127.0.0.0/8 to connect from: each has ports of its own."""
SPARE_FILES = 500


def most_connections() -> int:
    """How many connections a process may have here, once it has asked for all that it can get."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))  # children inherit it
    return hard - SPARE_FILES


@contextlib.contextmanager
def idle(port: int, count: int, request: bytes) -> Iterator[None]:
    """So many connections to a port of 127.0.0.1, each used once, until the block ends."""
    with contextlib.ExitStack() as stack:
        for number in range(count):
            source = (f"127.0.0.{2 + number % SOURCES}", 0)
            one = socket.create_connection(("127.0.0.1", port), source_address=source)
            stack.enter_context(one)
            one.sendall(request)
            answer = one.recv(4096)
            if not answer.startswith(b"HTTP/1.1 200"):
                raise RuntimeError(f"expected 200, got {answer[:100]!r}")
        yield
