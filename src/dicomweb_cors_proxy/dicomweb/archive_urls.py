"""Base URLs of an archive: split, compared, searched for, and mapped to public ones."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Final, NamedTuple

from dicomweb_cors_proxy.http.hosts import DEFAULT_PORTS

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

__all__ = ["ArchiveURLs", "SearchBytes", "URLMap"]

_ORIGIN: Final = re.compile(rb"(?i:(https?)://)([^/?#\s]+)")
_PORT_SUFFIXES: Final = {
    scheme.encode("ascii"): b":%d" % port for scheme, port in DEFAULT_PORTS.items()
}


def _split_url(url: bytes) -> tuple[bytes, bytes, bytes]:
    """Split a base URL into scheme, host with port, and path without its last slash."""
    match = _ORIGIN.match(url)
    if match is None:
        raise ValueError(f"{url!r} is not a base URL: write it as in http://archive:8042/dicom-web")
    return match[1], match[2], url[match.end() :].rstrip(b"/")


def _normalized_origin(scheme: bytes, host: bytes) -> bytes:
    """Write an origin in the one form that equal ones share."""
    scheme = scheme.lower()
    return scheme + b"://" + host.lower().removesuffix(_PORT_SUFFIXES[scheme])


def _longest_path(paths: Iterable[bytes], rest: bytes, *, complete: bool) -> bytes | None:
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


def _search_bytes(paths: set[bytes]) -> SearchBytes:
    """Return the bytes to search for, given the paths of all base URLs."""
    words = [set(re.findall(rb"[\w.-]+", path)) for path in paths]
    common = set.intersection(*words) if words else set()
    letters = [set(b"".join(each)) for each in words]
    seldom = [byte for byte in _SELDOM if all(byte in each for each in letters)]
    byte = bytes(seldom[:1]) if words and seldom else b"/"
    return SearchBytes(byte, max(common, key=len, default=byte))


class ArchiveURLs:
    """The base URLs by which an archive may name itself.

    Args:
        services: base URLs of its DICOMweb services; they all map to the one public root.
        wado_uri: its WADO-URI endpoint, which maps to `wado` below the public root.
        aliases: further base URLs that it uses in its responses.

    An archive takes the host of its URLs from its own configuration or from the request, and often
    guesses the scheme. URLs of services therefore match with either scheme, aliases as they are.
    Raises ValueError for what is not an http or https URL.
    """

    def __init__(
        self, services: Iterable[str], *, wado_uri: str | None = None, aliases: Iterable[str] = ()
    ) -> None:
        served = [(*_split_url(url.encode()), b"") for url in services]
        if wado_uri is not None:
            served.append((*_split_url(wado_uri.encode()), b"/wado"))
        self._paths = {path: suffix for _, _, path, suffix in served}
        self._bases: dict[bytes, dict[bytes, bytes]] = {}
        for _, host, path, suffix in served:
            for scheme in _PORT_SUFFIXES:
                self._bases.setdefault(_normalized_origin(scheme, host), {})[path] = suffix
        for scheme, host, path in (_split_url(url.encode()) for url in aliases):
            paths = self._bases.setdefault(_normalized_origin(scheme, host), {})
            paths.setdefault(path, self._paths.get(path, b""))
        self._search = _search_bytes({path for paths in self._bases.values() for path in paths})

    def for_public_url(self, public: bytes, *, hosts: Iterable[bytes] = ()) -> URLMap:
        """Return the map for responses to a browser that reaches our root as `public`.

        `hosts` are the values of Host and X-Forwarded-Host that the archive was sent: it may have
        put them in front of its own paths.
        """
        bases = dict(self._bases)
        for host in filter(None, map(bytes.strip, b",".join(hosts).split(b","))):
            for scheme in _PORT_SUFFIXES:
                origin = _normalized_origin(scheme, host)
                bases[origin] = self._paths | bases.get(origin, {})
        # An archive that has our URL right already is left alone, even where another base is
        # the beginning of it.
        scheme, host, path = _split_url(public)
        origin = _normalized_origin(scheme, host)
        bases[origin] = bases.get(origin, {}) | {path: b""}
        return URLMap(bases, public.rstrip(b"/"), self._paths, self._search)


class URLMap:
    """The public URLs for an archive's; made by `ArchiveURLs.for_public_url`.

    Attributes:
        public: URL of our root, without its last slash.
        search: bytes to search for in bodies.
        shortest, longest: bytes of the archive's base URLs, the longest with port and slash.
        longest_suffix: bytes of what follows the public URL in the place of a base URL.
    """

    def __init__(
        self,
        bases: Mapping[bytes, Mapping[bytes, bytes]],
        public: bytes,
        paths: Mapping[bytes, bytes],
        search: SearchBytes,
    ) -> None:
        self._bases = bases
        # Our own stands for itself, for an archive that has it right already.
        self._own_path = _split_url(public)[2]
        self._paths = {**paths, self._own_path: b""}
        self.public = public
        self.search = search
        lengths = [len(origin + path) for origin in bases for path in bases[origin]]
        self.shortest = min(lengths)
        self.longest = max(lengths) + len(b":443/")
        self.longest_suffix = max(map(len, self._paths.values()))

    def base(self, url: bytes, *, complete: bool = True) -> tuple[int, bytes] | None:
        """Return the length of the archive's base URL that `url` begins with, and what replaces it.

        The longest counts, and only up to the end of a path segment; whether a `url` that isn't
        `complete` ends with one is not known. None: it is none of the archive's.
        """
        match = _ORIGIN.match(url)
        if match is None:
            return None
        paths = self._bases.get(_normalized_origin(match[1], match[2]), {})
        path = _longest_path(paths, url[match.end() :], complete=complete)
        return None if path is None else (match.end() + len(path), self.public + paths[path])

    def url(self, url: bytes) -> bytes:
        """Return a URL as browsers reach it; foreign and relative ones stay."""
        base = self.base(url)
        return url if base is None else base[1] + url[base[0] :]

    def reference(self, url: bytes) -> bytes:
        """Return what a header refers to as browsers reach it, a path of the archive's too."""
        if url.startswith(b"//"):  # of either scheme (RFC 3986 §4.2)
            absolute = [b"%b:%b" % (scheme, url) for scheme in _PORT_SUFFIXES]
            return next((to for each in absolute if (to := self.url(each)) != each), url)
        if not url.startswith(b"/"):
            return self.url(url)
        path = _longest_path(self._paths, url, complete=True)
        if path is None or path == self._own_path:
            return url
        return self.public + self._paths[path] + url[len(path) :]
