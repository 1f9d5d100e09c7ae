"""The listening socket, bound before anything slow begins, and the HTTP server on it."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import math
import os
import socket
import stat
from collections.abc import Callable, Iterator
from pathlib import Path

import uvicorn

from ..config import ServerSettings
from ..errors import HeadraceError
from .app import App
from .connection import Connection, has_unread

_BACKLOG = 2048
_MAX_UDS_PATH = 107
_PROBE_S = 0.5


class BindError(HeadraceError):
    """The address cannot be listened on."""

    code = "bind_failed"


@contextlib.contextmanager
def listening(settings: ServerSettings) -> Iterator[socket.socket]:
    """A listening socket, which is closed at the end, its file removed if it has one.

    Raises:
        BindError: As `bind`.
    """
    with bind(settings) as listener:
        remove = remover_of(listener)
        try:
            yield listener
        finally:
            remove()


def bind(settings: ServerSettings) -> socket.socket:
    """A socket that listens already, so that a second server on the address fails at once.

    Raises:
        BindError: The address is in use, not this machine's, or not allowed.
    """
    if settings.uds is not None:
        return _bind_unix(settings.uds)
    where = f"{settings.host}:{settings.port}"
    try:
        found = socket.getaddrinfo(
            settings.host, settings.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )
    except (OSError, UnicodeError) as error:
        reason = getattr(error, "strerror", None) or "no such host"
        raise BindError(f"cannot listen on {where}: {reason}") from None
    family, kind, protocol, _, address = found[0]
    listener = socket.socket(family, kind, protocol)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(address)
        listener.listen(_BACKLOG)
    except OSError as error:
        listener.close()
        hint = "; another server has it" if error.errno == errno.EADDRINUSE else ""
        raise BindError(
            f"cannot listen on {where}: {os.strerror(error.errno or 0)}{hint}"
        ) from None
    return listener


def address_of(listener: socket.socket) -> str:
    """Where a listener can be reached, as people write it."""
    name = listener.getsockname()
    if listener.family == socket.AF_UNIX:
        return f"unix:{name}"
    host = f"[{name[0]}]" if listener.family == socket.AF_INET6 else name[0]
    return f"http://{host}:{name[1]}"


def remover_of(listener: socket.socket) -> Callable[[], None]:
    """What removes a listener's file, if it is a Unix socket that has one.

    The file is left alone if it is another server's by then: one that started on the same path
    while this one drained.
    """
    if listener.family != socket.AF_UNIX:
        return lambda: None
    path = Path(listener.getsockname()).absolute()
    own = path.stat()

    def remove() -> None:
        with contextlib.suppress(OSError):
            if os.path.samestat(path.stat(), own):
                path.unlink()

    return remove


def _bind_unix(path: str) -> socket.socket:
    """A Unix socket; a stale one is replaced, a live one or another kind of file is left alone."""
    if not path or "\0" in path:
        raise BindError(f"cannot listen on {path!r}: expected a path")
    if len(os.fsencode(path)) > _MAX_UDS_PATH:
        raise BindError(f"cannot listen on {path}: expected at most {_MAX_UDS_PATH} bytes of path")
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        _remove_stale(path)
        listener.bind(path)
        listener.listen(_BACKLOG)
    except OSError as error:
        listener.close()
        raise BindError(f"cannot listen on {path}: {os.strerror(error.errno or 0)}") from None
    except BindError:
        listener.close()
        raise
    return listener


def _remove_stale(path: str) -> None:
    if not os.path.lexists(path):
        return
    if not stat.S_ISSOCK(os.lstat(path).st_mode):
        raise BindError(f"cannot listen on {path}: there is something that is no socket")
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.settimeout(_PROBE_S)
        try:
            probe.connect(path)
        except ConnectionRefusedError:
            Path(path).unlink()
            return
        except (TimeoutError, BlockingIOError):
            pass  # it listens, but is too busy to accept
    raise BindError(f"cannot listen on {path}: another server has it")


class HttpServer(uvicorn.Server):
    """uvicorn, with its signals left to us.

    Args:
        app: What to serve.
        settings: Timeouts.
    """

    def __init__(self, app: App, settings: ServerSettings) -> None:
        super().__init__(
            uvicorn.Config(
                app,
                http=Connection.limited(settings.limits),
                ws="none",
                lifespan="off",
                interface="asgi3",
                log_config=None,
                access_log=False,
                server_header=False,
                proxy_headers=False,
                backlog=_BACKLOG,
                timeout_keep_alive=max(1, round(settings.limits.keep_alive_s)),
                # Answers come first: at drain_timeout_s the engines give up what is left.
                timeout_graceful_shutdown=math.ceil(settings.drain_timeout_s + 1.0),
            )
        )

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Close the listener and wait for the answers; what the system accepted is taken first."""
        for listener in sockets or []:
            for _ in range(_BACKLOG):
                if not has_unread(listener.fileno()):
                    break
                await asyncio.sleep(0)
        await asyncio.sleep(0)  # the last one's protocol is made in the next turn
        await super().shutdown(sockets)

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Leave them alone: the server's life cycle is ours."""
        yield
