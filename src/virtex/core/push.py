"""Metrics pushed to a gateway."""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Callable
from urllib.error import HTTPError
from urllib.request import Request, build_opener

from prometheus_client import CollectorRegistry, delete_from_gateway, push_to_gateway

from .logging import LOGGER
from .metrics import PushFailures

TIMEOUT_S = 1.0
"""A push that takes longer has failed."""

DELETE_TIMEOUT_S = 0.8
STOP_TIMEOUT_S = 0.9
"""A stop waits no longer for the last push to end, and for the group to be deleted."""

PAUSE_PER_CPU = 200.0
"""The pause after a push, at least, in units of its CPU time: it takes half a percent of a core.

A push takes 1 to 2 ms, mostly with the interpreter's lock held, and makes threads switch several
times: the serving thread loses more than that.
"""

BACKOFF_S = 0.1
MAX_BACKOFF_S = 5.0
"""The pause after failures doubles from the one to the other."""


class Push:
    """An exporter that pushes to a gateway from a daemon thread, and deletes its group at stop.

    A gateway that is absent, hangs or refuses costs its thread's time only: failures are counted,
    the first one is logged, and so is the recovery.

    Args:
        name: The service: the group's label `job`.
        registry: Whose metrics; `failures` among them.
        failures: Where failures are counted.
        instance: The group's label `instance`.
        gateway: The gateway's URL.
        interval_s: From the end of one push to the next; longer where pushing would take more than
            half a percent of a core, about four pushes a second.
    """

    def __init__(
        self,
        name: str,
        registry: CollectorRegistry,
        failures: PushFailures,
        instance: str,
        gateway: str,
        interval_s: float,
    ) -> None:
        self._name = name
        self._registry = registry
        self._failures = failures
        self._group = {"instance": instance}
        self.gateway = gateway
        self._interval_s = interval_s
        self._failed = 0
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="virtex-metrics", daemon=True)
        # An opener a push, as by default, may read the system's certificates for each.
        self._opener = build_opener()

    def start(self) -> None:
        self._thread.start()
        LOGGER.info("metrics of %s are pushed to %s", self._name, self.gateway)

    def stop(self) -> None:
        if not self._stopping.is_set():
            self._stopping.set()
            if self._thread.is_alive():
                self._thread.join(STOP_TIMEOUT_S)

    def _run(self) -> None:
        while not self._stopping.is_set():
            before = time.thread_time()
            self._push()
            least_s = PAUSE_PER_CPU * (time.thread_time() - before)
            self._stopping.wait(max(self._interval_s, self._backoff_s(), least_s))
        try:
            delete_from_gateway(self.gateway, self._name, self._group, DELETE_TIMEOUT_S, self._send)
        except Exception as error:
            LOGGER.warning("the metrics of %s stay at %s: %s", self._name, self.gateway, error)

    def _push(self) -> None:
        try:
            push_to_gateway(
                self.gateway, self._name, self._registry, self._group, TIMEOUT_S, self._send
            )
        except Exception as error:  # whatever it is, metrics must not end because of it
            self._failures.count += 1
            self._failed += 1
            if self._failed == 1:
                LOGGER.warning("metrics cannot be pushed to %s: %s", self.gateway, error)
        else:
            if self._failed:
                LOGGER.warning("metrics are pushed again after %d failures", self._failed)
            self._failed = 0

    def _backoff_s(self) -> float:
        """The pause that failures ask for; of random length, lest all workers come at once."""
        if not self._failed:
            return 0.0
        doublings = min(self._failed - 1, 16)
        longest_s = max(self._interval_s, MAX_BACKOFF_S)
        return min(longest_s, BACKOFF_S * 2.0**doublings) * random.uniform(0.5, 1.0)

    def _send(
        self,
        url: str,
        method: str,
        timeout: float | None,
        headers: list[tuple[str, str]],
        data: bytes,
    ) -> Callable[[], None]:
        def send() -> None:
            request = Request(url, data=data, headers=dict(headers), method=method)
            try:
                self._opener.open(request, timeout=timeout).close()
            except HTTPError as error:
                with error:  # it holds the connection
                    raise

        return send
