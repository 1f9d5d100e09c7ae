"""The programs in examples/ run, and answer what their own first lines say to ask."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from .pages import ROOT, Block, Reader, needs_curl

pytestmark = [pytest.mark.examples, pytest.mark.slow]

EXAMPLES: dict[str, dict[str, object] | None] = {
    "echo": {"id": 7, "text": "water to the wheel"},
    "digits": {"digit": 0},
    "filetype": {"label": "markdown", "mime_type": "text/markdown"},
    "embedding": None,
}
"""What each example's answer to its own curl command has; None where it is checked apart."""

_COMMAND = re.compile(r"^    ((?:curl|headrace) .*(?:\n        .*)*)", re.MULTILINE)


def test_every_example_is_here() -> None:
    assert {path.stem for path in (ROOT / "examples").glob("*.py")} == set(EXAMPLES)


@pytest.mark.parametrize("name", EXAMPLES)
def test_an_example_passes_its_own_check(name: str, reader: Reader) -> None:
    target = target_of(name)
    reader.do(block(f"$ headrace check {target}\n{name}: ok\n...\n"))


@needs_curl
@pytest.mark.parametrize("name", EXAMPLES)
def test_the_commands_in_an_example_work(name: str, reader: Reader, tmp_path: Path) -> None:
    serve, ask = _COMMAND.findall((ROOT / "examples" / f"{name}.py").read_text())
    assert serve == f"headrace serve {target_of(name)}"
    reader.do(block(f"$ {serve}\nheadrace ... is ready ...\n  {name}: ...\n..."))
    # What it is asked stands on several lines, which the shell takes as one text.
    ask = " ".join(ask.split("\n        "))
    reader.do(block(f"$ {ask} > answer.json\n"))
    answer = json.loads((tmp_path / "answer.json").read_text())
    expected = EXAMPLES[name]
    if expected is not None:
        assert expected.items() <= answer.items()
    else:
        assert len(answer) == 384
        assert sum(value * value for value in answer) == pytest.approx(1.0, abs=1e-3)
    reader.stop_server()


def test_the_demo_ends_well() -> None:
    # scripts/demo runs this program in an environment that it makes first.
    done = subprocess.run(
        [sys.executable, str(ROOT / "scripts" / "demo.py")],
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.fixture
def reader(tmp_path: Path) -> Iterator[Reader]:
    (tmp_path / "examples").symlink_to(ROOT / "examples")
    (tmp_path / "README.md").write_bytes((ROOT / "README.md").read_bytes())
    with Reader(tmp_path) as reader:
        yield reader


def target_of(name: str) -> str:
    """The target of an example: its file, and the one Model in it."""
    file = f"examples/{name}.py"
    (cls,) = re.findall(r"^class (\w+)\(Model\)", (ROOT / file).read_text(), re.MULTILINE)
    return f"{file}:{cls}"


def block(body: str) -> Block:
    """A console block of this file's own."""
    return Block("console", "", body, __name__)
