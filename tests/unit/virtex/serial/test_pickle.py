from __future__ import annotations

import base64
import os
import pickle
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from virtex.serial import decode_pickle, encode_pickle

_OBJECTS = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.text()
    | st.binary()
    | st.floats(allow_nan=False),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner) | st.tuples(inner, inner),
    max_leaves=10,
)


class Creates:
    """Creates a file on being unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return os.mkdir, (str(self.path),)


@given(_OBJECTS)
def test_objects_come_back_from_a_trusted_sender(obj: object) -> None:
    assert decode_pickle(encode_pickle(obj), trusted=True) == obj


@given(_OBJECTS, st.binary(min_size=1))
def test_objects_come_back_with_the_key(obj: object, key: bytes) -> None:
    assert decode_pickle(encode_pickle(obj, key=key), key=key) == obj


def test_a_key_may_be_text() -> None:
    assert decode_pickle(encode_pickle(1, key="é"), key="é".encode()) == 1


def test_a_text_of_virtex_0_1_is_read_from_a_trusted_sender() -> None:
    text = base64.b64encode(pickle.dumps({"a": 1}, protocol=4)).decode()
    assert decode_pickle(text, trusted=True) == {"a": 1}


def test_a_signed_text_is_read_from_a_trusted_sender() -> None:
    assert decode_pickle(encode_pickle([1], key="k"), trusted=True) == [1]


@pytest.mark.parametrize(
    "wrong",
    [
        {},
        {"trusted": False},
        {"trusted": 1},  # only True is True
        {"trusted": "yes"},
        {"key": "key"},
        {"key": "key", "trusted": True},
    ],
)
def test_nothing_of_a_stranger_is_run(tmp_path: Path, wrong: dict[str, Any]) -> None:
    made = tmp_path / "made"
    text = encode_pickle(Creates(made))
    with pytest.raises(ValueError, match=r"expected (trusted=True|a signed text)"):
        decode_pickle(text, **wrong)
    assert not made.exists()
    decode_pickle(text, trusted=True)
    assert made.exists()  # so the payload was a real one


@given(data=st.data())
def test_a_signature_over_other_bytes_is_refused(data: st.DataObject) -> None:
    body = bytearray(base64.b64decode(encode_pickle({"a": [1, 2]}, key="key")))
    position = data.draw(st.integers(0, len(body) - 1))
    body[position] ^= data.draw(st.integers(1, 255))
    with pytest.raises(ValueError, match="expected a sign"):
        decode_pickle(base64.b64encode(body).decode(), key="key")


def test_a_signature_by_another_key_runs_nothing(tmp_path: Path) -> None:
    made = tmp_path / "made"
    with pytest.raises(ValueError, match="expected a signature by the key, got another"):
        decode_pickle(encode_pickle(Creates(made), key="theirs"), key="ours")
    assert not made.exists()


@pytest.mark.parametrize("key", ["", b""], ids=["text", "bytes"])
def test_an_empty_key_is_refused(key: str | bytes) -> None:
    with pytest.raises(ValueError, match="expected a key, got an empty one"):
        encode_pickle(1, key=key)
    with pytest.raises(ValueError, match="expected a key, got an empty one"):
        decode_pickle(encode_pickle(1, key="key"), key=key)


def test_a_key_of_another_type_is_refused() -> None:
    with pytest.raises(TypeError, match="expected a key of bytes or text, got int"):
        encode_pickle(1, key=1)  # type: ignore[arg-type]


def test_what_cannot_be_pickled_is_refused() -> None:
    with pytest.raises(
        TypeError, match="encode_pickle: expected what can be pickled, got function"
    ):
        encode_pickle(lambda: 1)


@given(st.binary())
def test_what_is_no_pickle_is_a_value_error(body: bytes) -> None:
    with pytest.raises(ValueError, match="expected a pickle that can be read"):
        # A stop after nothing: never a pickle, whatever the rest is.
        decode_pickle(base64.b64encode(b"." + body).decode(), trusted=True)
