"""The bar for people at a terminal."""

from __future__ import annotations

import os
import pty
import subprocess
import sys

import pytest

from headrace.loadtest.progress import progress_bar

PROGRAM = """
from headrace.loadtest.progress import progress_bar
with progress_bar(7, is_shown=None) as move:
    if move is not None:
        move(3)
        move(7)
"""


def test_a_terminal_gets_a_bar() -> None:
    ours, theirs = pty.openpty()
    environment = {**os.environ, "TERM": "xterm", "COLUMNS": "80"}
    process = subprocess.Popen([sys.executable, "-c", PROGRAM], stderr=theirs, env=environment)
    os.close(theirs)
    shown = b""
    try:
        while data := os.read(ours, 4096):
            shown += data
    except OSError:  # Linux's end of a terminal whose other side is closed
        pass
    os.close(ours)
    assert process.wait(timeout=30) == 0
    assert b"3/7" in shown
    assert b"7/7" in shown


def test_a_file_gets_nothing() -> None:
    ran = subprocess.run([sys.executable, "-c", PROGRAM], capture_output=True, timeout=30)
    assert (ran.returncode, ran.stdout, ran.stderr) == (0, b"", b"")


def test_it_can_be_asked_for_and_declined(capsys: pytest.CaptureFixture[str]) -> None:
    with progress_bar(7, is_shown=False) as move:
        assert move is None
    assert capsys.readouterr().err == ""
    with progress_bar(7, is_shown=True) as move:
        assert move is not None
        move(7)
    assert "7/7" in capsys.readouterr().err
