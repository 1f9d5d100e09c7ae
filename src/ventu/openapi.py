"""The OpenAPI document of a service, made of its schemas."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel, RootModel
from pydantic.json_schema import models_json_schema

from .config import Config
from .examples import extra_of

HOME, HEALTH, METRICS, INFERENCE = "/", "/health", "/metrics", "/inference"
SPEC, REDOC, SWAGGER = "/apidoc/openapi.json", "/apidoc/redoc", "/apidoc/swagger"

_REFERENCES = "#/components/schemas/{model}"


class Fault(BaseModel):
    """One thing that is wrong with a request.

    Attributes:
        loc: The names and indices that lead to it.
        msg: What is wrong.
        type: The kind of fault, stable.
    """

    loc: list[str | int]
    msg: str
    type: str


class ValidationFaults(RootModel[list[Fault]]):
    """All that is wrong with a request."""


class Problem(BaseModel):
    """Why there is no answer."""

    title: str
    description: str = ""


def openapi_document(
    req_schema: type[BaseModel],
    resp_schema: type[BaseModel],
    status_schema: type[BaseModel],
    *,
    media_type: str,
    config: Config,
) -> dict[str, Any]:
    """The OpenAPI 3.1 document.

    Args:
        req_schema: What a request is.
        resp_schema: What a response is.
        status_schema: What the health check answers.
        media_type: Of requests, responses and errors.
        config: Names the service and its version.
    """
    models = [req_schema, resp_schema, status_schema, ValidationFaults, Problem]
    # Responses, too, are what the schema takes: none of its defaults is added to them.
    modes = [(model, "validation") for model in models]
    found, definitions = models_json_schema(modes, ref_template=_REFERENCES)  # type: ignore[arg-type]  # the literal
    schemas = definitions.get("$defs", {})
    for model in (req_schema, resp_schema):
        carry_extra(model, schemas[found[model, "validation"]["$ref"].rpartition("/")[2]])

    def content(model: type[BaseModel]) -> dict[str, Any]:
        return {media_type: {"schema": found[model, "validation"]}}

    def answers(description: str, model: type[BaseModel]) -> dict[str, Any]:
        return {"description": description, "content": content(model)}

    inference = {
        "summary": "Deep learning model inference",
        "description": req_schema.__doc__ or "",
        "operationId": "inference",
        "tags": ["inference"],
        "requestBody": {"required": True, "content": content(req_schema)},
        "responses": {
            "200": answers("The response", resp_schema),
            "400": answers("The body is malformed", Problem),
            "415": answers("The body is of another media type", Problem),
            "422": answers("The request is not what the schema asks for", ValidationFaults),
            "500": answers("The model failed", Problem),
        },
    }
    return {
        "openapi": "3.1.0",
        "info": {"title": config.name, "version": config.version},
        "paths": {
            INFERENCE: {"post": inference},
            HEALTH: {"get": _page("health", {"200": answers("The health", status_schema)})},
            METRICS: {"get": _page("metrics", {"200": {"description": "Text for Prometheus"}})},
        },
        "components": {"schemas": schemas},
    }


def carry_extra(model: type[BaseModel], json_schema: dict[str, Any]) -> None:
    """Add to a JSON Schema, in place, what the model's configuration has for it."""
    for name, value in extra_of(model).items():
        json_schema.setdefault(name, value)


def _page(name: str, responses: dict[str, Any]) -> dict[str, Any]:
    return {
        "summary": {"health": "Health check", "metrics": "Metrics"}[name],
        "operationId": name,
        "tags": ["service"],
        "responses": responses,
    }
