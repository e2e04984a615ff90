"""CORS policies, and the answers that browsers judge by the Fetch standard's CORS protocol.

`CORSPolicy.compile` checks a configuration whole and reports every problem at once, as data. `CORS`
answers requests by the compiled policies, the first that knows the origin:

    cors = CORS([*per_origin, base], own_origin="https://pacs.example")
    cors.decide(origin)  # an actual request: the headers of its answer
    cors.preflight(origin, method, request_headers)  # the whole head of a 204 or 403

Both are look-ups for what was seen before, and bounded work for anything else.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import cache, lru_cache
from ipaddress import IPv4Address, IPv6Address
from typing import TYPE_CHECKING, Final, Literal, Self

from dicomweb_cors_proxy.http.hosts import DEFAULT_PORTS, MAX_PORT
from dicomweb_cors_proxy.http.messages import TOKEN, Header

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from publicsuffixlist import PublicSuffixList

__all__ = [
    "CORS",
    "CORSPolicy",
    "Decision",
    "Origin",
    "OriginPattern",
    "PolicyError",
    "PreflightDecision",
    "Problem",
]

MAX_ORIGIN_BYTES: Final = 327  # scheme of 64, "://", host of 253 and a dot, ":65535"
MAX_PREFLIGHT_BYTES: Final = 8192  # origin, method and header names together
MAX_REQUEST_HEADERS: Final = 256
MAX_EMPTY_ELEMENTS: Final = 16  # RFC 9110 §5.6.1.2: enough for mistakes, too few for an attack
CACHED_ORIGINS: Final = 1024
CACHED_PREFLIGHTS: Final = 256

_ANY: Final = "*"
_MAX_AGE: Final = range(-1, 86400 + 1)
_CHROMIUM_MAX_AGE: Final = 7200
_APP_SCHEMES: Final = frozenset(
    {
        "app",
        "capacitor",
        "chrome-extension",
        "ionic",
        "moz-extension",
        "safari-web-extension",
        "tauri",
    }
)
_OPAQUE_SCHEMES: Final = frozenset({"about", "blob", "data", "file", "javascript"})
_PAGELESS_SCHEMES: Final = frozenset({"ftp", "ws", "wss"})
_SCHEME: Final = re.compile(r"[a-z][a-z0-9+.-]{0,63}")  # RFC 3986 §3.1
_ORIGIN: Final = re.compile(
    rf"({_SCHEME.pattern})://([a-z0-9._-]+|\[[0-9a-f:]+\])(?::([1-9][0-9]{{0,4}}))?"
)
_DNS_NAME: Final = re.compile(r"(?=.{1,253}\.?\Z)[a-z0-9_-]{1,63}(?:\.[a-z0-9_-]{1,63})*\.?")
_ENDS_IN_NUMBER: Final = re.compile(r"(?:\A|\.)(?:[0-9]+|0x[0-9a-f]*)\.?\Z")  # URL, §3.5

# Fetch, "Methods".
_SAFELISTED_METHODS: Final = frozenset({b"GET", b"HEAD", b"POST"})
_FORBIDDEN_METHODS: Final = frozenset({"CONNECT", "TRACE", "TRACK"})
_KNOWN_METHODS: Final = frozenset({"DELETE", "GET", "HEAD", "OPTIONS", "PATCH", "POST", "PUT"})

# Fetch, "forbidden request-header".
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
_FORBIDDEN_REQUEST_PREFIXES: Final = ("proxy-", "sec-")
_OWN_RESPONSE_HEADERS: Final = frozenset(
    {
        "access-control-allow-credentials",
        "access-control-allow-headers",
        "access-control-allow-methods",
        "access-control-allow-origin",
        "access-control-expose-headers",
        "access-control-max-age",
    }
)
_RESPONSE_HEADERS: Final = frozenset(
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
_FORBIDDEN_RESPONSE_HEADERS: Final = frozenset({"set-cookie", "set-cookie2"})

# What a refusal may repeat of the names that a client sent: anything else could be a secret.
_KNOWN_REQUEST_HEADERS: Final = frozenset(
    {
        b"accept",
        b"accept-language",
        b"authorization",
        b"cache-control",
        b"content-encoding",
        b"content-language",
        b"content-type",
        b"if-match",
        b"if-modified-since",
        b"if-none-match",
        b"if-range",
        b"if-unmodified-since",
        b"pragma",
        b"prefer",
        b"range",
        b"traceparent",
        b"tracestate",
        b"x-requested-with",
    }
)

_PREFLIGHT_VARY: Final[Header] = (
    b"vary",
    b"Origin, Access-Control-Request-Method, Access-Control-Request-Headers",
)


@dataclass(frozen=True, slots=True)
class Problem:
    """One thing wrong in a policy's configuration, or to be warned of.

    `reason` goes on from the value: it says what is wrong with it, then the remedy.
    """

    key: str
    value: str
    reason: str

    def __str__(self) -> str:
        """Return a sentence of key, value and reason."""
        return f"{self.key}: {self.value!r} {self.reason}"


class PolicyError(ValueError):
    """A configuration that can't become a policy, with all of its problems."""

    def __init__(self, problems: Iterable[Problem]) -> None:
        """Take the problems, of which there is one at least."""
        self.problems = tuple(problems)
        super().__init__("\n".join(map(str, self.problems)))


@dataclass(frozen=True, slots=True)
class Origin:
    """A tuple origin (HTML standard, "Origin"). `port` is None for the scheme's default.

    `host` is serialised as in a URL: lower case, IPv6 in brackets.
    """

    scheme: str
    host: str
    port: int | None = None

    @classmethod
    def parse(cls, value: bytes) -> Self | None:
        """Read an Origin header's value; None for anything that no browser would have written.

        There is one way to write an origin, so `str(Origin.parse(value)).encode() == value`.
        """
        if len(value) > MAX_ORIGIN_BYTES:
            return None
        match = _ORIGIN.fullmatch(value.decode("latin-1"))
        if match is None:
            return None
        scheme, host, digits = match.groups()
        port = int(digits) if digits else None
        if port is not None and (port > MAX_PORT or port == DEFAULT_PORTS.get(scheme)):
            return None
        return cls(scheme, host, port) if _canonical_host(host) == host else None

    def __str__(self) -> str:
        """Return the origin as browsers write it."""
        return _serialise(self.scheme, self.host, self.port)


@dataclass(frozen=True, slots=True)
class OriginPattern:
    """The origins that one entry of `allow_origins` stands for; a plain `*` is no pattern.

    | pattern                  | matches                                                       |
    |--------------------------|---------------------------------------------------------------|
    | `https://viewer.example` | that origin                                                   |
    | `https://*.example.edu`  | subdomains of any depth, never `https://example.edu`          |
    | `http://localhost:*`     | any port, the default one included                            |
    | `app://viewer`           | that origin; only http and https have the wildcards           |

    `host` is what follows `*.`, `port` is None for the scheme's default.
    """

    scheme: str
    host: str
    port: int | None = None
    any_subdomain: bool = False
    any_port: bool = False

    @classmethod
    def parse(cls, text: str) -> Self:
        """Read a pattern as strictly as browsers write origins.

        Raises PolicyError with one problem of the key `allow_origins`; where the user's meaning is
        evident, its reason ends with the corrected pattern.
        """
        faults: list[str] = []
        try:
            pattern = cls._read(text, faults)
            if not faults:
                return pattern
        except _UnreadableError as error:
            reason = f"has {_listed(faults)} and {error}" if faults else str(error)
        else:
            reason = f"has {_listed(faults)}, so no browser's Origin equals it; write {pattern}"
        raise PolicyError([Problem("allow_origins", text, reason)])

    @classmethod
    def _read(cls, text: str, faults: list[str]) -> Self:
        """Read a pattern, mending what can be mended and noting it in `faults`."""
        stripped = text.strip()
        lowered = stripped.lower()
        if stripped != text:
            faults.append("white space around it")
        if lowered != stripped:
            faults.append("upper-case letters")
        scheme, authority = _split_scheme(lowered, faults)
        host, port = _split_port(authority)
        any_subdomain, any_port = host.startswith("*."), port == "*"
        host = host.removeprefix("*.")
        if "*" in host or ("*" in port and not any_port):
            raise _UnreadableError(
                "has a wildcard where none may be: it stands for subdomains, as in "
                "https://*.example.edu, or for any port, as in http://localhost:*; "
                "a * alone is any origin"
            )
        host = _read_host(host, faults, below="x." if any_subdomain else "")
        if not scheme:
            scheme = "http" if _is_loopback(host) else "https"
        if scheme not in DEFAULT_PORTS and (any_subdomain or any_port):
            raise _UnreadableError(
                "has a wildcard, which only http and https may have; list each origin"
            )
        if scheme in DEFAULT_PORTS and not all(map(_is_valid_label, host.split("."))):
            raise _UnreadableError(
                "has a label that begins with xn-- and is no valid Punycode; write the name in "
                "Unicode to be told its Punycode"
            )
        number = None if any_port else _read_port(port, scheme, faults)
        return cls(scheme, host, number, any_subdomain, any_port)

    @property
    def has_wildcard(self) -> bool:
        """Whether the pattern stands for more than one origin."""
        return self.any_subdomain or self.any_port

    @property
    def is_secure(self) -> bool:
        """Whether no one on the network can pose as the origin.

        True for https, for apps and extensions (they come with their code), and for hosts that
        never leave the machine.
        """
        return self.scheme != "http" or _is_loopback(self.host)

    def covers_public_suffix(self) -> bool:
        """Whether strangers can register names that the pattern matches (publicsuffix.org)."""
        if not self.any_subdomain or _is_loopback(self.host):
            return False
        return _public_suffixes().is_public(self.host)

    def matches(self, origin: Origin) -> bool:
        """Whether the pattern stands for `origin`."""
        return (
            origin.scheme == self.scheme
            and (self.any_port or origin.port == self.port)
            and (
                origin.host.endswith(f".{self.host}")
                if self.any_subdomain
                else origin.host == self.host
            )
        )

    def __str__(self) -> str:
        """Return the pattern as the configuration has it."""
        host = f"*.{self.host}" if self.any_subdomain else self.host
        return _serialise(self.scheme, host, _ANY if self.any_port else self.port)


class _UnreadableError(Exception):
    """The reason why an origin pattern is beyond mending."""


def _split_scheme(text: str, faults: list[str]) -> tuple[str, str]:
    """Split a lower-case pattern into its scheme, "" if it has none, and its authority."""
    if text == "null" or text.partition(":")[0] in _OPAQUE_SCHEMES:
        raise _UnreadableError(
            "can't be told apart: browsers send null for local files and sandboxed frames of any "
            "site; serve the viewer over http or https and list that origin"
        )
    if text[:1] in ("'", '"', "["):
        raise _UnreadableError("has quotes or brackets around it: leave them out")
    if re.search(r"[\s,;].*://", text):
        raise _UnreadableError(
            "holds several: give each an entry, or an --allow-origin, of its own"
        )
    scheme, separator, rest = text.partition("://")
    if not separator and (begun := re.match("(https?)(?:/+|:/?(?=[a-z*[]))", text)):
        faults.append("no :// behind the scheme")
        scheme, rest = begun[1], text[begun.end() :]
    elif not separator:
        faults.append("no scheme")
        scheme, rest = "", text.lstrip("/")
    elif scheme in _PAGELESS_SCHEMES or not _SCHEME.fullmatch(scheme):
        raise _UnreadableError("has a scheme that no page has; begin with https:// or http://")
    authority = re.split(r"[/?#\\]", rest, maxsplit=1)[0]
    if tail := rest[len(authority) :]:
        names = {"?": "a query", "#": "a fragment"}
        faults.append("a trailing slash" if tail == "/" else names.get(tail[0], "a path"))
    if "@" in authority:
        faults.append("user information")
    return scheme, authority.rpartition("@")[2]


def _split_port(authority: str) -> tuple[str, str]:
    """Split host and port; ":" stands for a port that was announced and left out."""
    bracket = authority.rfind("]") + 1
    host, colon, port = authority[bracket:].partition(":")
    return authority[:bracket] + host, port or colon


def _read_host(host: str, faults: list[str], *, below: str) -> str:
    """Return the host as browsers serialise it; `below` stands for labels in front of it."""
    if not host.isascii():
        from idna import IDNAError, encode  # noqa: PLC0415 (its tables are large)

        try:
            host = encode(host, uts46=True).decode()
        except IDNAError:
            raise _UnreadableError("has a Unicode host; write it in Punycode, xn--…") from None
        faults.append("a Unicode host")
    canonical = _canonical_host(below + host) if host else None
    if canonical is None:
        raise _UnreadableError(
            "has no valid host: after https:// comes a DNS name, an IPv4 address such as "
            "192.0.2.1 or an IPv6 address such as [2001:db8::1]"
        )
    canonical = canonical.removeprefix(below)
    if canonical != host:
        faults.append("an IPv6 address that isn't in its shortest form")
    return canonical


def _is_valid_label(label: str) -> bool:
    """Whether a label that begins with xn-- is the Punycode of a name that URLs may have.

    Source: URL standard, §3.3 "domain to ASCII", by UTS #46 §4. Its rules for the direction of
    writing and for joiners are left out, because browsers differ over them.
    """
    if not label.startswith("xn--"):
        return True
    from idna import uts46_remap  # noqa: PLC0415 (its tables are large)

    encoded = label.removeprefix("xn--").encode("ascii")
    try:
        name = encoded.decode("punycode")
        return (
            not name.isascii()
            and name.encode("punycode") == encoded
            and uts46_remap(name, std3_rules=False) == name
        )
    except UnicodeError:  # IDNAError is one
        return False


def _read_port(port: str, scheme: str, faults: list[str]) -> int | None:
    if not port:
        return None
    digits = port.lstrip("0")
    number = int(digits) if re.fullmatch("[0-9]{1,5}", digits) else 0
    if not 1 <= number <= MAX_PORT:
        raise _UnreadableError(f"has no valid port: it is a number from 1 to {MAX_PORT}")
    if digits != port:
        faults.append("a port with leading zeros")
    if number == DEFAULT_PORTS.get(scheme):
        faults.append(f"the default port of {scheme}")
        return None
    return number


def _canonical_host(host: str) -> str | None:
    """Return the host as a URL's serialisation has it (URL standard, §3.5), None if it is none."""
    try:
        if host.startswith("["):
            if not host.endswith("]"):
                return None
            address = IPv6Address(host[1:-1])
            # Serialisers differ over mapped addresses, and a zone is never part of an origin.
            return None if address.ipv4_mapped or address.scope_id else f"[{address}]"
        if _DNS_NAME.fullmatch(host) is None:
            return None
        return str(IPv4Address(host)) if _ENDS_IN_NUMBER.search(host) else host
    except ValueError:
        return None


def _is_loopback(host: str) -> bool:
    """Whether a canonical host never leaves the machine (RFC 6761 §6.3, RFC 1122 §3.2.1.3)."""
    name = host.removesuffix(".")
    return (
        name in {"localhost", "[::1]"}
        or name.endswith(".localhost")
        or (name.startswith("127.") and _ENDS_IN_NUMBER.search(name) is not None)
    )


@cache
def _public_suffixes() -> PublicSuffixList:
    from publicsuffixlist import PublicSuffixList  # noqa: PLC0415 (reads a list of 300 KB)

    return PublicSuffixList()


def _serialise(scheme: str, host: str, port: int | str | None) -> str:
    return f"{scheme}://{host}" if port is None else f"{scheme}://{host}:{port}"


def _listed(items: Sequence[str]) -> str:
    return " and ".join(filter(None, [", ".join(items[:-1]), items[-1]]))


@dataclass(frozen=True, slots=True)
class Decision:
    """What an actual request's answer gets, whatever its status.

    `none` is a request without Origin, or from the proxy's own. `vary` names what the answer
    depends on, to be merged with the archive's Vary.
    """

    outcome: Literal["allowed", "refused", "none"]
    headers: tuple[Header, ...]
    vary: tuple[bytes, ...]


@dataclass(frozen=True, slots=True)
class PreflightDecision:
    """All headers of a preflight's answer: 204 if allowed, else 403.

    `reason` says to a viewer's developer which rule refused and which setting to change; of the
    request it repeats no more than a well-formed origin and well-known names.
    """

    allowed: bool
    headers: tuple[Header, ...]
    reason: str = ""


def _refused(reason: str) -> PreflightDecision:
    return PreflightDecision(allowed=False, headers=(_PREFLIGHT_VARY,), reason=reason)


_OVERSIZED: Final = _refused(
    f"Origin and Access-Control-Request-* hold more than {MAX_PREFLIGHT_BYTES} bytes."
)
_MALFORMED_ORIGIN: Final = _refused("Origin is malformed: no browser sends it like that.")
_NULL_ORIGIN: Final = _refused(
    "This page's origin is null, as in a sandboxed frame or a local file, which can't be allowed: "
    "serve the page over http or https and list its origin in cors.allow_origins."
)


@dataclass(frozen=True, slots=True)
class CORSPolicy:
    """What pages of some origins may do; made by `compile`.

    `methods` hold the safelisted ones too; names of `headers` are in lower case.
    """

    any_origin: bool
    origins: frozenset[bytes]
    patterns: tuple[OriginPattern, ...]
    any_method: bool
    methods: frozenset[bytes]
    any_header: bool
    headers: frozenset[bytes]
    credentials: bool
    # The values of our answers' headers, b"" where one is left out.
    allow_methods: bytes
    allow_headers: bytes
    expose_headers: bytes
    max_age: bytes

    @classmethod
    def compile(  # noqa: PLR0913 (the keys of the configuration)
        cls,
        *,
        allow_origins: Sequence[str],
        allow_methods: Sequence[str],
        allow_headers: Sequence[str],
        expose_headers: Sequence[str],
        max_age: int,
        allow_credentials: bool,
        dangerously_allow_insecure_origins: bool,
    ) -> Self:
        """Check one policy's configuration and compile it.

        | key            | permitted                                                            |
        |----------------|----------------------------------------------------------------------|
        | allow_origins  | what `OriginPattern` reads, `*`; one at least                        |
        | allow_methods  | methods in their exact case, `*`; GET, HEAD and POST always pass     |
        | allow_headers  | request headers that pages can set, in any case, `*`                 |
        | expose_headers | response headers but Set-Cookie, in any case, `*`                    |
        | max_age        | seconds up to 86400; browsers don't cache preflights at 0 and -1     |

        Without credentials a `*` is sent as it is; it covers Authorization only if that is listed
        too. With credentials browsers read `*` as a name: for methods and request headers we then
        send what is asked for, elsewhere it is refused. So are, with credentials, origins over
        plain http, unless `dangerously_allow_insecure_origins` is set, and all subdomains of a
        public suffix.

        Raises PolicyError with every problem.
        """
        patterns, problems = _read_origins(
            allow_origins,
            credentials=allow_credentials,
            insecure=dangerously_allow_insecure_origins,
        )
        problems += _method_problems(allow_methods)
        problems += _request_header_problems(allow_headers)
        problems += _exposed_header_problems(expose_headers, credentials=allow_credentials)
        if max_age not in _MAX_AGE:
            reason = f"is outside {_MAX_AGE[0]}..{_MAX_AGE[-1]}, in seconds; the default is 7200"
            problems.append(Problem("max_age", str(max_age), reason))
        if problems:
            raise PolicyError(problems)

        headers = [name.lower() for name in allow_headers]
        exposed = [name.lower() for name in expose_headers]
        beside_any = ["authorization"] if "authorization" in headers else []
        return cls(
            any_origin=_ANY in allow_origins,
            origins=frozenset(str(p).encode() for p in patterns if not p.has_wildcard),
            patterns=tuple(p for p in patterns if p.has_wildcard),
            any_method=_ANY in allow_methods,
            methods=_SAFELISTED_METHODS.union(name.encode() for name in allow_methods),
            any_header=_ANY in headers,
            headers=frozenset(name.encode() for name in headers),
            credentials=allow_credentials,
            allow_methods=_list_value([_ANY] if _ANY in allow_methods else allow_methods),
            allow_headers=_list_value([_ANY, *beside_any] if _ANY in headers else headers),
            expose_headers=_list_value([_ANY] if _ANY in exposed else exposed),
            # delta-seconds have no sign, and browsers take what they can't read for 5 seconds.
            max_age=b"%d" % max(max_age, 0),
        )

    @property
    def warnings(self) -> tuple[Problem, ...]:
        """What is permitted and probably not meant."""
        return tuple(self._warnings())

    def _warnings(self) -> Iterator[Problem]:
        if self.any_origin:
            reason = "lets any page on the web read the answers; list the viewers' origins"
            yield Problem("allow_origins", _ANY, reason)
        for origin in sorted(map(bytes.decode, self.origins)):
            if origin.partition("://")[0] not in DEFAULT_PORTS.keys() | _APP_SCHEMES:
                reason = "is the origin of no web page and no common app; check its scheme"
                yield Problem("allow_origins", origin, reason)
        if int(self.max_age) > _CHROMIUM_MAX_AGE:
            reason = f"is more than Chromium ({_CHROMIUM_MAX_AGE}) and Safari (600) keep; lower it"
            yield Problem("max_age", self.max_age.decode(), reason)
        if self.any_header:
            if not self.credentials and b"authorization" not in self.headers:
                reason = "does not cover authorization; if pages send that, list it as well"
                yield Problem("allow_headers", _ANY, reason)
        elif b"accept" not in self.headers:
            reason = "is not listed, so pages can't ask for a quoted media type; add it"
            yield Problem("allow_headers", "accept", reason)
        ranges = self.any_header or b"range" in self.headers
        if ranges and {b"*", b"content-range"}.isdisjoint(self.expose_headers.split(b", ")):
            reason = "is not listed, so viewers that use range take a part for the whole; add it"
            yield Problem("expose_headers", "content-range", reason)

    def allows_origin(self, origin: bytes) -> bool:
        """Whether the policy is for pages of `origin`, the value of an Origin header."""
        if self.any_origin or origin in self.origins:
            return True
        parsed = Origin.parse(origin) if self.patterns else None
        return parsed is not None and any(pattern.matches(parsed) for pattern in self.patterns)

    def actual_headers(self, origin: bytes) -> tuple[Header, ...]:
        """Return the CORS headers of an actual request's answer to an origin that is allowed."""
        headers = self._origin_headers(origin)
        if self.expose_headers:
            headers.append((b"access-control-expose-headers", self.expose_headers))
        return tuple(headers)

    def judge(self, origin: bytes, method: bytes, names: bytes, setting: str) -> PreflightDecision:
        """Judge a preflight of an origin that is allowed (Fetch, "CORS-preflight fetch", step 7).

        `names` is the list in Access-Control-Request-Headers, `setting` the key of this policy.
        """
        if method not in self.methods:
            if not TOKEN.fullmatch(method):
                return _refused("Access-Control-Request-Method is no method.")
            if not self.any_method:
                return _refused(self._method_refusal(method, setting))
        requested = _requested_headers(names)
        if requested is None:
            return _refused(
                "Access-Control-Request-Headers is malformed, or has more than "
                f"{MAX_REQUEST_HEADERS} names or {MAX_EMPTY_ELEMENTS} empty elements."
            )
        lacking = [name for name in requested if not self._allows_header(name)]
        if lacking:
            return _refused(self._header_refusal(lacking, setting))

        allow_methods, allow_headers = self.allow_methods, self.allow_headers
        if self.credentials:
            allow_methods = method if self.any_method else allow_methods
            allow_headers = b", ".join(requested) if self.any_header else allow_headers
        headers = self._origin_headers(origin)
        if allow_methods:
            headers.append((b"access-control-allow-methods", allow_methods))
        if allow_headers:
            headers.append((b"access-control-allow-headers", allow_headers))
        headers += [(b"access-control-max-age", self.max_age), _PREFLIGHT_VARY]
        return PreflightDecision(allowed=True, headers=tuple(headers))

    def _origin_headers(self, origin: bytes) -> list[Header]:
        headers = [(b"access-control-allow-origin", b"*" if self.any_origin else origin)]
        if self.credentials:
            headers.append((b"access-control-allow-credentials", b"true"))
        return headers

    def _allows_header(self, name: bytes) -> bool:
        if name in self.headers:
            return True
        return self.any_header and (self.credentials or name != b"authorization")

    def _method_refusal(self, method: bytes, setting: str) -> str:
        if method.upper() in self.methods:
            return f"Methods are case-sensitive: the page must send {method.upper().decode()}."
        named = method.decode() if method.decode() in _KNOWN_METHODS else "the page's method"
        return f"{setting}.allow_methods does not list {named}."

    def _header_refusal(self, lacking: Sequence[bytes], setting: str) -> str:
        if self.any_header:
            return f"In {setting}.allow_headers * does not cover authorization; list it as well."
        named = sorted(name.decode() for name in lacking if name in _KNOWN_REQUEST_HEADERS)
        if unnamed := len(lacking) - len(named):
            more = " more" if named else ""
            named.append(f"{unnamed}{more}, which the browser's network panel shows")
        return f"{setting}.allow_headers does not list these headers: {_listed(named)}."


def _list_value(names: Iterable[str]) -> bytes:
    return ", ".join(dict.fromkeys(names)).encode()


def _requested_headers(value: bytes) -> list[bytes] | None:
    """Return the names asked for, once each and in lower case; None if there is no making sense.

    Browsers write them so, sorted and without space (Fetch, "CORS-unsafe request-header names"),
    but what stands between may split the list over lines, space it or leave empty elements.
    """
    elements = value.split(b",", MAX_REQUEST_HEADERS + MAX_EMPTY_ELEMENTS)
    names = [name for element in elements if (name := element.strip(b" \t"))]
    if len(names) > MAX_REQUEST_HEADERS or len(elements) - len(names) > MAX_EMPTY_ELEMENTS:
        return None
    if not all(map(TOKEN.fullmatch, names)):
        return None
    return list(dict.fromkeys(name.lower() for name in names))


def _read_origins(
    texts: Sequence[str], *, credentials: bool, insecure: bool
) -> tuple[list[OriginPattern], list[Problem]]:
    patterns: list[OriginPattern] = []
    problems: list[Problem] = []

    def refuse(text: str, reason: str) -> None:
        problems.append(Problem("allow_origins", text, reason))

    if not texts:
        refuse("[]", "holds no origin; list the viewer's, such as https://viewer.example")
    for text in dict.fromkeys(texts):
        if text == _ANY:
            if credentials:
                refuse(text, "can't be used with allow_credentials; list the viewers' origins")
            continue
        try:
            pattern = OriginPattern.parse(text)
        except PolicyError as error:
            problems += error.problems
            continue
        patterns.append(pattern)
        if credentials and not (insecure or pattern.is_secure):
            refuse(
                text,
                "is plain http, so anyone on the network's path can act with a user's credentials; "
                "use https, leave allow_credentials off, or set dangerously_allow_insecure_origins",
            )
        if credentials and pattern.covers_public_suffix():
            refuse(
                text,
                f"lets in everyone who gets a name below {pattern.host}, a public suffix, with a "
                "user's credentials; name a domain of your own, or leave allow_credentials off",
            )
    return patterns, problems


def _method_problems(methods: Iterable[str]) -> Iterator[Problem]:
    for method in dict.fromkeys(methods):
        if not _is_token(method):
            yield Problem("allow_methods", method, "is no method; write a name such as DELETE")
        elif method.upper() in _FORBIDDEN_METHODS:
            reason = "is a method that browsers never let a page send; leave it out"
            yield Problem("allow_methods", method, reason)
        elif method not in _KNOWN_METHODS and method.upper() in _KNOWN_METHODS:
            reason = f"is never sent, for methods are case-sensitive; write {method.upper()}"
            yield Problem("allow_methods", method, reason)


def _request_header_problems(names: Iterable[str]) -> Iterator[Problem]:
    for name in dict.fromkeys(names):
        lowered = name.lower()
        if not _is_token(name):
            reason = "is no header name; write one such as content-type"
        elif lowered in _FORBIDDEN_REQUEST_HEADERS or lowered.startswith(
            _FORBIDDEN_REQUEST_PREFIXES
        ):
            reason = "is a header that browsers let no page set; leave it out"
        elif lowered in _OWN_RESPONSE_HEADERS:
            reason = "is a response header, and the proxy sends it by itself; leave it out"
        elif lowered in _RESPONSE_HEADERS:
            reason = "is a response header; if pages are to read it, move it to expose_headers"
        else:
            continue
        yield Problem("allow_headers", name, reason)


def _exposed_header_problems(names: Iterable[str], *, credentials: bool) -> Iterator[Problem]:
    for name in dict.fromkeys(names):
        if not _is_token(name):
            reason = "is no header name; write one such as content-range"
        elif name.lower() in _FORBIDDEN_RESPONSE_HEADERS:
            reason = "is a header that browsers never show to a page; leave it out"
        elif name == _ANY and credentials:
            reason = "means nothing to browsers with allow_credentials; list the headers by name"
        else:
            continue
        yield Problem("expose_headers", name, reason)


def _is_token(name: str) -> bool:
    return name.isascii() and TOKEN.fullmatch(name.encode()) is not None


class CORS:
    """Answers requests by the first policy that allows their origin."""

    def __init__(self, policies: Sequence[CORSPolicy], *, own_origin: str | None = None) -> None:
        """Take the policies of `cors.per_origin` in order, and last that of `cors` itself.

        Requests of `own_origin`, where browsers reach the proxy, need no CORS and are not refused.
        """
        *special, base = policies
        self._policies = [(p, f"cors.per_origin[{i}]") for i, p in enumerate(special)]
        self._policies.append((base, "cors"))
        self._own_origin = None if own_origin is None else own_origin.encode()
        # One answer for all origins: it may be cached as such, and serves requests without one.
        same_for_all = policies[0].any_origin
        vary = () if same_for_all else (b"Origin",)
        headers = policies[0].actual_headers(b"*") if same_for_all else ()
        self._none = Decision("none", headers, vary)
        self._refused = Decision("refused", (), vary)
        self._decide = lru_cache(CACHED_ORIGINS)(self._decide_anew)
        self._preflight = lru_cache(CACHED_PREFLIGHTS)(self._preflight_anew)

    def decide(self, origin: bytes | None) -> Decision:
        """Decide on an actual request by the value of its Origin header, None or b"" for none."""
        if not origin:
            return self._none
        # Cut where no origin can match any more: the cache's keys stay small.
        return self._decide(origin[: MAX_ORIGIN_BYTES + 1])

    def preflight(
        self, origin: bytes, method: bytes, request_headers: Sequence[bytes]
    ) -> PreflightDecision:
        """Judge a preflight by Origin, Access-Control-Request-Method and the lines of -Headers."""
        names = b",".join(request_headers)  # RFC 9110 §5.3
        if len(origin) + len(method) + len(names) > MAX_PREFLIGHT_BYTES:
            return _OVERSIZED
        return self._preflight(origin, method, names)

    def _decide_anew(self, origin: bytes) -> Decision:
        for policy, _ in self._policies:
            if policy.allows_origin(origin):
                return Decision("allowed", policy.actual_headers(origin), self._none.vary)
        return self._none if origin == self._own_origin else self._refused

    def _preflight_anew(self, origin: bytes, method: bytes, names: bytes) -> PreflightDecision:
        for policy, setting in self._policies:
            if policy.allows_origin(origin):
                return policy.judge(origin, method, names, setting)
        if origin == b"null":
            return _NULL_ORIGIN
        if Origin.parse(origin) is None:
            return _MALFORMED_ORIGIN
        return _refused(f"cors.allow_origins does not list {origin.decode()}.")
