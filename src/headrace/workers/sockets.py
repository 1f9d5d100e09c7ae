"""What both ends ask of a TCP connection between hosts."""

from __future__ import annotations

import socket

IDLE_S, INTERVAL_S, PROBES = 5, 2, 3
DEAD_AFTER_S = IDLE_S + INTERVAL_S * PROBES
"""A link that carries nothing for this long is given up, whether or not anything was to be sent."""


def notice_a_dead_link(sock: socket.socket) -> None:
    """Let the system probe the other host, and send small frames at once."""
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, IDLE_S)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, INTERVAL_S)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPCNT, PROBES)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, DEAD_AFTER_S * 1000)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
