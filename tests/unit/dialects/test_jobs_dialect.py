"""The dialect of a batching service: bodies of any kind, and the original's statuses."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from headrace import Batching
from headrace.call import Failure, Payload, Value
from headrace.card import ModelCard
from headrace.config import Limits
from headrace.dialects import JOBS, Request, body_limit

CARD = ModelCard(
    name="jobs",
    version="1",
    description="",
    request_schema={},
    response_schema={},
    reads=("application/octet-stream",),
    writes=("application/octet-stream",),
    examples=(),
    batching=Batching(),
    idempotent=True,
)
ANYTHING = "application/octet-stream"


@pytest.mark.parametrize(
    ("content_type", "answer_type"),
    [
        ("application/json", "application/json"),
        ("application/msgpack; charset=binary", "application/msgpack; charset=binary"),
        ("nonsense", "nonsense"),
        ("", ANYTHING),
        (None, ANYTHING),
    ],
)
@pytest.mark.parametrize("accept", [None, "image/png", "*/*"])
def test_the_answer_has_the_requests_own_type_whatever_is_accepted(
    content_type: str | None, answer_type: str, accept: str | None
) -> None:
    formats = JOBS.negotiate(CARD, content_type, accept)
    assert formats.output_type == answer_type
    assert formats.input_type == ANYTHING


def test_a_body_is_bounded_as_bytes_even_where_it_calls_itself_json() -> None:
    formats = JOBS.negotiate(CARD, "application/json", None)
    assert body_limit(formats, Limits(max_body_bytes=100, max_json_bytes=10)) == 100


@given(body=st.binary(min_size=1, max_size=32))
def test_a_body_is_one_job_and_its_result_the_answer(body: bytes) -> None:
    formats = JOBS.negotiate(CARD, "text/plain", None)
    payloads = JOBS.cut(Request(body=body, content_type="text/plain"), formats)
    assert payloads == (Payload(body=body, input_type=ANYTHING, output_type="text/plain"),)
    for outcome in (
        Value(body, "text/plain"),
        Value(body, "text/plain", 422),
        Failure(code="model_error", message="no"),
    ):
        assert JOBS.join([outcome], formats, lenient=False) is outcome


def test_an_empty_body_is_answered_without_a_worker() -> None:
    formats = JOBS.negotiate(CARD, None, None)
    assert JOBS.cut(Request(body=b""), formats) == ()
    assert JOBS.join([], formats, lenient=False) == Value(b"", ANYTHING, 200)


@pytest.mark.parametrize(
    ("code", "status", "said", "sent"),
    [
        ("queue_full", 503, "the queue is full", (429, b"the queue is full")),
        ("deadline_exceeded", 504, "there was no answer within 5 s", (408, b"Timeout!")),
        ("replica_lost", 500, "lost", None),
        ("draining", 503, "the server is shutting down", None),
        ("payload_too_large", 413, "expected less", None),
    ],
)
def test_a_full_queue_and_a_timeout_look_as_in_the_original_and_the_rest_as_elsewhere(
    code: str, status: int, said: str, sent: tuple[int, bytes] | None
) -> None:
    refusal = JOBS.refuse(Failure(code=code, message=said), status, CARD)
    if sent is None:
        assert refusal is None
    else:
        assert refusal is not None
        assert (refusal.status, refusal.body) == sent
        assert refusal.media_type == "text/plain"
