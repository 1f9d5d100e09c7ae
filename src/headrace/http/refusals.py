"""What is refused before it is a request: counted, recorded, and given an id."""

from __future__ import annotations

import logging
import secrets
from typing import TYPE_CHECKING

from ..call import Failure
from ..clock import Clock
from ..errors import HeadraceError
from ..logs import RateLimit
from ..metrics import HttpCounts
from .errors import status_of

if TYPE_CHECKING:
    from .predict import Predict

_log = logging.getLogger("headrace.requests")

CLOSED = "closed"
"""The status of a connection that is closed without an answer."""


class Refusals:
    """Those of one server, whatever connection they come from.

    Args:
        counts: Where they are counted.
        rate_limit: Of their records.
        clock: Tells the time.
    """

    def __init__(self, counts: HttpCounts, rate_limit: RateLimit, clock: Clock) -> None:
        self._counts = counts
        self._rate_limit = rate_limit
        self._clock = clock
        self._id_prefix = f"refused-{secrets.token_hex(6)}-"

    @classmethod
    def beside(cls, predict: Predict) -> Refusals:
        """Those of the server of these predict requests."""
        return cls(predict.counts, predict.rate_limit, predict.clock)

    def tell(self, error: HeadraceError, peer: str, *, is_answered: bool) -> str:
        """Count and record one; returns its id.

        Args:
            error: Why it is refused.
            peer: The client's address.
            is_answered: Whether the client is told.
        """
        status = str(status_of(Failure.of(error))) if is_answered else CLOSED
        refused = self._counts.refused
        refused[status] += 1
        name = f"{self._id_prefix}{refused.total():x}"
        held_back = self._rate_limit.admit(self._clock(), error.code)
        if held_back is not None:
            extra: dict[str, object] = {
                "request_id": name,
                "peer": peer,
                "status": status,
                "code": error.code,
                "error": error.message,
            }
            if held_back:
                extra["held_back"] = held_back
            _log.warning("refused before it was a request", extra=extra)
        return name
