"""What callers are told of a failed inference, and what the log has."""

from __future__ import annotations

import logging
import time

from headrace import RateLimit

from .bodies import BrokenResponse, Refused, refusal_of

MODEL_FAILED = "the model failed"


class Failures:
    """Logs each failure, a few times a second for one reason, and says what the caller is told.

    Args:
        logger: Where they are logged.
    """

    def __init__(self, logger: logging.Logger) -> None:
        self._logger = logger
        self._rate_limit = RateLimit()

    def told(self, error: Exception) -> Refused:
        """What the caller is told: the model's own words if it meant them for him, else little."""
        refusal = refusal_of(error)
        if refusal is not None:
            return refusal
        held_back = self._rate_limit.admit(time.monotonic(), type(error).__name__)
        if held_back is not None:
            more = f" ({held_back} such records were held back)" if held_back else ""
            if isinstance(error, BrokenResponse):
                self._logger.error("a response was not sent: %s%s", str(error)[:4096], more)
            else:
                self._logger.error("the model failed%s", more, exc_info=error)
        return Refused(500, {"title": "500 Internal Server Error"})
