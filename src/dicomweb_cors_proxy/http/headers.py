"""What an intermediary owes to header fields (RFC 9110 §7.6).

The functions take the header lines of one message, keep their order, repeats and bytes, and match
names in any case. A request on its way to the archive:

    if passed_through(received, name): ...  # 508, judged before any line is dropped
    headers = end_to_end(received)
    headers.append(via(http_version, name))
    headers = forwarded(headers, scheme=scheme, host=host, trusted=peer in trusted)
    headers = with_peer(headers, peer)

An answer on its way back: `without_cors(end_to_end_response(received))`, then our own lines, then
`merge_vary`.
"""

from __future__ import annotations

import re
from functools import lru_cache
from ipaddress import IPv4Network, IPv6Network, ip_address, ip_network
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from dicomweb_cors_proxy.http.messages import Header

__all__ = [
    "TrustedProxies",
    "client_address",
    "end_to_end",
    "end_to_end_response",
    "forwarded",
    "max_forwards",
    "merge_vary",
    "passed_through",
    "via",
    "with_max_forwards",
    "with_peer",
    "without_cors",
]

# RFC 9110 §7.6.1, and what HTTP/1.1 clients still send without listing it in Connection.
_HOP_BY_HOP: Final = frozenset(
    {
        b"connection",
        b"http2-settings",
        b"keep-alive",
        b"proxy-authenticate",
        b"proxy-authorization",
        b"proxy-connection",
        b"te",
        b"trailer",
        b"transfer-encoding",
        b"upgrade",
    }
)
# What a response says of the whole origin that it comes from, which for browsers is the proxy's:
# where else to find it (RFC 7838), to use https alone (RFC 6797), to clear its data, where to
# report errors, which client hints to send, which trial features to turn on, and how many of its
# paths a service worker may control.
_OF_WHOLE_ORIGIN: Final = frozenset(
    {
        b"accept-ch",
        b"alt-svc",
        b"clear-site-data",
        b"nel",
        b"origin-trial",
        b"report-to",
        b"reporting-endpoints",
        b"service-worker-allowed",
        b"strict-transport-security",
    }
)
_NOT_IN_RESPONSES: Final = _HOP_BY_HOP | _OF_WHOLE_ORIGIN

# By these, reverse proxies tell the server behind them who the client is: X-Forwarded-* (among them
# -User, -Email and -Groups), Remote-User and its companions -Groups, -Name and -Email, and the
# client's address by other names.
_IDENTITY_NAMES: Final = frozenset(
    {b"cf-connecting-ip", b"forwarded", b"true-client-ip", b"x-client-ip", b"x-real-ip"}
)
_IDENTITY_PREFIXES: Final = (b"x-forwarded-", b"remote-", b"x-remote-")

_MOST_FORWARDS: Final = 9999
_MOST_PROXIES: Final = 32

_ADDRESS_AND_PORT: Final = re.compile(r"(?:\[([^\]]+)\](?::[0-9]{1,5})?|([0-9.]+):[0-9]{1,5})")


def end_to_end(
    headers: Iterable[Header], *, dropped: frozenset[bytes] = _HOP_BY_HOP
) -> list[Header]:
    """Return the lines meant for the far end: none hop-by-hop, none that Connection lists.

    Source: RFC 9110 §7.6.1.
    """
    headers = list(headers)
    kept = [header for header in headers if header[0].lower() not in dropped]
    if len(kept) < len(headers) and (options := _members(headers, b"connection")):
        # Without its length, a body would be framed wrongly on the next connection.
        options.discard(b"content-length")
        kept = [header for header in kept if header[0].lower() not in options]
    return kept


def end_to_end_response(headers: Iterable[Header]) -> list[Header]:
    """Return the end-to-end lines of a response but for those that speak of its whole origin."""
    return end_to_end(headers, dropped=_NOT_IN_RESPONSES)


def without_cors(headers: Iterable[Header]) -> list[Header]:
    """Return the lines of an answer but for its CORS headers, `Access-Control-*`.

    Timing-Allow-Origin and Cross-Origin-Resource-Policy are other protocols and stay.
    Source: Fetch, "HTTP responses" under "CORS protocol".
    """
    return [header for header in headers if not header[0].lower().startswith(b"access-control-")]


def merge_vary(headers: Sequence[Header], names: Sequence[bytes]) -> list[Header]:
    """Return `headers` with a Vary that covers `names`.

    Names that are there already, in any case, are not repeated; `Vary: *` covers all of them.
    Source: RFC 9110 §12.5.5.
    """
    merged = list(headers)
    at = [index for index, (name, _) in enumerate(merged) if name.lower() == b"vary"]
    missing = _missing_from_vary(tuple([merged[index][1] for index in at]), tuple(names))
    if missing and at:
        name, value = merged[at[0]]
        merged[at[0]] = name, b", ".join((value, missing)) if value else missing
    elif missing:
        merged.append((b"vary", missing))
    return merged


@lru_cache(maxsize=256)
def _missing_from_vary(lines: tuple[bytes, ...], names: tuple[bytes, ...]) -> bytes:
    """Return those of `names` that the lines of a Vary don't cover."""
    present = _elements(lines)
    return b"" if b"*" in present else b", ".join(n for n in names if n.lower() not in present)


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
    raise ValueError(f"{value!r} is no network: {remedy}")


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


def via(http_version: str, name: str) -> Header:
    """Return our line for Via: a message came to `name`, a token, over `http_version` ("1.1").

    A line of its own can't be swallowed by a comment that an earlier line leaves open.
    Source: RFC 9110 §7.6.3.
    """
    return b"via", f"{http_version} {name}".encode("ascii")


def passed_through(headers: Iterable[Header], name: str) -> bool:
    """Tell whether Via names `name` as a recipient: the request is in a loop.

    Pseudonyms are compared without regard to case; ports and comments don't count.
    Source: RFC 9110 §7.6.3.
    """
    wanted = name.lower().encode("ascii")
    return any(
        pseudonym.lower() == wanted
        for field, value in headers
        if field.lower() == b"via"
        for pseudonym in _pseudonyms(value)
    )


def max_forwards(headers: Iterable[Header]) -> int | None:
    """Return how often an OPTIONS may still be forwarded, at most 9999; None if it doesn't say.

    A repeated or malformed Max-Forwards says nothing. Source: RFC 9110 §7.6.2.
    """
    values = [value for name, value in headers if name.lower() == b"max-forwards"]
    if len(values) != 1 or not values[0].isdigit():
        return None
    digits = values[0].lstrip(b"0")
    return min(int(digits[:5] or b"0"), _MOST_FORWARDS)


def with_max_forwards(headers: Iterable[Header], number: int) -> list[Header]:
    """Return `headers` with `number` as the value of their Max-Forwards."""
    value = b"%d" % number
    return [
        (header[0], value) if header[0].lower() == b"max-forwards" else header for header in headers
    ]


def _members(headers: Iterable[Header], field: bytes) -> set[bytes]:
    """Return the members of a field that is a list of tokens, in lower case."""
    return _elements(value for name, value in headers if name.lower() == field)


def _elements(lines: Iterable[bytes]) -> set[bytes]:
    return {element.strip(b" \t").lower() for line in lines for element in line.split(b",")}


_COMMENT_EDGES: Final = re.compile(rb"\\.|[()]", re.DOTALL)


def _pseudonyms(value: bytes) -> Iterator[bytes]:
    """Yield who received the message, by one Via line: `1.1 name:port (comment), 2 other`."""
    for element in _without_comments(value).split(b","):
        words = element.split(None, 2)
        if len(words) > 1:
            yield words[1].partition(b":")[0]


def _without_comments(value: bytes) -> bytes:
    """Cut comments out; they nest (RFC 9110 §5.6.5). One that is never closed is none."""
    if b"(" not in value:
        return value
    kept, depth, start, rest = [], 0, 0, 0
    for edge in _COMMENT_EDGES.finditer(value):
        if edge[0] == b"(":
            if depth == 0:
                start = edge.start()
            depth += 1
        elif edge[0] == b")" and depth > 0:
            depth -= 1
            if depth == 0:
                kept.append(value[rest:start])
                rest = edge.end()
    return b" ".join([*kept, value[rest:]])
