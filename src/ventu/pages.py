"""The pages of a service besides inference, for any server: each is a status, a type and bytes."""

from __future__ import annotations

import functools
import logging
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import msgspec
from prometheus_client import CollectorRegistry

from headrace import HeadraceError, docs_page

from . import openapi
from .bodies import JSON, Bodies, problem_body
from .config import Config
from .metrics import exposition
from .status import ServiceStatus, StatusEnum

HTML = "text/html; charset=utf-8"
CONTENT_POLICY = "default-src 'self' 'unsafe-inline' 'unsafe-eval' data: blob:"
"""Keeps the API pages from asking other hosts for anything, whatever their scripts would like."""

_ROUTES = {
    "health check": {openapi.HEALTH: "GET"},
    "metrics": {openapi.METRICS: "GET"},
    "inference": {openapi.INFERENCE: "POST"},
    "API document": {openapi.REDOC: "GET", openapi.SWAGGER: "GET"},
}

_log = logging.getLogger(__name__)


class Page(NamedTuple):
    """What a GET is answered."""

    media_type: str
    body: bytes
    status: int = 200
    headers: Mapping[str, str] = {}


class Pages:
    """The pages of one service.

    Args:
        bodies: Of the service; pages are in its format.
        registry: The metrics.
        health_check: Raises unless the model is well.
        config: Names the service.
    """

    def __init__(
        self,
        bodies: Bodies,
        registry: CollectorRegistry,
        health_check: Callable[[], Any],
        config: Config,
    ) -> None:
        self._bodies = bodies
        self._registry = registry
        self._health_check = health_check
        self._config = config
        self.routes: Mapping[str, Callable[[], Page]] = {
            openapi.HOME: self.home,
            openapi.HEALTH: self.health,
            openapi.METRICS: self.metrics,
            openapi.SPEC: self.spec,
            openapi.REDOC: functools.partial(self.documentation, "redoc"),
            openapi.SWAGGER: functools.partial(self.documentation, "swagger"),
        }

    def home(self) -> Page:
        """The routes."""
        return self._page(_ROUTES)

    def health(self) -> Page:
        """Whether the model is well, which a health check tells."""
        status = ServiceStatus(inference=StatusEnum.ok)
        try:
            self._health_check()
        except Exception as error:
            status.inference = StatusEnum.error
            _log.warning("the health check failed", exc_info=error)
        return self._page(status.model_dump(mode="json"))

    def metrics(self) -> Page:
        """What was counted."""
        return Page(*exposition(self._registry))

    def spec(self) -> Page:
        """The OpenAPI document."""
        return Page(JSON, self._spec)

    @functools.cached_property
    def _spec(self) -> bytes:
        bodies = self._bodies
        document = openapi.openapi_document(
            bodies.req_schema,
            bodies.resp_schema,
            ServiceStatus,
            media_type=bodies.media_type,
            config=self._config,
        )
        return msgspec.json.encode(document)

    def documentation(self, kind: str) -> Page:
        """A page that draws the document, with all that it needs within.

        Args:
            kind: "redoc" or "swagger".
        """
        try:
            body = docs_page(kind, openapi.SPEC)
        except HeadraceError as error:
            return self._page(problem_body(501, error.message), 501)
        return Page(HTML, body, headers={"content-security-policy": CONTENT_POLICY})

    def _page(self, value: Any, status: int = 200) -> Page:
        return Page(self._bodies.media_type, self._bodies.encode(value), status)
