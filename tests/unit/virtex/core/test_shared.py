"""How the metrics of workers are found and put together."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterable
from pathlib import Path

import pytest
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import Metric
from prometheus_client.openmetrics import exposition as openmetrics
from prometheus_client.registry import Collector

from virtex.core.shared import Folder, Told, merged

OWN = """\
# HELP requests_total messages
# TYPE requests_total counter
requests_total{server_instance="w%s"} %s
# HELP lag_milliseconds lag
# TYPE lag_milliseconds summary
lag_milliseconds_count{server_instance="w%s"} 2.0
lag_milliseconds_sum{server_instance="w%s"} 2.5
# HELP open_fds files
# TYPE open_fds gauge
open_fds 7.0
"""


@pytest.fixture
def temporary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder for temporary files, of this test alone."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    return tmp_path


class Merged(Collector):
    def __init__(self, *told: Told) -> None:
        self._told = told

    def collect(self) -> Iterable[Metric]:
        return merged(self._told)


def told(number: int, value: float) -> Told:
    return Told(f"w{number}", OWN % (number, value, number, number))


def test_each_family_stands_once_with_the_samples_of_all() -> None:
    registry = CollectorRegistry()
    registry.register(Merged(told(1, 3.0), told(2, 4.0)))
    text = generate_latest(registry).decode()
    assert (
        text
        == """\
# HELP requests_total messages
# TYPE requests_total counter
requests_total{server_instance="w1"} 3.0
requests_total{server_instance="w2"} 4.0
# HELP lag_milliseconds lag
# TYPE lag_milliseconds summary
lag_milliseconds_count{server_instance="w1"} 2.0
lag_milliseconds_sum{server_instance="w1"} 2.5
lag_milliseconds_count{server_instance="w2"} 2.0
lag_milliseconds_sum{server_instance="w2"} 2.5
# HELP open_fds files
# TYPE open_fds gauge
open_fds{server_instance="w1"} 7.0
open_fds{server_instance="w2"} 7.0
"""
    )


def test_it_can_be_asked_for_as_openmetrics() -> None:
    registry = CollectorRegistry()
    registry.register(Merged(told(1, 3.0), told(2, 4.0)))
    text: bytes = openmetrics.generate_latest(registry)  # type: ignore[no-untyped-call]
    assert b'requests_total{server_instance="w2"} 4.0' in text
    assert text.endswith(b"# EOF\n")


def test_what_no_one_can_read_is_left_out() -> None:
    families = merged([told(1, 3.0), Told("w2", "requests_total{ 3\n"), Told("w3", "<html>")])
    assert {s.labels["server_instance"] for f in families for s in f.samples} == {"w1"}


def test_a_family_of_another_kind_is_left_out() -> None:
    other = Told("w2", '# TYPE open_fds counter\nopen_fds_total{server_instance="w2"} 1\n')
    families = {family.name: family for family in merged([told(1, 3.0), other])}
    assert [s.labels["server_instance"] for s in families["open_fds"].samples] == ["w1"]


def test_workers_of_a_service_meet_in_a_private_folder(temporary: Path) -> None:
    first, second = Folder("cats", 9090), Folder("cats", 9090)
    assert first.path == second.path
    assert first.path.parent == temporary
    assert first.path.stat().st_mode & 0o777 == 0o700
    assert f"-{os.getuid()}-9090-" in first.path.name
    others = {Folder("dogs", 9090).path, Folder("cats", 9091).path}
    assert len(others | {first.path}) == 3


def test_a_folder_that_others_may_look_into_is_refused(temporary: Path) -> None:
    Folder("cats", 9090).path.chmod(0o750)
    with pytest.raises(PermissionError, match=r"metrics_shared: .* mode 0700, found drwxr-x---"):
        Folder("cats", 9090)


def test_a_link_in_place_of_the_folder_is_refused(temporary: Path) -> None:
    path = Folder("cats", 9090).path
    path.rename(temporary / "elsewhere")
    path.symlink_to(temporary / "elsewhere")
    with pytest.raises(PermissionError, match="metrics_shared"):
        Folder("cats", 9090)


@pytest.mark.skipif(os.getuid() != 0, reason="only root can give a folder away")
def test_somebody_elses_folder_is_refused(temporary: Path) -> None:
    os.chown(Folder("cats", 9090).path, 12345, 12345)
    with pytest.raises(PermissionError, match="of user 12345"):
        Folder("cats", 9090)


def test_a_worker_is_found_while_its_file_is_open(temporary: Path) -> None:
    folder = Folder("cats", 9090)
    own, own_path = folder.join("w1", 4001)
    other, other_path = folder.join("w2", 4002)
    assert list(folder.others(own_path)) == [("w2", 4002)]
    os.close(other)  # as the system does for a process that ends, however it ends
    assert list(folder.others(own_path)) == []
    assert not other_path.exists()
    assert own_path.exists()
    os.close(own)


def test_files_that_make_no_sense_are_passed_over(temporary: Path) -> None:
    folder = Folder("cats", 9090)
    number, path = folder.join("w1", 4001)
    path.write_text("[]")
    assert list(folder.others(folder.path / "own")) == []
    path.write_text("{")
    assert list(folder.others(folder.path / "own")) == []
    os.close(number)


def test_a_folder_that_was_removed_has_nobody_in_it(temporary: Path) -> None:
    folder = Folder("cats", 9090)
    folder.path.rmdir()
    assert list(folder.others(folder.path / "own")) == []
    folder.keep()


def test_files_in_use_never_grow_old(temporary: Path) -> None:
    folder = Folder("cats", 9090)
    number, path = folder.join("w1", 4001)
    turn = folder.open_turn()
    for kept in (path, folder.path / "turn"):
        os.utime(kept, (1, 1))
    list(folder.others(path))
    folder.keep()
    assert all(kept.stat().st_mtime > 1 for kept in (path, folder.path / "turn"))
    os.close(turn)
    os.close(number)
