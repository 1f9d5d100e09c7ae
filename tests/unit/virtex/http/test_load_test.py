"""HttpLoadTest against servers that answer with messages, and others."""

from __future__ import annotations

import asyncio
import json
import math
from typing import Any

import pytest

from tests.unit.loadtest.server import Request, answer, serving
from virtex.http.load_test import HttpLoadTest, LoadTestMetrics, LoadTestResult
from virtex.http.message import HttpMessage

METRICS = [
    "num_requests",
    "num_queries",
    "test_duration_seconds",
    "client_requests_per_second",
    "server_requests_per_second",
    "server_queries_per_second",
    "server_latency_mean_seconds",
    "server_latency_std_seconds",
    "server_latency_max_seconds",
    "server_latency_p50_seconds",
    "server_latency_p90_seconds",
    "server_latency_p95_seconds",
    "server_latency_p99_seconds",
]


async def double(request: Request, writer: asyncio.StreamWriter) -> None:
    """Answer with twice each element."""
    data = json.loads(request.body)["data"] or []
    body = json.dumps({"data": [2 * element for element in data], "error": None})
    writer.write(answer(body.encode()))


async def refuse(request: Request, writer: asyncio.StreamWriter) -> None:
    """Answer with the body and the status that the message names."""
    body, status = json.loads(request.body)["data"]
    writer.write(answer(body.encode(), status))


def test_responses_are_messages_in_the_order_of_the_messages() -> None:
    messages = [HttpMessage(data=[index] * (index % 4)) for index in range(400)]
    with serving(double) as server:
        result = HttpLoadTest().run(server.url, messages, requests_per_second=2000)
    assert all(type(response) is HttpMessage for response in result.responses)
    assert [response.data for response in result.responses] == [
        [2 * element for element in message.data] for message in messages
    ]
    assert result.num_errors == 0
    metrics = result.metrics
    assert (metrics.num_requests, metrics.num_queries) == (400, 600)
    assert metrics.test_duration_seconds >= 399 / 2000
    assert 0 < metrics.client_requests_per_second < 1.5 * 2000
    ratio = metrics.server_queries_per_second / metrics.server_requests_per_second
    assert ratio == pytest.approx(1.5)
    assert (
        0
        < metrics.server_latency_p50_seconds
        <= metrics.server_latency_p90_seconds
        <= metrics.server_latency_p95_seconds
        <= metrics.server_latency_p99_seconds
        <= metrics.server_latency_max_seconds
        <= metrics.test_duration_seconds
    )
    assert 0 < metrics.server_latency_mean_seconds < metrics.server_latency_max_seconds
    assert 0 < metrics.server_latency_std_seconds < metrics.server_latency_max_seconds


def test_dicts_are_messages_too_and_extra_keys_are_sent() -> None:
    with serving(double) as server:
        messages: list[dict[str, Any]] = [{"data": [1, 2]}, {"data": None, "user": "ann"}]
        result = HttpLoadTest().run(server.url, messages)
    assert [response.data for response in result.responses] == [[2, 4], []]
    assert result.metrics.num_queries == 2
    sent = [json.loads(body) for body in server.bodies]
    assert {"data": None, "user": "ann"} in sent


def test_one_message_may_be_sent_many_times() -> None:
    with serving(double) as server:
        result = HttpLoadTest().run(server.url, [HttpMessage(data=[4])] * 50)
    assert result.responses == [{"data": [8], "error": None}] * 50


@pytest.mark.parametrize(
    ("body", "status", "error"),
    [
        (
            '{"data": [], "error": "echo caught exception: no"}',
            "500 X",
            "echo caught exception: no",
        ),
        ('{"data": [], "error": "no, but politely"}', "200 OK", "no, but politely"),
        ('{"data": [], "error": null}', "503 X", "503 Service Unavailable"),
        ("<h1>Bad gateway</h1>", "502 X", "502 Bad Gateway"),
        ("", "500 X", "500 Internal Server Error"),
        ("[1, 2]", "200 OK", "expected a message (a JSON object), got a list"),
        ("x" * 5000, "200 OK", "expected a message (a JSON object), got no JSON"),
    ],
    ids=["own", "own-200", "null", "html", "empty", "list", "long"],
)
def test_a_failed_request_says_what_happened(body: str, status: str, error: str) -> None:
    with serving(refuse) as server:
        result = HttpLoadTest().run(server.url, [HttpMessage(data=[body, status])])
    assert result.responses == [{"data": [], "error": error}]
    assert result.num_errors == 1


def test_failed_requests_count_in_no_rate_and_no_latency() -> None:
    async def half(request: Request, writer: asyncio.StreamWriter) -> None:
        (number,) = json.loads(request.body)["data"]
        if number % 2:
            writer.close()
        else:
            await double(request, writer)

    messages = [HttpMessage(data=[number]) for number in range(100)]
    with serving(half) as server:
        result = HttpLoadTest().run(server.url, messages, 1000)
    assert result.num_errors == 50
    assert all(response.error for response in result.responses[1::2])
    assert [response.data for response in result.responses[::2]] == [
        [2 * number] for number in range(0, 100, 2)
    ]
    metrics = result.metrics
    assert (metrics.num_requests, metrics.num_queries) == (100, 100)
    assert metrics.server_requests_per_second == pytest.approx(metrics.server_queries_per_second)
    assert 0 < metrics.server_requests_per_second < 0.75 * 1000


def test_a_result_goes_through_json_and_back() -> None:
    async def half(request: Request, writer: asyncio.StreamWriter) -> None:
        if b"7" in request.body:
            writer.close()
        else:
            await double(request, writer)

    with serving(half) as server:
        messages = [HttpMessage(data=[number, "a"], user="ann") for number in range(10)]
        result = HttpLoadTest().run(server.url, messages)
    values = json.loads(json.dumps(result.dict()))
    assert list(values) == ["metrics", "num_errors", "responses"]
    assert list(values["metrics"]) == METRICS
    again = LoadTestResult.build_from_dict(values)
    assert again == result
    assert all(type(response) is HttpMessage for response in again.responses)
    assert LoadTestMetrics.build_from_dict(result.metrics.dict()) == result.metrics
    assert again.responses[7].error == result.responses[7].error
    assert again.responses[7].error


def test_latencies_that_do_not_exist_are_nan_and_null_in_json() -> None:
    async def never(request: Request, writer: asyncio.StreamWriter) -> None:
        writer.close()

    with serving(never) as server:
        result = HttpLoadTest().run(server.url, [HttpMessage(data=[1])] * 3)
    assert result.num_errors == 3
    assert math.isnan(result.metrics.server_latency_p99_seconds)
    assert result.metrics.server_requests_per_second == 0.0
    values = json.loads(json.dumps(result.dict(), allow_nan=False))
    assert values["metrics"]["server_latency_p99_seconds"] is None
    again = LoadTestResult.build_from_dict(values)
    assert again == result
    assert math.isnan(again.metrics.server_latency_p99_seconds)


def test_metrics_that_differ_are_not_equal() -> None:
    values = dict.fromkeys(METRICS, 1)
    metrics = LoadTestMetrics.build_from_dict(values)
    assert metrics == LoadTestMetrics.build_from_dict(values)
    assert metrics != LoadTestMetrics.build_from_dict({**values, "num_queries": 2})
    assert metrics != values


def test_what_is_missing_is_named() -> None:
    with pytest.raises(ValueError, match=r"LoadTestMetrics: .* missing: num_queries"):
        LoadTestMetrics.build_from_dict({name: 1 for name in METRICS if name != "num_queries"})
    with pytest.raises(ValueError, match=r"LoadTestResult: .* missing: metrics, responses"):
        LoadTestResult.build_from_dict({"num_errors": 0})


def test_settings_are_those_of_headrace() -> None:
    with serving(double) as server:
        result = HttpLoadTest().run(
            server.url,
            [HttpMessage(data=[1])] * 40,
            requests_per_second=math.inf,
            max_connections=2,
            timeout_s=20,
            progress=False,
            headers={"X-Test": "yes"},
        )
    assert result.num_errors == 0
    assert server.max_open <= 2
    assert "X-Test: yes" in server.requests[0].head


def test_a_progress_bar_is_drawn_if_asked_for(capsys: pytest.CaptureFixture[str]) -> None:
    with serving(double) as server:
        HttpLoadTest().run(server.url, [HttpMessage(data=[1])] * 5)
        assert capsys.readouterr().err == ""
        HttpLoadTest().run(server.url, [HttpMessage(data=[1])] * 5, progress=True)
        assert "5/5" in capsys.readouterr().err


def test_what_cannot_be_sent_is_refused_before_the_clock_starts() -> None:
    run = HttpLoadTest().run
    with serving(double) as server:
        with pytest.raises(ValueError, match="bodies: expected at least one, got none"):
            run(server.url, [])
        with pytest.raises(ValueError, match=r"(?i)nan"):
            run(server.url, [HttpMessage(data=[1]), HttpMessage(data=[math.nan])])
        with pytest.raises(TypeError, match="expected what JSON has"):
            run(server.url, [HttpMessage(data=[object()])])
        with pytest.raises(ValueError, match="requests_per_second: expected"):
            run(server.url, [HttpMessage(data=[1])], requests_per_second=0)
        with pytest.raises(TypeError, match="speed"):
            run(server.url, [HttpMessage(data=[1])], speed=1)
    assert server.requests == []
    with pytest.raises(ValueError, match="url: expected http"):
        run("localhost:8081", [HttpMessage(data=[1])])


def test_it_runs_where_an_event_loop_runs() -> None:
    async def main(url: str) -> LoadTestResult:
        return HttpLoadTest().run(url, [HttpMessage(data=[1])] * 20)

    with serving(double) as server:
        assert asyncio.run(main(server.url)).num_errors == 0


@pytest.mark.parametrize(
    "messages", [[{"data": 5}], [5], HttpMessage(data=[1])], ids=["data", "int", "one"]
)
def test_what_is_no_message_is_refused_before_anything_is_sent(messages: Any) -> None:
    with serving(double) as server:
        with pytest.raises(TypeError, match="expected"):
            HttpLoadTest().run(server.url, messages)
        assert server.bodies == []
