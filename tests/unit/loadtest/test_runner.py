"""The load generator against servers that behave, and others."""

from __future__ import annotations

import asyncio
import math
import socket
import ssl
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from headrace import ConfigError, LoadResult, LoadSettings, run_load_test
from tests.unit.loadtest.server import Request, answer, echo, serving

AT_ONCE = LoadSettings(requests_per_second=math.inf)


def numbered(count: int) -> list[bytes]:
    return [b"%d" % index for index in range(count)]


def threads() -> list[str]:
    return [thread.name for thread in threading.enumerate()]


# What it sends


def test_answers_are_in_the_order_of_the_bodies() -> None:
    bodies = [b"%d" % index * (index % 97) for index in range(2000)]
    with serving() as server:
        result = run_load_test(server.url, bodies, LoadSettings(requests_per_second=4000))
    assert result.errors == {}
    assert list(result.bodies) == bodies
    assert list(result.statuses) == [200] * 2000
    assert sorted(server.bodies) == sorted(bodies)


def test_large_and_empty_bodies_arrive_whole() -> None:
    bodies = [b"", b"x" * 64 * 1024, b"y" * (64 * 1024 + 1), bytes(range(256)) * 10_000]
    with serving() as server:
        result = run_load_test(server.url, bodies, AT_ONCE)
    assert [result[index].body for index in range(4)] == bodies


def test_requests_carry_the_urls_path_and_the_headers() -> None:
    with serving() as server:
        settings = LoadSettings(headers={"X-Test": "yes"})
        run_load_test(server.url + "models/a b?q", [b"1"], settings)
    lines = server.requests[0].head.split("\r\n")
    assert lines[0] == "POST /models/a%20b?q HTTP/1.1"
    assert {"Content-Type: application/json", "Content-Length: 1", "X-Test: yes"} <= set(lines)
    assert f"Host: {server.url[7:-1]}" in lines


def test_a_connection_carries_one_request_after_another() -> None:
    with serving() as server:
        settings = LoadSettings(requests_per_second=math.inf, max_connections=1)
        result = run_load_test(server.url, numbered(300), settings)
    assert (result.errors, result.connections, server.connections) == ({}, 1, 1)
    assert server.bodies == numbered(300)  # what was due first went first


def test_no_more_connections_are_open_than_allowed() -> None:
    with serving() as server:
        settings = LoadSettings(requests_per_second=math.inf, max_connections=7)
        result = run_load_test(server.url, numbered(1000), settings)
    assert result.errors == {}
    assert 1 <= server.max_open <= 7


@pytest.mark.parametrize("seed", [None, 5])
def test_nothing_is_sent_before_it_is_planned(seed: int | None) -> None:
    settings = LoadSettings(requests_per_second=1000, poisson_seed=seed)
    with serving() as server:
        result = run_load_test(server.url, numbered(200), settings)
    assert result.errors == {}
    assert (list(result.planned_s) == [index / 1000 for index in range(200)]) == (seed is None)
    for planned, sent, ended in zip(result.planned_s, result.sent_s, result.ended_s, strict=True):
        assert planned <= sent <= ended
    assert 0 <= result.send_lag_mean_s <= result.send_lag_max_s
    assert 0 < result.cpu_s <= result.duration_s
    assert result.sent_per_second < 1.5 * 1000


def test_a_unix_socket_is_reached_by_its_path(tmp_path: Path) -> None:
    path = tmp_path / "socket"
    with serving(uds=path):
        result = run_load_test("http://any/", numbered(20), LoadSettings(uds=str(path)))
    assert (result.errors, list(result.bodies)) == ({}, numbered(20))


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A certificate for 127.0.0.1 by itself, and its key, in one file."""
    both = tmp_path_factory.mktemp("tls") / "both.pem"
    subject = ["-subj", "/CN=server", "-addext", "subjectAltName=IP:127.0.0.1", "-days", "2"]
    command = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", *subject]
    subprocess.run(
        [*command, "-keyout", both, "-out", both.with_name("cert.pem")],
        check=True,
        capture_output=True,
    )
    both.write_bytes(both.read_bytes() + both.with_name("cert.pem").read_bytes())
    return both


def test_https_is_spoken_with_those_who_can_be_trusted(certificate: Path) -> None:
    tls = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    tls.load_cert_chain(certificate)
    with serving(tls=tls) as server:
        trusting = LoadSettings(tls=ssl.create_default_context(cafile=str(certificate)))
        result = run_load_test(server.url, numbered(50), trusting)
        assert (result.errors, list(result.bodies)) == ({}, numbered(50))
        result = run_load_test(server.url, numbered(3))
    assert sorted(result.errors) == [0, 1, 2]
    assert all("cannot connect" in error for error in result.errors.values())
    assert all("certificate" in error.lower() for error in result.errors.values())


def test_a_handshake_that_never_ends_times_out() -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        url = "https://{}:{}/".format(*silent.getsockname())
        settings = LoadSettings(requests_per_second=math.inf, timeout_s=0.3)
        result = run_load_test(url, numbered(3), settings)
    assert sorted(result.errors) == [0, 1, 2]


# No coordinated omission


@pytest.mark.parametrize("connections", [1, 8, 256])
def test_a_stalled_server_is_charged_to_all_that_was_due_meanwhile(connections: int) -> None:
    stall_s = 0.4
    gates: list[asyncio.Event] = []

    async def stalling(request: Request, writer: asyncio.StreamWriter) -> None:
        if not gates:  # this first request cannot have come before the schedule's start
            gates.append(asyncio.Event())
            asyncio.get_running_loop().call_later(stall_s, gates[0].set)
        await gates[0].wait()
        await echo(request, writer)

    settings = LoadSettings(requests_per_second=500, max_connections=connections)
    with serving(stalling) as server:
        result = run_load_test(server.url, numbered(250), settings)
    assert result.errors == {}
    for index, planned in enumerate(result.planned_s):
        # The loop of the server rounds its timers, by less than this.
        assert result[index].latency_s >= stall_s - 0.02 - planned
    # Half of what was due in those 0.4 s waited for more than half of the rest.
    assert result.latency_s.p50 >= 0.1
    # The generator itself was not the one that stalled.
    assert result.send_lag_mean_s < result.latency_s.mean


# What goes wrong


def test_a_refused_connection_is_its_requests_error() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
    result = run_load_test(f"http://127.0.0.1:{port}/", numbered(100))
    assert sorted(result.errors) == list(range(100))
    assert all("cannot connect" in error for error in result.errors.values())
    assert list(result.statuses) == [0] * 100
    assert all(math.isnan(sent) for sent in result.sent_s)


def test_a_server_that_comes_late_is_found() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
    loop = asyncio.new_event_loop()
    servers: list[asyncio.Server] = []

    async def answering(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while await reader.read(4096):
            writer.write(answer(b"here"))
        writer.close()
        await writer.wait_closed()

    async def end() -> None:
        servers[0].close()
        while others := asyncio.all_tasks() - {asyncio.current_task()}:  # of those just accepted
            await asyncio.gather(*others, return_exceptions=True)

    def listen(_: int) -> None:
        if not servers:
            starting = asyncio.start_server(answering, "127.0.0.1", port)
            servers.append(asyncio.run_coroutine_threadsafe(starting, loop).result(10))

    thread = threading.Thread(target=loop.run_forever)
    thread.start()
    try:
        settings = LoadSettings(requests_per_second=100)
        result = run_load_test(
            f"http://127.0.0.1:{port}/", numbered(150), settings, on_progress=listen
        )
    finally:
        asyncio.run_coroutine_threadsafe(end(), loop).result(10)
        loop.call_soon_threadsafe(loop.stop)
        thread.join(10)
        loop.close()
    assert "cannot connect" in result.errors[0]
    assert result[149] == (200, b"here", None, result[149].latency_s)


Misbehaving = Callable[[Request, asyncio.StreamWriter], None]


def run_with_one_bad(bad: Misbehaving, **settings: float) -> LoadResult:
    """Twenty requests, the tenth of which is answered by `bad`; each may come at most once."""

    async def answering(request: Request, writer: asyncio.StreamWriter) -> None:
        if request.body == b"10":
            bad(request, writer)
        else:
            await echo(request, writer)

    with serving(answering) as server:
        chosen = LoadSettings(**{"requests_per_second": 500, **settings})  # type: ignore[arg-type]
        result = run_load_test(server.url, numbered(20), chosen)
    assert len(set(server.bodies)) == len(server.bodies) == 20  # nothing is sent again
    others = [body for index, body in enumerate(result.bodies) if index != 10]
    assert others == [body for body in numbered(20) if body != b"10"]
    assert set(result.errors) <= {10}
    return result


def closing(data: bytes) -> Misbehaving:
    def close(request: Request, writer: asyncio.StreamWriter) -> None:
        writer.write(data)
        writer.close()

    return close


def writing(data: bytes) -> Misbehaving:
    return lambda request, writer: writer.write(data)


@pytest.mark.parametrize(
    ("data", "error"),
    [
        (b"", "the server closed the connection without an answer"),
        (b"HTTP/1.1 200 OK\r\nContent-", "the server closed the connection within its answer"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n1234", "within its answer"),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\n12\r\n", "within its answer"),
        (b"HTTP/1.1 103 Early Hints\r\n\r\n", "within its answer"),
    ],
    ids=["nothing", "head", "body", "chunks", "hints"],
)
def test_an_early_close_is_its_requests_error(data: bytes, error: str) -> None:
    result = run_with_one_bad(closing(data))
    assert error in result.errors[10]
    assert (result.statuses[10], result.bodies[10]) == (0, b"")


def test_a_reset_is_its_requests_error() -> None:
    def reset(request: Request, writer: asyncio.StreamWriter) -> None:
        writer.transport.abort()

    assert "connection" in run_with_one_bad(reset).errors[10]


@pytest.mark.parametrize(
    "data",
    [
        b"SSH-2.0-OpenSSH\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: many\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nxyz\r\n",
    ],
    ids=["ssh", "length", "chunk"],
)
def test_what_is_no_http_is_its_requests_error(data: bytes) -> None:
    assert "expected an HTTP answer" in run_with_one_bad(writing(data)).errors[10]


def test_a_switch_of_protocols_is_its_requests_error() -> None:
    data = b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\nConnection: upgrade\r\n\r\n"
    assert "101" in run_with_one_bad(writing(data)).errors[10]


@pytest.mark.parametrize("status", ["199 X", "302 Found", "404 Not Found", "503 Unavailable"])
def test_another_answer_than_2xx_is_an_error_and_its_body_is_kept(status: str) -> None:
    data = answer(b"why", status)
    if status.startswith("1"):
        data = b"HTTP/1.1 199 X\r\n\r\n" + answer(b"why", "400 Bad")  # 199 is none yet
        status = "400"
    result = run_with_one_bad(writing(data))
    assert result.errors == {10: f"expected a 2xx answer, got {status[:3]}"}
    assert (result.statuses[10], result.bodies[10]) == (int(status[:3]), b"why")


@pytest.mark.parametrize("max_connections", [1, 5])
def test_a_request_without_an_answer_times_out(max_connections: int) -> None:
    async def answering(request: Request, writer: asyncio.StreamWriter) -> None:
        if request.body != b"0":
            await echo(request, writer)

    settings = LoadSettings(
        requests_per_second=math.inf, timeout_s=0.5, max_connections=max_connections
    )
    with serving(answering) as server:
        result = run_load_test(server.url, numbered(50), settings)
    assert "timed out after 0.5 s" in result.errors[0]
    assert 0.5 <= result[0].latency_s
    if max_connections == 1:  # all others waited for its connection
        assert sorted(result.errors) == list(range(50))
        assert "without a free connection" in result.errors[49]
    else:
        assert result.answered_per_second > 0


def test_a_connection_that_never_opens_times_out() -> None:
    with socket.create_server(("127.0.0.1", 0), backlog=0) as full:
        filling = [socket.socket() for _ in range(3)]
        for one in filling:
            one.setblocking(False)
            one.connect_ex(full.getsockname())
        settings = LoadSettings(requests_per_second=math.inf, timeout_s=0.3)
        url = "http://{}:{}/".format(*full.getsockname())
        result = run_load_test(url, numbered(5), settings)
        for one in filling:
            one.close()
    assert sorted(result.errors) == list(range(5))
    assert all("timed out" in error for error in result.errors.values())


@pytest.mark.parametrize(
    "data",
    [
        answer(b"x" * 5000),
        b"HTTP/1.1 200 OK\r\n" + b"X-Many: more\r\n" * 400,
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n" + b"3\r\nabc\r\n" * 700,
    ],
    ids=["length", "head", "chunks"],
)
def test_an_answer_over_the_limit_is_given_up(data: bytes) -> None:
    result = run_with_one_bad(writing(data), max_response_bytes=4096)
    assert result.errors == {10: "expected an answer of at most 4096 bytes, got more"}
    assert result.bodies[10] == b""


# What goes right, if unusual


@pytest.mark.parametrize(
    ("data", "body"),
    [
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n2\r\nde\r\n0\r\n\r\n",
         b"abcde"),
        (b"HTTP/1.1 204 No Content\r\n\r\n", b""),
        (b"HTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\n" + answer(b"after"), b"after"),
        (b"HTTP/1.1 100 Continue\r\n\r\n" + answer(b"go", "201 Created"), b"go"),
    ],
    ids=["chunks", "none", "hints", "continue"],
)  # fmt: skip
@pytest.mark.parametrize("size", [1, 7, 1000])
def test_answers_come_in_all_forms_and_pieces(data: bytes, body: bytes, size: int) -> None:
    async def piecemeal(request: Request, writer: asyncio.StreamWriter) -> None:
        for start in range(0, len(data), size):
            writer.write(data[start : start + size])
            await asyncio.sleep(0)

    settings = LoadSettings(requests_per_second=math.inf, max_connections=2)
    with serving(piecemeal) as server:
        result = run_load_test(server.url, numbered(9), settings)
    assert (result.errors, list(result.bodies)) == ({}, [body] * 9)
    assert result.connections <= 2  # they were kept


@pytest.mark.parametrize("version", ["1.0", "1.1"])
def test_an_answer_may_end_with_its_connection(version: str) -> None:
    async def answering(request: Request, writer: asyncio.StreamWriter) -> None:
        writer.write(f"HTTP/{version} 200 OK\r\n\r\n".encode() + request.body[:1])
        await asyncio.sleep(0)
        writer.write(request.body[1:])
        writer.close()

    with serving(answering) as server:
        result = run_load_test(server.url, numbered(30))
    assert (result.errors, list(result.bodies)) == ({}, numbered(30))
    assert server.connections >= 30


def test_a_connection_that_the_answer_ends_is_replaced() -> None:
    async def answering(request: Request, writer: asyncio.StreamWriter) -> None:
        writer.write(answer(request.body, "200 OK", "Connection: close"))
        writer.close()

    settings = LoadSettings(requests_per_second=math.inf, max_connections=3)
    with serving(answering) as server:
        result = run_load_test(server.url, numbered(40), settings)
    assert (result.errors, list(result.bodies)) == ({}, numbered(40))
    assert 40 <= server.connections <= 43
    assert server.max_open <= 4  # the server may learn late that one is closed


def test_a_connection_closed_while_idle_is_replaced_and_nothing_sent_twice() -> None:
    async def answering(request: Request, writer: asyncio.StreamWriter) -> None:
        await echo(request, writer)
        writer.close()  # without having said so

    with serving(answering) as server:
        settings = LoadSettings(requests_per_second=200)
        result = run_load_test(server.url, numbered(60), settings)
    assert len(set(server.bodies)) == len(server.bodies)
    for index in range(60):
        # One that was on its way as the connection closed is lost; no other.
        lost = index in result.errors
        assert lost or result.bodies[index] == b"%d" % index
        assert not lost or "connection" in result.errors[index]
    assert len(result.errors) < 60


def test_more_than_one_answer_ends_the_connection() -> None:
    async def answering(request: Request, writer: asyncio.StreamWriter) -> None:
        writer.write(answer(request.body) + answer(b"unasked"))

    settings = LoadSettings(requests_per_second=math.inf, max_connections=1)
    with serving(answering) as server:
        result = run_load_test(server.url, numbered(10), settings)
    assert result.errors == {}
    assert list(result.bodies) == numbered(10)
    assert server.connections >= 10


def test_what_comes_unasked_on_an_idle_connection_ends_it() -> None:
    async def answering(request: Request, writer: asyncio.StreamWriter) -> None:
        await echo(request, writer)
        await writer.drain()
        await asyncio.sleep(0.001)
        writer.write(answer(b"", "408 Request Timeout", "Connection: close"))
        writer.close()

    settings = LoadSettings(requests_per_second=50)
    with serving(answering) as server:
        result = run_load_test(server.url, numbered(30), settings)
    for index, got in enumerate(result):
        # If both were on their way at once, the one is taken for the other's answer.
        assert got.body == b"%d" % index or got.status == 408 or got.error
    assert len(result.errors) < 30
    assert server.connections > 1


def test_it_ends_though_connections_are_being_opened() -> None:
    with serving() as server:
        for count in range(5, 85):
            settings = LoadSettings(requests_per_second=(5e3, 5e4, 1e6)[count % 3])
            assert run_load_test(server.url, [b"x"] * count, settings).errors == {}


# Where it is called


def test_it_runs_where_an_event_loop_runs() -> None:
    async def main(url: str) -> LoadResult:
        return run_load_test(url, numbered(50))

    with serving() as server:
        assert list(asyncio.run(main(server.url)).bodies) == numbered(50)


def test_it_runs_on_several_threads() -> None:
    results = []
    with serving() as server:
        callers = [
            threading.Thread(target=lambda: results.append(run_load_test(server.url, numbered(99))))
            for _ in range(3)
        ]
        for caller in callers:
            caller.start()
        for caller in callers:
            caller.join()
    assert [list(result.bodies) for result in results] == [numbered(99)] * 3


def test_progress_is_told_in_the_callers_thread_and_ends_with_all() -> None:
    told: list[tuple[int, int]] = []

    def tell(ended: int) -> None:
        told.append((threading.get_ident(), ended))

    with serving() as server:
        settings = LoadSettings(requests_per_second=100)
        run_load_test(server.url, numbered(60), settings, on_progress=tell)
    assert {thread for thread, _ in told} == {threading.get_ident()}
    assert [ended for _, ended in told] == sorted(ended for _, ended in told)
    assert len(told) >= 2
    assert told[-1][1] == 60


def test_a_run_that_ends_before_its_bar_is_drawn_is_told_of() -> None:
    program = """
import sys
from headrace import run_load_test
run_load_test(sys.argv[1], [b"1"], progress=True)  # shorter than the import of what draws
"""
    with serving() as server:
        ran = subprocess.run(
            [sys.executable, "-c", program, server.url],
            stderr=subprocess.PIPE,
            timeout=60,
            check=True,
        )
    assert b"1/1" in ran.stderr


def test_a_callback_that_raises_ends_the_test() -> None:
    def tell(_: int) -> None:
        raise LookupError("enough")

    async def never(request: Request, writer: asyncio.StreamWriter) -> None:
        pass

    with serving(never) as server:
        with pytest.raises(LookupError, match="enough"):
            run_load_test(server.url, numbered(100), on_progress=tell)
        assert "headrace-loadtest" not in threads()


PROGRAM = """
import os, signal, sys, threading
from headrace import run_load_test
try:
    run_load_test(sys.argv[1], [b"1"] * 100, on_progress=lambda _: os.kill(os.getpid(), 2))
except KeyboardInterrupt:
    print("stopped", threading.active_count(), signal.getsignal(2).__name__)
"""


def test_ctrl_c_stops_it() -> None:
    async def never(request: Request, writer: asyncio.StreamWriter) -> None:
        pass

    with serving(never) as server:
        ran = subprocess.run(
            [sys.executable, "-c", PROGRAM, server.url], capture_output=True, text=True, timeout=30
        )
    assert (ran.stdout, ran.stderr) == ("stopped 1 default_int_handler\n", "")


# What cannot be


def test_there_must_be_bodies() -> None:
    with pytest.raises(ConfigError, match="bodies: expected at least one, got none"):
        run_load_test("http://localhost/", [])


def test_a_url_must_be_http() -> None:
    with pytest.raises(ConfigError, match="url: expected http"):
        run_load_test("ftp://localhost/", [b""])


def test_a_host_must_be_known() -> None:
    with pytest.raises(ConfigError, match="url: expected a known host"):
        run_load_test(f"http://{'a' * 70}.invalid/", [b""])
    assert "headrace-loadtest" not in threads()


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("requests_per_second", 0),
        ("requests_per_second", -1.0),
        ("requests_per_second", math.nan),
        ("requests_per_second", "fast"),
        ("max_connections", 0),
        ("timeout_s", 0),
        ("max_response_bytes", 0),
    ],
    ids=str,
)
def test_a_setting_out_of_range_is_refused_by_name(name: str, value: object) -> None:
    with pytest.raises(ConfigError, match=f"LoadSettings.{name}: expected"):
        LoadSettings(**{name: value})  # type: ignore[arg-type]
