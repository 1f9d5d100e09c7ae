"""How a load test sends its requests."""

from __future__ import annotations

import dataclasses
import ssl
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated

from msgspec import Meta

from ..config import MIB, PositiveInt, Settings, setting


@dataclass(frozen=True, kw_only=True)
class LoadSettings(Settings):
    """How a load test sends its requests.

    Attributes:
        requests_per_second: The planned rate; infinity makes every request due at once.
        poisson_seed: Random distances with that mean rate, the same for the same seed; None for
            equal distances.
        max_connections: Open at once, one request outstanding on each. A request that finds none
            free waits, which counts in its latency.
        timeout_s: From a request's planned instant to its end.
        max_response_bytes: One answer, with its head.
        uds: A Unix socket's path to connect to, in place of the URL's host and port.
        headers: Of every request; `Content-Type: application/json` unless they name another.
        tls: For https; None for the system's certificates.

    Raises:
        ConfigError: A value is of the wrong type or outside its range.
    """

    requests_per_second: Annotated[float, Meta(gt=0)] = setting("the planned rate", 5000.0)
    poisson_seed: int | None = setting("the seed of random distances; none for equal ones", None)
    max_connections: PositiveInt = setting("connections that are open at once", 256)
    timeout_s: Annotated[float, Meta(gt=0)] = setting(
        "from a request's planned instant to its end", 60.0
    )
    max_response_bytes: PositiveInt = setting("one answer, with its head", 64 * MIB)
    uds: str | None = setting("a Unix socket's path, in place of the URL's host and port", None)
    headers: Mapping[str, str] = dataclasses.field(default_factory=dict)
    tls: ssl.SSLContext | None = None
