"""A user's copy of an example: the commands that its programs name, run in a folder of its own."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from .pages import TIMEOUT_S

_COMMAND = re.compile(r"^    ((?:gunicorn|headrace|python) .*)$", re.MULTILINE)


class Copy:
    """A copy of an example.

    Args:
        source: The example's folder.
        path: The copy.
    """

    def __init__(self, source: Path, path: Path) -> None:
        self.name = source.name
        self.path = path
        shutil.copytree(source, path, ignore=shutil.ignore_patterns("__pycache__"))
        self.environ = {
            "PATH": os.pathsep.join((str(Path(sys.executable).parent), os.environ["PATH"])),
            "HOME": str(path),  # gunicorn has a socket there
            "LC_ALL": "C.UTF-8",
            "PYTHONDONTWRITEBYTECODE": "1",
        }

    def commands(self, program: str) -> list[str]:
        """What a program's first lines say to type."""
        return _COMMAND.findall((self.path / f"{program}.py").read_text())

    def run(self, command: str, *options: str) -> tuple[int, str]:
        """A command's exit code, and what it prints."""
        done = subprocess.run(
            [*shlex.split(command), *options],
            cwd=self.path,
            env=self.environ,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=TIMEOUT_S,
            check=False,
        )
        return done.returncode, done.stdout

    @contextmanager
    def running(self, command: str, told: str) -> Iterator[tuple[re.Match[str], Path]]:
        """What a command tells when it is ready, and its log, while it runs; it must end well.

        Args:
            command: What starts it, on any free port.
            told: What it tells, a pattern.
        """
        log = self.path / f"{len(list(self.path.glob('*.log')))}.log"
        with log.open("wb") as out:
            process = subprocess.Popen(
                shlex.split(command),
                cwd=self.path,
                env=self.environ,
                stdout=out,
                stderr=out,
                start_new_session=True,
            )
        try:
            found, *_ = found_in(log, told, process)
            yield found, log
            process.send_signal(signal.SIGTERM)
            assert process.wait(TIMEOUT_S) == 0, log.read_text()
        finally:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()


def found_in(
    log: Path, pattern: str, process: subprocess.Popen[bytes] | None = None, *, count: int = 1
) -> list[re.Match[str]]:
    """The places of a pattern in a growing log, as soon as there are so many."""
    until = time.monotonic() + TIMEOUT_S
    while len(found := list(re.finditer(pattern, log.read_text()))) < count:
        is_running = process is None or process.poll() is None
        assert is_running and time.monotonic() < until, log.read_text()
        time.sleep(0.02)
    return found
