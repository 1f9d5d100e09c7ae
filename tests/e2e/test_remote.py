"""Workers of other hosts: they join and leave, fail and come back, and nobody else gets in."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.e2e.conftest import Served, eventually
from tests.e2e.remote import (
    House,
    Load,
    has_said,
    journal,
    listens_at,
    replicas,
    wait_for_workers,
)

pytestmark = pytest.mark.slow


@pytest.fixture
def house() -> Iterator[House]:
    with tempfile.TemporaryDirectory(prefix="hr-") as folder:
        house = House(Path(folder))
        yield house
        house.stop()


def children_of(process: Served) -> list[int]:
    path = Path(f"/proc/{process.process.pid}/task/{process.process.pid}/children")
    return [int(pid) for pid in path.read_text().split()]


def is_alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def serve_one(house: House, **settings: object) -> tuple[Served, Served]:
    """A front that is ready, and its worker."""
    front = house.front(**settings)  # type: ignore[arg-type]  # all keywords are settings
    worker = house.worker("Double", listens_at(front))
    return front.wait_ready(), worker


# Joining and leaving


def test_workers_join_and_leave_and_a_model_without_any_is_not_ready(house: House) -> None:
    front, first = serve_one(house)
    second = house.worker("Double", listens_at(front))
    wait_for_workers(front, 2)
    first.terminate()
    assert first.exit_code() == 0
    assert journal(first)[-1] == "unload"
    wait_for_workers(front, 1)
    assert front.predict(1).json() == 2
    second.terminate()
    assert second.exit_code() == 0
    eventually(lambda: front.get("/readyz").status_code == 503, "no readiness")
    assert replicas(front) == [("unready", "no worker is connected")]
    refused = front.predict(2)
    assert (refused.status_code, refused.json()["code"]) == (503, "not_ready")
    assert int(refused.headers["retry-after"]) >= 1
    house.worker("Double", listens_at(front))
    wait_for_workers(front, 1)
    assert front.predict(3).json() == 6
    assert front.get("/readyz").status_code == 200


def test_a_worker_may_be_there_before_its_front(house: House) -> None:
    probe = house.front()
    address = listens_at(probe)
    probe.terminate()
    probe.exit_code()
    worker = house.worker("Double", address)
    eventually(lambda: has_said(worker, "no front"), "a first try")
    house.front(listen=address).wait_ready()
    assert len(has_said(worker, "no front")) == 1, "it says so once"


def test_each_model_that_a_worker_brings_is_served_under_its_name(house: House) -> None:
    front, _ = serve_one(house)
    house.worker("Triple", listens_at(front))
    eventually(lambda: replicas(front, "triple") == [("ready", "")], "the second model")
    assert front.post("/models/double/predict", {"n": 5}).json() == 10
    assert front.post("/models/triple/predict", {"n": 5}).json() == 15
    assert front.predict(5).json() == 10, "the first to come is the default"


def test_of_a_target_with_several_models_a_worker_runs_the_one_that_it_is_told(
    house: House,
) -> None:
    front = house.front()
    house.worker("BOTH", listens_at(front), "--model", "triple")
    assert front.wait_ready().post("/models/triple/predict", {"n": 5}).json() == 15
    house.worker("BOTH", listens_at(front))
    wait_for_workers(front, 1)
    neither = house.worker("BOTH", listens_at(front), "--model", "quadruple")
    assert neither.exit_code() == 2
    assert any("there is no model quadruple" in line for line in neither.log_lines)


def test_a_worker_whose_model_takes_something_else_is_refused(house: House) -> None:
    front, _ = serve_one(house)
    other = house.worker("Other", listens_at(front))
    eventually(lambda: has_said(front, "a worker was refused"), "the refusal")
    reason = has_said(front, "a worker was refused")[0]["reason"]
    assert reason.endswith("is not that of the workers before: request_schema")
    eventually(lambda: has_said(other, "the front refuses this worker"), "its own word of it")
    assert [state for state, _ in replicas(front)] == ["ready"]
    assert front.predict(2).json() == 4


def test_a_newer_version_with_the_same_interface_is_a_replica_beside_the_older(
    house: House,
) -> None:
    front, first = serve_one(house)
    house.worker("Newer", listens_at(front))
    wait_for_workers(front, 2)
    first.terminate()
    wait_for_workers(front, 1)
    assert front.predict(2).json() == 4
    assert front.get("/models/double").json()["version"] == "2"


# Faults of workers


@pytest.mark.row("E7")
def test_a_worker_that_dies_is_started_again_by_its_parent(house: House) -> None:
    front, worker = serve_one(house)
    died = front.predict(1, do="die")
    assert died.status_code in (500, 503)
    wait_for_workers(front, 1)
    assert front.predict(2).json() == 4
    assert journal(worker).count("load") == 3, "it was run once more"
    assert worker.process.poll() is None


@pytest.mark.row("E7")
def test_an_item_that_runs_alone_survives_the_kill_of_its_worker(house: House) -> None:
    front, first = serve_one(house)
    second = house.worker("Double", listens_at(front))
    wait_for_workers(front, 2)
    with Load(front, clients=1, s=1.0) as load:
        busy = eventually(lambda: next(filter(is_busy, (first, second)), None), "a batch")
        (child,) = children_of(busy)
        os.kill(child, signal.SIGKILL)
        eventually(lambda: load.count, "an answer")
    assert set(load.statuses) == {200} and not load.wrong


def is_busy(worker: Served) -> bool:
    """Whether it has begun a batch of a client."""
    return "predict 1" in journal(worker)


@pytest.mark.row("E9")
def test_a_poison_item_costs_three_workers_at_most_and_nobody_else_an_answer(
    house: House,
) -> None:
    front, first = serve_one(house)
    second = house.worker("Double", listens_at(front))
    wait_for_workers(front, 2)
    with Load(front) as load:
        load.wait_for_more(20)
        poison = front.predict(1, do="die")
        load.wait_for_more(20)
    assert poison.status_code == 500 and poison.json()["code"] == "replica_lost"
    assert set(load.statuses) == {200} and not load.wrong
    loads = journal(first).count("load") + journal(second).count("load")
    assert loads <= 5


@pytest.mark.row("E6")
def test_a_worker_whose_model_does_not_load_ends_with_4_and_its_front_goes_on(
    house: House,
) -> None:
    front, _ = serve_one(house)
    failing = house.worker("LoadRaises", listens_at(front))
    assert failing.exit_code() == 4
    dying = house.worker("LoadDies", listens_at(front))
    assert dying.exit_code() == 4
    assert len(has_said(dying, "the worker ended")) == 3
    assert front.predict(2).json() == 4
    reason = front.get("/readyz").json()["models"]["load-raises"]["replicas"][0]["reason"]
    assert "no weights" in reason


def test_a_wrong_target_ends_a_worker_with_2_before_there_is_a_front(house: House) -> None:
    wrong = house.worker("Doubel", "127.0.0.1:1")
    assert wrong.exit_code() == 2
    assert any("did you mean Double" in line for line in wrong.log_lines)


def test_a_worker_dies_with_its_parent(house: House) -> None:
    front, worker = serve_one(house)
    (child,) = children_of(worker)
    worker.signal(signal.SIGKILL)
    eventually(lambda: not is_alive(child), "the end of the worker")
    eventually(lambda: front.get("/readyz").status_code == 503, "the front to notice")


def test_readyz_tells_no_addresses(house: House) -> None:
    front, worker = serve_one(house)
    worker.signal(signal.SIGKILL)
    eventually(lambda: front.get("/readyz").status_code == 503, "the front to notice")
    assert not re.search(r"127\.0\.0\.1|localhost|\d{4,}", front.get("/readyz").text)


# Stopping


def test_a_worker_that_is_told_to_stop_under_load_loses_nothing(house: House) -> None:
    front, first = serve_one(house)
    second = house.worker("Double", listens_at(front))
    wait_for_workers(front, 2)
    with Load(front, clients=12) as load:
        load.wait_for_more(50)
        first.terminate()
        assert first.exit_code() == 0
        load.wait_for_more(50)
        third = house.worker("Double", listens_at(front))
        wait_for_workers(front, 2)
        second.terminate()
        assert second.exit_code() == 0
        load.wait_for_more(50)
    assert set(load.statuses) == {200} and not load.wrong
    assert journal(third)


def test_a_worker_finishes_a_long_batch_before_it_leaves(house: House) -> None:
    front, worker = serve_one(house)
    with Load(front, clients=1, s=1.5) as load:
        eventually(lambda: len(journal(worker)) > 3, "the batch to run")
        worker.terminate()
        assert worker.exit_code() == 0
        eventually(lambda: load.count >= 1, "the answer")
    assert load.statuses[200] == 1


def test_a_worker_that_hangs_ends_at_once_when_told_twice(house: House) -> None:
    front, worker = serve_one(house)
    (child,) = children_of(worker)
    front.wire().post("/predict", '{"n": 1, "do": "hang"}', "content-type: application/json\r\n")
    eventually(lambda: "predict 1" in journal(worker), "the hang")
    worker.terminate()
    with pytest.raises(subprocess.TimeoutExpired):
        worker.process.wait(0.5)
    worker.terminate()
    assert worker.exit_code(5.0) == 0
    assert not is_alive(child)


def test_a_front_that_is_told_to_stop_under_load_loses_nothing_and_its_workers_wait(
    house: House,
) -> None:
    front, worker = serve_one(house)
    address = listens_at(front)
    with Load(front) as load:
        load.wait_for_more(50)
        front.terminate()
        assert front.exit_code() == 0
    # Those that came after the drain began are told so.
    assert set(load.statuses) <= {200, 503} and not load.wrong
    assert worker.process.poll() is None
    loads = journal(worker).count("load")
    again = house.front(listen=address).wait_ready()
    assert again.predict(4).json() == 8
    assert journal(worker).count("load") == loads, "the model stays loaded"


def test_workers_come_back_to_a_front_that_was_killed(house: House) -> None:
    front, first = serve_one(house)
    second = house.worker("Double", listens_at(front))
    wait_for_workers(front, 2)
    for n in range(1, 7):
        slow = json.dumps({"n": n, "s": 1.0})
        front.wire().post("/predict", slow, "content-type: application/json\r\n")
    eventually(lambda: len(journal(first)) + len(journal(second)) > 7, "both to be busy")
    front.signal(signal.SIGKILL)
    front.exit_code()
    again = house.front(listen=listens_at_end(front)).wait_ready()
    wait_for_workers(again, 2)
    with Load(again) as load:
        load.wait_for_more(20)
    assert set(load.statuses) == {200} and not load.wrong
    for worker in (first, second):
        assert journal(worker).count("load") == 1, "the models stay loaded"
        assert {record["level"] for record in worker.records()} == {"warning"}
    second.terminate()
    assert second.exit_code() == 0


def listens_at_end(front: Served) -> str:
    """Where a front that has ended did listen."""
    return str(has_said(front, "workers may connect")[0]["address"])


def test_a_worker_that_has_no_front_ends_at_once_when_told(house: House) -> None:
    worker = house.worker("Double", "127.0.0.1:1")
    eventually(lambda: has_said(worker, "no front"), "a first try")
    worker.terminate()
    assert worker.exit_code(5.0) == 0


def test_a_worker_that_is_told_to_stop_while_it_unloads_unloads_and_ends(house: House) -> None:
    front = house.front()
    address = listens_at(front)
    worker = house.worker("SlowToUnload", address)
    front.wait_ready()
    front.terminate()
    assert front.exit_code() == 0
    house.front(listen=address, limits__predict_timeout_s=7)
    eventually(lambda: "unload" in journal(worker), "the model to be unloaded for another limit")
    worker.terminate()
    assert worker.exit_code() == 0
    assert journal(worker)[-1] == "unloaded"


def test_a_worker_leaves_a_front_that_says_nothing_and_tries_again(house: House) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        silent.settimeout(30.0)
        worker = house.worker("Double", f"127.0.0.1:{silent.getsockname()[1]}")
        connections = [silent.accept()[0] for _ in range(2)]
        assert has_said(worker, "the front did not let this worker in")
        worker.terminate()
        assert worker.exit_code(3.0) == 0, "before the second try is given up"
        for each in connections:
            each.close()


# Trust


@pytest.mark.row("J1")
def test_a_worker_with_another_secret_never_joins(house: House) -> None:
    front, _ = serve_one(house, log_level="debug")
    house.secret.write_text("another secret, long enough")
    stranger = house.worker("Triple", listens_at(front))
    eventually(lambda: has_said(stranger, "the front did not let this worker in"), "a refusal")
    eventually(lambda: has_said(front, "a worker broke the protocol"), "the front's word of it")
    records = front.records()
    assert {record["level"] for record in records} <= {"debug", "info"}, "anybody can cause it"
    assert "load" not in journal(stranger)
    assert list(front.get("/readyz").json()["models"]) == ["double"]


def openssl(*arguments: str, folder: Path) -> None:
    subprocess.run(["openssl", *arguments], cwd=folder, check=True, capture_output=True)


def make_certificates(folder: Path) -> None:
    """An authority, ca.pem, and a server's certificate by it for 127.0.0.1, server.pem."""
    curve = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"]
    authority = [*curve, "-keyout", "ca.key", "-out", "ca.pem", "-subj", "/CN=a test's authority"]
    openssl("req", "-x509", *authority, "-days", "2", folder=folder)
    request = [*curve, "-keyout", "server.key", "-out", "server.csr", "-subj", "/CN=front"]
    openssl("req", *request, "-addext", "subjectAltName=IP:127.0.0.1", folder=folder)
    signed = ["-req", "-in", "server.csr", "-CA", "ca.pem", "-CAkey", "ca.key", "-days", "2"]
    openssl("x509", *signed, "-copy_extensions", "copy", "-out", "server.pem", folder=folder)


@pytest.mark.row("J1")
def test_with_tls_a_worker_joins_only_a_front_that_it_can_trust(house: House) -> None:
    (house.folder / "other").mkdir()
    make_certificates(house.folder)
    make_certificates(house.folder / "other")
    front = house.front(
        workers__tls_cert=house.folder / "server.pem", workers__tls_key=house.folder / "server.key"
    )
    mistrusting = house.worker(
        "Triple", listens_at(front), "--tls-ca", str(house.folder / "other" / "ca.pem")
    )
    plain = house.worker("Triple", listens_at(front))
    worker = house.worker("Double", listens_at(front), "--tls-ca", str(house.folder / "ca.pem"))
    front.wait_ready()
    assert front.predict(4, do="x" * 5_000_000).json() == 8
    with Load(front) as load:
        load.wait_for_more(50)
        worker.signal(signal.SIGTERM)
        assert worker.exit_code() == 0
    assert load.statuses[200] >= 50 and not load.wrong
    (refusal, *_) = has_said(mistrusting, "no front")
    assert "CERTIFICATE_VERIFY_FAILED" in refusal["reason"]
    eventually(lambda: has_said(plain, "the front did not let this worker in"), "its end")
    assert list(front.get("/readyz").json()["models"]) == ["double"]


@pytest.mark.parametrize(
    ("options", "told"),
    [
        (["--connect", "10.0.0.1:1"], "beyond loopback expected --tls-ca or --tls-system"),
        (["--connect", "h:1", "--insecure", "--tls-system"], "expected one of"),
        (["--connect", "h:1", "--tls-ca", "nowhere"], "--tls-ca: nowhere: "),
        (["--connect", "h:none"], "--connect: expected host:port, got 'h:none'"),
    ],
)
def test_a_worker_says_what_it_needs_to_be_safe(
    house: House, options: list[str], told: str
) -> None:
    worker = house.worker("Double", "127.0.0.1:1", *options)
    assert worker.exit_code() == 2
    assert told in worker.log_lines[-1]


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        ({}, "workers.listen: expected host:port with executor 'remote', got none"),
        ({"listen": "0.0.0.0:0"}, "workers.listen: beyond loopback expected workers.tls_cert"),
        ({"listen": "127.0.0.1:0", "secret_file": "nowhere"}, "workers.secret_file: nowhere: No"),
        ({"listen": "127.0.0.1:0", "secret_file": os.devnull}, "expected a file"),
        ({"listen": "127.0.0.1:0", "tls_cert": "nowhere"}, "workers.tls_cert: nowhere: "),
    ],
)
def test_a_front_says_what_it_needs_to_be_safe(
    house: House, settings: dict[str, str], told: str
) -> None:
    given = {"secret_file": str(house.secret), **settings}
    wrong = house.serve_wrong(given)
    assert wrong.exit_code() == 2
    assert told in wrong.log_lines[-1]


def test_an_insecure_front_and_worker_take_each_other_beyond_loopback(house: House) -> None:
    front = house.front(listen="0.0.0.0:0", workers__insecure="true")
    port = listens_at(front).rpartition(":")[2]
    house.worker("Double", f"127.0.0.1:{port}", "--insecure")
    assert front.wait_ready().predict(2).json() == 4


def test_a_second_front_on_the_address_ends_with_3(house: House) -> None:
    front = house.front()
    second = house.serve_wrong({"listen": listens_at(front), "secret_file": str(house.secret)})
    assert second.exit_code() == 3
