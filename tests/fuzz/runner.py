"""Searches for an input that breaks a target's property, guided by coverage; or tries given ones.

    python tests/fuzz/runner.py json --seconds 60
    python tests/fuzz/runner.py json --input FILE     # again what was found
    python tests/fuzz/runner.py json --measure FOLDER # the lines that these inputs reach, as JSON
    python tests/fuzz/runner.py json --merge FOLDER   # the few of its inputs that reach all of it

A target is a module of `tests/fuzz/targets`, whose `check` takes an input and raises if the
property that the module states does not hold. The search begins with the target's own `seeds` and
the inputs in `tests/fuzz/corpus`. What breaks the property, takes more than ten seconds or half a
gigabyte is written to the current folder, or where `--findings` says, and the exit code is not 0.

The search needs atheris; to try inputs takes nothing.
"""

from __future__ import annotations

import argparse
import importlib
import importlib.util
import json
import logging
import resource
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, Protocol, cast

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
TARGETS = sorted(path.stem for path in (HERE / "targets").glob("[!_]*.py"))
INSTRUMENTED = ("headrace", "virtex", "ventu", "tests.fuzz", "json", "PIL", "numpy.lib")
"""What guides the search: our code, the judges, and the parsers below it that are in Python."""
MAX_INPUT_BYTES = 2048
MAX_RSS_MIB = 512
SLOW_S = 10
MAX_KEPT = 50
"""Inputs of a target that are kept beside the tests."""


class Target(Protocol):
    """A module of `tests/fuzz/targets`.

    Attributes:
        MEASURED: The modules whose lines the search is to reach.
        TOKENS: Bytes that an input is worth to have, beside those that the search finds.
    """

    MEASURED: Sequence[str]
    TOKENS: Sequence[bytes]

    def check(self, data: bytes) -> None:
        """Raise if the property does not hold with this input."""

    def seeds(self) -> Iterable[bytes]:
        """Inputs to begin with."""


def load(name: str) -> Target:
    """The target of this name."""
    if str(ROOT) not in sys.path:
        sys.path.insert(0, str(ROOT))
    return cast(Target, importlib.import_module(f"tests.fuzz.targets.{name}"))


def kept(name: str) -> list[Path]:
    """The inputs of a target that are kept: those that reach much, and all that ever broke it."""
    folders = (HERE / "corpus" / name, HERE / "found" / name)
    return sorted(path for folder in folders if folder.is_dir() for path in folder.iterdir())


def main(arguments: Sequence[str]) -> None:
    """Do what the arguments say; does not return from a search."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("target", choices=TARGETS)
    parser.add_argument("--seconds", type=int, default=60)
    parser.add_argument("--corpus", type=Path, help="where the search keeps what it learns")
    parser.add_argument("--findings", type=Path, default=Path(), help="where to write those")
    parser.add_argument("--input", type=Path)
    parser.add_argument("--measure", type=Path)
    parser.add_argument("--merge", type=Path)
    options = parser.parse_args(arguments)
    if options.input:
        load(options.target).check(options.input.read_bytes())
    elif options.measure:
        measure(options.target, options.measure)
    elif options.merge:
        merge(options.target, options.merge)
    else:
        with tempfile.TemporaryDirectory() as folder:
            search(options, Path(folder))


def search(options: argparse.Namespace, folder: Path) -> None:
    """Look for an input that breaks the target; does not return."""
    # What is held against the limit is the most that the process has had, and that begins with
    # what its parent had when it was forked: pytest's, at the end of a long run.
    inherited_mib = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024
    target = _instrumented(options.target)
    logging.disable()
    learned, seeds = options.corpus or folder / "learned", folder / "seeds"
    for each in (learned, seeds, options.findings):
        each.mkdir(parents=True, exist_ok=True)
    for number, seed in enumerate(target.seeds()):
        (seeds / str(number)).write_bytes(seed)
    for path in kept(options.target):
        shutil.copy(path, seeds)
    lines = [f'"{_escaped(token)}"\n' for token in target.TOKENS]
    (folder / "tokens").write_text("".join(lines or ['"\\x00"\n']))
    flags = [
        f"-max_total_time={options.seconds}",
        f"-max_len={MAX_INPUT_BYTES}",
        f"-rss_limit_mb={MAX_RSS_MIB + inherited_mib}",
        f"-timeout={SLOW_S}",
        f"-dict={folder / 'tokens'}",
        f"-artifact_prefix={options.findings}/",
        "-print_final_stats=1",
    ]
    _fuzz(target.check, [*flags, str(learned), str(seeds)])


def merge(name: str, folder: Path) -> None:
    """Replace the kept inputs by the few of them, and of a folder's, that reach all that they do.

    The smallest are kept where those are too many.
    """
    reaches = _reach(name, sorted({*kept(name), *folder.iterdir()}))
    left = set().union(*reaches.values())
    chosen: list[Path] = []
    while left and len(chosen) < MAX_KEPT:
        best = max(reaches, key=lambda path: (len(reaches[path] & left), -path.stat().st_size))
        chosen.append(best)
        left -= reaches.pop(best)
    bodies = [path.read_bytes() for path in chosen]
    corpus = HERE / "corpus" / name
    shutil.rmtree(corpus, ignore_errors=True)
    corpus.mkdir(parents=True)
    for number, body in enumerate(bodies):
        (corpus / f"{number:02}").write_bytes(body)


def _reach(name: str, paths: Sequence[Path]) -> dict[Path, set[tuple[Any, ...]]]:
    """The steps from line to line that each input takes in the modules of ours."""
    target = load(name)
    target.check(b"")
    reaches: dict[Path, set[tuple[Any, ...]]] = {}
    sources = {str(ROOT / "src")}

    for path in paths:
        steps: set[tuple[Any, ...]] = set()

        def local(frame: Any, event: str, _: Any, steps: Any = steps, at: Any = [0]) -> Any:  # noqa: B006
            steps.add((frame.f_code, at[0], frame.f_lineno))
            at[0] = frame.f_lineno
            return local

        def called(frame: Any, event: str, _: Any, local: Any = local) -> Any:
            return local if frame.f_code.co_filename.startswith(tuple(sources)) else None

        data = path.read_bytes()
        sys.settrace(called)
        try:
            target.check(data)
        finally:
            sys.settrace(None)
        reaches[path] = steps
    return reaches


def measure(name: str, folder: Path) -> None:
    """Print which share of each measured module's lines the inputs of a folder reach."""
    import coverage

    files = {}
    for module in ("headrace", "virtex", "ventu"):
        spec = importlib.util.find_spec(module)
        assert spec is not None and spec.origin is not None
        files[module] = Path(spec.origin).parent
    measuring = coverage.Coverage(data_file=None, source=[str(each) for each in files.values()])
    measuring.start()
    target = load(name)
    for path in [*kept(name), *folder.iterdir()]:
        target.check(path.read_bytes())
    measuring.stop()
    shares = {}
    for module in target.MEASURED:
        top, _, rest = module.partition(".")
        file = files[top] / (rest.replace(".", "/") + ".py")
        _, lines, _, missing, _ = measuring.analysis2(str(file))
        shares[module] = (len(lines) - len(missing)) / len(lines)
    print(json.dumps(shares))  # noqa: T201  (a program)


def _instrumented(name: str) -> Target:
    sys.path.insert(0, str(ROOT))
    atheris: Any = importlib.import_module("atheris")
    for module in [module for module in sys.modules if module.partition(".")[0] == "json"]:
        del sys.modules[module]  # so that it is imported anew, instrumented
    with atheris.instrument_imports(include=list(INSTRUMENTED), enable_loader_override=False):
        return load(name)


def _fuzz(check: Callable[[bytes], None], flags: Sequence[str]) -> None:
    atheris: Any = importlib.import_module("atheris")
    atheris.Setup([sys.argv[0], *flags], check)
    atheris.Fuzz()


def _escaped(token: bytes) -> str:
    return "".join(f"\\x{byte:02x}" for byte in token)


if __name__ == "__main__":
    main(sys.argv[1:])
