"""What mypy must accept and reject of a user's code: the annotations are part of the API."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("mypy", reason="the types are checked where the linters are installed")

ACCEPTED = """
from typing import Any
from headrace import Batching, ItemError, Limits, Model, Server, ServerSettings, model
from headrace.testing import Client, check

class Shout(Model):
    batching = Batching(max_batch_size=8)
    examples = ["hello"]
    tolerance = 1e-3

    def preprocess(self, text: str) -> str:
        return text.strip()

    def predict(self, batch: list[str]) -> list[str | ItemError]:
        return [text.upper() or ItemError("nothing", status=422) for text in batch]

@model
def plain(batch: list[str]) -> list[int]:
    return [len(text) for text in batch]

@model(name="other", batching=Batching(max_batch_size=2), examples=[1], version="2")
def other(batch: list[int]) -> list[int]:
    return batch

with Client([Shout, plain, other], limits=Limits(max_depth=8)) as client:
    answer: Any = client.predict("x", model="plain")
worst: float = check(Shout).worst_difference
code: int = Server([Shout], ServerSettings(port=0)).run()
"""

REJECTED = {
    "Batching(max_batch_sise=8)": "call-arg",
    "Batching(max_batch_size='8')": "arg-type",
    "ServerSettings(executor='ray')": "arg-type",
    "ItemError('x', statuscode=4)": "call-arg",
    "Client([]).predict_many(3)": "arg-type",
    "Server([]).run().real.nothing": "attr-defined",
}


def mypy(folder: Path, source: str) -> str:
    """What strict mypy says of a module."""
    (folder / "app.py").write_text(source)
    command = [sys.executable, "-m", "mypy", "--strict", "--config-file=", "app.py"]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=110).stdout


@pytest.mark.slow
def test_a_users_code_checks_strictly_and_mistakes_are_found(tmp_path: Path) -> None:
    wrong = "\n".join(REJECTED)
    said = mypy(tmp_path, ACCEPTED + wrong + "\n")
    errors = [line for line in said.splitlines() if ": error:" in line]
    first = len(ACCEPTED.splitlines()) + 1
    for place, (source, kind) in enumerate(REJECTED.items()):
        assert any(
            line.startswith(f"app.py:{first + place}: error:") and f"[{kind}]" in line
            for line in errors
        ), (source, said)
    assert len(errors) == len(REJECTED), said
