"""A load test: messages sent at a fixed rate, whether the server keeps up or not."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from typing import Any

from headrace import LoadResult, LoadSettings, run_load_test

from ..core.message import HttpMessage, message_of, to_json

"""Of an answer that is no message, in its error."""


@dataclass(frozen=True, eq=False)
class LoadTestMetrics:
    """What a load test measured.

    A request counts as answered if its answer is a 2xx. Latencies are those of answered requests,
    in seconds from the instant at which a request was planned to be sent to its whole answer.
    The percentiles are by nearest rank: each is a latency that was measured.

    Attributes:
        num_requests: Messages that were to be sent.
        num_queries: Data elements in them.
        test_duration_seconds: From the first request's planned instant to the last one's end.
        client_requests_per_second: The rate of sending: sent requests but the first, by the time
            from the first to the last.
        server_requests_per_second: Answered requests, by the time from the first one's sending to
            the last answer.
        server_queries_per_second: Data elements in answered messages, by the same time.
        server_latency_mean_seconds: The mean latency; NaN, as all latencies, if none was answered.
        server_latency_std_seconds: The standard deviation.
        server_latency_max_seconds: The longest.
        server_latency_p50_seconds: The median.
        server_latency_p90_seconds: What 90 % of them do not exceed.
        server_latency_p95_seconds: What 95 % of them do not exceed.
        server_latency_p99_seconds: What 99 % of them do not exceed.
    """

    num_requests: int
    num_queries: int
    test_duration_seconds: float
    client_requests_per_second: float
    server_requests_per_second: float
    server_queries_per_second: float
    server_latency_mean_seconds: float
    server_latency_std_seconds: float
    server_latency_max_seconds: float
    server_latency_p50_seconds: float
    server_latency_p90_seconds: float
    server_latency_p95_seconds: float
    server_latency_p99_seconds: float

    def __eq__(self, other: object) -> bool:
        # By the dict: NaN is not equal to itself.
        return isinstance(other, LoadTestMetrics) and self.dict() == other.dict()

    __hash__ = None  # type: ignore[assignment]  # as of the dict

    def dict(self) -> dict[str, Any]:
        """The metrics as JSON has them: what does not exist is None."""
        return {
            name: None if isinstance(value, float) and math.isnan(value) else value
            for name, value in asdict(self).items()
        }

    @classmethod
    def build_from_dict(cls, values: Mapping[str, Any]) -> LoadTestMetrics:
        """The metrics of which `dict` gave these values.

        Raises:
            ValueError: A value is missing.
        """
        found = _take(values, [field.name for field in fields(cls)], cls.__name__)
        known: dict[str, Any] = {k: math.nan if v is None else v for k, v in found.items()}
        return cls(**known)


@dataclass
class LoadTestResult:
    """What came of a load test.

    Attributes:
        metrics: The rates and latencies.
        num_errors: How many responses have an error.
        responses: The answers, in the order of the messages; one that failed says why in its
            `error`.
    """

    metrics: LoadTestMetrics
    num_errors: int
    responses: list[HttpMessage]

    def dict(self) -> dict[str, Any]:
        """The result as JSON has it: `metrics`, `num_errors` and `responses`."""
        return {
            "metrics": self.metrics.dict(),
            "num_errors": self.num_errors,
            "responses": [dict(response) for response in self.responses],
        }

    @classmethod
    def build_from_dict(cls, values: Mapping[str, Any]) -> LoadTestResult:
        """The result of which `dict` gave these values.

        Raises:
            ValueError: A value is missing.
        """
        found = _take(values, ["metrics", "num_errors", "responses"], cls.__name__)
        return cls(
            metrics=LoadTestMetrics.build_from_dict(found["metrics"]),
            num_errors=found["num_errors"],
            responses=[HttpMessage(**response) for response in found["responses"]],
        )


class HttpLoadTest:
    """Sends messages at a fixed rate and measures how they are answered.

    Example:
        >>> messages = [HttpMessage(data=[1, 2])] * 20_000
        >>> result = HttpLoadTest().run("http://localhost:8081", messages)  # doctest: +SKIP
        >>> result.num_errors, result.metrics.server_latency_p99_seconds  # doctest: +SKIP
    """

    def run(
        self,
        url: str,
        messages: Sequence[Mapping[str, Any]],
        requests_per_second: float = 5000,
        *,
        progress: bool | None = None,
        **settings: Any,
    ) -> LoadTestResult:
        """Send each message at its planned instant, and wait for all answers.

        The load is open-loop: a request is due when it is due, however the server does, and its
        latency counts from then. It runs on a thread of its own, so it may be called where an
        event loop runs, such as in a notebook.

        Args:
            url: http or https.
            messages: At least one `HttpMessage`, or dict such as `{"data": [1, 2]}`. They are
                written as JSON once, before the clock starts.
            requests_per_second: The rate.
            progress: Whether a progress bar is drawn on standard error; None draws one on a
                terminal.
            **settings: Any other of headrace's `LoadSettings`: `max_connections` (256),
                `timeout_s` (60), `max_response_bytes`, `poisson_seed`, `headers`, `tls`, `uds`.

        Returns:
            The metrics, and a response for each message.

        Raises:
            ValueError: The URL or a setting is malformed, the host is unknown, there are no
                messages, or one holds NaN or infinity.
            TypeError: There is no such setting, or a message is none.
        """
        if isinstance(messages, Mapping):
            raise TypeError(f"messages: expected a list, got {type(messages).__name__}")
        messages = list(messages)
        elements = [_elements(message) for message in messages]
        found = run_load_test(
            url,
            _bodies(messages),
            LoadSettings(requests_per_second=requests_per_second, **settings),
            progress=progress,
        )
        responses = [_response(found, index) for index in range(len(found))]
        return LoadTestResult(
            metrics=_metrics(found, elements),
            num_errors=sum(response.error is not None for response in responses),
            responses=responses,
        )


def _bodies(messages: list[Mapping[str, Any]]) -> list[bytes]:
    """The messages as JSON; one that comes many times is written once."""
    written: dict[int, bytes] = {}
    bodies = []
    for message in messages:
        body = written.get(id(message))
        if body is None:
            body = written[id(message)] = to_json(message)
        bodies.append(body)
    return bodies


def _elements(message: Mapping[str, Any]) -> int:
    """How many elements a message has.

    Raises:
        TypeError: It is no message.
    """
    if not isinstance(message, dict):
        raise TypeError(f"expected an HttpMessage or a dict, got {type(message).__name__}")
    elements = message.get("data")
    if not isinstance(elements, list | None):
        raise TypeError(f"expected a list as `data`, got {type(elements).__name__}")
    return len(elements or ())


def _metrics(found: LoadResult, elements: Sequence[int]) -> LoadTestMetrics:
    num_answered = len(found) - len(found.errors)
    answered_elements = sum(
        count for index, count in enumerate(elements) if index not in found.errors
    )
    rate = found.answered_per_second
    latency = found.latency_s
    return LoadTestMetrics(
        num_requests=len(found),
        num_queries=sum(elements),
        test_duration_seconds=found.duration_s,
        client_requests_per_second=found.sent_per_second,
        server_requests_per_second=rate,
        server_queries_per_second=rate * answered_elements / num_answered if num_answered else 0.0,
        server_latency_mean_seconds=latency.mean,
        server_latency_std_seconds=latency.std,
        server_latency_max_seconds=latency.max,
        server_latency_p50_seconds=latency.p50,
        server_latency_p90_seconds=latency.p90,
        server_latency_p95_seconds=latency.p95,
        server_latency_p99_seconds=latency.p99,
    )


def _response(found: LoadResult, index: int) -> HttpMessage:
    """The answer as a message; with an error, if there is no answer or it is no message."""
    status, body, error, _ = found[index]
    return HttpMessage(error=error) if status == 0 else message_of(status, body)


def _take(values: Mapping[str, Any], names: Sequence[str], what: str) -> dict[str, Any]:
    """The named values.

    Raises:
        ValueError: One is missing.
    """
    missing = [name for name in names if name not in values]
    if missing:
        raise ValueError(f"{what}: expected {', '.join(names)}; missing: {', '.join(missing)}")
    return {name: values[name] for name in names}
