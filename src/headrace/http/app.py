"""The ASGI application: predict requests go to the data plane, everything else to Falcon."""

from __future__ import annotations

import importlib.resources
import itertools
import logging
from collections.abc import Collection
from typing import Any

import falcon
import falcon.asgi
import msgspec

from ..call import INTERNAL_ERROR, Failure
from ..errors import HeadraceError, NotReady, RequestError
from ..metrics.prometheus import Exposition
from .asgi import Receive, Scope, Send, serve_prediction
from .docs import CONTENT_POLICY, docs_page
from .errors import MethodNotAllowed, RouteNotFound, error_answer
from .openapi import openapi_document
from .predict import PROBES, STARTING, request_id_of
from .service import Service

_log = logging.getLogger(__name__)


OPERATORS_PATHS = frozenset(("/", "/metrics", "/models/{name}"))
"""Pages that are at the operators' own address alone, where there is one."""


class App:
    """All that a server answers over HTTP to its clients.

    Args:
        service: What it serves.
        has_admin: Whether operators have an address of their own.
    """

    def __init__(self, service: Service, *, has_admin: bool = False) -> None:
        self.predict = service.predict
        self._pages = pages(service, left_out=OPERATORS_PATHS if has_admin else ())

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            place = self.predict.find(scope["method"], scope["path"])
            if place is not None:
                await serve_prediction(self.predict, place, scope, receive, send)
                return
        await self._pages(scope, receive, send)


def pages(
    service: Service, *, left_out: Collection[str] = (), is_locked: bool = True
) -> falcon.asgi.App[Any, Any]:
    """The application of everything but predictions.

    Args:
        service: Of which they tell.
        left_out: Paths of pages that are not served.
        is_locked: Whether they ask for an API key where there are any.
    """
    middleware: Any = [_RequestIds(), *([_Locks(service)] if is_locked else ())]
    app = falcon.asgi.App(middleware=middleware)
    routes = _Pages(service)
    for path, suffix in (
        ("/", "root"),
        ("/livez", "livez"),
        ("/readyz", "readyz"),
        ("/health", "health"),
        ("/metrics", "metrics"),
        ("/openapi.json", "openapi"),
        ("/docs", "docs"),
        ("/redoc", "redoc"),
        ("/models/{name}", "model"),
    ):
        if path in left_out:
            continue
        setattr(routes, f"on_head_{suffix}", getattr(routes, f"on_get_{suffix}"))
        app.add_route(path, routes, suffix=suffix)
    app.add_error_handler(falcon.HTTPError, _answer_http_error)
    app.add_error_handler(HeadraceError, _answer_error)
    app.add_error_handler(Exception, _answer_unexpected)
    return app


class _Pages:
    """The responders of the pages; each is a GET."""

    def __init__(self, service: Service) -> None:
        self._service = service
        self._exposition = Exposition(service.engines, service.counts, service.collectors)
        root = importlib.resources.files(__package__).joinpath("page.html")
        self._root_page = root.read_bytes()

    async def on_get_root(self, req: falcon.asgi.Request, resp: falcon.asgi.Response) -> None:
        if "text/html" in req.accept:
            resp.content_type = falcon.MEDIA_HTML
            resp.data = self._root_page
        else:
            _set_json(resp, self._service.overview())

    async def on_get_livez(self, req: falcon.asgi.Request, resp: falcon.asgi.Response) -> None:
        if not self._service.is_live:
            resp.status = 503
        resp.content_type = falcon.MEDIA_TEXT
        resp.data = b"ok\n" if self._service.is_live else b"a replica hangs\n"

    async def on_get_readyz(self, req: falcon.asgi.Request, resp: falcon.asgi.Response) -> None:
        readiness = self._service.readiness()
        if not readiness["ready"]:
            resp.status = 503
            resp.set_header("retry-after", "1")
        _set_json(resp, readiness)

    async def on_get_health(self, req: falcon.asgi.Request, resp: falcon.asgi.Response) -> None:
        health = await self._service.health()
        is_well = self._service.is_complete and all(state == "ok" for state in health.values())
        if not is_well:
            resp.status = 503
        _set_json(resp, {"status": "ok" if is_well else "failing", "models": health})

    async def on_get_metrics(self, req: falcon.asgi.Request, resp: falcon.asgi.Response) -> None:
        if self._service.refresh is not None:
            await self._service.refresh()
        resp.content_type, resp.data = self._exposition.render(req.accept)

    async def on_get_openapi(self, req: falcon.asgi.Request, resp: falcon.asgi.Response) -> None:
        self._check_complete()
        cards = [engine.card for engine in self._service.engines]
        _set_json(resp, openapi_document(cards, version=self._service.version))

    async def on_get_docs(self, req: falcon.asgi.Request, resp: falcon.asgi.Response) -> None:
        self._check_complete()
        _set_docs(resp, "swagger")

    async def on_get_redoc(self, req: falcon.asgi.Request, resp: falcon.asgi.Response) -> None:
        self._check_complete()
        _set_docs(resp, "redoc")

    async def on_get_model(
        self, req: falcon.asgi.Request, resp: falcon.asgi.Response, name: str
    ) -> None:
        for engine in self._service.engines:
            if engine.card.name == name:
                _set_json(resp, self._service.describe(engine))
                return
        raise self._service.predict.unknown()

    def _check_complete(self) -> None:
        """Raise NotReady for a page that tells of all models while some are not known yet."""
        if not self._service.is_complete:
            raise NotReady(STARTING)


class _RequestIds:
    """Sends the client's request id back, or a new one."""

    def __init__(self) -> None:
        self._ids = itertools.count(1)

    async def process_response(
        self,
        req: falcon.asgi.Request,
        resp: falcon.asgi.Response,
        resource: object,
        req_succeeded: bool,
    ) -> None:
        resp.set_header(
            "x-request-id", request_id_of(dict(req.headers)) or f"page-{next(self._ids):x}"
        )


class _Locks:
    """Asks for an API key, where there are any, except at the probes."""

    def __init__(self, service: Service) -> None:
        self._service = service

    async def process_request(self, req: falcon.asgi.Request, resp: falcon.asgi.Response) -> None:
        predict = self._service.predict
        if predict.keys is None or req.path.encode() in PROBES:
            return
        try:
            predict.identify(req.headers_lower)
        except HeadraceError as error:
            held_back = predict.rate_limit.admit(predict.clock(), f"page {error.code}")
            if held_back is not None:
                extra = {"code": error.code, "peer": req.remote_addr, "held_back": held_back}
                _log.warning("a page was refused", extra=extra)
            raise


def _set_json(resp: falcon.asgi.Response, value: Any) -> None:
    resp.content_type = falcon.MEDIA_JSON
    resp.data = msgspec.json.encode(value)


def _set_docs(resp: falcon.asgi.Response, kind: str) -> None:
    resp.data = docs_page(kind)
    resp.content_type = falcon.MEDIA_HTML
    resp.set_header("content-security-policy", CONTENT_POLICY)


def _set_failure(resp: falcon.asgi.Response, failure: Failure) -> None:
    resp.status, headers, resp.data = error_answer(failure)
    for name, value in headers:
        resp.set_header(name, value)


async def _answer_http_error(
    req: falcon.asgi.Request, resp: falcon.asgi.Response, error: falcon.HTTPError, params: Any
) -> None:
    """Falcon's own errors (no such route, no such method, a bad header) in our form."""
    if error.status_code == 404:
        found: HeadraceError = RouteNotFound("nothing is served at this path")
    elif error.status_code == 405:
        found = MethodNotAllowed(f"expected GET, got {req.method[:16]}")
    else:
        found = RequestError(error.title or "the request cannot be read")
    _set_failure(resp, Failure.of(found))
    resp.status = error.status_code
    for name, value in dict(error.headers or ()).items():
        resp.set_header(name, value)


async def _answer_error(
    req: falcon.asgi.Request, resp: falcon.asgi.Response, error: HeadraceError, params: Any
) -> None:
    _set_failure(resp, Failure.of(error))


async def _answer_unexpected(
    req: falcon.asgi.Request, resp: falcon.asgi.Response, error: Exception, params: Any
) -> None:
    _log.error("a page failed", exc_info=error, extra={"path": req.path})
    _set_failure(resp, Failure(code=INTERNAL_ERROR, message="headrace failed"))
