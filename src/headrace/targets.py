"""Targets: the texts on a command line that say what to serve."""

from __future__ import annotations

import copy
import importlib
import importlib.util
import sys
import zlib
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

from .config import nearest
from .errors import TargetError, clip
from .model import FunctionModel, Model

MakeModel = Callable[[], Model]
"""Makes one model, not loaded; a replica each."""

STANDS_FOR = "__headrace_model__"
"""The method by which an object that is no Model gives one: each call makes a new one."""


def load_target(target: str) -> Any:
    """What a target names; `models_of` makes models of it.

    Args:
        target: `module:Name` or `path/to/file.py:Name`, where Name is what `models_of` takes.

    Raises:
        TargetError: It cannot be imported, or is nothing that can be served. The cause, if there
            is one, is what the user's module raised.
    """
    place, colon, name = target.rpartition(":")
    if not colon or not place or not name:
        raise TargetError(f"{target}: expected module:Name or path.py:Name")
    module = _import_file(target, place) if place.endswith(".py") else _import(target, place)
    found: Any = module
    for part in name.split("."):
        if not hasattr(found, part):
            hint = nearest(part, dir(found))
            raise TargetError(f"{target}: {place} has no {part}{hint}")
        found = getattr(found, part)
    models_of(found, where=target)
    return found


def target_of(value: Any) -> str:
    """The text by which another process can load what this one holds.

    Args:
        value: A Model class or a function under `@model`, bound to its name in its module.

    Raises:
        TargetError: It has no such name.
    """
    named = value.function if isinstance(value, FunctionModel) else value
    module, name = getattr(named, "__module__", None), getattr(named, "__qualname__", None)
    home = sys.modules.get(str(module))
    found: Any = home
    for part in str(name).split("."):
        found = getattr(found, part, None)
    file = getattr(home, "__file__", None)
    is_importable = module != "__main__" or file is not None
    if found is None or found is not value or not is_importable:
        raise TargetError(
            f"models: expected what another process can import by its name, such as a Model class"
            f" of a module, got {clip(value)}; name a target such as 'module:Name' instead, or use"
            " executor 'thread'"
        )
    return f"{file}:{name}" if module == "__main__" else f"{module}:{name}"


def models_of(value: Any, *, where: str) -> list[MakeModel]:
    """The models that an object stands for.

    Args:
        value: A Model class, a Model, an object or class with a method `__headrace_model__` that
            makes one, or a list or dict of those (a dict's keys name them).
        where: What the error calls it.

    Raises:
        TargetError: It is none of those.
    """
    if isinstance(value, type) and issubclass(value, Model):
        return [_made_by(value, where)]
    if hasattr(value, STANDS_FOR):
        return [_made_from(value, where)]
    if isinstance(value, Model):
        # A copy for each replica: none shares with another what load() makes.
        return [lambda: copy.copy(value)]
    if isinstance(value, Mapping):
        return [
            _named(make, str(name))
            for name, part in value.items()
            for make in models_of(part, where=f"{where}[{name!r}]")
        ]
    if isinstance(value, Iterable) and not isinstance(value, str | bytes):
        return [
            make
            for index, part in enumerate(value)
            for make in models_of(part, where=f"{where}[{index}]")
        ]
    kind = f"the class {value.__name__}" if isinstance(value, type) else type(value).__name__
    raise TargetError(
        f"{where}: expected a Model, a function under @model, or a list or dict of those,"
        f" got {kind}"
    )


def _made_by(cls: type[Model], where: str) -> MakeModel:
    def make() -> Model:
        try:
            return cls()
        except Exception as error:
            raise TargetError(
                f"{where}: {cls.__name__}() raised {type(error).__name__}: {error}"
            ) from error

    return make


def _made_from(value: Any, where: str) -> MakeModel:
    def make() -> Model:
        try:
            made = getattr(value() if isinstance(value, type) else value, STANDS_FOR)()
        except Exception as error:
            raise TargetError(f"{where}: it raised {type(error).__name__}: {error}") from error
        if not isinstance(made, Model):
            raise TargetError(f"{where}.{STANDS_FOR}(): expected a Model, got {clip(made)}")
        return made

    return make


def _named(make: MakeModel, name: str) -> MakeModel:
    def make_named() -> Model:
        made = make()
        made.name = name  # type: ignore[misc]  # the dict's key is this one instance's name
        return made

    return make_named


def _import(target: str, name: str) -> ModuleType:
    here = str(Path.cwd())
    if here not in sys.path:
        sys.path.insert(0, here)
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name is not None and (name + ".").startswith(error.name + "."):
            raise TargetError(f"{target}: there is no module {error.name}") from None
        raise _import_failed(target, error) from error
    except (Exception, SystemExit) as error:
        raise _import_failed(target, error) from error


def _import_file(target: str, place: str) -> ModuleType:
    path = Path(place).resolve()
    if not path.is_file():
        raise TargetError(f"{target}: there is no file {place}")
    # Never in the place of another module of this name.
    for name in (path.stem, f"{path.stem}_{zlib.crc32(bytes(path)):08x}"):
        known = sys.modules.get(name)
        if known is None:
            break
        if getattr(known, "__file__", None) == str(path):
            return known  # two targets of one file share its module
    folder = str(path.parent)
    if folder not in sys.path:
        sys.path.insert(0, folder)
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # before it runs, as an import would: dataclasses look it up
    try:
        spec.loader.exec_module(module)
    except (Exception, SystemExit) as error:
        sys.modules.pop(name, None)
        raise _import_failed(target, error) from error
    return module


def _import_failed(target: str, error: BaseException) -> TargetError:
    return TargetError(f"{target}: importing it raised {type(error).__name__}: {error}")
