"""The features of `serve` that need what some systems do not have, such as Windows."""

from __future__ import annotations

import os
import select
import signal
from importlib.util import find_spec
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["missing_features"]


def missing_features() -> Iterator[str]:
    """Yield what this system lacks, each with its consequence."""
    if not _exists("uvloop"):
        yield "uvloop: requests take more CPU time"
    if not hasattr(signal, "SIGHUP"):
        yield "SIGHUP: restart the proxy to apply a changed configuration"
    if not hasattr(os, "fork"):
        yield "fork: server.workers can only be 1"
    if not _exists("resource"):
        yield "resource limits: only server.max_connections limits connections"
    if not hasattr(select, "poll"):
        yield "poll: a client that disconnects while it sends a body may be noticed late"


def _exists(module: str) -> bool:
    try:
        return find_spec(module) is not None
    except ValueError:  # it was made absent
        return False
