"""What all families share: base64 text, how bodies are told apart, and missing packages."""

from __future__ import annotations

import base64
import binascii
from collections.abc import Iterator
from contextlib import contextmanager

SIGNED = b"virtex-signed-1\n"
"""How a signed body of `virtex.serial.pickle` begins."""

_SPACE = b" \t\r\n\v\f"
_PICKLES = tuple(bytes([0x80, protocol]) for protocol in range(2, 6))
_FAMILIES = {
    "a .npy array": (b"\x93NUMPY",),
    "an Arrow stream": (b"\xff\xff\xff\xff",),
    "a PNG image": (b"\x89PNG\r\n\x1a\n",),
    "a TIFF image": (b"II*\0", b"MM\0*"),
    "a signed pickle": (SIGNED,),
    "a pickle": _PICKLES,
}


def to_text(body: bytes) -> str:
    """A body as text that can stand in JSON."""
    return base64.b64encode(body).decode("ascii")


def from_text(text: object, function: str) -> bytes:
    """The body in a text.

    Args:
        text: Base64, which may hold spaces and line breaks.
        function: Who asks, for the errors.

    Raises:
        TypeError: It is no text.
        ValueError: It is no base64.
    """
    if not isinstance(text, str):
        raise TypeError(f"{function}: expected text in base64, got {type(text).__name__}")
    try:
        packed = text.encode("ascii").translate(None, _SPACE)
        if len(packed) % 4 or packed.endswith(b"==="):  # which some Pythons let pass
            raise binascii.Error("Incorrect padding")
        return binascii.a2b_base64(packed, strict_mode=True)
    except UnicodeEncodeError as error:
        found = f"the character {text[error.start]!r} at position {error.start}"
        raise ValueError(f"{function}: expected text in base64, got {found}") from None
    except binascii.Error as error:
        raise ValueError(f"{function}: expected text in base64: {error}") from None


def family(body: bytes) -> str:
    """What a body looks like, by how it begins."""
    if looks_like_safetensors(body):
        return "safetensors"
    for name, beginnings in _FAMILIES.items():
        if body.startswith(beginnings):
            return name
    return "something unknown" if body else "nothing"


def looks_like_safetensors(body: bytes) -> bool:
    """Whether a body begins as safetensors do: the length of a JSON object, then the object."""
    return body[8:9] == b"{" and int.from_bytes(body[:8], "little") <= len(body) - 8


def wrong_family(body: bytes, *, expected: str, function: str) -> ValueError:
    """The error of a body that another function must decode."""
    found = family(body)
    hint = ""
    if found == "a pickle":
        hint = ", as virtex 0.1 wrote for every family, which can run any code when it is read: "
        hint += "let its sender write it anew with this version"
    return ValueError(f"{function}: expected {expected}, but this looks like {found}{hint}")


@contextmanager
def needed(function: str, packages: str, *, install: str) -> Iterator[None]:
    """Imports inside it that fail tell who needed the packages, and how to install them.

    Raises:
        ModuleNotFoundError: An import failed.
    """
    try:
        yield
    except ImportError as error:
        line = f"{function} needs {packages}: pip install {install}"
        raise ModuleNotFoundError(line, name=error.name) from error
