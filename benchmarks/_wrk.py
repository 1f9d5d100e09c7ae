"""The one closed-loop load generator: wrk, from Debian's package of that name."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from _bodies import write_bodies
from _processes import Failed, Surroundings

_SCRIPT = Path(__file__).resolve().parent / "wrk.lua"


@dataclass(frozen=True)
class Load:
    """What came of a closed loop.

    Attributes:
        answers: How many came, of 2xx or 3xx.
        took_s: In what time.
        p50_s: Half of the answers took at most this.
        p90_s: The same for 90 %.
        p99_s: The same for 99 %.
        max_s: The longest.
        cpu_s: User and system time of the server's processes meanwhile.
        others_cores: How many cores were taken by neither the server nor wrk.
    """

    answers: int
    took_s: float
    p50_s: float
    p90_s: float
    p99_s: float
    max_s: float
    cpu_s: float
    others_cores: float

    @property
    def per_second(self) -> float:
        return self.answers / self.took_s

    @property
    def cpu_us(self) -> float:
        """CPU time of the server an answer, in microseconds."""
        return 1e6 * self.cpu_s / self.answers

    def to_json(self) -> dict[str, float]:
        """The figures, in microseconds where they are times of one request."""
        return {
            "answers": self.answers,
            "took_s": round(self.took_s, 4),
            "per_second": round(self.per_second, 1),
            "cpu_us": round(self.cpu_us, 2),
            "p50_us": round(1e6 * self.p50_s, 1),
            "p90_us": round(1e6 * self.p90_s, 1),
            "p99_us": round(1e6 * self.p99_s, 1),
            "max_us": round(1e6 * self.max_s, 1),
            "others_cores": self.others_cores,
        }


def load(
    port: int,
    requests: Sequence[bytes],
    *,
    connections: int,
    seconds: int,
    cpu_s: Callable[[], float],
) -> Load:
    """Keep so many connections busy, each with one request at a time.

    wrk runs on one thread, beside the server and in no account of it. It corrects its percentiles
    for requests that a stall kept from being sent.

    Args:
        port: On 127.0.0.1.
        requests: Sent in turn, whole: head and body.
        connections: How many.
        seconds: How long.
        cpu_s: Reads the server's CPU time, before and after.

    Raises:
        Failed: An answer was an error or did not come, or nothing was answered at all.
    """
    with tempfile.NamedTemporaryFile() as file:
        write_bodies(Path(file.name), requests)
        command = [
            program("wrk"), "-t1", f"-c{connections}", f"-d{seconds}s", "--timeout", "60s",
            "-s", str(_SCRIPT), f"http://127.0.0.1:{port}",
        ]  # fmt: skip
        before_s, surroundings = cpu_s(), Surroundings()
        done = subprocess.run(
            command, env={**os.environ, "REQUESTS": file.name}, capture_output=True, text=True
        )
        spent_s = cpu_s() - before_s
        others_cores = surroundings.others_cores(spent_s)
    if done.returncode:
        raise Failed(f"wrk: {done.stderr or done.stdout}")
    found = json.loads(done.stdout.strip().rpartition("\n")[2])
    if found["failed"] or not found["answers"]:
        raise Failed(f"{found['failed']} of {found['answers']} requests failed")
    times = {f"{name}_s": found[f"{name}_us"] / 1e6 for name in ("p50", "p90", "p99", "max")}
    return Load(
        found["answers"],
        found["took_us"] / 1e6,
        **times,
        cpu_s=spent_s,
        others_cores=others_cores,
    )


def program(name: str) -> str:
    """The path of a program of Debian's package of the same name.

    Raises:
        SystemExit: It is not installed; the message says how it is.
    """
    found = shutil.which(name) or shutil.which(name, path="/usr/sbin:/sbin")
    if found is None:
        raise SystemExit(f"{name} is not installed: apt-get install {name}")
    return found
