from __future__ import annotations

import msgspec

from headrace.call import CODES, Call, Failure, Payload, Value
from headrace.card import ModelCard
from headrace.clock import NEVER
from headrace.config import Batching
from headrace.errors import DecodeError, ItemError, QueueFull


def test_a_payload_stands_for_one_item_of_cost_one_unless_told() -> None:
    payload = Payload(body=b"1", input_type="a/b", output_type="c/d")
    assert (payload.count, payload.cost, payload.key) == (1, 1.0, None)


def test_a_call_waits_for_ever_unless_told() -> None:
    call = Call(payloads=())
    assert (call.deadline, call.priority, call.client) == (NEVER, 0, None)


def test_a_failure_keeps_what_its_error_says() -> None:
    failure = Failure.of(DecodeError("bad", offset=3), log="trace")
    assert failure == Failure(
        code="malformed", message="bad", details=({"offset": 3},), log="trace"
    )


def test_a_failure_keeps_an_item_errors_status_and_an_unavailables_wait() -> None:
    assert Failure.of(ItemError("no", status=409)).status == 409
    assert Failure.of(QueueFull("full", retry_after_s=2)).retry_after_s == 2


def test_a_models_own_error_has_no_code_of_its_own() -> None:
    class NoFace(ItemError):
        code = "no_face"

    assert Failure.of(NoFace("no", status=409)) == Failure.of(ItemError("no", status=409))
    assert {"item_error", "invalid", "overloaded", "internal_error"} < CODES
    assert "no_face" not in CODES


def test_outcomes_and_cards_cross_process_bounds_unchanged() -> None:
    card = ModelCard(
        name="m",
        version="1",
        description="",
        request_schema={"type": "string"},
        response_schema={},
        reads=("application/json",),
        writes=("application/json",),
        examples=(Payload(body=b"1", input_type="a/b", output_type="c/d"),),
        batching=Batching(max_batch_size=3),
        idempotent=True,
    )
    for sent in (Value(b"\xff", "a/b"), Failure.of(DecodeError("x", offset=1)), card):
        packed = msgspec.msgpack.encode(sent)
        assert msgspec.msgpack.decode(packed, type=type(sent)) == sent
