"""The data plane: predict requests from their head to their answer, over any `Exchange`."""

from __future__ import annotations

import itertools
import logging
import math
import re
import secrets
from collections.abc import Iterable, Mapping
from typing import NamedTuple

from ..call import INTERNAL_ERROR, Failure, Outcome, Value
from ..clock import Clock, Deadline
from ..config import Limits
from ..dialects import MESSAGES, NATIVE, V1_DIALECT, Dialect, Request
from ..endpoint import Endpoint
from ..engine import Engine, Ticket
from ..errors import (
    HeadraceError,
    InvalidHeader,
    ModelNotFound,
    NotReady,
    UnsupportedMediaType,
    clip,
)
from ..logs import RateLimit
from ..metrics import HttpCounts
from .errors import Headers, HeadTooLarge, MethodNotAllowed, error_answer
from .exchange import Exchange

_log = logging.getLogger("headrace.requests")

ROUTES: Mapping[str, Dialect] = {
    "/predict": NATIVE,
    "/models/{name}/predict": NATIVE,
    "/v1/models/{name}:predict": V1_DIALECT,
    "/": MESSAGES,
    "/models/{name}/messages": MESSAGES,
}
"""The predict routes, and the dialect of each. Those without a name are the first model's."""

ANY_ROUTE = "*"
"""What a server with a dialect of its own calls its one route."""

STARTING = "the server is starting: not every model is known yet"

_PATTERNS = {
    route: re.compile(re.escape(route).replace(re.escape("{name}"), r"([^/:]+)"))
    for route in ROUTES
}
_REQUEST_ID = re.compile(r"[A-Za-z0-9._:/+=@-]{1,128}")
_LENIENT = re.compile(r"(?:^|[,;\s])handling\s*=\s*\"?lenient\b", re.IGNORECASE)


class Place(NamedTuple):
    """What a predict path leads to; no endpoint where there is no such model."""

    route: str
    endpoint: Endpoint | None


class Predict:
    """Knows the predict routes, and begins a `Prediction` for each request.

    Attributes:
        anywhere: Where every path leads if there is a `dialect`.

    Args:
        limits: Of requests.
        counts: Where answers are counted.
        clock: Tells the time.
        dialect: If given, every path leads to the first model, in this dialect.
    """

    def __init__(
        self, *, limits: Limits, counts: HttpCounts, clock: Clock, dialect: Dialect | None = None
    ) -> None:
        self.limits = limits
        self.counts = counts
        self.clock = clock
        self.rate_limit = RateLimit()
        self._dialect = dialect
        self.anywhere = Place(ANY_ROUTE, None)
        self._places: dict[str, Place] = {}
        self._is_complete = False
        self._id_prefix = secrets.token_hex(6)
        self._ids = itertools.count(1)

    def route(self, engines: Iterable[Engine], *, is_complete: bool) -> None:
        """Lead the predict paths to these engines, in place of those before.

        Args:
            engines: In the order of their models; the first is the default model's.
            is_complete: Whether there are no others. Until then an unknown name may become one,
                and nobody knows which model is the default.
        """
        places: dict[str, Place] = {}
        for engine in engines:
            if self._dialect is not None:
                self.anywhere = Place(ANY_ROUTE, Endpoint(engine, self._dialect, self.limits))
                break
            for route, dialect in ROUTES.items():
                if is_complete or "{name}" in route:
                    path = route.replace("{name}", engine.card.name)
                    places.setdefault(path, Place(route, Endpoint(engine, dialect, self.limits)))
        self._places, self._is_complete = places, is_complete

    def unknown(self) -> HeadraceError:
        """Why a path leads to no model."""
        if self._is_complete:
            return ModelNotFound("no model of this name is served here")
        return NotReady(STARTING)

    def find(self, method: str, path: str) -> Place | None:
        """What is at a path; None if it is no predict path at all."""
        if self._dialect is not None:
            return self.anywhere if method == "POST" else None
        if path == "/" and method != "POST":
            return None  # the page that tells what is served
        place = self._places.get(path)
        if place is not None:
            return place
        for route, pattern in _PATTERNS.items():
            if pattern.fullmatch(path):
                return Place(route, None)
        return None

    def begin(self, exchange: Exchange, place: Place) -> Prediction | None:
        """Look at a request's head; None if the head alone was answered, with an error."""
        request_id = request_id_of(exchange.headers) or f"{self._id_prefix}-{next(self._ids):x}"
        prediction = Prediction(self, exchange, place, request_id)
        try:
            prediction.check_head()
        except HeadraceError as error:
            prediction.fail(error)
            return None
        return prediction


class Prediction:
    """One predict request: its head, its body, its ticket and its one answer.

    Attributes:
        max_body_bytes: What its body may have, known once the head is checked.
    """

    def __init__(self, predict: Predict, exchange: Exchange, place: Place, request_id: str) -> None:
        self.max_body_bytes = 0
        self._predict = predict
        self._exchange = exchange
        self._place = place
        self._request_id = request_id
        self._deadline: Deadline = 0.0
        self._ticket: Ticket | None = None
        self._done = False
        predict.counts.in_flight += 1
        exchange.on_close(self.abandon)

    def check_head(self) -> None:
        """All that can be said without the body.

        Raises:
            HeadraceError: The request cannot be served.
        """
        exchange, limits = self._exchange, self._predict.limits
        headers = exchange.headers
        endpoint = self._place.endpoint
        check_head_size(headers, limits)
        if endpoint is None:
            raise self._predict.unknown()
        if exchange.method != "POST":
            raise MethodNotAllowed(f"expected POST, got {exchange.method[:16]}")
        self._deadline = exchange.received + timeout_of(headers, limits)
        check_content_encoding(headers)
        self.max_body_bytes = endpoint.max_body_bytes(
            headers.get("content-type"), headers.get("accept")
        )

    def run(self) -> None:
        """Ask the model; the exchange's body has been read."""
        exchange, endpoint = self._exchange, self._place.endpoint
        assert endpoint is not None
        headers = exchange.headers
        prefer = headers.get("prefer")
        request = Request(
            body=exchange.body,
            content_type=headers.get("content-type"),
            accept=headers.get("accept"),
            lenient=prefer is not None and _LENIENT.search(prefer) is not None,
            max_items=self._predict.limits.max_queue_items,
        )
        try:
            ticket = endpoint.submit(request, self._deadline, self._answer)
            if not self._done:
                self._ticket = ticket
        except HeadraceError as error:
            self.fail(error)
        except Exception:
            _log.exception("a request failed", extra={"request_id": self._request_id})
            self._answer(Failure(code=INTERNAL_ERROR, message="headrace failed"))

    def fail(self, error: HeadraceError) -> None:
        """Answer with an error."""
        self._answer(Failure.of(error))

    def abandon(self) -> None:
        """The client went away: nobody wants the answer."""
        if self._done:
            return
        self._done = True
        if self._ticket is not None:
            self._ticket.cancel()
            self._ticket = None
        counts = self._predict.counts
        counts.in_flight -= 1
        counts.disconnects += 1

    def _answer(self, outcome: Outcome) -> None:
        if self._done:
            return
        self._done = True
        self._ticket = None  # it holds the body, and this: no circle shall keep them
        if isinstance(outcome, Value):
            status, body = outcome.status, outcome.body
            headers: Headers = [("content-type", outcome.media_type)]
        else:
            status, headers, body = error_answer(outcome)
            endpoint = self._place.endpoint
            if endpoint is not None:
                refusal = endpoint.dialect.refuse(outcome, status, endpoint.card)
                if refusal is not None:
                    status, body = refusal.status, refusal.body
                    headers[0] = ("content-type", refusal.media_type)
            if outcome.code == MethodNotAllowed.code:
                headers.append(("allow", "POST"))
        headers.append(("x-request-id", self._request_id))
        predict = self._predict
        duration_s = predict.clock() - self._exchange.received
        predict.counts.in_flight -= 1
        predict.counts.answered(self._place.route, status, duration_s)
        if not isinstance(outcome, Value):
            self._log_failure(outcome, status, duration_s)
        self._exchange.reply(status, headers, body)

    def _log_failure(self, failure: Failure, status: int, duration_s: float) -> None:
        """One record a failed request, but no more than a few a second for one reason."""
        held_back = self._predict.rate_limit.admit(self._predict.clock(), failure.code)
        if held_back is None:
            return
        endpoint = self._place.endpoint
        extra = {
            "request_id": self._request_id,
            "model": None if endpoint is None else endpoint.card.name,
            "route": self._place.route,
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


def request_id_of(headers: Mapping[str, str]) -> str | None:
    """The client's own request id, where it is one that can be echoed."""
    given = headers.get("x-request-id")
    return given if given is not None and _REQUEST_ID.fullmatch(given) else None


def timeout_of(headers: Mapping[str, str], limits: Limits) -> float:
    """The seconds that the caller gives, or the default; cut to the server's maximum.

    Raises:
        InvalidHeader: X-Request-Timeout is no positive number.
    """
    text = headers.get("x-request-timeout")
    if text is None:
        return limits.request_timeout_s
    try:
        seconds = float(text)
    except ValueError:
        seconds = math.nan
    if not 0 < seconds < math.inf:
        raise InvalidHeader(
            f"X-Request-Timeout: expected seconds, a number more than 0, got {text[:32]!r}"
        )
    return min(seconds, limits.max_request_timeout_s)


def check_content_encoding(headers: Mapping[str, str]) -> None:
    """Raise UnsupportedMediaType for a compressed body: nothing here inflates one."""
    encoding = headers.get("content-encoding", "identity").strip().lower()
    if encoding not in ("", "identity"):
        raise UnsupportedMediaType(
            f"send the body without Content-Encoding, got '{clip(encoding)}'"
        )


def check_head_size(headers: Mapping[str, str], limits: Limits) -> None:
    """Raise HeadTooLarge if there are too many headers or too much in them."""
    if len(headers) > limits.max_headers:
        raise HeadTooLarge(f"expected at most {limits.max_headers} headers, got {len(headers)}")
    size = sum(len(name) + len(value) for name, value in headers.items())
    if size > limits.max_head_bytes:
        raise HeadTooLarge(f"expected headers of at most {limits.max_head_bytes} bytes, got more")
