"""A worker's connection to a front on another host: made, and tried again."""

from __future__ import annotations

import logging
import socket
import ssl

IDLE_S, INTERVAL_S, PROBES = 5, 2, 3
DEAD_AFTER_S = IDLE_S + INTERVAL_S * PROBES
"""A link that carries nothing for this long is given up, whether or not anything was to be sent."""

CONNECT_TIMEOUT_S = 5.0
"""For the connection, then for what each side has to prove."""
FIRST_RETRY_S = 0.1
LAST_RETRY_S = 5.0
"""A worker that has no front tries again after the first, doubled up to the last."""

REFUSED = "refused"
"""The code of a front's bye to a worker that it has no use for."""

_log = logging.getLogger("headrace.worker")


def notice_a_dead_link(sock: socket.socket) -> None:
    """Let the system probe the other host, and send small frames at once; for both ends."""
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, IDLE_S)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, INTERVAL_S)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPCNT, PROBES)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, DEAD_AFTER_S * 1000)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)


def connect(address: tuple[str, int], tls: str | None) -> socket.socket:
    """A connection to a front on another host.

    Args:
        address: Host and port.
        tls: A file of certificates to trust, "system" for those of the system, None for no TLS.

    Raises:
        OSError: There is none to be had.
    """
    sock = socket.create_connection(address, timeout=CONNECT_TIMEOUT_S)
    try:
        notice_a_dead_link(sock)
        if tls is not None:
            context = ssl.create_default_context(cafile=None if tls == "system" else tls)
            sock = context.wrap_socket(sock, server_hostname=address[0])
    except BaseException:
        sock.close()
        raise
    return sock


class Retries:
    """When a worker tries again, and what it says of it: the same reason only once in a row.

    Args:
        address: Of the front, for the log.
    """

    def __init__(self, address: str) -> None:
        self._address = address
        self._next_s = FIRST_RETRY_S
        self._said = ""

    def no_front(self, reason: str) -> None:
        """There was no connection to be had."""
        self._say("no front", reason)

    def lost(self, after_s: float, *, was_welcome: bool) -> None:
        """There was one, for so long; the front let the worker in, or it did not."""
        if was_welcome and after_s > LAST_RETRY_S:
            self._next_s, self._said = FIRST_RETRY_S, ""
        if was_welcome:
            self._say("the connection to the front was lost", "")
        else:
            hint = "is the secret the same, and is TLS on at both ends or at none?"
            self._say("the front did not let this worker in", hint)

    def next_s(self) -> float:
        """How long to wait before the next try."""
        seconds, self._next_s = self._next_s, min(2 * self._next_s, LAST_RETRY_S)
        return seconds

    def _say(self, message: str, reason: str) -> None:
        level = logging.DEBUG if self._said == message + reason else logging.WARNING
        self._said = message + reason
        _log.log(level, message, extra={"address": self._address, "reason": reason})
