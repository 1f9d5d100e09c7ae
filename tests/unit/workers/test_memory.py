"""Memory that two processes share: mapped by both sides, of one size, without a name."""

from __future__ import annotations

import mmap
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import suppress

import pytest

from headrace.workers.memory import SharedMemory, create_segments

SIZE = 2 * mmap.PAGESIZE


@pytest.fixture
def fd() -> Iterator[int]:
    fd = create_segments(SIZE)
    yield fd
    os.close(fd)


def test_what_one_side_writes_the_other_reads(fd: int) -> None:
    front, worker = SharedMemory(fd, "front"), SharedMemory(fd, "worker")
    assert {len(view) for side in (front, worker) for view in side.memory} == {SIZE}
    front.memory.outgoing[:3] = b"ask"
    worker.memory.outgoing[:6] = b"answer"
    assert bytes(worker.memory.incoming[:3]) == b"ask"
    assert bytes(front.memory.incoming[:6]) == b"answer"
    front.close()
    worker.close()


@pytest.mark.parametrize("size", [0, SIZE, 4 * SIZE])
def test_its_size_does_not_change(fd: int, size: int) -> None:
    with pytest.raises(PermissionError):
        os.ftruncate(fd, size)


def test_it_takes_no_memory_before_it_is_written_to() -> None:
    fd = create_segments(1024**3)
    shared = SharedMemory(fd, "front")
    assert os.fstat(fd).st_blocks == 0
    shared.memory.outgoing[0] = 1
    assert 0 < os.fstat(fd).st_blocks * 512 <= 2 * 1024**2
    shared.close()
    os.close(fd)


def test_it_has_no_name_and_is_not_inherited(fd: int) -> None:
    assert os.readlink(f"/proc/self/fd/{fd}").startswith("/memfd:headrace-bodies (deleted)")
    assert not os.get_inheritable(fd)


def test_nothing_is_open_once_it_is_closed(fd: int) -> None:
    before = os.listdir("/proc/self/fd")
    shared = SharedMemory(fd, "front")
    memory = shared.memory
    shared.close()
    assert os.listdir("/proc/self/fd") == before
    with pytest.raises(ValueError, match="released"):
        memory.outgoing[:1] = b"a"


def test_a_part_that_somebody_holds_outlives_it(fd: int) -> None:
    shared = SharedMemory(fd, "front")
    shared.memory.outgoing[:3] = b"ask"
    part = shared.memory.outgoing[:3]
    shared.close()
    assert bytes(part) == b"ask"
    with suppress(BufferError):
        part.release()


FAULTS = """
import resource, sys
from headrace.workers.heap import keep_freed_memory
if sys.argv[1] == "kept":
    keep_freed_memory()
def rounds(count):
    for _ in range(count):
        bodies = [b"1" * 600_000 for _ in range(8)]
        del bodies
rounds(10)
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
rounds(100)
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


def faults(how: str, **environ: str) -> int:
    """The pages that a process gets from the system for bodies that come and go."""
    command = [sys.executable, "-c", FAULTS, how]
    clean = {name: value for name, value in os.environ.items() if "MALLOC" not in name.upper()}
    done = subprocess.run(command, env=clean | environ, check=True, capture_output=True, text=True)
    return int(done.stdout)


@pytest.mark.skipif(
    not hasattr(os, "confstr") or "glibc" not in (os.confstr("CS_GNU_LIBC_VERSION") or ""),
    reason="of glibc",
)
def test_the_heap_keeps_what_bodies_come_and_go_by() -> None:
    plain = faults("plain")
    assert plain > 10_000
    assert faults("kept") < plain / 100
    assert faults("kept", MALLOC_TRIM_THRESHOLD_="131072", MALLOC_MMAP_THRESHOLD_="131072") > 10_000
