"""The worker socket: strangers are closed before they cost anything, and a worker that breaks the
protocol is dropped, its batch run by another.

A front of `--executor remote` listens; workers of it serve the canary and a model that doubles.
"""

from __future__ import annotations

import json
import os
import socket
import struct
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path

import httpx
import pytest

from headrace.call import Failure, Value
from headrace.errors import ProtocolError
from headrace.wire import (
    Ask,
    Bye,
    Cards,
    Challenge,
    Drain,
    End,
    Family,
    Hello,
    Kind,
    Parts,
    Ready,
    Run,
    Sample,
    Setup,
    Started,
    Stats,
    Welcome,
    encode,
)
from tests.e2e.conftest import Answer, Serve, eventually
from tests.e2e.remote import wait_for_workers
from tests.e2e.ventu.services import House as Batching
from tests.faults.conftest import IS_LONG, rounds
from tests.faults.contract import LATE_S, Client, LoggedWire, message
from tests.faults.defences import without
from tests.faults.fake_worker import JSON, Breaches, FakeWorker, answers, card, parts, says
from tests.faults.gate import CLOSED_S, PREDICT_TIMEOUT_S, Gate, gated, is_closed, ungated
from tests.faults.watch import cpu_s, rss_bytes, size_bytes

pytestmark = pytest.mark.slow

RESTARTS = "headrace_replica_restarts_total"
DOUBLE = "/models/double/predict"
MIB = 1 << 20


@pytest.fixture(scope="module")
def gate() -> Iterator[Gate]:
    with gated() as gate:
        yield gate


# J1

NOISE = bytes(range(255, -1, -1)) * 5
STRANGERS = {
    "nothing": b"",
    "one-byte": b"h",
    "half-a-hello": b"hdrc\x01\x02",
    "HTTP": b"GET / HTTP/1.1\r\nhost: x\r\n\r\n",
    "HTTP-2": b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    "TLS": bytes.fromhex("16030100c5010000c10303") + bytes(190),
    "noise": NOISE,
    "much-noise": NOISE * 1000,
    "zeros": bytes(4096),
    "no-secret": b"".join(encode(Hello(0, bytes(32), bytes(32)))),
    "a-card-for-a-hello": b"".join(encode(Cards((card(),), 0))),
    "the-fronts-own-words": b"".join(encode(Challenge(bytes(32)))),
    "a-welcome": b"".join(encode(Welcome(bytes(32), Setup()))),
    "a-bye": b"".join(encode(Bye("stopped", ""))),
    "an-answer": b"".join(encode(Parts(1, [(0, Value(b"1", JSON))], End.ENDED))),
    "a-hello-and-more": b"".join(encode(Hello(0, bytes(32), bytes(32)))) + bytes(1 << 20),
}


def turn_away(gate: Gate, data: bytes) -> None:
    with gate.stranger() as sock:
        try:
            sock.sendall(data)
        except ConnectionError:
            return  # it was closed while it spoke
        assert is_closed(sock)


@pytest.mark.row("J1")
@pytest.mark.parametrize("data", STRANGERS.values(), ids=STRANGERS)
def test_a_stranger_is_gone_within_a_second(gate: Gate, data: bytes) -> None:
    before = gate.server.get("/readyz").json()
    with gate.watch(reaches=0):
        turn_away(gate, data)
    assert gate.server.get("/readyz").json() == before


def wrong_secret(gate: Gate) -> None:
    with gate.fake(b"another secret, long enough") as fake:
        with pytest.raises(ConnectionError):
            fake.socket.settimeout(CLOSED_S + LATE_S)
            fake.greet()


def replayed(gate: Gate) -> None:
    with gate.fake() as worker, gate.stranger() as thief:
        worker.greet()
        thief.recv(64)
        thief.sendall(worker.hello)
        assert is_closed(thief)


def mirrored(gate: Gate) -> None:
    """The front's challenge to one connection, answered by what a worker said to it on another."""
    with gate.stranger() as thief, gate.stranger() as other:
        nonce = thief.recv(64)
        other.recv(64)
        other.sendall(nonce)
        assert is_closed(other)
        thief.sendall(nonce)
        assert is_closed(thief)


def more_capable(gate: Gate) -> None:
    """A hello that was changed on its way."""
    with gate.fake() as worker, gate.stranger() as thief:
        worker.greet()
        changed = bytearray(worker.hello)
        changed[24] ^= 1
        thief.recv(64)
        thief.sendall(changed)
        assert is_closed(thief)


IMPOSTORS: dict[str, Callable[[Gate], None]] = {
    "wrong-secret": wrong_secret,
    "replayed-hello": replayed,
    "mirrored-challenge": mirrored,
    "changed-hello": more_capable,
}


@pytest.mark.row("J1")
@pytest.mark.parametrize("act", IMPOSTORS.values(), ids=IMPOSTORS)
def test_who_does_not_prove_the_secret_is_gone_within_a_second(
    gate: Gate, act: Callable[[Gate], None]
) -> None:
    before = gate.server.get("/readyz").json()
    gate.hold(lambda client: act(gate), rounds=rounds(3), reaches=0)
    assert gate.server.get("/readyz").json() == before


@pytest.mark.row("J1")
def test_many_strangers_at_once_cost_nothing(gate: Gate) -> None:
    def act(client: Client) -> None:
        strangers = [gate.stranger() for _ in STRANGERS.values() for _ in range(3)]
        for sock, data in zip(strangers, [*STRANGERS.values()] * 3, strict=True):
            sock.settimeout(5.0)
            try:
                sock.sendall(data[:4096])
            except ConnectionError:
                pass
        assert all(is_closed(sock) for sock in strangers)
        for sock in strangers:
            sock.close()

    gate.hold(act, rounds=rounds(2), reaches=0)


@pytest.mark.row("J1")
def test_a_server_with_workers_of_its_own_has_no_socket_that_another_user_could_find(
    serve: Serve,
) -> None:
    server = serve("Faulty")
    own = {
        os.readlink(path)
        for path in Path(f"/proc/{server.process.pid}/fd").iterdir()
        if path.is_symlink()
    }
    found = [line.split() for line in Path("/proc/net/unix").read_text().splitlines()[1:]]
    mine = [fields for fields in found if f"socket:[{fields[6]}]" in own]
    assert mine, "the workers' connections"
    assert all(len(fields) == 7 for fields in mine), "they have no name"


TRY_TO_CONNECT = """
import os, socket, sys
os.setgroups([])
os.setgid(65534)
os.setuid(65534)
with socket.socket(socket.AF_UNIX) as sock:
    try:
        sock.connect(sys.argv[1])
    except PermissionError:
        sys.exit(13)
"""


def as_nobody(path: Path) -> int:
    """What comes of another user's try to connect."""
    return subprocess.run([sys.executable, "-c", TRY_TO_CONNECT, str(path)], check=False).returncode


@contextmanager
def batching(env: Mapping[str, str] | None = None) -> Iterator[Path]:
    """A batching service of ventu's: alone of all servers it has a socket for workers with a name.

    Anybody may look into the folder of the socket, so that its own mode decides.
    """
    with tempfile.TemporaryDirectory(prefix="hr-", dir="/tmp") as folder:
        os.chmod(folder, 0o755)
        house = Batching(Path(folder))
        try:
            yield Path(house.batching(address=f"{folder}/s", env=env).workers_at)
        finally:
            house.stop()


@pytest.mark.row("J1")
@pytest.mark.skipif(os.geteuid() != 0, reason="needs root to become another user")
def test_another_user_cannot_connect_to_a_socket_for_workers() -> None:
    with batching() as path:
        assert as_nobody(path) == 13
        with socket.socket(socket.AF_UNIX) as own:
            own.connect(str(path))


@pytest.mark.counter("J1")
@pytest.mark.skipif(os.geteuid() != 0, reason="needs root to become another user")
def test_a_socket_for_workers_that_anybody_may_use_is_noticed() -> None:
    with batching(without("a socket for workers is its user's own")) as path:
        assert as_nobody(path) == 0


@pytest.mark.counter("J1")
@pytest.mark.parametrize(
    ("name", "act"),
    [
        ("a worker proves the secret", wrong_secret),
        ("a worker proves the secret", more_capable),
        ("a stranger has a second", lambda gate: turn_away(gate, b"")),
    ],
    ids=["secret", "changed", "silence"],
)
def test_a_gate_that_lets_strangers_in_is_noticed(
    monkeypatch: pytest.MonkeyPatch, name: str, act: Callable[[Gate], None]
) -> None:
    with ungated(monkeypatch, name) as gate:
        with pytest.raises((AssertionError, ProtocolError, pytest.fail.Exception)):
            act(gate)


# J2

PREFIX = struct.Struct("<4sBBHQQ")
LENGTHS = {"2^31": 2**31, "2^63": 2**63, "2^64-1": 2**64 - 1}
FRAMES = {
    **{f"header-of-{name}": (n, 0) for name, n in LENGTHS.items()},
    **{f"payload-of-{name}": (0, n) for name, n in LENGTHS.items()},
    **{f"both-of-{name}": (n, n) for name, n in LENGTHS.items()},
    "nothing": (0, 0),
    "a-payload-that-is-not-whole": (8, 63),
}


def prefix(kind: Kind, header_bytes: int, payload_bytes: int) -> bytes:
    return PREFIX.pack(b"hdrc", 1, kind, 0, header_bytes, payload_bytes)


def refuses(gate: Gate, lengths: tuple[int, int], *, is_proven: bool) -> None:
    """The first 24 bytes of a frame are enough to refuse it; nothing is allocated for it."""
    before = size_bytes(gate.server)
    with gate.fake() as fake:
        kind = Kind.HELLO
        if is_proven:
            fake.join()
            kind = Kind.PARTS
        fake.socket.sendall(prefix(kind, *lengths).ljust(64, b"\0"))
        assert fake.is_dropped_within(CLOSED_S + LATE_S)
        assert size_bytes(gate.server) - before < 64 * MIB
    wait_for_workers(gate.server, 1)


@pytest.mark.row("J2")
@pytest.mark.parametrize("is_proven", [False, True], ids=["stranger", "worker"])
@pytest.mark.parametrize("lengths", FRAMES.values(), ids=FRAMES)
def test_a_frame_of_an_absurd_length_is_refused_on_its_prefix(
    gate: Gate, lengths: tuple[int, int], is_proven: bool
) -> None:
    with gate.watch(reaches=0):
        refuses(gate, lengths, is_proven=is_proven)


@pytest.mark.row("J2")
def test_half_a_frame_then_silence_is_no_busy_loop(gate: Gate) -> None:
    whole = b"".join(encode(parts_of_nothing()))
    with gate.fake() as fake:
        fake.join()
        fake.socket.sendall(whole[: len(whole) // 2])
        before = cpu_s(gate.server)
        time.sleep(1.0)
        assert cpu_s(gate.server) - before < 0.3
    with gate.watch(reaches=0):
        wait_for_workers(gate.server, 1)


def parts_of_nothing() -> Parts:
    return Parts(1, [(0, Value(bytes(1000), JSON))], End.ENDED)


def cuts(size: int, whole: int, every: int) -> list[int]:
    """Where to cut so many bytes: in the short run each of the first, then only some."""
    return [at for at in range(size) if IS_LONG or at < whole or at % every == 0]


@pytest.mark.row("J2")
def test_an_end_at_every_byte_of_a_worker_that_joins_leaves_nothing(gate: Gate) -> None:
    def act(client: Client) -> None:
        with gate.fake() as one:
            one.greet()
            hello_bytes = len(one.hello)
        for at in range(hello_bytes):
            with gate.stranger() as sock:
                sock.recv(64)
                sock.sendall(one.hello[:at])
        behind = b"".join(encode(Cards((card(),), 0))) + b"".join(encode(Ready()))
        for at in cuts(len(behind), 96, 64):
            with gate.fake() as fake:
                fake.greet()
                fake.socket.sendall(behind[:at])
        wait_for_workers(gate.server, 1)

    gate.hold(act, rounds=1, reaches=0)


@pytest.mark.row("J2")
def test_an_end_at_every_byte_of_an_answer_has_the_batch_run_again(gate: Gate) -> None:
    def act(client: Client) -> None:
        whole = b"".join(encode(Parts(0, [(0, Value(b"-1", JSON))], End.ENDED)))
        for at in cuts(len(whole), 0, 24):

            def breach(fake: FakeWorker, run: Run, at: int = at) -> None:
                fake.say(Started(run.batch))
                data = b"".join(encode(answers(run)))
                fake.socket.sendall(data[: min(at, len(data) - 1)])
                fake.socket.shutdown(socket.SHUT_WR)

            is_dropped_and_run_again(gate, client, breach)

    with gate.watch() as client:
        act(client)


@pytest.mark.counter("J2")
def test_a_prefix_that_nobody_checks_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    with ungated(monkeypatch, "a frame's lengths are checked") as gate:
        with pytest.raises(AssertionError):
            refuses(gate, FRAMES["payload-of-2^31"], is_proven=True)


# J3


def failure(run: Run, index: int) -> Parts:
    return Parts(run.batch, [(index, Failure(code="model_error", message="no"))], End.ENDED)


def right(run: Run) -> Parts:
    """What a healthy worker answers."""
    return Parts(
        run.batch,
        [
            (index, Value(b"%d" % (2 * json.loads(bytes(p.body))["n"]), JSON))
            for index, p in run.items
        ],
        End.ENDED,
    )


HUGE = 2**63 - 1
BREACHES: Breaches = {
    "an-unknown-batch": says(lambda run: parts(run, batch=1000)),
    "a-huge-batch": says(lambda run: Parts(HUGE, parts(run).parts, End.ENDED)),
    "another-connections-batch": says(lambda run: parts(run, batch=-1)),
    "another-connections-batch-begun": says(lambda run: Started(run.batch - 1)),
    "an-answer-twice": says(right, right),
    "an-item-twice": says(
        lambda run: parts(run, indexes=[index for index, _ in run.items for _ in range(2)])
    ),
    "too-few": says(lambda run: parts(run, indexes=[run.items[0][0]])),
    "none": says(lambda run: parts(run, indexes=[])),
    "too-many": says(lambda run: parts(run, indexes=[*range(len(run.items) + 1)])),
    "an-item-of-none": says(lambda run: parts(run, indexes=[99], end=End.OPEN)),
    "a-huge-item": says(lambda run: parts(run, indexes=[HUGE], end=End.OPEN)),
    "a-failure-of-none": says(lambda run: failure(run, 99)),
    "aside-without-end": lambda fake, run: fake.socket.sendall(
        b"".join([*encode(Started(run.batch)), *encode(Parts(run.batch, (), End.SET_ASIDE))] * 6)
    ),
    "a-type-of-two-lines": says(
        lambda run: Parts(run.batch, [(run.items[0][0], Value(b"1", "a/b\r\nx: y"))])
    ),
    "begun-twice": says(lambda run: Started(run.batch), lambda run: Started(run.batch)),
    "begun-unknown": says(lambda run: Started(run.batch + 1000)),
    "a-second-ready": says(lambda run: Ready()),
    "a-second-card": says(lambda run: Cards((card(),), 0)),
    "a-second-hello": says(lambda run: Hello(0, bytes(32), bytes(32))),
    "a-run": says(lambda run: run),
    "an-ask": says(lambda run: Ask()),
    "a-drain": says(lambda run: Drain()),
    "a-challenge": says(lambda run: Challenge(bytes(32))),
    "noise": lambda fake, run: fake.socket.sendall(NOISE),
    "a-header-that-is-none": lambda fake, run: fake.socket.sendall(
        prefix(Kind.PARTS, 40, 0) + b"\xff" * 104
    ),
    "a-header-of-another-kind": lambda fake, run: fake.socket.sendall(
        prefix(Kind.STATS, 40, 0) + b"[1]".ljust(104)
    ),
}


FOUR = json.dumps({"instances": [{"n": n} for n in range(2, 6)]})


@contextmanager
def given_four(gate: Gate, client: Client) -> Iterator[tuple[FakeWorker, Run, LoggedWire]]:
    """A worker that has a batch of four, while a healthy one has another batch."""
    with gate.fake() as fake:
        fake.join()
        wait_for_workers(gate.server, 2)
        busy, four = client.wire(), client.wire()
        busy.send(message(DOUBLE, '{"n": 1, "s": 0.4}'))
        name = "headrace_running_items"
        eventually(lambda: gate.server.metric(name, model="double"), "it to run")
        four.send(message("/v1/models/double:predict", FOUR))
        yield fake, fake.hear(Run), four
        assert busy.answer().json() == 2
    client.close()
    wait_for_workers(gate.server, 1)


def is_dropped_and_run_again(
    gate: Gate, client: Client, breach: Callable[[FakeWorker, Run], None]
) -> None:
    with given_four(gate, client) as (fake, run, four):
        assert len(run.items) == 4
        breach(fake, run)
        assert fake.is_dropped_within(CLOSED_S + LATE_S), "it is dropped"
        assert four.answer().json() == {"predictions": [4, 6, 8, 10]}


@pytest.mark.row("J3")
@pytest.mark.parametrize("breach", BREACHES.values(), ids=BREACHES)
def test_a_worker_that_breaks_the_protocol_is_dropped_and_its_batch_run_by_another(
    gate: Gate, breach: Callable[[FakeWorker, Run], None]
) -> None:
    before = gate.server.metric(RESTARTS, reason="protocol")
    with gate.watch(reaches=5) as client:
        is_dropped_and_run_again(gate, client, breach)
    assert gate.server.metric(RESTARTS, reason="protocol") == before + 1


@pytest.mark.row("J3")
def test_workers_that_break_the_protocol_leave_nothing(gate: Gate) -> None:
    gate.hold(
        lambda client: is_dropped_and_run_again(gate, client, BREACHES["too-few"]),
        rounds=rounds(3),
        reaches=5,
    )


@pytest.mark.row("J3")
def test_a_worker_that_answers_with_nonsense_is_believed_but_for_its_own_batch(gate: Gate) -> None:
    """What a proven worker answers to its own items is its word; nobody else gets it."""
    with gate.watch(reaches=5) as client, given_four(gate, client) as (fake, run, four):
        fake.say(answers(run))
        assert four.answer().json() == {"predictions": ["not yours"] * 4}


@pytest.mark.counter("J3")
@pytest.mark.parametrize("what", ["too-few", "begun-twice"])
def test_books_that_nobody_keeps_are_noticed(monkeypatch: pytest.MonkeyPatch, what: str) -> None:
    with ungated(monkeypatch, "each answer is booked") as gate, Client(gate.server) as client:
        with pytest.raises(AssertionError):
            is_dropped_and_run_again(gate, client, BREACHES[what])


# J4


class HeldUp(AssertionError):
    """Somebody waits for a worker that never reads."""


@contextmanager
def nobody_waits() -> Iterator[None]:
    """Have whatever goes wrong within be told as `HeldUp`."""
    try:
        yield
    except (AssertionError, OSError, httpx.HTTPError) as error:
        raise HeldUp from error


def holds_up_nobody(gate: Gate, client: Client) -> Answer:
    """A worker is given a large batch and never reads it."""
    with gate.fake() as fake:
        fake.join()
        wait_for_workers(gate.server, 2)
        busy, large = client.wire(), client.wire()
        busy.send(message(DOUBLE, '{"n": 1, "s": 2.0}'))
        name = "headrace_running_items"
        eventually(lambda: gate.server.metric(name, model="double"), "it to run")
        items = [{"n": n, "do": "x" * (3 * MIB)} for n in range(2, 6)]
        large.send(message("/v1/models/double:predict", json.dumps({"instances": items})))
        with nobody_waits():
            eventually(lambda: gate.server.metric(name, model="double") == 5, "both to run")
            began = time.monotonic()
            assert gate.server.get("/livez").status_code == 200
            assert time.monotonic() - began < 0.1 + LATE_S, "the server does not wait for it"
            answer = large.answer()
            assert busy.answer().json() == 2
        return answer


@pytest.mark.row("J4")
def test_a_worker_that_never_reads_holds_up_nobody_and_is_given_up(gate: Gate) -> None:
    before = gate.server.metric(RESTARTS, reason="hung")
    with gate.watch(reaches=5) as client:
        began = time.monotonic()
        assert holds_up_nobody(gate, client).json() == {"predictions": [4, 6, 8, 10]}
        assert time.monotonic() - began < PREDICT_TIMEOUT_S + 2.0 + LATE_S
        wait_for_workers(gate.server, 1)
    assert gate.server.metric(RESTARTS, reason="hung") == before + 1


STATS = Stats(
    tuple(
        Family(f"f{n}", "counter", "x", "", (Sample(f"f{n}_total", {"label": "x"}, 1.0),))
        for n in range(200)
    )
)
FLOODS: dict[str, Callable[[Run], bytes]] = {
    "small-statistics": lambda run: b"".join(encode(Stats(()))) * 500,
    "large-statistics": lambda run: b"".join(encode(STATS)) * 10,
    "answers-without-any": lambda run: b"".join(encode(Parts(run.batch, ()))) * 500,
}


def floods(gate: Gate, client: Client, flood: Callable[[Run], bytes]) -> None:
    def breach(fake: FakeWorker, run: Run) -> None:
        data, ends = flood(run), time.monotonic() + CLOSED_S + LATE_S
        with suppress(OSError):  # it was dropped
            while True:
                assert time.monotonic() < ends, "it goes on"
                fake.socket.sendall(data)

    rss = rss_bytes(gate.server)
    is_dropped_and_run_again(gate, client, breach)
    assert rss_bytes(gate.server) - rss < 16 * MIB


@pytest.mark.row("J4")
@pytest.mark.parametrize("flood", FLOODS.values(), ids=FLOODS)
def test_a_worker_that_floods_is_dropped_and_slows_nobody(
    gate: Gate, flood: Callable[[Run], bytes]
) -> None:
    with gate.watch(reaches=5) as client:
        floods(gate, client, flood)


@pytest.mark.counter("J4")
def test_a_flood_that_is_taken_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    name = "who says what nobody asked for is dropped"
    with ungated(monkeypatch, name) as gate, Client(gate.server) as client:
        with pytest.raises(AssertionError, match="it goes on"):
            floods(gate, client, FLOODS["small-statistics"])


# Clients whose connection is cut as they wait leave it to the collector.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.counter("J4")
def test_a_front_that_waits_for_a_worker_to_read_is_noticed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    name = "what a worker does not read is kept for it"
    monkeypatch.setattr("tests.e2e.conftest.WAIT_S", 5.0)  # of each request to the front
    with ungated(monkeypatch, name) as gate, Client(gate.server) as client:
        with pytest.raises(HeldUp):
            holds_up_nobody(gate, client)


@pytest.mark.counter("J4")
def test_a_worker_that_is_never_given_up_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    name = "a batch that nobody begins on overruns"
    with ungated(monkeypatch, name) as gate, Client(gate.server) as client:
        monkeypatch.setattr("tests.e2e.conftest.WAIT_S", PREDICT_TIMEOUT_S + 3.0)
        with pytest.raises(HeldUp):
            holds_up_nobody(gate, client)


# J5


@pytest.mark.counter("J5")
def test_the_search_finds_a_parser_that_believes_what_it_reads() -> None:
    tests = Path(__file__).parents[1] / "unit" / "wire" / "test_arbitrary.py"
    done = subprocess.run(
        [
            sys.executable,
            "-m",
            "pytest",
            "-q",
            "-x",
            "-p",
            "no:cacheprovider",
            "--hypothesis-profile=any",
            str(tests),
            "-k",
            "any_bytes",
        ],
        env={**os.environ, **without("a frame's lengths are checked")},
        capture_output=True,
        text=True,
        check=False,
        timeout=100,
    )
    assert done.returncode == 1, done.stdout[-2000:]
