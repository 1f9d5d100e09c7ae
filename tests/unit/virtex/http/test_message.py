"""The message: a dict that JSON can carry, and that comes back equal."""

from __future__ import annotations

import copy
import json
import logging
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from virtex.core.logging import LOGGER
from virtex.http.message import HttpMessage, to_json

# What JSON has, text without lone surrogates, for UTF-8 has none.
TEXT = st.text(st.characters(exclude_categories=["Cs"]))
PLAIN = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False)
VALUES = st.recursive(
    PLAIN | TEXT, lambda inner: st.lists(inner) | st.dictionaries(TEXT, inner), max_leaves=12
)
EXTRAS = st.dictionaries(TEXT.filter(lambda key: key not in ("self", "data", "error")), VALUES)
MESSAGES = st.builds(
    lambda data, error, extra: HttpMessage(data, error, **extra),
    st.none() | st.lists(VALUES),
    st.none() | TEXT,
    EXTRAS,
)


def test_a_message_is_a_dict_of_data_and_error() -> None:
    message = HttpMessage()
    assert isinstance(message, dict)
    assert message == {"data": [], "error": None}
    assert HttpMessage(data=[1], error="no") == {"data": [1], "error": "no"}
    assert HttpMessage([1], "no") == HttpMessage(data=[1], error="no")


def test_no_data_is_an_empty_list_of_its_own() -> None:
    one, other = HttpMessage(), HttpMessage(data=None)
    one.data.append(1)
    assert (one.data, other.data) == ([1], [])


def test_further_keys_are_carried() -> None:
    message = HttpMessage(data=[1], user="ann", items=3)
    assert message["user"] == "ann"
    assert message["items"] == 3
    assert json.loads(message.json) == {"data": [1], "error": None, "user": "ann", "items": 3}


def test_key_and_attribute_are_one() -> None:
    message = HttpMessage(data=[1])
    message.data = [2]
    assert message["data"] == [2]
    message["data"] = [3]
    assert message.data == [3]
    message.error = "no"
    assert message["error"] == "no"
    message["error"] = None
    assert message.error is None


def test_called_it_is_itself() -> None:
    message = HttpMessage(data=[1])
    assert message() is message


def test_encode_and_decode_apply_a_function_to_each_element() -> None:
    message = HttpMessage(data=[1, 2, 3])

    def scale(element: int, *, by: int, plus: int = 0) -> int:
        return element * by + plus

    message.encode(scale, by=10)
    assert message.data == [10, 20, 30]
    message.decode(scale, by=2, plus=1)
    assert message.data == [21, 41, 61]
    message.encode(str)
    assert message["data"] == ["21", "41", "61"]


def test_a_function_that_raises_leaves_the_message_as_it_was() -> None:
    message = HttpMessage(data=[1, 0, 2])
    with pytest.raises(ZeroDivisionError):
        message.encode(lambda element: 1 // element)
    assert message.data == [1, 0, 2]


def test_its_json_is_the_wire_form() -> None:
    assert HttpMessage().json == b'{"data":[],"error":null}'
    assert HttpMessage(data=["ä"], error="no").json == '{"data":["ä"],"error":"no"}'.encode()


@given(MESSAGES)
def test_a_message_comes_back_equal(message: HttpMessage) -> None:
    for text in (message.json, message.json.decode()):
        back = HttpMessage(**json.loads(text))
        assert back == message
        assert back.json == message.json
    assert HttpMessage(**dict(message)) == message
    assert message.validate() is True


@given(VALUES)
def test_every_value_of_json_is_written_as_such(value: Any) -> None:
    assert json.loads(to_json(value)) == value


@given(MESSAGES)
def test_encoding_and_decoding_by_inverses_changes_nothing(message: HttpMessage) -> None:
    before = copy.deepcopy(message)
    message.encode(lambda element: {"wrapped": element})
    message.decode(lambda element: element["wrapped"])
    assert message == before


def cycle() -> list[Any]:
    made: list[Any] = []
    made.append(made)
    return made


REFUSED = [
    pytest.param(float("nan"), ValueError, id="nan"),
    pytest.param(float("inf"), ValueError, id="inf"),
    pytest.param({"deep": [-float("inf")]}, ValueError, id="deep inf"),
    pytest.param("\ud800", ValueError, id="surrogate"),
    pytest.param(cycle(), ValueError, id="cycle"),
    pytest.param(np.array([1, 2]), TypeError, id="array"),
    pytest.param(np.float64(1), TypeError, id="float64"),
    pytest.param(np.float32(1), TypeError, id="float32"),
    pytest.param(np.int64(1), TypeError, id="int64"),
    pytest.param(np.bool_(True), TypeError, id="bool_"),
    pytest.param([[np.array(0)]], TypeError, id="deep array"),
    pytest.param(object(), TypeError, id="object"),
    pytest.param({(1, 2): 3}, TypeError, id="tuple as key"),
]


@pytest.mark.parametrize(("element", "kind"), REFUSED)
def test_what_json_lacks_is_an_error(element: Any, kind: type[Exception]) -> None:
    message = HttpMessage(data=["good", element])
    with pytest.raises(kind, match="expected"):
        _ = message.json


@pytest.mark.parametrize(("element", "kind"), REFUSED)
def test_validate_never_raises_and_logs_the_reason(
    element: Any, kind: type[Exception], caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.ERROR, LOGGER.name):
        assert HttpMessage(data=[element]).validate() is False
    assert "cannot be written as JSON: " in caplog.text


@pytest.mark.parametrize("extra", [float("nan"), np.array([1])], ids=["nan", "array"])
def test_further_keys_are_checked_too(extra: Any) -> None:
    assert HttpMessage(data=[1], extra=extra).validate() is False
    assert HttpMessage(data=[1], error=extra).validate() is False


def test_the_word_null_and_none_are_no_nan() -> None:
    message = HttpMessage(data=["null", None, {"null": "nan"}])
    assert HttpMessage(**json.loads(message.json)) == message


def test_any_key_of_json_can_be_carried_along() -> None:
    assert HttpMessage(**json.loads('{"data": [1], "self": 2}'))["self"] == 2


@pytest.mark.parametrize(
    ("element", "error"),
    [
        (b"ab", r"\$\.data\[1\]: expected what JSON has .*, got bytes"),
        ({"a": {1, 2}}, r"\$\.data\[1\]\.a: expected what JSON has .*, got set"),
        ({1: 2}, r"\$\.data\[1\]: expected text as a key, got int"),
        ([1.0, float("inf")], r"\$\.data\[1\]\[1\]: expected a number that JSON has, got inf"),
    ],
)
def test_what_would_come_back_as_another_value_is_named(element: Any, error: str) -> None:
    with pytest.raises((TypeError, ValueError), match=error):
        _ = HttpMessage(data=[0, element]).json
