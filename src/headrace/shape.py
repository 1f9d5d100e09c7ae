"""What the validators need not look for, known from a type before there is a value."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from msgspec import inspect

Closed = Callable[[Any], bool]
"""Whether a value that fits its type has no field that the type does not know."""

_SCALARS = (
    inspect.NoneType,
    inspect.BoolType,
    inspect.IntType,
    inspect.FloatType,
    inspect.StrType,
    inspect.LiteralType,
)
_RECORDS = (inspect.DataclassType, inspect.TypedDictType)


def depth_of(info: inspect.Type) -> int | None:
    """How deep the values of a type nest; None where it is not made of JSON's types alone.

    Types that hold themselves, or anything at all, have no depth.
    """
    return _depth_of(info, ())


def closed_of(info: inspect.Type) -> Closed | None:
    """The function that tells of unknown fields, for a type that has a depth.

    None where there can be none.
    """
    if isinstance(info, _RECORDS):
        return _in_record(info)
    if isinstance(info, inspect.ListType):
        return _in_all(closed_of(info.item_type), list)
    if isinstance(info, inspect.DictType):
        return _in_all(closed_of(info.value_type), dict)
    if isinstance(info, inspect.UnionType):
        # Of objects there is one kind in a union, and one of arrays: the others let it pass.
        members = [member for member in map(closed_of, info.types) if member is not None]
        return (lambda value: all(is_closed(value) for is_closed in members)) if members else None
    return None


def _depth_of(info: inspect.Type, above: tuple[int, ...]) -> int | None:
    parts = None if id(info) in above else _parts(info)
    if parts is None:
        return None
    deepest = 0
    for part in parts:
        depth = _depth_of(part, (*above, id(info)))
        if depth is None:
            return None
        deepest = max(deepest, depth)
    return deepest if isinstance(info, (*_SCALARS, inspect.UnionType)) else 1 + deepest


def _parts(info: inspect.Type) -> list[inspect.Type] | None:
    """The types that a type is made of; None for one that is more than JSON's."""
    if isinstance(info, _SCALARS):
        return []
    if isinstance(info, inspect.UnionType):
        return list(info.types)
    if isinstance(info, inspect.ListType):
        return [info.item_type]
    if isinstance(info, inspect.DictType) and type(info.key_type) is inspect.StrType:
        return [info.value_type]
    if isinstance(info, _RECORDS):
        return [field.type for field in info.fields]
    return None


def _in_record(info: inspect.DataclassType | inspect.TypedDictType) -> Closed:
    names = frozenset(field.encode_name for field in info.fields)
    each = [(field.encode_name, closed_of(field.type)) for field in info.fields]
    below = [(name, is_closed) for name, is_closed in each if is_closed is not None]

    def in_record(value: Any) -> bool:
        if type(value) is not dict:
            return True
        if not value.keys() <= names:
            return False
        return not below or all(
            is_closed(value[name]) for name, is_closed in below if name in value
        )

    return in_record


def _in_all(is_closed: Closed | None, kind: Any) -> Closed | None:
    if is_closed is None:
        return None

    def in_all(value: Any) -> bool:
        if type(value) is not kind:
            return True
        return all(map(is_closed, value.values() if kind is dict else value))

    return in_all
