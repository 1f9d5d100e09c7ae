"""Key and cost of a payload from what its settings declare; runs no code of the model's."""

from __future__ import annotations

import bisect
from collections.abc import Hashable

from ..call import Payload
from ..config import Batching


def key_and_cost(batching: Batching, payload: Payload) -> tuple[Hashable, float]:
    """Which items a payload may share a batch with, and what it adds to `max_batch_cost`.

    >>> payload = Payload(body=b"12345", input_type="text/plain", output_type="text/plain")
    >>> key_and_cost(Batching(bucket_bytes=(4, 8), cost="bytes"), payload)
    ((1, None), 5.0)
    """
    size = len(payload.body)
    key = payload.key
    if batching.bucket_bytes:
        key = (bisect.bisect_left(batching.bucket_bytes, size), key)
    return key, float(size if batching.cost == "bytes" else payload.count)
