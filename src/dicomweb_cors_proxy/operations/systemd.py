"""The service manager's notification protocol: `Type=notify`, sd_notify(3)."""

from __future__ import annotations

import logging
import os
import re
import socket
import time
from typing import Final

__all__ = ["ALIVE", "READY", "notify", "reloading", "stopping", "watchdog_interval"]

logger = logging.getLogger(__name__)

READY: Final = "READY=1"
ALIVE: Final = "WATCHDOG=1"


def reloading() -> str:
    """Return the message that a reload has begun; `READY` ends it."""
    return f"RELOADING=1\nMONOTONIC_USEC={time.monotonic_ns() // 1000}"


def stopping(seconds: float) -> str:
    """Return the message that shutdown has begun and may take so many seconds."""
    return f"STOPPING=1\nEXTEND_TIMEOUT_USEC={int(seconds * 1_000_000)}"


def watchdog_interval() -> float | None:
    """Return the seconds after which to send `ALIVE` again, or None without a watchdog.

    It is a third of `WatchdogSec`, so one that is late does no harm; see sd_watchdog_enabled(3).
    """
    limit_us = os.environ.get("WATCHDOG_USEC", "")
    is_for_us = os.environ.get("WATCHDOG_PID") in (None, "", str(os.getpid()))
    if not is_for_us or not re.fullmatch("[0-9]{1,18}", limit_us) or not int(limit_us):
        return None
    return int(limit_us) / 3_000_000


def notify(state: str) -> None:
    """Tell the service manager what this process does: `READY`, `ALIVE`, and so on.

    Does nothing unless `$NOTIFY_SOCKET` names a Unix socket, by its path or, after an `@`, in the
    abstract namespace. A manager that can't be told is no reason to stop: it is logged.
    """
    address = os.environ.get("NOTIFY_SOCKET", "")
    if not address.startswith(("/", "@")) or not hasattr(socket, "AF_UNIX"):
        return
    if address.startswith("@"):
        address = "\0" + address[1:]
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
            # A manager that hangs must not stop an event loop again and again.
            manager.setblocking(state != ALIVE)
            manager.connect(address)
            manager.sendall(state.encode("ascii"))
    except OSError as error:
        logger.warning(
            "cannot send %s to $NOTIFY_SOCKET: %s",
            state.partition("\n")[0],
            error.strerror or error,
        )
