"""Ask the system for the state of a socket below TLS and the event loop."""

from __future__ import annotations

import contextlib
import select
import socket
import struct
from array import array
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import asyncio

try:
    import fcntl
    import termios
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]


def is_ready(transport: asyncio.Transport, event: str) -> bool:
    """Return whether the system would report an event of `select`, or the end, for a connection."""
    if not hasattr(select, "poll"):
        return event == "POLLOUT"
    sock = transport.get_extra_info("socket")
    descriptor = -1 if sock is None else sock.fileno()
    if descriptor < 0:
        return True
    poll = select.poll()
    poll.register(descriptor, getattr(select, event, 0))
    return bool(poll.poll(0))


def unsent_bytes(transport: asyncio.Transport) -> int:
    """Return the bytes in the send buffer of the system; 0 if the system cannot tell."""
    size = array("i", [0])
    if fcntl is not None:
        with contextlib.suppress(OSError, ValueError):
            fcntl.ioctl(transport.get_extra_info("socket").fileno(), termios.TIOCOUTQ, size)
    return size[0]


def reset_connection(transport: asyncio.Transport) -> None:
    """Abort a connection with a TCP reset, which no client takes for the end of a response."""
    with contextlib.suppress(OSError, ValueError):  # it may be closed already
        transport.get_extra_info("socket").setsockopt(
            socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0)
        )
    transport.abort()
