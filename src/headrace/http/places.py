"""Places: how many connections a server, and each of its clients, may have."""

from __future__ import annotations

from collections import Counter

from ..errors import RateLimited, Unavailable

RESERVE = 32
"""Connections beyond the limit that are answered: with an error, or, if they ask for it, by a
probe."""

SURPLUS_TIMEOUT_S = 1.0
"""How long one of those may take to say what it wants."""


class Place:
    """A connection's place, until it is left.

    Attributes:
        refusal: Why it is none; None for one within the limits.

    Args:
        places: Whose it is.
        client: Who has it.
        refusal: Why it is none.
    """

    __slots__ = ("_client", "_is_left", "_places", "refusal")

    def __init__(self, places: Places, client: str, refusal: Unavailable | None) -> None:
        self.refusal = refusal
        self._places = places
        self._client = client
        self._is_left = False

    def leave(self) -> None:
        """Another may have it; a second time does nothing."""
        if not self._is_left:
            self._is_left = True
            self._places.left(self._client, is_surplus=self.refusal is not None)


class Places:
    """Those of one server.

    Args:
        most: Connections of all clients; None for any number.
        most_each: Of each client; None likewise.
    """

    def __init__(self, most: int | None, most_each: int | None) -> None:
        self._most = most
        self._most_each = most_each
        self._taken = 0
        self._surplus = 0
        self._by_client: Counter[str] = Counter()

    def enter(self, client: str) -> Place | None:
        """A place for a connection, or one with a refusal; None if not even that is left."""
        refusal: Unavailable | None = None
        if self._most is not None and self._taken >= self._most:
            refusal = Unavailable(f"expected at most {self._most} connections")
        elif self._most_each is not None and self._by_client[client] >= self._most_each:
            refusal = RateLimited(f"expected at most {self._most_each} connections of one client")
        if refusal is None:
            self._taken += 1
            if self._most_each is not None:
                self._by_client[client] += 1
        elif self._surplus >= RESERVE:
            return None
        else:
            self._surplus += 1
        return Place(self, client, refusal)

    def left(self, client: str, *, is_surplus: bool) -> None:
        """A place is free."""
        if is_surplus:
            self._surplus -= 1
            return
        self._taken -= 1
        if self._most_each is not None:
            self._by_client[client] -= 1
            if not self._by_client[client]:
                del self._by_client[client]
