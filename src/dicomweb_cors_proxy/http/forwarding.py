"""Trusted proxies, X-Forwarded-* headers, and the address of the client."""

from __future__ import annotations

import re
from functools import lru_cache
from ipaddress import IPv4Network, IPv6Network, ip_address, ip_network
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from dicomweb_cors_proxy.http.messages import Header

__all__ = ["TrustedProxies", "client_address", "forwarded", "with_peer"]

# By these, reverse proxies tell the server behind them who the client is: X-Forwarded-* (among them
# -User, -Email and -Groups), Remote-User and its companions -Groups, -Name and -Email, and the
# client's address by other names.
_IDENTITY_NAMES: Final = frozenset(
    {b"cf-connecting-ip", b"forwarded", b"true-client-ip", b"x-client-ip", b"x-real-ip"}
)
_IDENTITY_PREFIXES: Final = (b"x-forwarded-", b"remote-", b"x-remote-")
_MOST_PROXIES: Final = 32

_ADDRESS_AND_PORT: Final = re.compile(r"(?:\[([^\]]+)\](?::[0-9]{1,5})?|([0-9.]+):[0-9]{1,5})")


class TrustedProxies:
    """The peers whose X-Forwarded-* headers are believed: `"10.1.2.3" in trusted`.

    `networks` are IP addresses or networks in CIDR notation. Raises ValueError, with a sentence,
    for the first value that is neither.
    """

    def __init__(self, networks: Iterable[str] = ()) -> None:
        self._networks = tuple(map(_network, networks))
        self._is_trusted = lru_cache(maxsize=1024)(self._in_networks)

    def __contains__(self, peer: str | None) -> bool:
        """Tell whether `peer`, the address of a connection's other end, is one of them."""
        return bool(self._networks) and peer is not None and self._is_trusted(peer)

    def _in_networks(self, peer: str) -> bool:
        try:
            address = ip_address(peer)
        except ValueError:  # a Unix socket has no address
            return False
        # A dual-stack socket sees ::ffff:10.1.2.3.
        forms = {address, getattr(address, "ipv4_mapped", None) or address}
        return any(form in network for network in self._networks for form in forms)


def _network(value: str) -> IPv4Network | IPv6Network:
    try:
        return ip_network(value)
    except ValueError:
        pass
    try:
        remedy = f"its host bits are set; write {ip_network(value, strict=False)}"
    except ValueError:
        remedy = "write an IP address or a network such as 10.0.0.0/8"
    raise ValueError(f"{value!r} is not a network: {remedy}")


def forwarded(
    headers: Iterable[Header], *, scheme: str, host: bytes, trusted: bool
) -> list[Header]:
    """Return a request's lines with X-Forwarded-Host and -Proto for the archive; see `with_peer`.

    `scheme` and `host` are those of the request as it came to us. What a trusted peer says of the
    client stands: its X-Forwarded-*, X-Real-IP, Forwarded (RFC 7239), Remote-User and the like are
    kept. What anyone else says is dropped. So is what only an archive that reads an underscore as a
    hyphen, as CGI made both the same, would take for one of these: a trusted peer passes it on
    unread.
    """
    kept: list[Header] = []
    chain: list[bytes] = []
    names = set()
    for header in headers:
        name = header[0].lower().replace(b"_", b"-")
        if name in _IDENTITY_NAMES or name.startswith(_IDENTITY_PREFIXES):
            if not trusted or b"_" in header[0]:
                continue
            if name == b"x-forwarded-for":
                chain.append(header[1])
                continue
            names.add(name)
        kept.append(header)
    if b"x-forwarded-host" not in names:
        kept.append((b"x-forwarded-host", host))
    if b"x-forwarded-proto" not in names:
        kept.append((b"x-forwarded-proto", scheme.encode("ascii")))
    if addresses := b", ".join(filter(None, chain)):
        kept.append((b"x-forwarded-for", addresses))
    return kept


def with_peer(headers: Sequence[Header], peer: str | None) -> list[Header]:
    """Return the lines that `forwarded` has made, with the connection's other end in them.

    Its address, None if it has none, ends X-Forwarded-For.
    """
    lines = [*headers]
    chain = [lines.pop()[1]] if lines and lines[-1][0] == b"x-forwarded-for" else []
    if peer is not None:
        chain.append(peer.encode("latin-1"))
    if chain:
        lines.append((b"x-forwarded-for", b", ".join(chain)))
    return lines


def client_address(
    headers: Iterable[Header], *, peer: str | None, trusted: TrustedProxies
) -> str | None:
    """Return the address of the client that a trusted peer speaks for, else the peer's own.

    That is the last in X-Forwarded-For that is no trusted proxy itself: what stands before it was
    written by the client.
    """
    if peer not in trusted:
        return peer
    chain = [
        address
        for name, value in headers
        if name.lower() == b"x-forwarded-for"
        for address in value.split(b",")
    ]
    for address in reversed(chain[-_MOST_PROXIES:]):
        try:
            peer = str(ip_address(_without_port(address.strip(b" \t").decode("latin-1"))))
        except ValueError:
            break
        if peer not in trusted:
            break
    return peer


def _without_port(address: str) -> str:
    """Return an address without port and zone; some gateways add the port."""
    match = _ADDRESS_AND_PORT.fullmatch(address)
    address = (match[1] or match[2]) if match else address
    return address.partition("%")[0]
