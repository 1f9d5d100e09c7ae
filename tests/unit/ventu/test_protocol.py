"""The worker's side of the batching protocol, against a service that is played byte by byte."""

from __future__ import annotations

import logging
import signal
import socket
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

from headrace import HeadraceError
from headrace.jobs import JobFrames, read_results, write_jobs
from tests.unit.test_jobs import golden
from tests.unit.ventu.models import DECODE, ENCODE, TOO_SHORT, Batched, Length, Text
from ventu import BatchProtocol, protocol

WAIT_S = 20.0
FORMATS = pytest.mark.parametrize("use_msgpack", [False, True], ids=["json", "msgpack"])


def job(number: int) -> str:
    return f"00000000-0000-4000-8000-{number:012}"


def batch(*requests: Any, use_msgpack: bool = False) -> dict[str, bytes]:
    """Jobs of these requests; bytes are bodies as they are."""
    encode = ENCODE[use_msgpack]
    return {
        job(number): each if isinstance(each, bytes) else encode(each)
        for number, each in enumerate(requests, 1)
    }


class Peer:
    """The service's end of a connection."""

    def __init__(self, conn: socket.socket) -> None:
        self.conn = conn
        conn.settimeout(WAIT_S)
        self._frames = JobFrames()
        self._messages: list[bytes] = []

    def send(self, data: bytes) -> None:
        self.conn.sendall(data)

    def message(self) -> bytes:
        """The next message of the worker."""
        while not self._messages:
            data = self.conn.recv(1 << 16)
            assert data, "the worker ended the connection"
            self._messages += self._frames.feed(data)
        return self._messages.pop(0)

    def answers(self, jobs: dict[str, bytes]) -> dict[str, Any]:
        """What the worker writes for these jobs."""
        message = self.message()
        read_results(message, jobs)
        answers: dict[str, Any] = msgspec.msgpack.decode(message)
        return answers

    def has_ended(self) -> bool:
        return self.conn.recv(1) == b""


@pytest.fixture
def pair() -> Iterator[tuple[Peer, socket.socket]]:
    ours, theirs = socket.socketpair()
    theirs.settimeout(WAIT_S)
    with ours, theirs:
        yield Peer(ours), theirs


def worker_of(model: Batched) -> BatchProtocol:
    return BatchProtocol(model._batch_infer, Text, Length, model.use_msgpack)


@pytest.fixture(params=[False, True], ids=["json", "msgpack"])
def model(request: pytest.FixtureRequest) -> Batched:
    return Batched(Text, Length, request.param)


def ask(
    model: Batched, pair: tuple[Peer, socket.socket], *requests: Any, idempotent: bool = True
) -> tuple[list[Any], set[int], set[int]]:
    """A worker's decoded answers to a batch, and the numbers of the errors and of the failed."""
    peer, conn = pair
    worker = worker_of(model)
    worker.idempotent = idempotent
    jobs = batch(*requests, use_msgpack=model.use_msgpack)
    peer.send(write_jobs(jobs))
    worker.process(conn)
    answers = peer.answers(jobs)
    errors, failed = (
        {int(ids[at : at + 36][-12:]) for at in range(0, len(ids), 36)}
        for ids in (answers.pop("error_ids", ""), answers.pop("failed_ids", ""))
    )
    kind = bytes if model.use_msgpack else str
    assert list(answers) == list(jobs)
    assert all(type(value) is kind for value in answers.values())
    bodies = [value if model.use_msgpack else value.encode() for value in answers.values()]
    return [DECODE[model.use_msgpack](body) for body in bodies], errors, failed


def test_the_published_constants_are_there() -> None:
    assert BatchProtocol.STRUCT_FORMAT == "!i"
    assert BatchProtocol.INT_BYTE_SIZE == 4
    assert BatchProtocol.INIT_MESSAGE == golden("ask")
    assert BatchProtocol(list, Text, Length, False).sock is None


@FORMATS
def test_the_golden_batch_has_the_golden_results(
    use_msgpack: bool, pair: tuple[Peer, socket.socket]
) -> None:
    peer, conn = pair
    name = "msgpack" if use_msgpack else "json"
    peer.send(golden(f"batch_{name}"))

    def infer(requests: list[Any]) -> list[Any]:
        return [{"length": len(each.text or "")} for each in requests]

    class Loose(Text):
        text: str = ""

    BatchProtocol(infer, Loose, Length, use_msgpack).process(conn)
    expected = golden(f"results_{name}")
    assert peer.conn.recv(len(expected) + 1).hex(" ") == expected.hex(" ")


def test_all_well(model: Batched, pair: tuple[Peer, socket.socket]) -> None:
    answers, errors, failed = ask(model, pair, {"text": "one"}, {"text": "three"})
    assert (answers, errors, failed) == ([{"length": 3}, {"length": 5}], set(), set())
    assert model.batches == [["one", "three"]]


def test_each_job_fails_alone_and_is_told_its_own_error(
    model: Batched, pair: tuple[Peer, socket.socket]
) -> None:
    answers, errors, failed = ask(
        model,
        pair,
        {"text": "one"},
        {"text": ""},
        {"text": "raise"},
        b"\xc1",
        {"text": "a broken one"},
        {"text": "raise in preprocess"},
        {"text": "seven"},
    )
    decode_error = answers[3]
    assert decode_error.startswith("Invalid msgpack: " if model.use_msgpack else "Invalid JSON: ")
    lost = "the model failed"
    assert answers == [
        {"length": 3},
        TOO_SHORT,
        lost,
        decode_error,
        lost,
        lost,
        {"length": 5},
    ]
    assert errors == {2, 3, 4, 5, 6}
    assert failed == {3, 5, 6}


def test_a_batch_without_a_valid_job_is_answered_and_not_run(
    model: Batched, pair: tuple[Peer, socket.socket]
) -> None:
    answers, errors, failed = ask(model, pair, {"text": ""}, {})
    assert answers[0] == TOO_SHORT
    assert answers[1][0]["type"] == "missing"
    assert (errors, failed) == ({1, 2}, set())
    assert model.batches == []


def test_the_guilty_one_of_32_is_found_by_halves(
    model: Batched, pair: tuple[Peer, socket.socket]
) -> None:
    texts = [f"{number:03}" for number in range(32)]
    texts[17] = "raise"
    answers, errors, failed = ask(model, pair, *({"text": text} for text in texts))
    assert errors == failed == {18}
    assert answers == [{"length": 3}] * 17 + ["the model failed"] + [{"length": 3}] * 14
    assert len(model.batches) == 1 + 2 * 5
    assert max(map(len, model.batches[1:])) == 16


def test_a_model_that_is_not_idempotent_fails_the_whole_batch(
    model: Batched, pair: tuple[Peer, socket.socket]
) -> None:
    answers, errors, failed = ask(
        model, pair, {"text": "raise"}, {"text": "one"}, {"text": ""}, idempotent=False
    )
    assert answers[:2] == ["the model failed"] * 2
    assert (errors, failed) == ({1, 2, 3}, {1, 2})
    assert len(model.batches) == 1


def test_too_many_results_fail_the_whole_batch(
    model: Batched, pair: tuple[Peer, socket.socket], caplog: pytest.LogCaptureFixture
) -> None:
    answers, errors, failed = ask(model, pair, {"text": "too many"}, {"text": "one"})
    assert answers == ["the model failed"] * 2
    assert errors == failed == {1, 2}
    assert len(model.batches) == 1
    assert "expected 2 results of a batch of 2, got 3" in caplog.text


def test_a_broken_response_is_logged_and_not_sent(
    model: Batched, pair: tuple[Peer, socket.socket], caplog: pytest.LogCaptureFixture
) -> None:
    answers, _, failed = ask(model, pair, {"text": "a broken one"})
    assert (answers, failed) == (["the model failed"], {1})
    assert "a response was not sent: it does not fit Length" in caplog.text
    assert "int_parsing" in caplog.text


def test_results_may_be_an_array(pair: tuple[Peer, socket.socket]) -> None:
    np = pytest.importorskip("numpy")
    peer, conn = pair

    class Vector(Length):
        length: list[float]  # type: ignore[assignment]  # another field of this name

    jobs = batch({"text": "a"}, {"text": "b"})
    peer.send(write_jobs(jobs))

    def infer(requests: list[Any]) -> Any:
        return np.array([{"length": np.arange(2.0)} for _ in requests])

    BatchProtocol(infer, Text, Vector, False).process(conn)
    assert peer.answers(jobs) == dict.fromkeys(jobs, '{"length":[0.0,1.0]}')


def test_answers_that_are_too_long_together_fail_the_last_jobs(
    pair: tuple[Peer, socket.socket], monkeypatch: pytest.MonkeyPatch
) -> None:
    peer, conn = pair
    monkeypatch.setattr(protocol, "MAX_MESSAGE_BYTES", 1000)

    class Echo(Text):
        pass

    jobs = batch({"text": "a" * 400}, {"text": "b" * 400}, {"text": "c"})
    with monkeypatch.context() as long_reads:
        long_reads.setattr(protocol, "MAX_MESSAGE_BYTES", 2000)
        peer.send(write_jobs(jobs))
        message = protocol._read_message(conn)
    peer.send(len(message).to_bytes(4, "big") + message)
    monkeypatch.setattr(protocol, "JobFrames", lambda bound: JobFrames(2000))
    BatchProtocol(list, Echo, Text, False).process(conn)
    answers = peer.answers(jobs)
    assert answers.pop("failed_ids") == answers.pop("error_ids") == job(2)
    assert answers[job(2)] == '"the model failed"'
    assert len(answers[job(1)]) > 400
    assert answers[job(3)] == '{"text":"c"}'


# Reading


@FORMATS
def test_a_batch_may_arrive_split_at_every_byte(use_msgpack: bool) -> None:
    requests = ({"text": "one"}, {"text": ""})
    jobs = batch(*requests, use_msgpack=use_msgpack)
    data = write_jobs(jobs)
    worker = BatchProtocol(lambda each: [{"length": 3}] * len(each), Text, Length, use_msgpack)
    for at in range(1, len(data)):
        ours, conn = socket.socketpair()
        with ours, conn:
            peer = Peer(ours)
            peer.send(data[:at])
            processing = threading.Thread(target=worker.process, args=(conn,), daemon=True)
            processing.start()
            peer.send(data[at:])
            assert peer.answers(jobs)["error_ids"] == job(2)
            processing.join(WAIT_S)


def test_a_batch_may_arrive_byte_by_byte(pair: tuple[Peer, socket.socket]) -> None:
    peer, conn = pair
    jobs = batch({"text": "one"})
    processing = threading.Thread(
        target=BatchProtocol(lambda each: [{"length": 3}], Text, Length, False).process,
        args=(conn,),
    )
    processing.start()
    for byte in write_jobs(jobs):
        peer.send(bytes([byte]))
    assert peer.answers(jobs) == {job(1): '{"length":3}'}
    processing.join(WAIT_S)


def test_several_batches_at_once_are_answered_one_by_one(
    pair: tuple[Peer, socket.socket],
) -> None:
    peer, conn = pair
    batches = [batch({"text": "a" * number}) for number in (1, 2, 3)]
    peer.send(b"".join(map(write_jobs, batches)))
    worker = worker_of(Batched(Text, Length))
    for number, jobs in enumerate(batches, 1):
        worker.process(conn)
        assert peer.answers(jobs) == {job(1): f'{{"length":{number}}}'}


def test_a_large_batch_is_read_whole(pair: tuple[Peer, socket.socket]) -> None:
    peer, conn = pair
    jobs = batch({"text": "a" * 3_000_000})
    sending = threading.Thread(target=peer.send, args=(write_jobs(jobs),))
    sending.start()
    worker_of(Batched(Text, Length)).process(conn)
    sending.join(WAIT_S)
    assert peer.answers(jobs) == {job(1): '{"length":3000000}'}


@pytest.mark.parametrize("sent", [0, 1, 3, 4, 5, 20, -1])
def test_the_end_of_the_stream_is_an_eof_error_wherever_it_comes(
    sent: int, pair: tuple[Peer, socket.socket]
) -> None:
    peer, conn = pair
    peer.send(write_jobs(batch({"text": "one"}))[:sent])
    peer.conn.shutdown(socket.SHUT_WR)
    where = "" if sent == 0 else " within a message"
    with pytest.raises(EOFError, match=f"ended the connection{where}$"):
        worker_of(Batched(Text, Length)).process(conn)


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        ((0).to_bytes(4, "big"), "a msgpack map of job ids"),
        ((-1).to_bytes(4, "big", signed=True), "a length of 0 to 268435456, got -1"),
        ((2**31 - 1).to_bytes(4, "big"), "a length of 0 to 268435456, got 2147483647"),
        (b"\x00\x00\x00\x01\x80", "at least one job"),
        (b"\x00\x00\x00\x01\xc1", "a msgpack map of job ids"),
    ],
)
def test_what_is_no_batch_is_an_error_that_says_so(
    data: bytes, reason: str, pair: tuple[Peer, socket.socket]
) -> None:
    peer, conn = pair
    peer.send(data)
    with pytest.raises(HeadraceError, match=reason):
        worker_of(Batched(Text, Length)).process(conn)


# Running


class Service:
    """A batching service, played by the test."""

    def __init__(self, place: Any, family: socket.AddressFamily) -> None:
        self.listener = socket.socket(family, socket.SOCK_STREAM)
        self.listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        self.listener.bind(place)
        self.listener.listen()
        self.listener.settimeout(WAIT_S)

    def __enter__(self) -> Service:
        return self

    def __exit__(self, *_: object) -> None:
        self.listener.close()

    @property
    def port(self) -> int:
        return int(self.listener.getsockname()[1])

    def accept(self) -> Peer:
        """A worker that has asked for work."""
        conn, _ = self.listener.accept()
        peer = Peer(conn)
        assert peer.message() == b""
        return peer


@pytest.fixture
def place() -> Iterator[Path]:
    """A path that is short enough for a Unix socket."""
    with tempfile.TemporaryDirectory(prefix="hr-") as folder:
        yield Path(folder) / "s"


class Running:
    """A worker that runs on a thread."""

    def __init__(self, worker: BatchProtocol, place: Any, protocol: str = "unix") -> None:
        self.worker = worker
        self._thread = threading.Thread(target=worker.run, args=(place, protocol), daemon=True)
        self._thread.start()

    def __enter__(self) -> Running:
        return self

    def __exit__(self, *_: object) -> None:
        self.worker.stop()
        self.join()

    def join(self) -> None:
        self._thread.join(WAIT_S)
        assert not self._thread.is_alive(), "the worker did not stop"


class Log(logging.Handler):
    """Waits for records."""

    def __init__(self) -> None:
        super().__init__()
        self._records: list[str] = []
        self._came = threading.Condition()

    def emit(self, record: logging.LogRecord) -> None:
        with self._came:
            self._records.append(record.getMessage())
            self._came.notify_all()

    def has(self, text: str) -> bool:
        return any(text in record for record in self._records)

    def wait(self, text: str, times: int = 1) -> None:
        def found() -> bool:
            return sum(text in record for record in self._records) >= times

        with self._came:
            assert self._came.wait_for(found, WAIT_S), (text, self._records)


@pytest.fixture
def log() -> Iterator[Log]:
    handler = Log()
    logger = logging.getLogger("ventu.protocol")
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    yield handler
    logger.removeHandler(handler)
    logger.setLevel(logging.NOTSET)


def serve_one(peer: Peer, text: str = "one") -> None:
    jobs = batch({"text": text})
    peer.send(write_jobs(jobs))
    assert peer.answers(jobs) == {job(1): f'{{"length":{len(text)}}}'}


def test_over_unix_and_over_tcp(place: Path) -> None:
    for family, at in ((socket.AF_UNIX, str(place)), (socket.AF_INET, ("127.0.0.1", 0))):
        with Service(at, family) as service:
            is_unix = family == socket.AF_UNIX
            worker = worker_of(Batched(Text, Length))
            running = Running(
                worker,
                at if is_unix else ("127.0.0.1", service.port),
                "unix" if is_unix else "tcp",
            )
            with running:
                peer = service.accept()
                assert worker.sock is not None
                serve_one(peer)
                serve_one(peer, "three")
            assert worker.sock is None
            assert peer.has_ended()
            peer.conn.close()


def test_another_protocol_is_refused() -> None:
    with pytest.raises(ValueError, match="'unix' or 'tcp', got 'udp'"):
        worker_of(Batched(Text, Length)).run("x", "udp")


def test_a_service_that_is_not_there_yet_is_waited_for(place: Path, log: Log) -> None:
    with Running(worker_of(Batched(Text, Length)), str(place)):
        log.wait("No such file or directory; the next try is in 0.1 s")
        with Service(str(place), socket.AF_UNIX) as service:
            peer = service.accept()
            serve_one(peer)
            peer.conn.close()


def test_a_refused_connection_is_tried_again(log: Log) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        running = Running(
            worker_of(Batched(Text, Length)), ("127.0.0.1", free.getsockname()[1]), "tcp"
        )
        with running:
            log.wait("Connection refused; the next try is in 0.1 s")
            log.wait("Connection refused; the next try is in 0.2 s")


def test_a_service_that_restarts_is_served_again(place: Path, log: Log) -> None:
    with Running(worker_of(Batched(Text, Length)), str(place)):
        for _ in range(2):
            with Service(str(place), socket.AF_UNIX) as service:
                peer = service.accept()
                serve_one(peer)
                peer.conn.close()
            place.unlink()
        log.wait("ended the connection", times=2)


def test_a_service_that_makes_no_sense_is_left_and_tried_again(
    place: Path, log: Log, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(protocol, "LAST_RETRY_S", 0.1)
    junk = [b"\xff\xff\xff\xff", b"\x7f\xff\xff\xff", bytes(4), b"\x00\x00\x00\x01\xc1", b"\x00"]
    with (
        Service(str(place), socket.AF_UNIX) as service,
        Running(worker_of(Batched(Text, Length)), str(place)),
    ):
        for data in junk[:4]:
            peer = service.accept()
            peer.send(data)
            assert peer.has_ended()
            peer.conn.close()
        log.wait("the batching protocol was broken", times=4)
        peer = service.accept()
        peer.send(junk[4])
        peer.conn.close()
        log.wait("ended the connection within a message")
        peer = service.accept()
        serve_one(peer)
        peer.conn.close()


def test_a_service_that_leaves_before_the_answer_costs_no_worker(place: Path, log: Log) -> None:
    model = Batched(Text, Length)
    model.gate.clear()
    with Service(str(place), socket.AF_UNIX) as service, Running(worker_of(model), str(place)):
        peer = service.accept()
        peer.send(write_jobs(batch({"text": "one"})))
        assert model.entered.acquire(timeout=WAIT_S)
        peer.conn.close()
        model.gate.set()
        log.wait("Broken pipe")
        peer = service.accept()
        serve_one(peer)
        peer.conn.close()


# Stopping


def stop_is_soon(running: Running) -> None:
    running.worker.stop()
    running.join()


def test_stop_while_it_waits_for_a_batch(place: Path) -> None:
    with Service(str(place), socket.AF_UNIX) as service:
        running = Running(worker_of(Batched(Text, Length)), str(place))
        peer = service.accept()
        stop_is_soon(running)
        assert peer.has_ended()
        peer.conn.close()


def test_stop_within_a_message(place: Path) -> None:
    with Service(str(place), socket.AF_UNIX) as service:
        running = Running(worker_of(Batched(Text, Length)), str(place))
        peer = service.accept()
        peer.send(write_jobs(batch({"text": "one"}))[:10])
        stop_is_soon(running)
        peer.conn.close()


def test_stop_while_it_backs_off(place: Path, log: Log, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(protocol, "FIRST_RETRY_S", 10 * WAIT_S)
    running = Running(worker_of(Batched(Text, Length)), str(place))
    log.wait("the next try is in")
    stop_is_soon(running)


def test_stop_while_it_connects(log: Log) -> None:
    # A full backlog: the next one is neither accepted nor refused.
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen(0)
        place = listener.getsockname()
        others = [socket.socket() for _ in range(4)]
        for other in others:
            other.setblocking(False)
            other.connect_ex(place)
        running = Running(worker_of(Batched(Text, Length)), place, "tcp")
        while running.worker.sock is None:
            threading.Event().wait(0.001)
        stop_is_soon(running)
        assert not log.has("connected to")
        for other in others:
            other.close()


def test_stop_before_it_runs_is_not_lost(place: Path) -> None:
    worker = worker_of(Batched(Text, Length))
    worker.stop()
    Running(worker, str(place)).join()
    # It was for that run only.
    with Service(str(place), socket.AF_UNIX) as service, Running(worker, str(place)):
        peer = service.accept()
        serve_one(peer)
        peer.conn.close()


def test_stop_lets_the_batch_at_work_be_answered(place: Path) -> None:
    model = Batched(Text, Length)
    model.gate.clear()
    with Service(str(place), socket.AF_UNIX) as service:
        running = Running(worker_of(model), str(place))
        peer = service.accept()
        jobs = batch({"text": "one"}, {"text": "raise"})
        peer.send(write_jobs(jobs))
        assert model.entered.acquire(timeout=WAIT_S)
        running.worker.stop()
        model.gate.set()
        assert peer.answers(jobs)[job(1)] == '{"length":3}'
        running.join()
        assert peer.has_ended()
        peer.conn.close()


@pytest.mark.parametrize("when", ["before the answer", "within it"])
def test_stop_does_not_wait_for_a_service_that_reads_nothing(
    when: str, place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(protocol, "STOP_SEND_TIMEOUT_S", 0.05)
    model = Batched(Text, Text)
    model.gate.clear()
    long = "a" * 8_000_000
    worker = BatchProtocol(
        lambda each: [{"text": long} for _ in model.batch_inference(["x"])], Text, Text, False
    )
    with Service(str(place), socket.AF_UNIX) as service:
        running = Running(worker, str(place))
        peer = service.accept()
        peer.send(write_jobs(batch({"text": "one"})))
        assert model.entered.acquire(timeout=WAIT_S)
        if when == "before the answer":
            worker.stop()
            model.gate.set()
        else:
            model.gate.set()
            assert peer.conn.recv(1, socket.MSG_PEEK)  # it is on its way
            worker.stop()
        running.join()
        peer.conn.close()


def test_stop_in_a_signal_handler(place: Path) -> None:
    """In the main thread, which waits for a batch: nothing is there for it to poll."""
    worker = worker_of(Batched(Text, Length))

    def ask_to_stop() -> None:
        peer = service.accept()
        serve_one(peer)
        signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGUSR1)
        assert peer.has_ended()
        peer.conn.close()

    before = signal.signal(signal.SIGUSR1, lambda *_: worker.stop())
    try:
        with Service(str(place), socket.AF_UNIX) as service:
            asking = threading.Thread(target=ask_to_stop, daemon=True)
            asking.start()
            worker.run(str(place))
            asking.join(WAIT_S)
    finally:
        signal.signal(signal.SIGUSR1, before)


def gauge(model: Batched, protocol: str) -> float | None:
    return model.metric_registry.get_sample_value("process_worker", {"protocol": protocol})


@pytest.mark.parametrize("protocol", ["unix", "tcp"])
@pytest.mark.parametrize("how", ["SIGTERM", "SIGINT"])
def test_a_ventu_works_until_a_signal_in_the_main_thread(
    protocol: str, how: str, place: Path
) -> None:
    model = Batched(Text, Length)
    counted: list[float | None] = []
    family, at = (
        (socket.AF_UNIX, str(place)) if protocol == "unix" else (socket.AF_INET, ("127.0.0.1", 0))
    )

    def ask_to_stop() -> None:
        peer = service.accept()
        serve_one(peer)
        counted.append(gauge(model, protocol))
        signal.pthread_kill(threading.main_thread().ident or 0, signal.Signals[how])
        assert peer.has_ended()
        peer.conn.close()

    before = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]
    with Service(at, family) as service:
        asking = threading.Thread(target=ask_to_stop, daemon=True)
        asking.start()
        if protocol == "unix":
            model.run_unix(str(place))
        else:
            model.run_tcp("127.0.0.1", service.port)
        asking.join(WAIT_S)
    assert counted == [1.0]
    assert gauge(model, protocol) == 0.0
    assert [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)] == before


def test_a_ventu_works_on_another_thread_and_is_stopped_from_this_one(place: Path) -> None:
    model = Batched(Text, Length, socket=str(place))
    with Service(str(place), socket.AF_UNIX) as service:
        working = threading.Thread(target=model.run_unix, daemon=True)
        working.start()
        peer = service.accept()
        serve_one(peer)
        model.stop()
        working.join(WAIT_S)
        assert not working.is_alive()
        peer.conn.close()


def test_the_socket_of_a_ventu_is_kept_and_checks_a_batch_first() -> None:
    model = Batched(Text, Length)
    assert model.sock is model.sock
    assert model.batches == [["hello"]]
    assert model.sock.idempotent is True
    assert isinstance(model.sock, BatchProtocol)


def test_the_socket_of_a_ventu_that_is_not_well_is_none() -> None:
    class Wrong(Batched):
        def batch_inference(self, batch: list[str]) -> list[int]:
            return [0] * len(batch)

    with pytest.raises(AssertionError, match=r"expected \{'length': 5\}, got \{'length': 0\}"):
        _ = Wrong(Text, Length).sock
