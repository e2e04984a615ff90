"""Media types, gzip, and the headers that change with a body."""

from __future__ import annotations

import re
from functools import lru_cache
from typing import TYPE_CHECKING, Final

try:
    # It compresses long JSON in a fraction of the time that zlib takes, and makes it smaller.
    from isal.isal_zlib import DEFLATED, Z_SYNC_FLUSH, compressobj
except ImportError:  # it is not made for every processor
    from zlib import DEFLATED, Z_SYNC_FLUSH, compressobj  # type: ignore[assignment]

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from dicomweb_cors_proxy.http.messages import Header

__all__ = [
    "Gzip",
    "accepts_gzip",
    "compressed_headers",
    "has_wildcard",
    "headers_of_changed_body",
    "is_compressible",
    "is_range",
    "is_text",
    "names_text",
    "parse_media_type",
    "restore_etags",
    "weakened_etag",
]

_LONGEST_REMEMBERED: Final = 256

_LEVEL: Final = 1
_GZIP_WINDOW: Final = 31  # 15 bits, and 16 for the gzip wrapper (RFC 1952)

# Media types of text, and multipart/related of such. A structured suffix tells as much (RFC 6839).
_TEXT: Final = re.compile(
    rb"""(?:multipart/related\s*;(?:.*;)?\s*type\s*=\s*"?)?
         (?:application/(?:json|xml)|text/xml|[a-z]+/[a-z0-9.-]++\+(?:json|xml))\s*(?:[;"]|\Z)""",
    re.VERBOSE | re.IGNORECASE,
)
_WEIGHT: Final = re.compile(rb"\s*q=([01](?:\.[0-9]{0,3})?)\s*\Z", re.IGNORECASE)


def is_compressible(status: int, fields: Mapping[bytes, bytes]) -> bool:
    """Tell whether a response's content is text that may be compressed.

    `fields` are its headers, by their names in lower case. The contents are such if they
    are JSON or XML, or multipart/related of these, not empty, without a Content-Encoding, not
    a range, and without `no-transform` (RFC 9111 §5.2.2.6).
    """
    if status in (204, 304) or not is_text(fields.get(b"content-type", b"")):
        return False
    if is_range(status, fields):
        return False
    return (
        fields.get(b"content-encoding", b"identity").lower() == b"identity"
        and fields.get(b"content-length") != b"0"
        and b"no-transform" not in fields.get(b"cache-control", b"").lower()
    )


def is_range(status: int, fields: Mapping[bytes, bytes]) -> bool:
    """Tell whether a response holds ranges of its content (RFC 9110 §14.4, §14.6).

    DICOM has a 206 without ranges, for a response that lacks some instances (PS3.18 §8.5).
    """
    return status == 206 and (
        b"content-range" in fields
        or parse_media_type(fields.get(b"content-type", b""))[0] == b"multipart/byteranges"
    )


@lru_cache(maxsize=256)
def is_text(content_type: bytes) -> bool:
    """Tell whether a Content-Type is of JSON, of XML, or of multipart/related of these."""
    return _TEXT.match(content_type) is not None


_MEDIA_RANGE: Final = re.compile(rb'(?:[^,"]|"(?:[^"\\]|\\.)*+"?)++')
_NOT_ACCEPTED: Final = re.compile(rb";\s*q\s*=\s*0(?:\.0*)?\s*(?:;|\Z)", re.IGNORECASE)
_WILDCARD: Final = re.compile(rb"(?:\*|application|text|multipart)/\*\s*(?:;|\Z)", re.IGNORECASE)


def names_text(accept: bytes) -> bool:
    """Tell whether an Accept names JSON, XML, or multipart/related of these (RFC 9110 §12.5.1)."""
    return any(map(_TEXT.match, _media_ranges(accept)))


def has_wildcard(accept: bytes) -> bool:
    """Tell whether an Accept has a wildcard that covers JSON or XML."""
    return any(map(_WILDCARD.match, _media_ranges(accept)))


def _media_ranges(accept: bytes) -> list[bytes]:
    """Return the media ranges of an Accept, except those with a weight of zero."""
    ranges = [text.strip() for text in _MEDIA_RANGE.findall(accept)]
    return [text for text in ranges if not _NOT_ACCEPTED.search(text)]


def accepts_gzip(accept_encoding: bytes) -> bool:
    """Tell whether a client takes gzip, and not rather no coding at all (RFC 9110 §12.5.3)."""
    # Do not cache unusually long values: a client could fill the memory.
    known = len(accept_encoding) <= _LONGEST_REMEMBERED
    return (_accepts_gzip if known else _accepts_gzip.__wrapped__)(accept_encoding)


@lru_cache(maxsize=256)
def _accepts_gzip(accept_encoding: bytes) -> bool:
    weights: dict[bytes, float] = {}
    for element in accept_encoding.split(b","):
        coding, separator, parameter = element.partition(b";")
        weight = _WEIGHT.match(parameter)
        weights[coding.strip().lower()] = float(weight[1]) if weight else 0.0 if separator else 1.0
    gzip = weights.get(b"gzip", weights.get(b"x-gzip", weights.get(b"*", 0.0)))
    return gzip > 0 and gzip >= weights.get(b"identity", 0.0)


def compressed_headers(headers: Iterable[Header]) -> list[Header]:
    """Return the headers of a response sent with gzip; its length must be removed before."""
    kept = [header for header in headers if header[0].lower() != b"content-encoding"]
    return [*kept, (b"content-encoding", b"gzip")]


class Gzip:
    """A filter that compresses a body; each `feed` returns all of it, so nothing is delayed."""

    piece: Final = 128 * 1024  # bytes for one `feed`

    def __init__(self) -> None:
        self._compressor = compressobj(_LEVEL, DEFLATED, _GZIP_WINDOW)

    def feed(self, chunk: bytes) -> bytes:
        return self._compressor.compress(chunk) + self._compressor.flush(Z_SYNC_FLUSH)

    def flush(self) -> bytes:
        return self._compressor.flush()

    def whole(self, body: bytes) -> bytes:
        return self._compressor.compress(body) + self._compressor.flush()


_PARAMETER: Final = re.compile(rb';\s*([^\s=;"]+)\s*=\s*(?:"((?:[^"\\]|\\.)*)"|([^\s;"]+))')


@lru_cache(maxsize=256)
def parse_media_type(value: bytes) -> tuple[bytes, Mapping[bytes, bytes]]:
    """Split a Content-Type into the type, in lower case, and its parameters."""
    parameters = {
        name.lower(): token or re.sub(rb"\\(.)", rb"\1", quoted)
        for name, quoted, token in _PARAMETER.findall(value)
    }
    return value.partition(b";")[0].strip().lower(), parameters


_BOUND_TO_BODY: Final = frozenset(
    {
        b"accept-ranges",
        b"content-digest",
        b"content-length",
        b"content-md5",
        b"digest",
        b"repr-digest",
    }
)

# Ends a weak ETag that was a strong one, so that it can be told from the archive's own.
_WEAKENED: Final = b"~"
_WEAKENED_TAG: Final = re.compile(rb'W/("[^"]*)~"')


def headers_of_changed_body(headers: Iterable[Header]) -> list[Header]:
    """Return the headers of a response whose body changes on its way.

    Its length, its digests and the offer of ranges go; a strong ETag becomes a weak one, which is
    all that If-None-Match asks for. Source: RFC 9110 §8.8.1, §13.1.2.
    """
    return [
        (name, weakened_etag(value) if name.lower() == b"etag" else value)
        for name, value in headers
        if name.lower() not in _BOUND_TO_BODY
    ]


def weakened_etag(tag: bytes) -> bytes:
    """Return the ETag of a body that has changed: a weak one, which may be the one given."""
    strong = tag.startswith(b'"') and tag.endswith(b'"') and len(tag) > 1
    return b"W/" + tag[:-1] + _WEAKENED + b'"' if strong else tag


def restore_etags(if_none_match: bytes) -> bytes:
    """Return the value with the ETags as the archive had sent them.

    It should compare weakly (RFC 9110 §13.1.2), but RESTEasy, which dcm4chee runs on, doesn't.
    """
    return _WEAKENED_TAG.sub(rb'\1"', if_none_match)
