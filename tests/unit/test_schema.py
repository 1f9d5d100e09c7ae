"""What is checked by a schema, and that JSON and msgpack get the same verdict."""

from __future__ import annotations

import dataclasses
import datetime
import decimal
import enum
import itertools
import json
import math
import uuid
from typing import Annotated, Any, Literal, NamedTuple, NewType, NotRequired

import annotated_types
import msgspec
import numpy as np
import pydantic
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel, ConfigDict, Field, RootModel, field_validator
from typing_extensions import TypedDict

from headrace.codecs import JSON, MSGPACK
from headrace.errors import ConfigError, ItemError, RequestError, SchemaError
from headrace.schema import MAX_FAULTS, MAX_PYDANTIC_FAULTS, Schema, schema_of


class Colour(enum.Enum):
    RED = "red"
    BLUE = "blue"


class Size(enum.IntEnum):
    SMALL = 1


Many = Literal[0, 1, 2, 3, 4, 5, 6, 7, 8, 9]


@dataclasses.dataclass
class Node:
    x: int
    below: Node | None = None
    more: list[Node] = dataclasses.field(default_factory=list)


class Options(TypedDict):
    x: int
    y: NotRequired[str]


class Pair(NamedTuple):
    x: int
    node: Node | None = None


class Cat(msgspec.Struct, tag="cat"):
    lives: int


class Dog(msgspec.Struct, tag="dog"):
    tricks: list[str] = []


class Closed(msgspec.Struct, forbid_unknown_fields=True):
    x: int


class Renamed(msgspec.Struct, rename="camel"):
    my_field: int


class Row(msgspec.Struct, array_like=True, tag="row"):
    node: Node
    colour: Colour


class Line(msgspec.Struct, array_like=True, tag="line"):
    x: int


class Point(BaseModel):
    x: int
    y: float = 0.0


PointId = NewType("PointId", Point)


class Aliased(BaseModel):
    label: str = Field(validation_alias="in", serialization_alias="out")


class Open(BaseModel):
    model_config = ConfigDict(extra="allow")
    point: Point | None = None


class Holder(BaseModel):
    open: Open


class Utf8(BaseModel):
    data: bytes


class Base64(BaseModel):
    model_config = ConfigDict(val_json_bytes="base64")
    data: bytes


class Hex(BaseModel):
    model_config = ConfigDict(val_json_bytes="hex")
    data: bytes


class Checked(BaseModel):
    x: int

    @field_validator("x")
    @classmethod
    def check(cls, x: int) -> int:
        if x == 1:
            raise ValueError("one " + "!" * 1000)
        if x == 2:
            raise ItemError("two", status=409)
        if x == 3:
            raise KeyError("three")
        return x


class CatModel(BaseModel):
    kind: Literal["cat"]


class DogModel(BaseModel):
    kind: Literal["dog"]


class Numbers(RootModel[list[int]]):
    pass


class Tree(BaseModel):
    below: list[Tree] = []


@pydantic.dataclasses.dataclass
class Place:
    x: int


@dataclasses.dataclass
class Mixed:
    point: Point


Pets = Annotated[CatModel | DogModel, Field(discriminator="kind")]


def verdict(schema: Schema, body: bytes, codec: Any) -> Any:
    """The item, or the error's code, message and details."""
    try:
        value = codec.decode(body, max_depth=64)
        return schema.validate(value, json=body if codec is JSON else None)
    except RequestError as error:
        assert len(JSON.encode([error.message, error.details])) < 4096
        return (error.code, error.message, error.details)


def verdicts(annotation: Any, value: Any) -> Any:
    """The verdict on a value, which is the same in both formats."""
    schema = schema_of(annotation)
    by_json = verdict(schema, JSON.encode(value), JSON)
    by_msgpack = verdict(schema, MSGPACK.encode(value), MSGPACK)
    assert by_json == by_msgpack
    return by_json


def fault(annotation: Any, value: Any) -> str:
    found = verdicts(annotation, value)
    assert isinstance(found, tuple)
    assert found[0] == "invalid"
    return str(found[1])


@pytest.mark.parametrize(
    ("annotation", "value", "item"),
    [
        (int, 2**63, 2**63),
        (float, 1, 1.0),
        (bool, True, True),
        (str, "größe", "größe"),
        (bytes, b"\xff", b"\xff"),
        (list[bytes], [b"\xff"], [b"\xff"]),
        (None, None, None),
        (Any, {"a": [1]}, {"a": [1]}),
        (int | None, None, None),
        (int | str, "a", "a"),
        (Literal["a", 1], 1, 1),
        (Colour, "red", Colour.RED),
        (Size, 1, Size.SMALL),
        (
            datetime.datetime,
            "2020-01-01T00:00:00Z",
            datetime.datetime(2020, 1, 1, tzinfo=datetime.UTC),
        ),
        (datetime.date, "2020-01-01", datetime.date(2020, 1, 1)),
        (uuid.UUID, str(uuid.UUID(int=1)), uuid.UUID(int=1)),
        (decimal.Decimal, "1.50", decimal.Decimal("1.50")),
        (dict[int, float], {1: 2.5}, {1: 2.5}),
        (dict[str, Node], {"a": {"x": 1}}, {"a": Node(1)}),
        (set[int], [1, 2, 1], {1, 2}),
        (tuple[int, str], [1, "a"], (1, "a")),
        (tuple[int, ...], [1, 2], (1, 2)),
        (Node, {"x": 1, "below": {"x": 2}}, Node(1, Node(2))),
        (list[Node], [{"x": 1}], [Node(1)]),
        (Options, {"x": 1}, {"x": 1}),
        (Pair, [1], Pair(1)),
        (Cat | Dog, {"type": "dog", "tricks": ["sit"]}, Dog(["sit"])),
        (Row | Line, ["line", 1], Line(1)),
        (Renamed, {"myField": 1}, Renamed(1)),
        (Annotated[int, msgspec.Meta(ge=1)], 1, 1),
        (Annotated[int, Field(ge=1)], 1, 1),
        (Point, {"x": 1, "y": 2}, Point(x=1, y=2)),
        (list[Point], [{"x": 1}], [Point(x=1)]),
        (dict[int, Point], {1: {"x": 1}}, {1: Point(x=1)}),
        (Point | int, 1, 1),
        (Mixed, {"point": {"x": 1}}, Mixed(Point(x=1))),
        (Place, {"x": 1}, Place(1)),
        (Numbers, [1, 2], Numbers([1, 2])),
        (Tree, {"below": [{}]}, Tree(below=[Tree()])),
        (Aliased, {"in": "a"}, Aliased.model_validate({"in": "a"})),
        (Open, {"more": 1}, Open.model_validate({"more": 1})),
        (Holder, {"open": {"more": 1}}, Holder.model_validate({"open": {"more": 1}})),
        (list[Open], [{"more": 1}], [Open.model_validate({"more": 1})]),
        (Base64, {"data": b"\xff"}, Base64.model_construct(data=b"\xff")),
        (list[Base64], [{"data": b"\xff"}], [Base64.model_construct(data=b"\xff")]),
        (Utf8, {"data": "text"}, Utf8(data=b"text")),
        (Hex, {"data": "ff"}, Hex.model_construct(data=b"\xff")),
        (Pets, {"kind": "cat"}, CatModel(kind="cat")),
    ],
    ids=map(str, itertools.count()),
)
def test_a_fitting_value_is_the_same_item_in_both_formats(
    annotation: Any, value: Any, item: Any
) -> None:
    assert verdicts(annotation, value) == item


@pytest.mark.parametrize(
    ("annotation", "value", "message"),
    [
        (int, "1", "$: expected int, got str"),
        (int, 1.0, "$: expected int, got float"),
        (int, True, "$: expected int, got bool"),
        (float, "1", "$: expected float, got str"),
        (bool, 1, "$: expected bool, got int"),
        (str, None, "$: expected str, got null"),
        (bytes, "a", "$: invalid base64 encoded string"),
        (int | None, "a", "$: expected int | null, got str"),
        (Literal["a", "b"], "c", "$: expected 'a' or 'b', got 'c'"),
        (list[Colour], ["red", "x"], "$[1]: expected 'red' or 'blue', got 'x'"),
        (dict[str, Colour], {"a": "x"}, "$[...]: expected 'red' or 'blue', got 'x'"),
        (tuple[int, Colour], [1, "x"], "$[1]: expected 'red' or 'blue', got 'x'"),
        (list[Colour | None], ["x"], "$[0]: expected 'red' or 'blue', got 'x'"),
        (int | list[Colour], ["x"], "$[0]: expected 'red' or 'blue', got 'x'"),
        (tuple[Node, ...], [{"x": 1, "z": 1}], "$[0].z: no such field"),
        (Size, 2, "$: expected 1, got 2"),
        (PointId, {"x": 1, "z": 1}, "$.z: no such field"),
        (Many, 99, "$: expected " + "".join(f"{n} or " for n in range(8)) + "…, got 99"),
        (datetime.datetime, "x", "$: invalid RFC3339 encoded datetime"),
        (dict[int, int], {"a": 1}, "$: expected int, got str"),
        (tuple[int, str], [1], "$: expected array of length 2, got 1"),
        (Node, {}, "$.x: expected this field, found none"),
        (Node, {"x": 1, "y": 2}, "$.y: no such field"),
        (Node, {"x": 1, "belov": None}, "$.belov: no such field; did you mean below?"),
        (Node, {"x": 1, "below": {"x": 2, "z": 1}}, "$.below.z: no such field"),
        (Node, {"x": 1, "more": [{"x": 1}, {"x": "a"}]}, "$.more[1].x: expected int, got str"),
        (Node | list[Node], [{"x": 1, "z": 1}], "$[0].z: no such field"),
        (Node | None, {"x": 1, "z": 1}, "$.z: no such field"),
        (dict[str, Node], {"a": {"x": 1, "z": 1}}, "$.a.z: no such field"),
        (tuple[int, Node], [1, {"x": 1, "z": 1}], "$[1].z: no such field"),
        (Pair, [1, {"x": 1, "z": 1}], "$[1].z: no such field"),
        (Options, {"x": 1, "y": None}, "$.y: expected str, got null"),
        (Cat | Dog, {"type": "dog", "lives": 9}, "$.lives: no such field"),
        (Cat | Dog, {"type": "cow"}, "$.type: expected 'cat' or 'dog', got 'cow'"),
        (Cat | Dog, {"lives": 9}, "$.type: expected this field, found none"),
        (Row | Line, ["row", {"x": 1, "z": 1}, "red"], "$[1].z: no such field"),
        (Row | Line, ["row", {"x": 1}, "x"], "$[2]: expected 'red' or 'blue', got 'x'"),
        (Row | Line, ["cow"], "$[0]: expected 'row' or 'line', got 'cow'"),
        (Closed, {"x": 1, "z": 1}, "$.z: no such field"),
        (Annotated[int, msgspec.Meta(ge=1)], 0, "$: expected int >= 1"),
        (Annotated[int, Field(ge=1)], 0, "$: expected greater than or equal to 1, got 0"),
        (
            list[Annotated[int, annotated_types.Gt(0)]],
            [0],
            "$[0]: expected greater than 0, got 0",
        ),
        (Point, {"x": "1"}, "$.x: expected a valid integer, got str"),
        (Point, {"x": 1.0}, "$.x: expected a valid integer, got 1.0"),
        (Point, {"x": True}, "$.x: expected a valid integer, got bool"),
        (Point, {"x": None}, "$.x: expected a valid integer, got null"),
        (Point, [1], "$: expected an object, got array"),
        (Point, {}, "$.x: expected this field, found none"),
        (Point, {"x": 1, "z": 1}, "$.z: no such field"),
        (Place, {"x": 1, "z": 1}, "$.z: no such field"),
        (Mixed, {"point": {"x": 1, "z": 1}}, "$.point.z: no such field"),
        (list[Point], [{"x": 1}, {"x": {}}], "$[1].x: expected a valid integer, got object"),
        (Point | int, {"x": "a"}, "$.x: expected a valid integer, got str"),
        (dict[int, Point], {"a": {"x": 1}}, "$.a: expected a valid integer, unable to parse"),
        (Pets, {"kind": "cow"}, "$: expected a tag among 'cat', 'dog', got another"),
        (Numbers, [1, "a"], "$[1]: expected a valid integer, got str"),
        (Aliased, {"label": "a"}, "$.in: expected this field, found none"),
        (Checked, {"x": 1}, "$.x: Value error, one !!!"),
    ],
    ids=map(str, itertools.count()),
)
def test_a_fault_is_told_the_same_in_both_formats(
    annotation: Any, value: Any, message: str
) -> None:
    assert fault(annotation, value).startswith(message)


@pytest.mark.parametrize(
    ("annotation", "value"),
    [
        (Colour, "x" * 10_000),
        (Cat | Dog, {"type": "x" * 10_000}),
        (Closed, {"x": 1, "x" * 10_000: 1}),
        (Node, {"x": 1, "\x00" * 10_000: 1}),
        (dict[str, Node], {"x" * 10_000: {"x": 1, "y": 1}}),
        (dict[int, Point], {"x" * 10_000: {"x": 1}}),
        (Point, {"x": "x" * 10_000}),
        (Point, {"x": 1, "\x00" * 10_000: 1}),
        (Pets, {"kind": "x" * 10_000}),
        (Checked, {"x": 1}),
    ],
    ids=map(str, itertools.count()),
)
def test_little_of_the_input_is_repeated(annotation: Any, value: Any) -> None:
    schema = schema_of(annotation)
    with pytest.raises(SchemaError) as caught:
        schema.validate(value, json=JSON.encode(value))
    assert len(caught.value.message) < 400
    assert "x" * 65 not in caught.value.message


def test_several_faults_are_listed_but_not_all_of_a_thousand() -> None:
    for annotation in (Node, Point):
        few = {"x": 1, "a": 1, "b": 2}
        paths = [detail["path"] for detail in verdicts(annotation, few)[2]]
        assert paths == ["$.a", "$.b"]
        many = {f"f{number}": 1 for number in range(500)}
        assert len(verdicts(annotation, many)[2]) == MAX_FAULTS


def test_faults_without_number_are_only_counted() -> None:
    wrong = [0] * (MAX_PYDANTIC_FAULTS + 1)
    assert fault(list[Point], wrong) == "$: expected a value that fits, got 1001 faults in it"


@pytest.mark.parametrize("number", [math.nan, math.inf, -math.inf])
def test_msgpack_numbers_that_json_lacks_fit_no_pydantic_model(number: float) -> None:
    with pytest.raises(SchemaError, match=r"\$\.a\[1\]\.y: expected a finite number, got"):
        schema_of(dict[str, list[Point]]).validate({"a": [{"x": 1}, {"x": 1, "y": number}]})


def test_binary_strings_in_msgpack_are_read_as_the_model_reads_them_in_json() -> None:
    assert schema_of(Utf8).validate({"data": b"text"}) == Utf8(data=b"text")
    assert schema_of(Hex).validate({"data": b"\xff"}) == Hex.model_construct(data=b"\xff")
    with pytest.raises(SchemaError, match=r"\$\.data: expected UTF-8 text, got other bytes"):
        schema_of(Utf8).validate({"data": b"\xff"})
    with pytest.raises(SchemaError, match=r"\$: expected keys of text, got bytes"):
        schema_of(Utf8).validate({b"data": b""})


def test_an_exception_in_a_validator_is_passed_on() -> None:
    schema = schema_of(Checked)
    with pytest.raises(ItemError, match="two"):
        schema.validate({"x": 2})
    with pytest.raises(KeyError):
        schema.validate({"x": 3})


def test_bytes_alone_are_a_body_as_it_is() -> None:
    assert schema_of(bytes).is_bytes
    assert schema_of(Annotated[bytes, msgspec.Meta(max_length=3)]).is_bytes
    assert not schema_of(list[bytes]).is_bytes
    assert not schema_of(Utf8).is_bytes


@pytest.mark.parametrize(
    ("annotation", "message"),
    [
        (object, "x: expected a pydantic model, dataclass, TypedDict, plain type or bytes, got"),
        (list[np.ndarray], "plain type or bytes, got numpy.ndarray"),
        (complex, "plain type or bytes, got builtins.complex"),
        (Cat | Node, "x: Type unions may not contain more than one dict-like type"),
        (list["Nowhere"], "x: "),  # type: ignore[name-defined]  # noqa: F821
        (Point | object, None),
        (list[Point] | Cat, "x: "),
    ],
    ids=["object", "array", "complex", "union", "unknown", "any", "struct-with-pydantic"],
)
def test_an_annotation_that_is_no_schema_is_a_configuration_error(
    annotation: Any, message: str | None
) -> None:
    if message is None:
        assert schema_of(annotation).validate(1) == 1
        return
    with pytest.raises(ConfigError) as caught:
        schema_of(annotation, where="x")
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_the_json_schema_says_that_unknown_fields_are_errors() -> None:
    for annotation in (Node, Options, Point, Mixed):
        schema = schema_of(annotation).json_schema()
        records = [schema, *schema.get("$defs", {}).values()]
        assert all(
            part["additionalProperties"] is False for part in records if "properties" in part
        )
    assert schema_of(Open).json_schema()["additionalProperties"] is True


def test_the_json_schema_of_an_answer_uses_the_names_that_are_written() -> None:
    schema = schema_of(Aliased)
    assert list(schema.json_schema()["properties"]) == ["in"]
    assert list(schema.json_schema(of_answer=True)["properties"]) == ["out"]
    assert schema_of(int).json_schema(of_answer=True) == {"type": "integer"}


def test_json_schemas_are_plain_data() -> None:
    for annotation in (Node, Cat | Dog, Row | Line, Pair, Point, Tree, Pets, Any, bytes):
        json.dumps(schema_of(annotation).json_schema())


plain_values = st.recursive(
    st.none() | st.booleans() | st.integers(-5, 5) | st.floats(allow_nan=False) | st.text("xyab"),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(["x", "y", "below", "more", "type", "z"]), inner, max_size=4
        )
    ),
    max_leaves=8,
)
SCHEMAS = [schema_of(annotation) for annotation in (Node, Options, Pair, Cat | Dog, Point, Tree)]


@given(value=plain_values, schema=st.sampled_from(SCHEMAS))
def test_any_value_gets_one_verdict(value: Any, schema: Schema) -> None:
    by_json = (
        verdict(schema, JSON.encode(value, nan_as_null=False), JSON) if finite(value) else None
    )
    by_msgpack = verdict(schema, MSGPACK.encode(value), MSGPACK)
    assert by_json is None or by_json == by_msgpack


def finite(value: Any) -> bool:
    return "Infinity" not in json.dumps(value)
