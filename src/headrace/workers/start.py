"""What a worker is told when it is started, through its environment."""

from __future__ import annotations

import os
from collections.abc import MutableMapping
from typing import Literal

import msgspec

VARIABLE = "HEADRACE_WORKER"
"""Holds it, secret included: never an argument, which everybody can list."""

MIN_SECRET_BYTES = 16


class Start(msgspec.Struct, frozen=True, kw_only=True):
    """How to reach the front, and what the process may use.

    Attributes:
        secret: Shared with the front.
        fd: A connected socket; None to connect to `address`.
        mark_fd: Memory of the mark; None for none.
        crash_fd: Where the interpreter reports a fatal signal; None for standard error.
        memory_fd: Memory for large bodies; None for none.
        address: Host and port of the front.
        tls: How to trust it: a file of certificates, "system", or None for no TLS.
        model: Which of the target's models, where the front does not say; empty for the first.
        parent: The process whose end the worker shall not outlive; None for any.
        cpus: Those it may run on; None for all.
        niceness: Added to its own.
        devices: As `Workers.devices`; empty for the model's own.
        seat: Its place among the replicas: which of the devices it takes.
        log_level: As the front's.
        log_format: As the front's.
    """

    secret: bytes
    fd: int | None = None
    mark_fd: int | None = None
    crash_fd: int | None = None
    memory_fd: int | None = None
    address: tuple[str, int] | None = None
    tls: str | None = None
    model: str = ""
    parent: int | None = None
    cpus: tuple[int, ...] | None = None
    niceness: int = 0
    devices: str = ""
    seat: int = 0
    log_level: Literal["debug", "info", "warning", "error"] = "info"
    log_format: Literal["auto", "json", "text"] = "auto"

    def to_environment(self) -> dict[str, str]:
        """The variable that carries it."""
        return {VARIABLE: msgspec.json.encode(self).decode()}

    @classmethod
    def take(cls, environ: MutableMapping[str, str] = os.environ) -> Start | None:
        """What this process was told, taken out of what its children inherit; None if nothing."""
        text = environ.pop(VARIABLE, None)
        return None if text is None else msgspec.json.decode(text, type=cls)
