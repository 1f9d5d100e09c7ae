"""More connections than there may be: by the server's limit, and by the system's."""

from __future__ import annotations

import json
import os
import resource
import socket
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.conftest import Served, eventually, starter
from tests.faults.conftest import HTTP_MODELS, rounds
from tests.faults.contract import Client, Contract, by
from tests.faults.defences import without

pytestmark = pytest.mark.slow

MOST = 8
SPARE = 24
"""File descriptors that a server may take beyond those that it has."""
MANY = 200
BUSY = 0.5
"""What a server that spins uses for sure, for each second that another busy process gets."""


@contextmanager
def served(way: str, **settings: Any) -> Iterator[Served]:
    """A server of canaries alone."""
    servers: list[Served] = []
    with tempfile.TemporaryDirectory(prefix="hr-") as folder:
        start = starter(Path(folder), servers, HTTP_MODELS)
        try:
            settings |= by(way)
            yield start("Canary", executor="thread", **settings)
        finally:
            for server in servers:
                server.stop()


@contextmanager
def watched(way: str, **settings: Any) -> Iterator[Contract]:
    """Such a server, and what it owes."""
    with served(way, **settings) as server:
        contract = Contract(server, way)
        yield contract
        contract.close()
        server.terminate()
        assert server.exit_code() == 0


@contextmanager
def held(server: Served, count: int) -> Iterator[list[socket.socket]]:
    """Connections that say nothing."""
    sockets: list[socket.socket] = []
    try:
        place = server.host_and_port
        sockets.extend(socket.create_connection(place, timeout=20.0) for _ in range(count))
        yield sockets
    finally:
        for each in sockets:
            each.close()


# G7: the server's own limit


def fill(client: Client, contract: Contract) -> None:
    """Ask on more connections than there may be, then on fewer."""
    server = client.server
    metric = "headrace_http_refused_total"
    open_now = 4  # the canaries', the probe's, and the one that scrapes
    with held(server, MOST - open_now):
        before = server.metric(metric, status="503")
        for _ in range(4):
            wire = client.wire()
            wire.post("/predict", "21")
            answer = wire.answer()
            assert answer.status == 503
            assert answer.code == "unavailable"
            assert answer.headers["retry-after"] == "1"
            assert answer.headers["connection"] == "close"
            assert wire.is_closed()
            wire.socket.close()
        assert server.metric(metric, status="503") == before + 4
        for path in ("/livez", "/readyz"):
            probe = client.wire()
            probe.send(f"GET {path} HTTP/1.1\r\nhost: x\r\n\r\n")
            assert probe.answer().status == 200
            assert probe.is_closed()
            probe.socket.close()
    eventually(lambda: client.ask("/predict", "21").status == 200, "there to be room")
    client.close()
    eventually(lambda: idle(server) == open_now, "the rest to be gone")


def idle(server: Served) -> int:
    """Connections that a server has."""
    local = socket_port(server)
    lines = Path(f"/proc/{server.process.pid}/net/tcp").read_text().splitlines()[1:]
    rows = (line.split() for line in lines)
    return sum(int(row[1].split(":")[1], 16) == local and row[3] == "01" for row in rows)


def socket_port(server: Served) -> int:
    return server.host_and_port[1]


@pytest.mark.row("G7")
def test_connections_at_the_limit_are_refused_and_probes_answered(way: str) -> None:
    with watched(way, limits__max_connections=MOST) as contract:
        with contract.watch() as client:
            for _ in range(rounds(3)):
                fill(client, contract)


@pytest.mark.row("G7")
def test_the_operators_address_answers_in_a_flood_of_connections(way: str) -> None:
    with served(way, limits__max_connections=MOST, admin_port=0) as server:
        line = next(line for line in server.output if "metrics:" in line)
        port = int(line.split("metrics: ")[1].split("/metrics")[0].rpartition(":")[2])
        with held(server, MANY):
            with socket.create_connection(("127.0.0.1", port), timeout=5.0) as probe:
                probe.sendall(b"GET /livez HTTP/1.1\r\nhost: x\r\n\r\n")
                assert probe.recv(1 << 16).startswith(b"HTTP/1.1 200 ")


@pytest.mark.counter("G7")
def test_without_the_limit_nobody_is_refused(way: str) -> None:
    with watched(way, limits__max_connections=0) as contract:
        with contract.watch() as client, pytest.raises(AssertionError):
            fill(client, contract)


@pytest.mark.counter("G7")
def test_without_room_for_probes_they_are_refused_too(way: str) -> None:
    env = without("probes are answered beyond the limit of connections")
    with watched(way, limits__max_connections=MOST, env=env) as contract:
        with contract.watch() as client, pytest.raises(AssertionError, match="503 == 200"):
            fill(client, contract)


# G6: the system's limit


def open_files(server: Served) -> int:
    return len(os.listdir(f"/proc/{server.process.pid}/fd"))


def cpu_s(server: Served) -> float:
    """What the server's process has used of the processors."""
    fields = Path(f"/proc/{server.process.pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def share_of_a_busy_one(server: Served) -> float:
    """What the server uses of the processors, beside this process, which uses all that it gets."""
    before, own = cpu_s(server), time.thread_time()
    until = time.monotonic() + 0.6
    while time.monotonic() < until:
        pass
    return (cpu_s(server) - before) / (time.thread_time() - own)


def exhaust(server: Served, heals_within_s: float) -> None:
    """Connect more often than there are file descriptors; nobody leaves of himself."""
    most = open_files(server) + SPARE
    resource.prlimit(server.process.pid, resource.RLIMIT_NOFILE, (most, most))
    with held(server, MANY):
        eventually(lambda: open_files(server) >= most - 1, "the descriptors to run out")
        assert share_of_a_busy_one(server) < BUSY, "it spins"
        eventually(lambda: answers(server), "it to heal", heals_within_s)


def answers(server: Served) -> bool:
    """Whether somebody new is answered."""
    with suppress(OSError), socket.create_connection(server.host_and_port, timeout=5.0) as new:
        body = json.dumps(4)
        head = f"POST /predict HTTP/1.1\r\nhost: x\r\ncontent-length: {len(body)}\r\n\r\n"
        new.sendall((head + body).encode())
        return new.recv(1 << 16).startswith(b"HTTP/1.1 200 ")
    return False


@pytest.mark.row("G6")
def test_a_server_without_descriptors_idles_and_heals_though_nobody_leaves(way: str) -> None:
    with watched(way, limits__head_timeout_s=2.0, limits__keep_alive_s=600) as contract:
        with contract.watch() as client:
            exhaust(client.server, heals_within_s=20.0)
            client.statuses[200] += 1  # its own question


@pytest.mark.counter("G6")
def test_without_the_heads_deadline_it_does_not_heal(way: str) -> None:
    with served(way, limits__head_timeout_s=600.0) as server:
        with pytest.raises(AssertionError, match="it to heal"):
            exhaust(server, heals_within_s=4.0)


@pytest.mark.counter("G6")
def test_a_server_that_spins_is_noticed(way: str) -> None:
    """As one does that waits with no pause for a descriptor to come free."""
    env = without("a server waits until something happens")
    with served(way, limits__head_timeout_s=2.0, env=env) as server:
        with pytest.raises(AssertionError, match="it spins"):
            exhaust(server, heals_within_s=20.0)
