"""The operators' own address: what is there alone, and that it answers when the other does not."""

from __future__ import annotations

import signal
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.e2e.conftest import WAIT_S, Serve, Served, eventually

OPERATORS = ("/", "/metrics", "/models/scripted")
BOTH = ("/livez", "/readyz", "/health", "/openapi.json")
SECRET = "correct-horse-battery"


class Operator:
    """A client of a server's other address."""

    def __init__(self, server: Served, uds: Path | None = None) -> None:
        said = next(line for line in server.output if "metrics:" in line)
        address = said.split("metrics: ")[1].split("/metrics")[0]
        self.base = "http://x" if uds is not None else address
        transport = None if uds is None else httpx.HTTPTransport(uds=str(uds))
        self.client = httpx.Client(transport=transport, timeout=WAIT_S, trust_env=False)

    def get(self, path: str) -> httpx.Response:
        return self.client.get(self.base + path)

    def __enter__(self) -> Operator:
        return self

    def __exit__(self, *_: object) -> None:
        self.client.close()


@pytest.fixture(params=["true", "false"])
def way(request: pytest.FixtureRequest) -> dict[str, Any]:
    return {"fast_path": request.param, "executor": "thread"}


@pytest.fixture
def drained() -> Iterator[list[Served]]:
    """Servers that must end well."""
    servers: list[Served] = []
    yield servers
    for server in servers:
        server.terminate()
        assert server.exit_code() == 0
        assert not [line for line in server.log_lines if "Traceback" in line]


def test_what_is_for_operators_is_there_alone(
    serve: Serve, way: dict[str, Any], drained: list[Served]
) -> None:
    server = serve("Scripted", admin_port=0, **way)
    drained.append(server)
    assert server.predict(1).status_code == 200
    with Operator(server) as operator:
        assert operator.base != server.address
        for path in OPERATORS:
            refused = server.get(path)
            assert (refused.status_code, refused.json()["code"]) == (404, "route_not_found")
            assert operator.get(path).status_code == 200
        for path in BOTH:
            assert server.get(path).status_code == operator.get(path).status_code == 200
        asked = operator.client.post(operator.base + "/predict", json={"n": 1})
        assert asked.status_code == 404, "it serves no predictions"
        assert 'headrace_http_requests_total{route="/predict"' in operator.get("/metrics").text


def test_operators_are_asked_for_no_key(serve: Serve, drained: list[Served]) -> None:
    env = {"HEADRACE_AUTH_KEYS": f"a:{SECRET}"}
    server = serve("Scripted", executor="thread", admin_port=0, env=env)
    drained.append(server)
    with Operator(server) as operator:
        assert server.get("/health").status_code == 401
        for path in (*OPERATORS, *BOTH):
            assert operator.get(path).status_code == 200


def test_it_answers_while_no_more_connections_are_taken(
    serve: Serve, way: dict[str, Any], drained: list[Served]
) -> None:
    server = serve("Scripted", admin_port=0, limits__max_connections=3, **way)
    drained.append(server)
    wires = [server.wire() for _ in range(3)]
    surplus = server.wire()
    surplus.post("/predict", '{"n": 1}')
    assert surplus.answer().status == 503
    assert server.get("/livez").status_code == 200, "a probe is answered even here"
    with Operator(server) as operator:
        text = operator.get("/metrics").text
        assert 'headrace_http_refused_total{status="503"} 1.0' in text
    for wire in wires:
        wire.post("/predict", '{"n": 1}')
        assert wire.answer().status == 200


def test_it_says_that_the_server_drains_until_the_end(serve: Serve, way: dict[str, Any]) -> None:
    server = serve("Scripted", admin_port=0, **way)
    busy = server.wire()
    busy.post("/predict", '{"n": 1, "do": "wait"}')
    with Operator(server) as operator:
        metric = "headrace_running_items"
        eventually(lambda: f'{metric}{{model="scripted"}} 1.0' in operator.get("/metrics").text, "")
        server.signal(signal.SIGTERM)

        def listens() -> bool:
            with socket.socket() as probe:
                return probe.connect_ex(server.host_and_port) == 0

        eventually(lambda: not listens(), "the listener to close")
        told = operator.get("/readyz")
        assert (told.status_code, told.json()["reason"]) == (503, "draining")
        assert operator.get("/livez").status_code == 200
        server.set("go")
        assert busy.answer().status == 200
        assert server.exit_code() == 0


def test_it_may_be_a_unix_socket_which_is_gone_with_the_server(serve: Serve, uds: Path) -> None:
    server = serve("Scripted", executor="thread", admin_uds=uds)
    with Operator(server, uds) as operator:
        assert operator.get("/metrics").status_code == 200
    server.terminate()
    assert server.exit_code() == 0
    assert not uds.exists()


def test_an_address_that_is_taken_is_told_before_anything_is_loaded(serve: Serve) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        server = serve("Scripted", executor="thread", admin_port=port, is_ready=False)
        assert server.exit_code() == 3
        assert "another server has it" in server.records()[-1]["message"]
