"""What the real models are asked, and how bodies are kept in a file."""

from __future__ import annotations

import ast
import json
import sys
import sysconfig
from collections.abc import Iterable, Iterator
from pathlib import Path


def write_bodies(file: Path, bodies: Iterable[bytes]) -> None:
    """For each its length on a line, then its bytes."""
    with file.open("wb") as out:
        for body in bodies:
            out.write(b"%d\n%b" % (len(body), body))


def read_bodies(file: Path) -> Iterator[bytes]:
    """What `write_bodies` wrote."""
    with file.open("rb") as lines:
        while length := lines.readline():
            yield lines.read(int(length))


def real_files() -> list[bytes]:
    """Files of the standard library and of this interpreter, up to 64 KiB of each."""
    places = [Path(sysconfig.get_path("stdlib")), Path(sys.prefix)]
    files = [file for place in places for file in sorted(place.glob("*"))]
    return [f.read_bytes()[:65536] for f in files if f.is_file() and f.stat().st_size > 0]


def real_sentences() -> list[bytes]:
    """First sentences of the docstrings of the standard library's modules, as JSON."""
    texts = []
    for file in sorted(Path(sysconfig.get_path("stdlib")).glob("*.py")):
        for node in ast.walk(ast.parse(file.read_bytes())):
            if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef):
                first = (ast.get_docstring(node) or "").partition("\n\n")[0]
                if len(first) > 10:
                    texts.append(" ".join(first.split()))
    return [json.dumps(text).encode() for text in texts[:4000]]


def real_digits() -> list[bytes]:
    """The images that scikit-learn brings, as JSON."""
    from sklearn.datasets import load_digits

    pixels, _ = load_digits(return_X_y=True)
    return [json.dumps(image).encode() for image in pixels.astype(int).tolist()]
