"""Rewrite the archive's URLs in the headers and bodies of its responses.

A URL is rewritten only where it is the value of a key, element or header that holds one.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Final

from dicomweb_cors_proxy.dicomweb.containers import MultipartRewriter, XMLSections
from dicomweb_cors_proxy.dicomweb.syntaxes import SYNTAXES, XML
from dicomweb_cors_proxy.dicomweb.url_search import LearnedForm, URLReplacer
from dicomweb_cors_proxy.http.content import is_range, parse_media_type

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from dicomweb_cors_proxy.dicomweb.archive_urls import URLMap
    from dicomweb_cors_proxy.http.messages import BodyFilter, Header

__all__ = ["URL_HEADERS", "URLRewriter"]


# The URLs in each header. In Warning it is the agent, which is the service's URL and a colon in
# PS3.18. A quoted string without an end lasts to the end of the header, because a search from each
# of its quotes would take quadratic time.
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
# the most. Where they could become more, fewer are taken at a time. A search of a hundred studies
# is one piece: two would take a quarter more CPU.
_PIECE_BYTES: Final = 128 * 1024
_USUAL_GROWTH: Final = 2.0


class URLRewriter:
    """A rewriter for the responses to one browser, which remembers the forms of URLs in them."""

    def __init__(self, urls: URLMap) -> None:
        self._urls = urls
        self._learned: dict[tuple[bytes, bytes], LearnedForm] = {}
        # A replacement is at most so many times as long as what it takes the place of.
        written = max(len(syntax.quoted(urls.public)) for syntax in SYNTAXES.values())
        growth = max(1.0, (written + urls.longest_suffix) / urls.shortest)
        self._piece = _PIECE_BYTES if growth <= _USUAL_GROWTH else int(_PIECE_BYTES / growth)

    def headers(self, headers: Iterable[Header]) -> list[Header]:
        """Return `headers` with the first URLs in Location, Content-Location, Link and Warning."""
        rewritten: list[Header] = []
        left = _MOST_URLS_IN_HEAD
        for name, value in headers:
            pattern = _URLS_IN.get(name.lower())
            if pattern is None or not left:
                rewritten.append((name, value))
                continue
            changed, found = pattern.subn(
                lambda match: self._urls.reference(match[0]), value, count=left
            )
            left -= found
            rewritten.append((name, changed))
        return rewritten

    def body(self, status: int, fields: Mapping[bytes, bytes]) -> BodyFilter | None:
        """Return the filter for the body that these headers announce; None: it passes unchanged.

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
        return MultipartRewriter(boundary, self._part, self._piece)

    def _part(self, headers: Mapping[bytes, bytes]) -> BodyFilter | None:
        if headers.keys() & {b"content-encoding", b"content-transfer-encoding"}:
            return None
        return self._single(parse_media_type(headers.get(b"content-type", b""))[0])

    def _single(self, media_type: bytes) -> BodyFilter | None:
        syntax = SYNTAXES.get(media_type)
        if syntax is None:
            return None
        text = URLReplacer(self._urls, syntax, self._learned, piece=self._piece)
        if syntax is not XML:
            return text
        public = self._urls.public
        return XMLSections(text, verbatim=XML.quoted(public) == public)
