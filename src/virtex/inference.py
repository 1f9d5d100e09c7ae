"""The request handler: what a user writes."""

from __future__ import annotations

import itertools
import json
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable
from typing import Any, ClassVar, NamedTuple

from headrace import Batching, ItemError, Model, RateLimit

from .core.logging import LOGGER
from .core.message import HttpMessage, to_json

MAX_BATCH_SIZE = 512
"""The most items in a batch, where nothing else is said."""

_PLAIN = (str, int, bool, type(None))


class RequestHandler(ABC):
    """A model in three steps: make its input of a batch, run it, make an answer of each output.

    Messages are taken apart before and put together after: a batch holds the elements of however
    many messages there are, in the order in which they arrived.

    Attributes:
        idempotent: Whether a batch that raised may be run again in parts, to find the element
            that did it; False fails the whole batch instead.

    Example:
        >>> class Squares(RequestHandler):
        ...     def process_request(self, data):
        ...         return data
        ...     def run_inference(self, model_input):
        ...         return (number * number for number in model_input)
        ...     def process_response(self, model_output_item):
        ...         return model_output_item
        >>> Squares().validate(HttpMessage(data=[2, 3])).data
        [4, 9]
    """

    idempotent: ClassVar[bool] = True

    @abstractmethod
    def process_request(self, data: list[Any]) -> Any:
        """The model's input of a batch.

        Args:
            data: 1 to `max_batch_size` elements of messages, as JSON has them.

        Returns:
            Whatever `run_inference` takes.
        """

    @abstractmethod
    def run_inference(self, model_input: Any) -> Iterable[Any]:
        """The model's outputs.

        Args:
            model_input: What `process_request` returned.

        Returns:
            One output for each element, in their order, along the zeroth dimension. It is iterated
            once, and may be a generator.
        """

    @abstractmethod
    def process_response(self, model_output_item: Any) -> Any:
        """One output as JSON has it.

        Args:
            model_output_item: One of what `run_inference` returned.
        """

    def validate(self, message: HttpMessage, raise_errors: bool = False) -> HttpMessage | None:
        """Run a message as the server would, in one batch: for a unit test.

        Args:
            message: At least one element, and no more than a batch may have.
            raise_errors: Whether to raise what is wrong, in place of logging it.

        Returns:
            The response; None if something is wrong, which is logged with the method's name.

        Raises:
            Exception: What a method raised, or a ValueError or TypeError that says what is no JSON
                or not one output for each element; only if `raise_errors`.
        """
        step = "the message"
        try:
            data = json.loads(to_json(message)).get("data")
            if not isinstance(data, list | None):
                raise ValueError(f"data: expected a list, got {type(data).__name__}")
            if not data:
                return HttpMessage()
            step = "process_request"
            model_input = self.process_request(data)
            step = "run_inference"
            outputs = outputs_of(self.run_inference(model_input), len(data))
            step = "process_response"
            response = HttpMessage([self.process_response(output) for output in outputs])
            step = "the answer of process_response"
            _ = response.json
        except Exception as error:
            if raise_errors:
                raise
            LOGGER.error("%s: %s", step, described(error), exc_info=error)
            return None
        return response

    def __headrace_model__(self) -> Model:
        """The handler as headrace serves it: `headrace serve module:handler`."""
        return model_of(self)


class Stages(NamedTuple):
    """What a batch took.

    Attributes:
        size: Its elements.
        process_request_s: Seconds in `process_request`.
        run_inference_s: Seconds in `run_inference`, and in iterating what it returned.
        process_response_s: Seconds in `process_response`, of all elements.
    """

    size: int
    process_request_s: float
    run_inference_s: float
    process_response_s: float


class HandlerModel(Model):
    """A request handler as a model of headrace.

    Args:
        handler: The handler.
        name: In the routes; default this class's, so make it by `model_of`.
        max_batch_size: The most elements in a batch.
        max_batch_delay_s: How long an underfull batch waits for company.
        observe: Told of each batch that ran through.
    """

    def __init__(
        self,
        handler: RequestHandler,
        *,
        name: str = "",
        max_batch_size: int = MAX_BATCH_SIZE,
        max_batch_delay_s: float = 0.0,
        observe: Callable[[Stages], None] = lambda stages: None,
    ) -> None:
        self.handler = handler
        own: Any = self  # they are the class's own, to a type checker
        own.name = name
        own.batching = Batching(max_batch_size=max_batch_size, max_batch_delay_s=max_batch_delay_s)
        own.idempotent = handler.idempotent
        self._observe = observe
        self._rate_limit = RateLimit()

    def predict(self, batch: list[Any]) -> list[Any]:
        """Run the three steps; an element that fails in the last has its error in its place."""
        size, handler = len(batch), self.handler
        try:
            began = time.perf_counter()
            model_input = handler.process_request(batch)
            processed = time.perf_counter()
            outputs = outputs_of(handler.run_inference(model_input), size)
        except WrongCount as error:
            return [self._failed(error)] * size
        except BaseException as error:  # sys.exit() ends no server
            if size > 1 and self.idempotent:
                raise  # it is run again in parts, down to the element that does this
            return [self._failed(error)] * size
        ran = time.perf_counter()
        answers = [self._answer(output) for output in outputs]
        ended = time.perf_counter()
        self._observe(Stages(size, processed - began, ran - processed, ended - ran))
        return answers

    def _answer(self, output: Any) -> Any:
        try:
            answer = self.handler.process_response(output)
            if type(answer) not in _PLAIN:
                to_json(answer)
        except BaseException as error:
            return self._failed(error)
        return answer

    def _failed(self, error: BaseException) -> ItemError:
        """What the caller is told; the log has the traceback, a few times a second."""
        if isinstance(error, ItemError):
            return error
        held_back = self._rate_limit.admit(time.monotonic(), type(error).__name__)
        if held_back is not None:
            more = f" ({held_back} such records were held back)" if held_back else ""
            LOGGER.error("%s failed%s", type(self.handler).__name__, more, exc_info=error)
        return ItemError(described(error), status=500)


def model_of(handler: RequestHandler, **options: Any) -> HandlerModel:
    """The handler as a model that is named after the handler's class, in routes and in errors."""
    cls = type(handler)
    own = {"__doc__": vars(cls).get("__doc__")}
    named: type[HandlerModel] = type(cls.__name__, (HandlerModel,), own)
    return named(handler, **options)


class WrongCount(ValueError):
    """`run_inference` did not give one output for each element."""


def outputs_of(outputs: Iterable[Any], size: int) -> list[Any]:
    """The outputs of a batch, of which one more than due is enough to know.

    Raises:
        WrongCount: There are not as many as elements.
    """
    found = list(itertools.islice(outputs, size + 1))
    if len(found) != size:
        more = "more" if len(found) > size else str(len(found))
        raise WrongCount(f"expected {size} outputs of run_inference, got {more}")
    return found


def described(error: BaseException) -> str:
    """An exception in one line: its type and its text."""
    text, name = str(error), type(error).__name__
    if isinstance(error, WrongCount):
        return text  # which is ours, and says it all
    return f"{name}: {text}" if text else name
