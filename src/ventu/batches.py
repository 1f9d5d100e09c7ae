"""Batches of requests through a model's three steps, one outcome each."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any, NamedTuple


class Failed(NamedTuple):
    """The outcome of an item that raised.

    Attributes:
        error: What it raised.
    """

    error: Exception


class WrongCount(ValueError):
    """There is not one result for each item."""


def attempt(function: Callable[[Any], Any], item: Any) -> Any:
    """What a function makes of an item, or `Failed`; a `Failed` stays as it is."""
    if isinstance(item, Failed):
        return item
    try:
        return function(item)
    except Exception as error:
        return Failed(error)


def filled(items: Sequence[Any], results: Iterable[Any]) -> list[Any]:
    """The results in the places of the items that did not fail.

    Raises:
        WrongCount: There are not as many.
    """
    due = sum(not isinstance(item, Failed) for item in items)
    found = list(results)
    if len(found) != due:
        raise WrongCount(f"expected {due} results of a batch of {due}, got {len(found)}")
    each = iter(found)
    return [item if isinstance(item, Failed) else next(each) for item in items]


def isolated(
    infer: Callable[[list[Any]], Iterable[Any]], batch: list[Any], *, idempotent: bool
) -> list[Any]:
    """Each item's result, or `Failed`, by halving a batch that raises until the guilty are alone.

    Args:
        infer: Gives as many results as it gets items; it may be called several times.
        batch: At least one item.
        idempotent: Whether it may; if not, all fail of what one does.
    """
    results: list[Any] = [None] * len(batch)
    spans = [(0, len(batch))]
    while spans:
        begin, end = spans.pop()
        part = batch[begin:end]
        try:
            results[begin:end] = filled(part, infer(part))
        except Exception as error:
            if end - begin == 1 or not idempotent or isinstance(error, WrongCount):
                results[begin:end] = [Failed(error)] * (end - begin)
            else:
                middle = (begin + end) // 2
                spans += [(middle, end), (begin, middle)]
    return results
