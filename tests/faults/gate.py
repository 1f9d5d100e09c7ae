"""A front that lets workers of other hosts in, with a healthy worker of each of its models."""

from __future__ import annotations

import socket
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.e2e.conftest import Served
from tests.e2e.remote import House, listens_at, wait_for_workers
from tests.faults.conftest import HTTP_MODELS
from tests.faults.contract import LATE_S, Contract
from tests.faults.defences import without
from tests.faults.fake_worker import FakeWorker

CLOSED_S = 1.0
"""How soon who is not wanted is gone."""
PREDICT_TIMEOUT_S = 3.0
EXPECTED = (
    "a worker broke the protocol",
    "a worker joined",
    "a worker was lost",
    "a worker left",
    "workers may connect",
)


class Gate(Contract):
    """A front that lets workers in, with a healthy worker of each model."""

    def __init__(self, house: House, front: Served) -> None:
        super().__init__(front, "fast", expects=EXPECTED)
        self.secret = house.secret.read_text().encode()
        host, _, port = listens_at(front).rpartition(":")
        self.address = (host, int(port))

    def fake(self, secret: bytes | None = None) -> FakeWorker:
        """A connection of a worker."""
        return FakeWorker(self.address, self.secret if secret is None else secret)

    def stranger(self) -> socket.socket:
        """A connection of somebody."""
        return socket.create_connection(self.address, timeout=10.0)


@contextmanager
def gated(**settings: object) -> Iterator[Gate]:
    with tempfile.TemporaryDirectory(prefix="hr-") as folder:
        house = House(Path(folder))
        try:
            front = house.front(
                limits__predict_timeout_s=PREDICT_TIMEOUT_S,
                limits__keep_alive_s=600,
                **settings,  # type: ignore[arg-type]  # all keywords are settings
            )
            for model in ("Double", f"{HTTP_MODELS}:Canary"):
                house.worker(model, listens_at(front))
                front.wait_ready()
            wait_for_workers(front, 1)
            wait_for_workers(front, 1, "canary")
            gate = Gate(house, front)
            yield gate
            gate.close()
        finally:
            house.stop()


@contextmanager
def ungated(monkeypatch: pytest.MonkeyPatch, name: str) -> Iterator[Gate]:
    """One whose front, and its workers, lack a defence."""
    for variable, text in without(name).items():
        monkeypatch.setenv(variable, text)
    with gated() as gate:
        yield gate


def is_closed(sock: socket.socket, within_s: float = CLOSED_S + LATE_S) -> bool:
    """Whether the front ends a connection soon; what it said before is passed over."""
    ends = time.monotonic() + within_s
    while (left_s := ends - time.monotonic()) > 0:
        sock.settimeout(left_s)
        try:
            if not sock.recv(1 << 16):
                return True
        except ConnectionError:
            return True
        except TimeoutError:
            break
    return False
