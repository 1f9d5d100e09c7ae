"""The OpenAPI document, made of the models' cards and the table of predict routes."""

from __future__ import annotations

import base64
from collections.abc import Iterable, Sequence
from typing import Any

from ..call import Payload
from ..card import ModelCard
from ..codecs import JSON, codec_of
from ..dialects import MESSAGES, V1_DIALECT
from .predict import ROUTES

_ERROR = {
    "type": "object",
    "properties": {
        "error": {"type": "string", "description": "what was expected, what was found, and where"},
        "code": {"type": "string", "description": "stable, for programs"},
        "details": {"type": "array", "items": {"type": "object"}},
    },
    "required": ["error", "code", "details"],
}
_FAILURES = {
    "400": "The body is malformed, or a header cannot be read",
    "413": "The body is too large",
    "415": "The model does not read this media type",
    "422": "The item is not what the model takes",
    "500": "The model failed",
    "503": "Not now: try again after Retry-After seconds",
    "504": "The deadline passed",
}
_PARAMETERS = [
    {
        "name": "X-Request-Timeout",
        "in": "header",
        "schema": {"type": "number", "exclusiveMinimum": 0},
        "description": "Seconds after which the answer is not wanted any more",
    },
    {
        "name": "X-Request-Id",
        "in": "header",
        "schema": {"type": "string"},
        "description": "Comes back with the answer, and stands in the log if it fails",
    },
]
_PAGES = {
    "/livez": "Whether the server is alive",
    "/readyz": "Whether a request would be answered now",
    "/health": "Whether the models answer their own examples",
    "/metrics": "Metrics for Prometheus",
}


def openapi_document(cards: Sequence[ModelCard], *, version: str) -> dict[str, Any]:
    """The OpenAPI 3.1 document of a server.

    Args:
        cards: Of its models; the first is the default.
        version: Of headrace.
    """
    schemas: dict[str, Any] = {"Error": _ERROR}
    paths: dict[str, Any] = {}
    for card in cards:
        request = _lift(card.request_schema, f"{card.name}.", schemas)
        response = _lift(card.response_schema, f"{card.name}.", schemas)
        for route, dialect in ROUTES.items():
            path = route.replace("{name}", card.name)
            if path not in paths:
                operation = _OPERATIONS.get(dialect, _native_operation)
                paths[path] = {"post": operation(card, request, response, path)}
    for path, summary in _PAGES.items():
        paths[path] = {"get": _page(path, summary)}
    return {
        "openapi": "3.1.0",
        "info": {
            "title": cards[0].name if len(cards) == 1 else "headrace",
            "version": cards[0].version if len(cards) == 1 else version,
            "description": cards[0].description if len(cards) == 1 else "Models served by headrace",
        },
        "tags": [{"name": card.name, "description": card.description} for card in cards],
        "paths": paths,
        "components": {"schemas": schemas},
    }


def _native_operation(card: ModelCard, request: Any, response: Any, path: str) -> dict[str, Any]:
    examples = {
        f"example {number}": {"value": value}
        for number, value in enumerate(_json_examples(card.examples), 1)
    }
    body = {
        media_type: _content(media_type, request, examples)
        for media_type in card.reads
        if not media_type.endswith("/*")
    }
    answer = {media_type: _content(media_type, response, {}) for media_type in card.writes}
    return _operation(card, path, body, answer)


def _v1_operation(card: ModelCard, request: Any, response: Any, path: str) -> dict[str, Any]:
    return _list_operation(
        card, path, _listed("instances", request), _listed("predictions", response)
    )


def _message_operation(card: ModelCard, request: Any, response: Any, path: str) -> dict[str, Any]:
    answered = _listed("data", response)
    answered["properties"]["error"] = {"type": ["string", "null"]}
    return _list_operation(card, path, _listed("data", request), answered, error=answered)


def _listed(field: str, item: Any) -> dict[str, Any]:
    """The schema of an object that has its items in a field."""
    return {
        "type": "object",
        "properties": {field: {"type": "array", "items": item}},
        "required": [field],
    }


def _list_operation(
    card: ModelCard, path: str, asked: dict[str, Any], answered: dict[str, Any], error: Any = None
) -> dict[str, Any]:
    examples = list(_json_examples(card.examples))
    (field,) = asked["required"]
    example = {"examples": {"examples": {"value": {field: examples}}}} if examples else {}
    return _operation(
        card,
        path,
        {JSON.media_type: {"schema": asked, **example}},
        {JSON.media_type: {"schema": answered}},
        error,
    )


def _operation(
    card: ModelCard, path: str, body: dict[str, Any], answer: dict[str, Any], failed: Any = None
) -> dict[str, Any]:
    error = {JSON.media_type: {"schema": failed or {"$ref": "#/components/schemas/Error"}}}
    responses: dict[str, Any] = {"200": {"description": "The model's answer", "content": answer}}
    for status, description in _FAILURES.items():
        responses[status] = {"description": description, "content": error}
    return {
        "tags": [card.name],
        "summary": card.description.partition("\n")[0] or f"Ask {card.name}",
        "description": card.description,
        "operationId": "post" + "".join(c if c.isalnum() else "_" for c in path),
        "parameters": _PARAMETERS,
        "requestBody": {"required": True, "content": body},
        "responses": responses,
    }


_OPERATIONS = {V1_DIALECT: _v1_operation, MESSAGES: _message_operation}


def _page(path: str, summary: str) -> dict[str, Any]:
    return {
        "tags": ["server"],
        "summary": summary,
        "operationId": "get" + path.replace("/", "_"),
        "responses": {"200": {"description": summary}},
    }


def _content(media_type: str, schema: Any, examples: dict[str, Any]) -> dict[str, Any]:
    if not codec_of(media_type).structured:
        return {"schema": {"type": "string", "format": "binary"}}
    content: dict[str, Any] = {"schema": schema}
    if examples and media_type == JSON.media_type:
        content["examples"] = examples
    return content


def _json_examples(examples: Iterable[Payload]) -> Iterable[Any]:
    """Examples as JSON has them: bytes as text in base64."""
    for example in examples:
        codec = codec_of(example.input_type)
        if codec.structured:
            yield codec.decode(example.body, max_depth=512)
        else:
            yield base64.b64encode(example.body).decode()


def _lift(schema: Any, prefix: str, into: dict[str, Any]) -> Any:
    """A JSON Schema for use in the document: its own `$defs` become components."""
    if isinstance(schema, list):
        return [_lift(part, prefix, into) for part in schema]
    if not isinstance(schema, dict):
        return schema
    lifted = {}
    for key, value in schema.items():
        if key == "$defs":
            for name, definition in value.items():
                into[prefix + name] = _lift(definition, prefix, into)
        elif key == "$ref" and isinstance(value, str):
            name = value.removeprefix("#/$defs/")
            lifted[key] = f"#/components/schemas/{prefix}{name}"
        else:
            lifted[key] = _lift(value, prefix, into)
    return lifted
