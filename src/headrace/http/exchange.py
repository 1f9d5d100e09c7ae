"""One predict request and its answer, whoever parsed it.

Everything that serves predictions makes an `Exchange` of its own kind; nothing below this package
knows whether a request came over ASGI, over the fast path, or from memory in a test.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import TYPE_CHECKING

import msgspec

from ..call import INTERNAL_ERROR, Failure, Outcome, Value
from ..clock import Instant
from ..dialects import too_large
from ..engine import Ticket
from ..errors import HeadraceError, RateLimited, Unauthenticated
from .budget import COUNTED_BYTES
from .errors import MethodNotAllowed, error_answer

if TYPE_CHECKING:
    from .predict import Plan, Predict

_log = logging.getLogger("headrace.requests")

Headers = Sequence[tuple[str, str]]

_TELL_PEER = frozenset((Unauthenticated.code, RateLimited.code))
"""Failures whose record names the client's address."""


class Exchange(msgspec.Struct, eq=False):
    """A predict request from its head to its one answer; the way to send that is the subclass's.

    It is the sink of its own call: the engine tells it the outcome, nothing stands between.

    Attributes:
        predict: Whose request it is.
        plan: What its head decided.
        received: When that was read.
        number: Unlike any other request's.
        ticket: Its call, while that is not answered.
        is_done: Whether it was answered, or given up.
        held_bytes: What it has of the server's budget of bodies.
    """

    predict: Predict
    plan: Plan
    received: Instant
    number: int
    ticket: Ticket | None = None
    is_done: bool = False
    held_bytes: int = 0

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
    def address(self) -> str:
        """The client's address; empty where there is none."""
        return ""

    @property
    def request_id(self) -> str:
        """The client's own, or one that no other request has."""
        return self.plan.request_id or f"{self.predict.id_prefix}{self.number:x}"

    @property
    def peer(self) -> str | None:
        """The client that its connection is from, where that matters and is known."""
        return None

    def is_refused(self) -> bool:
        """Whether the head alone was answered just now, with an error: the body is not wanted."""
        error = self.plan.error
        if error is not None:
            self.fail(error)
        return error is not None

    def run(self, body: bytes) -> None:
        """Ask the model: the body has been read."""
        plan = self.plan
        endpoint = plan.endpoint
        assert endpoint is not None  # or it would have been refused
        try:
            if len(body) > plan.max_body_bytes:
                raise too_large(plan.max_body_bytes)
            ticket = endpoint.submit(
                self.predict.clock(),
                body,
                plan.formats,
                self.received + plan.timeout_s,
                self,
                lenient=plan.lenient,
                max_items=self.predict.limits.max_queue_items,
                priority=plan.priority,
                client=plan.client or self.peer,
            )
        except HeadraceError as error:
            self.fail(error)
        except Exception:
            _log.exception("a request failed", extra={"request_id": self.request_id})
            self.answer(Failure(code=INTERNAL_ERROR, message="headrace failed"))
        else:
            if not self.is_done:
                self.ticket = ticket

    def hold(self, size: int) -> None:
        """So much of the body has come.

        Raises:
            QueueFull: The server has no room for it.
        """
        if size > COUNTED_BYTES:
            self.predict.budget.take(size - self.held_bytes)
            self.held_bytes = size

    def let_go(self) -> None:
        """What it holds of the budget is free."""
        self.predict.budget.give_back(self.held_bytes)
        self.held_bytes = 0

    def part(self, index: int, outcome: Outcome, last: bool) -> None:
        """The engine's, or the dialect's, answer."""
        if last:
            self.answer(outcome)

    def fail(self, error: HeadraceError) -> None:
        """Answer with an error."""
        self.answer(Failure.of(error))

    def abandon(self) -> None:
        """The client went away: nobody wants the answer."""
        if self.is_done:
            return
        self.is_done = True
        ticket, self.ticket = self.ticket, None
        if ticket is not None:
            ticket.cancel()
        if self.held_bytes:
            self.let_go()
        self.predict.counts.disconnects += 1

    def answer(self, outcome: Outcome) -> None:
        """Answer, unless that was done, or the client went away."""
        if self.is_done:
            return
        self.is_done = True
        self.ticket = None  # it holds the body, and this: no circle shall keep them
        if self.held_bytes:
            self.let_go()
        duration_s = self.predict.clock() - self.received
        if isinstance(outcome, Value):
            self.plan.counts.answered(outcome.status, duration_s)
            self.reply(outcome.status, outcome.media_type, outcome.body)
        else:
            self._refuse(outcome, duration_s)

    def _refuse(self, failure: Failure, duration_s: float) -> None:
        status, headers, body = error_answer(failure)
        (_, media_type), *more = headers
        endpoint = self.plan.endpoint
        if endpoint is not None:
            refusal = endpoint.dialect.refuse(failure, status, endpoint.card)
            if refusal is not None:
                status, media_type, body = refusal.status, refusal.media_type, refusal.body
        if failure.code == MethodNotAllowed.code:
            more.append(("allow", "POST"))
        self.plan.counts.answered(status, duration_s)
        self._log_failure(failure, status, duration_s)
        self.reply(status, media_type, body, more)

    def _log_failure(self, failure: Failure, status: int, duration_s: float) -> None:
        """One record a failed request, but no more than a few a second for one reason."""
        held_back = self.predict.rate_limit.admit(self.predict.clock(), failure.code)
        if held_back is None:
            return
        endpoint = self.plan.endpoint
        extra = {
            "request_id": self.request_id,
            "model": None if endpoint is None else endpoint.card.name,
            "route": self.plan.route,
            "status": status,
            "code": failure.code,
            "error": failure.message[:256],
            "duration_s": round(duration_s, 6),
        }
        if self.plan.key is not None:
            extra["client"] = self.plan.key
        if failure.code in _TELL_PEER:
            extra["peer"] = self.address
        if failure.log is not None:
            extra["traceback"] = failure.log
        if held_back:
            extra["held_back"] = held_back
        level = logging.ERROR if status >= 500 and status != 503 else logging.WARNING
        _log.log(level, "request failed", extra=extra)
