"""Any Python object, from a sender that is trusted: reading a pickle can run any code.

Prefer the other modules. This is the only one that reads or writes pickles.
"""

from __future__ import annotations

import hashlib
import hmac
import pickle
from typing import Any

from ._body import SIGNED, from_text, to_text

_SIGNATURE_BYTES = hashlib.sha256().digest_size


def encode_pickle(obj: Any, *, key: bytes | str | None = None) -> str:
    """An object as base64 of its pickle.

    Args:
        obj: Any object that can be pickled.
        key: A secret that the receiver has too. With it the text is signed by HMAC-SHA256 and
            `decode_pickle` with the same key reads it. Whoever has the key can run code there.

    Raises:
        TypeError: The object cannot be pickled.
        ValueError: The key is empty.
    """
    secret = None if key is None else _secret(key, "encode_pickle")
    try:
        body = pickle.dumps(obj, protocol=pickle.DEFAULT_PROTOCOL)
    except (pickle.PicklingError, TypeError, AttributeError, RecursionError) as error:
        found = f"{type(obj).__name__}: {error}"
        raise TypeError(f"encode_pickle: expected what can be pickled, got {found}") from error
    return to_text(body if secret is None else SIGNED + _signature(secret, body) + body)


def decode_pickle(text: str, *, trusted: bool = False, key: bytes | str | None = None) -> Any:
    """The object that `encode_pickle` wrote.

    Args:
        text: What `encode_pickle`, or virtex 0.1, wrote.
        trusted: Reads the text whoever wrote it. Pass True only where no stranger can send to
            you: **a pickle can run any code on your machine**.
        key: The secret that the text must be signed with, which is checked before anything is
            read. Where a key is given, `trusted` does not replace the signature.

    Raises:
        TypeError: `text` is no text.
        ValueError: It is neither trusted nor signed with the key, no base64, or no pickle; or
            the key is empty.
    """
    if key is None and trusted is not True:
        raise ValueError(
            "decode_pickle: reading a pickle can run any code: expected trusted=True, for a sender"
            " that you trust, or key=..., for a text that encode_pickle signed with that key"
        )
    secret = None if key is None else _secret(key, "decode_pickle")
    body = from_text(text, "decode_pickle")
    signature = None
    if body.startswith(SIGNED):
        start = len(SIGNED) + _SIGNATURE_BYTES
        signature, body = body[len(SIGNED) : start], body[start:]
    if secret is not None:
        if signature is None:
            raise ValueError("decode_pickle: expected a signed text, got one without a signature")
        if not hmac.compare_digest(signature, _signature(secret, body)):
            raise ValueError("decode_pickle: expected a signature by the key, got another")
    try:
        return pickle.loads(body)
    except Exception as error:
        found = f"{type(error).__name__}: {error}"
        raise ValueError(f"decode_pickle: expected a pickle that can be read: {found}") from error


def _secret(key: bytes | str, function: str) -> bytes:
    if not isinstance(key, bytes | str):
        raise TypeError(f"{function}: expected a key of bytes or text, got {type(key).__name__}")
    secret = key.encode() if isinstance(key, str) else key
    if not secret:
        raise ValueError(f"{function}: expected a key, got an empty one")
    return secret


def _signature(secret: bytes, body: bytes) -> bytes:
    return hmac.digest(secret, SIGNED + body, "sha256")
