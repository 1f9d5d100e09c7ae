"""The model's side: bytes to items, items to outputs, outputs to bytes. Synchronous.

A replica never raises for an item's fault: a malformed, invalid or failing item gets its own
failure, and its batch mates get their answers.
"""

from __future__ import annotations

import contextlib
import itertools
import logging
import traceback
from collections import deque
from collections.abc import Callable, Container, Iterator, Mapping, MutableSequence, Sequence
from typing import Any

import msgspec

from .bodies import Reader, reader_of, writer_of
from .call import Failure, Outcome, Payload, Value
from .card import ModelCard
from .codecs import JSON, MSGPACK, RAW, codec_of
from .config import Limits, override
from .errors import (
    BatchContractError,
    ConfigError,
    ItemError,
    ModelError,
    OutputError,
    ReplicaStartFailed,
    RequestError,
)
from .model import Model, check_attributes, description_of, name_of, signature_of
from .schema import Schema, schema_of

Emit = Callable[[tuple[int, Outcome]], object]
"""Takes an item's index in its batch and its outcome; such as a list's `append`."""

MAX_LOG = 16 * 1024
"""Characters of an exception that are kept for the log: its begin and its end."""

_log = logging.getLogger(__name__)

_STRUCTURED: tuple[str, ...] = (JSON.media_type, MSGPACK.media_type)
_BYTES_READ = (
    RAW.media_type,
    "image/*",
    "audio/*",
    "video/*",
    "text/*",
    "application/pdf",
    "application/zip",
    *_STRUCTURED,
)


class Prepared:
    """Items of a batch that are ready for predict.

    Attributes:
        entries: Their payloads, with the indexes that name them to `emit`.
        items: What predict gets, in the same order.
    """

    __slots__ = ("entries", "items")

    def __init__(self, entries: list[tuple[int, Payload]], items: list[Any]) -> None:
        self.entries = entries
        self.items = items

    def __len__(self) -> int:
        return len(self.items)

    def between(self, begin: int, end: int) -> Prepared:
        """Those at the places from `begin` up to `end`."""
        return Prepared(self.entries[begin:end], self.items[begin:end])

    def without(self, indexes: Container[int]) -> Prepared:
        """Those whose index is none of these."""
        kept = [
            pair for pair in zip(self.entries, self.items, strict=True) if pair[0][0] not in indexes
        ]
        return Prepared([entry for entry, _ in kept], [item for _, item in kept])


class Replica:
    """A copy of a model that runs batches.

    Args:
        model: What the user wrote, not loaded yet.
        limits: Of depth and of an answer's size.
        batching: Values of the operator's that override those of the model's own, by name.
        mark: Where the replica notes what it is at, for whoever finds it dead: first the index
            + 1 of the item that it decodes, preprocesses, postprocesses or encodes, else 0; then
            1 while it predicts, else 0. Default nowhere.

    Raises:
        ConfigError: The model cannot be served: no predict, or an annotation that is no schema.
    """

    def __init__(
        self,
        model: Model,
        limits: Limits | None = None,
        *,
        batching: Mapping[str, Any] | None = None,
        mark: MutableSequence[int] | None = None,
    ) -> None:
        check_attributes(model)
        self.model = model
        self._mark: MutableSequence[int] = [0, 0] if mark is None else mark
        self._is_loaded = False
        self._limits = limits or Limits()
        self._readers: dict[str, Reader] = {}
        signature = signature_of(model)
        name = type(model).__qualname__
        self._request = schema_of(signature.request, where=f"{name}: request")
        reads = _BYTES_READ if self._request.is_bytes else _STRUCTURED
        response = _response_schema(signature.response)
        gives_bytes = response is not None and response.is_bytes
        writes = (model.response_media_type, *_STRUCTURED) if gives_bytes else _STRUCTURED
        self.card = ModelCard(
            name=name_of(model),
            version=model.version,
            description=description_of(model),
            request_schema=self._request.json_schema(),
            response_schema={} if response is None else response.json_schema(of_answer=True),
            reads=reads,
            writes=writes,
            examples=tuple(
                _example(item, reads[0], writes[0], where=f"{name}.examples[{place}]")
                for place, item in enumerate(model.examples)
            ),
            batching=override(model.batching, batching or {}),
            idempotent=model.idempotent,
        )

    def load(self) -> None:
        """Load the model and run its examples, alone and as a full batch.

        Raises:
            ReplicaStartFailed: Its code raised, or an example got no answer; the cause has why.
        """
        try:
            self.model.load()
        except BaseException as error:
            raise ReplicaStartFailed(f"load raised {_named(error)}") from error
        self._is_loaded = True
        for size in sorted({1, self.card.batching.max_batch_size}):
            self.warm_up(size)

    def warm_up(self, size: int) -> None:
        """Run the examples as a batch of this size.

        Raises:
            ReplicaStartFailed: One of them got no answer.
        """
        examples = list(itertools.islice(itertools.cycle(self.card.examples), size))
        failures: list[tuple[int, Failure]] = []

        def emit(answer: tuple[int, Outcome]) -> None:
            index, outcome = answer
            if isinstance(outcome, Failure):
                failures.append((index % len(self.card.examples), outcome))

        with self._noted_as_predict():
            isolation = self.run(list(enumerate(examples)), emit)
        if isolation is not None:
            failures.append((0, isolation.failure))
        if failures:
            index, failure = failures[0]
            message = f"warm-up with a batch of {size}: examples[{index}]: {failure.message}"
            raise ReplicaStartFailed(message) from (
                _Logged(failure.log) if failure.log is not None else None
            )

    @contextlib.contextmanager
    def _noted_as_predict(self) -> Iterator[None]:
        """Note nothing but a predict: an example's place is no item's of the batch at hand."""
        mark, self._mark = self._mark, [0, 0]
        mark[1] = 1
        try:
            yield
        finally:
            self._mark = mark
            mark[1] = 0

    def unload(self) -> None:
        """Let the model give back what it took; nothing if it was not loaded.

        What its code raises is logged: the replica stops all the same.
        """
        if not self._is_loaded:
            return
        self._is_loaded = False
        try:
            self.model.unload()
        except BaseException:
            _log.exception("unload raised", extra={"model": self.card.name})

    def run(self, payloads: Sequence[tuple[int, Payload]], emit: Emit) -> Isolation | None:
        """Run a batch: prepare, predict, finish.

        Args:
            payloads: With the index that names each to `emit`.
            emit: Called once for each, except for those left to the isolation.

        Returns:
            None when all are answered; if predict raised, what is to be done about it.
        """
        prepared = self.prepare(payloads, emit)
        if not prepared:
            return None
        try:
            outputs = self.predict(prepared)
        except BaseException as error:
            return self.isolation(prepared, error, emit)
        self.finish(prepared, outputs, emit)
        return None

    def isolation(self, prepared: Prepared, error: BaseException, emit: Emit) -> Isolation | None:
        """What is to be done about a batch whose predict raised; None if all of it has failed."""
        if self.card.idempotent:
            return Isolation(self, prepared, error)
        fail_all(prepared, _batch_failure(error, len(prepared)), emit)
        return None

    def prepare(self, payloads: Sequence[tuple[int, Payload]], emit: Emit) -> Prepared:
        """Decode, validate and preprocess each payload; those that fail are emitted."""
        entries, items = [], []
        preprocess = _own(self.model.preprocess, Model.preprocess)
        mark, input_type, read = self._mark, "", None
        for entry in payloads:
            place, payload = entry
            mark[0] = place + 1
            stage = "decode"
            try:
                if read is None or payload.input_type is not input_type:
                    input_type = payload.input_type
                    read = self._reader(input_type)
                item = read(payload.body)
                if preprocess is not None:
                    stage = "preprocess"
                    item = preprocess(item)
            except BaseException as error:
                emit((place, _failure(error, stage)))
            else:
                entries.append(entry)
                items.append(item)
        mark[0] = 0
        return Prepared(entries, items)

    def predict(self, prepared: Prepared) -> Any:
        """The model's outputs, whatever they are; raises what the model raises."""
        mark = self._mark
        mark[1] = 1
        try:
            return self.model.predict([*prepared.items])  # the list is the model's to change
        finally:
            mark[1] = 0

    def finish(self, prepared: Prepared, outputs: Any, emit: Emit) -> None:
        """Postprocess and encode each output."""
        try:
            each = _one_each(outputs, len(prepared))
        except BatchContractError as error:
            fail_all(prepared, Failure.of(error, log=_log_of(error)), emit)
            return
        postprocess = _own(self.model.postprocess, Model.postprocess)
        nan_as_null, max_bytes = self.model.nan_as_null, self._limits.max_response_bytes
        mark, output_type, write = self._mark, "", None
        for (place, payload), output in zip(prepared.entries, each, strict=True):
            mark[0] = place + 1
            stage = "postprocess"
            try:
                if isinstance(output, ItemError):
                    raise output
                answer = output if postprocess is None else postprocess(output)
                stage = "encode"
                if write is None or payload.output_type is not output_type:
                    output_type = payload.output_type
                    write = writer_of(codec_of(output_type), nan_as_null=nan_as_null)
                body = write(answer)
                if len(body) > max_bytes:
                    raise _too_large(len(body), max_bytes)
                outcome: Outcome = Value(body, output_type)
            except BaseException as error:
                outcome = _failure(error, stage)
            emit((place, outcome))
        mark[0] = 0

    def _reader(self, media_type: str) -> Reader:
        """What makes items of bodies of this type."""
        codec = codec_of(media_type)
        reader = self._readers.get(codec.media_type)
        if reader is None:
            reader = reader_of(self._request, codec, max_depth=self._limits.max_depth)
            self._readers[codec.media_type] = reader
        return reader


class Isolation:
    """Finds, one predict at a time, which items a failed batch was failed by.

    The first step runs the model's example as a canary: if that fails too, so does the batch,
    and the replica is broken. Then the items are halved until each has its own verdict. The owner
    takes other batches between the steps.

    Attributes:
        failure: What predict raised for the whole batch.
        broken: Whether the canary failed.
        skipped: Indexes of items that were left out, as nobody wanted them any more.
    """

    def __init__(self, replica: Replica, prepared: Prepared, error: BaseException) -> None:
        self.failure = _batch_failure(error, len(prepared))
        self.broken = False
        self.skipped: list[int] = []
        self._replica = replica
        self._canary_due = bool(replica.card.examples)
        self._groups: deque[Prepared] = deque()
        self._halve(prepared)

    def step(self, emit: Emit, unwanted: Container[int] = ()) -> bool:
        """Run one predict; False when every item has its outcome.

        Args:
            emit: Called once for each item that has got its outcome.
            unwanted: Indexes of items that shall not run any more; they are `skipped`.
        """
        if self._canary_due:
            self._canary_due = False
            try:
                self._replica.warm_up(1)
            except ReplicaStartFailed:
                self.broken = True
                for group in self._groups:
                    fail_all(group, self.failure, emit)
                self._groups.clear()
        elif (part := self._next(unwanted)) is not None:
            try:
                outputs = self._replica.predict(part)
            except BaseException as error:
                if len(part) == 1:
                    fail_all(part, _failure(error, "predict"), emit)
                else:
                    self._halve(part)
            else:
                self._replica.finish(part, outputs, emit)
        return bool(self._groups)

    def _next(self, unwanted: Container[int]) -> Prepared | None:
        """The next group with somebody who waits for it, and without those who do not."""
        while self._groups:
            group = self._groups.popleft()
            self.skipped += [index for index, _ in group.entries if index in unwanted]
            if left := group.without(unwanted):
                return left
        return None

    def _halve(self, group: Prepared) -> None:
        """Queue the halves of a group that failed; an item that was alone runs once more."""
        middle = (len(group) + 1) // 2
        halves = (group.between(0, middle), group.between(middle, len(group)))
        self._groups.extend(half for half in halves if half)


class _Logged(Exception):
    """A model's traceback as the cause of another error."""


def fail_all(prepared: Prepared, failure: Failure, emit: Emit) -> None:
    """Give every item the same failure."""
    for place, _ in prepared.entries:
        emit((place, failure))


def _own(method: Callable[[Any], Any], default: Any) -> Callable[[Any], Any] | None:
    """A model's method, but for the one of `Model`, which does nothing."""
    return None if getattr(method, "__func__", None) is default else method


def _response_schema(annotation: Any) -> Schema | None:
    """None where nothing is known of the answers; an array, say, is written, but not described."""
    if annotation is Any:
        return None
    try:
        return schema_of(annotation)
    except ConfigError:
        return None


def _example(item: Any, input_type: str, output_type: str, *, where: str) -> Payload:
    try:
        body = codec_of(input_type).encode(item)
    except OutputError as error:
        raise ConfigError(f"{where}: {error}".replace("output", "example")) from None
    return Payload(body=body, input_type=input_type, output_type=output_type)


def _too_large(size: int, most: int) -> OutputError:
    return OutputError(f"expected an answer of at most {most} bytes, got {size}")


def _failure(error: BaseException, stage: str) -> Failure:
    """An item's failure: headrace's own errors as they are, others as a fault of the model."""
    if isinstance(error, ItemError):
        return _item_failure(error, stage)
    if isinstance(error, OutputError):
        return Failure.of(error, log=_log_of(error))
    if stage == "decode" and isinstance(error, RequestError):
        return Failure.of(error)
    return _model_failure(error, stage)


def _item_failure(error: ItemError, stage: str) -> Failure:
    """What the model says of an item, if it says it in plain data."""
    try:
        msgspec.json.encode(error.details)
    except Exception:
        return _model_failure(error, stage)
    return Failure.of(error)


def _model_failure(error: BaseException, stage: str) -> Failure:
    """What the caller may know of an exception in the model, with all of it for the log."""
    known = ModelError(f"the model failed in {stage}", details=({"stage": stage},))
    return Failure.of(known, log=_log_of(error))


def _batch_failure(error: BaseException, size: int) -> Failure:
    """The failure of a whole batch; what an `ItemError` says is for its own item only."""
    return _failure(error, "predict") if size == 1 else _model_failure(error, "predict")


def _log_of(error: BaseException) -> str:
    """An exception with its traceback and causes, for the operator."""
    log = "".join(traceback.format_exception(error))
    half = MAX_LOG // 2
    return log if len(log) <= MAX_LOG else f"{log[:half]}\n[...]\n{log[-half:]}"


def _one_each(outputs: Any, size: int) -> Sequence[Any]:
    """What predict returned, as a list of one output an item.

    Raises:
        BatchContractError: It is no sequence, or not as long as the batch.
    """
    kind = type(outputs).__name__
    try:
        # Tables have keys too: their elements are columns.
        is_mapping = hasattr(outputs, "keys") and getattr(outputs, "ndim", 2) != 1
        is_text = isinstance(outputs, str | bytes | bytearray)
        if is_mapping or is_text or not hasattr(outputs, "__getitem__"):
            raise TypeError
        found, each = len(outputs), list(outputs)
    except BaseException as error:
        breach = f"predict returned {kind} for a batch of {size}, expected a sequence of outputs"
        raise BatchContractError(breach) from error
    if not found == size == len(each):
        raise BatchContractError(f"predict returned {found} outputs for a batch of {size}")
    return each


def _named(error: BaseException) -> str:
    """An exception's type and text, for the operator."""
    return traceback.format_exception_only(error)[-1].strip()
