"""How far away an address is (Local Network Access): this machine, a private network, anywhere."""

from __future__ import annotations

from enum import IntEnum
from ipaddress import ip_address, ip_network
from typing import Final
from urllib.parse import urlsplit

__all__ = ["Space", "space_of_address", "space_of_origin"]

_SHARED: Final = ip_network("100.64.0.0/10")  # RFC 6598: no private address to Python


class Space(IntEnum):
    """An address space; a page needs permission to ask a smaller one."""

    LOOPBACK = 0
    LOCAL = 1
    PUBLIC = 2


def space_of_address(address: str) -> Space:
    """Raises ValueError for what is no IP address."""
    ip = ip_address(address.partition("%")[0])
    if mapped := getattr(ip, "ipv4_mapped", None):
        ip = mapped
    if ip.is_loopback:
        return Space.LOOPBACK
    if ip.is_private or ip.is_link_local or (ip.version == 4 and ip in _SHARED):
        return Space.LOCAL
    return Space.PUBLIC


def space_of_origin(origin: str) -> Space | None:
    """Return where pages of an origin come from; None if its name alone doesn't tell."""
    host = (urlsplit(origin).hostname or "").rstrip(".")
    if host == "localhost" or host.endswith(".localhost"):
        return Space.LOOPBACK
    try:
        return space_of_address(host)
    except ValueError:
        return None
