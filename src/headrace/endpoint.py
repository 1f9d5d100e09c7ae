"""An endpoint: a model in a dialect. Every face meets the engine here."""

from __future__ import annotations

import logging
from collections.abc import Callable

from .call import INTERNAL_ERROR, Call, Failure, Outcome
from .card import ModelCard
from .clock import Deadline
from .config import Limits
from .dialects import Dialect, Formats, Request, body_limit, too_large
from .engine import Engine, Ticket

_log = logging.getLogger(__name__)

Reply = Callable[[Outcome], None]
"""Takes the one answer of a request."""


class Endpoint:
    """One model, asked in one dialect.

    Args:
        engine: The model's engine.
        dialect: How requests and answers look.
        limits: Of a body's size.
    """

    def __init__(self, engine: Engine, dialect: Dialect, limits: Limits) -> None:
        self.engine = engine
        self.dialect = dialect
        self._limits = limits

    @property
    def card(self) -> ModelCard:
        """The model's card."""
        return self.engine.card

    def max_body_bytes(self, content_type: str | None, accept: str | None) -> int:
        """The limit of a body, known from the headers alone, so that it is checked before memory.

        Raises:
            UnsupportedMediaType, NotAcceptable: The body need not be read at all.
        """
        formats = self.dialect.negotiate(self.card, content_type, accept)
        return body_limit(formats, self._limits)

    def submit(self, request: Request, deadline: Deadline, reply: Reply) -> Ticket | None:
        """Ask the model; `reply` is called once, with the answer or a failure.

        Args:
            request: What is asked.
            deadline: When nobody wants the answer any more.
            reply: Takes the answer; not called once the ticket is cancelled.

        Returns:
            The ticket to cancel the request by; None if it is answered already.

        Raises:
            RequestError: The envelope is malformed or over a limit.
            Unavailable: The model cannot take it now.
        """
        formats = self.dialect.negotiate(self.card, request.content_type, request.accept)
        limit = body_limit(formats, self._limits)
        if len(request.body) > limit:
            raise too_large(limit)
        payloads = self.dialect.cut(request, formats)
        if not payloads:
            reply(self.dialect.join((), formats, lenient=request.lenient))
            return None
        joint = _Joint(self.dialect, formats, request.lenient, len(payloads), reply)
        return self.engine.submit(Call(payloads=payloads, deadline=deadline), joint)


class _Joint:
    """A sink that joins a call's outcomes into one answer."""

    __slots__ = ("_dialect", "_formats", "_left", "_lenient", "_outcomes", "_reply")

    def __init__(
        self, dialect: Dialect, formats: Formats, lenient: bool, size: int, reply: Reply
    ) -> None:
        self._dialect = dialect
        self._formats = formats
        self._lenient = lenient
        self._outcomes: list[Outcome | None] = [None] * size
        self._left = size
        self._reply = reply

    def part(self, index: int, outcome: Outcome, last: bool) -> None:
        self._outcomes[index] = outcome
        self._left -= last
        if not self._left:
            self._reply(self._join([part for part in self._outcomes if part is not None]))

    def _join(self, outcomes: list[Outcome]) -> Outcome:
        try:
            return self._dialect.join(outcomes, self._formats, lenient=self._lenient)
        except Exception:
            # Without an answer the client would wait for ever.
            _log.exception("the answers cannot be joined")
            return Failure(code=INTERNAL_ERROR, message="headrace failed")
