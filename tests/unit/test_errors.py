from __future__ import annotations

import re
from collections.abc import Iterator

import pytest

from headrace import errors
from headrace.errors import (
    DeadlineExceeded,
    DecodeError,
    HeadraceError,
    ItemError,
    ProtocolError,
    QueueFull,
    SchemaError,
    clip,
)


def tree(root: type[HeadraceError] = HeadraceError) -> Iterator[type[HeadraceError]]:
    yield root
    for below in root.__subclasses__():
        if below.__module__ == errors.__name__:
            yield from tree(below)


def test_the_docstring_draws_exactly_the_tree_that_exists() -> None:
    drawn = re.findall(r"^    (?:[│ ]*[├└]─ )?([A-Z]\w+)", errors.__doc__ or "", re.MULTILINE)
    assert drawn == [error.__name__ for error in tree()]


def test_each_error_has_a_code_of_its_own() -> None:
    codes = [error.code for error in tree()]
    assert len(set(codes)) == len(codes)


def test_an_error_is_shown_as_its_message_and_keeps_details_as_given() -> None:
    error = HeadraceError("why", details=[{"a": 1}])
    assert str(error) == error.message == "why"
    assert error.details == ({"a": 1},)


def test_an_offset_is_a_detail_only_where_it_is_known() -> None:
    assert DecodeError("x", offset=0).details == ({"offset": 0},)
    assert DecodeError("x").details == ()


def test_the_path_of_a_schema_error_is_its_first_faults() -> None:
    faults = [{"path": "$.a", "message": "m"}, {"path": "$.b", "message": "m"}]
    assert SchemaError("x", details=faults).path == "$.a"
    assert SchemaError("x").path == "$"


def test_waiting_helps_against_a_full_queue_and_the_error_says_how_long() -> None:
    assert QueueFull("full", retry_after_s=2.5).retry_after_s == 2.5
    assert QueueFull.retryable
    assert not DecodeError.retryable


def test_stage_and_side_are_details_as_well() -> None:
    assert DeadlineExceeded("late", stage="queued").details == ({"stage": "queued"},)
    assert ProtocolError("broken", side="remote").details == ({"side": "remote"},)


@pytest.mark.parametrize("status", [400, 422, 599])
def test_an_item_error_takes_any_error_status(status: int) -> None:
    assert ItemError("no", status=status).status == status


@pytest.mark.parametrize("status", [200, 399, 600])
def test_an_item_error_refuses_a_status_that_is_no_error(status: int) -> None:
    with pytest.raises(ValueError, match=f"status: expected 400 to 599, got {status}"):
        ItemError("no", status=status)


def test_the_message_of_an_item_error_is_text_even_if_an_exception_was_given() -> None:
    assert ItemError(ValueError("why")).message == "why"  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("found", "shown"),
    [
        ("größe", "größe"),
        ("a\r\nb\x1b[31m", r"a\r\nb\x1b[31m"),
        ("\ud800", r"\ud800"),
        (12.5, "12.5"),
        ("a" * 64, "a" * 64),
        ("a" * 65, "a" * 63 + "…"),
        ("\x00" * 10_000_000, r"\x00" * 15 + r"\x0…"),
    ],
    ids=["text", "controls", "surrogate", "number", "just-fits", "too-long", "huge"],
)
def test_clip_escapes_and_cuts_what_an_error_repeats(found: object, shown: str) -> None:
    assert clip(found) == shown
