"""Uses an installed headrace as a newcomer would; `scripts/wheel` runs it where nothing else is.

It needs the standard library only, and fails at the first thing that is not as it should be.
"""

from __future__ import annotations

import importlib
import json
import re
import signal
import subprocess
import sys
import threading
import urllib.request
from importlib.resources import files
from pathlib import Path

COMMAND = str(Path(sys.executable).with_name("headrace"))
TIMEOUT_S = 60

MODEL = '''
from headrace import Model


class Shout(Model):
    """Says it louder."""

    examples = ["hello"]

    def preprocess(self, text: str) -> str:
        return text

    def predict(self, batch: list[str]) -> list[str]:
        return [text.upper() for text in batch]
'''


def packages_are_installed_with_their_types() -> None:
    for name in ("headrace", "virtex", "ventu"):
        package = importlib.import_module(name)
        assert Path(str(package.__file__)).is_relative_to(sys.prefix), package
        assert files(package).joinpath("py.typed").is_file(), package


def the_command_explains_itself() -> None:
    assert "serve" in run("--help")


def a_model_is_checked() -> None:
    run("check", "shout.py:Shout")


def a_model_is_served_until_sigterm() -> None:
    with subprocess.Popen(
        [COMMAND, "serve", "shout.py:Shout", "--port", "0"],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    ) as server:
        # A server that stays silent is ended, and reading its output with it.
        watchdog = threading.Timer(TIMEOUT_S, server.kill)
        watchdog.start()
        try:
            assert predict(address_of(server), "hello") == "HELLO"
            server.send_signal(signal.SIGTERM)
            assert server.wait() == 0, f"exit code {server.returncode}"
        finally:
            watchdog.cancel()
            server.kill()


def address_of(server: subprocess.Popen[str]) -> str:
    """The address that the server prints once it listens."""
    assert server.stdout is not None
    printed = ""
    for line in server.stdout:
        printed += line
        if found := re.search(r"http://[\d.]+:\d+", line):
            return found.group()
    raise AssertionError(f"no address in what `headrace serve` printed:\n{printed}")


def predict(address: str, item: str) -> object:
    request = urllib.request.Request(
        f"{address}/predict",
        data=json.dumps(item).encode(),
        headers={"Content-Type": "application/json"},
    )
    with urllib.request.urlopen(request, timeout=TIMEOUT_S) as response:
        return json.load(response)


def run(*arguments: str) -> str:
    """What `headrace ARGUMENTS` prints, provided that it ends well."""
    done = subprocess.run(
        [COMMAND, *arguments], capture_output=True, text=True, timeout=TIMEOUT_S, check=False
    )
    assert done.returncode == 0, f"headrace {' '.join(arguments)}:\n{done.stdout}{done.stderr}"
    return done.stdout


def main() -> None:
    Path("shout.py").write_text(MODEL)
    for step in (
        packages_are_installed_with_their_types,
        the_command_explains_itself,
        a_model_is_checked,
        a_model_is_served_until_sigterm,
    ):
        step()
        print(f"  {step.__name__.replace('_', ' ')}")


if __name__ == "__main__":
    main()
