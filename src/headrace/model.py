"""What a user writes: a `Model`, or a function under `@model`."""

from __future__ import annotations

import inspect
import re
import typing
from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from typing import Any, ClassVar, Union, get_args, get_origin, overload

from .call import Payload
from .config import Batching
from .errors import ConfigError, ItemError

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}")
_MEDIA_TYPE = re.compile(r"[A-Za-z0-9.+-]+/[A-Za-z0-9.+-]+(;[ -~]*)?")
_WORD_START = re.compile(r"(?<=[a-z0-9])(?=[A-Z])")


class Model:
    """A machine-learning model as headrace serves it.

    Only `predict` is required. For each request headrace decodes and validates the body by the
    annotation of `preprocess` (or, without one, by the item type of `predict`'s), gathers
    prepared items of several requests into a batch, calls `predict` once, and writes each output
    after `postprocess`. The class's docstring becomes the API's description.

    Attributes:
        name: In the routes; default the class's name in lower case with dashes.
        version: Shown in the documentation and the model's card.
        batching: How items are put together.
        examples: Items as a client would send them: used for warm-up, the health check, the
            documentation, and to tell a broken model from a broken item. With none, the model
            is ready as soon as it is loaded.
        idempotent: Whether items may be run again after a failure; False forgoes isolation by
            bisection.
        nan_as_null: Whether a NaN in a JSON answer is written as null; else it is an error.
        tolerance: How far `headrace check` lets a batched number be from the single one.
        response_media_type: Of answers that are bytes, such as `image/png`.
        devices: CUDA devices of its worker processes: "0,1" gives each replica one in turn,
            "0+1,2+3" each two; default all to all.

    Example:
        >>> class Shout(Model):
        ...     examples: ClassVar = ["hello"]
        ...     def predict(self, batch: list[str]) -> list[str]:
        ...         return [text.upper() for text in batch]
    """

    name: ClassVar[str] = ""
    version: ClassVar[str] = "1"
    batching: ClassVar[Batching] = Batching()
    examples: ClassVar[Sequence[Any]] = ()
    idempotent: ClassVar[bool] = True
    nan_as_null: ClassVar[bool] = False
    tolerance: ClassVar[float] = 1e-6
    response_media_type: ClassVar[str] = "application/octet-stream"
    devices: ClassVar[str] = ""

    def load(self) -> None:
        """Get ready: read weights, open sessions. Called once in each replica, before all else."""

    def preprocess(self, item: Any) -> Any:
        """One item as `predict` wants it. Its annotation is the request's schema.

        Raises:
            ItemError: The item cannot be taken; the caller is told why.
        """
        return item

    def predict(self, batch: Any) -> Any:
        """One output for each item, in their order.

        Args:
            batch: 1 to `batching.max_batch_size` prepared items.

        Returns:
            A sequence, or an array along its first dimension, as long as `batch`. An `ItemError`
            at an item's place fails that item alone.
        """
        raise NotImplementedError

    def postprocess(self, output: Any) -> Any:
        """One output as the caller wants it. Its annotation is the response's schema.

        Raises:
            ItemError: There is no answer for this item; the caller is told why.
        """
        return output

    def unload(self) -> None:
        """Give back what `load` took. Called once, when the replica stops."""

    def key(self, payload: Payload) -> Hashable:
        """What items must have in common to share a batch, such as a length bucket.

        Called before the body is decoded, on an instance that is not loaded; be quick.
        """
        return payload.key

    def cost(self, payload: Payload) -> float:
        """What an item adds to its batch, against `batching.max_batch_cost`; as `key`."""
        return payload.cost


Predict = Callable[[Any], Any]


class FunctionModel(Model):
    """A model made of a batch function, which can still be called as one."""

    def __init__(self, function: Predict) -> None:
        self.function = function
        self.__doc__ = function.__doc__

    def predict(self, batch: Any) -> Any:
        """The function's own answer."""
        return self.function(batch)

    def __call__(self, batch: Any) -> Any:
        """The function's own answer, with nothing of headrace between."""
        return self.function(batch)


@overload
def model(function: Predict, /) -> FunctionModel: ...
@overload
def model(
    *,
    name: str | None = None,
    batching: Batching | None = None,
    examples: Sequence[Any] = (),
    **attributes: Any,
) -> Callable[[Predict], FunctionModel]: ...
def model(
    function: Predict | None = None,
    /,
    *,
    name: str | None = None,
    batching: Batching | None = None,
    examples: Sequence[Any] = (),
    **attributes: Any,
) -> FunctionModel | Callable[[Predict], FunctionModel]:
    """Make a Model of a function that takes a batch and returns as many outputs.

    Args:
        function: The function, where the decorator is used without arguments.
        name: In the routes; default the function's name with dashes.
        batching: How items are put together; default `Batching()`.
        examples: Items as a client would send them.
        **attributes: Further attributes of `Model`, such as `version`.

    Raises:
        ConfigError: An attribute is none of Model's.

    Example:
        >>> @model(examples=["hello"])
        ... def shout(batch: list[str]) -> list[str]:
        ...     return [text.upper() for text in batch]
        >>> shout(["hi"])
        ['HI']
    """

    def decorate(batch_function: Predict) -> FunctionModel:
        made = FunctionModel(batch_function)
        own = {
            **attributes,
            "name": name or _dashed(getattr(batch_function, "__name__", "")),
            "batching": batching or Batching(),
            "examples": examples,
        }
        for key, value in own.items():
            if key not in Model.__annotations__:
                raise ConfigError(f"@model: {key}: no such attribute of Model")
            setattr(made, key, value)
        return made

    return decorate if function is None else decorate(function)


_ATTRIBUTES: Mapping[str, tuple[type | tuple[type, ...], str]] = {
    "name": (str, "text"),
    "version": (str, "text"),
    "batching": (Batching, "Batching(...)"),
    "examples": ((list, tuple), "a list"),
    "idempotent": (bool, "True or False"),
    "nan_as_null": (bool, "True or False"),
    "tolerance": ((int, float), "a number"),
    "response_media_type": (str, "text"),
    "devices": (str, "text"),
}


def check_attributes(made: Model) -> None:
    """Check the kinds of a model's attributes.

    Raises:
        ConfigError: One is of another kind than headrace works with.
    """
    for name, (kinds, expected) in _ATTRIBUTES.items():
        found = getattr(made, name)
        if not isinstance(found, kinds):
            where = f"{type(made).__qualname__}.{name}"
            raise ConfigError(f"{where}: expected {expected}, got {found!r:.64}")
    if not _MEDIA_TYPE.fullmatch(made.response_media_type):
        raise ConfigError(
            f"{type(made).__qualname__}.response_media_type: expected a media type such as"
            f" image/png, got {made.response_media_type!r:.64}"
        )


class Signature(typing.NamedTuple):
    """What a model's annotations say: of one item, and of one answer."""

    request: Any
    response: Any


def signature_of(made: Model) -> Signature:
    """The item types of a model's annotations; Any where there are none.

    Raises:
        ConfigError: The model is not one that can be served; the message names the method.
    """
    cls = type(made)
    function = made.function if isinstance(made, FunctionModel) else None
    if function is None and cls.predict is Model.predict:
        raise ConfigError(f"{cls.__qualname__}: expected a predict method, found none")
    predict = function or made.predict
    for method in (made.load, made.preprocess, predict, made.postprocess, made.unload):
        if inspect.iscoroutinefunction(method) or inspect.isasyncgenfunction(method):
            raise ConfigError(f"{_called(method)}: expected a plain function, got an async one")
    predict_in, predict_out = _annotations(predict)
    request, response = item_type(predict_in), item_type(predict_out)
    if cls.preprocess is not Model.preprocess:
        request = _annotations(made.preprocess)[0]
    if cls.postprocess is not Model.postprocess:
        response = _annotations(made.postprocess)[1]
    return Signature(request, response)


def name_of(made: Model) -> str:
    """The model's name in the routes.

    Raises:
        ConfigError: It would not do as a part of a path.
    """
    name = made.name or _dashed(type(made).__name__)
    if not _NAME.fullmatch(name):
        raise ConfigError(
            f"{type(made).__qualname__}.name: expected letters, digits, dots, dashes and"
            f" underscores, got {name!r}"
        )
    return name


def description_of(made: Model) -> str:
    """The model's own docstring, not an inherited one."""
    function = made.function if isinstance(made, FunctionModel) else None
    own = function.__doc__ if function is not None else vars(type(made)).get("__doc__")
    return inspect.cleandoc(own) if own else ""


def item_type(annotation: Any) -> Any:
    """The type of one element of an annotated batch: X of `list[X]`, else Any."""
    origin, args = get_origin(annotation), get_args(annotation)
    if not isinstance(origin, type) or not issubclass(origin, Iterable):
        return Any
    # Not those of dict[K, V], tuple[X, Y], or of an array, whose arguments are shape and dtype.
    if len(args) != 1 and not (origin is tuple and args[-1:] == (...,)):
        return Any
    members = [member for member in _union(args[0]) if member is not ItemError]
    return Union[tuple(members)] if members else Any  # noqa: UP007  (made at run time)


def _union(annotation: Any) -> tuple[Any, ...]:
    """The members of a union, or the annotation itself."""
    is_union = get_origin(annotation) is Union or type(annotation).__name__ == "UnionType"
    return get_args(annotation) if is_union else (annotation,)


def _annotations(function: Callable[..., Any]) -> tuple[Any, Any]:
    """The annotations of a function's first argument and of what it returns."""
    try:
        hints = typing.get_type_hints(function, include_extras=True)
    except Exception as error:  # whatever the text of an annotation evaluates to
        raise ConfigError(f"{_called(function)}: annotation: {error}") from None
    parameters = list(inspect.signature(function).parameters)
    if not parameters:
        raise ConfigError(f"{_called(function)}: expected one argument, found none")
    return hints.get(parameters[0], Any), hints.get("return", Any)


def _called(function: Callable[..., Any]) -> str:
    """A function's name in an error."""
    return getattr(function, "__qualname__", type(function).__name__)


def _dashed(name: str) -> str:
    """`FileType` and `file_type` as `file-type`."""
    return _WORD_START.sub("-", name).replace("_", "-").strip("-").lower()
