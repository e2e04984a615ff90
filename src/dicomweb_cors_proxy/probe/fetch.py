"""The Fetch standard's CORS protocol, as browsers apply it to requests, without I/O.

The steps stand in three tables, `BEFORE`, `PREFLIGHT` and `CORS_CHECK`, in the standard's order;
the first that fails is the reason why a page gets nothing.

    request = Request("GET", url, origin, headers)
    if request.needs_preflight:
        step = judge_preflight(request, answer_to_options)
    step = step or judge(request, answer)  # None: the page reads the response

Source: https://fetch.spec.whatwg.org, commit of July 2026. Section names and step numbers are its.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from enum import StrEnum
from ipaddress import ip_address
from typing import TYPE_CHECKING, Final, TypeAlias
from urllib.parse import urljoin, urlsplit

if TYPE_CHECKING:
    from collections.abc import Callable, Container, Iterable

__all__ = [
    "BEFORE",
    "CORS_CHECK",
    "DEFAULT_MAX_AGE",
    "MAX_REDIRECTS",
    "PREFLIGHT",
    "Headers",
    "Request",
    "Response",
    "Rule",
    "Step",
    "combined",
    "exposes",
    "follow",
    "is_forbidden",
    "is_safelisted",
    "is_trustworthy",
    "judge",
    "judge_preflight",
    "judge_request",
    "lacking_names",
    "listed",
    "max_age",
    "normalize_method",
    "origin_of",
    "unsafe_names",
]

Headers: TypeAlias = "tuple[tuple[str, str], ...]"  # names in any case, values in Latin-1

MAX_REDIRECTS: Final = 20
MAX_VALUE: Final = 128
MAX_SAFELISTED: Final = 1024
DEFAULT_MAX_AGE: Final = 5
MAX_SECONDS: Final = 2**31  # RFC 9111 §1.2.2: the value of any that is larger
_MAX_SECONDS_DIGITS: Final = 10

_DEFAULT_PORTS: Final = {"http": 80, "https": 443}
_REDIRECTS: Final = frozenset({301, 302, 303, 307, 308})  # "redirect status"
_SAFELISTED_METHODS: Final = frozenset({"GET", "HEAD", "POST"})
_NORMALIZED_METHODS: Final = frozenset({"DELETE", "GET", "HEAD", "OPTIONS", "POST", "PUT"})
_SAFELISTED_ESSENCES: Final = frozenset(
    {"application/x-www-form-urlencoded", "multipart/form-data", "text/plain"}
)
_SAFELISTED_RESPONSE_HEADERS: Final = frozenset(
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
_FORBIDDEN_RESPONSE_HEADERS: Final = frozenset({"set-cookie", "set-cookie2"})
# The CORS engine has the same list: what judges it takes nothing from it.
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
_BODY_HEADERS: Final = frozenset(
    {"content-encoding", "content-language", "content-location", "content-type"}
)
_NON_WILDCARD: Final = "authorization"

_TOKEN: Final = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")  # RFC 9110 §5.6.2
_UNSAFE_BYTE: Final = re.compile(r'[\x00-\x08\x0a-\x1f"():<>?@\[\\\]{}\x7f]')
_LANGUAGES: Final = re.compile(r"[0-9A-Za-z *,.;=-]*")
_SINGLE_RANGE: Final = re.compile(r"bytes=([0-9]+)-([0-9]*)")
_ESSENCE: Final = re.compile(rf"({_TOKEN.pattern}/{_TOKEN.pattern})[ \t]*(?:;.*)?", re.DOTALL)
_SEPARATOR: Final = re.compile(r"[, ]")
_SECONDS: Final = re.compile(r"[0-9]+")

# "Port blocking".
_BAD_PORTS: Final = frozenset(
    {
        *(0, 1, 7, 9, 11, 13, 15, 17, 19, 20, 21, 22, 23, 25, 37, 42, 43, 53, 69, 77, 79, 87, 95),
        *(101, 102, 103, 104, 109, 110, 111, 113, 115, 117, 119, 123, 135, 137, 139, 143, 161),
        *(179, 389, 427, 465, 512, 513, 514, 515, 526, 530, 531, 532, 540, 548, 554, 556, 563),
        *(587, 601, 636, 989, 990, 993, 995, 1719, 1720, 1723, 2049, 3659, 4045, 4190, 5060, 5061),
        *(6000, 6566, 6665, 6666, 6667, 6668, 6669, 6679, 6697, 10080),
    }
)


class Rule(StrEnum):
    """A fault that a browser found; a name for scripts and for advice."""

    BAD_PORT = "bad-port"
    MIXED_CONTENT = "mixed-content"
    ALLOW_ORIGIN_MISSING = "allow-origin-missing"
    ALLOW_ORIGIN_SEVERAL = "allow-origin-several"
    ALLOW_ORIGIN_ANY_WITH_CREDENTIALS = "allow-origin-any-with-credentials"
    ALLOW_ORIGIN_OTHER = "allow-origin-other"
    CREDENTIALS_NOT_ALLOWED = "credentials-not-allowed"
    PREFLIGHT_REDIRECTED = "preflight-redirected"
    PREFLIGHT_STATUS = "preflight-status"
    ALLOW_METHODS_MALFORMED = "allow-methods-malformed"
    ALLOW_HEADERS_MALFORMED = "allow-headers-malformed"
    METHOD_NOT_ALLOWED = "method-not-allowed"
    AUTHORIZATION_NOT_NAMED = "authorization-not-named"
    HEADER_NOT_ALLOWED = "header-not-allowed"
    REDIRECT_NOT_HTTP = "redirect-not-http"
    REDIRECT_WITH_CREDENTIALS = "redirect-with-credentials"
    REDIRECT_LOOP = "redirect-loop"


@dataclass(frozen=True, slots=True)
class Request:
    """A page's request in mode "cors", by `fetch(url, {headers, credentials})`.

    Attributes:
        method: as it goes out, see `normalize_method`.
        url: absolute, http or https.
        origin: of the page, as browsers write it; `null` for opaque and tainted ones.
        headers: those that the page sets, values without white space around them.
        credentials: whether the credentials mode is "include".
        tainted: whether the request has left the page's origin ("response tainting" is "cors").
        redirects: how many led here.
    """

    method: str
    url: str
    origin: str
    headers: Headers = ()
    credentials: bool = False
    tainted: bool = False
    redirects: int = 0

    @property
    def is_cross_origin(self) -> bool:
        """Return whether CORS is asked for ("main fetch", step 12)."""
        return self.tainted or origin_of(self.url) != self.origin

    @property
    def unsafe_names(self) -> tuple[str, ...]:
        """Return the names that a preflight lists in Access-Control-Request-Headers."""
        return unsafe_names(self.headers)

    @property
    def needs_preflight(self) -> bool:
        """Return whether the browser asks before it sends this ("main fetch", step 12)."""
        return self.is_cross_origin and (
            self.method not in _SAFELISTED_METHODS or bool(self.unsafe_names)
        )


@dataclass(frozen=True, slots=True)
class Response:
    """The head of an HTTP answer, its headers line by line."""

    status: int
    headers: Headers = ()

    @property
    def is_ok(self) -> bool:
        """An "ok status"."""
        return 200 <= self.status <= 299

    @property
    def is_redirect(self) -> bool:
        """A "redirect status" with a place to go to."""
        return self.status in _REDIRECTS and bool(self.lines("location"))

    def lines(self, name: str) -> list[str]:
        """Return the value of every line of a header; `name` in lower case."""
        return [value for key, value in self.headers if key.lower() == name]


@dataclass(frozen=True, slots=True)
class Step:
    """A step of the standard at which a request can fail.

    Attributes:
        section, number: where it stands there.
        fails: whether the browser stops here, provided that no row before did.
    """

    rule: Rule
    section: str
    number: str
    fails: Callable[[Request, Response], bool]


def combined(answer: Response, name: str) -> str | None:
    """Get a header's value, its lines joined by `, ` ("get", header list)."""
    lines = answer.lines(name)
    return ", ".join(lines) if lines else None


def listed(answer: Response, name: str) -> list[str] | None:
    """Extract a header's list of tokens ("extracting header list values"); None without it.

    Empty elements are passed over (RFC 9110 §5.6.1.2). Raises ValueError if it is no such list.
    """
    value = combined(answer, name)
    if value is None:
        return None
    elements = [element for part in value.split(",") if (element := part.strip(" \t"))]
    if not all(map(_TOKEN.fullmatch, elements)):
        raise ValueError(f"{name} is no list of names")
    return elements


def _is_malformed(answer: Response, name: str) -> bool:
    try:
        listed(answer, name)
    except ValueError:
        return True
    return False


def _lists(answer: Response, name: str) -> list[str]:
    return listed(answer, name) or []


def _covers(request: Request, allowed: Container[str], item: str) -> bool:
    return item in allowed or (not request.credentials and "*" in allowed)


def _method_lacks(request: Request, answer: Response) -> bool:
    return request.method not in _SAFELISTED_METHODS and not _covers(
        request, _lists(answer, "access-control-allow-methods"), request.method
    )


def _allowed_names(answer: Response) -> list[str]:
    return [name.lower() for name in _lists(answer, "access-control-allow-headers")]


def _authorization_lacks(request: Request, answer: Response) -> bool:
    return _NON_WILDCARD in lacking_names(request, answer)


def _header_lacks(request: Request, answer: Response) -> bool:
    return bool(lacking_names(request, answer))


def _allow_origin(answer: Response) -> str:
    return combined(answer, "access-control-allow-origin") or ""


CORS_CHECK: Final = (
    Step(
        Rule.ALLOW_ORIGIN_MISSING,
        "CORS check",
        "2",
        lambda _, answer: not answer.lines("access-control-allow-origin"),
    ),
    Step(
        Rule.ALLOW_ORIGIN_SEVERAL,
        "CORS check",
        "4",
        lambda _, answer: bool(_SEPARATOR.search(_allow_origin(answer))),
    ),
    Step(
        Rule.ALLOW_ORIGIN_ANY_WITH_CREDENTIALS,
        "CORS check",
        "4",
        lambda request, answer: request.credentials and _allow_origin(answer) == "*",
    ),
    Step(
        Rule.ALLOW_ORIGIN_OTHER,
        "CORS check",
        "4",
        lambda request, answer: _allow_origin(answer) not in ("*", request.origin),
    ),
    Step(
        Rule.CREDENTIALS_NOT_ALLOWED,
        "CORS check",
        "8",
        lambda request, answer: (
            request.credentials and combined(answer, "access-control-allow-credentials") != "true"
        ),
    ),
)

_PREFLIGHT_FETCH: Final = "CORS-preflight fetch"

PREFLIGHT: Final = (
    # Browsers don't follow: what counts is the response itself, and 3xx is no ok status.
    Step(
        Rule.PREFLIGHT_REDIRECTED,
        _PREFLIGHT_FETCH,
        "7",
        lambda _, answer: answer.is_redirect,
    ),
    *CORS_CHECK,
    Step(
        Rule.PREFLIGHT_STATUS,
        _PREFLIGHT_FETCH,
        "7",
        lambda _, answer: not answer.is_ok,
    ),
    Step(
        Rule.ALLOW_METHODS_MALFORMED,
        _PREFLIGHT_FETCH,
        "7.3",
        lambda _, answer: _is_malformed(answer, "access-control-allow-methods"),
    ),
    Step(
        Rule.ALLOW_HEADERS_MALFORMED,
        _PREFLIGHT_FETCH,
        "7.3",
        lambda _, answer: _is_malformed(answer, "access-control-allow-headers"),
    ),
    Step(Rule.METHOD_NOT_ALLOWED, _PREFLIGHT_FETCH, "7.5", _method_lacks),
    Step(Rule.AUTHORIZATION_NOT_NAMED, _PREFLIGHT_FETCH, "7.6", _authorization_lacks),
    Step(Rule.HEADER_NOT_ALLOWED, _PREFLIGHT_FETCH, "7.7", _header_lacks),
)

BEFORE: Final = (
    Step(
        Rule.BAD_PORT,
        "main fetch",
        "7",
        lambda request, _: urlsplit(request.url).port in _BAD_PORTS,
    ),
    # Mixed Content, "should fetching request be blocked as mixed content".
    Step(
        Rule.MIXED_CONTENT,
        "main fetch",
        "7",
        lambda request, _: request.origin.startswith("https:") and not is_trustworthy(request.url),
    ),
)

_REDIRECT_FETCH: Final = "HTTP-redirect fetch"
_NOT_HTTP: Final = Step(
    Rule.REDIRECT_NOT_HTTP, _REDIRECT_FETCH, "6", lambda _, answer: answer.is_redirect
)
_TOO_MANY: Final = Step(
    Rule.REDIRECT_LOOP, _REDIRECT_FETCH, "7", lambda request, _: request.redirects >= MAX_REDIRECTS
)
_WITH_CREDENTIALS: Final = Step(
    Rule.REDIRECT_WITH_CREDENTIALS, _REDIRECT_FETCH, "10", lambda _, answer: answer.is_redirect
)


def _first(steps: Iterable[Step], request: Request, answer: Response) -> Step | None:
    return next((step for step in steps if step.fails(request, answer)), None)


def judge_request(request: Request) -> Step | None:
    """Return the step at which the request itself is stopped; None if it goes out."""
    return _first(BEFORE, request, Response(0))


def judge_preflight(request: Request, answer: Response) -> Step | None:
    """Return the step at which the preflight's answer stops the request; None if it goes out."""
    return _first(PREFLIGHT, request, answer)


def judge(request: Request, answer: Response) -> Step | None:
    """Return the step that keeps the response from the page; None if it can read it.

    A redirect is judged as any answer, before it is followed ("HTTP fetch").
    """
    return _first(CORS_CHECK, request, answer) if request.is_cross_origin else None


def follow(request: Request, answer: Response) -> Request | Step | None:
    """Return the request to which a redirect leads, or the step that forbids to follow it.

    None if the response is no redirect. "HTTP-redirect fetch".
    """
    if not answer.is_redirect:
        return None
    try:
        url = urljoin(request.url, answer.lines("location")[0])
        parts = urlsplit(url)
        there = origin_of(url)
    except ValueError:
        return _NOT_HTTP
    if parts.scheme not in _DEFAULT_PORTS or not parts.hostname:
        return _NOT_HTTP
    if _TOO_MANY.fails(request, answer):
        return _TOO_MANY
    here = origin_of(request.url)
    if (parts.username or parts.password) and (request.is_cross_origin or there != request.origin):
        return _WITH_CREDENTIALS
    method = request.method
    dropped: set[str] = set()
    if (answer.status in (301, 302) and method == "POST") or (
        answer.status == 303 and method not in ("GET", "HEAD")
    ):
        method = "GET"
        dropped |= _BODY_HEADERS
    if there != here:
        dropped.add(_NON_WILDCARD)
    return replace(
        request,
        method=method,
        url=url,
        # "Serializing a request origin": null once it has left an origin that is not the page's.
        origin="null" if here not in (request.origin, there) else request.origin,
        headers=tuple(line for line in request.headers if line[0].lower() not in dropped),
        tainted=request.is_cross_origin,
        redirects=request.redirects + 1,
    )


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


def lacking_names(request: Request, answer: Response) -> tuple[str, ...]:
    """Return the names for which a preflight asks and that its response does not allow.

    Raises ValueError if Access-Control-Allow-Headers is no list of names.
    """
    allowed = _allowed_names(answer)
    return tuple(
        name
        for name in request.unsafe_names
        if name not in allowed and (name == _NON_WILDCARD or not _covers(request, allowed, name))
    )


def max_age(answer: Response) -> int:
    """Return the seconds for which a granted preflight may be kept, before a browser's own limit.

    "CORS-preflight fetch", steps 7.8 and 7.9: 5 if there are none that can be read.
    """
    lines = answer.lines("access-control-max-age")
    if len(lines) != 1 or not _SECONDS.fullmatch(lines[0]):
        return DEFAULT_MAX_AGE
    digits = lines[0].lstrip("0")
    # Python refuses to convert more than 4300 digits.
    if len(digits) > _MAX_SECONDS_DIGITS:
        return MAX_SECONDS
    return min(int(digits or "0"), MAX_SECONDS)


def exposes(request: Request, answer: Response, name: str) -> bool:
    """Return whether a page can read the header `name`, in lower case, if the response has it.

    "CORS-safelisted response-header name"; "main fetch", step 14.
    """
    if name in _FORBIDDEN_RESPONSE_HEADERS:
        return False
    if not request.is_cross_origin or name in _SAFELISTED_RESPONSE_HEADERS:
        return True
    if _is_malformed(answer, "access-control-expose-headers"):
        return False
    names = {item.lower() for item in _lists(answer, "access-control-expose-headers")}
    return _covers(request, names, name)


def is_forbidden(name: str) -> bool:
    """Return whether browsers let no page set a header ("forbidden request-header")."""
    lowered = name.lower()
    return lowered in _FORBIDDEN_REQUEST_HEADERS or lowered.startswith(("proxy-", "sec-"))


def origin_of(url: str) -> str:
    """Return the origin of an http or https URL, as browsers write it.

    Raises ValueError for what is no URL.
    """
    parts = urlsplit(url)
    host = parts.hostname or ""
    host = f"[{host}]" if ":" in host else host
    port = parts.port
    if port is None or port == _DEFAULT_PORTS.get(parts.scheme):
        return f"{parts.scheme}://{host}"
    return f"{parts.scheme}://{host}:{port}"


def is_trustworthy(url: str) -> bool:
    """Return whether a URL is potentially trustworthy (Secure Contexts, §3.1)."""
    parts = urlsplit(url)
    if parts.scheme == "https":
        return True
    host = (parts.hostname or "").rstrip(".")
    if host == "localhost" or host.endswith(".localhost"):
        return True
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return False
