"""What an input may take."""

from __future__ import annotations

import tracemalloc
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def at_most(size_bytes: int) -> Iterator[None]:
    """What is done inside takes no more memory than this at any time."""
    if not tracemalloc.is_tracing():  # to stop it again each time would leak
        tracemalloc.start(1)
    tracemalloc.reset_peak()
    before, _ = tracemalloc.get_traced_memory()
    try:
        yield
    finally:
        _, peak = tracemalloc.get_traced_memory()
        assert peak - before < size_bytes, peak - before
