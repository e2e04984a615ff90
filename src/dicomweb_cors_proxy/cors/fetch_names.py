"""Methods and headers that the Fetch standard treats specially."""

from __future__ import annotations

from typing import Final

__all__ = [
    "ANY",
    "FORBIDDEN_METHODS",
    "FORBIDDEN_REQUEST_HEADERS",
    "FORBIDDEN_REQUEST_PREFIXES",
    "FORBIDDEN_RESPONSE_HEADERS",
    "KNOWN_METHODS",
    "OWN_RESPONSE_HEADERS",
    "RESPONSE_HEADERS",
    "SAFELISTED_METHODS",
]

ANY: Final = "*"

# Fetch, "Methods".
SAFELISTED_METHODS: Final = frozenset({b"GET", b"HEAD", b"POST"})
FORBIDDEN_METHODS: Final = frozenset({"CONNECT", "TRACE", "TRACK"})
KNOWN_METHODS: Final = frozenset({"DELETE", "GET", "HEAD", "OPTIONS", "PATCH", "POST", "PUT"})

# Fetch, "forbidden request-header".
FORBIDDEN_REQUEST_HEADERS: Final = frozenset(
    {
        "accept-charset",
        "accept-encoding",
        "access-control-request-headers",
        "access-control-request-method",
        "connection",
        "content-length",
        "cookie",
        "cookie2",
        "date",
        "dnt",
        "expect",
        "host",
        "keep-alive",
        "origin",
        "referer",
        "set-cookie",
        "te",
        "trailer",
        "transfer-encoding",
        "upgrade",
        "via",
    }
)
FORBIDDEN_REQUEST_PREFIXES: Final = ("proxy-", "sec-")
OWN_RESPONSE_HEADERS: Final = frozenset(
    {
        "access-control-allow-credentials",
        "access-control-allow-headers",
        "access-control-allow-methods",
        "access-control-allow-origin",
        "access-control-expose-headers",
        "access-control-max-age",
    }
)
RESPONSE_HEADERS: Final = frozenset(
    {
        "accept-ranges",
        "age",
        "etag",
        "location",
        "retry-after",
        "server",
        "vary",
        "www-authenticate",
    }
)
FORBIDDEN_RESPONSE_HEADERS: Final = frozenset({"set-cookie", "set-cookie2"})
