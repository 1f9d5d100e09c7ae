"""Real models over HTTP, against the same models called with full batches and no server."""

from __future__ import annotations

import json
import math
import random
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

from _bodies import real_digits, real_files, real_sentences, write_bodies
from _processes import Failed
from _servers import BYTES, JSON, Started, Task, headrace, litserve, mosec
from _serving import ROOT
from _workloads import Row, Workload, closed, warm

CONNECTIONS = (64, 128)
_TOLERANCE = 0.02  # of a probability: networks add up in another order in another batch
_TIMES = 2  # as long as the other loads: these are slow


def real(name: str, folder: Path) -> Workload:
    """One of the examples: filetype, embedding or digits."""
    target, bodies_of, takes = MODELS[name]
    target, bodies = f"{ROOT}/examples/{target}", bodies_of()
    random.Random(0).shuffle(bodies)  # so that those of any few seconds are much like all
    file = folder / f"bodies-{name}"
    write_bodies(file, bodies)

    def alone(seconds: int) -> Row:
        media_type = BYTES if takes == "bytes" else JSON
        script = str(ROOT / "benchmarks" / "_offline.py")
        done = subprocess.run(
            [sys.executable, script, target, str(file), media_type, str(_TIMES * seconds)],
            capture_output=True,
            text=True,
        )
        if done.returncode:
            raise Failed(done.stderr.strip().rpartition("\n")[2])
        found: Row = json.loads(done.stdout)
        return found

    first = alone(0)
    expected = [json.loads(answer) for answer in first["answers"]]

    def measure(up: Started, _: Row, seconds: int) -> Row:
        warm(up, 64)
        return {str(c): closed(up, c, _TIMES * seconds) for c in CONNECTIONS}

    task = Task(
        target,
        bodies,
        lambda place, answer: alike(json.loads(answer), expected[place]),
        takes=takes,
        max_batch_size=first["max_batch_size"],
    )
    servers = (headrace("process"), headrace("thread"), mosec(5), mosec(0), litserve())
    return Workload(f"real-{name}", task, servers, measure, alone)


def alike(one: Any, other: Any) -> bool:
    """Whether two values of JSON are the same but for little in their numbers."""
    if isinstance(one, dict) and isinstance(other, dict):
        return one.keys() == other.keys() and all(alike(one[key], other[key]) for key in one)
    if isinstance(one, list) and isinstance(other, list):
        return len(one) == len(other) and all(map(alike, one, other))
    if isinstance(one, float) or isinstance(other, float):
        return math.isclose(one, other, abs_tol=_TOLERANCE)
    return bool(one == other)


MODELS: dict[str, tuple[str, Callable[[], list[bytes]], Literal["json", "bytes"]]] = {
    "filetype": ("filetype.py:FileType", real_files, "bytes"),
    "embedding": ("embedding.py:Embedding", real_sentences, "json"),
    "digits": ("digits.py:Digits", real_digits, "json"),
}
