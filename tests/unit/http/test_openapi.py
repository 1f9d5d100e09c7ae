"""The OpenAPI document."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar, TypedDict

import msgspec
from openapi_spec_validator import validate
from pydantic import BaseModel

from headrace import Model, model
from headrace.http.openapi import openapi_document
from headrace.replica import Replica


class Box(BaseModel):
    left: int
    inner: Box | None = None


class Label(TypedDict):
    name: str
    box: Box


@dataclass
class Point:
    x: float
    tags: list[str]


class Detector(Model):
    """Finds things.

    And more about it.
    """

    version: ClassVar = "3"
    examples: ClassVar = [{"left": 1}]

    def predict(self, batch: list[Box]) -> list[Label]:
        return [{"name": "x", "box": box} for box in batch]


@model(name="size", examples=[b"\xff\x00"])
def size(batch: list[bytes]) -> list[int]:
    return [len(body) for body in batch]


@model(name="draw")
def draw(batch: list[Point]) -> list[bytes]:
    return [b"" for _ in batch]


@model(name="anything")
def anything(batch: Any) -> Any:
    return batch


def document(*models: Any) -> dict[str, Any]:
    made = [each() if isinstance(each, type) else each for each in models]
    cards = [Replica(each).card for each in made]
    # What a client gets: through JSON.
    found: dict[str, Any] = msgspec.json.decode(
        msgspec.json.encode(openapi_document(cards, version="0"))
    )
    return found


def references(node: Any) -> set[str]:
    """Every `$ref` in a document."""
    if isinstance(node, dict):
        own = {node["$ref"]} if isinstance(node.get("$ref"), str) else set()
        return own.union(*(references(part) for part in node.values()))
    if isinstance(node, list):
        return set().union(*(references(part) for part in node))
    return set()


ALL = (Detector, size, draw, anything)


def test_it_is_valid() -> None:
    for models in (ALL, *((each,) for each in ALL)):
        validate(document(*models))


def test_every_reference_leads_somewhere() -> None:
    found = document(*ALL)
    for reference in references(found):
        node = found
        for part in reference.removeprefix("#/").split("/"):
            node = node[part]


def test_every_operation_has_an_id_of_its_own_and_answers_to_200() -> None:
    paths = document(*ALL)["paths"]
    operations = [operation for path in paths.values() for operation in path.values()]
    ids = [operation["operationId"] for operation in operations]
    assert len(set(ids)) == len(ids)
    assert all("200" in operation["responses"] for operation in operations)


def test_each_model_has_its_routes_and_the_first_the_short_one() -> None:
    paths = document(*ALL)["paths"]
    for name in ("detector", "size", "draw", "anything"):
        assert {f"/models/{name}/predict", f"/v1/models/{name}:predict"} <= set(paths)
    assert paths["/predict"]["post"]["tags"] == ["detector"]
    assert {"/livez", "/readyz", "/health", "/metrics"} <= set(paths)


def test_a_models_docstring_examples_and_version_are_in_it() -> None:
    found = document(Detector)
    operation = found["paths"]["/predict"]["post"]
    assert operation["summary"] == "Finds things."
    assert "And more about it." in operation["description"]
    content = operation["requestBody"]["content"]["application/json"]
    assert content["examples"]["example 1"]["value"] == {"left": 1}
    assert found["info"]["version"] == "3"
    v1 = found["paths"]["/v1/models/detector:predict"]["post"]["requestBody"]["content"]
    assert v1["application/json"]["examples"]["examples"]["value"] == {"instances": [{"left": 1}]}


def test_bytes_are_binary_in_their_own_types_and_text_in_json() -> None:
    found = document(size, draw)
    asked = found["paths"]["/models/size/predict"]["post"]["requestBody"]["content"]
    assert asked["application/octet-stream"]["schema"] == {"type": "string", "format": "binary"}
    assert asked["application/json"]["examples"]["example 1"]["value"] == "/wA="
    answered = found["paths"]["/models/draw/predict"]["post"]["responses"]["200"]["content"]
    assert "application/octet-stream" in answered
