"""The Fetch standard's lists of methods and headers: safelisted, forbidden, normalized."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Iterable

__all__ = [
    "FORBIDDEN_RESPONSE_HEADERS",
    "SAFELISTED_METHODS",
    "SAFELISTED_RESPONSE_HEADERS",
    "TOKEN",
    "is_forbidden",
    "is_safelisted",
    "normalize_method",
    "unsafe_names",
]

MAX_VALUE: Final = 128
MAX_SAFELISTED: Final = 1024

SAFELISTED_METHODS: Final = frozenset({"GET", "HEAD", "POST"})
_NORMALIZED_METHODS: Final = frozenset({"DELETE", "GET", "HEAD", "OPTIONS", "POST", "PUT"})
_SAFELISTED_ESSENCES: Final = frozenset(
    {"application/x-www-form-urlencoded", "multipart/form-data", "text/plain"}
)
SAFELISTED_RESPONSE_HEADERS: Final = frozenset(
    {
        "cache-control",
        "content-language",
        "content-length",
        "content-type",
        "expires",
        "last-modified",
        "pragma",
    }
)
FORBIDDEN_RESPONSE_HEADERS: Final = frozenset({"set-cookie", "set-cookie2"})
# The CORS engine has the same list; the judge shares no code with what it judges.
_FORBIDDEN_REQUEST_HEADERS: Final = frozenset(
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

TOKEN: Final = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")  # RFC 9110 §5.6.2
_UNSAFE_BYTE: Final = re.compile(r'[\x00-\x08\x0a-\x1f"():<>?@\[\\\]{}\x7f]')
_LANGUAGES: Final = re.compile(r"[0-9A-Za-z *,.;=-]*")
_SINGLE_RANGE: Final = re.compile(r"bytes=([0-9]+)-([0-9]*)")
_ESSENCE: Final = re.compile(rf"({TOKEN.pattern}/{TOKEN.pattern})[ \t]*(?:;.*)?", re.DOTALL)


def normalize_method(method: str) -> str:
    """Return what `fetch` makes of a method ("normalize", Methods): patch stays patch."""
    return method.upper() if method.upper() in _NORMALIZED_METHODS else method


def is_safelisted(name: str, value: str) -> bool:
    """Return whether a header needs no preflight ("CORS-safelisted request-header")."""
    if len(value) > MAX_VALUE:
        return False
    match name.lower():
        case "accept":
            return not _UNSAFE_BYTE.search(value)
        case "accept-language" | "content-language":
            return bool(_LANGUAGES.fullmatch(value))
        case "content-type":
            essence = _ESSENCE.fullmatch(value.strip("\t\n\r "))
            return (
                not _UNSAFE_BYTE.search(value)
                and essence is not None
                and essence[1].lower() in _SAFELISTED_ESSENCES
            )
        case "range":
            single = _SINGLE_RANGE.fullmatch(value)
            return single is not None and not (single[2] and int(single[1]) > int(single[2]))
    return False


def unsafe_names(headers: Iterable[tuple[str, str]]) -> tuple[str, ...]:
    """Return the names that need a preflight ("CORS-unsafe request-header names").

    Lower case, sorted, once each.
    """
    unsafe, potentially, size = set(), set(), 0
    for name, value in headers:
        if is_safelisted(name, value):
            potentially.add(name.lower())
            size += len(value)
        else:
            unsafe.add(name.lower())
    return tuple(sorted(unsafe | potentially if size > MAX_SAFELISTED else unsafe))


def is_forbidden(name: str) -> bool:
    """Return whether browsers stop a page from setting a header ("forbidden request-header")."""
    lowered = name.lower()
    return lowered in _FORBIDDEN_REQUEST_HEADERS or lowered.startswith(("proxy-", "sec-"))
