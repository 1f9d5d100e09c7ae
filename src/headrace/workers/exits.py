"""The exit codes of a worker: why it ended, where it could say so."""

from __future__ import annotations

import enum


class Exit(enum.IntEnum):
    """Exit codes; 0 after a drain, and what Python itself uses is left free."""

    STOPPED = 0
    CONFIG = 2
    """The target, or a setting of its model, is wrong: trying again brings the same."""
    LOAD_FAILED = 4
    """The model's load or its warm-up failed."""
    BROKEN = 5
    """The model fails on its own example, which it answered before."""
    PROTOCOL = 6
    """The other end broke the protocol, or did not prove itself."""
    FRONT_LOST = 7
    """The connection to the front ended."""
