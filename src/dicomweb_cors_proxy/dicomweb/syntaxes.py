"""The ways in which JSON and XML write a URL, and the context in front of one."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from itertools import islice
from typing import TYPE_CHECKING, Final
from xml.sax.saxutils import escape

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

__all__ = ["JSON", "SYNTAXES", "XML", "Syntax"]


@dataclass(frozen=True, slots=True)
class Syntax:
    """The way in which a format writes a URL.

    Attributes:
        closers: for each byte that can stand right in front of a URL, the one that ends it.
        scheme: matches what may be the beginning of a URL.
        candidate: matches the byte in front of such.
        context: matches what ends where a value to be rewritten begins.
        escape: the byte that begins an escape.
        letter: matches what an escape for a letter begins with.
        letter_offset, letter_bytes: such an escape has one of these bytes so far behind its first.
        character: matches a character; the name of its group tells how it is written.
        quoted: writes a URL.
    """

    closers: Mapping[bytes, bytes]
    scheme: re.Pattern[bytes]
    candidate: re.Pattern[bytes]
    context: re.Pattern[bytes]
    escape: bytes
    letter: re.Pattern[bytes]
    letter_offset: int
    letter_bytes: frozenset[int]
    character: re.Pattern[bytes]
    quoted: Callable[[bytes], bytes]

    def escapes_letters(self, data: bytes) -> bool:
        find, escape = data.find, self.escape
        offset, letter_bytes = self.letter_offset, self.letter_bytes
        last = len(data) - offset
        at = find(escape)
        # A search for one byte is that much faster than one for a pattern, unless it is frequent.
        for _ in range(64 + len(data) // 512):
            if at < 0:
                return False
            if at < last and data[at + offset] in letter_bytes and self.letter.match(data, at):
                return True
            at = find(escape, at + 1)
        return self.letter.search(data, at) is not None

    def unescape(self, text: bytes, most: int) -> tuple[bytes, Sequence[int]]:
        """Return up to `most` characters, NUL for those that no URL has, and where each ends."""
        if self.escape not in text:
            return text, range(1, len(text) + 1)
        codes, ends = [], []
        for character in islice(self.character.finditer(text), most):
            kind = character.lastgroup
            if kind == "hexadecimal":
                code = int(character[kind], 16)
            elif kind == "decimal":
                code = int(character[kind])
            else:
                code = character[kind][0] if kind else 0
            codes.append(code if code < 128 else 0)
            ends.append(character.end())
        return bytes(codes), ends


# Retrieve URL, and Retrieve URI, which workitems have for WADO-URI (PS3.3, table 10-3b).
_URL_TAGS: Final = (b"00081190", b"0040E010")


def _one_of(texts: Sequence[bytes], *escapes: bytes) -> bytes:
    return b"(?:%b)" % b"|".join(_spelled(text, *escapes) for text in texts)


def _spelled(text: bytes, *escapes: bytes) -> bytes:
    """Return a pattern for `text` in which each byte may be written as one of `escapes`."""
    byte = b"(?:%b)" % b"|".join((b"%(code)c", *escapes))
    return b"".join(byte % {b"code": code} for code in text)


def _http(any_escape: bytes) -> bytes:
    return b"".join(b"(?:[%b]|%b)" % (byte, any_escape) for byte in (b"hH", b"tT", b"tT", b"pP"))


_JSON_ESCAPE: Final = rb"\\u00(?i:%(code)02x)"
_JSON_HTTP: Final = _http(rb"\\u00..")

_JSON_CONTEXT: Final = rb"""
    "(?<=[^\\]")  # begins a string: inside of strings quotes are escaped
    (?: %(bulk)s"\s*+:\s*+
      | %(retrieve)s"\s*+:\s*+\{\s*+
        (?: "(?!%(retrieve)s")%(rest)s\s*+:\s*+(?:"%(rest)s|%(scalar)s)\s*+,\s*+ )*
        "%(value)s"\s*+:\s*+\[\s*+
        (?: (?:"%(rest)s|%(scalar)s)\s*+,\s*+ )*
    )"\Z"""

JSON: Final = Syntax(
    closers={b'"': b'"'},
    scheme=re.compile(_JSON_HTTP),
    candidate=re.compile(b'"(?=%b)' % _JSON_HTTP),
    context=re.compile(
        _JSON_CONTEXT
        % {
            b"bulk": _spelled(b"BulkDataURI", _JSON_ESCAPE),
            b"retrieve": _one_of(_URL_TAGS, _JSON_ESCAPE),
            b"value": _spelled(b"Value", _JSON_ESCAPE),
            b"rest": rb'(?:[^"\\]++|\\.)*"',
            b"scalar": rb'[^\s"{}\[\],:]++',
        },
        re.VERBOSE | re.DOTALL,
    ),
    escape=b"\\",
    letter=re.compile(rb"\\u00(?:2[D-Fd-f]|3[0-9]|[4-7])"),
    letter_offset=4,
    letter_bytes=frozenset(b"234567"),
    character=re.compile(
        rb"\\u00(?P<hexadecimal>[0-9A-Fa-f]{2})|\\(?!/).|\\?(?P<itself>.)", re.DOTALL
    ),
    quoted=lambda url: json.dumps(url.decode("latin-1"))[1:-1].encode("ascii"),
)

_XML_ESCAPES: Final = (rb"&\#0*%(code)d;", rb"&\#x0*(?i:%(code)x);")
_XML_HTTP: Final = _http(rb"&#x?[0-9A-Fa-f]++;")
_XML_CONTEXT: Final = rb"""
    <%(prefix)s
    (?: BulkData(?:%(attribute)s)*\s++(?i:uri)\s*+=\s*+["']  # URI from Orthanc
      | DicomAttribute(?=(?:%(attribute)s)*?\s++tag\s*+=\s*+["']%(retrieve)s["'])
        (?:%(attribute)s)*\s*+>\s*+
        (?: <%(prefix)sValue(?:%(attribute)s)*\s*+(?:/>|>[^<]*+</%(prefix)sValue\s*+>)\s*+ )*
        <%(prefix)sValue(?:%(attribute)s)*\s*+>
    )\Z"""

XML: Final = Syntax(
    closers={b'"': b'"', b"'": b"'", b">": b"<"},
    scheme=re.compile(_XML_HTTP),
    candidate=re.compile(b"[\"'>](?=%b)" % _XML_HTTP),
    context=re.compile(
        _XML_CONTEXT
        % {
            b"prefix": rb"(?:[\w.-]++:)?",
            b"attribute": rb"""\s++[\w:.-]++\s*+=\s*+(?:"[^"<]*+"|'[^'<]*+')""",
            b"retrieve": _one_of(_URL_TAGS, *_XML_ESCAPES),
        },
        re.VERBOSE,
    ),
    escape=b"&",
    letter=re.compile(rb"&#(?:0*(?:4[5-9]|[5-9][0-9]|1[0-2][0-9]);|x0*(?:2[D-Fd-f]|[3-7]))"),
    letter_offset=1,
    letter_bytes=frozenset(b"#"),
    character=re.compile(
        rb"&#x0*(?P<hexadecimal>[0-9A-Fa-f]{1,6});|&#0*(?P<decimal>[0-9]{1,7});"
        rb"|(?P<itself>&)amp;|&|(?P<other>.)",
        re.DOTALL,
    ),
    quoted=lambda url: escape(url.decode("latin-1"), {'"': "&quot;", "'": "&apos;"}).encode(
        "ascii", "xmlcharrefreplace"
    ),
)

SYNTAXES: Final = {
    b"application/dicom+json": JSON,
    b"application/json": JSON,
    b"application/dicom+xml": XML,
}
