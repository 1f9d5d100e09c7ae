"""The documentation is true: its commands print what it says, its links lead somewhere."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.faults.rows import ROWS

from .pages import ROOT, Reader, blocks_of, matches, needs_curl

README = ROOT / "README.md"
GUIDE = sorted((ROOT / "docs" / "guide").glob("*.md"))
FACES = [ROOT / "docs" / "ventu.md", ROOT / "docs" / "virtex.md"]
"""Pages of other interfaces: each has a model of its own."""
ALL_PAGES = [
    *ROOT.glob("*.md"),
    *sorted((ROOT / "docs").rglob("*.md")),
]

_LINK = re.compile(r"(?<!`)\[[^\]\n]*\]\((?P<target>[^)\s]+)\)")
_HEADING = re.compile(r"^#+ (?P<title>.*)$", re.MULTILINE)

# What a `sh` block may hold, as nothing runs it here: `scripts/wheel` installs headrace, and
# test_examples.py serves the examples.
_NOT_RUN = re.compile(r"python3 -m venv |pip install |headrace serve examples/")


def _stem(page: Path) -> str:
    return page.stem


def _path(page: Path) -> str:
    return str(page.relative_to(ROOT))


@needs_curl
@pytest.mark.slow
@pytest.mark.parametrize("page", [README, *GUIDE, *FACES], ids=_stem)
def test_a_page_can_be_followed_to_its_end(page: Path, tmp_path: Path) -> None:
    with Reader(tmp_path) as reader:
        if page in GUIDE:
            # The guide goes on from the quickstart's model.
            for block in blocks_of(README):
                if block.file == "app.py":
                    reader.do(block)
        reader.follow(page)


@pytest.mark.parametrize("page", [README, *GUIDE, *FACES], ids=_stem)
def test_only_installing_is_left_to_the_reader(page: Path) -> None:
    for block in blocks_of(page):
        assert block.language in ("sh", "python", "console", "json", "toml", "yaml"), block.where
        if block.language == "sh":
            for line in block.body.splitlines():
                assert _NOT_RUN.match(line), f"{block.where}: {line}"


@pytest.mark.parametrize("page", ALL_PAGES, ids=_path)
def test_links_within_the_repository_lead_somewhere(page: Path) -> None:
    for target in links_of(page):
        path, _, anchor = target.partition("#")
        found = (page.parent / path).resolve() if path else page
        assert found.exists(), target
        if anchor:
            assert anchor in anchors_of(found), target


def test_the_tables_are_those_of_the_code() -> None:
    done = subprocess.run(
        [sys.executable, str(ROOT / "docs" / "generate.py"), "--check"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(
    ("expected", "printed", "is_match"),
    [
        ("a b\n", "a b", True),
        ("a b\n", "a c", False),
        ("a ... d\n", "a b c d", True),
        ("a...\n", "a", True),
        ("...\nz\n", "x\ny\nz\n", True),
        ("a\n...\n", "a\nb\nc\n", True),
        ("a\n", "a\nb\n", False),
        ("a.b\n", "acb", False),
    ],
)
def test_three_dots_stand_for_anything(expected: str, printed: str, is_match: bool) -> None:
    assert matches(expected, printed) is is_match


def links_of(page: Path) -> Iterator[str]:
    """The targets of a page's links that are no web addresses."""
    text = re.sub(r"^```.*?^```$", "", page.read_text(encoding="utf-8"), flags=re.M | re.S)
    for match in _LINK.finditer(text):
        if "://" not in match["target"]:
            yield match["target"]


def anchors_of(page: Path) -> set[str]:
    """The anchors of a page's headings, as GitHub makes them."""
    titles = _HEADING.findall(page.read_text(encoding="utf-8"))
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}


def test_each_row_and_each_test_that_security_names_is_there() -> None:
    text = (ROOT / "SECURITY.md").read_text(encoding="utf-8")
    rows = set(re.findall(r"\b[A-M]\d+\b", text))
    assert len(rows) > 20 and rows <= set(ROWS)
    files = set(re.findall(r"tests/[\w/]+\.py", text))
    assert len(files) > 8
    assert all((ROOT / file).is_file() for file in files)
