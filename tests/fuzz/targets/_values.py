"""Values drawn from an input's bytes: near to what a schema takes, so that the search gets far."""

from __future__ import annotations

from typing import Any

NAMES = (
    *("x", "y", "name", "points", "colour", "weights", "is_closed", "id", "tags", "at"),
    *("a", "b", "0", "", "$", "a.b", "[0]", "ключ", "`", "\n"),
)
SCALARS: tuple[Any, ...] = (
    *(None, True, False, 0, 1, -1, 3, 1.0, -0.5, 1e300, 5e-324, 2**53 + 1, 2**63 - 1, -(2**63)),
    *(2**63, 2**64 - 1, 2**64, -(2**63) - 1, 10**40, "", "a", "b", "red", "blue", "1", "YQ=="),
    *("é", "true", "null", "x" * 300, "\x00", "2024-05-06"),
)
_POINT = ("x", "y")
_SHAPE = ("name", "points", "colour", "weights", "is_closed")
_RECORD = ("id", "tags", "at")
MAX_LEVELS = 10


class Drawn:
    """Draws from bytes; where they are at their end, zeros follow.

    Args:
        data: The bytes.
    """

    def __init__(self, data: bytes) -> None:
        self._data = data
        self._at = 0

    @property
    def rest(self) -> bytes:
        """What was not drawn."""
        return self._data[self._at :]

    def number(self, below: int) -> int:
        """A number from 0 up to one below this, of one byte."""
        byte = self._data[self._at] if self._at < len(self._data) else 0
        self._at += 1
        return byte % below

    def piece(self, most: int) -> bytes:
        """Some bytes as they are."""
        size = self.number(most + 1)
        found = self._data[self._at : self._at + size]
        self._at += size
        return found

    def value(self, levels: int = MAX_LEVELS) -> Any:
        """What JSON can say."""
        kind = self.number(14)
        if kind < 6 or levels < 1 or self._at >= len(self._data):
            return SCALARS[self.number(len(SCALARS))]
        if kind == 6:
            return int.from_bytes(self.piece(12), "big", signed=True)
        if kind == 7:
            return self.piece(8).decode("utf-8", "replace")
        if kind < 10:
            return [self.value(levels - 1) for _ in range(self.number(5))]
        names: tuple[str, ...] = (NAMES, _POINT, _SHAPE, _RECORD)[kind - 10]
        if kind == 10:
            names = tuple(NAMES[self.number(len(NAMES))] for _ in range(self.number(5)))
        return {name: self._field(name, levels - 1) for name in names if self.number(8)}

    def _field(self, name: str, levels: int) -> Any:
        """Often what belongs there."""
        if self.number(4) == 0:
            return self.value(levels)
        if name in ("x", "id"):
            return self.number(100)
        if name == "y":
            return self.number(100) / 8
        if name == "name":
            return "n"
        if name in ("points", "tags"):
            each = self._point if name == "points" else lambda _: "t"
            return [each(levels) for _ in range(self.number(4))]
        if name == "weights":
            return {NAMES[self.number(len(NAMES))]: 0.5 for _ in range(self.number(3))}
        return {"colour": "red", "is_closed": True, "at": {"x": 1}}.get(name, 1)

    def _point(self, levels: int) -> Any:
        if self.number(4) == 0:
            return self.value(levels)
        return {name: self._field(name, levels - 1) for name in _POINT}
