"""The service as a WSGI application, on Falcon."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

import falcon
from prometheus_client import CollectorRegistry
from pydantic import BaseModel

from headrace import Limits

from .bodies import Bodies, Refused, problem_of
from .config import Config
from .failures import Failures
from .metrics import validation_errors
from .openapi import INFERENCE
from .pages import Page, Pages
from .status import ServiceStatus, StatusEnum

__all__ = ["ServiceStatus", "StatusEnum", "create_app"]

_log = logging.getLogger(__name__)


def create_app(
    infer: Callable[[Any], Any],
    metric_registry: CollectorRegistry,
    health_check: Callable[[], Any],
    req_schema: type[BaseModel],
    resp_schema: type[BaseModel],
    use_msgpack: bool,
    config: Config,
) -> falcon.App[falcon.Request, falcon.Response]:
    """Make a Falcon application, which any WSGI server runs.

    Args:
        infer: Gives the response to one request, an instance of `req_schema`. It is called in the
            server's threads, by several at once if it has several.
        metric_registry: What `/metrics` shows.
        health_check: Raises unless the model is well; what it returns does not count.
        req_schema: What a request is.
        resp_schema: What a response is.
        use_msgpack: Whether bodies are msgpack, in place of JSON.
        config: Names the service in its API document.
    """
    bodies = Bodies(req_schema, resp_schema, use_msgpack)
    app = falcon.App(media_type=bodies.media_type)
    app.set_error_serializer(serializer(bodies))
    for path, page in Pages(bodies, metric_registry, health_check, config).routes.items():
        app.add_route(path, _PageResource(page))
    app.add_route(INFERENCE, _Inference(infer, bodies, metric_registry))
    return app


def serializer(bodies: Bodies) -> Callable[[Any, Any, falcon.HTTPError], None]:
    """What writes Falcon's own errors in the service's format."""

    def serialize(req: Any, resp: Any, error: falcon.HTTPError) -> None:
        resp.data = bodies.encode(problem_of(error))
        resp.content_type = bodies.media_type

    return serialize


def fill(resp: Any, page: Page) -> None:
    """Answer with a page."""
    resp.status = page.status
    resp.content_type = page.media_type
    resp.data = page.body
    for name, value in page.headers.items():
        resp.set_header(name, value)


class _PageResource:
    def __init__(self, page: Callable[[], Page]) -> None:
        self._page = page

    def on_get(self, req: falcon.Request, resp: falcon.Response) -> None:
        fill(resp, self._page())


class _Inference:
    def __init__(
        self, infer: Callable[[Any], Any], bodies: Bodies, registry: CollectorRegistry
    ) -> None:
        self._infer = infer
        self._bodies = bodies
        self._validation_errors = validation_errors(registry)
        self._failures = Failures(_log)
        self._max_bytes = Limits().max_body_bytes

    def on_post(self, req: falcon.Request, resp: falcon.Response) -> None:
        bodies = self._bodies
        resp.content_type = bodies.media_type
        try:
            bodies.check_type(req.content_type)
            resp.data = bodies.write(self._infer(bodies.read(self._body(req))))
        except Exception as error:
            refusal = self._failures.told(error)
            if refusal.status == 422:
                self._validation_errors.inc()
            if isinstance(error, falcon.HTTPError):
                raise  # with its headers
            resp.status = refusal.status
            resp.data = bodies.encode(refusal.http_body)

    def _body(self, req: falcon.Request) -> bytes:
        # A chunked body has no length; a server that takes one apart says that it ends by itself.
        length = req.content_length
        ends = length is None and req.env.get("wsgi.input_terminated", False)
        stream = req.stream if ends else req.bounded_stream
        too_large = Refused(413, f"expected a body of at most {self._max_bytes} bytes, got more")
        if length is not None and length > self._max_bytes:
            raise too_large
        try:
            body: bytes = stream.read(self._max_bytes + 1)
        except Exception:  # the server's own: the client sent chunks that are none, or went away
            raise Refused(400, "the body could not be read") from None
        if len(body) > self._max_bytes:
            raise too_large
        if length is not None and len(body) < length:
            raise Refused(400, f"expected a body of {length} bytes, got {len(body)}")
        return body
