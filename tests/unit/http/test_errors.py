"""Errors as HTTP answers."""

from __future__ import annotations

import importlib
import json
import pkgutil
from collections.abc import Iterator
from typing import Any

import pytest

import headrace
from headrace.call import INTERNAL_ERROR, Failure
from headrace.errors import (
    DeadlineExceeded,
    DecodeError,
    Draining,
    HeadraceError,
    ItemError,
    ModelError,
    ModelNotFound,
    NotAcceptable,
    NotReady,
    PayloadTooLarge,
    QueueFull,
    ReplicaLost,
    SchemaError,
    TooDeep,
    UnsupportedMediaType,
)
from headrace.http.errors import (
    MAX_ERROR_BYTES,
    STATUS,
    HeadTooLarge,
    MethodNotAllowed,
    RouteNotFound,
    SlowClient,
    error_answer,
    error_body,
    status_of,
)


def every_error() -> Iterator[type[HeadraceError]]:
    """Every class of the tree, in whatever module of the package it is."""
    for found in pkgutil.walk_packages(headrace.__path__, "headrace."):
        if not found.name.endswith("__main__"):
            importlib.import_module(found.name)
    pending: list[type[HeadraceError]] = [HeadraceError]
    while pending:
        cls = pending.pop()
        if cls.__module__.startswith("headrace."):
            yield cls
            pending += cls.__subclasses__()


ERRORS = list(every_error())


def test_every_error_of_the_package_has_a_status_and_every_status_an_error() -> None:
    codes = {cls.code for cls in ERRORS}
    assert len(codes) == len(ERRORS), "each class has its own code"
    assert set(STATUS) == codes | {INTERNAL_ERROR}


def test_a_code_that_is_not_known_is_our_fault() -> None:
    assert status_of(Failure(code="from a newer worker", message="")) == 500


@pytest.mark.parametrize(
    ("status", "errors"),
    [
        (400, [DecodeError, TooDeep]),
        (404, [ModelNotFound, RouteNotFound]),
        (405, [MethodNotAllowed]),
        (406, [NotAcceptable]),
        (408, [SlowClient]),
        (413, [PayloadTooLarge]),
        (415, [UnsupportedMediaType]),
        (422, [SchemaError, ItemError]),
        (431, [HeadTooLarge]),
        (500, [ModelError, ReplicaLost]),
        (503, [QueueFull, NotReady, Draining]),
        (504, [DeadlineExceeded]),
    ],
)
def test_an_errors_status_says_whose_fault_it_is(
    status: int, errors: list[type[HeadraceError]]
) -> None:
    assert {STATUS[cls.code] for cls in errors} == {status}


def test_an_item_error_has_the_status_that_the_model_asked_for() -> None:
    status, _, body = error_answer(Failure.of(ItemError("no face", status=409)))
    assert status == 409
    assert json.loads(body) == {"error": "no face", "code": "item_error", "details": []}


@pytest.mark.parametrize(
    ("after_s", "header"), [(0.004, "1"), (1.0, "1"), (1.2, "2"), (90.5, "91")]
)
def test_retry_after_is_whole_seconds_rounded_up(after_s: float, header: str) -> None:
    _, headers, _ = error_answer(Failure.of(QueueFull("full", retry_after_s=after_s)))
    assert ("retry-after", header) in headers


def test_errors_that_waiting_does_not_mend_have_no_retry_after() -> None:
    _, headers, _ = error_answer(Failure.of(SchemaError("no")))
    assert headers == [("content-type", "application/json")]


@pytest.mark.parametrize(
    "details",
    [
        [{"path": "$" + "x" * 200, "message": "y" * 200}] * 500,
        [{"path": "€" * 5000}],
        [],
    ],
)
@pytest.mark.parametrize("message", ["m" * 100_000, "€" * 100_000, "\x00" * 5_000, "short"])
def test_a_body_is_at_most_two_kibibytes_and_valid(
    message: str, details: list[dict[str, Any]]
) -> None:
    body = error_body(Failure(code="invalid", message=message, details=tuple(details)))
    assert len(body) <= MAX_ERROR_BYTES == 2048
    fields = json.loads(body)
    assert fields["code"] == "invalid"
    assert fields["error"][:5] == message[:5]
    assert fields["details"] == details[: len(fields["details"])]


def test_the_details_that_fit_are_kept() -> None:
    details = tuple({"index": n, "error": "e" * 80} for n in range(100))
    fields = json.loads(error_body(Failure(code="invalid", message="m", details=details)))
    assert 5 < len(fields["details"]) < 100


class Unprintable:
    def __str__(self) -> str:
        raise RuntimeError("no")


def test_details_that_json_cannot_have_are_left_out_and_the_others_kept() -> None:
    looped: dict[str, Any] = {}
    looped["self"] = looped
    odd: list[dict[Any, Any]] = [
        {"a": Unprintable()},
        looped,
        {"text": "\ud800"},
        {"kept": 1},
    ]
    fields = json.loads(error_body(Failure(code="item_error", message="m", details=tuple(odd))))
    assert fields["details"] == [{"kept": 1}]


def test_a_models_traceback_is_for_the_log_alone() -> None:
    failure = Failure.of(
        ModelError("the model failed in predict"), log='File "/srv/app.py", line 7'
    )
    assert b"app.py" not in error_body(failure)


def test_lone_surrogates_in_a_message_are_escaped() -> None:
    body = error_body(Failure.of(ItemError("bad \ud800 text")))
    assert json.loads(body)["error"] == "bad \\ud800 text"
