"""The environments of the frameworks: where HEADRACE_FRAMEWORKS names one, it must be there."""

from __future__ import annotations

import importlib
import os
from typing import Any

import pytest


def framework(name: str) -> Any:
    """A framework; a module of tests is skipped without it, where it was not promised.

    Raises:
        ModuleNotFoundError: HEADRACE_FRAMEWORKS, a list with commas, names it, and it is not here.
    """
    if name in os.environ.get("HEADRACE_FRAMEWORKS", "").split(","):
        return importlib.import_module(name)
    return pytest.importorskip(name, reason=f"{name} is not installed here")
