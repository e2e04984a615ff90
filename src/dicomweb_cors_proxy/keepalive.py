"""TCP keepalive, which finds a peer that disappeared without closing its connection."""

from __future__ import annotations

import socket
from contextlib import suppress

__all__ = ["enable_keepalive"]

# A peer that crashed, or that a firewall has forgotten, is noticed after IDLE + INTERVAL * PROBES
# seconds: two minutes. Linux by itself would wait for more than two hours.
KEEPALIVE_IDLE_SECONDS = 60
KEEPALIVE_INTERVAL_SECONDS = 15
KEEPALIVE_PROBES = 4

# macOS has another name for the idle time, and some systems lack some of the options.
_IDLE_OPTION = "TCP_KEEPIDLE" if hasattr(socket, "TCP_KEEPIDLE") else "TCP_KEEPALIVE"

_OPTIONS = [
    (getattr(socket, name), value)
    for name, value in (
        (_IDLE_OPTION, KEEPALIVE_IDLE_SECONDS),
        ("TCP_KEEPINTVL", KEEPALIVE_INTERVAL_SECONDS),
        ("TCP_KEEPCNT", KEEPALIVE_PROBES),
    )
    if hasattr(socket, name)
]


def enable_keepalive(sock: socket.socket) -> None:
    """Probe the peer of a TCP connection while the connection is idle.

    Accepts the `socket` of an asyncio or uvloop transport. On Linux, a socket that a listener
    accepts inherits the options of the listener. A socket that is not TCP or not open is left
    as it is.
    """
    with suppress(OSError, ValueError):
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        for option, value in _OPTIONS:
            sock.setsockopt(socket.IPPROTO_TCP, option, value)
