"""The predict routes, and what a request's head decides before its body is read."""

from __future__ import annotations

import logging
import math
import re
import secrets
from collections.abc import Iterable, Mapping
from typing import NamedTuple

import msgspec

from ..auth import Keys
from ..card import ModelCard
from ..clock import Clock
from ..config import Fairness, Limits
from ..dialects import MESSAGES, NATIVE, V1_DIALECT, Dialect, Formats
from ..endpoint import Endpoint
from ..engine import Engine
from ..errors import (
    HeadraceError,
    InvalidHeader,
    ModelNotFound,
    NotReady,
    RateLimited,
    Unauthenticated,
    UnsupportedMediaType,
    clip,
)
from ..logs import RateLimit
from ..metrics import HttpCounts, RouteCounts
from ..rates import Rates
from .budget import Budget
from .errors import HeadTooLarge, MethodNotAllowed
from .fairness import client_of, priority_of

ROUTES: Mapping[str, Dialect] = {
    "/predict": NATIVE,
    "/models/{name}/predict": NATIVE,
    "/v1/models/{name}:predict": V1_DIALECT,
    "/": MESSAGES,
    "/models/{name}/messages": MESSAGES,
}
"""The predict routes, and the dialect of each. Those without a name are the first model's."""

PROBES = frozenset((b"/livez", b"/readyz"))
"""Pages that are answered to whom nothing else is: without a key, and beyond the connections."""

ANY_ROUTE = "*"
"""What a server with a dialect of its own calls its one route."""

STARTING = "the server is starting: not every model is known yet"

_PATTERNS = {
    route: re.compile(re.escape(route).replace(re.escape("{name}"), r"([^/:]+)"))
    for route in ROUTES
}
SAFE_ID = "[A-Za-z0-9._:/+=@-]{1,128}"
"""A client's request id that can be echoed, as a regular expression."""

_REQUEST_ID = re.compile(SAFE_ID)
_NUMBER = re.compile(r"[ \t]*[+-]?([0-9]+\.?[0-9]*|\.[0-9]+)(e[+-]?[0-9]+)?[ \t]*", re.IGNORECASE)
_LENIENT = re.compile(r"(?:^|[,;\s])handling\s*=\s*\"?lenient\b", re.IGNORECASE)


class Place(NamedTuple):
    """What a predict path leads to; no endpoint where there is no such model."""

    route: str
    endpoint: Endpoint | None


class Plan(msgspec.Struct, eq=False):
    """What the head of a predict request decides.

    Attributes:
        route: The pattern that its path matched.
        endpoint: Who serves it, if anybody does.
        generation: Of the routes by which that was found.
        counts: Of the route, and of the client if it has a name.
        card: The model's, by which the formats were found.
        key: The name of its API key; None where none is asked for.
        error: Why it cannot be served; then nothing below means anything.
        request_id: The client's own, where it gave one that can be echoed.
        timeout_s: From its arrival to its deadline.
        formats: Of its body and its answer.
        max_body_bytes: What its body may have.
        lenient: Whether an answer with gaps is preferred to a failure.
        client: Whose it is, by its key and what else its head says; else its connection may.
        priority: In steps.
    """

    route: str
    endpoint: Endpoint | None
    generation: int
    counts: RouteCounts
    card: ModelCard | None = None
    key: str | None = None
    error: HeadraceError | None = None
    request_id: str | None = None
    timeout_s: float = 0.0
    formats: Formats = Formats("", "")
    max_body_bytes: int = 0
    lenient: bool = False
    client: str | None = None
    priority: int = 0


class Predict:
    """Knows the predict routes, and plans what becomes of a request from its head.

    Attributes:
        anywhere: Where every path leads if there is a `dialect`.
        generation: Another number whenever paths lead elsewhere, or other keys are taken.
        keys: Of which each request must bring one; None where none is asked for.
        rates: How often each client may ask; None for any number of times.
        id_prefix: Of the ids of requests that bring none.

    Args:
        limits: Of requests.
        counts: Where answers are counted.
        clock: Tells the time.
        dialect: If given, every path leads to the first model, in this dialect.
        fairness: What tells clients apart; default `Fairness()`.
    """

    def __init__(
        self,
        *,
        limits: Limits,
        counts: HttpCounts,
        clock: Clock,
        dialect: Dialect | None = None,
        fairness: Fairness | None = None,
    ) -> None:
        self.limits = limits
        self.fairness = fairness or Fairness()
        self.counts = counts
        self.budget = Budget(limits.max_inflight_bytes, counts)
        self.clock = clock
        self.rate_limit = RateLimit(logger=logging.getLogger("headrace.requests"))
        self._dialect = dialect
        self.anywhere = Place(ANY_ROUTE, None)
        self._places: dict[str, Place] = {}
        self._is_complete = False
        self.generation = 0
        self.keys: Keys | None = None
        self.rates: Rates | None = None
        if limits.max_client_rate:
            self.rates = Rates(limits.max_client_rate, limits.max_client_burst)
        self.id_prefix = f"{secrets.token_hex(6)}-"

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
        self.generation += 1

    def take_keys(self, keys: Keys | None) -> None:
        """Ask for these keys from now on: a remembered head that brought another is forgotten."""
        self.keys = keys
        self.generation += 1

    def identify(self, headers: Mapping[str, str]) -> str | None:
        """The name of a request's key; None where none is asked for.

        Args:
            headers: By name in lower case.

        Raises:
            Unauthenticated: It brings none that is known.
        """
        keys = self.keys
        if keys is None:
            return None
        secret = secret_of(headers)
        name = None if secret is None else keys.find(secret)
        if name is None:
            self.counts.auth_failures["missing" if secret is None else "unknown"] += 1
            got = "none" if secret is None else "one that is not known here"
            raise Unauthenticated(
                "expected an API key, as 'Authorization: Bearer KEY' or 'X-API-Key: KEY',"
                f" got {got}"
            )
        return name

    def throttle(self, plan: Plan, address: str) -> RateLimited | None:
        """Why a request comes too soon after the client's others; None if it does not.

        Args:
            plan: What its head decided.
            address: The client's, by which those without a key are told apart.
        """
        rates = self.rates
        if rates is None:
            return None
        client = address if plan.key is None else f"key {plan.key}"
        wait_s = rates.take(client, self.clock())
        if not wait_s:
            return None
        most = self.limits.max_client_rate
        return RateLimited(f"expected at most {most:g} requests a second", retry_after_s=wait_s)

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

    def plan(self, place: Place, method: str, headers: Mapping[str, str]) -> Plan:
        """What a request's head decides, or why it cannot be served.

        It is the same for every request with this head, while the model has the same card and
        `generation` is the same.

        Args:
            place: What its path leads to.
            method: In upper case.
            headers: By name in lower case.
        """
        counts = self.counts.route(place.route)
        plan = Plan(place.route, place.endpoint, self.generation, counts)
        plan.request_id = request_id_of(headers)
        try:
            self._decide(plan, method, headers)
        except HeadraceError as error:
            plan.error = error
        return plan

    def _decide(self, plan: Plan, method: str, headers: Mapping[str, str]) -> None:
        """All that can be said without the body.

        Raises:
            HeadraceError: The request cannot be served.
        """
        endpoint = plan.endpoint
        check_head_size(headers, self.limits)
        plan.key = self.identify(headers)
        if plan.key is not None:
            plan.counts = self.counts.route(plan.route, plan.key)
        if endpoint is None:
            raise self.unknown()
        if method != "POST":
            raise MethodNotAllowed(f"expected POST, got {method[:16]}")
        plan.card = endpoint.card
        plan.timeout_s = timeout_of(headers, self.limits)
        check_codings(headers)
        plan.formats = endpoint.negotiate(headers.get("content-type"), headers.get("accept"))
        limit = endpoint.max_body_bytes(plan.formats)
        plan.max_body_bytes = min(limit, self.limits.max_inflight_bytes)
        prefer = headers.get("prefer")
        plan.lenient = prefer is not None and _LENIENT.search(prefer) is not None
        plan.client = client_of(headers, self.fairness, plan.key)
        plan.priority = priority_of(headers, self.fairness)

    def next_number(self) -> int:
        """A number for a request that begins."""
        self.counts.begun += 1
        return self.counts.begun


def request_id_of(headers: Mapping[str, str]) -> str | None:
    """The client's own request id, where it is one that can be echoed."""
    given = headers.get("x-request-id")
    return given if given is not None and _REQUEST_ID.fullmatch(given) else None


def secret_of(headers: Mapping[str, str]) -> str | None:
    """The API key that a request brings, of whatever worth; None without one."""
    given = headers.get("x-api-key")
    if given is not None:
        return given
    scheme, _, token = headers.get("authorization", "").partition(" ")
    return token.strip() if scheme.lower() == "bearer" else None


def timeout_of(headers: Mapping[str, str], limits: Limits) -> float:
    """The seconds that the caller gives, or the default; cut to the server's maximum.

    Raises:
        InvalidHeader: X-Request-Timeout is no positive number.
    """
    text = headers.get("x-request-timeout")
    if text is None:
        return min(limits.request_timeout_s, limits.max_request_timeout_s)
    # By itself, `float` would take 1_0 for ten.
    seconds = float(text) if _NUMBER.fullmatch(text) else math.nan
    if not 0 < seconds < math.inf:
        raise InvalidHeader(
            f"X-Request-Timeout: expected seconds, a number more than 0, got {text[:32]!r}"
        )
    return min(seconds, limits.max_request_timeout_s)


def check_codings(headers: Mapping[str, str]) -> None:
    """Refuse a compressed body: nothing here inflates one.

    Raises:
        InvalidHeader: It is compressed on its way.
        UnsupportedMediaType: It is compressed itself.
    """
    coding = headers.get("transfer-encoding", "chunked").strip().lower()
    if coding != "chunked":
        raise InvalidHeader(f"Transfer-Encoding: expected chunked alone, got '{clip(coding)}'")
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
