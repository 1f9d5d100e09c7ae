"""`headrace batching` and its workers, in processes of their own."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

from tests.e2e.conftest import WAIT_S, Answer, Served, Wire, eventually
from tests.e2e.ventu.workers import FOLDER

WORKER = Path(__file__).with_name("workers.py")
CLIENTS = 32


class Service(Served):
    """A batching service.

    Attributes:
        workers_at: Where its workers connect.
    """

    workers_at = ""

    def wait_ready(self) -> Service:
        def said() -> re.Match[str] | None:
            if self.process.poll() is not None:
                raise AssertionError(f"exit {self.process.returncode}: {self.log_lines}")
            return next(filter(None, map(_LISTENS.search, self.output)), None)

        found = eventually(said, "listening")
        self.address, self.workers_at = found[1], found[2]
        return self

    def wait_workers(self, count: int) -> None:
        eventually(lambda: self.metric("headrace_replicas_ready") == count, f"{count} workers")

    def job(self, body: bytes | str, path: str = "/", content_type: str = "") -> Sent:
        """Send a job on a connection of its own."""
        wire = self.wire()
        line = f"content-type: {content_type}\r\n" if content_type else ""
        wire.post(path, body, line)
        return Sent(wire)

    def numbers(self) -> list[int]:
        """Of the jobs that workers have got."""
        return self._lines("journal")

    def batches(self) -> list[int]:
        """The sizes of the batches that workers have got."""
        return self._lines("batches")

    def _lines(self, name: str) -> list[int]:
        path = self.folder / name
        return [int(line) for line in path.read_text().split()] if path.exists() else []


_LISTENS = re.compile(r"jobs on (\S+), workers on (\S+)")


class Sent:
    """A job that was sent."""

    def __init__(self, wire: Wire) -> None:
        self.wire = wire

    def answer(self) -> Answer:
        answer = self.wire.answer()
        self.wire.socket.close()
        return answer


class Worker:
    """A worker's process, started again whenever it ends.

    Attributes:
        starts: How often it was started.

    Args:
        command: Of the process.
        env: More environment.
        is_kept: Whether it is started again.
    """

    def __init__(
        self, command: Sequence[str], env: Mapping[str, str] | None = None, is_kept: bool = False
    ) -> None:
        self.starts = 0
        self._command = command
        self._env = {**os.environ, **(env or {})}
        self._lock = threading.Lock()
        self._is_over = False
        self._process = self._start()
        self._keeper = threading.Thread(target=self._keep, daemon=True)
        if is_kept:
            self._keeper.start()

    def signal(self, number: int) -> None:
        with self._lock:
            self._process.send_signal(number)

    def kill(self) -> None:
        self.signal(signal.SIGKILL)

    def stop(self) -> None:
        with self._lock:
            self._is_over = True
            self._process.kill()
        self._process.wait(WAIT_S)
        if self._keeper.ident is not None:
            self._keeper.join(WAIT_S)

    def _start(self) -> subprocess.Popen[bytes]:
        self.starts += 1
        return subprocess.Popen(self._command, env=self._env, stderr=subprocess.DEVNULL)

    def _keep(self) -> None:
        while True:
            self._process.wait()
            time.sleep(0.05)  # as whoever restarts processes does; and no busy loop
            with self._lock:
                if self._is_over:
                    return
                self._process = self._start()


class House:
    """Services and workers of one test."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._services: list[Service] = []
        self._workers: list[Worker] = []

    def batching(
        self,
        *options: str,
        protocol: str = "unix",
        address: str = "",
        env: Mapping[str, str] | None = None,
        is_ready: bool = True,
    ) -> Service:
        """A service; its workers' socket is in a folder of its own, or on a free port."""
        own = Path(tempfile.mkdtemp(dir=self._folder))
        address = address or (str(own / "s") if protocol == "unix" else "127.0.0.1:0")
        command = [sys.executable, "-m", "headrace", "batching", "--log-format", "json"]
        command += ["--host", "127.0.0.1", "--port", "0"]
        command += ["--protocol", protocol, "--address", address, *options]
        process = subprocess.Popen(
            command,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env={**os.environ, **(env or {})},
        )
        service = Service(process, own, None, "http://x")
        self._services.append(service)
        return service.wait_ready() if is_ready else service

    def worker(self, service: Service, *words: str, is_kept: bool = False) -> Worker:
        """One of ours."""
        command = [sys.executable, str(WORKER), service.workers_at, *words]
        return self.keep(Worker(command, {FOLDER: str(service.folder)}, is_kept))

    def keep(self, worker: Worker) -> Worker:
        """Stop it in the end."""
        self._workers.append(worker)
        return worker

    def stop(self) -> None:
        for worker in self._workers:
            worker.stop()
        for service in self._services:
            service.stop()


class Load:
    """Clients that send requests, each on a connection that it keeps, until all are answered.

    Attributes:
        answers: By the request's place.

    Args:
        service: Which is asked.
        bodies: Of the requests.
        content_type: Of all.
        clients: How many.
    """

    def __init__(
        self,
        service: Service,
        bodies: Sequence[bytes],
        content_type: str = "application/json",
        clients: int = CLIENTS,
    ) -> None:
        self.answers: dict[int, Answer] = {}
        self._service = service
        self._header = f"content-type: {content_type}\r\n"
        self._bodies = bodies
        self._next = iter(range(len(bodies)))
        self._lock = threading.Lock()
        self._changed = threading.Condition()
        self._errors: list[BaseException] = []
        self._threads = [threading.Thread(target=self._run, daemon=True) for _ in range(clients)]
        for thread in self._threads:
            thread.start()

    def wait_answers(self, count: int, within_s: float = 60.0) -> None:
        """Wait until so many have come."""

        def has_come() -> bool:
            if self._errors:
                raise self._errors[0]
            return len(self.answers) >= count

        with self._changed:
            assert self._changed.wait_for(has_come, within_s), f"waited for {count} answers"

    def finish(self, within_s: float = 100.0) -> list[Answer]:
        """All answers, in the order of the requests."""
        self.wait_answers(len(self._bodies), within_s)
        for thread in self._threads:
            thread.join(WAIT_S)
        return [self.answers[place] for place in range(len(self._bodies))]

    def _run(self) -> None:
        try:
            with Wire(self._service) as wire:
                wire.socket.settimeout(100.0)
                while True:
                    with self._lock:
                        place = next(self._next, None)
                    if place is None:
                        return
                    wire.post("/", self._bodies[place], self._header)
                    answer = wire.answer()
                    with self._changed:
                        self.answers[place] = answer
                        self._changed.notify_all()
        except BaseException as error:
            with self._changed:
                self._errors.append(error)
                self._changed.notify_all()


def order(n: object, **more: object) -> bytes:
    """A job for our worker."""
    return json.dumps({"n": n, **more}).encode()
