"""How a server's metrics get out: scraped, pushed or not at all."""

from __future__ import annotations

import math
from typing import NamedTuple, Protocol
from urllib.parse import urlsplit

from .metrics import PushFailures, ServerCollector, registry_of
from .push import Push
from .scrape import Scrape
from .shared import Shared

MODES = ("scrape", "push", "off")
"""The ways; `off` is none."""


class Exporter(Protocol):
    """A way for metrics to get out of a process."""

    def start(self) -> None:
        """Begin; called once, in the process that serves, when it does.

        Raises:
            OSError: It cannot listen where it is to.
        """

    def stop(self) -> None:
        """End, within about a second; more calls, or one without a start, do nothing."""


class Off:
    """An exporter that exports nothing."""

    def start(self) -> None: ...

    def stop(self) -> None: ...


class _Place(NamedTuple):
    """What `metrics_host` says."""

    scheme: str
    host: str
    path: str


def check(mode: str, *, host: str, port: int, interval_s: float, shared: bool = False) -> None:
    """Check settings, which may be long before they are used.

    Args:
        mode: One of `MODES`.
        host: Where to listen, or the gateway's host, with or without `http://`; a gateway's may
            have `https://` and a path.
        port: Where to listen (0: any free port), or the gateway's.
        interval_s: From push to push.
        shared: Whether the workers of the service share one port.

    Raises:
        ValueError: One of them is wrong, or they do not go together.
    """
    if mode not in MODES:
        raise ValueError(f"metrics_mode: expected {', '.join(MODES)}, got {mode!r}")
    if shared and mode != "scrape":
        raise ValueError(f"metrics_shared: expected metrics_mode 'scrape', got {mode!r}")
    if mode == "off":
        return
    place = _place(host)
    if mode == "scrape" and (place.scheme != "http" or place.path):
        raise ValueError(f"metrics_host: expected an address to listen on, got {host!r}")
    lowest = 0 if mode == "scrape" and not shared else 1
    if not lowest <= port <= 65535:
        raise ValueError(f"metrics_port: expected {lowest} to 65535, got {port!r}")
    if mode == "push" and not (interval_s > 0 and math.isfinite(interval_s)):
        raise ValueError(f"metrics_interval: expected seconds above 0, got {interval_s!r}")


def exporter_of(
    mode: str,
    *,
    name: str,
    collector: ServerCollector,
    instance: str,
    host: str,
    port: int,
    interval_s: float,
    shared: bool = False,
) -> Exporter:
    """The exporter that these settings ask for, to be made in the process that serves.

    Besides the server's own metrics it exports those of prometheus_client's default registry; when
    pushing, without the process's own, which a gateway has under the same names.

    Args:
        mode: One of `MODES`.
        name: The service.
        collector: The server's own metrics.
        instance: The worker: two of one service never have the same.
        host: As in `check`.
        port: As in `check`.
        interval_s: As in `check`.
        shared: As in `check`.

    Raises:
        ValueError: As in `check`.
    """
    check(mode, host=host, port=port, interval_s=interval_s, shared=shared)
    if mode == "off":
        return Off()
    place = _place(host)
    if mode == "push":
        failures = PushFailures(instance)
        registry = registry_of(collector, failures, omitted=("process_", "python_"))
        at = f"[{place.host}]" if ":" in place.host else place.host
        gateway = f"{place.scheme}://{at}:{port}{place.path}"
        return Push(name, registry, failures, instance, gateway, interval_s)
    registry = registry_of(collector)
    if shared:
        return Shared(name, registry, instance, place.host, port)
    return Scrape(name, registry, place.host, port)


def _place(host: str) -> _Place:
    has_scheme = "://" in host
    # An IPv6 address without brackets looks like a host with a port.
    bare = host if has_scheme or host.count(":") < 2 or "[" in host else f"[{host}]"
    parts = urlsplit(bare if has_scheme else f"//{bare}")
    scheme = parts.scheme or "http"
    has_more = parts.query or parts.fragment or parts.username is not None
    if scheme not in ("http", "https") or not parts.hostname or has_more:
        raise ValueError(f"metrics_host: expected a host, with or without http://, got {host!r}")
    if parts.netloc.rpartition("]")[2].count(":"):
        raise ValueError(f"metrics_host: expected no port, which is metrics_port, got {host!r}")
    return _Place(scheme, parts.hostname, parts.path.rstrip("/"))
