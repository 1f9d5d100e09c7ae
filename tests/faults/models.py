"""Models that misbehave on command. Signals to and from the test are files of a folder."""

from __future__ import annotations

import asyncio
import ctypes
import itertools
import locale
import os
import resource
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Hashable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from prometheus_client import Counter

from headrace import Batching, Model, Payload

FOLDER = "E2E_FOLDER"
ON_IMPORT = "FAULT_ON_IMPORT"
ON_LOAD = "FAULT_ON_LOAD"
MIB = 1 << 20

_LIBC = ctypes.CDLL(None)
_LIBC.malloc.restype = ctypes.c_void_p
_LIBC.signal.argtypes = (ctypes.c_int, ctypes.c_void_p)
_SIG_IGN = 1
_LIBC.memset.argtypes = (ctypes.c_void_p, ctypes.c_int, ctypes.c_size_t)


def folder() -> Path:
    return Path(os.environ[FOLDER])


def note(name: str, text: object) -> None:
    """Add a line to a file of the folder; whole, whoever else writes."""
    with (folder() / name).open("a") as file:
        file.write(f"{text}\n")


def wait_for(name: str, at_most_s: float = 60.0) -> None:
    ends = time.monotonic() + at_most_s
    while not (folder() / name).exists() and time.monotonic() < ends:
        time.sleep(0.002)


def be_killed() -> None:
    """Name this process as the one to kill, and wait for it."""
    note("victims", os.getpid())
    time.sleep(60.0)


def hang() -> None:
    """Sleep in C, with the interpreter's lock held."""
    note("hung", os.getpid())
    ctypes.PyDLL(None).sleep(1000)


def sleep() -> None:
    """Sleep, and let others have the interpreter."""
    note("hung", os.getpid())
    time.sleep(1000)


def allocate(then: Callable[[], object]) -> None:
    """Run into a limit of memory a little above what is in use."""
    used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    before = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (used + 16 * MIB, before[1]))
    try:
        then()
    finally:
        resource.setrlimit(resource.RLIMIT_AS, before)


def without_a_check() -> None:
    """Take memory as C code does that does not look whether it got any."""
    _LIBC.memset(_LIBC.malloc(256 * MIB), 0, 16)


def fail() -> None:
    raise ValueError("as it was told")


def flood() -> None:
    for _ in range(200):
        sys.stdout.write("x" * 1000 + "\n")
        sys.stderr.write("y" * 1000 + "\n")
    os.write(1, bytes(range(256)) * 16)
    os.write(2, bytes(range(256)) * 16)


def spawn() -> None:
    """Leave two children behind: one as usual, one that holds every descriptor."""
    for close_fds in (True, False):
        child = subprocess.Popen(["sleep", "1000"], close_fds=close_fds)
        note("children", child.pid)


def fork() -> None:
    if not (child := os.fork()):
        time.sleep(1000)
        os._exit(0)
    note("children", child)


def ignore_signals() -> None:
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGCHLD, signal.SIGPIPE, signal.SIGHUP):
        _LIBC.signal(number, _SIG_IGN)  # Python's own serves the main thread only


def close_descriptors() -> None:
    os.closerange(3, 51)


def start_threads() -> None:
    for _ in range(4):
        threading.Thread(target=time.sleep, args=(1000,)).start()


def change_asyncio() -> None:
    with suppress(AttributeError):  # gone in some later Python
        asyncio.set_event_loop_policy(asyncio.DefaultEventLoopPolicy())
    asyncio.run(asyncio.sleep(0))


def change_locale() -> None:
    for name in ("de_DE.UTF-8", "C.UTF-8", "C"):
        with suppress(locale.Error):
            locale.setlocale(locale.LC_ALL, name)


def change_folder() -> None:
    os.chdir("/")
    os.umask(0o777)


FAULTS: Mapping[str, Callable[[], Any]] = {
    "": lambda: None,
    "raise": fail,
    "exit": lambda: os._exit(7),
    "segfault": lambda: ctypes.string_at(0),
    "abort": os.abort,
    "killed": be_killed,
    "kills itself": lambda: os.kill(os.getpid(), signal.SIGKILL),
    "memory error": lambda: allocate(lambda: bytearray(256 * MIB)),
    "memory death": lambda: allocate(without_a_check),
    "hang": hang,
    "sleep": sleep,
    "sys.exit": lambda: sys.exit(3),
    "interrupt": lambda: signal.raise_signal(signal.SIGINT),
    "flood": flood,
    "spawn": spawn,
    "fork": fork,
    "ignore signals": ignore_signals,
    "close descriptors": close_descriptors,
    "threads": start_threads,
    "asyncio": change_asyncio,
    "locale": change_locale,
    "folder": change_folder,
}

if FOLDER in os.environ:  # the tests import this file too
    note("imports", os.getpid())
    FAULTS[os.environ.get(ON_IMPORT, "")]()


@dataclass
class Order:
    """What the model shall do with an item: `do` is a stage and a fault, `predict: exit`."""

    n: int
    do: str = ""
    s: float = 0.0

    def __post_init__(self) -> None:
        self.meet("decode")

    def meet(self, stage: str) -> None:
        at, _, fault = self.do.partition(": ")
        if at == stage:
            FAULTS[fault]()


class Faulty(Model):
    """Doubles a number, unless it is told to do worse."""

    batching: ClassVar = Batching(max_batch_size=8)
    examples: ClassVar = [{"n": 0}]

    def load(self) -> None:
        note("loads", os.getpid())
        for fault in os.environ.get(ON_LOAD, "").split(", "):
            FAULTS[fault]()

    def preprocess(self, order: Order) -> Order:
        if order.do == "linger in preprocess" and not (folder() / "lingers").exists():
            note("lingers", os.getpid())
            time.sleep(60.0)
        order.meet("preprocess")
        return order

    def predict(self, batch: list[Order]) -> list[int]:
        for order in batch:
            if order.do == "wait":
                note("waits", order.n)
                wait_for("go")
            elif order.do == "note":
                note("ran", order.n)
            elif order.do == "after the lingering":
                wait_for("lingers")
                order.do = "predict: " + (folder() / "fault").read_text()
            order.meet("predict")
        time.sleep(max(order.s for order in batch))
        return [2 * order.n for order in batch]

    def unload(self) -> None:
        note("unloads", os.getpid())


class Quiet(Faulty):
    """Another model of the same server, which nobody tells to do anything."""


class SlowToKey(Faulty):
    """Keeps the event loop from going on while it is asked for a key, if it is told so."""

    def key(self, payload: Payload) -> Hashable:
        if b"wait" in payload.body:
            note("keys", os.getpid())
            wait_for("go")
        return None


class SlowToLoad(Faulty):
    """Takes until it is told."""

    def load(self) -> None:
        note("loads", os.getpid())
        wait_for("loaded")


class SlowToWarmUp(Faulty):
    """Is loaded at once, and takes until it is told for its first example."""

    examples: ClassVar = [{"n": 0, "do": "warm up"}]

    def predict(self, batch: list[Order]) -> list[int]:
        if batch[0].do == "warm up":
            note("warms up", os.getpid())
            wait_for("warm")
        return super().predict(batch)


class SlowSecond(Faulty):
    """Every worker but the first takes until it is told."""

    def load(self) -> None:
        is_first = not (folder() / "loads").exists()
        note("loads", os.getpid())
        if not is_first:
            wait_for("loaded")


class HangsOnLoad(Faulty):
    def load(self) -> None:
        hang()


class FailsToWarmUp(Faulty):
    examples: ClassVar = [{"n": 0, "do": "predict: raise"}]


class DiesInWarmUp(Faulty):
    examples: ClassVar = [{"n": 0, "do": "predict: exit"}]


class FailsLater(Faulty):
    """Its first worker loads; the others die of it for as long as they are told to."""

    def load(self) -> None:
        is_first = not (folder() / "loads").exists()
        note("loads", os.getpid())
        if not is_first and not (folder() / "healed").exists():
            os._exit(9)


class Paced(Model):
    """A millisecond of preprocess an item, two to a batch, and five of predict."""

    batching: ClassVar = Batching(max_batch_size=2)
    examples: ClassVar = [{"n": 0}]

    def preprocess(self, order: Order) -> Order:
        time.sleep(0.001)
        return order

    def predict(self, batch: list[Order]) -> list[int]:
        time.sleep(0.005)
        return [2 * order.n for order in batch]


class Steady(Faulty):
    """Five milliseconds a batch."""

    def predict(self, batch: list[Order]) -> list[int]:
        time.sleep(0.005)
        return [2 * order.n for order in batch]


class Leaky(Faulty):
    """Keeps a megabyte of each batch."""

    kept: ClassVar[list[bytes]] = []
    _next = itertools.count(1)

    def predict(self, batch: list[Order]) -> list[int]:
        self.kept.append(next(self._next).to_bytes(4, "little") * (MIB // 4))
        return super().predict(batch)


class Counting(Faulty):
    """Counts the items that its workers have run, in a metric of its own."""

    def load(self) -> None:
        super().load()
        self.ran = Counter("fault_items", "Items that were run")

    def predict(self, batch: list[Order]) -> list[int]:
        outputs = super().predict(batch)
        self.ran.inc(sum(order.n > 0 for order in batch))
        return outputs


class Wordy(Faulty):
    """Fails, and says what it was told to in the words of its caller."""

    def predict(self, batch: list[Order]) -> list[int]:
        for order in batch:
            if order.do:
                raise ValueError(order.do)
        return super().predict(batch)
