"""Clients that keep a log of what they sent and got, and hold it against the server's metrics."""

from __future__ import annotations

import asyncio
import itertools
import json
import threading
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from tests.e2e.conftest import Answer, Served, Wire, eventually
from tests.faults.errors import check_error

ANSWER_S = 60.0
"""No answer may take longer, whatever happens."""


class Got(NamedTuple):
    """What became of one request."""

    n: int
    status: int
    body: bytes
    took_s: float
    retry_after: str = ""

    @property
    def is_right(self) -> bool:
        return self.status == 200 and json.loads(self.body) == 2 * self.n

    @property
    def code(self) -> str:
        return "" if self.status == 200 else str(json.loads(self.body)["code"])


class Log:
    """Counts the answers to all requests of one server's model since this was made."""

    def __init__(self, server: Served) -> None:
        self.server = server
        self.statuses: Counter[int] = Counter()
        self.numbers = itertools.count(1)
        self._codes: Counter[str] = Counter()
        self._read = len(server.log_lines)
        self._wires: list[Wire] = []
        self._pid = server.process.pid
        self._before = self._told()

    def took(self, got: Got) -> Got:
        self.statuses[got.status] += 1
        if got.status != 200:
            check_error(Answer(got.status, _JSON, got.body), self.server, b"")
            self._codes[got.code] += 1
        return got

    def ask(self, orders: Sequence[Mapping[str, Any]], headers: str = "") -> list[Got]:
        """Send orders, each on a connection of its own, and wait for all answers."""
        return self.answers(self.send(orders, headers))

    def send(self, orders: Sequence[Mapping[str, Any]], headers: str = "") -> list[Sent]:
        """Send orders, each on a connection of its own; `answers` waits for them."""
        sent = []
        for order in orders:
            wire = self._wires.pop() if self._wires else self.server.wire()
            wire.socket.settimeout(ANSWER_S)
            n = next(self.numbers)
            wire.post("/predict", json.dumps({"n": n, **order}), headers)
            sent.append(Sent(n, wire, time.monotonic()))
        return sent

    def answers(self, sent: Sequence[Sent]) -> list[Got]:
        got = []
        for n, wire, at in sent:
            answer: Answer = wire.answer()
            took_s = time.monotonic() - at
            retry_after = answer.headers.get("retry-after", "")
            got.append(self.took(Got(n, answer.status, answer.body, took_s, retry_after)))
            if answer.headers.get("connection") == "close":
                wire.socket.close()
            else:
                self._wires.append(wire)
        return got

    def check(self) -> None:
        """One answer for each request, by both accounts, and the server as it was."""
        server = self.server
        assert server.process.poll() is None and server.process.pid == self._pid
        in_flight = "headrace_http_requests_in_flight"
        eventually(lambda: server.metric(in_flight) == 0, "none in flight")
        requests, items = self._told()
        assert requests - self._before[0] == self.statuses, "the metrics and the client agree"
        assert items - self._before[1] == sum(self.statuses.values()), "and so do the items"
        for name in ("headrace_queue_items", "headrace_queue_bytes", "headrace_running_items"):
            assert server.metric(name) == 0
        began = time.monotonic()
        assert server.get("/livez").status_code == 200
        assert time.monotonic() - began < 1.0
        eventually(lambda: server.get("/readyz").status_code == 200, "ready")
        if self._codes and server.process.stderr is not None:
            eventually(lambda: not self._codes - self._recorded(), "a record of each failure")

    def _recorded(self) -> Counter[str]:
        """Failures that the log tells of, or counts, by their code."""
        codes: Counter[str] = Counter()
        for line in self.server.log_lines[self._read :]:
            record = json.loads(line) if line.startswith("{") else {}
            if record.get("message") in ("request failed", "records were held back"):
                codes[record["code"]] += record["message"] == "request failed"
                codes[record["code"]] += record.get("held_back", 0)
        return codes

    def _told(self) -> tuple[Counter[int], float]:
        """Answers by status, and ended items with those that were refused."""
        server = self.server
        statuses = {s: server.metric("headrace_http_requests_total", status=str(s)) for s in _KNOWN}
        items = server.metric("headrace_items_total") + server.metric("headrace_refused_total")
        return Counter({s: int(count) for s, count in statuses.items() if count}), items


_JSON = {"content-type": "application/json"}
_KNOWN = (200, 400, 422, 500, 503, 504)


class Sent(NamedTuple):
    """A request that waits for its answer."""

    n: int
    wire: Wire
    at: float


class Load:
    """Connections that ask without a pause, on a thread of their own, until told to stop.

    Attributes:
        got: All answers.
        lost: Requests that were sent and not answered, by why.
        refused: Connections that could not be made.
    """

    def __init__(self, log: Log, connections: int, order: Mapping[str, Any] | None = None) -> None:
        self.got: list[Got] = []
        self.lost: list[str] = []
        self.refused = 0
        self._log = log
        self._address = log.server.host_and_port
        self._connections = connections
        self._order = order or {}
        self._is_over = False
        self._thread = threading.Thread(target=lambda: asyncio.run(self._run()), daemon=True)

    def __enter__(self) -> Load:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def stop(self) -> None:
        """Wait for what was asked, and ask no more."""
        self._is_over = True
        self._thread.join(2 * ANSWER_S)
        assert not self._thread.is_alive()

    def rate(self, seconds: float) -> float:
        """Right answers a second from now on."""
        before, began = len(self.got), time.monotonic()
        time.sleep(seconds)
        right = sum(got.is_right for got in self.got[before:])
        return right / (time.monotonic() - began)

    @property
    def wrong(self) -> list[Got]:
        """The answers that are not 200 and the request's own."""
        return [got for got in self.got if not got.is_right]

    def check(self) -> None:
        """Each request was answered with 200 and its own answer."""
        assert self.got
        assert (self.wrong[:5], self.lost[:5]) == ([], [])

    async def _run(self) -> None:
        await asyncio.gather(*(self._connection() for _ in range(self._connections)))

    async def _connection(self) -> None:
        while not self._is_over:
            try:
                reader, writer = await asyncio.open_connection(*self._address)
            except OSError:
                self.refused += 1
                return
            try:
                while await self._ask(reader, writer):
                    if self._is_over:
                        return
            finally:
                writer.close()

    async def _ask(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        """One request; whether the connection can carry another."""
        n = next(self._log.numbers)
        body = json.dumps({"n": n, **self._order})
        head = f"POST /predict HTTP/1.1\r\nhost: x\r\ncontent-length: {len(body)}\r\n\r\n"
        began = time.monotonic()
        try:
            async with asyncio.timeout(ANSWER_S):
                writer.write((head + body).encode())
                told = (await reader.readuntil(b"\r\n\r\n")).lower().decode("latin-1")
                size = int(told.split("content-length: ")[1].split("\r\n")[0])
                answer = await reader.readexactly(size)
        except (OSError, EOFError, TimeoutError) as error:
            self.lost.append(f"{n}: {error!r}")
            return False
        took_s = time.monotonic() - began
        self.got.append(self._log.took(Got(n, int(told.split()[1]), answer, took_s)))
        return "connection: close" not in told
