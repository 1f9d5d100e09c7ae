"""Clients of a server that is told to stop at any moment, and what each of their requests came to.

What counts as accepted: a request whose last byte the client had given to the system before the
server's end of the connection had come, so that the end is not there yet when it looks right after
the write. Whatever happens then, the request must be answered. One that is written when the end is
there already is nobody's loss: HTTP lets a server end an idle connection, and the client could have
known. A reset is no end: whoever is reset has lost what was written.

Two instants are left. A server looks whether an idle connection has brought something, and ends it
if not, and the system has no call that does both: where the processor is taken from it in between,
a request that comes just then is passed over, unread and not run. Likewise a connection that is
half made when the listener closes: its client's system takes it for made, and it is reset. Those
are counted by themselves.
"""

from __future__ import annotations

import asyncio
import json
import random
import socket
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from headrace.http.connection import GRACE_S
from tests.e2e.conftest import Served

ANSWER_S = 30.0
IDLE_MS = 1000 * GRACE_S
"""What has been silent for so long, a server that drains may end."""
CONNECT_S = 5.0


class Tally:
    """What became of the requests.

    Attributes:
        right: Answered, with their own answer.
        wrong: Answered, with something else: what.
        lost: Accepted, and never answered: how that showed.
        crossed: Not answered, and written when the connection had ended.
        raced: Not answered, and written while the server was ending the connection, as it was idle,
            or the listener, as it had not been accepted.
        last: Answers that said that they were their connection's last.
        refused: Connections that could not be made any more.
    """

    def __init__(self) -> None:
        self.right: set[int] = set()
        self.wrong: list[str] = []
        self.lost: list[str] = []
        self.crossed = 0
        self.raced = 0
        self.last = 0
        self.refused = 0
        self.kinds: Counter[str] = Counter()


class Answered(NamedTuple):
    status: int
    body: bytes
    is_last: bool


class _Unanswered(EOFError):
    """The connection has ended without a byte of the answer."""


class Asker:
    """A client that asks on one connection after another, until it can make no more.

    Args:
        server: Whom.
        tally: Where what comes of it is counted.
        numbers: The requests' own, all different.
        pauses_s: Between which bounds to pause between two requests.
        order: What else the model is told.
    """

    def __init__(
        self,
        server: Served,
        tally: Tally,
        numbers: Sequence[int],
        pauses_s: tuple[float, float] = (0.0, 0.0),
        order: Mapping[str, object] | None = None,
    ) -> None:
        self._address = str(server.uds) if server.uds is not None else server.host_and_port
        self._family = socket.AF_INET if server.uds is None else socket.AF_UNIX
        self._tally = tally
        self._numbers = iter(numbers)
        self._pauses_s = pauses_s
        self._order = order or {}

    async def run(self) -> None:
        while (sock := await self._connected()) is not None:
            with sock:
                asked, idle_since = 0, time.monotonic()
                while await self._ask(sock, asked, idle_since):
                    asked, idle_since = asked + 1, time.monotonic()
                    if self._pauses_s[1]:
                        await asyncio.sleep(random.uniform(*self._pauses_s))

    async def _connected(self) -> socket.socket | None:
        sock = socket.socket(self._family, socket.SOCK_STREAM)
        sock.setblocking(False)
        if self._family == socket.AF_INET:
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        try:
            async with asyncio.timeout(CONNECT_S):
                await asyncio.get_running_loop().sock_connect(sock, self._address)
        except OSError:
            sock.close()
            self._tally.refused += 1
            return None
        return sock

    async def _ask(self, sock: socket.socket, before: int, idle_since: float) -> bool:
        """One request; whether the connection can carry another.

        Args:
            sock: Its connection.
            before: How many it has carried.
            idle_since: When it was made, or its last answer came.
        """
        if _has_ended(sock):
            return False
        n = next(self._numbers)
        body = json.dumps({"n": n, **self._order}).encode()
        head = f"POST /predict HTTP/1.1\r\nhost: x\r\ncontent-length: {len(body)}\r\n\r\n"
        tally = self._tally
        idle_ms = round(1000 * (time.monotonic() - idle_since), 1)
        try:
            sock.sendall(head.encode() + body)  # it fits into the socket's buffer
            is_accepted = not _has_ended(sock)
        except BrokenPipeError:
            tally.crossed += 1  # the system knew the end before it took the request
            return False
        except ConnectionResetError as error:
            self._was_lost(n, error, before, idle_ms)
            return False
        try:
            async with asyncio.timeout(ANSWER_S):
                answered = await _answer(sock)
        except (OSError, EOFError, TimeoutError) as error:
            if is_accepted:
                self._was_lost(n, error, before, idle_ms)
            else:
                tally.crossed += 1
            return False
        if answered.status == 200 and json.loads(answered.body) == 2 * n:
            tally.right.add(n)
        else:
            tally.wrong.append(f"{n}: {answered.status} {answered.body[:100]!r}")
        tally.last += answered.is_last
        return not answered.is_last

    def _was_lost(self, n: int, error: Exception, before: int, idle_ms: float) -> None:
        was_ended = isinstance(error, _Unanswered) and idle_ms >= IDLE_MS
        if was_ended or (isinstance(error, ConnectionResetError) and not before):
            self._tally.raced += 1
        else:
            where = f"request {n}, after {before} on its connection and {idle_ms} ms of silence"
            self._tally.lost.append(f"{where}: {error!r}")


def _has_ended(sock: socket.socket) -> bool:
    """Whether the server's end has come, and nothing before it."""
    try:
        return sock.recv(1, socket.MSG_PEEK) == b""
    except OSError:  # nothing has come yet, or a reset
        return False


async def _answer(sock: socket.socket) -> Answered:
    loop, got = asyncio.get_running_loop(), b""
    while b"\r\n\r\n" not in got:
        got += await _more(loop, sock, got)
    head, _, body = got.partition(b"\r\n\r\n")
    told = head.lower().decode("latin-1")
    size = int(told.split("content-length: ")[1].split("\r\n")[0])
    while len(body) < size:
        body += await _more(loop, sock, head + body)
    return Answered(int(told.split()[1]), body, "connection: close" in told)


async def _more(loop: asyncio.AbstractEventLoop, sock: socket.socket, got: bytes) -> bytes:
    data = await loop.sock_recv(sock, 1 << 16)
    if not data:
        raise EOFError(f"ended after {got!r}") if got else _Unanswered
    return data
