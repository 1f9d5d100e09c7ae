"""The C library's heap, told to keep what large bodies and arrays come and go by.

By default glibc gives memory back to the system as soon as a few hundred kilobytes of it are free,
and gets it again for the next body, page by page: of what a body of 600 KB costs, that was most.
"""

from __future__ import annotations

import ctypes
import os

_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3
KEPT_BYTES = 64 * 1024 * 1024
"""Free memory at the heap's end that is kept."""
FROM_HEAP_BYTES = 32 * 1024 * 1024
"""Blocks up to this size are of the heap, others are the system's own; glibc allows no more."""

_OWN_SETTINGS = ("MALLOC_TRIM_THRESHOLD_", "MALLOC_MMAP_THRESHOLD_", "GLIBC_TUNABLES")


def keep_freed_memory() -> None:
    """Tell the heap; nothing where the operator has, or where it is not glibc's."""
    if any(name in os.environ for name in _OWN_SETTINGS):
        return
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError):
        return
    mallopt(_TRIM_THRESHOLD, KEPT_BYTES)
    mallopt(_MMAP_THRESHOLD, FROM_HEAP_BYTES)
