"""Output that nobody may be reading."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from headrace.outlet import Outlet


@pytest.fixture
def pipe() -> Iterator[tuple[int, int]]:
    """A pipe's ends, for reading and for writing."""
    ends = os.pipe()
    yield ends
    for fd in ends:
        os.close(fd)


def fill(outlet: Outlet, text: str) -> int:
    """Write until nothing more is taken; how often that was."""
    count = 0
    while outlet.write(text):
        count += 1
    return count


def test_what_is_read_is_written_as_it_is(pipe: tuple[int, int]) -> None:
    outlet = Outlet(pipe[1])
    assert outlet.write("wörd \ud800\n")
    assert os.read(pipe[0], 100) == "wörd \\ud800\n".encode()
    assert outlet.lost == 0
    outlet.close()


@pytest.mark.parametrize("size", [10, 3001, 100_000])
def test_a_full_pipe_is_not_waited_for_and_no_text_is_cut(pipe: tuple[int, int], size: int) -> None:
    outlet, text = Outlet(pipe[1]), "x" * (size - 1) + "\n"
    count = fill(outlet, text)
    assert not outlet.write(text)
    assert outlet.lost == 2
    assert os.get_blocking(pipe[1]), "others may write there too"
    os.set_blocking(pipe[0], False)
    got = b""
    while len(got) < count * size:
        got += os.read(pipe[0], 1 << 16)
        outlet.write(text)
    assert set(got.split(b"\n")[:-1]) == {b"x" * (size - 1)}
    outlet.close(0.0)


def test_a_pipe_that_cannot_be_opened_anew_is_not_waited_for_either(
    pipe: tuple[int, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> int:
        raise PermissionError

    monkeypatch.setattr("headrace.outlet.os.open", refuse)
    outlet = Outlet(pipe[1])
    assert fill(outlet, "x" * 10_000) >= 6
    assert outlet.lost == 1
    os.read(pipe[0], 1 << 16)
    assert outlet.write("x")


def test_a_full_socket_is_not_waited_for() -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        outlet = Outlet(ours.fileno())
        assert fill(outlet, "x" * 1000) > 1
        theirs.recv(1 << 20)
        assert outlet.write("y")


@pytest.mark.parametrize("name", ["/dev/full", None])
def test_what_cannot_be_written_is_counted(name: str | None) -> None:
    fd = os.open(name or os.devnull, os.O_WRONLY)
    if name is None:
        os.close(fd)
    outlet = Outlet(fd)
    assert not outlet.write("x")
    assert outlet.lost == 1
    outlet.close()
    if name is not None:
        os.close(fd)


def test_a_reader_that_left_costs_the_text_only(pipe: tuple[int, int]) -> None:
    outlet = Outlet(pipe[1])
    assert outlet.write("x")
    reading = os.dup(pipe[0])
    os.dup2(os.open(os.devnull, os.O_RDONLY), pipe[0])
    os.close(reading)
    assert not outlet.write("y")


def test_a_file_that_is_put_in_its_place_is_written_to(
    pipe: tuple[int, int], tmp_path: Path
) -> None:
    outlet = Outlet(pipe[1])
    fill(outlet, "x" * 100)
    with open(tmp_path / "log", "ab") as log:
        os.dup2(log.fileno(), pipe[1])
    assert outlet.write("a\n") and outlet.write("b\n")
    assert (tmp_path / "log").read_text() == "a\nb\n"


def test_the_rest_of_the_last_text_is_written_at_the_end(pipe: tuple[int, int]) -> None:
    outlet = Outlet(pipe[1])
    assert outlet.write("x" * 70_000)
    assert len(os.read(pipe[0], 60_000)) == 60_000
    outlet.close()
    assert len(os.read(pipe[0], 60_000)) == 10_000


def test_closed_standard_files_are_filled() -> None:
    source = (
        "import os; from headrace.outlet import fill_closed; fill_closed();"
        "print([os.readlink(f'/proc/self/fd/{n}') for n in (0, 2)], os.get_inheritable(2))"
    )
    command = f"exec '{sys.executable}' -c \"$1\" <&- 2>&-"
    ran = subprocess.run(
        ["sh", "-c", command, "sh", source], capture_output=True, text=True, timeout=30
    )
    assert ran.stdout == "['/dev/null', '/dev/null'] True\n"
