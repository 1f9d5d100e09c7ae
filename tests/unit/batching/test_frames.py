"""The largest batch that can be cut fits into one frame to a worker."""

from __future__ import annotations

import pytest

from headrace.batching import Batch, Item
from headrace.call import Payload
from headrace.config import Limits
from headrace.wire import Run
from headrace.wire.coding import encode
from headrace.wire.handshake import frame_limits

from .driver import Driver


@pytest.mark.parametrize("size", [1, 32, 65536])
def test_the_largest_batch_fits_into_a_frame(size: int) -> None:
    # One byte more than a multiple of 64 needs the most padding.
    body = bytes(65536 // size // 64 * 64 + 1)
    most = size * len(body)
    driver = Driver(max_batch_size=size, max_items=size, max_bytes=most)
    payload = payload_of(body)
    driver.submit(*(Item(payload, size_bytes=len(body)) for _ in range(size)))
    batch = driver.run()
    assert batch.count == size
    check_frame(batch, most)


def test_what_comes_back_fits_into_a_frame_however_much_it_is() -> None:
    most = 1024 * 1024
    driver = Driver(replicas=8, max_batch_size=32, max_bytes=most)
    payload = payload_of(bytes(most))
    for _ in range(8):
        driver.submit(Item(payload, size_bytes=most))
        driver.run()
    for replica in range(8):
        driver.batcher.lost(driver.now, replica, back_at=driver.now + 1)
    driver.batcher.ready(driver.now, 8)
    for batch in driver.runs():
        check_frame(batch, most)


def check_frame(batch: Batch, most: int) -> None:
    limits = Limits(max_queue_bytes=most, max_body_bytes=1, max_response_bytes=1)
    items = ((n, item.payload) for n, item in enumerate(batch.items))
    assert encode(Run(batch.id, tuple(items)), frame_limits(limits))


def payload_of(body: bytes) -> Payload:
    return Payload(body=body, input_type="application/octet-stream", output_type="text/plain")
