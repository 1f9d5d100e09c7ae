"""Clients that ask all along, beside a row of faults, for what has to be answered all the same."""

from __future__ import annotations

import json
import math
import os
import threading
import time
from collections.abc import Callable, Sequence
from typing import Any

from tests.e2e.conftest import Answer, Served, Wire

LATE_S = float(os.environ.get("FAULT_LATE_S", 0.75))
"""For a busy machine, beyond what is promised; `check_soon` allows it to the worst only."""
PAUSE_S = 0.01
FEWEST = 3
"""So often each asks in a row that is over at once."""
ENOUGH = 20
"""So many times have a median that means something."""


class Asking:
    """Asks again and again on one connection, on a thread of its own.

    Attributes:
        times: How long each answer took since it was started.

    Args:
        server: Whom it asks.
    """

    def __init__(self, server: Served) -> None:
        self.times: list[float] = []
        self._wire = Wire(server)
        self._error: BaseException | None = None
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None

    def start(self) -> None:
        self.times, self._error = [], None
        self._stop.clear()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Ask no more; raises what went wrong."""
        self._stop.set()
        if self._thread is not None:
            self._thread.join(60.0)
            assert not self._thread.is_alive()
        if self._error is not None:
            raise self._error

    def close(self) -> None:
        self._wire.socket.close()

    def _run(self) -> None:
        try:
            while not self._stop.wait(PAUSE_S) or len(self.times) < FEWEST:
                self._ask()
        except BaseException as error:
            self._error = error

    def _ask(self) -> None:
        raise NotImplementedError


class Canary(Asking):
    """A client that behaves: what it is answered is known.

    Args:
        server: Whom it asks.
        path: A predict route of the model `canary`, which doubles.
        form: How a number is asked, and how its double is answered.
    """

    def __init__(self, server: Served, path: str, form: Callable[[int], Any]) -> None:
        super().__init__(server)
        self._path = path
        self._form = form

    @property
    def answered(self) -> int:
        """How many answers it has had since it was started; all of them were right."""
        return len(self.times)

    def _ask(self) -> None:
        n = 1 + self.answered
        began = time.monotonic()
        self._wire.post(self._path, json.dumps(self._form(n)), "x-request-id: canary\r\n")
        answer = self._wire.answer()
        took_s = time.monotonic() - began
        assert (answer.status, answer.headers["x-request-id"]) == (200, "canary"), answer.body
        expected = self._form(2 * n)
        if isinstance(expected, dict):
            expected = {"predictions": expected["instances"]}
        assert answer.json() == expected
        self.times.append(took_s)


class Probe(Asking):
    """Asks whether the server lives, and whether it is ready."""

    def _ask(self) -> None:
        began = time.monotonic()
        assert self._get("/livez").status == 200
        self.times.append(time.monotonic() - began)
        answer = self._get("/readyz")
        assert answer.status in (200, 503)
        assert answer.json()["ready"] == (answer.status == 200), answer.body

    def _get(self, path: str) -> Answer:
        self._wire.send(f"GET {path} HTTP/1.1\r\nhost: x\r\n\r\n")
        return self._wire.answer()


def check_soon(times: Sequence[float], within_s: float, what: str) -> None:
    """What was repeated was in time, mostly; on a busy machine a few may be late."""
    assert not times or p99(times) <= within_s + LATE_S, f"{what}: {p99(times)} s"
    if len(times) >= ENOUGH:
        median = sorted(times)[len(times) // 2]
        assert median <= within_s, f"{what}: {median} s, half of the time"


def p99(times: Sequence[float]) -> float:
    """What 99 % of them are no longer than."""
    ordered = sorted(times)
    return ordered[max(0, math.ceil(0.99 * len(ordered)) - 1)]
