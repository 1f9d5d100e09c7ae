"""Many models for one server: `Echo0` to `Echo49`, and an echo of bytes."""

from __future__ import annotations

from typing import Any, ClassVar

from headrace import Model

MANY = 50


class _Echo(Model):
    """Gives back what it gets."""

    examples: ClassVar = [{"id": 7, "text": "water to the wheel"}]

    def predict(self, batch: list[Any]) -> list[Any]:
        return batch


class Bytes(Model):
    """Gives bytes back."""

    examples: ClassVar = [b"water"]

    def predict(self, batch: list[bytes]) -> list[bytes]:
        return batch


for _number in range(MANY):
    globals()[f"Echo{_number}"] = type(f"Echo{_number}", (_Echo,), {"name": f"echo{_number}"})
