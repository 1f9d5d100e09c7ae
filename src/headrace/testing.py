"""Doubles that ship: test a model, and what is built on headrace, without sockets or sleeps.

    from headrace.testing import Client

    def test_sentiment():
        with Client(Sentiment) as client:
            assert client.predict("my cat is very cute").label == "positive"

The engine, the batcher, the dialects and the error answers are the real ones.
"""

from __future__ import annotations

import asyncio
import heapq
import itertools
import math
from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from types import TracebackType
from typing import Any, NamedTuple, Self

import msgspec

from .batching import Batch
from .call import Failure, Outcome, Payload, Value
from .card import ModelCard
from .clock import Cancellable, Instant, system_clock
from .codecs import JSON, RAW, codec_of
from .config import Limits
from .engine import Engine
from .errors import HeadraceError
from .executors import Events, InlineExecutor
from .http import Service
from .http.exchange import Exchange, Headers
from .model import Model
from .replica import Replica
from .targets import models_of
from .version import __version__


class ManualClock:
    """A clock that stands still until it is told.

    Args:
        now: Where it begins.
    """

    def __init__(self, now: Instant = 0.0) -> None:
        self.now = now

    def __call__(self) -> Instant:
        return self.now

    def advance(self, seconds: float) -> None:
        """Let time pass."""
        self.now += seconds


class _Timer:
    def __init__(self, callback: Callable[[], object]) -> None:
        self.callback: Callable[[], object] | None = callback

    def cancel(self) -> None:
        self.callback = None


class ManualLoop:
    """An event loop by hand: what is due runs when the test says so, at the clock's time.

    Args:
        clock: Its time.
    """

    def __init__(self, clock: ManualClock) -> None:
        self._clock = clock
        self._soon: deque[Callable[[], object]] = deque()
        self._later: list[tuple[Instant, int, _Timer]] = []
        self._order = itertools.count()

    def call_soon(self, callback: Callable[..., object], *args: object) -> None:
        self._soon.append(lambda: callback(*args))

    def call_later(
        self, delay: float, callback: Callable[..., object], *args: object
    ) -> Cancellable:
        timer = _Timer(lambda: callback(*args))
        heapq.heappush(self._later, (self._clock.now + delay, next(self._order), timer))
        return timer

    def run(self) -> None:
        """Run all that is due now, and what that makes due."""
        while self._soon or (self._later and self._later[0][0] <= self._clock.now):
            if self._soon:
                self._soon.popleft()()
            else:
                callback = heapq.heappop(self._later)[2].callback
                if callback is not None:
                    callback()

    def advance(self, seconds: float) -> None:
        """Let time pass, and run what becomes due at its own instant."""
        until = self._clock.now + seconds
        self.run()
        while self._later and self._later[0][0] <= until:
            self._clock.now = max(self._clock.now, self._later[0][0])
            self.run()
        self._clock.now = until
        self.run()


class ScriptedExecutor:
    """An executor that does nothing by itself: the test says when batches start and end.

    Attributes:
        batches: Started batches that have not ended, in order.
        cancelled: The (batch id, index) pairs that were cancelled.
        replaced: Replicas that hung and are to be replaced; the test tells the events of it.

    Args:
        card: What it says to serve.
        replicas: How many replicas are ready at once when it is opened.
        can_replace: Whether it says that it can replace a replica that hangs.
    """

    def __init__(self, card: ModelCard, *, replicas: int = 1, can_replace: bool = False) -> None:
        self.batches: deque[Batch] = deque()
        self.cancelled: list[tuple[int, int]] = []
        self.replaced: list[int] = []
        self.closed = False
        self._card = card
        self._replicas = replicas
        self._can_replace = can_replace
        self.events: Events | None = None

    def open(self, events: Events) -> None:
        self.events = events
        for replica in range(self._replicas):
            events.ready(replica, self._card)

    def start(self, batch: Batch) -> None:
        self.batches.append(batch)

    def cancel(self, batch: Batch, index: int) -> None:
        self.cancelled.append((batch.id, index))

    def replace(self, replica: int) -> bool:
        if self._can_replace:
            self.replaced.append(replica)
        return self._can_replace

    def close(self) -> None:
        self.closed = True

    def join(self, timeout_s: float) -> bool:
        return True

    def begin(self) -> Batch:
        """The oldest batch starts."""
        assert self.events is not None
        self.events.started(self.batches[0])
        return self.batches[0]

    def finish(self, outcomes: Mapping[int, Outcome] | None = None) -> Batch:
        """The oldest batch ends: each item with the given outcome, others with their own body."""
        assert self.events is not None
        batch = self.batches.popleft()
        for index, item in enumerate(batch.items):
            echo = Value(item.payload.body, item.payload.output_type)
            self.events.part(batch, index, (outcomes or {}).get(index, echo), True)
        self.events.ended(batch)
        return batch


class Response(NamedTuple):
    """An HTTP answer.

    Attributes:
        status: Such as 200.
        headers: By name in lower case.
        body: As it was sent.
    """

    status: int
    headers: Mapping[str, str]
    body: bytes

    def json(self) -> Any:
        """The body as JSON."""
        return msgspec.json.decode(self.body)


class PredictionFailed(Exception):
    """A prediction was answered with an error.

    Attributes:
        response: The answer.
        code: The error's stable code.
    """

    def __init__(self, response: Response) -> None:
        error = response.json()
        super().__init__(f"{response.status} {error['code']}: {error['error']}")
        self.response = response
        self.code = error["code"]


class Client:
    """A client of models in this process: no sockets, all else is real.

    Args:
        models: A Model class, a Model, a function under `@model`, or a list or dict of those.
        limits: Of requests.

    Raises:
        HeadraceError: A model cannot be served, or did not become ready.
    """

    def __init__(self, models: Any, *, limits: Limits | None = None) -> None:
        self._limits = limits or Limits()
        makers = models_of(models, where="models")
        cards = [Replica(make(), self._limits).card for make in makers]
        self._loop = asyncio.new_event_loop()
        self._engines = [self._engine(make, card) for make, card in zip(makers, cards, strict=True)]
        self._service = Service(limits=self._limits, clock=system_clock, version=__version__)
        self._service.set_engines(self._engines)
        self._service.complete()
        self._predict = self._service.predict
        try:
            self._loop.run_until_complete(self._open())
        except HeadraceError:
            self.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """Unload the models."""
        if not self._loop.is_closed():
            for engine in self._engines:
                engine.close()
            self._loop.close()

    def predict(self, item: Any, *, model: str | None = None) -> Any:
        """The model's answer to one item, decoded from JSON.

        Args:
            item: As a client would send it: plain data, or bytes for a bytes model.
            model: Its name; default the first model's.

        Raises:
            PredictionFailed: The answer is an error.
        """
        return self.predict_many([item], model=model)[0]

    def predict_many(self, items: Sequence[Any], *, model: str | None = None) -> list[Any]:
        """The answers to many items that are sent at once, and so share batches.

        Raises:
            PredictionFailed: An answer is an error: the first of them.
        """
        path = "/predict" if model is None else f"/models/{model}/predict"
        responses = self.requests([("POST", path, *_encode(item)) for item in items])
        for response in responses:
            if response.status != 200:
                raise PredictionFailed(response)
        return [_decode(response) for response in responses]

    def request(
        self, method: str, path: str, body: bytes = b"", headers: Mapping[str, str] | None = None
    ) -> Response:
        """The answer to one HTTP request to a predict route."""
        return self.requests([(method, path, body, headers or {})])[0]

    def requests(
        self, requests: Iterable[tuple[str, str, bytes, Mapping[str, str]]]
    ) -> list[Response]:
        """The answers to many requests that are sent at once."""
        return self._loop.run_until_complete(self._send_all(list(requests)))

    async def _send_all(
        self, requests: Sequence[tuple[str, str, bytes, Mapping[str, str]]]
    ) -> list[Response]:
        exchanges = [self._send(*request) for request in requests]
        return [await exchange.response for exchange in exchanges]

    def _send(
        self, method: str, path: str, body: bytes, headers: Mapping[str, str]
    ) -> _MemoryExchange:
        predict = self._predict
        place = predict.find(method, path)
        if place is None:
            raise ValueError(f"expected a predict route, got {path!r}")
        named = {name.lower(): value for name, value in headers.items()}
        plan = predict.plan(place, method, named)
        exchange = _MemoryExchange(predict, plan, predict.clock(), predict.next_number())
        if not exchange.is_refused():
            exchange.run(body)
        return exchange

    def _engine(self, make: Callable[[], Model], card: ModelCard) -> Engine:
        executor = InlineExecutor(lambda: Replica(make(), self._limits), loop=self._loop)
        return Engine(card, executor, loop=self._loop, limits=self._limits, sizing=make())

    async def _open(self) -> None:
        for engine in self._engines:
            engine.open()
        # An inline replica loads in the loop's next turn.
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        for engine in self._engines:
            if not engine.is_ready:
                raise HeadraceError(f"{engine.card.name} did not become ready: {engine.reason}")


class _MemoryExchange(Exchange):
    """An `Exchange` whose request and answer never leave the process."""

    response: asyncio.Future[Response] = msgspec.field(
        default_factory=lambda: asyncio.get_running_loop().create_future()
    )

    def reply(self, status: int, media_type: str, body: bytes, headers: Headers = ()) -> None:
        own = {"content-type": media_type, **dict(headers), "x-request-id": self.request_id}
        self.response.set_result(Response(status, own, body))


def _encode(item: Any) -> tuple[bytes, Mapping[str, str]]:
    codec = RAW if isinstance(item, bytes) else JSON
    return codec.encode(item), {"content-type": codec.media_type}


def _decode(response: Response) -> Any:
    codec = codec_of(response.headers["content-type"])
    return codec.decode(response.body, max_depth=512)


class Check(NamedTuple):
    """What `check` found.

    Attributes:
        card: The model's.
        answers: To its examples, decoded from JSON.
        max_batch_size: The size that they were compared at.
        worst_difference: The largest difference of a number between alone and batched.
    """

    card: ModelCard
    answers: Sequence[Any]
    max_batch_size: int
    worst_difference: float


class CheckFailed(HeadraceError):
    """A model does not answer its examples, or not the same alone and in a batch."""

    code = "check_failed"


def check(model: Any, *, limits: Limits | None = None) -> Check:
    """Run a model's whole pipeline on its examples, alone and in full batches.

    Args:
        model: A Model class, a Model or a function under `@model`.
        limits: Of an answer's size and depth.

    Returns:
        What was found, if all is well.

    Raises:
        CheckFailed: An example fails, or its answer in a batch is another than alone, by more
            than the model's `tolerance`.
        HeadraceError: The model cannot be served or loaded.
    """
    made = models_of(model, where="model")[0]()
    replica = Replica(made, limits or Limits())
    examples = replica.card.examples
    if not examples:
        raise CheckFailed("examples: expected at least one item to check with, found none")
    replica.load()
    try:
        alone = [
            _run(replica, [example], f"examples[{number}]")[0]
            for number, example in enumerate(examples)
        ]
        size = replica.card.batching.max_batch_size
        batch = list(itertools.islice(itertools.cycle(examples), size))
        together = _run(replica, batch, f"a batch of {size}")
        worst = 0.0
        for place, answer in enumerate(together):
            number = place % len(examples)
            difference = _difference(alone[number], answer, f"examples[{number}]: $")
            if difference > made.tolerance:
                raise CheckFailed(
                    f"examples[{number}]: alone and in a batch of {size} its numbers differ by"
                    f" {difference:.3g}, expected at most tolerance={made.tolerance:g}"
                )
            worst = max(worst, difference)
    finally:
        replica.unload()
    return Check(replica.card, alone, size, worst)


def _run(replica: Replica, payloads: Sequence[Payload], where: str) -> list[Any]:
    """The decoded answers of one batch."""
    answers: list[tuple[int, Outcome]] = []
    isolation = replica.run(list(enumerate(payloads)), answers.append)
    if isolation is not None:
        raise CheckFailed(f"{where}: {isolation.failure.message}\n{isolation.failure.log or ''}")
    outcomes = dict(answers)
    for index in range(len(payloads)):
        outcome = outcomes[index]
        if isinstance(outcome, Failure):
            raise CheckFailed(f"{where}: {outcome.message}\n{outcome.log or ''}".rstrip())
    values = (outcomes[index] for index in range(len(payloads)))
    return [
        codec_of(value.media_type).decode(value.body, max_depth=512)
        for value in values
        if isinstance(value, Value)
    ]


def _difference(alone: Any, together: Any, path: str) -> float:
    """The largest difference between two numbers at one place; all else must be equal."""
    if _is_number(alone) and _is_number(together):
        if alone == together or (alone != alone and together != together):
            return 0.0
        gap = abs(alone - together)
        return gap if math.isfinite(gap) else math.inf
    if isinstance(alone, dict) and isinstance(together, dict) and alone.keys() == together.keys():
        gaps = (_difference(alone[key], together[key], f"{path}.{key}") for key in alone)
        return max(gaps, default=0.0)
    if isinstance(alone, list) and isinstance(together, list) and len(alone) == len(together):
        pairs = enumerate(zip(alone, together, strict=True))
        return max((_difference(a, b, f"{path}[{i}]") for i, (a, b) in pairs), default=0.0)
    if alone != together or type(alone) is not type(together):
        raise CheckFailed(f"{path}: alone {alone!r:.60}, in a batch {together!r:.60}")
    return 0.0


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)
