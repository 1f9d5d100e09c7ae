"""Every example in a docstring is right."""

from __future__ import annotations

import doctest
import importlib
import pkgutil

import headrace
import ventu
import virtex


def test_the_examples_in_docstrings_are_right() -> None:
    tried = 0
    modules = (
        found
        for package in (headrace, virtex, ventu)
        for found in pkgutil.walk_packages(package.__path__, f"{package.__name__}.")
    )
    for found in modules:
        if found.name.endswith("__main__"):
            continue
        result = doctest.testmod(importlib.import_module(found.name))
        assert result.failed == 0, found.name
        tried += result.attempted
    assert tried > 0
