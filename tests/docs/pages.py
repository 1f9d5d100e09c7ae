"""Runs what a page of the documentation tells its readers to do.

A page is run from top to bottom in one folder. What its fenced blocks mean is in their first line:

- ```` ```python NAME.py ````: the file NAME.py. Any other name in that place is a file likewise.
- ```` ```python ````: a program that must end well.
- ```` ```console ````: commands after `$ `, each with what it prints. `...` stands for any text,
  and on a line of its own for any lines. `headrace serve` runs until the page's end or its next
  `headrace serve`; then it gets ^C and must drain and exit with 0. So does `headrace worker`, at
  the page's end, what ends with `&`, and other servers (`gunicorn`, `uvicorn`, `headrace
  batching`), each at the next of them.
- ```` ```json ````: must be JSON. Other blocks are for reading.

Pages say port 8000, 7317 for workers, and for others' servers 8081 and for their metrics 9090;
free ones are used, in files too, and what is printed is changed back.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import NamedTuple, Self

import pytest

ROOT = Path(__file__).parents[2]
TIMEOUT_S = 60.0
PORT = "8000"
WORKERS_PORT = "7317"
OTHERS_PORTS = ("8081", "9090")
OTHERS = ("gunicorn ", "uvicorn ", "headrace batching ")

needs_curl = pytest.mark.skipif(
    shutil.which("curl") is None and "CI" not in os.environ, reason="there is no curl here"
)

_FENCE = re.compile(r"^```(?P<info>\S.*)\n(?P<body>(?:.*\n)*?)```$", re.MULTILINE)


class Block(NamedTuple):
    """A fenced block: its language, the file that it is, if it is one, and where it stands."""

    language: str
    file: str
    body: str
    where: str


class Step(NamedTuple):
    """A command of a console block, and what it is said to print."""

    command: str
    printed: str


def blocks_of(page: Path) -> Iterator[Block]:
    """The fenced blocks of a page, in order."""
    text = page.read_text(encoding="utf-8")
    for match in _FENCE.finditer(text):
        language, _, file = match["info"].partition(" ")
        line = text.count("\n", 0, match.start()) + 1
        yield Block(language, file.strip(), match["body"], f"{page.name}:{line}")


def steps_of(block: Block) -> Iterator[Step]:
    """The commands of a console block."""
    for part in re.split(r"^\$ ", block.body, flags=re.MULTILINE)[1:]:
        command, _, printed = part.partition("\n")
        yield Step(command, printed)


def matches(expected: str, printed: str) -> bool:
    """Whether a text is as a page says, where `...` stands for anything."""
    pattern = ""
    for line in expected.strip().splitlines(keepends=True):
        if line.strip() == "...":
            pattern += r"(?:.*\n)*?.*"
        else:
            pattern += ".*".join(map(re.escape, re.split(r" ?\.\.\. ?", line)))
    return re.fullmatch(pattern, printed.strip()) is not None


def replaced(text: str, words: Mapping[str, str]) -> str:
    """A text with each of some words replaced, all at once."""
    return re.sub(rf"\b({'|'.join(words)})\b", lambda match: words[match[1]], text)


class Reader:
    """Somebody who does in an empty folder what pages say.

    Args:
        folder: The folder.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._server: subprocess.Popen[bytes] | None = None
        self._workers: list[subprocess.Popen[bytes]] = []
        self._port = _free_port()
        self._workers_port = _free_port()
        self._others = {port: str(_free_port()) for port in OTHERS_PORTS}
        self._others_server: subprocess.Popen[bytes] | None = None
        (folder / ".curlrc").write_text("silent\nshow-error\n")
        scripts = str(Path(sys.executable).parent)
        self._environ = {
            "PATH": os.pathsep.join((scripts, os.environ["PATH"])),
            "HOME": str(folder),
            "CURL_HOME": str(folder),
            "COLUMNS": "200",
            "LC_ALL": "C.UTF-8",
            "PYTHONDONTWRITEBYTECODE": "1",
        }

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        for process in filter(None, (self._server, self._others_server, *self._workers)):
            with _killed_at_last(process):
                process.terminate()  # gunicorn's workers outlive one that is killed
                with contextlib.suppress(subprocess.TimeoutExpired):
                    process.wait(10)

    def follow(self, page: Path) -> None:
        """Do all that a page says."""
        for block in blocks_of(page):
            self.do(block)
        self.stop_server()
        self.stop_workers()
        self.stop_others_server()

    def do(self, block: Block) -> None:
        """Do what one block says."""
        if block.file:
            (self._folder / block.file).write_text(replaced(block.body, self._others))
        elif block.language == "python":
            program = replaced(block.body, self._others)
            printed, code = self._run([sys.executable, "-c", program])
            assert code == 0, f"{block.where}:\n{printed}"
        elif block.language == "console":
            for step in steps_of(block):
                self._type(step, block.where)
        elif block.language == "json":
            json.loads(block.body)

    def stop_server(self) -> None:
        """^C in the server's terminal."""
        server, self._server = self._server, None
        if server is not None:
            with _killed_at_last(server):
                server.send_signal(signal.SIGINT)
                assert server.wait(TIMEOUT_S) == 0, self._server_log()

    @property
    def _ports(self) -> dict[str, str]:
        """What is used for each port that pages say."""
        return {PORT: str(self._port), WORKERS_PORT: str(self._workers_port), **self._others}

    def stop_workers(self) -> None:
        """^C in their terminals."""
        workers, self._workers = self._workers, []
        for worker in workers:
            with _killed_at_last(worker):
                worker.send_signal(signal.SIGINT)
                assert worker.wait(TIMEOUT_S) == 0, (self._folder / "worker.err").read_text()

    def stop_others_server(self) -> None:
        """End a server that is not ours, as its documentation says."""
        server, self._others_server = self._others_server, None
        if server is not None:
            with _killed_at_last(server):
                server.terminate()
                # uvicorn ends by the signal that it was told to stop by.
                assert server.wait(TIMEOUT_S) in (0, -signal.SIGTERM), self._server_log()

    def _type(self, step: Step, where: str) -> None:
        command = replaced(step.command, self._ports)
        if command.endswith(" &"):
            self._workers.append(self._start(command.removesuffix(" &"), "worker.err"))
            printed = ""
        elif command.startswith("headrace serve ") and not step.printed.startswith("headrace: "):
            self.stop_server()
            printed = self._serve(command)
        elif command.startswith(OTHERS):
            self.stop_others_server()
            self._others_server = self._start(command, "server.err")
            self._wait_for_port(int(self._others[OTHERS_PORTS[0]]), self._others_server)
            printed = ""
        elif command.startswith("headrace worker ") and not step.printed:
            self._workers.append(self._start(command, "worker.err"))
            printed = ""
        else:
            printed, _ = self._run(["bash", "-c", command])
        printed = replaced(printed, {own: said for said, own in self._ports.items()})
        assert matches(step.printed, printed), (
            f"{where}: $ {step.command}\n"
            f"--- the page says:\n{step.printed}\n"
            f"--- but it is:\n{printed}"
        )

    def _run(self, command: list[str]) -> tuple[str, int]:
        done = subprocess.run(
            command,
            cwd=self._folder,
            env=self._environ,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            timeout=TIMEOUT_S,
            check=False,
        )
        return done.stdout.decode().replace("\r\n", "\n"), done.returncode

    def _serve(self, command: str) -> str:
        """Start a server; what it has printed when it is ready."""
        self._port = _free_port()
        output = self._folder / "server.out"
        with output.open("wb") as out, (self._folder / "server.err").open("wb") as err:
            self._server = subprocess.Popen(
                ["bash", "-c", f"exec {command}"],
                cwd=self._folder,
                env={**self._environ, "HEADRACE_PORT": str(self._port)},
                stdout=out,
                stderr=err,
            )
        until = time.monotonic() + TIMEOUT_S
        while "stop: ^C\n" not in output.read_text():
            assert self._server.poll() is None and time.monotonic() < until, self._server_log()
            time.sleep(0.02)
        return output.read_text()

    def _start(self, command: str, log_name: str) -> subprocess.Popen[bytes]:
        with (self._folder / log_name).open("ab") as log:
            return subprocess.Popen(
                ["bash", "-c", f"exec {command}"],
                cwd=self._folder,
                env=self._environ,
                stdout=log,
                stderr=log,
            )

    def _wait_for_port(self, port: int, process: subprocess.Popen[bytes]) -> None:
        until = time.monotonic() + TIMEOUT_S
        while True:
            assert process.poll() is None and time.monotonic() < until, self._server_log()
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port)):
                return
            time.sleep(0.02)

    def _server_log(self) -> str:
        return (self._folder / "server.err").read_text()


@contextlib.contextmanager
def _killed_at_last(process: subprocess.Popen[bytes]) -> Iterator[None]:
    try:
        yield
    finally:
        process.kill()
        process.wait()


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port
