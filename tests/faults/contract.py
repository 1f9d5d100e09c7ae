"""What a server owes its clients whatever some of them do, checked around each row of faults.

`Contract.watch` gives a `Client` that logs all it was answered. When the row is over, these hold:

- the client's log and the server's metrics agree on every request that was taken;
- two canaries on connections of their own were answered all along, rightly and soon;
- the probes were answered all along, soon and one way: ready, or not ready and why;
- the server's process is the same, alive and ready;
- each error has our form, and tells nothing of the server's inside;
- the server's records are JSON, name requests that the client knows, and are no flood.

`Contract.hold` also repeats the row, and compares what the server and its workers hold before and
after. When all rows are over, each failure has a record, or is counted by one.
"""

from __future__ import annotations

import json
import math
import os
import re
import socket
import struct
import threading
import time
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from typing import NamedTuple

from headrace.config import known_settings
from tests.e2e.conftest import WAIT_S, Answer, Served, Wire, eventually
from tests.faults.canaries import LATE_S as LATE_S
from tests.faults.canaries import Canary, Probe, check_soon, p99
from tests.faults.errors import check_error
from tests.faults.report import repeated
from tests.faults.watch import SLACK_BYTES, Held, held, held_by_workers, memory_of_all, workers

WAYS = ("asgi", "fast") if "fast_path" in known_settings() else ("asgi",)
"""The ways of a predict request from the socket to the engine; one suite runs over all."""

ROUNDS = 5
"""How often `hold` repeats a row, before and after it looks what the server holds."""
LONG_ROUNDS = int(os.environ.get("FAULT_ROUNDS", 0))
"""How often it does so at least."""
MADE_ONCE = 2
"""Descriptors and threads of a worker that has not served yet when it is looked at first."""
SETTLE_S = 20.0
"""How long the server may take to let go of what a row has left behind, on a busy machine."""
MAX_PER_SECOND = 10

LEAST_TELLING_PID = 1000
"""A number below it may be in an error for another reason."""

_PAGE_ID = "page-"
_REFUSAL_ID = "refused-"


def by(way: str) -> dict[str, str]:
    """The settings that send predict requests one way."""
    return {"fast_path": str(way == "fast").lower()} if len(WAYS) > 1 else {}


def message(path: str, body: bytes | str, headers: str = "", method: str = "POST") -> bytes:
    """A whole request; `headers` are lines that end with CR LF."""
    raw = body.encode() if isinstance(body, str) else body
    head = f"{method} {path} HTTP/1.1\r\nhost: x\r\ncontent-length: {len(raw)}\r\n{headers}\r\n"
    return head.encode() + raw


class LoggedWire(Wire):
    """A bare connection whose answers are logged.

    Args:
        server: Where to connect.
        client: Whose log it is.
    """

    def __init__(self, server: Served, client: Client) -> None:
        super().__init__(server)
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._client = client

    def send(self, data: bytes | str) -> None:
        self._client.sent(data.encode() if isinstance(data, str) else data)
        super().send(data)

    def answer(self) -> Answer:
        return self._client.took(super().answer())

    def rest(self) -> list[Answer]:
        """All final answers until the server closes; one that is cut off is an error."""
        answers = []
        while not self.has_ended():
            answers.append(self.answer())
        return [answer for answer in answers if answer.status != 100]

    def has_ended(self) -> bool:
        """Whether the server has no more to say: it waits for the next byte to know."""
        if not self._buffer:
            with suppress(ConnectionResetError):  # we sent what it did not want to read
                self._buffer = self.socket.recv(1 << 16)
        return not self._buffer

    def reset(self) -> None:
        """Vanish: close in a way that tells the other side nothing but that it is over."""
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.socket.close()


class Client:
    """Sends what a row wants, and keeps the log.

    Attributes:
        statuses: Answers to predict requests that the server took.
        refusals: Answers to what the server did not take for a request, by status.
        patience_s: How long an answer is waited for; None for as long as the suite waits.
        abandoned: The least and the most requests that the server may have taken and whose answer
            nobody read.
    """

    def __init__(self, server: Served) -> None:
        self.server = server
        self.statuses: Counter[int] = Counter()
        self.refusals: Counter[int] = Counter()
        self.codes: Counter[str] = Counter()
        self.ids: set[str] = set()
        self.abandoned = (0, 0)
        self.patience_s: float | None = None
        self._wires: list[Wire] = []
        self._kept: LoggedWire | None = None
        self._lock = threading.Lock()
        self._last_sent = b""
        self._inside = [str(pid) for pid in workers(server) if pid >= LEAST_TELLING_PID]

    def __enter__(self) -> Client:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def wire(self) -> LoggedWire:
        """A connection, closed at the latest when the round is over."""
        wire = LoggedWire(self.server, self)
        if self.patience_s is not None:
            wire.socket.settimeout(self.patience_s)
        self._wires.append(wire)
        return wire

    def talk(self, data: bytes) -> list[Answer]:
        """Send bytes on a connection of their own; all answers until the server closes it."""
        wire = self.wire()
        with suppress(ConnectionError):  # it need not read to the end what it refuses
            wire.send(data)
        answers = wire.rest()
        wire.socket.close()
        return answers

    def ask(self, path: str, body: bytes | str, headers: str = "") -> Answer:
        """Ask on a connection that is kept while the server keeps it."""
        wire = self._kept or self.wire()
        wire.send(message(path, body, headers))
        answer = wire.answer()
        self._kept = None if answer.headers.get("connection") == "close" else wire
        return answer

    def abandon(self, at_least: int, at_most: int | None = None) -> None:
        """So many more requests were taken and left alone."""
        low, high = self.abandoned
        self.abandoned = (low + at_least, high + (at_least if at_most is None else at_most))

    def sent(self, data: bytes) -> None:
        self._last_sent = (self._last_sent + data)[-(1 << 16) :]

    def took(self, answer: Answer) -> Answer:
        if answer.status == 100:
            return answer
        with self._lock:
            name = answer.headers.get("x-request-id")
            if name is None or name.startswith(_REFUSAL_ID):
                self.refusals[answer.status] += 1
            elif not name.startswith(_PAGE_ID):
                self.statuses[answer.status] += 1
                self.ids.add(name)
            if answer.status >= 400:
                check_error(answer, self.server, self._last_sent, self._inside)
                if name is not None and not name.startswith(_PAGE_ID):
                    self.ids.add(name)
                    self.codes[answer.code] += 1
        return answer

    def close(self) -> None:
        for wire in self._wires:
            wire.socket.close()
        self._wires.clear()
        self._kept = None


class Told(NamedTuple):
    """What the server's metrics say."""

    statuses: Counter[int]
    gone: int
    in_flight: int
    items: Counter[str]
    gauges: dict[str, float]
    refused: Counter[str]


def told(server: Served) -> Told:
    """One scrape."""
    statuses: Counter[int] = Counter()
    items: Counter[str] = Counter()
    refused: Counter[str] = Counter()
    gone = in_flight = 0
    gauges: dict[str, float] = {}
    for name, labels, text in _SAMPLE.findall(server.get("/metrics").text):
        value = float(text)
        if name == "headrace_http_requests_total":
            statuses[int(_label(labels, "status"))] += int(value)
        elif name == "headrace_http_disconnects_total":
            gone = int(value)
        elif name == "headrace_http_requests_in_flight":
            in_flight = int(value)
        elif name == "headrace_items_total":
            items[_label(labels, "model")] += int(value)
        elif name == "headrace_http_refused_total":
            refused[_label(labels, "status")] += int(value)
        elif name in _GAUGES:
            gauges[name] = gauges.get(name, 0.0) + value
    return Told(statuses, gone, in_flight, items, gauges, refused)


def _label(labels: str, name: str) -> str:
    return labels.partition(f'{name}="')[2].partition('"')[0]


def refused_since(now: Told, before: Told) -> Counter[str]:
    """What was refused, and answered, between two scrapes."""
    refused = now.refused - before.refused
    del refused["closed"]
    return refused


_GAUGES = (
    "headrace_queue_items",
    "headrace_queue_bytes",
    "headrace_running_items",
    "headrace_http_inflight_bytes",
)
_COUNTS = (
    "headrace_http_requests_total",
    "headrace_http_disconnects_total",
    "headrace_http_requests_in_flight",
    "headrace_items_total",
    "headrace_http_refused_total",
)
# A scrape is read many times a row: only what is looked at, and by no general parser.
_SAMPLE = re.compile(rf"^({'|'.join(_GAUGES + _COUNTS)})(?:\{{(.*)\}})? (\S+)$", re.MULTILINE)


class Contract:
    """One server, and what it owes.

    Args:
        server: It serves the model `canary` of `tests/faults/http_models.py` among others.
        way: That of its predict requests, one of `WAYS`.
        settle_s: How long it may take to let go of what a row has left behind.
        expects: Messages of the log that its rows bring about, besides those of failed requests.
        is_noisy: Whether models write what they like to where the records go.
    """

    def __init__(
        self,
        server: Served,
        way: str,
        *,
        settle_s: float = SETTLE_S,
        expects: Collection[str] = (),
        is_noisy: bool = False,
    ) -> None:
        self.server = server
        self._settle_s = settle_s
        self._expects = expects
        self._is_noisy = is_noisy
        self.way = way
        self._pid = server.process.pid
        self._canaries: list[Canary] = []
        self.restart_canaries()
        self._probe = Probe(server)
        self._ready = self._count_ready()
        self._read = 0
        self._ids = {"canary"}
        self._unknown = 0
        self._failed: Counter[str] = Counter()
        self._told: Counter[str] = Counter()
        self.quiet_s = self._quiet_s()

    def disconnect(self) -> None:
        """Close its own connections."""
        for canary in self._canaries:
            canary.close()
        self._probe.close()

    def restart_canaries(self) -> None:
        """Others in their place, such as have met no fault."""
        for canary in self._canaries:
            canary.close()
        server = self.server
        self._canaries = [
            Canary(server, "/models/canary/predict", lambda n: n),
            Canary(server, "/v1/models/canary:predict", lambda n: {"instances": [n, 7 * n]}),
        ]

    @contextmanager
    def watch(self, *, reaches: int | None = None) -> Iterator[Client]:
        """A row: what is done with the client leaves the server as it was.

        Args:
            reaches: How many items end in the models, those of the canaries apart; None for any
                number.
        """
        before = told(self.server)
        client = Client(self.server)
        began = time.monotonic()
        with self._canaries_sing(client):
            try:
                yield client
            finally:
                client.close()
                self._ids |= client.ids
                self._unknown += client.abandoned[1]
                self._failed += client.codes
        self._check_accounts(client, before, reaches)
        self.check_alive()
        self._check_records(time.monotonic() - began)

    def hold(
        self,
        act: Callable[[Client], object],
        *,
        rounds: int = ROUNDS,
        each: int = 1,
        reaches: int | None = None,
        slack_bytes: int = SLACK_BYTES,
    ) -> None:
        """Repeat a row: nothing that the server holds grows.

        Args:
            act: The row, once.
            rounds: How often, after it has been done as often again for warmth. In the long
                version more often, until the row was done `LONG_ROUNDS` times.
            each: How many times `act` does the row.
            reaches: As in `watch`, for each time.
            slack_bytes: What memory may grow by.
        """
        rounds = max(rounds, math.ceil(LONG_ROUNDS / each))
        repeated(2 * rounds * each)
        in_all = None if reaches is None else 2 * rounds * reaches
        with self.watch(reaches=in_all) as client:
            _repeat(act, client, rounds)
            before, its_workers = self._at_rest(), held_by_workers(self.server)
            memory = memory_of_all(self.server)
            _repeat(act, client, rounds)
            try:
                eventually(lambda: is_within(self._held(), before), "it to be", self._settle_s)
            except AssertionError:
                raise AssertionError(f"all to be freed: {self._held()}, not {before}") from None
            eventually(lambda: self._have_freed(its_workers), "all to be freed", self._settle_s)
            for pid, now in memory_of_all(self.server).items():
                grown = now - memory.get(pid, now)
                assert grown <= slack_bytes, f"memory grows by {grown} in {pid}"

    def close(self) -> None:
        """The accounts of all rows together: no failure without a record, or a count of it."""
        self.disconnect()

        def are_told() -> bool:
            self._check_records(WAIT_S)
            return all(
                failed <= self._told[code] <= failed + self._unknown
                for code, failed in self._failed.items()
            )

        with suppress(AssertionError):
            eventually(are_told, "a record of each failure, or a count of it", self._settle_s)
        assert are_told(), (self._failed, self._told, self._unknown)

    def _at_rest(self) -> Held:
        """What is held when every worker is there."""
        server = self.server
        ready = "headrace_replicas_ready"
        eventually(lambda: server.metric(ready) >= self._ready, "all to be ready", self._settle_s)
        return self._held()

    def _count_ready(self) -> float:
        """How many replicas there are, once all that were started are ready."""

        def are_ready() -> bool:
            models = self.server.get("/readyz").json()["models"].values()
            replicas = [replica for model in models for replica in model["replicas"]]
            return all(replica["state"] == "ready" for replica in replicas)

        with suppress(AssertionError):
            eventually(are_ready, "all to be ready", self._settle_s)
        return self.server.metric("headrace_replicas_ready")

    def _held(self) -> Held:
        self.server.get("/livez")  # so that the connection of the probes is open each time
        return held(self.server)

    def _have_freed(self, before: Mapping[int, int]) -> bool:
        """Whether workers that live on hold no more, but for what their first request makes."""
        now = held_by_workers(self.server)
        return all(now.get(pid, 0) <= count + MADE_ONCE for pid, count in before.items())

    def _quiet_s(self) -> float:
        for canary in self._canaries:
            canary.start()
        time.sleep(0.5)
        for canary in self._canaries:
            canary.stop()
        return max(p99(canary.times) for canary in self._canaries)

    @contextmanager
    def _canaries_sing(self, client: Client) -> Iterator[None]:
        singing: list[Canary | Probe] = [*self._canaries, self._probe]
        for each in singing:
            each.start()
        try:
            yield
        finally:
            with ExitStack() as stopping:
                for each in singing:
                    stopping.callback(each.stop)
            client.statuses[200] += sum(canary.answered for canary in self._canaries)
        for canary in self._canaries:
            check_soon(canary.times, 2 * self.quiet_s + 0.05, "a canary waited")
        check_soon(self._probe.times, 0.1, "a probe waited")

    def _check_accounts(self, client: Client, before: Told, reaches: int | None) -> None:
        low, high = client.abandoned

        def agree() -> bool:
            now = told(self.server)
            answered = now.statuses - before.statuses
            unread = (answered - client.statuses).total() + now.gone - before.gone
            is_at_rest = not now.in_flight and not any(now.gauges.values())
            is_whole = not client.statuses - answered
            counted = Counter({int(s): n for s, n in refused_since(now, before).items()})
            is_whole &= not client.refusals - counted
            unread_refusals = (counted - client.refusals).total()
            is_whole &= low <= unread + unread_refusals and max(unread, unread_refusals) <= high
            return is_at_rest and is_whole

        try:
            eventually(agree, "the client's log and the metrics to agree", self._settle_s)
        except AssertionError:
            now = told(self.server)
            seen = (client.statuses, now.statuses - before.statuses, now, client.abandoned)
            raise AssertionError(seen) from None
        if reaches is not None:
            ended = told(self.server).items - before.items
            del ended["canary"]
            assert ended.total() == reaches, ended

    def check_alive(self) -> None:
        """The same server, alive and ready."""
        server = self.server
        assert server.process.poll() is None and server.process.pid == self._pid
        began = time.monotonic()
        assert server.get("/livez").status_code == 200
        assert time.monotonic() - began < 0.1 + LATE_S
        eventually(lambda: server.get("/readyz").status_code == 200, "ready", self._settle_s)

    def _check_records(self, took_s: float) -> None:
        """Those since the last time, for which it took so long."""
        lines = self.server.log_lines[self._read :]
        self._read += len(lines)
        unknown = 0
        codes: Counter[str] = Counter()
        seconds: Counter[tuple[str, str]] = Counter()
        if self._is_noisy:
            lines = [line for line in lines if line.startswith("{")]
        for record in map(json.loads, lines):
            if record["message"] in self._expects:
                continue
            if record["message"] == "records were held back":
                self._told[record["code"]] += record["held_back"]
                continue
            if record["message"] == "refused before it was a request":
                assert record["request_id"].startswith(_REFUSAL_ID)  # not all read their answer
            else:
                assert record["message"] == "request failed", record
                unknown += record["request_id"] not in self._ids
            assert "traceback" not in record or record["code"] in _TRACED, record
            codes[record["code"]] += 1
            seconds[record["code"], record["time"].partition(".")[0]] += 1
            self._told[record["code"]] += 1 + record.get("held_back", 0)
        assert unknown <= self._unknown, "records of requests that nobody sent"
        assert all(n <= MAX_PER_SECOND * (took_s + 2) for n in codes.values()), "a flood"
        # Their seconds begin with a record: two of them are in one of the clock.
        assert all(n <= 2 * MAX_PER_SECOND for n in seconds.values()), "a flood"


_TRACED = ("model_error", "output_error", "batch_contract")


def _repeat(act: Callable[[Client], object], client: Client, rounds: int) -> None:
    for _ in range(rounds):
        act(client)
        client.close()


def is_within(now: Held, before: Held) -> bool:
    return all(new <= old for new, old in zip(now, before, strict=True))
