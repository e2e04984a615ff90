"""The archive's URLs in its answers, made into URLs that browsers reach through the proxy.

    archive = ArchiveURLs(["http://archive:8042/dicom-web"], aliases=["http://pacs/dicom-web"])
    rewriter = archive.to(b"https://pacs.example/dicom-web", hosts=[b"archive:8042"])
    headers = rewriter.headers(headers)
    body = rewriter.body(status, dict(headers))  # None: it passes as it is
    headers = changed_body_headers(headers)
    ... body.feed(chunk) ... body.flush()

A body is searched, not parsed: each base URL of the archive that stands in it is replaced if what
precedes it makes it the value of a RetrieveURL (0008,1190) or of a BulkDataURI. Everything else,
well-formed or not, passes byte for byte. In one archive's answers the same bytes precede such a
value over and over, so that most of them are told by one comparison.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from functools import lru_cache
from itertools import islice
from typing import TYPE_CHECKING, Final, NamedTuple
from xml.sax.saxutils import escape

from dicomweb_cors_proxy.http.hosts import DEFAULT_PORTS

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence

    from dicomweb_cors_proxy.http.messages import BodyFilter, Header

__all__ = ["URL_HEADERS", "ArchiveURLs", "URLRewriter", "archive_tags", "changed_body_headers"]

_ORIGIN: Final = re.compile(rb"(?i:(https?)://)([^/?#\s]+)")
_DEFAULT_PORTS: Final = {
    scheme.encode("ascii"): b":%d" % port for scheme, port in DEFAULT_PORTS.items()
}


def _split(url: bytes) -> tuple[bytes, bytes, bytes]:
    """Split a base URL into scheme, host with port, and path without its last slash."""
    match = _ORIGIN.match(url)
    if match is None:
        raise ValueError(f"{url!r} is no base URL: write it as in http://archive:8042/dicom-web")
    return match[1], match[2], url[match.end() :].rstrip(b"/")


def _origin(scheme: bytes, host: bytes) -> bytes:
    """Write an origin in the one form that equal ones share."""
    scheme = scheme.lower()
    return scheme + b"://" + host.lower().removesuffix(_DEFAULT_PORTS[scheme])


def _longest(paths: Iterable[bytes], rest: bytes, *, complete: bool) -> bytes | None:
    """Return the longest of `paths` that ends with a segment of `rest`, which it begins."""
    fitting = [
        path
        for path in paths
        if rest.startswith(path)
        and (rest[len(path)] in b"/?#" if len(rest) > len(path) else complete)
    ]
    return max(fitting, key=len, default=None)


class ArchiveURLs:
    """The base URLs by which an archive may name itself.

    Args:
        services: base URLs of its DICOMweb services; they all map to the one public root.
        wado_uri: its WADO-URI endpoint, which maps to `wado` below the public root.
        aliases: further base URLs that it uses in its answers.

    Raises ValueError for what is no http or https URL. An archive takes the host of its URLs from
    its own configuration or from the request, and often guesses the scheme: those of the services
    count with either scheme, aliases as they are.
    """

    def __init__(
        self, services: Iterable[str], *, wado_uri: str | None = None, aliases: Iterable[str] = ()
    ) -> None:
        served = [(*_split(url.encode()), b"") for url in services]
        if wado_uri is not None:
            served.append((*_split(wado_uri.encode()), b"/wado"))
        self._paths = {path: suffix for _, _, path, suffix in served}
        self._bases: dict[bytes, dict[bytes, bytes]] = {}
        for _, host, path, suffix in served:
            for scheme in _DEFAULT_PORTS:
                self._bases.setdefault(_origin(scheme, host), {})[path] = suffix
        for scheme, host, path in (_split(url.encode()) for url in aliases):
            paths = self._bases.setdefault(_origin(scheme, host), {})
            paths.setdefault(path, self._paths.get(path, b""))
        self._needles = _needles({path for paths in self._bases.values() for path in paths})

    def to(self, public: bytes, *, hosts: Iterable[bytes] = ()) -> URLRewriter:
        """Return what rewrites one answer for a browser that reaches our root as `public`.

        `hosts` are the values of Host and X-Forwarded-Host that the archive was sent: it may have
        put them in front of its own paths.
        """
        bases = dict(self._bases)
        for host in filter(None, map(bytes.strip, b",".join(hosts).split(b","))):
            for scheme in _DEFAULT_PORTS:
                origin = _origin(scheme, host)
                bases[origin] = self._paths | bases.get(origin, {})
        # An archive that has our URL right already is left alone, even where another base is
        # the beginning of it.
        scheme, host, path = _split(public)
        origin = _origin(scheme, host)
        bases[origin] = bases.get(origin, {}) | {path: b""}
        return URLRewriter(bases, public.rstrip(b"/"), self._needles, self._paths)


class _Needles(NamedTuple):
    """What every base URL of an archive contains, and is not written with an escape in it."""

    byte: bytes  # one byte, so that the search for it runs at the speed of memory
    run: bytes  # as much as there is, for bodies in which that byte is frequent


# Letters by how seldom DICOM JSON has them, without those of "vr" and "Value".
_SELDOM: Final = b"jqzxwyfmgbkdhcopsnit"


def _needles(paths: set[bytes]) -> _Needles:
    words = [set(re.findall(rb"[\w.-]+", path)) for path in paths]
    common = set.intersection(*words) if words else set()
    letters = [set(b"".join(each)) for each in words]
    seldom = [byte for byte in _SELDOM if all(byte in each for each in letters)]
    byte = bytes(seldom[:1]) if words and seldom else b"/"
    return _Needles(byte, max(common, key=len, default=byte))


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
    """Rewrites one answer; made by `ArchiveURLs.to`."""

    def __init__(
        self,
        bases: Mapping[bytes, Mapping[bytes, bytes]],
        public: bytes,
        needles: _Needles,
        paths: Mapping[bytes, bytes],
    ) -> None:
        self._bases = bases
        self._public = public
        self._needles = needles
        # Of the services; our own stands for itself, for an archive that has it right already.
        self._own_path = _split(public)[2]
        self._paths = {**paths, self._own_path: b""}
        # What was learned from earlier bodies, by syntax (its escape) and needle.
        self.usual: dict[tuple[bytes, bytes], _Usual] = {}
        lengths = [len(origin + path) for origin in bases for path in bases[origin]]
        self.longest = max(lengths) + len(b":443/")
        # A replacement is at most so many times as long as what it takes the place of.
        written = max(len(syntax.quoted(public)) for syntax in _SYNTAXES.values())
        suffix = max(map(len, self._paths.values()))
        self.growth = max(1.0, (written + suffix) / min(lengths))
        self.piece = (
            _PIECE_BYTES if self.growth <= _USUAL_GROWTH else int(_PIECE_BYTES / self.growth)
        )

    def base(self, url: bytes, *, complete: bool = True) -> tuple[int, bytes] | None:
        """Return the length of the archive's base URL that `url` begins with, and what replaces it.

        The longest counts, and only up to the end of a path segment; of a `url` that isn't
        `complete`, nobody knows whether it ends with one. None: it is none of the archive's.
        """
        match = _ORIGIN.match(url)
        if match is None:
            return None
        paths = self._bases.get(_origin(match[1], match[2]), {})
        path = _longest(paths, url[match.end() :], complete=complete)
        return None if path is None else (match.end() + len(path), self._public + paths[path])

    def url(self, url: bytes) -> bytes:
        """Return a URL as browsers reach it; foreign and relative ones stay."""
        base = self.base(url)
        return url if base is None else base[1] + url[base[0] :]

    def reference(self, url: bytes) -> bytes:
        """Return what a header refers to as browsers reach it, a path of the archive's too."""
        if url.startswith(b"//"):  # of either scheme (RFC 3986 §4.2)
            absolute = [b"%b:%b" % (scheme, url) for scheme in _DEFAULT_PORTS]
            return next((to for each in absolute if (to := self.url(each)) != each), url)
        if not url.startswith(b"/"):
            return self.url(url)
        path = _longest(self._paths, url, complete=True)
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
        nothing is found). Contents with a coding (gzip) and ranges (206) pass.
        """
        coding = fields.get(b"content-encoding", b"identity").strip().lower()
        if status == 206 or coding != b"identity":
            return None
        media_type, parameters = _media_type(fields.get(b"content-type", b""))
        if media_type != b"multipart/related":
            return self._single(media_type)
        root, _ = _media_type(parameters.get(b"type", b"application/dicom+xml"))
        boundary = parameters.get(b"boundary")
        if not boundary or root not in _SYNTAXES:
            return None
        return _Multipart(boundary, self._part, self.piece)

    def _part(self, headers: Mapping[bytes, bytes]) -> BodyFilter | None:
        if headers.keys() & {b"content-encoding", b"content-transfer-encoding"}:
            return None
        return self._single(_media_type(headers.get(b"content-type", b""))[0])

    def _single(self, media_type: bytes) -> BodyFilter | None:
        syntax = _SYNTAXES.get(media_type)
        if syntax is None:
            return None
        text = _Text(self, syntax, self._needles)
        if syntax is not _XML:
            return text
        return _Document(text, verbatim=_XML.quoted(self._public) == self._public)


_PARAMETER: Final = re.compile(rb';\s*([^\s=;"]+)\s*=\s*(?:"((?:[^"\\]|\\.)*)"|([^\s;"]+))')


@lru_cache(maxsize=256)
def _media_type(value: bytes) -> tuple[bytes, Mapping[bytes, bytes]]:
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


def changed_body_headers(headers: Iterable[Header]) -> list[Header]:
    """Return the headers of an answer whose body changes on its way.

    Its length, its digests and the offer of ranges go; a strong ETag becomes a weak one, which is
    all that If-None-Match asks for. Source: RFC 9110 §8.8.1, §13.1.2.
    """
    return [
        (name, _weakened(value) if name.lower() == b"etag" else value)
        for name, value in headers
        if name.lower() not in _BOUND_TO_BODY
    ]


def _weakened(tag: bytes) -> bytes:
    strong = tag.startswith(b'"') and tag.endswith(b'"') and len(tag) > 1
    return b"W/" + tag[:-1] + _WEAKENED + b'"' if strong else tag


def archive_tags(if_none_match: bytes) -> bytes:
    """Return the value with the ETags as the archive had sent them.

    It should compare weakly (RFC 9110 §13.1.2), but RESTEasy, which dcm4chee runs on, doesn't.
    """
    return _WEAKENED_TAG.sub(rb'\1"', if_none_match)


@dataclass(frozen=True, slots=True)
class _Syntax:
    """How a format writes a URL.

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

_JSON: Final = _Syntax(
    closers={b'"': b'"'},
    scheme=re.compile(_JSON_HTTP),
    candidate=re.compile(b'"(?=%b)' % _JSON_HTTP),
    context=re.compile(
        _JSON_CONTEXT
        % {
            b"bulk": _spelled(b"BulkDataURI", _JSON_ESCAPE),
            b"retrieve": _spelled(b"00081190", _JSON_ESCAPE),
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

_XML: Final = _Syntax(
    closers={b'"': b'"', b"'": b"'", b">": b"<"},
    scheme=re.compile(_XML_HTTP),
    candidate=re.compile(b"[\"'>](?=%b)" % _XML_HTTP),
    context=re.compile(
        _XML_CONTEXT
        % {
            b"prefix": rb"(?:[\w.-]++:)?",
            b"attribute": rb"""\s++[\w:.-]++\s*+=\s*+(?:"[^"<]*+"|'[^'<]*+')""",
            b"retrieve": _spelled(b"00081190", *_XML_ESCAPES),
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

_SYNTAXES: Final = {
    b"application/dicom+json": _JSON,
    b"application/json": _JSON,
    b"application/dicom+xml": _XML,
}

# How far in front of a value its key may begin, and how much of a value is looked at, in bytes:
# no more of a body is remembered or held back.
_REACH: Final = 2048
_NEAR: Final = 256
_LONGEST_BASE: Final = 1024


class _Found(NamedTuple):
    """A base URL that is to be replaced.

    Attributes:
        length: of it, as written.
        end: where what shows its end, the next byte of the URL or the one after it, ends.
        replacement: for it.
        context: what precedes it and, wherever it stands, makes it the value of one of our keys.
    """

    length: int
    end: int
    replacement: bytes
    context: bytes


class _Usual(NamedTuple):
    """How a base URL was written lately: what will be found so again needs no closer look.

    Attributes:
        forms: the base URL with its context in front of it, and what shows its end.
        start, stop, end: of the base URL, and of the forms, relative to the needle.
        replacement: for the base URL.
    """

    forms: tuple[bytes, ...] = ()
    start: int = 0
    stop: int = 0
    end: int = 0
    replacement: bytes = b""


_NOTHING: Final = _Usual()
_MOST_FORMS: Final = 8


class _Text:
    """Rewrites text in one syntax: a JSON body, or XML but for its sections."""

    def __init__(self, urls: URLRewriter, syntax: _Syntax, needles: _Needles) -> None:
        self._urls = urls
        self.piece = urls.piece
        self._syntax = syntax
        self._needle, self._run = needles
        self._begins = b"hH" + syntax.escape
        self._usual = urls.usual.get((syntax.escape, self._needle), _NOTHING)
        self._held = b""
        self._passed = b""  # the last bytes in front of `_held`

    def feed(self, chunk: bytes) -> bytes:
        data = self._held + chunk
        start = self._start(data, len(data))
        if start is None or data[start : start + 1] not in self._begins:
            start = len(data)
        self._held = data[start:]
        return self._rewritten(data[:start])

    def flush(self) -> bytes:
        data, self._held = self._held, b""
        return self._rewritten(data)

    def _start(self, data: bytes, at: int) -> int | None:
        """Return where the value around `data[at]` begins, if its base URL can reach as far."""
        low = max(0, at - _LONGEST_BASE)
        start = max([data.rfind(byte, low, at) for byte in self._syntax.closers]) + 1
        return start if start or not low else None

    def _before(self, data: bytes, at: int) -> bytes:
        """Return what is in front of `data[at]`, as far as a context reaches."""
        return data[at - _REACH : at] if at >= _REACH else (self._passed + data[:at])[-_REACH:]

    def _rewritten(self, data: bytes) -> bytes:
        if not data:
            return data
        if self._syntax.escapes_letters(data):
            rewritten = self._search_starts(data)
        else:
            rewritten = self._search_needle(data)
        self._passed = self._before(data, len(data))
        return rewritten

    def _search_starts(self, data: bytes) -> bytes:
        """Rewrite `data` by a look at every value that may be a URL: its letters may be escaped."""
        pieces: list[bytes] = []
        done = 0
        for start in (0, *(match.end() for match in self._syntax.candidate.finditer(data))):
            found = self._found(data, start)
            if found is not None:
                pieces += data[done:start], found.replacement
                done = start + found.length
        return b"".join((*pieces, data[done:]))

    def _search_needle(self, data: bytes) -> bytes:
        """Do the same where all letters are written as they are."""
        find, endswith, view = data.find, data.endswith, memoryview(data)
        needle = self._needle
        forms, start, stop, end, replacement = self._usual
        last = len(data) - end
        pieces: list[bytes | memoryview] = []  # `replacement` follows each
        done = misses = 0
        missed = -1  # the last value that is none of ours: it may have many needles
        at = find(needle)
        while at >= 0:
            if at <= last and endswith(forms, 0, at + end):
                pieces.append(view[done : at + start])
                done = at + stop
            elif (value := self._start(data, at)) is not None and value >= done and value != missed:
                found = self._found(data, value)
                if found is None:
                    misses += 1
                    missed = value
                else:
                    pieces.append(view[done:value])
                    done = value + found.length
                    if found.replacement != replacement:
                        pieces = [replacement.join(pieces)]
                    self._usual = self._learned(data, value, at, found)
                    self._urls.usual[self._syntax.escape, needle] = self._usual
                    forms, start, stop, end, replacement = self._usual
                    last = len(data) - end
            at = find(needle, at + 1)
        if misses > len(data) // 2048:
            self._needle = self._run
            self._usual = self._urls.usual.get((self._syntax.escape, self._needle), _NOTHING)
        return replacement.join((*pieces, view[done:])) if pieces else data

    def _learned(self, data: bytes, start: int, at: int, found: _Found) -> _Usual:
        usual = _Usual(
            forms=(found.context + data[start : found.end],),
            start=start - at,
            stop=start + found.length - at,
            end=found.end - at,
            replacement=found.replacement,
        )
        if usual[1:] != self._usual[1:]:
            return usual
        return usual._replace(forms=(usual.forms + self._usual.forms)[:_MOST_FORMS])

    def _found(self, data: bytes, start: int) -> _Found | None:
        """Return the base URL that begins at `data[start]`, if a value of our keys does."""
        syntax = self._syntax
        closer = syntax.closers.get(data[start - 1 : start] or self._passed[-1:])
        if closer is None or syntax.scheme.match(data, start) is None:
            return None
        text, closed, _ = data[start : start + _LONGEST_BASE].partition(closer)
        url, ends = syntax.unescape(text, self._urls.longest)
        base = self._urls.base(url, complete=bool(closed))
        if base is None:
            return None
        before = self._before(data, start)
        # Most are near, and a shorter search is a faster one.
        context = syntax.context.search(before, max(0, len(before) - _NEAR))
        context = context or syntax.context.search(before)
        if context is None:
            return None
        length, replacement = base
        return _Found(
            length=ends[length - 1],
            end=start + (ends[length] if length < len(url) else len(text) + 1),
            replacement=syntax.quoted(replacement),
            context=before[max(0, context.start() - 1) :],
        )


def _whole(data: bytes, *ends: bytes) -> int:
    """Return how much of `data` there is before what may be the beginning of one of `ends`."""
    return next(
        at
        for at in range(max(0, len(data) - max(map(len, ends)) + 1), len(data) + 1)
        if any(end.startswith(data[at:]) for end in ends)
    )


class _Document:
    """Rewrites XML: lets comments, processing instructions and CDATA sections pass.

    But a CDATA section may begin with a value; that is rewritten if the public URL is written
    there as elsewhere, `verbatim`. A document type may define what follows: nothing is rewritten.
    """

    _CLOSERS: Final = {
        b"<!--": b"-->",
        b"<?": b"?>",
        b"<![CDATA[": b"]]>",
        b"<!DOCTYPE": b"\0",  # is in no XML
    }
    _OPENER: Final = re.compile(b"|".join(map(re.escape, _CLOSERS)))

    def __init__(self, text: _Text, *, verbatim: bool) -> None:
        self._text = text
        self.piece = text.piece
        self._verbatim = verbatim
        self._held = b""
        self._closer = b""  # of the section that we are in
        self._is_text = True

    def feed(self, chunk: bytes) -> bytes:
        data = self._held + chunk
        pieces: list[bytes] = []
        done = 0
        while edge := self._edge(data, done):
            at, end = edge
            self._pass(data[done:at], pieces)
            pieces += self._text.flush(), data[at:end]
            opener = data[at:end]
            self._closer = b"" if self._closer else self._CLOSERS[opener]
            self._is_text = not self._closer or (opener == b"<![CDATA[" and self._verbatim)
            done = end
        rest = data[done:]
        cut = _whole(rest, *([self._closer] if self._closer else self._CLOSERS))
        self._pass(rest[:cut], pieces)
        self._held = rest[cut:]
        return b"".join(pieces)

    def flush(self) -> bytes:
        held, self._held = self._held, b""
        return self._text.flush() + held

    def _edge(self, data: bytes, start: int) -> tuple[int, int] | None:
        """Return where the section that we are in ends, or the next one begins."""
        if not self._closer:
            opener = self._OPENER.search(data, start)
            return opener and opener.span()
        at = data.find(self._closer, start)
        return None if at < 0 else (at, at + len(self._closer))

    def _pass(self, data: bytes, pieces: list[bytes]) -> None:
        if self._closer and self._is_text and (at := data.find(b"<")) >= 0:
            # What looks like markup in a CDATA section is none.
            pieces += self._text.feed(data[:at]), self._text.flush(), data[at:]
            self._is_text = False
        else:
            pieces.append(self._text.feed(data) if self._is_text else data)


_LONGEST_HEAD: Final = 16384
_BLANK_LINE: Final = re.compile(rb"\n\r?\n")


class _Multipart:
    """Rewrites the parts of a multipart/related body that are text of ours.

    Args:
        boundary: from the Content-Type of the body.
        rewriter: `(headers) ->` what rewrites the part with these headers, names in lower case;
            None for a part that is to pass as it is.
        piece: see `BodyRewriter`.

    Source: RFC 2046 §5.1.1, by which a line is a boundary if it begins like one.
    """

    def __init__(
        self,
        boundary: bytes,
        rewriter: Callable[[Mapping[bytes, bytes]], BodyFilter | None],
        piece: int,
    ) -> None:
        self.piece = piece
        self._boundary = b"\n--" + boundary
        self._rewriter = rewriter
        self._part: BodyFilter | None = None
        self._in_head = False
        self._held = b"\n"  # not of the body: its first boundary follows no line break
        self._surplus = len(self._held)

    def feed(self, chunk: bytes) -> bytes:
        return self._rewritten(self._held + chunk, ended=False)

    def flush(self) -> bytes:
        return self._rewritten(self._held, ended=True)

    def _rewritten(self, data: bytes, *, ended: bool) -> bytes:
        pieces: list[bytes] = []
        done = 0  # of `data`, never cut on the way: there may be thousands of parts in it
        while True:
            if self._in_head:
                longest = done + _LONGEST_HEAD
                blank = _BLANK_LINE.search(data, done, longest)
                if blank is None and len(data) < longest and not ended:
                    break
                # The line break that ends the head may be the boundary's of an empty part.
                end = blank.end() - 1 if blank else min(longest, len(data))
                pieces.append(self._begin(data[done:end]) if blank else data[done:end])
                self._in_head = False
                done = end
            at = data.find(self._boundary, done)
            end = len(data) if ended else self._certain(data, done)
            if at >= 0:
                end = at + 1
            pieces.append(self._part.feed(data[done:end]) if self._part else data[done:end])
            done = end
            if self._part and (ended or at >= 0):
                pieces.append(self._part.flush())
                self._part = None
            if at < 0:
                break
            self._in_head = True
        self._held = data[done:]
        body = b"".join(pieces)
        skipped = self._surplus if body else 0
        self._surplus -= skipped
        return body[skipped:]

    def _certain(self, data: bytes, start: int) -> int:
        """Return where in `data`, from `start` on, the beginning of a boundary may be."""
        at = data.rfind(b"\n", max(start, len(data) - len(self._boundary)))
        return at if at >= 0 and self._boundary.startswith(data[at:]) else len(data)

    def _begin(self, head: bytes) -> bytes:
        """Take the head of a part; return it without the length, if that is going to change."""
        lines = head.split(b"\n")
        fields = [line.partition(b":") for line in lines]
        names = [name.strip().lower() for name, _, _ in fields]
        values = (value.strip() for _, _, value in fields)
        self._part = self._rewriter(dict(zip(names, values, strict=True)))
        if self._part is None:
            return head
        kept = (line for line, name in zip(lines, names, strict=True) if name != b"content-length")
        return b"\n".join(kept)
