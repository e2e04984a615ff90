"""The grammar of hosts, default ports, and loopback addresses."""

from __future__ import annotations

import re
from ipaddress import ip_address
from typing import Final

__all__ = ["DEFAULT_PORTS", "MAX_PORT", "is_loopback", "split_port"]

DEFAULT_PORTS: Final = {"http": 80, "https": 443}
MAX_PORT: Final = 65535


def split_port(authority: str) -> tuple[str, str, str]:
    """Split `host:port` into host, colon and port, the last two "" where there is no port."""
    bracket = authority.rfind("]") + 1
    host, colon, port = authority[bracket:].partition(":")
    return authority[:bracket] + host, colon, port


def is_loopback(host: str) -> bool:
    """Return whether a host, IPv6 without brackets, always means this machine."""
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host.lower().rstrip(".") == "localhost"


# RFC 9110 §7.2: uri-host [ ":" port ], of which names in use have no more than these characters.
HOST = re.compile(rb"(?:[A-Za-z0-9._-]+|\[[0-9A-Fa-f:.]+\])(?::[0-9]{1,5})?")
