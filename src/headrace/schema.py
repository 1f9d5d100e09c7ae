"""A type annotation as a schema: it checks one item, and says in JSON Schema what it takes.

Dataclasses, TypedDicts, msgspec structs and plain types are checked by msgspec, annotations that
hold a pydantic model by pydantic. Both are strict: no text is read as a number, no number as a
boolean, no float as an integer, and a field that the schema does not know is an error.
"""

from __future__ import annotations

import math
import re
import typing
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import islice
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, Protocol

import msgspec
from msgspec import inspect

from .config import nearest
from .errors import ConfigError, Detail, SchemaError, clip
from .shape import Closed, closed_of, depth_of

if TYPE_CHECKING:
    from pydantic import ValidationError

MAX_FAULTS = 8
"""Faults that one error names at most."""

MAX_PYDANTIC_FAULTS = 1000
"""Beyond these, the error says no more than how many there are."""

MAX_MESSAGE = 256
"""Characters of a validator's own message that an error repeats."""

# msgspec's messages
_AT = re.compile(r" - at `(?:key` in `)?(\$[^`]*)`\Z")
_MISSING = re.compile(r"Object missing required field `(.*)`")
_UNKNOWN = re.compile(r"Object contains unknown field `(.*)`", re.DOTALL)
_INVALID = re.compile(r"Invalid (?:enum )?value (.*)", re.DOTALL)
_STEP = re.compile(r"\.([^.\[]+)|\[([^\]]*)\]")
_RECORDS = (inspect.DataclassType, inspect.TypedDictType, inspect.StructType)


class Direct(NamedTuple):
    """How msgspec may decode a body at once.

    Attributes:
        annotation: The type to decode to, of JSON's types alone.
        is_closed: Whether a decoded value has no unknown field, of which msgspec says nothing;
            None if there can be none.
    """

    annotation: Any
    is_closed: Closed | None


class Schema(Protocol):
    """What a model takes for one item, or gives for it."""

    @property
    def is_bytes(self) -> bool:
        """Whether an item is a body as it is."""
        ...

    @property
    def is_any(self) -> bool:
        """Whether every value is an item as it is."""
        ...

    def direct(self, max_depth: int) -> Direct | None:
        """How a body may be decoded to an item at once, with the same verdict; None if it may not.

        Args:
            max_depth: How deep a body may nest.
        """
        ...

    def validate(self, value: Any, *, json: bytes | None = None) -> Any:
        """The item in the annotation's type.

        Args:
            value: As a codec decoded it.
            json: The same value as JSON text, where it arrived so.

        Raises:
            SchemaError: It does not fit; the first fault in the message, all in the details.
        """
        ...

    def json_schema(self, *, of_answer: bool = False) -> dict[str, Any]:
        """The JSON Schema (2020-12) of an item, with its own `$defs`.

        Args:
            of_answer: As headrace writes it, not as it reads it: pydantic tells the two apart.
        """
        ...


def schema_of(annotation: Any, *, where: str = "annotation") -> Schema:
    """The schema of a type annotation.

    Args:
        annotation: A pydantic model, dataclass, TypedDict, plain type, bytes, or Any.
        where: What the error calls it.

    Raises:
        ConfigError: It is none of those.
    """
    try:
        if any(_is_pydantic(part) for part in _parts(annotation)):
            return PydanticSchema(annotation)
        return PlainSchema(annotation)
    except (TypeError, NameError, RuntimeError) as error:
        raise ConfigError(f"{where}: {str(error).splitlines()[0]}") from None


class PlainSchema:
    """A schema checked by msgspec.

    In JSON, bytes are text in base64.

    Raises:
        TypeError: msgspec does not know a type in it.
    """

    def __init__(self, annotation: Any) -> None:
        info = inspect.type_info(annotation)
        # Some unions are refused only here.
        msgspec.json.Decoder(annotation)
        self._annotation = annotation
        self._info = info
        self.is_bytes = isinstance(info, inspect.BytesType)
        self.is_any = isinstance(info, inspect.AnyType)
        self._extras = _extras_of(info, {})
        self._json_schema = _closed(msgspec.json.schema(annotation, schema_hook=_refuse_type))

    def direct(self, max_depth: int) -> Direct | None:
        """How to decode a body at once; see `Schema`."""
        depth = depth_of(self._info)
        if depth is None or depth > max_depth:
            return None
        return Direct(self._annotation, closed_of(self._info))

    def validate(self, value: Any, *, json: bytes | None = None) -> Any:
        """The item in the annotation's type; see `Schema`."""
        if self.is_any:
            return value
        faults = [] if self._extras is None else list(islice(self._extras(value, "$"), MAX_FAULTS))
        item = None
        try:
            item = msgspec.convert(value, self._annotation, str_keys=json is not None)
        except msgspec.ValidationError as error:
            fault = _fault(error, self._info)
            if fault not in faults:
                faults.insert(0, fault)
        if faults:
            raise schema_error(faults)
        return item

    def json_schema(self, *, of_answer: bool = False) -> dict[str, Any]:
        """The JSON Schema; see `Schema`."""
        return self._json_schema


class PydanticSchema:
    """A schema checked by pydantic, in its strict JSON mode.

    Unknown fields are errors, unless a model in the annotation sets `extra`: then pydantic's own
    rules hold for all of them. A msgpack body is checked as the JSON that it stands for, so that
    both formats get the same verdict; binary strings in it are taken by `val_json_bytes`.

    Raises:
        TypeError, NameError, RuntimeError: pydantic does not know a type in it.
    """

    is_bytes = False
    is_any = False

    def __init__(self, annotation: Any) -> None:
        from pydantic import TypeAdapter

        self._adapter: TypeAdapter[Any] = TypeAdapter(annotation)
        says = _settings_in(self._adapter.core_schema)
        self._extra: Literal["forbid"] | None = None if says["extra"] else "forbid"
        self._bytes_as = next(iter(says["bytes"] - {"utf8"}), "utf8")
        self._json_schemas = [
            self._adapter.json_schema(mode="validation"),
            self._adapter.json_schema(mode="serialization"),
        ]
        if self._extra == "forbid":
            _closed(self._json_schemas[0])

    def direct(self, max_depth: int) -> Direct | None:
        """None, as it is pydantic that validates; see `Schema`."""
        return None

    def validate(self, value: Any, *, json: bytes | None = None) -> Any:
        """The item in the annotation's type; see `Schema`."""
        from pydantic import ValidationError

        text = _as_json(value, self._bytes_as) if json is None else json
        try:
            return self._adapter.validate_json(text, strict=True, extra=self._extra)
        except ValidationError as error:
            arrived = value if json is not None else msgspec.json.decode(text)
            faults = _pydantic_faults(error, arrived)
        raise schema_error(faults)

    def json_schema(self, *, of_answer: bool = False) -> dict[str, Any]:
        """The JSON Schema; see `Schema`."""
        return self._json_schemas[of_answer]


def schema_error(faults: list[Detail]) -> SchemaError:
    """The error that names these faults."""
    first = faults[0]
    return SchemaError(f"{first['path']}: {first['message']}", details=faults[:MAX_FAULTS])


def _is_pydantic(part: Any) -> bool:
    """Whether a part of an annotation means something to pydantic and nothing to msgspec."""
    if isinstance(part, type):
        marks = ("__get_pydantic_core_schema__", "__pydantic_core_schema__")
        return any(hasattr(part, mark) for mark in marks)
    return type(part).__module__.partition(".")[0] in ("pydantic", "annotated_types")


def _parts(annotation: Any) -> Iterator[Any]:
    """An annotation, all types that it is made of, and what stands in each `Annotated`."""
    pending, seen = [annotation], dict[int, Any]()
    while pending:
        part = pending.pop()
        if id(part) in seen:
            continue
        seen[id(part)] = part
        yield part
        pending.extend(getattr(part, "__metadata__", ()))
        pending.extend(typing.get_args(part))
        pending.append(typing.get_origin(part))
        # Of `type X = ...` and of NewType
        pending += [getattr(part, name, None) for name in ("__value__", "__supertype__")]
        if isinstance(part, type) and hasattr(part, "__annotations__"):
            pending.extend(typing.get_type_hints(part, include_extras=True).values())


def _refuse_type(cls: type) -> dict[str, Any]:
    raise TypeError(
        "expected a pydantic model, dataclass, TypedDict, plain type or bytes,"
        f" got {cls.__module__}.{cls.__qualname__}"
    )


def _closed(schema: dict[str, Any]) -> dict[str, Any]:
    """A JSON Schema whose objects take no unknown fields; changed in place."""
    for part in (schema, *schema.get("$defs", {}).values()):
        if "properties" in part:
            part.setdefault("additionalProperties", False)
    return schema


_Extras = Callable[[Any, str], Iterator[Detail]]


def _extras_of(info: inspect.Type, made: dict[int, _Extras]) -> _Extras | None:
    """A function that finds unknown fields in a value; None where a value can have none.

    Args:
        info: The value's type.
        made: The functions of the named types above it, which may hold themselves.
    """
    if id(info) in made:
        return made[id(info)]
    if isinstance(info, inspect.UnionType):
        return _all_of([_extras_of(member, made) for member in info.types])
    if isinstance(info, inspect.CollectionType):
        return _in_items(_extras_of(info.item_type, made))
    if isinstance(info, inspect.DictType):
        return _in_values(_extras_of(info.value_type, made))
    if isinstance(info, inspect.TupleType):
        return _in_places({at: _extras_of(item, made) for at, item in enumerate(info.item_types)})
    if not isinstance(info, (*_RECORDS, inspect.NamedTupleType)):
        return None
    below: dict[Any, _Extras | None] = {}
    made[id(info)] = find = _in_places(below, info) if _is_array(info) else _in_record(below, info)
    below |= {at: _extras_of(field, made) for at, field in _fields(info).items()}
    return find


def _all_of(members: list[_Extras | None]) -> _Extras | None:
    """Of a union. A member finds nothing in a value of another member's kind or tag."""
    finders = [member for member in members if member is not None]
    if len(finders) < 2:
        return finders[0] if finders else None
    return lambda value, path: (fault for find in finders for fault in find(value, path))


def _in_items(find: _Extras | None) -> _Extras | None:
    if find is None:
        return None

    def in_items(value: Any, path: str) -> Iterator[Detail]:
        for index, item in enumerate(value if isinstance(value, list) else ()):
            yield from find(item, f"{path}[{index}]")

    return in_items


def _in_values(find: _Extras | None) -> _Extras | None:
    if find is None:
        return None

    def in_values(value: Any, path: str) -> Iterator[Detail]:
        for key, item in value.items() if isinstance(value, dict) else ():
            yield from find(item, f"{path}.{clip(key)}")

    return in_values


def _in_places(below: Mapping[Any, _Extras | None], info: Any = None) -> _Extras:
    tag = getattr(info, "tag", None)

    def in_places(value: Any, path: str) -> Iterator[Detail]:
        if isinstance(value, list) and (tag is None or value[:1] == [tag]):
            for (index, find), item in zip(below.items(), value, strict=False):
                if find is not None:
                    yield from find(item, f"{path}[{index}]")

    return in_places


def _in_record(below: Mapping[str, _Extras | None], info: Any) -> _Extras:
    tag, tag_field = getattr(info, "tag", None), getattr(info, "tag_field", None)

    def in_record(value: Any, path: str) -> Iterator[Detail]:
        if not isinstance(value, dict) or (tag is not None and value.get(tag_field) != tag):
            return
        for name, item in value.items():
            if name not in below:
                hint = nearest(clip(name), below)
                yield {"path": f"{path}.{clip(name)}", "message": f"no such field{hint}"}
            elif (find := below[name]) is not None:
                yield from find(item, f"{path}.{name}")

    return in_record


def _is_array(info: Any) -> bool:
    """Whether a record arrives as an array."""
    return isinstance(info, inspect.NamedTupleType) or getattr(info, "array_like", False)


def _fields(info: Any) -> dict[Any, inspect.Type]:
    """The types of a record's fields by name or, where it arrives as an array, by place."""
    tag = getattr(info, "tag", None)
    tagged = {} if tag is None else {info.tag_field: inspect.LiteralType((tag,))}
    if not _is_array(info):
        return tagged | {field.encode_name: field.type for field in info.fields}
    return dict(enumerate([*tagged.values(), *(field.type for field in info.fields)]))


def _fault(error: msgspec.ValidationError, info: inspect.Type) -> Detail:
    """What msgspec found, and where: its messages are `Expected x, got y - at $.path`."""
    text = str(error)
    at = _AT.search(text)
    path = at[1] if at else "$"
    text = _AT.sub("", text)
    if missing := _MISSING.fullmatch(text):
        return {"path": f"{path}.{missing[1]}", "message": "expected this field, found none"}
    if unknown := _UNKNOWN.fullmatch(text):
        return {"path": f"{path}.{clip(unknown[1])}", "message": "no such field"}
    if invalid := _INVALID.fullmatch(text):
        expected = " or ".join(_choices(info, path)) or "another value"
        return {"path": path, "message": f"expected {expected}, got {clip(invalid[1])}"}
    return {"path": path, "message": text[0].lower() + text[1:].replace("`", "")}


def _choices(info: inspect.Type, path: str) -> list[str]:
    """The values that a type allows at a path, at most a few."""
    types = _members(info)
    for name, index in _STEP.findall(path):
        types = [
            member for above in types for at in _at(above, name, index) for member in _members(at)
        ]
    values = [
        value
        for found in types
        if isinstance(found, inspect.LiteralType | inspect.EnumType)
        for value in (
            found.values
            if isinstance(found, inspect.LiteralType)
            else [member.value for member in found.cls]
        )
    ]
    return [*map(repr, values[:MAX_FAULTS]), *(["…"] if len(values) > MAX_FAULTS else [])]


def _members(info: inspect.Type) -> list[inspect.Type]:
    """A union's members, or the type itself."""
    return list(info.types) if isinstance(info, inspect.UnionType) else [info]


def _at(info: Any, name: str, index: str) -> list[inspect.Type]:
    """The types that a value's field or element may have by the value's type."""
    if isinstance(info, inspect.CollectionType) and index:
        return [info.item_type]
    if isinstance(info, inspect.DictType) and index:
        return [info.value_type]
    if isinstance(info, inspect.TupleType) and index.isdigit():
        return [info.item_types[int(index)]]
    if isinstance(info, (*_RECORDS, inspect.NamedTupleType)):
        fields = _fields(info)
        key: Any = int(index) if index.isdigit() else name
        return [fields[key]] if key in fields else []
    return []


def _settings_in(core_schema: Any) -> dict[str, set[str]]:
    """What the models in a pydantic schema say of unknown fields, and of bytes in JSON."""
    said: dict[str, set[str]] = {"extra": set(), "bytes": set()}
    names = {"extra_fields_behavior": "extra", "extra_behavior": "extra", "val_json_bytes": "bytes"}
    pending = [core_schema]
    while pending:
        node = pending.pop()
        for key, inner in node.items() if isinstance(node, dict) else enumerate(node):
            if key in names and isinstance(inner, str):
                said[names[key]].add(inner)
            elif isinstance(inner, dict | list | tuple):
                pending.append(inner)
    return said


def _pydantic_faults(error: ValidationError, value: Any) -> list[Detail]:
    """What pydantic found, and where."""
    count = error.error_count()
    if count > MAX_PYDANTIC_FAULTS:
        # Making them all into objects can take seconds and gigabytes.
        return [{"path": "$", "message": f"expected a value that fits, got {count} faults in it"}]
    faults = error.errors(include_url=False, include_context=False)
    return [_pydantic_fault(fault, value) for fault in faults[:MAX_FAULTS]]


def _pydantic_fault(fault: Mapping[str, Any], value: Any) -> Detail:
    path = _pydantic_path(fault["loc"], value)
    if fault["type"] == "missing":
        return {"path": path, "message": "expected this field, found none"}
    if fault["type"] in ("extra_forbidden", "unexpected_keyword_argument"):
        return {"path": path, "message": "no such field"}
    if fault["type"] == "union_tag_invalid":
        tags = fault["msg"].rpartition("expected tags: ")[2]
        return {"path": path, "message": f"expected a tag among {tags}, got another"}
    expected = fault["msg"].removeprefix("Input should be ")
    if expected == fault["msg"]:
        return {"path": path, "message": expected[:MAX_MESSAGE]}
    return {"path": path, "message": f"expected {expected}, got {_kind(fault['input'])}"}


def _pydantic_path(loc: Sequence[int | str], value: Any) -> str:
    """The path of a fault in the value: pydantic's also names the members of unions."""
    path = "$"
    for number, part in enumerate(loc):
        if isinstance(value, list) and isinstance(part, int):
            path += f"[{part}]"
            value = value[part] if part < len(value) else None
        elif isinstance(value, dict) and (part in value or number == len(loc) - 1):
            path += "" if part == "[key]" else f".{clip(part)}"
            value = value.get(part)
    return path


def _kind(value: Any) -> str:
    """A JSON value's kind, or the value itself where it is a number or a short text."""
    kinds = {dict: "object", list: "array", str: "str", type(None): "null", bool: "bool"}
    return kinds.get(type(value)) or clip(value)


def _as_json(value: Any, bytes_as: str) -> bytes:
    """A value of msgpack as the JSON that it stands for.

    Raises:
        SchemaError: JSON has no form for it.
    """
    root = [value]
    pending: list[Any] = [root]
    while pending:
        node = pending.pop()
        for at, inner in node.items() if type(node) is dict else enumerate(node):
            if type(inner) in (dict, list):
                pending.append(inner)
            elif type(inner) is bytes and bytes_as != "base64":
                node[at] = _text_of(inner, bytes_as, root)
            elif type(inner) is float and not math.isfinite(inner):
                raise _no_json(root, inner, f"expected a finite number, got {inner}")
            if type(at) is bytes:
                raise _no_json(root, node, "expected keys of text, got bytes")
    return msgspec.json.encode(root[0])


def _text_of(data: bytes, bytes_as: str, root: Any) -> str:
    if bytes_as == "hex":
        return data.hex()
    try:
        return data.decode()
    except UnicodeDecodeError:
        raise _no_json(root, data, "expected UTF-8 text, got other bytes") from None


def _no_json(root: Any, part: Any, message: str) -> SchemaError:
    path = "$" + (_path_to(root[0], part) or "")
    return schema_error([{"path": path, "message": message}])


def _path_to(value: Any, part: Any) -> str | None:
    """The path at which a very part stands in a value."""
    if value is part:
        return ""
    if type(value) in (dict, list):
        for at, inner in value.items() if type(value) is dict else enumerate(value):
            below = _path_to(inner, part)
            if below is not None:
                step = f".{clip(at)}" if type(value) is dict else f"[{at}]"
                return step + below
    return None
