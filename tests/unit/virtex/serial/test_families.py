"""What holds for all families of `virtex.serial`."""

from __future__ import annotations

import ast
import base64
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

import virtex.serial as serial
from virtex import serial as package
from virtex.http.message import HttpMessage

_ROOT = Path(__file__).parents[4]
_ENCODED = {
    "numpy": serial.encode_numpy(np.arange(3)),
    "pandas": serial.encode_pandas(pd.Series([1])),
    "pil": serial.encode_pil(Image.new("L", (2, 2))),
    "tiff": serial.encode_pil(Image.new("F", (2, 2))),
    "pickle": serial.encode_pickle([1]),
    "signed": serial.encode_pickle([1], key="k"),
}
_DECODERS: dict[str, Callable[[str], Any]] = {
    "numpy": serial.decode_numpy,
    "pandas": serial.decode_pandas,
    "pil": serial.decode_pil,
    "image": serial.decode_pil_from_bytes,
}
_OWN = {("numpy", "numpy"), ("pandas", "pandas"), ("pil", "pil"), ("pil", "tiff")}
_OWN |= {("image", "pil"), ("image", "tiff")}


class Creates:
    """Creates a folder on being unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        import os

        return os.mkdir, (str(self.path),)


def test_all_functions_are_there() -> None:
    families = ["bytes", "mx", "numpy", "pandas", "pickle", "pil", "tf", "torch"]
    names = [f"{verb}_{family}" for verb in ("decode", "encode") for family in families]
    assert sorted(package.__all__) == sorted([*names, "decode_pil_from_bytes"])
    assert all(callable(getattr(package, name)) for name in package.__all__)


def test_importing_the_functions_imports_no_framework() -> None:
    source = "import sys; from virtex.serial import *; encode_bytes(b''); print(*sys.modules)"
    ran = subprocess.run([sys.executable, "-c", source], capture_output=True, text=True, timeout=60)
    assert ran.stderr == ""
    frameworks = {
        "numpy",
        "pandas",
        "pyarrow",
        "PIL",
        "torch",
        "tensorflow",
        "mxnet",
        "safetensors",
    }
    assert frameworks.isdisjoint(ran.stdout.split())


_MISSING = """
import sys
for name in ("numpy", "pandas", "pyarrow", "PIL", "torch", "tensorflow", "mxnet"):
    sys.modules[name] = None  # as if it were not installed
from virtex.serial import *
import virtex.serial as serial
for name in serial.__all__:
    argument = "" if name.startswith("decode") else None
    try:
        getattr(serial, name)(argument)
    except ModuleNotFoundError as error:
        print(error)
    except (TypeError, ValueError):
        print(name, "works")
    else:
        print(name, "works")
"""


def test_without_a_framework_its_functions_tell_how_to_install_it() -> None:
    ran = subprocess.run(
        [sys.executable, "-c", _MISSING], capture_output=True, text=True, timeout=60
    )
    torch = 'torch, numpy, safetensors and ml_dtypes: pip install "headrace[torch]"'
    tensorflow = 'tensorflow, numpy, safetensors and ml_dtypes: pip install "headrace[tf]"'
    assert (ran.stdout.splitlines(), ran.stderr) == (
        [
            "decode_bytes works",
            'decode_mx needs mxnet and numpy: pip install "mxnet<2" "numpy<1.24"',
            'decode_numpy needs numpy: pip install "headrace[virtex]"',
            'decode_pandas needs pandas and pyarrow: pip install "headrace[arrow]"',
            "decode_pickle works",
            'decode_pil needs pillow: pip install "headrace[image]"',
            'decode_pil_from_bytes needs pillow: pip install "headrace[image]"',
            f"decode_tf needs {tensorflow}",
            f"decode_torch needs {torch}",
            "encode_bytes works",
            'encode_mx needs mxnet and numpy: pip install "mxnet<2" "numpy<1.24"',
            'encode_numpy needs numpy: pip install "headrace[virtex]"',
            'encode_pandas needs pandas and pyarrow: pip install "headrace[arrow]"',
            "encode_pickle works",
            'encode_pil needs pillow: pip install "headrace[image]"',
            f"encode_tf needs {tensorflow}",
            f"encode_torch needs {torch}",
        ],
        "",
    )


@pytest.mark.parametrize("decoder", _DECODERS)
@pytest.mark.parametrize("family", _ENCODED)
def test_the_body_of_another_family_is_refused(decoder: str, family: str) -> None:
    if (decoder, family) in _OWN:
        _DECODERS[decoder](_ENCODED[family])
        return
    with pytest.raises(ValueError, match=r"expected .*, but this looks like an? "):
        _DECODERS[decoder](_ENCODED[family])


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
@pytest.mark.parametrize("decoder", _DECODERS)
def test_a_pickle_of_the_original_is_refused_by_name_and_runs_nothing(
    decoder: str, protocol: int, tmp_path: Path
) -> None:
    import pickle

    made = tmp_path / "made"
    text = base64.b64encode(pickle.dumps(Creates(made), protocol=protocol)).decode()
    with pytest.raises(ValueError, match=r"looks like a pickle, as virtex 0\.1 wrote"):
        _DECODERS[decoder](text)
    assert not made.exists()
    serial.decode_pickle(text, trusted=True)
    assert made.exists()  # so the payload was a real one


@pytest.mark.parametrize("decoder", _DECODERS)
@given(st.binary())
def test_bytes_at_random_are_a_value_error(decoder: str, body: bytes) -> None:
    with pytest.raises(ValueError, match="expected"):
        _DECODERS[decoder](base64.b64encode(body).decode())


@pytest.mark.parametrize("decoder", _DECODERS)
def test_what_is_no_base64_or_no_text_is_refused(decoder: str) -> None:
    with pytest.raises(ValueError, match="expected text in base64"):
        _DECODERS[decoder]("no base64!")
    with pytest.raises(TypeError, match="expected text in base64, got bytes"):
        _DECODERS[decoder](b"AAAA")  # type: ignore[arg-type]


@pytest.mark.parametrize("decoder", ["numpy", "pandas", "pil"])
def test_line_breaks_in_the_text_mean_nothing(decoder: str) -> None:
    text = _ENCODED[decoder]
    wrapped = "\r\n".join(text[start : start + 76] for start in range(0, len(text), 76))
    assert repr(_DECODERS[decoder](wrapped + "\n"))[:20] == repr(_DECODERS[decoder](text))[:20]


def test_a_message_of_arrays_comes_back() -> None:
    message = HttpMessage(data=[np.zeros((2, 2)), np.float32(1)])
    message.encode(serial.encode_numpy)
    assert message.validate()
    again = HttpMessage(**__import__("json").loads(message.json))
    again.decode(serial.decode_numpy)
    assert [array.shape for array in again.data] == [(2, 2), ()]


# The lint: nothing but virtex/serial/pickle.py reads or writes pickles.

_BANNED = {
    "_pickle", "cloudpickle", "cPickle", "dill", "jsonpickle", "joblib", "marshal", "pickle",
    "pickletools", "shelve",
}  # fmt: skip
_BANNED_CALLS = {
    "torch": {"load", "save"},
    "pandas": {"read_pickle", "to_pickle"},
    "pd": {"read_pickle", "to_pickle"},
}


def _pickles(source: str) -> Iterator[str]:
    """What in a module reads or writes pickles, by line."""
    for node in ast.walk(ast.parse(source)):
        match node:
            case ast.Import(names=names):
                found = [a.name for a in names if a.name.partition(".")[0] in _BANNED]
            case ast.ImportFrom(module=str(module), level=0, names=names):
                banned = _BANNED_CALLS.get(module.partition(".")[0], set())
                found = [module] if module.partition(".")[0] in _BANNED else []
                found += [a.name for a in names if a.name in banned]
            case ast.Constant(value=str(text)):  # for import_module and getattr
                found = [text] if text in _BANNED | {"read_pickle", "to_pickle"} else []
            case ast.keyword(arg="allow_pickle", value=value):
                safe = isinstance(value, ast.Constant) and value.value is False
                found = [] if safe else ["allow_pickle"]
            case ast.Attribute(attr="read_pickle" | "to_pickle" | "dump_pickle" as name):
                found = [name]
            case ast.Attribute(value=ast.Name(id=module), attr=name):
                found = [f"{module}.{name}"] if name in _BANNED_CALLS.get(module, set()) else []
            case _:
                found = []
        for name in found:
            yield f"line {getattr(node, 'lineno', '?')}: {name}"


def test_no_other_module_names_pickle() -> None:
    own = _ROOT / "src" / "virtex" / "serial" / "pickle.py"
    files = [path for part in ("src", "examples") for path in (_ROOT / part).rglob("*.py")]
    assert own in files and len(files) > 50
    found = {str(path): list(_pickles(path.read_text())) for path in files if path != own}
    assert {path: lines for path, lines in found.items() if lines} == {}
    assert list(_pickles(own.read_text())) == ["line 10: pickle"]


@pytest.mark.parametrize(
    "planted",
    [
        "import pickle",
        "import os, pickle as p",
        "from pickle import loads",
        "def f():\n    import cloudpickle.cloudpickle",
        "import dill",
        "from joblib import load",
        "import shelve",
        "import marshal",
        "import_module('pickle')",
        "__import__('_pickle')",
        "numpy.load(path, allow_pickle=True)",
        "numpy.load(path, allow_pickle=flag)",
        "pd.read_pickle(path)",
        "frame.to_pickle(path)",
        "from pandas import read_pickle",
        "torch.load(path)",
        "from torch import load",
        "getattr(frame, 'to_pickle')",
    ],
)
def test_the_lint_finds_a_planted_pickle(planted: str) -> None:
    assert list(_pickles(planted))


def test_the_lint_lets_what_is_safe_pass() -> None:
    safe = "from .pickle import decode_pickle\nnumpy.load(path, allow_pickle=False)\njson.load(f)"
    assert list(_pickles(safe)) == []
