"""Declared keys and costs, and a model's own functions, in a running engine."""

from __future__ import annotations

from typing import Any, ClassVar

import pytest

from headrace import Batching, Model, Payload
from headrace.testing import Client


class Sizes(Model):
    """Answers with how many shared its batch."""

    batching: ClassVar = Batching(bucket_bytes=(10,))

    def predict(self, batch: list[str]) -> list[int]:
        return [len(batch)] * len(batch)


class OwnKey(Sizes):
    def key(self, payload: Payload) -> Any:
        return "all alike"


class OwnCost(Sizes):
    batching: ClassVar = Batching(bucket_bytes=(10,), max_batch_cost=2)

    def cost(self, payload: Payload) -> float:
        return 2.0 if len(payload.body) > 10 else 0.5


class OwnKeyDeclaredCost(OwnKey):
    batching: ClassVar = Batching(cost="bytes", max_batch_cost=20)


SHORT, LONG = "x" * 4, "y" * 14


@pytest.mark.parametrize(
    ("model", "sizes"),
    [
        (Sizes, [2, 2, 2, 2]),
        # What the model defines goes before what is declared, and nothing else does.
        (OwnKey, [4, 4, 4, 4]),
        (OwnCost, [2, 1, 2, 1]),
        (OwnKeyDeclaredCost, [1, 1, 1, 1]),
    ],
    ids=lambda part: part.__name__ if isinstance(part, type) else "",
)
def test_declared_facts_hold_unless_the_model_defines_its_own(
    model: type[Model], sizes: list[int]
) -> None:
    with Client(model) as client:
        assert client.predict_many([SHORT, LONG, SHORT, LONG]) == sizes
