"""The dialects whose body is one payload: nothing of it is looked at, and nothing is added.

The native one's is as it came; a job's too, and an empty one is answered at once. What a batching
service says to a failure of its own is what its clients know.

An input is the body.
"""

from __future__ import annotations

from headrace.call import Failure, Value
from headrace.codecs import JSON
from headrace.dialects import NATIVE, Formats, Request
from headrace.dialects.jobs import JOBS
from headrace.errors import QueueFull
from headrace.http.errors import status_of
from tests.unit.wire.driver import CARD

MEASURED = ("headrace.dialects.native", "headrace.dialects.jobs")
TOKENS = ()


def check(data: bytes) -> None:
    formats = Formats(JSON.media_type, JSON.media_type)
    for dialect in (NATIVE, JOBS):
        payloads = dialect.cut(Request(body=data, max_items=1), formats)
        if dialect is JOBS and not data:
            assert payloads == ()
            assert dialect.join((), formats, lenient=False) == Value(b"", JSON.media_type)
            continue
        (payload,) = payloads
        assert (payload.body, payload.input_type) == (data, JSON.media_type)
        outcome = Value(data, JSON.media_type)
        assert dialect.join([outcome], formats, lenient=False) is outcome
    failure = Failure.of(QueueFull(data.decode("latin-1")))
    refusal = JOBS.refuse(failure, status_of(failure), CARD)
    assert refusal is not None and (refusal.status, refusal.body) == (429, failure.message.encode())
    assert NATIVE.refuse(failure, 503, CARD) is None


def seeds() -> list[bytes]:
    return [b"", b"a", b"[1]"]
