"""The address space of an address (Local Network Access): this machine, private or public."""

from __future__ import annotations

from enum import IntEnum
from ipaddress import IPv4Address, IPv6Address, ip_address, ip_network
from typing import Final
from urllib.parse import urlsplit

__all__ = ["Space", "space_of_address", "space_of_origin"]

_SHARED: Final = ip_network("100.64.0.0/10")  # RFC 6598: no private address to Python
_TRANSLATED: Final = ip_network("64:ff9b::/96")  # RFC 6052: the last 32 bits are an IPv4 address
_TRANSLATED_LOCALLY: Final = ip_network("64:ff9b:1::/48")  # RFC 8215
_COMPATIBLE: Final = ip_network("::/96")  # RFC 4291 §2.5.5.1, holds :: and ::1, too


class Space(IntEnum):
    """An address space; a page needs permission to ask a smaller one."""

    LOOPBACK = 0
    LOCAL = 1
    PUBLIC = 2


def space_of_address(address: str) -> Space:
    """Return the space of an IP address; raise ValueError for any other text.

    An IPv6 address that stands for an IPv4 address has the space of the latter.
    """
    ip = ip_address(address.partition("%")[0])
    if isinstance(ip, IPv4Address):
        return _space_of_ipv4(ip)
    # Connections to :: go to this machine.
    if ip.is_loopback or ip.is_unspecified:
        return Space.LOOPBACK
    embedded = _embedded(ip)
    if embedded is not None:
        return _space_of_ipv4(embedded)
    if ip.is_private or ip.is_link_local or ip.is_site_local or ip in _TRANSLATED_LOCALLY:
        return Space.LOCAL
    return Space.PUBLIC


def _space_of_ipv4(ip: IPv4Address) -> Space:
    # Connections to 0.0.0.0 go to this machine.
    if ip.is_loopback or ip.is_unspecified:
        return Space.LOOPBACK
    if ip.is_private or ip.is_link_local or ip in _SHARED:
        return Space.LOCAL
    return Space.PUBLIC


def _embedded(ip: IPv6Address) -> IPv4Address | None:
    """Return the IPv4 address to which a translator or a tunnel would send packets."""
    if ip in _TRANSLATED or ip in _COMPATIBLE:
        return IPv4Address(int(ip) & 0xFFFF_FFFF)
    return ip.ipv4_mapped or ip.sixtofour


def space_of_origin(origin: str) -> Space | None:
    """Return where pages of an origin come from; None if its name alone doesn't tell."""
    host = (urlsplit(origin).hostname or "").rstrip(".")
    if host == "localhost" or host.endswith(".localhost"):
        return Space.LOOPBACK
    try:
        return space_of_address(host)
    except ValueError:
        return None
