"""The smallest model: it answers what it was sent.

    headrace serve examples/echo.py:Echo
    curl localhost:8000/predict --json '{"id": 7, "text": "water to the wheel"}'

What it costs is what headrace itself costs, so the benchmarks use it too.
"""

from typing import Any

from headrace import Model


class Echo(Model):
    """Answers what it was sent: any JSON value."""

    examples = ({"id": 7, "text": "water to the wheel"},)

    def predict(self, batch: list[Any]) -> list[Any]:
        """The batch as it is."""
        return batch
