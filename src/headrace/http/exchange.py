"""One predict request and its answer, whoever parsed it.

Everything that serves predictions makes an `Exchange` of its own kind; nothing below this package
knows whether a request came over ASGI, over the fast path, or from memory in a test.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import TYPE_CHECKING

from ..call import INTERNAL_ERROR, Failure, Outcome, Value
from ..clock import Instant
from ..dialects import too_large
from ..engine import Ticket
from ..errors import HeadraceError
from .errors import MethodNotAllowed, error_answer

if TYPE_CHECKING:
    from .predict import Plan, Predict

_log = logging.getLogger("headrace.requests")

Headers = Sequence[tuple[str, str]]


class Exchange:
    """A predict request from its head to its one answer; the way to send that is the subclass's.

    It is the sink of its own call: the engine tells it the outcome, nothing stands between.

    Attributes:
        received: When its head was read.
        is_done: Whether it was answered, or given up.

    Args:
        predict: Whose request it is.
        plan: What its head decided.
        received: When that was read.
    """

    __slots__ = ("_number", "_plan", "_predict", "_ticket", "is_done", "received")

    def __init__(self, predict: Predict, plan: Plan, received: Instant) -> None:
        self.received = received
        self.is_done = False
        self._predict = predict
        self._plan = plan
        self._number = next(predict.numbers)
        self._ticket: Ticket | None = None
        predict.counts.in_flight += 1

    def reply(self, status: int, media_type: str, body: bytes, headers: Headers = ()) -> None:
        """Send the answer; called once, unless the client went away before.

        Args:
            status: Of HTTP.
            media_type: What the body is.
            body: All of it.
            headers: Further ones, by name in lower case. The request's id is not among them.
        """
        raise NotImplementedError

    @property
    def request_id(self) -> str:
        """The client's own, or one that no other request has."""
        return self._plan.request_id or f"{self._predict.id_prefix}{self._number:x}"

    @property
    def max_body_bytes(self) -> int:
        """What the body may have."""
        return self._plan.max_body_bytes

    def is_refused(self) -> bool:
        """Whether the head alone was answered just now, with an error: the body is not wanted."""
        error = self._plan.error
        if error is not None:
            self.fail(error)
        return error is not None

    def run(self, body: bytes) -> None:
        """Ask the model: the body has been read."""
        plan = self._plan
        endpoint = plan.endpoint
        assert endpoint is not None  # or it would have been refused
        if len(body) > plan.max_body_bytes:
            self.fail(too_large(plan.max_body_bytes))
            return
        try:
            ticket = endpoint.submit(
                body,
                plan.formats,
                self.received + plan.timeout_s,
                self,
                lenient=plan.lenient,
                max_items=self._predict.limits.max_queue_items,
            )
        except HeadraceError as error:
            self.fail(error)
        except Exception:
            _log.exception("a request failed", extra={"request_id": self.request_id})
            self._answer(Failure(code=INTERNAL_ERROR, message="headrace failed"))
        else:
            if not self.is_done:
                self._ticket = ticket

    def part(self, index: int, outcome: Outcome, last: bool) -> None:
        """The engine's, or the dialect's, answer."""
        if last:
            self._answer(outcome)

    def fail(self, error: HeadraceError) -> None:
        """Answer with an error."""
        self._answer(Failure.of(error))

    def abandon(self) -> None:
        """The client went away: nobody wants the answer."""
        if self.is_done:
            return
        self.is_done = True
        ticket, self._ticket = self._ticket, None
        if ticket is not None:
            ticket.cancel()
        counts = self._predict.counts
        counts.in_flight -= 1
        counts.disconnects += 1

    def _answer(self, outcome: Outcome) -> None:
        if self.is_done:
            return
        self.is_done = True
        self._ticket = None  # it holds the body, and this: no circle shall keep them
        predict = self._predict
        predict.counts.in_flight -= 1
        duration_s = predict.clock() - self.received
        if type(outcome) is Value:
            predict.counts.answered(self._plan.route, outcome.status, duration_s)
            self.reply(outcome.status, outcome.media_type, outcome.body)
        else:
            self._refuse(outcome, duration_s)  # type: ignore[arg-type]  # the other of the two

    def _refuse(self, failure: Failure, duration_s: float) -> None:
        status, headers, body = error_answer(failure)
        (_, media_type), *more = headers
        endpoint = self._plan.endpoint
        if endpoint is not None:
            refusal = endpoint.dialect.refuse(failure, status, endpoint.card)
            if refusal is not None:
                status, media_type, body = refusal.status, refusal.media_type, refusal.body
        if failure.code == MethodNotAllowed.code:
            more.append(("allow", "POST"))
        self._predict.counts.answered(self._plan.route, status, duration_s)
        self._log_failure(failure, status, duration_s)
        self.reply(status, media_type, body, more)

    def _log_failure(self, failure: Failure, status: int, duration_s: float) -> None:
        """One record a failed request, but no more than a few a second for one reason."""
        held_back = self._predict.rate_limit.admit(self._predict.clock(), failure.code)
        if held_back is None:
            return
        endpoint = self._plan.endpoint
        extra = {
            "request_id": self.request_id,
            "model": None if endpoint is None else endpoint.card.name,
            "route": self._plan.route,
            "status": status,
            "code": failure.code,
            "error": failure.message[:256],
            "duration_s": round(duration_s, 6),
        }
        if failure.log is not None:
            extra["traceback"] = failure.log
        if held_back:
            extra["held_back"] = held_back
        level = logging.ERROR if status >= 500 and status != 503 else logging.WARNING
        _log.log(level, "request failed", extra=extra)
