"""Runs the handler as a server would, but without one.

    python -m pytest test_handler.py

It needs pytest, and this folder as the working directory.
"""

import gc
import resource
from pathlib import Path

import numpy as np
from client import draw
from numpy.typing import NDArray
from server import MAX_BATCH_SIZE, handler

from virtex import HttpMessage
from virtex.serial import decode_numpy, encode_pil


def message_of(size: int) -> HttpMessage:
    """A message of images, of which every second one is upside down."""
    images = [draw(f"This is line {n}").rotate(180 * (n % 2)) for n in range(size)]
    message = HttpMessage(data=images)
    message.encode(encode_pil)
    return message


def probabilities_of(message: HttpMessage) -> NDArray[np.float32]:
    """What the handler answers: a row for each image."""
    answer = handler.validate(message)
    assert answer
    answer.decode(decode_numpy)
    return np.stack(answer.data)


def test_one_image() -> None:
    """The fewest that a batch has."""
    assert handler.validate(message_of(1))


def test_as_many_images_as_a_batch_may_have() -> None:
    """Each gets its own answer, and the right one."""
    upright, upside_down = probabilities_of(message_of(MAX_BATCH_SIZE)).T
    assert list(upside_down > upright) == [n % 2 == 1 for n in range(MAX_BATCH_SIZE)]


def test_an_image_is_answered_alike_in_any_batch() -> None:
    """What is sent beside an image must not change its answer."""
    message = message_of(MAX_BATCH_SIZE)
    together = probabilities_of(message)
    for element, answer in zip(message.data, together, strict=True):
        (alone,) = probabilities_of(HttpMessage(data=[element]))
        np.testing.assert_allclose(alone, answer, atol=1e-5)


def test_memory_stays_flat() -> None:
    """Were one image kept of each call, the bound would be exceeded at least twice over."""
    message = message_of(1)
    for _ in range(50):  # until the allocators have what they need
        assert handler.validate(message)
    calls, image_bytes = 500, len(draw("This is line 0").tobytes())
    before = resident_bytes()
    for _ in range(calls):
        assert handler.validate(message)
    assert resident_bytes() - before < calls * image_bytes / 2


def resident_bytes() -> int:
    """The memory that this process has on Linux, of Pillow and the network too."""
    gc.collect()
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * resource.getpagesize()
