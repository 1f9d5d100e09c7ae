"""The tests of the batcher are tested: each of the faults in `mutations` must fail them."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from .mutations import MUTATIONS, Mutation

HERE = Path(__file__).parent
ROOT = HERE.parents[2]
SOURCE = ROOT / "src" / "headrace"
SUITE = [
    HERE / f"test_{name}.py"
    for name in (
        "queue",
        "admission",
        "sizing",
        "cutting",
        "settling",
        "ends",
        "replicas",
        "recovery",
        "state_machine",
    )
]


def mutate(folder: Path, mutation: Mutation) -> None:
    module = folder / "headrace" / "batching" / f"{mutation.module}.py"
    text = module.read_text(encoding="utf-8")
    found = text.count(mutation.old)
    assert found == 1, f"{mutation.name}: expected its old text once in {module.name}, got {found}"
    module.write_text(text.replace(mutation.old, mutation.new), encoding="utf-8")


def run_suite(folder: Path) -> subprocess.CompletedProcess[str]:
    """Run the quick tests, up to the first failure, on the package in this folder."""
    # Nothing that belongs to the run around this one, least of all its coverage.
    kept = {name: os.environ[name] for name in ("PATH", "HOME") if name in os.environ}
    # With PYTHONPATH this package goes before an installed one.
    environment = {**kept, "PYTHONPATH": str(folder), "FEWER_EXAMPLES": "1"}
    command = [sys.executable, "-m", "pytest", "-x", "-q", "-p", "no:cacheprovider", "--tb=line"]
    return subprocess.run(
        [*command, *map(str, SUITE)],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.fixture
def package(tmp_path: Path) -> Path:
    """A folder with a copy of the package, to be mutated."""
    ignored = shutil.ignore_patterns("__pycache__")
    shutil.copytree(SOURCE, tmp_path / "headrace", ignore=ignored)
    return tmp_path


def test_there_are_at_least_a_dozen_faults_each_with_its_own_name() -> None:
    assert len({mutation.name for mutation in MUTATIONS}) == len(MUTATIONS) >= 12


@pytest.mark.parametrize("mutation", MUTATIONS, ids=lambda mutation: mutation.name)
def test_the_old_text_of_each_fault_is_present(mutation: Mutation, package: Path) -> None:
    mutate(package, mutation)


@pytest.mark.slow
def test_without_a_fault_the_suite_passes_on_the_copy(package: Path) -> None:
    done = run_suite(package)
    assert done.returncode == 0, done.stdout
    # It is indeed the copy that is tested.
    (package / "headrace" / "batching" / "__init__.py").write_text("raise ImportError")
    assert run_suite(package).returncode != 0


@pytest.mark.slow
@pytest.mark.parametrize("mutation", MUTATIONS, ids=lambda mutation: mutation.name)
def test_the_suite_notices(mutation: Mutation, package: Path) -> None:
    mutate(package, mutation)
    done = run_suite(package)
    assert done.returncode == 1, f"{mutation.name}: expected a failed test\n{done.stdout}"
