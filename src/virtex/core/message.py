"""The message: what a client sends, and what comes back."""

from __future__ import annotations

import http.client
import math
from collections.abc import Callable
from typing import Any

import msgspec

from .logging import LOGGER

_encoder = msgspec.json.Encoder()

_PLAIN = frozenset({str, int, bool, type(None)})
"""What needs no look inside; a subclass, such as numpy.str_, is none of these."""


class HttpMessage(dict[str, Any]):
    """A list of data elements, and an error or none; a dict that JSON can carry.

    Args:
        data: The elements, in order; None stands for no elements.
        error: What went wrong, as text; None if nothing did.
        **extra: Further keys, carried along.

    Example:
        >>> message = HttpMessage(data=[1, 2], user="ann")
        >>> message.encode(lambda number: 10 * number)
        >>> message.data, message["user"], message.json
        ([10, 20], 'ann', b'{"data":[10,20],"error":null,"user":"ann"}')
    """

    def __init__(self, /, data: list[Any] | None = None, error: Any = None, **extra: Any) -> None:
        super().__init__(data=[] if data is None else data, error=error, **extra)

    @property
    def data(self) -> list[Any]:
        """The elements, in order: `message["data"]`."""
        elements: list[Any] = self["data"]
        return elements

    @data.setter
    def data(self, elements: list[Any]) -> None:
        self["data"] = elements

    @property
    def error(self) -> Any:
        """What went wrong, None if nothing did: `message["error"]`."""
        return self["error"]

    @error.setter
    def error(self, error: Any) -> None:
        self["error"] = error

    def __call__(self) -> HttpMessage:
        return self

    def encode(self, func: Callable[..., Any], **kwargs: Any) -> None:
        """Put `func(element, **kwargs)` in each element's place."""
        self.data = [func(element, **kwargs) for element in self.data]

    def decode(self, func: Callable[..., Any], **kwargs: Any) -> None:
        """The same as `encode`, for the way back."""
        self.encode(func, **kwargs)

    def validate(self) -> bool:
        """Whether the message can be written as JSON; if not, the reason is logged."""
        try:
            _ = self.json
        except Exception as error:
            LOGGER.error("the message cannot be written as JSON: %s", error)
            return False
        return True

    @property
    def json(self) -> bytes:
        """The message as JSON.

        Raises:
            ValueError: It holds NaN or infinity, which JSON does not have, or contains itself.
            TypeError: It holds something else that JSON does not have, such as bytes or an array.
        """
        return to_json(self)


def to_json(value: Any) -> bytes:
    """A value as JSON that every reader of JSON takes, and takes for the same value.

    Raises:
        ValueError: It holds NaN or infinity, which JSON does not have, or contains itself.
        TypeError: It holds something else that JSON does not have, such as bytes or an array.
    """
    try:
        _check(value, "$")
        return _encoder.encode(value)
    except RecursionError:
        raise ValueError("expected a value of a few levels, got one that contains itself") from None
    except UnicodeEncodeError as error:
        raise ValueError(f"expected text that UTF-8 has: {error.reason}") from None


def _check(value: Any, path: str) -> None:
    """Refuse what JSON lacks: the encoder would write bytes as text, and NaN as null."""
    kind = type(value)
    if kind in _PLAIN:
        return
    if kind is float:
        if not math.isfinite(value):
            raise ValueError(f"{path}: expected a number that JSON has, got {value}")
    elif isinstance(value, dict):
        for key, element in value.items():
            if type(key) is not str:
                raise TypeError(f"{path}: expected text as a key, got {_name(type(key))}")
            if type(element) not in _PLAIN:
                _check(element, f"{path}.{key}")
    elif isinstance(value, list | tuple):
        kinds = set(map(type, value))
        if kinds <= _PLAIN or (kinds == {float} and all(map(math.isfinite, value))):
            return
        for index, element in enumerate(value):
            if type(element) not in _PLAIN:
                _check(element, f"{path}[{index}]")
    else:
        raise TypeError(
            f"{path}: expected what JSON has (text, numbers, true, false, null, lists, objects), "
            f"got {_name(kind)}"
        )


def _name(kind: type) -> str:
    return kind.__name__ if kind.__module__ == "builtins" else f"{kind.__module__}.{kind.__name__}"


def message_of(status: int, body: bytes, place: str = "") -> HttpMessage:
    """The message of an HTTP answer, with an error unless it is a good one.

    Args:
        status: The answer's.
        body: All of it.
        place: What an error begins with, where the server says nothing itself.
    """
    where = f"{place}: " if place else ""
    message, problem = HttpMessage(), None
    try:
        value = msgspec.json.decode(body)
    except (ValueError, msgspec.MsgspecError, RecursionError):
        problem = "expected a message (a JSON object), got no JSON"
    else:
        if not isinstance(value, dict):
            problem = f"expected a message (a JSON object), got {_JSON_NAMES[type(value)]}"
        else:
            if not isinstance(data := value.pop("data", None), list | None):
                problem = f"expected a list as `data`, got {_JSON_NAMES[type(data)]}"
                data = None
            message = HttpMessage(data, value.pop("error", None))
            message.update(value)
    if not 200 <= status < 300 and message.error is None:
        message.error = f"{where}{status} {http.client.responses.get(status, '')}".rstrip()
    elif problem is not None and message.error is None:
        message.error = f"{where}{problem}"
    return message


_JSON_NAMES = {
    str: "text",
    int: "a number",
    float: "a number",
    bool: "true or false",
    type(None): "null",
    list: "a list",
    dict: "an object",
}
