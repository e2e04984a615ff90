"""The service manager's notification protocol: `Type=notify`, sd_notify(3)."""

from __future__ import annotations

import logging
import os
import socket
from typing import Final

__all__ = ["READY", "STOPPING", "notify"]

logger = logging.getLogger(__name__)

READY: Final = "READY=1"
STOPPING: Final = "STOPPING=1"


def notify(state: str) -> None:
    """Tell the service manager that this process is `READY` or `STOPPING`.

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
        logger.warning("$NOTIFY_SOCKET can't be told %s: %s", state, error.strerror or error)
