"""Texts that carry bytes and pickles: no text does more than it may.

Base64 is read as its grammar says, but for white space. A pickle is read only where it
is trusted, or signed with the key, to the byte; any other is a ValueError before it is looked at.
"""

from __future__ import annotations

import base64
import pickle
import re

from virtex.serial import decode_bytes, decode_pickle, encode_bytes, encode_pickle

MEASURED = ("virtex.serial._body", "virtex.serial.bytes", "virtex.serial.pickle")
KEY = b"a key"
SIGNED = encode_pickle([1, "a"], key=KEY)
_SPACE = re.compile("[ \t\r\n\v\f]")
_BASE64 = re.compile("(?:[A-Za-z0-9+/]{4})*(?:[A-Za-z0-9+/]{2}==|[A-Za-z0-9+/]{3}=)?")
TOKENS = (b"virtex-signed-1\n", SIGNED.encode(), base64.b64encode(pickle.dumps({})), b"=", b"\n")


def check(data: bytes) -> None:
    text = data.decode("utf-8", "replace")
    try:
        found = decode_bytes(text)
    except ValueError:
        assert not is_base64(text)
    else:
        assert is_base64(text)
        assert decode_bytes(encode_bytes(found)) == found
    for each in (text, encode_bytes(data)):
        for options in ({}, {"key": b"another"}, {"key": KEY}):
            try:
                value = decode_pickle(each, **options)  # type: ignore[arg-type]
            except ValueError:
                continue
            assert options == {"key": KEY} and value == [1, "a"]
            assert decode_bytes(each) == decode_bytes(SIGNED)


def is_base64(text: str) -> bool:
    return _BASE64.fullmatch(_SPACE.sub("", text)) is not None


def seeds() -> list[bytes]:
    return [b"", b"YQ==", b" Y Q\n==", SIGNED.encode(), decode_bytes(SIGNED), pickle.dumps([1])]
