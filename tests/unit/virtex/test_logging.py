"""The logger, whose level the environment gives."""

from __future__ import annotations

import logging
import os
import subprocess
import sys

import pytest

from virtex.core.logging import LOGGER


def imported(level: str | None, program: str) -> subprocess.CompletedProcess[str]:
    """What a program says that imports the logger with this LOG_LEVEL."""
    environment = {name: value for name, value in os.environ.items() if name != "LOG_LEVEL"}
    if level is not None:
        environment["LOG_LEVEL"] = level
    program = f"from virtex.core.logging import LOGGER; {program}"
    return subprocess.run(
        [sys.executable, "-c", program],
        env=environment,
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )


def test_the_logger_is_the_packages() -> None:
    assert LOGGER is logging.getLogger("virtex")


@pytest.mark.parametrize(
    ("level", "expected"),
    [
        (None, logging.NOTSET),
        ("", logging.NOTSET),
        ("DEBUG", logging.DEBUG),
        ("debug", logging.DEBUG),
        ("Critical", logging.CRITICAL),
    ],
)
def test_the_environment_gives_the_level(level: str | None, expected: int) -> None:
    done = imported(level, "print(LOGGER.level)")
    assert (int(done.stdout), done.stderr) == (expected, "")


def test_an_unknown_level_is_named_and_left_aside() -> None:
    done = imported("loud", "print(LOGGER.level)")
    assert int(done.stdout) == logging.NOTSET
    assert done.stderr == "LOG_LEVEL: expected a level such as INFO, got 'LOUD'\n"


def test_the_level_decides_what_is_written() -> None:
    program = (
        "import logging; logging.basicConfig(format='%(message)s'); "
        "LOGGER.info('quiet'); LOGGER.error('loud')"
    )
    assert imported("ERROR", program).stderr == "loud\n"
    assert imported("INFO", program).stderr == "quiet\nloud\n"


def test_importing_it_adds_no_handler_and_leaves_the_root_alone() -> None:
    done = imported("INFO", "import logging; print(LOGGER.handlers, logging.root.handlers)")
    assert done.stdout == "[] []\n"
