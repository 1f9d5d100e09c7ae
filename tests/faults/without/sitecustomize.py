"""Runs at the start of each Python process of an undefended server: see `tests/faults/defences.py`.

The modules named in FAULT_WITHOUT are compiled from a changed source; no file is changed.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Sequence
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec, PathFinder, SourceFileLoader
from types import CodeType, ModuleType


class _Loader(SourceFileLoader):
    """Loads a module's source with some texts replaced, each of which must occur once."""

    def get_code(self, fullname: str) -> CodeType:
        source = self.get_data(self.path).decode()
        for old, new in _CHANGES[fullname]:
            if source.count(old) != 1:
                raise ImportError(f"{fullname} has {source.count(old)} times: {old!r}")
            source = source.replace(old, new)
        return compile(source, self.path, "exec", dont_inherit=True)


class _Finder(MetaPathFinder):
    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        spec = PathFinder.find_spec(fullname, path, target) if fullname in _CHANGES else None
        if spec is not None and spec.origin is not None:
            spec.loader = _Loader(fullname, spec.origin)
        return spec


_CHANGES: dict[str, list[tuple[str, str]]] = {}
for _module, _old, _new in json.loads(os.environ.get("FAULT_WITHOUT", "[]")):
    _CHANGES.setdefault(_module, []).append((_old, _new))
if _CHANGES:
    sys.meta_path.insert(0, _Finder())
