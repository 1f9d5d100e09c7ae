"""Every example in a docstring is right."""

from __future__ import annotations

import doctest
import importlib
import pkgutil
from types import ModuleType

import pytest

import headrace
import ventu
import virtex


@pytest.mark.parametrize("package", [headrace, virtex, ventu], ids=lambda p: str(p.__name__))
def test_the_examples_in_docstrings_are_right(package: ModuleType) -> None:
    tried = 0
    for found in pkgutil.walk_packages(package.__path__, f"{package.__name__}."):
        if found.name.endswith("__main__"):
            continue
        result = doctest.testmod(importlib.import_module(found.name))
        assert result.failed == 0, found.name
        tried += result.attempted
    assert tried > 0
