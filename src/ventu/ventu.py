"""What a user writes: a model between a schema of requests and one of responses."""

from __future__ import annotations

import itertools
import logging
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, ClassVar

import falcon
from prometheus_client import CollectorRegistry
from pydantic import BaseModel, ValidationError

from headrace import Application, Batching, Model

from .asgi import BatchedService
from .batches import Failed, attempt, filled
from .bodies import Bodies
from .config import Config
from .examples import Pair, extra_of, pairs_of
from .metrics import process_time, worker_gauge
from .models import BodyModel, schema_model
from .pages import Pages
from .protocol import BatchProtocol
from .service import create_app
from .serving import HttpServer, stopped_by_signals


class Ventu:
    """A model that takes and gives what pydantic models say.

    Inherit it, and implement `inference` for the HTTP service, `batch_inference` for a worker
    behind the batching service (the ASGI application and `headrace serve` use it, too, where
    there is one), and `preprocess` and `postprocess` where they are needed.

    Args:
        req_schema: What a request is.
        resp_schema: What a response is.
        use_msgpack: Whether bodies are msgpack, in place of JSON.
        *args: Not used.
        **kwargs: Fields of `Config`.

    Attributes:
        batching: How the ASGI application and `headrace serve` put requests together.
        idempotent: Whether a batch that raised may be run again in parts, to find the request
            that did it; False fails the whole batch instead.
        req_example: The first example of a request; None without one.
        resp_example: What its response must be; None if that is not said.
        warmup_size: How many requests the health check of a batch has.
        config: Where it listens or connects, and what it is called.
        logger: For the user, too.
        metric_registry: What `/metrics` shows; the user's own metrics may be added.
        SINGLE_PROCESS_TIME: Seconds in each step of single requests.
        BATCH_PROCESS_TIME: Seconds in each step of batches.
        WORKER: How many serve, by protocol.

    Raises:
        ValueError: An argument is no field of `Config`, or has a wrong value.
        AssertionError: An example of a response has no request.

    Example:
        >>> class Text(BaseModel):
        ...     text: str
        ...     model_config = {"json_schema_extra": {"example": {"text": "hi"}}}
        >>> class Length(BaseModel):
        ...     length: int
        ...     model_config = {"json_schema_extra": {"example": {"length": 2}}}
        >>> class Measure(Ventu):
        ...     def inference(self, data):
        ...         return {"length": len(data.text)}
        >>> Measure(Text, Length).health_check()
        True
    """

    batching: ClassVar[Batching] = Batching()
    idempotent: ClassVar[bool] = True

    def __init__(
        self,
        req_schema: type[BaseModel],
        resp_schema: type[BaseModel],
        use_msgpack: bool = False,
        *args: Any,
        **kwargs: Any,
    ) -> None:
        self.req_schema = req_schema
        self.resp_schema = resp_schema
        self.use_msgpack = use_msgpack
        self.config = Config(**kwargs)
        self.logger = logging.getLogger(__name__)

        request_extra = extra_of(req_schema)
        self.examples: list[Pair] = pairs_of(request_extra, extra_of(resp_schema))
        self.req_example, self.resp_example = self.examples[0] if self.examples else Pair(None)
        self.warmup_size: int = request_extra.get("batch_size", 1)
        if type(self.warmup_size) is not int or self.warmup_size < 1:
            raise ValueError(f"batch_size: expected at least 1, got {self.warmup_size!r}")

        self.metric_registry = CollectorRegistry()
        self.SINGLE_PROCESS_TIME = process_time("single_process_time", self.metric_registry)
        self.BATCH_PROCESS_TIME = process_time("batch_process_time", self.metric_registry)
        self.WORKER = worker_gauge(self.metric_registry)

        self._bodies = Bodies(req_schema, resp_schema, use_msgpack)
        self._app: falcon.App[falcon.Request, falcon.Response] | None = None
        self._asgi_app: Application | None = None
        self._sock: BatchProtocol | None = None
        self._stops: list[Callable[[], None]] = []

    def preprocess(self, data: Any) -> Any:
        """One request as inference wants it.

        Args:
            data: An instance of `req_schema`.
        """
        return data

    def inference(self, data: Any) -> Any:
        """The model's output for one preprocessed request."""
        return data

    def batch_inference(self, batch: list[Any]) -> Any:
        """The model's outputs for preprocessed requests.

        Returns:
            As many, in their order: a list, or an array along the zeroth dimension.
        """
        return batch

    def postprocess(self, data: Any) -> Any:
        """One output as a response: a dict or a model, which `resp_schema` takes."""
        return data

    def health_check(self, batch: bool = False) -> bool | None:
        """Run the examples, which warms the model up as well.

        Args:
            batch: Whether to run them in batches of `warmup_size`, in place of one by one.

        Returns:
            True if they ran through; None if there is no example, which is logged.

        Raises:
            AssertionError: A response is another than its example; both are told.
            ValidationError: An example does not fit its schema.
            Exception: What the model raised.
        """
        if not self.examples:
            self.logger.info("no health check: the request's schema has no example")
            return None
        for request, response in self.examples:
            self.req_schema.model_validate(request)
            if response is not None:
                for each in response if self._is_each(response) else [response]:
                    self.resp_schema.model_validate(each)
        if batch:
            self._check_batches()
        else:
            for pair in self.examples:
                result = self._single_infer(self.req_schema.model_validate(pair.request))
                if pair.response is not None:
                    self._compare(pair.request, pair.response, result)
        return True

    @property
    def app(self) -> falcon.App[falcon.Request, falcon.Response]:
        """The service as a WSGI application, which runs `inference` for each request.

        The first use runs the health check, and raises what that raises.

        Raises:
            ValueError: The service asks for API keys, which only `asgi_app` does.
        """
        if self.config.keys_file is not None:
            raise ValueError("keys_file: expected none for `app`; serve `asgi_app` with API keys")
        if self._app is None:
            self.health_check()
            self._app = create_app(
                self._single_infer,
                self.metric_registry,
                self.health_check,
                self.req_schema,
                self.resp_schema,
                self.use_msgpack,
                self.config,
            )
        return self._app

    @property
    def asgi_app(self) -> Application:
        """The service as an ASGI application, which batches requests if the model can.

        That is, if it has a `batch_inference` of its own; the model runs on the event loop. The
        first use runs the health check, and raises what that raises.
        """
        if self._asgi_app is None:
            self._check_served()
            pages = Pages(self._bodies, self.metric_registry, self._check_served, self.config)
            model = BodyModel(self, self._served_infer)
            self._asgi_app = BatchedService(
                model, self._bodies, pages, self.WORKER, keys_file=self.config.keys_file
            )
        return self._asgi_app

    @property
    def sock(self) -> BatchProtocol:
        """The worker's side of the batching protocol, which runs `batch_inference`.

        The first use runs the health check of a batch, and raises what that raises.
        """
        if self._sock is None:
            self.health_check(batch=True)
            self._sock = BatchProtocol(
                self._batch_infer, self.req_schema, self.resp_schema, self.use_msgpack
            )
            self._sock.idempotent = self.idempotent
        return self._sock

    def run_http(self, host: str | None = None, port: int | None = None) -> None:
        """Serve `asgi_app`, until SIGINT or SIGTERM or `stop`.

        Args:
            host: To listen on; default that of `config`.
            port: To listen on; default that of `config`, and 0 takes a free one, which is logged.

        Raises:
            OSError: It cannot listen there.
        """
        place = self.config.host if host is None else host
        number = self.config.port if port is None else port
        with self._remembering_a_stop() as asked:
            app = self.asgi_app
            with HttpServer(app, place, number) as server, self._running(server.stop):
                if asked.is_set():
                    server.stop()
                self.logger.info("listens on %s", server.url)
                server.run()

    def run_unix(self, addr: str | None = None) -> None:
        """Work for a batching service on this machine, until SIGINT or SIGTERM or `stop`.

        Args:
            addr: The path of its socket; default that of `config`.
        """
        self._work(self.config.socket if addr is None else addr, "unix")

    def run_tcp(self, host: str | None = None, port: int | None = None) -> None:
        """Work for a batching service over TCP, until SIGINT or SIGTERM or `stop`.

        Args:
            host: Of the service; default that of `config`.
            port: Of the service; default that of `config`.
        """
        place = self.config.host if host is None else host
        self._work((place, self.config.port if port is None else port), "tcp")

    def stop(self) -> None:
        """Have the `run_...` that runs return, once it has answered what it was asked.

        From any thread.
        """
        for stop in list(self._stops):
            stop()

    def __headrace_model__(self) -> Model:
        """The model as headrace serves it: `headrace serve module:model`."""
        return schema_model(self, self._served_infer, self._check_served)

    def _work(self, addr: str | tuple[str, int], protocol: str) -> None:
        with self._remembering_a_stop() as asked:
            sock = self.sock
            with self._running(sock.stop), self.WORKER.labels(protocol).track_inprogress():
                if asked.is_set():
                    sock.stop()
                sock.run(addr, protocol)

    @contextmanager
    def _remembering_a_stop(self) -> Iterator[threading.Event]:
        """Whether `stop` was called: the first health check may take its time."""
        asked = threading.Event()
        with self._told(asked.set):
            yield asked

    def _single_infer(self, data: Any) -> Any:
        time = self.SINGLE_PROCESS_TIME.labels
        with time("preprocess").time():
            data = self.preprocess(data)
        with time("inference").time():
            data = self.inference(data)
        with time("postprocess").time():
            return self.postprocess(data)

    def _batch_infer(self, batch: list[Any]) -> list[Any]:
        """Each request's response, or `Failed` where pre- or postprocess raised."""
        time = self.BATCH_PROCESS_TIME.labels
        with time("preprocess").time():
            items = [attempt(self.preprocess, data) for data in batch]
        ready = [item for item in items if not isinstance(item, Failed)]
        if ready:
            with time("inference").time():
                items = filled(items, self.batch_inference(ready))
        with time("postprocess").time():
            return [attempt(self.postprocess, item) for item in items]

    @property
    def _is_batched(self) -> bool:
        return getattr(self.batch_inference, "__func__", None) is not Ventu.batch_inference

    def _served_infer(self, batch: list[Any]) -> list[Any]:
        """What headrace's engine runs."""
        if self._is_batched:
            return self._batch_infer(batch)
        return [attempt(self._single_infer, data) for data in batch]

    def _check_served(self) -> bool | None:
        """The health check of what headrace's engine runs."""
        return self.health_check(batch=True) if self._is_batched else self.health_check()

    def _check_batches(self) -> None:
        """Run batches of `warmup_size` until each example has been in one."""
        size, together = self.warmup_size, list[Pair]()
        for pair in self.examples:
            if self._is_each(pair.response):
                self._check_each(pair)
            else:
                together.append(pair)
        wanted = -(-len(together) // size) * size
        pairs = list(itertools.islice(itertools.cycle(together), wanted))
        for begin in range(0, wanted, size):
            part = pairs[begin : begin + size]
            results = self._run_batch([pair.request for pair in part])
            for pair, result in zip(part, results, strict=True):
                if pair.response is not None:
                    self._compare(pair.request, pair.response, result)

    def _check_each(self, pair: Pair) -> None:
        """Run a batch of one request, which has an example for each of its responses."""
        results = self._run_batch([pair.request] * self.warmup_size)
        if len(pair.response) > len(results):
            raise AssertionError(
                f"expected a batch_size of at least {len(pair.response)}, as there are so many"
                f" responses in the example, got {len(results)}"
            )
        for expected, result in zip(pair.response, results, strict=False):
            self._compare(pair.request, expected, result)

    def _run_batch(self, requests: list[Any]) -> list[Any]:
        results = self._batch_infer([self.req_schema.model_validate(each) for each in requests])
        for result in results:
            if isinstance(result, Failed):
                raise result.error
        return results

    def _is_each(self, response: Any) -> bool:
        """Whether an example is a list of a batch's responses, and not one that is a list."""
        if not isinstance(response, list):
            return False
        try:
            self.resp_schema.model_validate(response)
        except ValidationError:
            return True
        return False

    def _compare(self, request: Any, expected: Any, result: Any) -> None:
        plain = self._bodies.plain
        found = plain(result)
        if found == plain(expected):
            return
        # A model has its defaults, which an example may leave out.
        if isinstance(result, BaseModel):
            complete = self.resp_schema.model_validate(expected)
            if found == plain(complete):
                return
        raise AssertionError(f"expected {expected!r}, got {result!r} for {request!r}")

    @contextmanager
    def _running(self, stop: Callable[[], None]) -> Iterator[None]:
        with self._told(stop), stopped_by_signals(stop):
            yield

    @contextmanager
    def _told(self, stop: Callable[[], None]) -> Iterator[None]:
        """Have `self.stop` call this."""
        self._stops.append(stop)
        try:
            yield
        finally:
            self._stops.remove(stop)
