"""An endpoint: a model in a dialect. Every face meets the engine here."""

from __future__ import annotations

import logging

from .call import INTERNAL_ERROR, Call, Failure, Outcome, Payload
from .card import ModelCard
from .clock import Deadline, Instant
from .config import Limits
from .dialects import Dialect, Formats, Request, body_limit
from .engine import Engine, Sink, Ticket

_log = logging.getLogger(__name__)


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

    def negotiate(self, content_type: str | None, accept: str | None) -> Formats:
        """The media types of a request and its answer, known from the headers alone.

        Raises:
            UnsupportedMediaType, NotAcceptable: The body need not be read at all.
        """
        return self.dialect.negotiate(self.card, content_type, accept)

    def max_body_bytes(self, formats: Formats) -> int:
        """The limit of a body, so that it is checked before memory is taken."""
        return body_limit(formats, self._limits)

    def submit(
        self,
        now: Instant,
        body: bytes,
        formats: Formats,
        deadline: Deadline,
        sink: Sink,
        *,
        lenient: bool = False,
        max_items: int | None = None,
        priority: int = 0,
        client: str | None = None,
    ) -> Ticket | None:
        """Ask the model; the sink is told one outcome: the answer, or a failure.

        Args:
            now: The instant of its arrival.
            body: What is asked, as it was sent.
            formats: What `negotiate` found.
            deadline: When nobody wants the answer any more.
            sink: Takes the answer; told nothing once the ticket is cancelled.
            lenient: Whether an answer with gaps is preferred to a failure.
            max_items: The most items that a call may have; None sets no bound.
            priority: As in `Call`.
            client: As in `Call`.

        Returns:
            The ticket to cancel the request by; None if it is answered already.

        Raises:
            RequestError: The envelope is malformed or over a limit.
            Unavailable: The model cannot take it now.
        """
        if self.dialect.is_one_payload:
            payload = Payload(body, formats.input_type, formats.output_type)
            return self.engine.post(now, payload, deadline, sink, priority, client)
        request = Request(body=body, lenient=lenient, max_items=max_items)
        payloads = self.dialect.cut(request, formats)
        if not payloads:
            sink.part(0, self.dialect.join((), formats, lenient=lenient), True)
            return None
        joint = _Joint(self.dialect, formats, lenient, len(payloads), sink)
        return self.engine.submit(Call(payloads, deadline, priority, client), joint)


class _Joint:
    """A sink that joins a call's outcomes into one answer."""

    __slots__ = ("_dialect", "_formats", "_left", "_lenient", "_outcomes", "_sink")

    def __init__(
        self, dialect: Dialect, formats: Formats, lenient: bool, size: int, sink: Sink
    ) -> None:
        self._dialect = dialect
        self._formats = formats
        self._lenient = lenient
        self._outcomes: list[Outcome | None] = [None] * size
        self._left = size
        self._sink = sink

    def part(self, index: int, outcome: Outcome, last: bool) -> None:
        self._outcomes[index] = outcome
        self._left -= last
        if not self._left:
            joined = self._join([part for part in self._outcomes if part is not None])
            self._sink.part(0, joined, True)

    def _join(self, outcomes: list[Outcome]) -> Outcome:
        try:
            return self._dialect.join(outcomes, self._formats, lenient=self._lenient)
        except Exception:
            # Without an answer the client would wait for ever.
            _log.exception("the answers cannot be joined")
            return Failure(code=INTERNAL_ERROR, message="headrace failed")
