"""What a post says, and what is made of what comes: no I/O."""

from __future__ import annotations

import base64
import email.utils
import re
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache

from ._httpx import httpcore2, httpx2
from .message import HttpMessage, message_of


class HttpError(Exception):
    """What a post raises, when asked by `raise_errors=True`, in place of a message with an error.

    Attributes:
        error: The message's `.error`, as text.
        status: The answer's HTTP status; None if no answer came.
        retry_after_s: For how long the server asks to be left alone; None if it did not say.
    """

    def __init__(
        self, error: str, status: int | None = None, retry_after_s: float | None = None
    ) -> None:
        super().__init__(error, status, retry_after_s)
        self.error = error
        self.status = status
        self.retry_after_s = retry_after_s

    def __str__(self) -> str:
        return self.error


@dataclass(frozen=True, slots=True)
class Target:
    """A URL, as the pool wants it.

    Attributes:
        url: Its origin and its path; without user information.
        headers: Those that every post to it has.
        place: What errors call it: host and port, or the Unix socket.
    """

    url: httpcore2.URL
    headers: tuple[tuple[bytes, bytes], ...]
    place: str


@lru_cache(maxsize=64)
def target_of(url: str, uds: str | None) -> Target:
    """Where a post to this URL goes, by a Unix socket if one is given.

    Raises:
        ValueError: It is no URL of http or https.
    """
    # The text of the URL may hold a password: no error repeats it.
    try:
        parsed = httpx2.URL(url)
    except httpx2.InvalidURL:
        raise ValueError("url: expected one like http://host:port/, got no valid URL") from None
    if parsed.scheme not in ("http", "https") or not parsed.host:
        raise ValueError(
            "url: expected one like http://host:port/, got "
            + (f"the scheme {parsed.scheme!r}" if parsed.host else "one without a host")
        )
    port = parsed.port or (443 if parsed.scheme == "https" else 80)
    host = f"[{parsed.host}]" if ":" in parsed.host else parsed.host
    headers = [
        (b"host", parsed.netloc),
        (b"content-type", b"application/json"),
        (b"accept", b"application/json"),
        (b"user-agent", b"virtex"),
    ]
    if parsed.userinfo:
        credentials = f"{parsed.username}:{parsed.password}".encode()
        headers.append((b"authorization", b"Basic " + base64.b64encode(credentials)))
    return Target(
        url=httpcore2.URL(
            scheme=parsed.raw_scheme, host=parsed.raw_host, port=port, target=parsed.raw_path
        ),
        headers=tuple(headers),
        place=f"{host}:{port}" if uds is None else f"unix:{uds}",
    )


def header_lines(headers: Mapping[str, str]) -> list[tuple[bytes, bytes]]:
    """Headers as they are written.

    Raises:
        ValueError: A name or a value is none that a header may have.
    """
    for name, value in headers.items():
        # The value may be a secret: the error names its header only.
        if not re.fullmatch(r"[!#$%&'*+\-.^_`|~\w]+", name, re.ASCII):
            raise ValueError(f"headers: expected a header's name, got {name!r}")
        if not re.fullmatch(r"([\x21-\x7e]([\x20-\x7e\t]*[\x21-\x7e])?)?", value):
            raise ValueError(f"headers: expected printable ASCII as {name}")
    return [(name.lower().encode(), value.encode()) for name, value in headers.items()]


@dataclass(frozen=True, slots=True)
class Answer:
    """What became of one sending.

    Attributes:
        message: What the caller gets.
        status: The HTTP status; None if no answer came.
        retry_after_s: What the server's Retry-After says; None without one.
        is_refused: Nobody listened.
    """

    message: HttpMessage
    status: int | None = None
    retry_after_s: float | None = None
    is_refused: bool = False

    @classmethod
    def failed(cls, target: Target, why: str, *, is_refused: bool = False) -> Answer:
        return cls(HttpMessage(error=f"{target.place}: {why}"), is_refused=is_refused)

    def result(self, raise_errors: bool) -> HttpMessage:
        if raise_errors and self.message.error is not None:
            raise HttpError(str(self.message.error), self.status, self.retry_after_s)
        return self.message


class Reading:
    """Makes an answer of what comes, and of what goes wrong meanwhile; it does no I/O.

    Args:
        target: Where the post went.
        max_bytes: The most that the body may have.
        late: What a timeout is called.
    """

    def __init__(self, target: Target, max_bytes: int, late: str) -> None:
        self.answer = Answer.failed(target, "no answer")
        self._target = target
        self._max_bytes = max_bytes
        self._late = late
        self._response: httpcore2.Response | None = None
        self._body = bytearray()

    def start(self, response: httpcore2.Response) -> None:
        self._response = response

    def add(self, chunk: bytes) -> None:
        if len(self._body) + len(chunk) > self._max_bytes:
            raise _TooLargeError
        self._body += chunk

    @contextmanager
    def outcome(self) -> Iterator[None]:
        """Set `answer` by how the block ended."""
        try:
            yield
        except _TooLargeError:
            self._fail(f"expected an answer of at most {self._max_bytes} bytes, got more")
        except httpcore2.TimeoutException:
            self._fail(self._late)
        except httpcore2.ConnectError as error:
            if _is_refused(error):
                self._fail("connection refused", is_refused=True)
            else:
                self._fail(f"no connection: {str(error)[:200]}")
        except (httpcore2.NetworkError, httpcore2.ProtocolError, OSError) as error:
            if self._response is not None:
                self._fail("connection lost in the middle of the answer")
            elif isinstance(error, httpcore2.ProtocolError) and error.__context__ is not None:
                # The parser's; the pool's own one of this kind says that nothing came.
                self._fail(f"expected an HTTP answer, got none: {str(error)[:200]}")
            else:
                self._fail("connection lost before an answer")
        else:
            assert self._response is not None
            headers = {name.lower(): value for name, value in self._response.headers}
            status = self._response.status
            self.answer = Answer(
                message_of(status, bytes(self._body), self._target.place),
                status,
                _retry_after_s(headers.get(b"retry-after", b"").decode("latin-1")),
            )

    def _fail(self, why: str, *, is_refused: bool = False) -> None:
        self.answer = Answer.failed(self._target, why, is_refused=is_refused)


class _TooLargeError(Exception):
    """The answer is larger than it may be."""


def _is_refused(error: BaseException | None) -> bool:
    """Whether an attempt at one of the host's addresses was refused."""
    if isinstance(error, BaseExceptionGroup):
        return any(map(_is_refused, error.exceptions))
    # A Unix socket that nobody has made yet is as good as one to which nobody listens.
    if isinstance(error, ConnectionRefusedError | FileNotFoundError):
        return True
    # The pool takes away its error's cause, but cannot take its context.
    return error is not None and _is_refused(error.__cause__ or error.__context__)


def _retry_after_s(text: str) -> float | None:
    """A Retry-After: seconds, or a date; None if it is neither."""
    if re.fullmatch("[0-9]{1,10}", text):
        return float(text)
    try:
        return max(0.0, email.utils.parsedate_to_datetime(text).timestamp() - time.time())
    except (ValueError, OverflowError):
        return None
