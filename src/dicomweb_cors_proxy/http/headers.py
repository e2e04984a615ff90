"""Header rules for intermediaries (RFC 9110 §7.6).

The functions take the header lines of one message. They keep order, repeats and bytes,
and match names in any case. A request on its way to the archive:

    if passed_through(received, name): ...  # 508, before any line is dropped
    headers = end_to_end(received)
    headers.append(via(http_version, name))
    headers = forwarded(headers, scheme=scheme, host=host, trusted=peer in trusted)
    headers = with_peer(headers, peer)

A response on its way back: `without_cors(end_to_end(received))`, then our own lines, then
`merge_vary`. `forwarded` and `with_peer` are in `forwarding`.
"""

from __future__ import annotations

import re
from functools import lru_cache
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from dicomweb_cors_proxy.http.messages import Header

__all__ = [
    "end_to_end",
    "end_to_end_response",
    "max_forwards",
    "merge_vary",
    "passed_through",
    "via",
    "with_max_forwards",
    "with_request_id",
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
# Response headers that hold for a whole origin, which for browsers is the proxy's. They name other
# addresses (RFC 7838), require https (RFC 6797), clear data, and set the targets of error reports.
# Others ask for client hints, turn on trial features, and extend the scope of service workers.
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

_MOST_FORWARDS: Final = 9999


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
    """Return the end-to-end lines of a response, without those for its whole origin."""
    return end_to_end(headers, dropped=_NOT_IN_RESPONSES)


def without_cors(headers: Iterable[Header]) -> list[Header]:
    """Return the lines of a response without its CORS headers, `Access-Control-*`.

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


def with_request_id(headers: Iterable[Header], identity: str) -> list[Header]:
    """Return the headers of a response with our X-Request-ID in place of any other."""
    if b"x-request-id" in dict(headers):
        headers = [header for header in headers if header[0] != b"x-request-id"]
    return [*headers, (b"x-request-id", identity.encode("ascii"))]


@lru_cache(maxsize=256)
def _missing_from_vary(lines: tuple[bytes, ...], names: tuple[bytes, ...]) -> bytes:
    """Return those of `names` that the lines of a Vary don't cover."""
    present = _elements(lines)
    return b"" if b"*" in present else b", ".join(n for n in names if n.lower() not in present)


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
