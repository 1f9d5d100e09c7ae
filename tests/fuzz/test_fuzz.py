"""What ever broke a target is tried again, on every Python; and each is searched for a moment.

`scripts/fuzz` searches for as long as it is told.
"""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
import tracemalloc
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.fuzz import campaign, runner

SECONDS = 1
needs_atheris = pytest.mark.skipif(
    importlib.util.find_spec("atheris") is None, reason="there is no atheris for this platform"
)


def target_of(name: str) -> runner.Target:
    try:
        return runner.load(name)
    except ModuleNotFoundError as error:
        pytest.skip(f"it needs {error.name}")


def is_here(name: str) -> bool:
    """Whether what a target needs is installed."""
    try:
        return bool(runner.load(name).MEASURED)
    except ModuleNotFoundError:
        return False


@pytest.mark.parametrize("name", runner.TARGETS)
def test_nothing_that_is_kept_breaks_its_target(name: str) -> None:
    target = target_of(name)
    paths = runner.kept(name)
    try:
        for data in [b"", *target.seeds(), *(path.read_bytes() for path in paths)]:
            target.check(data)
    finally:
        tracemalloc.stop()  # a target leaves it on


def test_what_is_kept_is_little_and_has_a_target() -> None:
    for kind in ("corpus", "found"):
        for folder in (runner.HERE / kind).iterdir():
            assert folder.name in runner.TARGETS
            assert len(list(folder.iterdir())) <= runner.MAX_KEPT


@needs_atheris
@pytest.mark.slow
@pytest.mark.row("J5")
@pytest.mark.timeout(300)  # for a busy machine: it takes some 30 s of all cores
def test_a_short_search_finds_nothing(tmp_path: Path) -> None:
    def search(name: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, runner.__file__, name, "--seconds", str(SECONDS)]
        return subprocess.run(
            [*command, "--findings", str(tmp_path)], capture_output=True, text=True, check=False
        )

    names = [name for name in runner.TARGETS if is_here(name)]
    with ThreadPoolExecutor(len(os.sched_getaffinity(0))) as pool:
        searches = dict(zip(names, pool.map(search, names), strict=True))
    for name, done in searches.items():
        assert done.returncode == 0, (name, done.stderr[-4000:])
        assert campaign.stats_of(done.stderr)["number_of_executed_units"] > 0
    assert not list(tmp_path.iterdir())


@needs_atheris
@pytest.mark.slow
def test_a_search_finds_what_breaks_a_target(tmp_path: Path) -> None:
    program = tmp_path / "broken.py"
    program.write_text(
        "import sys\n"
        "from tests.fuzz import runner\n"
        "from headrace.codecs import json\n"
        "json.JsonCodec.encode = lambda *a, **k: b'1'\n"  # the defence: what is read comes back
        "runner.main(sys.argv[1:])\n"
    )
    done = subprocess.run(
        [sys.executable, str(program), "json", "--seconds", "20", "--findings", str(tmp_path)],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode != 0, done.stderr[-4000:]
    assert "AssertionError" in done.stderr + done.stdout
    (found,) = tmp_path.glob("crash-*")
    runner.load("json").check(found.read_bytes())  # the codec itself is right
