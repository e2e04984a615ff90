"""The service manager's notification protocol: `Type=notify`, sd_notify(3)."""

from __future__ import annotations

import logging
import os
import socket
import time
from typing import Final

__all__ = ["READY", "notify", "reloading", "stopping"]

logger = logging.getLogger(__name__)

READY: Final = "READY=1"


def reloading() -> str:
    """The configuration is being read again; `READY` ends it."""
    return f"RELOADING=1\nMONOTONIC_USEC={time.monotonic_ns() // 1000}"


def stopping(seconds: float) -> str:
    """The end has begun, and may take so many seconds, be `TimeoutStopSec` shorter."""
    return f"STOPPING=1\nEXTEND_TIMEOUT_USEC={int(seconds * 1_000_000)}"


def notify(state: str) -> None:
    """Tell the service manager what this process does: `READY`, `reloading()`, `stopping(…)`.

    Does nothing unless `$NOTIFY_SOCKET` names a Unix socket, by its path or, after an `@`, in the
    abstract namespace. A manager that can't be told is no reason to stop: it is logged.
    """
    address = os.environ.get("NOTIFY_SOCKET", "")
    if not address.startswith(("/", "@")):
        return
    if address.startswith("@"):
        address = "\0" + address[1:]
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
            manager.connect(address)
            manager.sendall(state.encode("ascii"))
    except OSError as error:
        logger.warning(
            "$NOTIFY_SOCKET can't be told %s: %s",
            state.partition("\n")[0],
            error.strerror or error,
        )
