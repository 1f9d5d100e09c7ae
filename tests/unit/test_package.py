"""What `import headrace` gives."""

from __future__ import annotations

import subprocess
import sys

import pytest

import headrace


@pytest.mark.parametrize(
    "imports",
    [
        "from headrace import model",
        "from headrace import Model, model",
        "import headrace.server; from headrace import model",
        "from headrace import Server; import headrace; model = headrace.model",
        "from headrace.model import model",
        "import headrace.model; model = headrace.model",
    ],
)
def test_model_is_the_decorator_in_whatever_order_things_are_imported(imports: str) -> None:
    source = f"{imports}\n@model(name='x')\ndef f(batch): return batch\nprint(f([1]))"
    ran = subprocess.run([sys.executable, "-c", source], capture_output=True, text=True, timeout=30)
    assert (ran.stdout, ran.stderr) == ("[1]\n", "")


def test_the_front_is_imported_without_what_only_serving_needs() -> None:
    source = "import sys, headrace.hosts, headrace.server; print(*sys.modules)"
    ran = subprocess.run([sys.executable, "-c", source], capture_output=True, text=True, timeout=30)
    assert ran.stderr == ""
    heavy = {"numpy", "pydantic", "falcon", "uvicorn", "typer"}
    assert heavy.isdisjoint(ran.stdout.split())


def test_every_public_name_can_be_had_and_there_are_few() -> None:
    assert len(headrace.__all__) <= 30
    for name in headrace.__all__:
        assert getattr(headrace, name) is not None
        assert name in dir(headrace)


def test_any_other_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="no attribute 'Modle'"):
        headrace.Modle  # noqa: B018  (looking it up is the test)
