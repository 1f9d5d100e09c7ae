"""Runs the handler as a server would, but without one.

    python -m pytest test_handler.py

It needs pytest, and this folder as the working directory.
"""

import tracemalloc

import numpy as np
from client import SENTENCES
from numpy.typing import NDArray
from server import MAX_BATCH_SIZE, handler

from virtex import HttpMessage
from virtex.serial import decode_numpy


def message_of(size: int) -> HttpMessage:
    """A message of texts of very different lengths."""
    return HttpMessage(data=[" ".join(SENTENCES[: 1 + n % 6]) for n in range(size)])


def vectors_of(message: HttpMessage) -> NDArray[np.float32]:
    """What the handler answers: a row for each text."""
    answer = handler.validate(message)
    assert answer
    answer.decode(decode_numpy)
    return np.stack(answer.data)


def test_one_text() -> None:
    """The fewest that a batch has."""
    assert handler.validate(message_of(1))


def test_as_many_texts_as_a_batch_may_have() -> None:
    """Each gets a vector of its own, of length 1."""
    vectors = vectors_of(message_of(MAX_BATCH_SIZE))
    assert vectors.shape == (MAX_BATCH_SIZE, 384)
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-5)


def test_a_text_is_answered_alike_in_any_batch() -> None:
    """Least of all may it matter how long the texts beside it are."""
    message = message_of(MAX_BATCH_SIZE)
    together = vectors_of(message)
    for element, vector in zip(message.data, together, strict=True):
        (alone,) = vectors_of(HttpMessage(data=[element]))
        np.testing.assert_allclose(alone, vector, atol=1e-5)


def test_memory_stays_flat() -> None:
    """Were a call's vector kept, or its tokens, the bound would be exceeded."""
    message = HttpMessage(data=[" ".join(SENTENCES[:3])])
    calls, vector_bytes = 100, 4 * 384
    tracemalloc.start()  # what Python and numpy allocate
    for _ in range(50):  # until what is kept for later calls is there
        assert handler.validate(message)
    before, _ = tracemalloc.get_traced_memory()
    for _ in range(calls):
        assert handler.validate(message)
    after, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert after - before < calls * vector_bytes / 4
