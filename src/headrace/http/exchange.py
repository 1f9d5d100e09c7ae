"""One HTTP request and its answer, whoever parsed it.

Everything that serves predictions takes an `Exchange`; nothing below this package knows whether
it came over ASGI, a faster path, or from memory in a test.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Protocol

from ..clock import Instant


class Exchange(Protocol):
    """A request that is read to its end, and the way to answer it once.

    Attributes:
        method: In upper case.
        path: Without the query, percent-decoded.
        query: The query string, not decoded.
        headers: By name in lower case.
        body: All of it.
        received: When its head was read.
    """

    @property
    def method(self) -> str: ...
    @property
    def path(self) -> str: ...
    @property
    def query(self) -> str: ...
    @property
    def headers(self) -> Mapping[str, str]: ...
    @property
    def body(self) -> bytes: ...
    @property
    def received(self) -> Instant: ...

    def reply(self, status: int, headers: Sequence[tuple[str, str]], body: bytes) -> None:
        """Answer with a whole body; a second answer is an error."""
        ...

    def on_close(self, callback: Callable[[], None]) -> None:
        """Call back if the client goes away before it is answered."""
        ...
