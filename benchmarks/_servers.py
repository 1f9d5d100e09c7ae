"""The servers that are compared: how each is started, asked and understood."""

from __future__ import annotations

import base64
import contextlib
import json
import os
import sys
import sysconfig
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from http.client import HTTPConnection, HTTPException
from pathlib import Path
from typing import Literal

from _environments import python_of, version_of
from _processes import Failed, ProcessTree, free_port, running, wait_until
from _serving import ROOT, post
from _wrk import program

PEERS = ROOT / "benchmarks" / "peers"
START_S = 120.0
TIMEOUT = "BENCH_TIMEOUT_S"
"""The variable that tells the peers that can be told when an answer is too late; default 60."""
JSON, BYTES = "application/json", "application/octet-stream"


@dataclass(frozen=True)
class Task:
    """A model, and what is asked of it.

    Attributes:
        target: `path.py:Name`, the path absolute.
        bodies: Items as headrace takes them.
        is_answer: Whether an answer is right for the body of that place.
        takes: What an item's body is.
        gives: What an answer is.
        max_batch_size: Of every server.
        env: Variables of every server.
    """

    target: str
    bodies: Sequence[bytes]
    is_answer: Callable[[int, bytes], bool]
    takes: Literal["json", "bytes"] = "json"
    gives: Literal["json", "bytes"] = "json"
    max_batch_size: int = 32
    env: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Place:
    """Where a server is to run: its port, and a folder of its own."""

    port: int
    folder: Path


Command = tuple[Sequence[str], Mapping[str, str]]


@dataclass(frozen=True)
class Server:
    """A server to compare.

    Attributes:
        name: As the tables have it.
        command: The program and its variables, for a task and a place.
        peer: Whose environment it needs; none for ours and for Debian's.
        path: Where it is asked.
        wrap: A body as this server takes it.
        unwrap: The item's answer inside its answer.
    """

    name: str
    command: Callable[[Task, Place], Command]
    peer: str = ""
    path: str = "/predict"
    wrap: Callable[[Task, bytes], bytes] = lambda _, body: body
    unwrap: Callable[[bytes], bytes] = lambda answer: answer

    def requests(self, task: Task) -> list[bytes]:
        """The task's bodies as whole requests to this server."""
        return [post(self.path, *self.request(task, body)) for body in task.bodies]

    def request(self, task: Task, body: bytes) -> tuple[bytes, str]:
        """A body as this server takes it, and its media type."""
        wrapped = self.wrap(task, body)
        return wrapped, BYTES if task.takes == "bytes" and wrapped is body else JSON

    def version(self) -> str:
        """Of the peer; empty for others."""
        return version_of(self.peer) if self.peer else ""


@dataclass(frozen=True)
class Started:
    """A server that answers right.

    Attributes:
        server: What it is.
        task: What it serves.
        tree: Its processes.
        port: On 127.0.0.1.
        requests: What it is sent.
    """

    server: Server
    task: Task
    tree: ProcessTree
    port: int
    requests: Sequence[bytes]

    def check(self, count: int = 3) -> None:
        """Ask the first few requests.

        Raises:
            Failed: An answer is wrong.
        """
        for place, body in enumerate(self.task.bodies[:count]):
            status, answer = self.ask(body)
            if status != 200 or not self.task.is_answer(place, self.server.unwrap(answer)):
                raise Failed(f"wrong answer: {status} {answer[:200]!r}")

    def ask(self, body: bytes) -> tuple[int, bytes]:
        """The status and answer for one of the task's bodies."""
        connection = HTTPConnection("127.0.0.1", self.port, timeout=START_S)
        with contextlib.closing(connection):
            wrapped, media_type = self.server.request(self.task, body)
            connection.request("POST", self.server.path, wrapped, {"Content-Type": media_type})
            response = connection.getresponse()
            return response.status, response.read()


@contextlib.contextmanager
def started(server: Server, task: Task) -> Iterator[Started]:
    """A server until the block ends, checked before it is handed over and once more at the end.

    Raises:
        Failed: It cannot be installed, does not start, or answers wrong.
    """
    with tempfile.TemporaryDirectory(prefix="bench-", ignore_cleanup_errors=True) as folder:
        place = Place(free_port(), Path(folder))
        command, env = server.command(task, place)
        log = place.folder / "log"
        with running(command, env={**task.env, **env}, cwd=place.folder, log=log) as tree:
            found = Started(server, task, tree, place.port, server.requests(task))
            try:
                wait_until(lambda: _answers(found), within_s=START_S)
            except Failed as error:
                raise Failed(f"{error}: {tree.last_words()}") from None
            found.check()
            yield found
            found.check()


def _answers(started: Started) -> bool:
    started.tree.check()
    try:
        return started.ask(started.task.bodies[0])[0] == 200
    except (OSError, HTTPException):
        return False


# Ours


def headrace(executor: str) -> Server:
    """`headrace serve`, as the tree that this file stands in has it."""

    def command(task: Task, place: Place) -> Command:
        options = ["--executor", executor, "--max-batch-size", str(task.max_batch_size)]
        options += ["--port", str(place.port), "--log-level", "error"]
        program = [sys.executable, "-m", "headrace", "serve", task.target]
        return [*program, *options], {"PYTHONPATH": str(ROOT / "src")}

    return Server(f"headrace, {executor}", command)


# Peers


def _order(task: Task, place: Place, wait_ms: int, workers: int = 1) -> dict[str, str]:
    # The scripts' folder holds what they share; `src` is needed by our models.
    return {
        "PYTHONPATH": f"{PEERS}{os.pathsep}{ROOT / 'src'}",
        "PYTHONSAFEPATH": "1",
        "BENCH_TARGET": task.target,
        "BENCH_PORT": str(place.port),
        "BENCH_BATCH": str(task.max_batch_size),
        "BENCH_WAIT_MS": str(wait_ms),
        "BENCH_WORKERS": str(workers),
        "BENCH_TAKES": task.takes,
        "BENCH_GIVES": task.gives,
    }


def mosec(wait_ms: int, workers: int = 1) -> Server:
    """Mosec; a window of 0 is none at all."""

    def command(task: Task, place: Place) -> Command:
        program = [str(python_of("mosec")), str(PEERS / "serve_mosec.py")]
        options = ["--address", "127.0.0.1", "--port", str(place.port), "--log-level", "error"]
        timeout_ms = 1000 * float(task.env.get(TIMEOUT, "60"))
        options += ["--path", str(place.folder / "mosec"), "--timeout", f"{timeout_ms:.0f}"]
        if wait_ms == 0:
            options += ["--wait", "0"]  # else a window of 0 means the default of 10 ms
        return [*program, *options], _order(task, place, wait_ms, workers)

    window = f"{wait_ms} ms window" if wait_ms else "no window"
    return Server(f"mosec, {window}", command, "mosec", path="/inference")


def litserve(wait_ms: int = 5) -> Server:
    """LitServe with one worker."""

    def command(task: Task, place: Place) -> Command:
        program = [str(python_of("litserve")), str(PEERS / "serve_litserve.py")]
        return program, _order(task, place, wait_ms)

    def wrap(task: Task, body: bytes) -> bytes:
        if task.takes == "json":
            return body
        return json.dumps({"content": base64.b64encode(body).decode()}).encode()

    return Server("LitServe", command, "litserve", wrap=wrap)


def bentoml() -> Server:
    """BentoML with one worker."""

    def command(task: Task, place: Place) -> Command:
        program = [str(python_of("bentoml")), "-m", "bentoml", "serve", "serve_bentoml:Served"]
        options = ["--working-dir", str(PEERS), "--host", "127.0.0.1", "--port", str(place.port)]
        env = {"BENTOML_HOME": str(place.folder), "BENTOML_DO_NOT_TRACK": "True"}
        return [*program, *options, "--quiet"], {**_order(task, place, 0), **env}

    return Server(
        "BentoML",
        command,
        "bentoml",
        wrap=lambda _, body: b'{"items": [%b]}' % body,
        unwrap=lambda answer: json.dumps(json.loads(answer)[0]).encode(),
    )


def ray_serve() -> Server:
    """Ray Serve with one replica."""

    def command(task: Task, place: Place) -> Command:
        program = [str(python_of("ray")), str(PEERS / "serve_ray.py")]
        env = {"RAY_USAGE_STATS_ENABLED": "0", "RAY_AUTH_MODE": "disabled"}
        return program, {**_order(task, place, 5), **env}

    return Server("Ray Serve", command, "ray", path="/")


def _v2(name: str, model: str, peer: str, command: Callable[[Task, Place], Command]) -> Server:
    def wrap(_: Task, body: bytes) -> bytes:
        item = {"name": "item", "shape": [1, 1], "datatype": "BYTES", "data": [body.decode()]}
        return json.dumps({"inputs": [item]}).encode()

    def unwrap(answer: bytes) -> bytes:
        data: str = json.loads(answer)["outputs"][0]["data"][0]
        return data.encode()

    return Server(name, command, peer, f"/v2/models/{model}/infer", wrap, unwrap)


def pytriton() -> Server:
    """PyTriton: Triton's own server with a Python backend."""

    def command(task: Task, place: Place) -> Command:
        program = [str(python_of("pytriton")), str(PEERS / "serve_pytriton.py")]
        # Triton's backend would load whatever libpython the system has of that minor version.
        libraries = str(sysconfig.get_config_var("LIBDIR"))
        env = {"PYTRITON_HOME": str(place.folder), "LD_LIBRARY_PATH": libraries}
        return program, {**_order(task, place, 5), **env}

    return _v2("PyTriton", "served", "pytriton", command)


def mlserver() -> Server:
    """MLServer with one worker process."""

    def command(task: Task, place: Place) -> Command:
        settings = {
            "host": "127.0.0.1",
            "http_port": place.port,
            "grpc_port": free_port(),
            "metrics_endpoint": None,
            "parallel_workers": 1,
            "debug": False,
        }
        model = {
            "name": "served",
            "implementation": "mlserver_runtime.Served",
            "max_batch_size": task.max_batch_size,
            "max_batch_time": 0.005,
        }
        (place.folder / "settings.json").write_text(json.dumps(settings))
        (place.folder / "model-settings.json").write_text(json.dumps(model))
        program = [str(python_of("mlserver").parent / "mlserver"), "start", "."]
        return program, _order(task, place, 5)

    return _v2("MLServer", "served", "mlserver", command)


def ventu() -> Server:
    """The published ventu under gunicorn: HTTP, no batches."""

    def command(task: Task, place: Place) -> Command:
        program = [str(python_of("ventu")), "-m", "gunicorn", "serve_ventu:app"]
        options = ["--bind", f"127.0.0.1:{place.port}", "--workers", "1", "--threads", "8"]
        options += ["--keep-alive", "60", "--log-level", "error"]
        env = {"PYTHONPATH": str(PEERS), "HOME": str(place.folder)}  # not `src`: ours has a ventu
        return [*program, *options], env

    return Server("ventu 0.4 (no batches)", command, "ventu", path="/inference")


def virtex() -> Server:
    """The published virtex, wherever its package can be had."""

    def command(task: Task, place: Place) -> Command:
        python_of("virtex")
        raise Failed("installed, and no script here knows how to serve with it yet")

    return Server("virtex", command, "virtex")


def nginx() -> Server:
    """One process that gives a fixed answer: what HTTP itself takes."""

    def command(task: Task, place: Place) -> Command:
        answer = task.bodies[0].decode().replace("'", "\\'")
        paths = "".join(
            f"{name}_temp_path {place.folder}/{name};"
            for name in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
        )
        (place.folder / "nginx.conf").write_text(
            f"daemon off; master_process off; pid {place.folder}/pid; error_log stderr error;"
            "events { worker_connections 4096; }"
            f"http {{ access_log off; keepalive_requests 1000000000; {paths}"
            f"server {{ listen 127.0.0.1:{place.port}; default_type application/json;"
            f"location / {{ return 200 '{answer}'; }} }} }}"
        )
        return [program("nginx"), "-p", str(place.folder), "-c", "nginx.conf"], {}

    return Server("nginx, fixed answer", command)


def bare() -> Server:
    """A uvloop protocol that gives each body back, and knows no more of HTTP than that takes."""

    def command(task: Task, place: Place) -> Command:
        return [sys.executable, str(ROOT / "benchmarks" / "_bare.py"), str(place.port)], {}

    return Server("bare asyncio echo", command)
