"""Rewrite the archive's URLs in the headers and bodies of its responses.

A URL is rewritten only where it is the value of a key, element or header that holds one.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Final

from dicomweb_cors_proxy.dicomweb.archive_urls import (
    ORIGIN,
    PORT_SUFFIXES,
    SearchBytes,
    longest_path,
    normalized_origin,
    search_bytes,
    split_url,
)
from dicomweb_cors_proxy.dicomweb.containers import MultipartRewriter, XMLSections
from dicomweb_cors_proxy.dicomweb.syntaxes import SYNTAXES, XML
from dicomweb_cors_proxy.dicomweb.url_search import LearnedForm, URLReplacer
from dicomweb_cors_proxy.http.content import is_range, parse_media_type

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from dicomweb_cors_proxy.http.messages import BodyFilter, Header

__all__ = ["URL_HEADERS", "ArchiveURLs", "URLRewriter"]


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
        served = [(*split_url(url.encode()), b"") for url in services]
        if wado_uri is not None:
            served.append((*split_url(wado_uri.encode()), b"/wado"))
        self._paths = {path: suffix for _, _, path, suffix in served}
        self._bases: dict[bytes, dict[bytes, bytes]] = {}
        for _, host, path, suffix in served:
            for scheme in PORT_SUFFIXES:
                self._bases.setdefault(normalized_origin(scheme, host), {})[path] = suffix
        for scheme, host, path in (split_url(url.encode()) for url in aliases):
            paths = self._bases.setdefault(normalized_origin(scheme, host), {})
            paths.setdefault(path, self._paths.get(path, b""))
        self._needles = search_bytes({path for paths in self._bases.values() for path in paths})

    def for_public_url(self, public: bytes, *, hosts: Iterable[bytes] = ()) -> URLRewriter:
        """Return what rewrites one response for a browser that reaches our root as `public`.

        `hosts` are the values of Host and X-Forwarded-Host that the archive was sent: it may have
        put them in front of its own paths.
        """
        bases = dict(self._bases)
        for host in filter(None, map(bytes.strip, b",".join(hosts).split(b","))):
            for scheme in PORT_SUFFIXES:
                origin = normalized_origin(scheme, host)
                bases[origin] = self._paths | bases.get(origin, {})
        # An archive that has our URL right already is left alone, even where another base is
        # the beginning of it.
        scheme, host, path = split_url(public)
        origin = normalized_origin(scheme, host)
        bases[origin] = bases.get(origin, {}) | {path: b""}
        return URLRewriter(bases, public.rstrip(b"/"), self._needles, self._paths)


# What of a header is a URL: all of it; in Link the targets; in Warning the agent, for which
# PS3.18 puts the service's URL, and a colon after it. A quoted string that doesn't end is one to
# the end: looked for from each of its quotes anew, it would take quadratic time.
_WHOLE: Final = re.compile(rb"\A.+")
_URLS_IN: Final = {
    b"location": _WHOLE,
    b"content-location": _WHOLE,
    b"link": re.compile(rb'"(?:[^"\\]|\\.)*(?:"|\\?\Z)|(?<=<)[^<>"]+(?=>)'),
    b"warning": re.compile(
        rb'"(?:[^"\\]|\\.)*(?:"|\\?\Z)|(?<![^\s,<{(])[^\s",<>{}()]+?(?=:?(?:[\s">})]|\Z))'
    ),
}

URL_HEADERS: Final = frozenset(_URLS_IN)

# URLs and quoted strings of one head that are looked at; later ones pass as they are. A path of the
# archive can be one byte long, so a head of nothing else would grow several hundred times.
_MOST_URLS_IN_HEAD: Final = 100

# Bytes of a body that are rewritten at a time, and how many times as long they usually become at
# the most. Where they could become more, fewer are taken at a time.
_PIECE_BYTES: Final = 64 * 1024
_USUAL_GROWTH: Final = 2.0


class URLRewriter:
    """A rewriter for one response; made by `ArchiveURLs.for_public_url`."""

    def __init__(
        self,
        bases: Mapping[bytes, Mapping[bytes, bytes]],
        public: bytes,
        needles: SearchBytes,
        paths: Mapping[bytes, bytes],
    ) -> None:
        self._bases = bases
        self._public = public
        self._needles = needles
        # Of the services; our own stands for itself, for an archive that has it right already.
        self._own_path = split_url(public)[2]
        self._paths = {**paths, self._own_path: b""}
        # What was learned from earlier bodies, by syntax (its escape) and needle.
        self.usual: dict[tuple[bytes, bytes], LearnedForm] = {}
        lengths = [len(origin + path) for origin in bases for path in bases[origin]]
        self.longest = max(lengths) + len(b":443/")
        # A replacement is at most so many times as long as what it takes the place of.
        written = max(len(syntax.quoted(public)) for syntax in SYNTAXES.values())
        suffix = max(map(len, self._paths.values()))
        self.growth = max(1.0, (written + suffix) / min(lengths))
        self.piece = (
            _PIECE_BYTES if self.growth <= _USUAL_GROWTH else int(_PIECE_BYTES / self.growth)
        )

    def base(self, url: bytes, *, complete: bool = True) -> tuple[int, bytes] | None:
        """Return the length of the archive's base URL that `url` begins with, and what replaces it.

        The longest counts, and only up to the end of a path segment; whether a `url` that isn't
        `complete` ends with one is not known. None: it is none of the archive's.
        """
        match = ORIGIN.match(url)
        if match is None:
            return None
        paths = self._bases.get(normalized_origin(match[1], match[2]), {})
        path = longest_path(paths, url[match.end() :], complete=complete)
        return None if path is None else (match.end() + len(path), self._public + paths[path])

    def url(self, url: bytes) -> bytes:
        """Return a URL as browsers reach it; foreign and relative ones stay."""
        base = self.base(url)
        return url if base is None else base[1] + url[base[0] :]

    def reference(self, url: bytes) -> bytes:
        """Return what a header refers to as browsers reach it, a path of the archive's too."""
        if url.startswith(b"//"):  # of either scheme (RFC 3986 §4.2)
            absolute = [b"%b:%b" % (scheme, url) for scheme in PORT_SUFFIXES]
            return next((to for each in absolute if (to := self.url(each)) != each), url)
        if not url.startswith(b"/"):
            return self.url(url)
        path = longest_path(self._paths, url, complete=True)
        if path is None or path == self._own_path:
            return url
        return self._public + self._paths[path] + url[len(path) :]

    def headers(self, headers: Iterable[Header]) -> list[Header]:
        """Return `headers` with the first URLs in Location, Content-Location, Link and Warning."""
        rewritten: list[Header] = []
        left = _MOST_URLS_IN_HEAD
        for name, value in headers:
            pattern = _URLS_IN.get(name.lower())
            if pattern is None or not left:
                rewritten.append((name, value))
                continue
            changed, found = pattern.subn(lambda match: self.reference(match[0]), value, count=left)
            left -= found
            rewritten.append((name, changed))
        return rewritten

    def body(self, status: int, fields: Mapping[bytes, bytes]) -> BodyFilter | None:
        """Return what rewrites the body that these headers announce; None: it is to pass as it is.

        `fields` are the headers by their names in lower case.

        Rewritten are application/dicom+json, application/json, application/dicom+xml, and
        multipart/related of these, in UTF-8 or another encoding that extends ASCII (in UTF-16
        nothing is found). Contents with a coding (gzip) and ranges pass; DICOM's 206 is none.
        """
        coding = fields.get(b"content-encoding", b"identity").strip().lower()
        if coding != b"identity" or is_range(status, fields):
            return None
        media_type, parameters = parse_media_type(fields.get(b"content-type", b""))
        if media_type != b"multipart/related":
            return self._single(media_type)
        root, _ = parse_media_type(parameters.get(b"type", b"application/dicom+xml"))
        boundary = parameters.get(b"boundary")
        if not boundary or root not in SYNTAXES:
            return None
        return MultipartRewriter(boundary, self._part, self.piece)

    def _part(self, headers: Mapping[bytes, bytes]) -> BodyFilter | None:
        if headers.keys() & {b"content-encoding", b"content-transfer-encoding"}:
            return None
        return self._single(parse_media_type(headers.get(b"content-type", b""))[0])

    def _single(self, media_type: bytes) -> BodyFilter | None:
        syntax = SYNTAXES.get(media_type)
        if syntax is None:
            return None
        text = URLReplacer(self, syntax, self._needles)
        if syntax is not XML:
            return text
        return XMLSections(text, verbatim=XML.quoted(self._public) == self._public)
