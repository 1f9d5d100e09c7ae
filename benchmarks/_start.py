"""What headrace takes before anybody asks it anything, and what an idle connection takes."""

from __future__ import annotations

import contextlib
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from _processes import Failed, ProcessTree, children, free_port, rss_bytes, running
from _serving import ROOT, Connection, post
from _workloads import ITEM, Row

REQUEST = post("/predict", ITEM, "application/json")
CONNECTIONS = 1000
_IDLE_S = 1.0
_PATIENCE_S = 60.0


def measure(rounds: int) -> Row:
    """Rounds of all of it."""
    found = []
    for number in range(rounds):
        row = {"import_s": import_s(), "bare_python_s": python_s(), **serve()}
        print(f"start, round {number + 1}: {row}", flush=True)
        found.append(row)
    return {"rounds": found, "connections": CONNECTIONS}


def import_s() -> float:
    """`import headrace` in an interpreter of its own, without the interpreter's own start."""
    code = "import time; t = time.perf_counter(); import headrace; print(time.perf_counter() - t)"
    return float(subprocess.check_output([sys.executable, "-c", code], cwd=ROOT / "src"))


def python_s() -> float:
    """The interpreter's own start, which is in the time to the first answer as well."""
    begin = time.perf_counter()
    subprocess.run([sys.executable, "-c", "pass"], check=True)
    return time.perf_counter() - begin


def serve() -> Row:
    """`headrace serve` of a model that does nothing, in a worker process."""
    with tempfile.TemporaryDirectory(prefix="bench-") as folder:
        port = free_port()
        target = f"{ROOT}/examples/echo.py:Echo"
        command = [sys.executable, "-m", "headrace", "serve", target, "--executor", "process"]
        command += ["--port", str(port), "--log-level", "error"]
        env, log = {"PYTHONPATH": str(ROOT / "src")}, Path(folder) / "log"
        begin = time.perf_counter()
        with running(command, env=env, cwd=Path(folder), log=log) as tree:
            _first_answer(tree, port)
            first_answer_s = time.perf_counter() - begin
            time.sleep(_IDLE_S)
            idle = rss_bytes(tree.pid)
            worker = sum(map(rss_bytes, children(tree.pid)))
            maps = Path(f"/proc/{tree.pid}/maps").read_text()
            return {
                "first_answer_s": first_answer_s,
                "front_rss_bytes": idle,
                "worker_rss_bytes": worker,
                "front_has_numpy": "/numpy/" in maps,
                "front_has_pydantic": "/pydantic_core/" in maps,
                "connection_bytes": _connection_bytes(tree.pid, port),
            }


def _first_answer(tree: ProcessTree, port: int) -> None:
    until = time.monotonic() + _PATIENCE_S
    while time.monotonic() < until:
        tree.check()
        with contextlib.suppress(OSError), contextlib.closing(Connection(port)) as connection:
            if connection.ask(REQUEST)[0] == 200:
                return
        time.sleep(0.002)
    raise Failed(f"no answer within {_PATIENCE_S:g} s: {tree.last_words()}")


def _connection_bytes(front: int, port: int) -> float:
    """What a connection holds that has been answered once and stays open."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    with contextlib.ExitStack() as stack:

        def open_some(count: int) -> None:
            for _ in range(count):
                connection = stack.enter_context(contextlib.closing(Connection(port)))
                status, answer = connection.ask(REQUEST)
                if status != 200:
                    raise Failed(f"{status} {answer!r}")

        open_some(CONNECTIONS // 10)  # what the first ones make the process set up once
        before = rss_bytes(front)
        open_some(CONNECTIONS)
        time.sleep(_IDLE_S)
        return (rss_bytes(front) - before) / CONNECTIONS
