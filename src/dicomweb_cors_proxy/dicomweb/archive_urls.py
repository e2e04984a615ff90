"""Base URLs of an archive: split, compared, and searched for."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Final, NamedTuple

from dicomweb_cors_proxy.http.hosts import DEFAULT_PORTS

if TYPE_CHECKING:
    from collections.abc import Iterable

__all__ = [
    "ORIGIN",
    "PORT_SUFFIXES",
    "SearchBytes",
    "longest_path",
    "normalized_origin",
    "search_bytes",
    "split_url",
]

ORIGIN: Final = re.compile(rb"(?i:(https?)://)([^/?#\s]+)")
PORT_SUFFIXES: Final = {
    scheme.encode("ascii"): b":%d" % port for scheme, port in DEFAULT_PORTS.items()
}


def split_url(url: bytes) -> tuple[bytes, bytes, bytes]:
    """Split a base URL into scheme, host with port, and path without its last slash."""
    match = ORIGIN.match(url)
    if match is None:
        raise ValueError(f"{url!r} is not a base URL: write it as in http://archive:8042/dicom-web")
    return match[1], match[2], url[match.end() :].rstrip(b"/")


def normalized_origin(scheme: bytes, host: bytes) -> bytes:
    """Write an origin in the one form that equal ones share."""
    scheme = scheme.lower()
    return scheme + b"://" + host.lower().removesuffix(PORT_SUFFIXES[scheme])


def longest_path(paths: Iterable[bytes], rest: bytes, *, complete: bool) -> bytes | None:
    """Return the longest of `paths` that ends with a segment of `rest`, which it begins."""
    fitting = [
        path
        for path in paths
        if rest.startswith(path)
        and (rest[len(path)] in b"/?#" if len(rest) > len(path) else complete)
    ]
    return max(fitting, key=len, default=None)


class SearchBytes(NamedTuple):
    """Bytes that every base URL of an archive contains, and that are never escaped."""

    byte: bytes  # one byte, so that the search for it runs at the speed of memory
    run: bytes  # as much as there is, for bodies in which that byte is frequent


# Letters by how seldom DICOM JSON has them, without those of "vr" and "Value".
_SELDOM: Final = b"jqzxwyfmgbkdhcopsnit"


def search_bytes(paths: set[bytes]) -> SearchBytes:
    """Return the bytes to search for, given the paths of all base URLs."""
    words = [set(re.findall(rb"[\w.-]+", path)) for path in paths]
    common = set.intersection(*words) if words else set()
    letters = [set(b"".join(each)) for each in words]
    seldom = [byte for byte in _SELDOM if all(byte in each for each in letters)]
    byte = bytes(seldom[:1]) if words and seldom else b"/"
    return SearchBytes(byte, max(common, key=len, default=byte))
