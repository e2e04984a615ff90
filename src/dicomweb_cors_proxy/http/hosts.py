"""The grammar of hosts, default ports, and loopback addresses."""

from __future__ import annotations

from typing import Final

__all__ = ["DEFAULT_PORTS", "MAX_PORT"]

DEFAULT_PORTS: Final = {"http": 80, "https": 443}
MAX_PORT: Final = 65535
