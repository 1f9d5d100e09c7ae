"""An endpoint, over the real engine and an executor by hand."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Any

import pytest

from headrace import Limits, Model
from headrace.call import Failure, Outcome, Value
from headrace.clock import NEVER
from headrace.dialects import NATIVE, V1_DIALECT, Dialect, Formats
from headrace.dialects.v1 import V1
from headrace.endpoint import Endpoint
from headrace.engine import Engine
from headrace.errors import NotReady, SchemaError, UnsupportedMediaType
from headrace.replica import Replica
from headrace.testing import ManualClock, ManualLoop, ScriptedExecutor

JSON = "application/json"


class Echo(Model):
    def predict(self, batch: list[Any]) -> list[Any]:
        return batch


class Door:
    def __init__(self, dialect: Dialect, limits: Limits | None = None) -> None:
        self.clock = clock = ManualClock()
        self.loop = ManualLoop(clock)
        card = Replica(Echo()).card
        self.executor = ScriptedExecutor(card)
        self.engine = Engine(card, self.executor, loop=self.loop, clock=clock)
        self.engine.open()
        self.endpoint = Endpoint(self.engine, dialect, limits or Limits())
        self.replies: list[Outcome] = []

    def ask(self, body: bytes, **more: Any) -> Any:
        formats = self.endpoint.negotiate(None, None)
        return self.endpoint.submit(self.clock(), body, formats, NEVER, self, **more)

    def part(self, index: int, outcome: Outcome, last: bool) -> None:
        assert (index, last) == (0, True)
        self.replies.append(outcome)

    def finish(self, failures: dict[int, Outcome] | None = None) -> None:
        self.loop.run()
        self.executor.finish(failures)
        self.loop.run()


def test_a_request_is_replied_to_once_when_its_last_item_has_ended() -> None:
    door = Door(V1_DIALECT)
    assert door.ask(b'{"instances": [1, 2]}') is not None
    assert door.replies == []
    door.finish()
    assert door.replies == [Value(b'{"predictions":[1,2]}', JSON)]


def test_a_request_without_items_is_replied_to_at_once() -> None:
    door = Door(V1_DIALECT)
    assert door.ask(b'{"instances": []}') is None
    assert door.replies == [Value(b'{"predictions":[]}', JSON)]
    assert door.engine.queued_items == 0


def test_lenience_reaches_the_dialect() -> None:
    door = Door(V1_DIALECT)
    door.ask(b'{"instances": [1, 2]}', lenient=True)
    door.finish({0: Failure(code="invalid", message="no")})
    [reply] = door.replies
    assert isinstance(reply, Value) and b'"predictions":[null,2]' in reply.body


def test_the_bodys_limit_is_known_from_the_headers() -> None:
    door = Door(NATIVE, Limits(max_json_bytes=4))
    assert door.endpoint.max_body_bytes(door.endpoint.negotiate(None, None)) == 4
    with pytest.raises(UnsupportedMediaType):
        door.endpoint.negotiate("text/html", None)


def test_a_body_that_is_one_payload_is_neither_cut_nor_joined() -> None:
    door = Door(NATIVE)
    door.ask(b"1234")
    door.finish()
    assert door.replies == [Value(b"1234", JSON)]


def test_faults_of_the_envelope_and_of_the_moment_are_raised() -> None:
    door = Door(V1_DIALECT)
    with pytest.raises(SchemaError):
        door.ask(b"{}")
    door.engine.unready(0, "broken")
    with pytest.raises(NotReady):
        door.ask(b'{"instances": [1]}')
    assert door.replies == []


def test_a_cancelled_request_is_never_replied_to() -> None:
    door = Door(V1_DIALECT)
    ticket = door.ask(b'{"instances": [1, 2]}')
    door.loop.run()
    ticket.cancel()
    door.executor.finish()
    assert door.replies == []


def test_answers_that_cannot_be_joined_are_still_replied_to(
    caplog: pytest.LogCaptureFixture,
) -> None:
    class Clumsy(V1):
        def join(self, outcomes: Sequence[Outcome], formats: Formats, *, lenient: bool) -> Outcome:
            raise RuntimeError("a fault of ours")

    door = Door(Clumsy())
    door.ask(b'{"instances": [1]}')
    door.finish()
    assert [reply.code for reply in door.replies if isinstance(reply, Failure)] == [
        "internal_error"
    ]
    assert [record.levelno for record in caplog.records] == [logging.ERROR]
