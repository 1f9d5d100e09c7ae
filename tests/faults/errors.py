"""The form of an error, and what it must not tell."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Collection, Iterator
from typing import Any

from tests.e2e.conftest import Answer, Served

MAX_ERROR_BYTES = 2048
MAX_ECHO = 64

_INSIDE = re.compile(rb"Traceback|\.py\b|0x[0-9a-f]{6}|/tmp/|/home/|site-packages|asyncio|uvicorn")


def check_error(answer: Answer, server: Served, sent: bytes, inside: Collection[str] = ()) -> None:
    """Whether an error has our form and tells nothing that is not the caller's business.

    Args:
        answer: The error.
        server: Whose it is.
        sent: What it was the answer to.
        inside: What it must not name, besides the server's own process, address and folder.
    """
    body = answer.body
    if answer.headers["content-type"] != "application/json":
        assert body == b"a replica hangs\n"
        return
    value = json.loads(body)
    if set(value) in ({"ready", "reason", "models"}, {"status", "models"}):
        return  # a probe that says no
    assert set(value) == {"error", "code", "details"}, value
    assert isinstance(value["details"], list) and value["code"] and value["error"]
    assert len(body) <= MAX_ERROR_BYTES
    assert not _INSIDE.search(body), body
    text = body.decode()
    places = (
        [str(server.uds)] if server.uds is not None else [":".join(map(str, server.host_and_port))]
    )
    secrets = (*places, str(server.process.pid), str(server.folder), os.getcwd(), *inside)
    for each in secrets:
        assert each not in text or not re.search(rf"(?<!\d){re.escape(each)}(?!\d)", text), each
    for said in (body, *(each.encode("utf-8", "surrogatepass") for each in texts_of(value))):
        assert not repeats(said, sent), "it repeats too much of what was sent"


def texts_of(value: Any) -> Iterator[str]:
    """All texts in a value of JSON."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict | list):
        for each in value.values() if isinstance(value, dict) else value:
            yield from texts_of(each)


def repeats(said: bytes, sent: bytes) -> bool:
    """Whether more than `MAX_ECHO` bytes in a row are in both."""
    step = (MAX_ECHO + 1) // 2  # of so many, one that begins at a step is in any run that is longer
    if not any(said[at : at + step] in sent for at in range(0, len(said) - step + 1, step)):
        return False
    return any(said[at : at + MAX_ECHO + 1] in sent for at in range(len(said) - MAX_ECHO))
