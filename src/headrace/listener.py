"""The listening socket, bound before anything slow begins."""

from __future__ import annotations

import contextlib
import ctypes
import dataclasses
import errno
import ipaddress
import os
import socket
import stat
import struct
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from .config import ServerSettings
from .errors import HeadraceError

BACKLOG = 2048
"""Connections that the system holds until they are accepted."""

_MAX_UDS_PATH = 107
_PROBE_S = 0.5
_SO_ATTACH_FILTER = 26
_ASKS_NO_MORE = b"".join(
    struct.pack("HBBI", *instruction)
    for instruction in (
        (0x30, 0, 0, 13),  # load the flags, which are the 14th byte of a TCP header
        (0x45, 0, 1, 0x02),  # is SYN among them? else pass over the next
        (0x06, 0, 0, 0),  # drop it
        (0x06, 0, 0, 0xFFFFFFFF),  # take all of it
    )
)
"""A filter of the packets that come to a listening socket: nobody begins to connect."""


class BindError(HeadraceError):
    """The address cannot be listened on."""

    code = "bind_failed"


class Listener(socket.socket):
    """A listening socket that this process has bound, for itself alone.

    Attributes:
        remove_file: Removes its file, if it is a Unix socket and the file is still its own.
    """

    def __init__(self, *args: Any, **more: Any) -> None:
        super().__init__(*args, **more)
        self.remove_file: Callable[[], None] = _nothing

    def admit_no_more(self) -> None:
        """Let nobody connect any more, and keep who has, but is not accepted yet.

        They would be reset, and what they have sent with them, if the socket were just closed: some
        may come between the last look for them and that. One who comes now is refused a moment
        later, when it is closed, or by the next server on the address accepted. Who has begun to
        connect may finish: its own system may take it for connected already.
        """
        if self.family == socket.AF_UNIX:
            self.remove_file()
            return
        instructions = ctypes.create_string_buffer(_ASKS_NO_MORE)
        program = struct.pack("HP", len(_ASKS_NO_MORE) // 8, ctypes.addressof(instructions))
        with contextlib.suppress(OSError):  # not every system has filters
            self.setsockopt(socket.SOL_SOCKET, _SO_ATTACH_FILTER, program)


@contextlib.contextmanager
def listening(settings: ServerSettings) -> Iterator[Listener]:
    """A listening socket, which is closed at the end, its file removed if it has one.

    Raises:
        BindError: As `bind`.
    """
    with bind(settings) as listener:
        try:
            yield listener
        finally:
            listener.remove_file()


@contextlib.contextmanager
def admin_listening(settings: ServerSettings) -> Iterator[Listener | None]:
    """As `listening`, where operators are answered; None if they have no address of their own.

    Raises:
        BindError: As `bind`.
    """
    if settings.admin_uds is None and settings.admin_port is None:
        yield None
        return
    own = dataclasses.replace(
        settings, host=settings.admin_host, port=settings.admin_port or 0, uds=settings.admin_uds
    )
    with listening(own) as listener:
        yield listener


def bind(settings: ServerSettings) -> Listener:
    """A socket that listens already, so that a second server on the address fails at once.

    Raises:
        BindError: The address is in use, not this machine's, or not allowed.
    """
    if settings.uds is not None:
        return bind_unix(settings.uds)
    return bind_tcp(settings.host, settings.port)


def bind_tcp(host: str, port: int) -> Listener:
    """A listening TCP socket.

    Raises:
        BindError: The address is in use, not this machine's, or not allowed.
    """
    where = f"{host}:{port}"
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    except (OSError, UnicodeError) as error:
        reason = getattr(error, "strerror", None) or "no such host"
        raise BindError(f"cannot listen on {where}: {reason}") from None
    family, kind, protocol, _, address = found[0]
    listener = Listener(family, kind, protocol)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(address)
        listener.listen(BACKLOG)
    except OSError as error:
        listener.close()
        hint = "; another server has it" if error.errno == errno.EADDRINUSE else ""
        raise BindError(
            f"cannot listen on {where}: {os.strerror(error.errno or 0)}{hint}"
        ) from None
    return listener


def is_beyond_loopback(listener: socket.socket) -> bool:
    """Whether other machines may reach a listener."""
    return listener.family != socket.AF_UNIX and not is_loopback(listener.getsockname()[0])


def is_loopback(host: str) -> bool:
    """Whether an address does not leave this machine; no name but localhost is trusted to be."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def address_of(listener: socket.socket, *, is_tls: bool = False) -> str:
    """Where a listener can be reached, as people write it."""
    name = listener.getsockname()
    if listener.family == socket.AF_UNIX:
        return f"unix:{name}"
    host = f"[{name[0]}]" if listener.family == socket.AF_INET6 else name[0]
    return f"{'https' if is_tls else 'http'}://{host}:{name[1]}"


def remover_of(listener: socket.socket) -> Callable[[], None]:
    """What removes a listener's file, once, if it is a Unix socket that has one.

    The file is left alone if it is another server's by then: one that started on the same path
    while this one drained.
    """
    if isinstance(listener, Listener):
        return listener.remove_file
    return _remover_of(listener) if listener.family == socket.AF_UNIX else _nothing


def _remover_of(listener: socket.socket) -> Callable[[], None]:
    path = Path(listener.getsockname()).absolute()
    own: os.stat_result | None = path.stat()

    def remove() -> None:
        nonlocal own
        if own is None:
            return
        with contextlib.suppress(OSError):
            if os.path.samestat(path.stat(), own):
                path.unlink()
        own = None  # another's file may have its number once it is gone

    return remove


def _nothing() -> None:
    """There is no file."""


def bind_unix(path: str) -> Listener:
    """A listening Unix socket; a stale one is replaced, a live one or another file left alone.

    Raises:
        BindError: Somebody listens there, or it is no socket, or not allowed.
    """
    if not path or "\0" in path:
        raise BindError(f"cannot listen on {path!r}: expected a path")
    if len(os.fsencode(path)) > _MAX_UDS_PATH:
        raise BindError(f"cannot listen on {path}: expected at most {_MAX_UDS_PATH} bytes of path")
    listener = Listener(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        _remove_stale(path)
        listener.bind(path)
        listener.remove_file = _remover_of(listener)
        listener.listen(BACKLOG)
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
