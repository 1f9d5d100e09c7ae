"""The server imports nothing of the user's: that is the workers' to survive."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

FRONT = Path(__file__).with_name("front.py")
MODEL = """
import numpy
import torch_stand_in
import pydantic

from headrace import Model


class Item(pydantic.BaseModel):
    n: int


class Served(Model):
    examples = [{"n": 1}]

    def predict(self, batch: list[Item]) -> list[int]:
        return [2 * item.n for item in batch]
"""


def test_a_server_of_workers_never_imports_the_users_module_or_what_that_needs(
    tmp_path: Path,
) -> None:
    (tmp_path / "users_own.py").write_text(MODEL)
    stand_in = tmp_path / "torch_stand_in"
    stand_in.mkdir()
    (stand_in / "__init__.py").write_text("from pathlib import Path; Path('was here').touch()")
    run = subprocess.run(
        [sys.executable, FRONT, "users_own:Served"],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": os.pathsep.join([str(tmp_path), *sys.path])},
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert run.returncode == 0, run.stderr
    assert (tmp_path / "was here").exists(), "the worker imports it"
    modules = set(json.loads(run.stdout))
    assert not modules & {"users_own", "torch_stand_in", "numpy", "pydantic"}
