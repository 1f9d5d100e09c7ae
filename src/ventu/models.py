"""A Ventu as headrace serves it."""

from __future__ import annotations

import logging
import re
from collections.abc import Callable
from typing import Annotated, Any, Protocol

import msgspec
from prometheus_client import CollectorRegistry
from pydantic import BaseModel, GetCoreSchemaHandler, GetJsonSchemaHandler, ValidationError
from pydantic_core import CoreSchema, core_schema

from headrace import Batching, ItemError, Model

from .batches import Failed, WrongCount, attempt
from .bodies import Bodies
from .config import Config
from .examples import Pair
from .failures import MODEL_FAILED, Failures
from .metrics import validation_errors
from .openapi import carry_extra

_UNNAMEABLE = re.compile(r"[^A-Za-z0-9._-]+")

_log = logging.getLogger(__name__)


class Served(Protocol):
    """What is needed of a Ventu; the attributes are documented there."""

    req_schema: type[BaseModel]
    resp_schema: type[BaseModel]
    use_msgpack: bool
    config: Config
    examples: list[Pair]
    metric_registry: CollectorRegistry

    @property
    def batching(self) -> Batching: ...

    @property
    def idempotent(self) -> bool: ...


class VentuModel(Model):
    """Runs the batches of a Ventu.

    Args:
        ventu: What the user wrote.
        run: Gives a result, or `Failed`, for each of a batch of its requests.
    """

    def __init__(self, ventu: Served, run: Callable[[list[Any]], list[Any]]) -> None:
        own: Any = self  # they are the class's own, to a type checker
        own.batching = ventu.batching
        own.idempotent = ventu.idempotent
        own.version = ventu.config.version
        if "name" in ventu.config.model_fields_set:
            own.name = _UNNAMEABLE.sub("-", ventu.config.name).strip("-._").lower()
        self.bodies = Bodies(ventu.req_schema, ventu.resp_schema, ventu.use_msgpack)
        self.failures = Failures(_log)
        self._run = run

    def predict(self, batch: list[Any]) -> list[Any]:
        """Each item's answer, or its error; raises what may be the fault of one of several."""
        try:
            results = self._run(batch)
        except WrongCount as error:
            return [self.failed(error)] * len(batch)
        except Exception as error:
            if len(batch) > 1 and self.idempotent:
                raise  # it is run again in parts, down to the item that does this
            return [self.failed(error)] * len(batch)
        return [self._answer(result) for result in results]

    def answer(self, response: Any) -> Any:
        """A response as it goes out; raises if it breaks its schema."""
        raise NotImplementedError

    def failed(self, error: Exception) -> ItemError:
        """An item's error; what it was, is logged."""
        refusal = self.failures.told(error)
        told = refusal.problem
        if isinstance(told, dict):  # of one of Falcon's errors
            told = told.get("description") or told.get("title")
        message = told if isinstance(told, str) and refusal.status != 500 else MODEL_FAILED
        return ItemError(message, status=refusal.status)

    def _answer(self, result: Any) -> Any:
        if not isinstance(result, Failed):
            result = attempt(self.answer, result)
        return self.failed(result.error) if isinstance(result, Failed) else result


class BodyModel(VentuModel):
    """Takes and gives bodies as they are: of a server that speaks as ventu does."""

    def __init__(self, ventu: Served, run: Callable[[list[Any]], list[Any]]) -> None:
        super().__init__(ventu, run)
        self._validation_errors = validation_errors(ventu.metric_registry)

    def preprocess(self, item: bytes) -> Any:
        """The request in a body."""
        try:
            return self.bodies.read(item)
        except Exception as error:
            failed = self.failed(error)
            if failed.status == 422:
                self._validation_errors.inc()
            raise failed from None

    def answer(self, response: Any) -> bytes:
        return self.bodies.write(response)

    def failed(self, error: Exception) -> ItemError:
        """An item's error, with its body, not encoded, as the details."""
        refusal = self.failures.told(error)
        return ItemError(MODEL_FAILED, status=refusal.status, details=[{"body": refusal.http_body}])

    def postprocess(self, output: Any) -> bytes:
        """Nothing is left to do; its annotation says that answers are bytes."""
        answer: bytes = output
        return answer


class SchemaModel(VentuModel):
    """Takes and gives what the schemas say: of `headrace serve`, in its own dialects."""

    def answer(self, response: Any) -> Any:
        self.bodies.write(response)  # raises unless it fits
        return response


def schema_model(
    ventu: Served, run: Callable[[list[Any]], list[Any]], check: Callable[[], object]
) -> Model:
    """The model of `headrace serve`, named and described as the user's class.

    Args:
        ventu: The user's object.
        run: Its batch of requests to responses.
        check: Raises unless the examples of responses are right; every way to serve begins so.
    """
    cls, request, response = type(ventu), ventu.req_schema, ventu.resp_schema

    def load(self: Any) -> None:
        check()

    def preprocess(self: Any, item: Any) -> Any:
        return item

    def postprocess(self: Any, output: Any) -> Any:
        return output

    preprocess.__annotations__ = {"item": Annotated[request, _Checked(request)]}
    postprocess.__annotations__ = {"return": Annotated[response, _Checked(response)]}
    own = {
        "__doc__": vars(cls).get("__doc__"),
        "__module__": cls.__module__,
        "load": load,
        "preprocess": preprocess,
        "postprocess": postprocess,
        "examples": [pair.request for pair in ventu.examples if _arrives(request, pair.request)],
    }
    named: type[SchemaModel] = type(cls.__name__, (SchemaModel,), own)
    return named(ventu, run)


def _arrives(schema: type[BaseModel], example: Any) -> bool:
    """Whether an example can be asked in JSON, as headrace does at start: bytes may not."""
    try:
        schema.model_validate_json(msgspec.json.encode(example))
    except (ValidationError, TypeError, ValueError):
        return False
    return True


class _Checked:
    """Has headrace check a schema as pydantic does by default, and not by rules of its own.

    So the same requests are valid, whatever serves the model.

    Args:
        schema: The user's.
    """

    def __init__(self, schema: type[BaseModel]) -> None:
        self._schema = schema

    def _validate(self, value: Any) -> Any:
        try:
            return self._schema.model_validate(value)
        except ValidationError:
            # What arrived was JSON, for which a strict schema has other rules.
            return self._schema.model_validate_json(msgspec.json.encode(value))

    def __get_pydantic_core_schema__(
        self, source: Any, handler: GetCoreSchemaHandler
    ) -> CoreSchema:
        return core_schema.no_info_plain_validator_function(
            self._validate, json_schema_input_schema=handler(source)
        )

    def __get_pydantic_json_schema__(
        self, schema: Any, handler: GetJsonSchemaHandler
    ) -> dict[str, Any]:
        found = handler(schema["json_schema_input_schema"])
        carry_extra(self._schema, handler.resolve_ref_schema(found))
        return found
