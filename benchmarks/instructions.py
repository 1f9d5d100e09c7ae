"""Instructions an item on the hot path, against committed figures: noise cannot hide a regression.

    python benchmarks/instructions.py                       # fails if a case is over its figure
    python benchmarks/instructions.py --only worker         # one case
    python benchmarks/instructions.py --update              # commits what is measured now

Valgrind's callgrind counts. It runs the program on a processor that it imitates, whose identity
does not depend on the machine's beyond the vector instructions that it has, so libraries that
choose code by the processor choose the same; and what it cannot imitate alike everywhere, AVX, is
hidden from the C library as well. Each case is a fork of one process, so that none warms code up
for another. It runs a number of passes, then twice as many, and the difference counts: start-up,
warm-up and the marks themselves cancel out.

Interpreters differ, by how they were built more than by version: so each figure stands beside
that of a yardstick, plain Python in the same process, and ratios are compared.
"""

from __future__ import annotations

import argparse
import gc
import importlib.metadata
import json
import os
import platform
import re
import shutil
import signal
import subprocess
import sys
import sysconfig
import tempfile
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, NoReturn

FIGURES = Path(__file__).with_suffix(".json")
ROOM = 0.10
"""How much a case may grow before the check fails."""
YARDSTICK = "yardstick"
WARM_UP, PASSES = 12, 12
PACKAGES = ("msgspec", "httptools", "uvloop", "uvicorn")
HANGS_S = 100
UPDATE = "scripts/instructions --update"
_MARK = "getppid"
"""A function of the C library that nothing else calls: callgrind writes its counts down there."""
_TOTALS = re.compile(r"^totals: (\d+)$", re.MULTILINE)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", nargs="+", metavar="CASE", help="by name")
    parser.add_argument("--update", action="store_true", help="write the figures anew")
    parser.add_argument("--count", help=argparse.SUPPRESS)  # what callgrind runs: this, inside
    arguments = parser.parse_args()
    if arguments.count:
        count(arguments.count.split(","))
        return
    if shutil.which("valgrind") is None:
        leave("valgrind is not here: instructions are not counted")
    found = measured(arguments.only or ())
    if arguments.update:
        update(found)
        return
    figures = json.loads(FIGURES.read_text()).get(interpreter())
    if figures is None:
        for name, instructions in found.items():
            print(f"{name}: {instructions:,.0f} instructions an item")
        leave(f"there are no figures of {interpreter()}; {UPDATE} writes them")
    lines, grown = compared(found, figures["instructions"])
    print("\n".join(lines))
    if grown:
        sys.exit(
            f"Over the committed figures by more than {ROOM:.0%}: {', '.join(grown)}. Those are of"
            f" {described(figures['with'])}; these of {described(versions())}. If that is meant,"
            f" commit what `{UPDATE}` writes, and say why."
        )


def leave(why: str) -> NoReturn:
    """End without a verdict; in CI that is a failure."""
    if "CI" in os.environ:
        sys.exit(why)
    print(why)
    sys.exit()


# Measuring


def measured(only: Iterable[str]) -> dict[str, float]:
    """Instructions an item of each case, and those of a pass of the yardstick."""
    from _hot import CASES

    names = [name for name in CASES if name in only or not only]
    with tempfile.TemporaryDirectory() as folder:
        marks = [f"--dump-before={_MARK}", f"--callgrind-out-file={folder}/%p"]
        program = [sys.executable, __file__, f"--count={','.join([YARDSTICK, *names])}"]
        done = subprocess.run(
            ["valgrind", "--quiet", "--tool=callgrind", *marks, *program],
            env=pinned(),
            stdout=subprocess.PIPE,
            text=True,
            check=True,
        )
        pids = dict(line.split() for line in done.stdout.splitlines())
        passes = {name: instructions_of(Path(folder), pid) for name, pid in pids.items()}
    return {
        name: instructions / (1 if name == YARDSTICK else CASES[name].items)
        for name, instructions in passes.items()
    }


def pinned() -> dict[str, str]:
    """An environment in which the same code runs everywhere, and in the same order."""
    # The names before and since glibc 2.33; others are ignored.
    hidden = "glibc.cpu.hwcaps=-AVX_Usable,-AVX2_Usable,-AVX,-AVX2,-ERMS,-FSRM"
    return {
        "PATH": os.environ["PATH"],
        "GLIBC_TUNABLES": hidden,
        "PYTHONHASHSEED": "0",
        "PYTHONPATH": os.environ.get("PYTHONPATH", ""),
        "HEADRACE_LOG_LEVEL": "warning",
    }


def instructions_of(folder: Path, pid: str) -> float:
    """What a pass took: two stretches of passes, of which one is twice as long, subtracted."""
    before, once, twice = (
        int(_TOTALS.findall((folder / f"{pid}.{part}").read_text())[0]) for part in (1, 2, 3)
    )
    assert before and once < twice, (before, once, twice)
    return (twice - once) / PASSES


def count(names: Iterable[str]) -> None:
    """Run each case in a fork of its own, and print its process id: callgrind's files bear it."""
    from _hot import CASES, yardstick

    for name in names:
        sys.stdout.flush()
        pid = os.fork()
        if not pid:
            signal.alarm(HANGS_S)  # an answer that never comes ends the case, too
            run(yardstick if name == YARDSTICK else CASES[name].make())
            os._exit(0)
        if os.waitpid(pid, 0)[1]:
            sys.exit(f"{name} failed")
        print(name, pid)


def run(once: Callable[[], None]) -> None:
    """Warm up, then two stretches of passes; callgrind counts anew from each mark on."""
    for _ in range(WARM_UP):
        once()
    # The collector walks what the passes make, and not what was imported before.
    gc.collect()
    gc.freeze()
    for passes in (PASSES, 2 * PASSES):
        os.getppid()
        for _ in range(passes):
            once()
    os.getppid()


# Comparing


def compared(
    found: Mapping[str, float], figures: Mapping[str, float]
) -> tuple[list[str], list[str]]:
    """A line for each case, and the cases that are over their figure.

    Args:
        found: Instructions an item now, with the yardstick's.
        figures: The committed ones.
    """
    scale = found[YARDSTICK] / figures[YARDSTICK]
    lines, grown = [f"{YARDSTICK}: {scale:.3f} of the committed figure"], []
    for name, instructions in found.items():
        if name == YARDSTICK:
            continue
        line = f"{name}: {instructions:,.0f} instructions an item"
        figure = figures.get(name)
        if figure is None:
            lines.append(f"{line}, NO FIGURE")
            grown.append(f"{name} (no figure)")
            continue
        ratio = instructions / figure / scale
        lines.append(f"{line}, {ratio:.3f} of the committed figure")
        if ratio > 1 + ROOM:
            grown.append(f"{name} ({ratio - 1:+.1%})")
        elif ratio < 1 - ROOM:
            lines[-1] += f": cheaper, which `{UPDATE}` would hold"
    return lines, grown


def update(found: Mapping[str, float]) -> None:
    """Write what was found beside the figures of other interpreters and other cases."""
    figures: dict[str, Any] = json.loads(FIGURES.read_text()) if FIGURES.exists() else {}
    own = figures.setdefault(interpreter(), {"instructions": {}})
    own["with"] = versions()
    own["instructions"] |= {name: round(instructions) for name, instructions in found.items()}
    FIGURES.write_text(json.dumps(figures, indent=2, sort_keys=True) + "\n")
    print(f"wrote {FIGURES.name}: {own['instructions']}")


def interpreter() -> str:
    """What figures are kept by."""
    major, minor, _ = platform.python_version_tuple()
    return f"{platform.python_implementation()} {major}.{minor} {platform.machine()}"


def versions() -> dict[str, str]:
    """What else a figure depends on."""
    found = {package: importlib.metadata.version(package) for package in PACKAGES}
    configured = sysconfig.get_config_var("CONFIG_ARGS") or ""
    build = "optimized" if "--enable-optimizations" in configured else "plain"
    return {"python": f"{platform.python_version()} ({build} build)", **found}


def described(versions: Mapping[str, str]) -> str:
    return ", ".join(f"{name} {version}" for name, version in versions.items())


if __name__ == "__main__":
    main()
