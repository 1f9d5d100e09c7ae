"""The logger of virtex."""

from __future__ import annotations

import logging
import os

LOGGER = logging.getLogger("virtex")
"""Where virtex writes what it has to say; its level is the environment's `LOG_LEVEL`, if set."""

_level = os.environ.get("LOG_LEVEL", "").upper()
if _level in logging.getLevelNamesMapping():
    LOGGER.setLevel(_level)
elif _level:
    LOGGER.warning("LOG_LEVEL: expected a level such as INFO, got %r", _level)
