"""Bodies of requests and responses: bytes to checked objects and back, in JSON or in msgpack."""

from __future__ import annotations

import http
import math
from typing import Any

import falcon
import msgspec
from pydantic import BaseModel, RootModel, ValidationError

from headrace import ItemError

MAX_FAULTS = 1000
"""Beyond these, an error says no more than how many there are: naming all takes seconds."""

JSON = "application/json"
MSGPACK = "application/msgpack"
_SPELLINGS = {
    JSON: (JSON, "text/json"),
    MSGPACK: (MSGPACK, "application/x-msgpack", "application/vnd.msgpack"),
}


class Refused(Exception):
    """A request that gets no answer, and what the caller is told of it.

    Args:
        status: Of the HTTP answer.
        problem: pydantic's errors as a list, what is wrong as text, or a whole body as a dict.
    """

    def __init__(self, status: int, problem: Any) -> None:
        super().__init__(f"{status}: {problem}")
        self.status = status
        self.problem = problem

    @property
    def http_body(self) -> Any:
        """The problem as the body of an HTTP answer, not encoded."""
        return (
            problem_body(self.status, self.problem) if type(self.problem) is str else self.problem
        )


class BrokenResponse(Exception):
    """What the model gave as a response is none, or cannot be written."""


class Bodies:
    """The bodies of one service.

    Args:
        req_schema: What a request is.
        resp_schema: What a response is.
        use_msgpack: Whether they are msgpack, in place of JSON.

    Attributes:
        media_type: Of all bodies.
    """

    def __init__(
        self, req_schema: type[BaseModel], resp_schema: type[BaseModel], use_msgpack: bool
    ) -> None:
        self.req_schema = req_schema
        self.resp_schema = resp_schema
        self.use_msgpack = use_msgpack
        self.media_type = MSGPACK if use_msgpack else JSON

    def check_type(self, content_type: str | None) -> None:
        """Look at a request's content type; none is the service's own.

        Raises:
            Refused: It is another.
        """
        found = (content_type or self.media_type).partition(";")[0].strip().lower()
        if found not in _SPELLINGS[self.media_type]:
            raise Refused(415, f"expected the content type {self.media_type}, got {found[:64]!r}")

    def read(self, body: bytes) -> Any:
        """The request in a body, an instance of `req_schema`.

        Raises:
            Refused: It is malformed (400), or not what the schema asks for (422).
            Exception: What a validator of the schema raised that is no error of validation.
        """
        try:
            if self.use_msgpack:
                return self.req_schema.model_validate(_decode_msgpack(body))
            return self.req_schema.model_validate_json(body)
        except ValidationError as error:
            found = faults(error)
            if found[0]["type"] == "json_invalid" and not found[0]["loc"]:
                raise Refused(400, found[0]["msg"]) from None
            raise Refused(422, found) from None

    def write(self, response: Any) -> bytes:
        """A response's body: what it is, with nothing added, once that is known to fit.

        Raises:
            BrokenResponse: It does not fit `resp_schema`, or cannot be written.
        """
        schema = self.resp_schema
        try:
            if isinstance(response, schema):
                # It, or one within it, may have been changed, or made without a check.
                schema.model_validate(_unchecked(response), by_alias=False, by_name=True)
                return self.encode(response)
            body = self.encode(response)
            if self.use_msgpack:
                schema.model_validate(_decode_msgpack(body))
            else:
                schema.model_validate_json(body)
        except ValidationError as error:
            raise BrokenResponse(f"it does not fit {schema.__name__}: {faults(error)}") from None
        except Exception as error:
            raise BrokenResponse(f"it cannot be written as {self.media_type}: {error}") from error
        return body

    def encode(self, value: Any) -> bytes:
        """Any value as a body.

        Raises:
            TypeError, ValueError, RecursionError: It has no form in this format.
        """
        if self.use_msgpack:
            return msgspec.msgpack.encode(value, enc_hook=_plain)
        body = msgspec.json.encode(value, enc_hook=_plain_json)
        # msgspec writes null for NaN: look for one only where a null was written.
        if b"null" in body and _holds_nan(value):
            raise ValueError("it holds NaN or an infinity")
        return body

    def plain(self, value: Any) -> Any:
        """A value as it would arrive, for comparisons; itself if it cannot be written."""
        try:
            body = self.encode(value)
        except Exception:
            return value
        return msgspec.msgpack.decode(body) if self.use_msgpack else msgspec.json.decode(body)


def faults(error: ValidationError) -> list[dict[str, Any]]:
    """What pydantic found, as plain data: where, what, and of which type."""
    count = error.error_count()
    if count > MAX_FAULTS:
        return [{"loc": [], "msg": f"{count} faults, too many to name", "type": "too_many_faults"}]
    return [
        {
            "loc": list(fault["loc"]),
            "msg": fault["msg"],
            "type": fault["type"],
        }
        for fault in error.errors(include_url=False, include_context=False, include_input=False)
    ]


def refusal_of(error: Exception) -> Refused | None:
    """What the caller is told of an exception; None if it is nothing that he could mend."""
    if isinstance(error, Refused):
        return error
    if isinstance(error, ItemError):
        # Halves of characters cannot be sent.
        return Refused(error.status, error.message.encode(errors="backslashreplace").decode())
    if isinstance(error, falcon.HTTPError):
        return Refused(error.status_code, problem_of(error))
    return None


def problem_of(error: falcon.HTTPError) -> dict[str, Any]:
    """What one of Falcon's errors says, as it can be sent: without halves of characters."""
    return {
        key: value.encode(errors="backslashreplace").decode() if isinstance(value, str) else value
        for key, value in error.to_dict().items()
    }


def problem_body(status: int, text: str = "") -> dict[str, str]:
    """An error's body, in the form that Falcon's own have."""
    try:
        phrase = http.HTTPStatus(status).phrase
    except ValueError:
        phrase = "Error"
    return {"title": f"{status} {phrase}"} | ({"description": text} if text else {})


def _unchecked(value: Any) -> Any:
    """The plain data that models were made of, which pydantic checks anew."""
    if isinstance(value, RootModel):
        return _unchecked(value.root)
    if isinstance(value, BaseModel):
        own = vars(value) | (value.__pydantic_extra__ or {})
        return {name: _unchecked(field) for name, field in own.items()}
    if isinstance(value, dict):
        return {key: _unchecked(element) for key, element in value.items()}
    if type(value) in (list, tuple):
        return [_unchecked(element) for element in value]
    return value


def _decode_msgpack(body: bytes) -> Any:
    try:
        return msgspec.msgpack.decode(body)
    except RecursionError:
        reason = "it nests too deeply"
    except UnicodeDecodeError:
        reason = "a text is not UTF-8"
    except (msgspec.DecodeError, TypeError, ValueError, OverflowError) as error:
        reason = str(error)
    raise Refused(400, f"Invalid msgpack: {reason}")


def _plain(value: Any) -> Any:
    """A plain form of what msgspec does not write by itself."""
    if isinstance(value, BaseModel):
        return value.model_dump(by_alias=True)
    return _plain_foreign(value)


def _plain_json(value: Any) -> Any:
    if isinstance(value, BaseModel):
        return value.model_dump(mode="json", by_alias=True)
    return _plain_foreign(value)


def _plain_foreign(value: Any) -> Any:
    """Arrays and their scalars, known by what they can do; and pydantic's own types, as text."""
    if hasattr(value, "tolist") and type(made := value.tolist()) is not type(value):
        return made
    if type(value).__module__.partition(".")[0] in ("pydantic", "pydantic_core"):
        return str(value)
    raise TypeError(f"a value of type {type(value).__qualname__}")


def _holds_nan(value: Any) -> bool:
    pending = [msgspec.to_builtins(value, enc_hook=_plain_json)]
    while pending:
        node = pending.pop()
        if isinstance(node, dict):
            pending.extend(node.values())
        elif isinstance(node, list | tuple | set | frozenset):
            pending.extend(node)
        elif isinstance(node, float) and not math.isfinite(node):
            return True
    return False
