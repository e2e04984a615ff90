"""Ask the system for the state of a socket below TLS and the event loop."""

from __future__ import annotations

import contextlib
import select
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
    """Bytes that the system has taken, and the client not yet; 0 where the system doesn't tell."""
    size = array("i", [0])
    if fcntl is not None:
        with contextlib.suppress(OSError, ValueError):
            fcntl.ioctl(transport.get_extra_info("socket").fileno(), termios.TIOCOUTQ, size)
    return size[0]
