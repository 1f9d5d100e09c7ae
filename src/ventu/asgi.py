"""The service as an ASGI application, whose requests are batched on its event loop."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import falcon
import falcon.asgi
from prometheus_client import Gauge

from headrace import (
    Application,
    Auth,
    Formats,
    ItemError,
    Model,
    Payload,
    Refusal,
    ServerSettings,
    Value,
)

from .bodies import Bodies, Refused, problem_body
from .openapi import INFERENCE
from .pages import Page, Pages
from .service import fill, serializer

_BYTES = "application/octet-stream"
_FORMATS = Formats(_BYTES, _BYTES)


class BatchedService(Application):
    """What `Ventu.asgi_app` is.

    The model runs on the event loop's thread, which serves nothing else meanwhile.

    Args:
        model: Takes and gives bodies.
        bodies: Of the service.
        pages: Of the service.
        gauge: Counts it as one worker while it runs.
        keys_file: Of API keys, one of which each inference must bring; None asks for none.
    """

    def __init__(
        self,
        model: Model,
        bodies: Bodies,
        pages: Pages,
        gauge: Gauge,
        *,
        keys_file: str | None = None,
    ) -> None:
        settings = ServerSettings(executor="inline", auth=Auth(keys_file=keys_file))
        super().__init__(model, settings, dialect=InferenceDialect(bodies))
        self._workers = gauge.labels("http")
        self._pages: falcon.asgi.App[Any, Any] = falcon.asgi.App(media_type=bodies.media_type)
        self._pages.set_error_serializer(serializer(bodies))
        for path, page in pages.routes.items():
            self._pages.add_route(path, _PageResource(page))

    def on_startup(self) -> None:
        self._workers.inc()

    def on_shutdown(self) -> None:
        self._workers.dec()

    async def serve(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] != "http":
            await super().serve(scope, receive, send)
            return
        path = scope["path"].removeprefix(scope.get("root_path", "")) or "/"
        if path == INFERENCE:
            await super().serve(scope, receive, send)
        else:
            await self._pages({**scope, "path": path, "root_path": ""}, receive, send)


class InferenceDialect:
    """A request is a body of the service's format, and its answer is one.

    Args:
        bodies: Of the service.
    """

    is_one_payload = False

    def __init__(self, bodies: Bodies) -> None:
        self._bodies = bodies

    def negotiate(self, card: Any, content_type: str | None, accept: str | None) -> Formats:
        try:
            self._bodies.check_type(content_type)
        except Refused as refusal:
            raise ItemError(refusal.problem, status=refusal.status) from None
        return _FORMATS

    def cut(self, request: Any, formats: Formats) -> tuple[Payload, ...]:
        return (Payload(body=request.body, input_type=_BYTES, output_type=_BYTES),)

    def join(self, outcomes: Sequence[Any], formats: Formats, *, lenient: bool) -> Any:
        (outcome,) = outcomes
        if isinstance(outcome, Value):
            return Value(outcome.body, self._bodies.media_type)
        return outcome

    def refuse(self, failure: Any, status: int, card: Any) -> Refusal:
        if failure.details and "body" in failure.details[0]:
            body = failure.details[0]["body"]
        else:
            body = problem_body(status, "" if status == 500 else failure.message)
        return Refusal(status, self._bodies.encode(body), self._bodies.media_type)


class _PageResource:
    def __init__(self, page: Callable[[], Page]) -> None:
        self._page = page

    async def on_get(self, req: falcon.asgi.Request, resp: falcon.asgi.Response) -> None:
        fill(resp, self._page())
