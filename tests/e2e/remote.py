"""Fronts and the workers that connect with them, as processes."""

from __future__ import annotations

import os
import secrets
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import httpx

from tests.e2e.conftest import Served, eventually
from tests.e2e.remote_models import FOLDER

MODELS = Path(__file__).with_name("remote_models.py")


class House:
    """Starts fronts and workers, and ends them.

    Args:
        folder: For what they write.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.secret = folder / "secret"
        self.secret.touch(mode=0o600)
        self.secret.write_text(secrets.token_hex())
        self._started: list[Served] = []

    def front(
        self,
        *,
        listen: str = "127.0.0.1:0",
        uds: Path | None = None,
        before: Sequence[str] = (),
        **settings: Any,
    ) -> Served:
        """A server that waits for workers; it is not ready before one has come."""
        workers = {"workers.listen": listen, "workers.secret_file": self.secret}
        given = {key.replace("__", "."): value for key, value in settings.items()}
        front = self._serve(workers | given, uds, before)
        eventually(lambda: listens_at(front), "workers to be let in")
        return front

    def serve_wrong(self, workers: Mapping[str, Any]) -> Served:
        """A server that will not start, by settings of `workers`."""
        return self._serve({f"workers.{key}": value for key, value in workers.items()})

    def worker(self, model: str, address: str, *options: str, before: Sequence[str] = ()) -> Served:
        """A worker of a model of `remote_models.py`, or of another target."""
        target = model if ":" in model else f"{MODELS}:{model}"
        where = ["--connect", address, "--secret-file", str(self.secret), "--log-format", "json"]
        command = [sys.executable, "-m", "headrace", "worker", target, *where]
        return self._start([*before, *command, *options])

    def stop(self) -> None:
        for each in self._started:
            each.stop()

    def _serve(
        self,
        settings: Mapping[str, Any],
        uds: Path | None = None,
        before: Sequence[str] = (),
    ) -> Served:
        command = ["serve", "--executor", "remote", "--log-format", "json"]
        command += ["--port", "0"] if uds is None else ["--uds", str(uds)]
        for key, value in settings.items():
            command += ["--set", f"{key}={value}"]
        return self._start([*before, sys.executable, "-m", "headrace", *command], uds)

    def _start(self, command: list[str], uds: Path | None = None) -> Served:
        own = Path(tempfile.mkdtemp(dir=self.folder))
        process = subprocess.Popen(
            command,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env={**os.environ, FOLDER: str(own)},
        )
        started = Served(process, own, uds, "http://x")
        self._started.append(started)
        return started


def listens_at(front: Served) -> str:
    """Where workers connect; empty as long as they cannot."""
    assert front.process.poll() is None, front.log_lines
    told = [record for record in front.records() if record["message"] == "workers may connect"]
    return str(told[0]["address"]) if told else ""


def has_said(process: Served, message: str) -> list[dict[str, Any]]:
    """The log's records with this message."""
    return [record for record in process.records() if record["message"] == message]


def journal(worker: Served) -> list[str]:
    """What a worker's model has noted."""
    path = worker.folder / "journal"
    return path.read_text().splitlines() if path.exists() else []


def replicas(front: Served, model: str = "double") -> list[tuple[str, str]]:
    """Each replica's state and reason, as /readyz tells them."""
    models = front.get("/readyz").json()["models"]
    return [(r["state"], r["reason"]) for r in models.get(model, {}).get("replicas", [])]


def wait_for_workers(front: Served, count: int, model: str = "double") -> None:
    """Wait until so many replicas are ready."""

    def is_so() -> bool:
        return sum(state == "ready" for state, _ in replicas(front, model)) == count

    eventually(is_so, f"{count} ready replicas")


class Load:
    """Clients that ask one after another until they are stopped; the answers are counted.

    Args:
        front: Whom they ask.
        clients: How many.
        timeout_s: Of a request, as it asks for.
        s: How long one batch takes.
    """

    def __init__(
        self, front: Served, clients: int = 8, timeout_s: float = 20.0, s: float = 0.01
    ) -> None:
        self.statuses: Counter[int] = Counter()
        self.wrong: list[str] = []
        self.slowest_s = 0.0
        self._front = front
        self._timeout_s = timeout_s
        self._s = s
        self._is_over = threading.Event()
        self._lock = threading.Lock()
        self._threads = [
            threading.Thread(target=self._ask, args=(client,), daemon=True)
            for client in range(clients)
        ]

    def __enter__(self) -> Load:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._is_over.set()
        for thread in self._threads:
            thread.join(60.0)
        assert not any(thread.is_alive() for thread in self._threads)

    @property
    def count(self) -> int:
        return self.statuses.total()

    def wait_for_more(self, count: int) -> None:
        """Wait until so many further requests were answered with 200."""
        before = self.statuses[200]
        eventually(lambda: self.statuses[200] >= before + count, f"{count} more answers")

    def _ask(self, client: int) -> None:
        headers = {"x-request-timeout": str(self._timeout_s)}
        uds = self._front.uds
        transport = None if uds is None else httpx.HTTPTransport(uds=str(uds))
        with httpx.Client(
            transport=transport, timeout=60.0, trust_env=False, headers=headers
        ) as http:
            n = client * 1_000_000
            while not self._is_over.is_set():
                n += 1
                began = time.monotonic()
                try:
                    order = {"n": n, "s": self._s}
                    answer = http.post(self._front.address + "/predict", json=order)
                except httpx.TransportError:
                    if self._is_over.wait(0.02):  # the front is gone; the test knows
                        return
                    continue
                self._took(answer, n, time.monotonic() - began)
                if answer.status_code != 200:
                    self._is_over.wait(0.05)

    def _took(self, answer: httpx.Response, n: int, took_s: float) -> None:
        with self._lock:
            self.statuses[answer.status_code] += 1
            self.slowest_s = max(self.slowest_s, took_s)
            if answer.status_code == 200 and answer.json() != 2 * n:
                self.wrong.append(f"{n}: {answer.text}")
