"""The server: an ASGI application that answers messages."""

from __future__ import annotations

import atexit
import dataclasses
import functools
import os
import re
import socket
from collections.abc import Callable
from typing import Any

from headrace import Application, Auth, Fairness, Limits, Messages, Model, ServerSettings

from ..core.exporters import Exporter, check, exporter_of
from ..core.metrics import Counts, ServerCollector, Summed
from ..inference import MAX_BATCH_SIZE, RequestHandler, Stages, model_of

MAX_TIME_ON_QUEUE_S = 0.005
MAX_BODY_BYTES = 64 * 1024 * 1024
QUEUED_BATCHES, QUEUED_ELEMENTS = 16, 8192
"""How much may wait, where `max_queue_items` says nothing else: the larger of both."""

_UNNAMEABLE = re.compile(r"[^A-Za-z0-9._-]+")
_SPELLINGS = {
    "metrics_host": "prom_host",
    "metrics_port": "prom_port",
    "metrics_mode": "prom_mode",
    "metrics_interval": "prom_push_interval",
}


def http_server(
    name: str,
    handler: RequestHandler,
    max_batch_size: int = MAX_BATCH_SIZE,
    max_time_on_queue: float = MAX_TIME_ON_QUEUE_S,
    metrics_host: str | None = None,
    metrics_port: int | None = None,
    metrics_mode: str | None = None,
    metrics_interval: float | None = None,
    *,
    fixed_wait: bool = False,
    metrics_shared: bool = False,
    keys_file: str | None = None,
    **options: Any,
) -> MessageServer:
    """Make an ASGI application of a request handler.

    It answers a POST of a message, `{"data": [...]}`, at any path with a message that has as many
    elements, in their order. Made when its module is imported, it binds and starts nothing before
    a server such as gunicorn or uvicorn runs it, in each worker process anew.

    Args:
        name: Of the service, in errors and as the push gateway's job.
        handler: What answers. It runs on the server's event loop.
        max_batch_size: The most elements that `process_request` gets; of any number of messages.
        max_time_on_queue: Seconds that an element waits at most for the company of others while
            the handler is free. A bound, not a sleep: without `fixed_wait` nothing waits.
        metrics_host: Where metrics are scraped, or the push gateway's host; with or without
            `http://`. Default `http://127.0.0.1`.
        metrics_port: The gateway's port; or the first port for scraping, from which each worker
            process takes the next free one. Default 9090.
        metrics_mode: `scrape`, `push` or `off`. Default `scrape`.
        metrics_interval: Seconds between two pushes, at least. Default 0.01.
        fixed_wait: Whether an underfull batch waits for `max_time_on_queue` after all.
        metrics_shared: Whether one port for scraping tells of all worker processes.
        keys_file: A file of API keys, one of which each message must bring; `headrace serve`'s
            `auth.keys_file`. Default: none is asked for.
        **options: Fields of `headrace.Limits`, such as `max_queue_items` (default: 16 full
            batches, at least 8192 elements) or `max_body_bytes` (default 64 MiB), and of
            `headrace.Fairness`, such as `client_header`; and the names that the last four
            arguments had in virtex 0.1: `prom_host`, `prom_port`, `prom_mode` and
            `prom_push_interval`.

    Returns:
        The application. Called with no argument it returns itself, for `uvicorn --factory`.

    Raises:
        ValueError: An argument is out of its range, there is no such option, one is given in both
            spellings, or the mode is none of the three.
        TypeError: The handler is no `RequestHandler`.
    """
    given = {
        "metrics_host": metrics_host,
        "metrics_port": metrics_port,
        "metrics_mode": metrics_mode,
        "metrics_interval": metrics_interval,
    }
    metrics: dict[str, Any] = {}
    for spelling, old in _SPELLINGS.items():
        if old in options:
            if given[spelling] is not None:
                raise ValueError(f"{spelling}: expected it once, got {old} as well")
            given[spelling] = options.pop(old)
        if given[spelling] is not None:
            metrics[spelling] = given[spelling]
    if not isinstance(handler, RequestHandler):
        raise TypeError(f"handler: expected an instance of RequestHandler, got {handler!r:.80}")
    texts = {"name": name, **{k: metrics.get(k, "") for k in ("metrics_host", "metrics_mode")}}
    for argument, text in texts.items():
        if not isinstance(text, str):
            raise ValueError(f"{argument}: expected text, got {text!r}")
    if "metrics_port" in metrics:
        _check_range("metrics_port", metrics["metrics_port"], int, 0, 65535)
    if "metrics_interval" in metrics:
        _check_range("metrics_interval", metrics["metrics_interval"], float, 0, 86400)
    _check_range("max_batch_size", max_batch_size, int, 1, 65536)
    _check_range("max_time_on_queue", max_time_on_queue, float, 0, 60)
    options.setdefault("max_body_bytes", MAX_BODY_BYTES)
    options.setdefault("max_json_bytes", options["max_body_bytes"])
    options.setdefault("max_queue_items", max(QUEUED_ELEMENTS, QUEUED_BATCHES * max_batch_size))
    of_fairness = [field.name for field in dataclasses.fields(Fairness)]
    fairness = Fairness(**{name: options.pop(name) for name in of_fairness if name in options})
    known = [field.name for field in dataclasses.fields(Limits)]
    for option in options:
        if option not in known:
            names = ", ".join([*_SPELLINGS, *_SPELLINGS.values(), *known, *of_fairness])
            raise ValueError(f"{option}: no such option; there are {names}")
    return MessageServer(
        name,
        handler,
        max_batch_size=max_batch_size,
        max_batch_delay_s=max_time_on_queue if fixed_wait else 0.0,
        limits=Limits(**options),
        fairness=fairness,
        keys_file=keys_file,
        metrics=Metrics(shared=metrics_shared, **metrics),
    )


class MessageServer(Application):
    """What `http_server` makes.

    Args:
        name: Of the service.
        handler: What answers.
        max_batch_size: The most elements in a batch.
        max_batch_delay_s: How long an underfull batch waits for company.
        limits: Of requests and of the queue.
        fairness: Between clients.
        metrics: How its metrics get out.
        keys_file: Of API keys.
    """

    def __init__(
        self,
        name: str,
        handler: RequestHandler,
        *,
        max_batch_size: int,
        max_batch_delay_s: float,
        limits: Limits,
        fairness: Fairness,
        metrics: Metrics,
        keys_file: str | None = None,
    ) -> None:
        self.name = name
        self._model = functools.partial(
            model_of,
            handler,
            name=_UNNAMEABLE.sub("-", name).strip("-._").lower()[:128],
            max_batch_size=max_batch_size,
            max_batch_delay_s=max_batch_delay_s,
        )
        self._metrics = metrics
        self._exporter: Exporter | None = None
        self._counts = Counts()
        super().__init__(
            self._model(observe=self._observe),
            ServerSettings(
                executor="inline",
                limits=limits,
                fairness=fairness,
                auth=Auth(keys_file=keys_file),
            ),
            dialect=Messages(name),
        )

    def __headrace_model__(self) -> Model:
        """The handler with this server's batching, for `headrace serve module:app`."""
        return self._model()

    def __call__(self, scope: Any = None, receive: Any = None, send: Any = None) -> Any:
        """Serve a scope, as ASGI 3 asks or as ASGI 2 did; or, called as a factory, be itself."""
        if scope is None:
            return self
        if receive is None:
            return functools.partial(self.serve, scope)
        return self.serve(scope, receive, send)

    def on_startup(self) -> None:
        self._counts = Counts()
        instance = f"{socket.gethostname()}:{os.getpid()}"
        self._exporter = self._metrics.exporter(self.name, instance, self._read)
        self._exporter.start()
        # For a server that ends without telling.
        atexit.register(self._exporter.stop)

    def on_shutdown(self) -> None:
        if self._exporter is not None:
            atexit.unregister(self._exporter.stop)
            self._exporter.stop()
            self._exporter = None

    def _observe(self, stages: Stages) -> None:
        """A batch ran: on the event loop, which is the handler's thread, too."""
        counts, engine = self._counts, self.engines[0]
        counts.process_request_latency.observe(1e3 * stages.process_request_s)
        counts.run_inference_latency.observe(1e3 * stages.run_inference_s)
        counts.process_response_latency.observe(1e3 * stages.process_response_s)
        counts.inference_batch_size.observe(stages.size)
        counts.request_queue_size.observe(engine.queued_items)
        counts.response_queue_size.observe(engine.running_items)

    def _read(self) -> Counts:
        """What was counted by now; on any thread."""
        counts, http = self._counts, self.http_counts
        counts.requests = sum(list(http.requests.values()))
        engine_counts = self.engines[0].counts
        counts.queries = sum(list(engine_counts.items.values()))
        counts.queries_per_request = Summed(counts.requests, counts.queries)
        for histogram in list(http.request_s.values()):  # one, of the one route
            counts.server_latency = Summed(histogram.count, 1e3 * histogram.total)
        return counts


@dataclasses.dataclass(frozen=True, kw_only=True)
class Metrics:
    """How a server's metrics get out; the fields are arguments of `http_server`.

    Raises:
        ValueError: A field is out of its range.
    """

    metrics_host: str = "http://127.0.0.1"
    metrics_port: int = 9090
    metrics_mode: str = "scrape"
    metrics_interval: float = 0.01
    shared: bool = False

    def __post_init__(self) -> None:
        check(
            self.metrics_mode,
            host=self.metrics_host,
            port=self.metrics_port,
            interval_s=self.metrics_interval,
            shared=self.shared,
        )

    def exporter(self, name: str, instance: str, read: Callable[[], Counts]) -> Exporter:
        """What brings a worker process's metrics out, not started yet."""
        return exporter_of(
            self.metrics_mode,
            name=name,
            collector=ServerCollector(read, instance),
            instance=instance,
            host=self.metrics_host,
            port=self.metrics_port,
            interval_s=self.metrics_interval,
            shared=self.shared,
        )


def _check_range(name: str, value: Any, kind: type, least: float, most: float) -> None:
    kinds = (int, float) if kind is float else (int,)
    is_number = isinstance(value, kinds) and not isinstance(value, bool)
    if not is_number or not least <= value <= most:
        raise ValueError(f"{name}: expected {kind.__name__} of {least} to {most}, got {value!r}")
