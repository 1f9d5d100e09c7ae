"""How often each client may ask: so many times a second, and a few at once."""

from __future__ import annotations

from .clock import Instant

MAX_CLIENTS = 10_000
"""Clients that are told apart at once."""

SWEEP_S = 1.0
"""How long at least between two looks for clients that may be forgotten."""

REST = "*"
"""What those count as for whom there is no more room."""


class Rates:
    """A bucket of tokens for each client. It forgets those whose bucket is full again.

    Where more clients than `max_clients` empty their buckets at the same time, newcomers share one:
    neither memory nor the rate of all together grows without bound.

    Args:
        per_s: How often a client may ask in the long run.
        burst: How often at once; at least 1.
        max_clients: How many are told apart.
    """

    def __init__(self, per_s: float, burst: int, *, max_clients: int = MAX_CLIENTS) -> None:
        self._interval_s = 1.0 / per_s
        self._ahead_s = (burst - 1) * self._interval_s
        self._max_clients = max_clients
        self._full_at: dict[str, Instant] = {}
        self._next_sweep: Instant = 0.0

    @property
    def clients(self) -> int:
        """How many are told apart now."""
        return len(self._full_at)

    def take(self, client: str, now: Instant) -> float:
        """Ask once; 0 if the client may, else the seconds until it may."""
        if client not in self._full_at and not self._has_room(now):
            client = REST
        full_at = max(self._full_at.get(client, now), now)
        wait_s = full_at - self._ahead_s - now
        if wait_s > 0:
            return wait_s
        self._full_at[client] = full_at + self._interval_s
        return 0.0

    def _has_room(self, now: Instant) -> bool:
        if len(self._full_at) < self._max_clients:
            return True
        if now < self._next_sweep:
            return False
        self._next_sweep = now + SWEEP_S
        self._full_at = {client: at for client, at in self._full_at.items() if at > now}
        return len(self._full_at) < self._max_clients
