"""Targets: what they name, and what each broken one says."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from headrace import Model, model
from headrace.errors import TargetError
from headrace.targets import load_target, models_of, target_of

SOURCE = """
from dataclasses import dataclass
from headrace import Model, model

@dataclass
class Item:
    n: int

class First(Model):
    def predict(self, batch: list[Item]) -> list[int]:
        return [item.n for item in batch]

class Needs(Model):
    def __init__(self, weights):
        pass
    def predict(self, batch):
        return batch

@model(name="shout")
def shout(batch: list[str]) -> list[str]:
    return [text.upper() for text in batch]

made = First()
several = [First, shout]
named = {"a": First, "b": shout}
nested = {"outer": [First]}
number = 7
class Plain: pass
class Space:
    Inner = First
"""


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder with modules, in which the test runs; what it imports is forgotten after it."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", sys.path[:])
    before = set(sys.modules)
    yield tmp_path
    for name in set(sys.modules) - before:
        del sys.modules[name]


def write(path: Path, source: str = SOURCE) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(source)
    return path


def names(target: str) -> list[str]:
    """The names that the target's models give themselves; empty for their class's."""
    return [make().name for make in models_of(load_target(target), where=target)]


@pytest.mark.parametrize("place", ["house", "house.py", "./house.py"])
@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("First", [""]),
        ("shout", ["shout"]),
        ("made", [""]),
        ("several", ["", "shout"]),
        ("named", ["a", "b"]),
        ("nested", ["outer"]),
        ("Space.Inner", [""]),
    ],
)
def test_a_target_names_a_class_a_model_a_function_or_a_collection_of_them(
    folder: Path, place: str, name: str, expected: list[str]
) -> None:
    write(folder / "house.py")
    assert names(f"{place}:{name}") == expected


def test_each_making_of_a_class_gives_a_model_of_its_own() -> None:
    class Some(Model):
        def predict(self, batch: list[int]) -> list[int]:
            return batch

    [make] = models_of(Some, where="x")
    assert make() is not make()


@pytest.mark.parametrize(
    ("target", "said"),
    [
        ("house", "expected module:Name or path.py:Name"),
        (":First", "expected module:Name or path.py:Name"),
        ("house:", "expected module:Name or path.py:Name"),
        ("nowhere:First", "there is no module nowhere"),
        ("house.inner:First", "there is no module house.inner"),
        ("nowhere.py:First", "there is no file nowhere.py"),
        (".py:First", "there is no file .py"),
        ("house:Frist", "house has no Frist; did you mean First?"),
        ("house.py:Frist", "house.py has no Frist; did you mean First?"),
        ("house:Space.Iner", "has no Iner; did you mean Inner?"),
        (
            "house:number",
            "expected a Model, a function under @model, or a list or dict of those, got int",
        ),
        ("house:Plain", "got the class Plain"),
        ("house:Item", "got the class Item"),
    ],
)
def test_a_broken_target_says_what_is_wrong_with_it(folder: Path, target: str, said: str) -> None:
    write(folder / "house.py")
    with pytest.raises(TargetError) as caught:
        load_target(target)
    assert caught.value.message.startswith(target + ":")
    assert said in caught.value.message


def test_the_odd_one_in_a_collection_is_named_by_its_place() -> None:
    with pytest.raises(TargetError, match=r"x\['a'\]\[1\]: expected a Model, .* got str"):
        models_of({"a": [Model, "First"]}, where="x")


@pytest.mark.parametrize("place", ["broken", "broken.py"])
@pytest.mark.parametrize(
    ("source", "said"),
    [
        ("1/0", "importing it raised ZeroDivisionError: division by zero"),
        ("def f(:", "importing it raised SyntaxError"),
        ("import no_such_module", "importing it raised ModuleNotFoundError: No module named"),
        ("import sys; sys.exit(0)", "importing it raised SystemExit"),
    ],
)
def test_a_module_that_raises_is_told_with_its_cause(
    folder: Path, place: str, source: str, said: str
) -> None:
    write(folder / "broken.py", source)
    with pytest.raises(TargetError) as caught:
        load_target(f"{place}:First")
    assert said in caught.value.message
    assert caught.value.__cause__ is not None
    assert "broken" not in sys.modules


def test_a_class_that_cannot_be_made_is_told_with_its_cause(folder: Path) -> None:
    write(folder / "house.py")
    [make] = models_of(load_target("house:Needs"), where="house:Needs")
    with pytest.raises(TargetError, match=r"house:Needs: Needs\(\) raised TypeError: .*weights"):
        make()


def test_two_targets_of_one_file_share_its_module(folder: Path) -> None:
    write(folder / "house.py")
    assert load_target("house.py:First") is load_target(f"{folder}/house.py:Space.Inner")


def test_two_files_of_one_name_do_not_disturb_each_other(folder: Path) -> None:
    one = write(folder / "one" / "app.py")
    two = write(folder / "two" / "app.py", SOURCE.replace("n: int", "n: str"))
    first, second = load_target(f"{one}:First"), load_target(f"{two}:First")
    assert first is not second
    assert sys.modules[first.__module__].Item is not sys.modules[second.__module__].Item
    assert load_target(f"{two}:First") is second


def test_a_file_named_as_a_module_that_is_in_use_does_not_take_its_place(folder: Path) -> None:
    import json

    load_target(f"{write(folder / 'json.py')}:First")
    assert sys.modules["json"] is json


def test_a_file_finds_the_modules_beside_it(folder: Path) -> None:
    write(folder / "deep" / "beside_it.py", "VALUE = 7")
    path = write(folder / "deep" / "app.py", "from beside_it import VALUE\n" + SOURCE)
    assert load_target(f"{path}:First").__name__ == "First"


def test_each_replica_of_an_instance_is_a_copy_of_it() -> None:
    made = Model()
    [make] = models_of({"other": made}, where="models")
    first, second = make(), make()
    assert first is not second and first is not made
    assert (first.name, made.name) == ("other", "")


class Known(Model):
    """One that another process can import."""

    class Inner(Model):
        """So can one inside of it."""


@model(name="known")
def known(batch: list[int]) -> list[int]:
    return batch


def test_what_is_bound_to_its_name_in_a_module_has_a_target() -> None:
    assert target_of(Known) == f"{__name__}:Known"
    assert target_of(Known.Inner) == f"{__name__}:Known.Inner"
    assert target_of(known) == f"{__name__}:known"


def local() -> type[Model]:
    class Local(Model):
        """Only this call knows it."""

    return Local


@model
def replaced(batch: list[int]) -> list[int]:
    return batch


first_replaced = replaced


@model  # type: ignore[no-redef]
def replaced(batch: list[int]) -> list[int]:
    return batch


@pytest.mark.parametrize(
    "value",
    [Known(), local(), first_replaced, {"a": Known}, 7, None],
    ids=["instance", "local", "another-now", "dict", "number", "nothing"],
)
def test_what_no_other_process_can_import_by_name_has_none(value: Any) -> None:
    with pytest.raises(TargetError, match="name a target such as 'module:Name' instead"):
        target_of(value)


@pytest.fixture
def program(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """A program that runs, with a model of its own."""
    module = ModuleType("__main__")
    source = "from headrace import Model\nclass Own(Model):\n    pass\n"
    exec(source, vars(module))
    monkeypatch.setitem(sys.modules, "__main__", module)
    return module


def test_a_model_of_the_program_itself_is_named_by_its_file(program: ModuleType) -> None:
    program.__file__ = "/srv/app.py"
    assert target_of(program.Own) == "/srv/app.py:Own"


def test_a_program_without_a_file_cannot_be_imported(program: ModuleType) -> None:
    with pytest.raises(TargetError, match="or use executor 'thread'"):
        target_of(program.Own)


class Stand:
    """No Model, but it gives one."""

    def __headrace_model__(self) -> Model:
        class Given(Model):
            def predict(self, batch: list[Any]) -> list[Any]:
                return batch

        return Given()


class Nothing:
    def __headrace_model__(self) -> int:
        return 7


class Raising:
    def __headrace_model__(self) -> Model:
        raise OSError("no weights")


@pytest.mark.parametrize("value", [Stand, Stand()])
def test_an_object_can_stand_for_a_model(value: object) -> None:
    (make,) = models_of(value, where="x")
    assert type(make()).__name__ == "Given"
    assert make() is not make()


@pytest.mark.parametrize(
    ("value", "error"),
    [
        (Nothing(), r"x.__headrace_model__\(\): expected a Model, got 7"),
        (Raising, "x: it raised OSError: no weights"),
    ],
)
def test_an_object_that_gives_no_model_says_why(value: object, error: str) -> None:
    (make,) = models_of(value, where="x")
    with pytest.raises(TargetError, match=error):
        make()
