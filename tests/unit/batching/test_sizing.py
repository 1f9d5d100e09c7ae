"""Key and cost from what settings declare."""

from __future__ import annotations

from typing import Any

import pytest

from headrace.batching import key_and_cost
from headrace.call import Payload
from headrace.config import Batching


def payload(size: int, **fields: Any) -> Payload:
    return Payload(body=b"x" * size, input_type="text/plain", output_type="text/plain", **fields)


def test_without_declarations_all_bodies_are_alike_and_items_are_counted() -> None:
    assert key_and_cost(Batching(), payload(9)) == (None, 1.0)
    assert key_and_cost(Batching(), payload(9, count=3)) == (None, 3.0)


def test_a_key_that_the_payload_brings_is_kept() -> None:
    assert key_and_cost(Batching(), payload(9, key="a")) == ("a", 1.0)


def test_cost_may_be_the_bodys_bytes() -> None:
    assert key_and_cost(Batching(cost="bytes"), payload(9, count=3)) == (None, 9.0)


@pytest.mark.parametrize(
    ("size", "bucket"), [(0, 0), (9, 0), (10, 0), (11, 1), (20, 1), (21, 2), (10**6, 2)]
)
def test_a_bound_belongs_to_the_bucket_below_it(size: int, bucket: int) -> None:
    key, _ = key_and_cost(Batching(bucket_bytes=(10, 20)), payload(size))
    assert key == (bucket, None)


def test_bodies_in_different_buckets_or_with_different_keys_differ() -> None:
    batching = Batching(bucket_bytes=(10,))
    payloads = [payload(5), payload(15), payload(5, key="a"), payload(15, key="a")]
    assert len({key_and_cost(batching, one)[0] for one in payloads}) == 4
    assert key_and_cost(batching, payload(5)) == key_and_cost(batching, payload(9))
