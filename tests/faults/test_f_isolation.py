"""Bad clients among good ones: each good request is answered, rightly, whatever the others do."""

from __future__ import annotations

import itertools
import json
import logging
import random
import threading
import time
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

import pytest

from tests.e2e.conftest import Answer, Serve, Served, eventually
from tests.faults.conftest import HTTP_MODELS, seconds
from tests.faults.contract import Client, Contract, LoggedWire, is_within, message
from tests.faults.defences import without
from tests.faults.stages import ONE, Cell, cells, headrace_cell
from tests.faults.watch import held, rss_bytes

pytestmark = pytest.mark.slow

_log = logging.getLogger(__name__)

CONNECTIONS = 64
ANSWER_S = 60.0
CANARY = f"{HTTP_MODELS}:Canary"
RESTARTS = "headrace_replica_restarts_total"
DEATHS = ("a worker ended",)
"""What the log says of them, besides the failed requests."""


class Kind(NamedTuple):
    """What one request does.

    Attributes:
        share: How many of a hundred are so.
        bodies: Patterns of its body; one is drawn.
        codes: What it may be answered, with the status; empty where nobody waits for it.
    """

    share: int
    bodies: tuple[str, ...]
    codes: frozenset[tuple[int, str]] = frozenset()


def faults(*places: str) -> tuple[str, ...]:
    return tuple(json.dumps({"n": 0, "do": place}) for place in places)


GOOD = Kind(75, ('{"n":%d}',), frozenset({(200, "")}))
KINDS = {
    "good": GOOD,
    "malformed": Kind(
        10,
        ("{", '{"n":1', '{"n":"x"}', '{"m":1}', "\0\1\2", '{"n":1e999}'),
        frozenset({(400, "malformed"), (422, "invalid")}),
    ),
    "raising": Kind(
        5, faults("predict: raise", "preprocess: raise"), frozenset({(500, "model_error")})
    ),
    "killing": Kind(
        5,
        faults("predict: exit", "predict: segfault", "preprocess: abort", "decode: exit"),
        frozenset({(500, "replica_lost")}),
    ),
    "vanishing": Kind(5, ('{"n":%d}', '{"n":%d,"s":0.02}')),
}
WAYS_TO_GO: tuple[Callable[[LoggedWire], None], ...] = (
    lambda wire: wire.socket.close(),
    LoggedWire.reset,
)


class Crowd:
    """Connections that each ask without a pause, and what became of what they asked.

    Attributes:
        told: The answers, by kind, status and code.
        wrong: Answers that are not what their kind may get.
        good_s: How long each good request took.
    """

    def __init__(self, client: Client, kinds: dict[str, Kind]) -> None:
        self.told: Counter[tuple[str, int, str]] = Counter()
        self.wrong: list[str] = []
        self.good_s: list[float] = []
        self._client = client
        self._kinds = kinds
        self._numbers = itertools.count(1)
        self._lock = threading.Lock()

    def go_on(self, lasts_s: float, connections: int = CONNECTIONS) -> None:
        """Ask for so long, and wait for the last answers."""
        ends = time.monotonic() + lasts_s
        with ThreadPoolExecutor(connections) as pool:
            tasks = [pool.submit(self._ask_until, ends, seed) for seed in range(connections)]
        for task in tasks:
            task.result()

    def _ask_until(self, ends: float, seed: int) -> None:
        draw = random.Random(seed)
        names = list(self._kinds)
        shares = [kind.share for kind in self._kinds.values()]
        wire = self._wire()
        while time.monotonic() < ends:
            [name] = draw.choices(names, shares)
            n, body = next(self._numbers), draw.choice(self._kinds[name].bodies)
            data = message("/models/faulty/predict", body.replace("%d", str(n)))
            if name == "vanishing":
                self._vanish(wire, data, draw)
                wire = self._wire()
                continue
            began = time.monotonic()
            wire.send(data)
            self._took(name, n, wire.answer(), time.monotonic() - began)
        wire.socket.close()

    def _vanish(self, wire: LoggedWire, data: bytes, draw: random.Random) -> None:
        """Send some of a request or all of it, and be gone, at once or while it runs."""
        size = draw.choice((0, 10, len(data) - 3, len(data), len(data)))
        wire.send(data[:size])
        time.sleep(draw.choice((0.0, 0.001, 0.01)))
        draw.choice(WAYS_TO_GO)(wire)
        with self._lock:
            self.told["vanishing", 0, ""] += 1
            self._client.abandon(0, 1)

    def _took(self, name: str, n: int, answer: Answer, took_s: float) -> None:
        code = "" if answer.status == 200 else answer.code
        is_right = (answer.status, code) in self._kinds[name].codes
        if answer.status == 200:
            is_right = is_right and answer.json() == 2 * n
        with self._lock:
            self.told[name, answer.status, code] += 1
            if name == "good":
                self.good_s.append(took_s)
            if not is_right:
                self.wrong.append(f"{name} {n}: {answer.status} {answer.body!r}")

    def _wire(self) -> LoggedWire:
        wire = LoggedWire(self._client.server, self._client)
        wire.socket.settimeout(ANSWER_S)
        return wire


def percentile(times: list[float], share: float) -> float:
    return sorted(times)[min(len(times) - 1, int(share * len(times)))]


@pytest.mark.row("F1", "F6")
def test_every_good_request_is_answered_among_bad_raising_killing_and_vanishing_ones(
    serve: Serve,
) -> None:
    server = serve("Faulty", CANARY, replicas=2)
    contract = Contract(server, "fast", expects=DEATHS)
    before = held(server)
    with contract.watch() as client:
        crowd = Crowd(client, KINDS)
        crowd.go_on(seconds(3.0))
        deaths = server.metric(RESTARTS, model="faulty")
    contract.close()
    _log.info("%s", dict(sorted(crowd.told.items())))
    _log.info(
        "good: %d, p50 %.1f ms, p99 %.1f ms, most %.1f ms; %d deaths, memory %d KiB",
        len(crowd.good_s),
        *(1e3 * percentile(crowd.good_s, share) for share in (0.5, 0.99, 1.0)),
        deaths,
        rss_bytes(server) >> 10,
    )
    assert crowd.wrong[:5] == []
    asked = Counter(name for name, _, _ in crowd.told.elements())
    assert set(asked) == set(KINDS), "each kind was there"
    eventually(lambda: is_within(held(server), before), f"as before: {before}")


# Requests of several items

SEVERAL: dict[str, tuple[str, str, str]] = {
    "headrace": ("/v1/models/stepped:predict", "instances", "predictions"),
    "virtex": ("/", "data", "data"),
}
"""Where such requests go, and under which names their items and their answers stand."""


def ask_for_several(cell: Cell) -> list[list[int]]:
    """Requests of one to seven items, at once: the calls by which the model answers them."""
    path, asked, answered = SEVERAL[cell.face]
    wires, sent = cell.connect(14), []
    blocker, place = cell.block()
    for size, wire in enumerate(wires):
        numbers = cell.numbers(1 + size % 7)
        body = json.dumps({asked: [{"n": n} for n in numbers]})
        wire.send(message(path, body, "content-type: application/json\r\n"))
        sent.append((wire, numbers))
    cell.release()
    cell.value(blocker.answer())
    for wire, numbers in sent:
        assert wire.answer().json()[answered] == [2 * n for n in numbers]
    cell.check_free()
    return cell.calls()[place:]


def check_sizes(calls: list[list[int]]) -> None:
    assert max(map(len, calls)) == ONE, "a batch is too large, or none is full"
    assert sum(map(len, calls)) >= 2 * sum(range(1, 8)), "all items were run"


@pytest.mark.row("F3")
@cells(["process-fast", "process-asgi", "inline-fast", "virtex"])
def test_no_batch_is_too_large_however_many_items_requests_have(cell: Cell) -> None:
    check_sizes(ask_for_several(cell))


# The rows fail where nobody is isolated, and where answers swap


def wrong_ones(server: Served, kinds: dict[str, Kind], lasts_s: float = 1.0) -> list[str]:
    """Good requests that were not answered rightly."""
    with Client(server) as client:
        crowd = Crowd(client, kinds)
        crowd.go_on(lasts_s, 16)
    return [text for text in crowd.wrong if text.startswith("good")]


@pytest.mark.counter("F1")
def test_without_isolation_good_requests_fail_with_bad_ones(serve: Serve) -> None:
    kinds = {name: KINDS[name] for name in ("good", "raising")}
    server = serve("Faulty", env=without("a batch whose predict raised is isolated"))
    assert wrong_ones(server, kinds)


@pytest.mark.counter("F3")
def test_without_a_bound_batches_are_too_large() -> None:
    env = without("a batch holds no more than max_batch_size")
    with headrace_cell("process", "fast", env) as cell:
        with pytest.raises(AssertionError, match="too large"):
            check_sizes(ask_for_several(cell))


@pytest.mark.counter("F6", "M4")
def test_where_answers_swap_it_is_noticed(serve: Serve) -> None:
    server = serve("Faulty", env=without("answers keep the order of their items"))
    assert wrong_ones(server, {"good": GOOD})
