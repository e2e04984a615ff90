"""The Fetch standard's CORS protocol, as browsers apply it to requests, without I/O.

The steps stand in three tables, `BEFORE`, `PREFLIGHT` and `CORS_CHECK`, in the standard's order;
the first that fails is the reason why a page gets nothing.

    request = Request("GET", url, origin, headers)
    if request.needs_preflight:
        step = judge_preflight(request, options_response)
    step = step or judge(request, response)  # None: the page reads the response

Source: https://fetch.spec.whatwg.org, commit of July 2026. Section names and step numbers are its.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import TYPE_CHECKING, Final
from urllib.parse import urljoin, urlsplit

from dicomweb_cors_proxy.probe.origins import BAD_PORTS, DEFAULT_PORTS, is_trustworthy, origin_of
from dicomweb_cors_proxy.probe.responses import Headers, Response, combined, is_malformed, listed
from dicomweb_cors_proxy.probe.safelists import (
    FORBIDDEN_RESPONSE_HEADERS,
    SAFELISTED_METHODS,
    SAFELISTED_RESPONSE_HEADERS,
    unsafe_names,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Container, Iterable

__all__ = [
    "BEFORE",
    "CORS_CHECK",
    "DEFAULT_MAX_AGE",
    "MAX_REDIRECTS",
    "PREFLIGHT",
    "Request",
    "Rule",
    "Step",
    "exposes",
    "follow",
    "judge",
    "judge_preflight",
    "judge_request",
    "lacking_names",
    "max_age",
]

MAX_REDIRECTS: Final = 20
DEFAULT_MAX_AGE: Final = 5
MAX_SECONDS: Final = 2**31  # RFC 9111 §1.2.2: the value of any that is larger
_MAX_SECONDS_DIGITS: Final = 10

_BODY_HEADERS: Final = frozenset(
    {"content-encoding", "content-language", "content-location", "content-type"}
)
_NON_WILDCARD: Final = "authorization"

_SEPARATOR: Final = re.compile(r"[, ]")
_SECONDS: Final = re.compile(r"[0-9]+")


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
            self.method not in SAFELISTED_METHODS or bool(self.unsafe_names)
        )


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


def _lists(response: Response, name: str) -> list[str]:
    return listed(response, name) or []


def _covers(request: Request, allowed: Container[str], item: str) -> bool:
    return item in allowed or (not request.credentials and "*" in allowed)


def _method_lacks(request: Request, response: Response) -> bool:
    return request.method not in SAFELISTED_METHODS and not _covers(
        request, _lists(response, "access-control-allow-methods"), request.method
    )


def _allowed_names(response: Response) -> list[str]:
    return [name.lower() for name in _lists(response, "access-control-allow-headers")]


def _authorization_lacks(request: Request, response: Response) -> bool:
    return _NON_WILDCARD in lacking_names(request, response)


def _header_lacks(request: Request, response: Response) -> bool:
    return bool(lacking_names(request, response))


def _allow_origin(response: Response) -> str:
    return combined(response, "access-control-allow-origin") or ""


CORS_CHECK: Final = (
    Step(
        Rule.ALLOW_ORIGIN_MISSING,
        "CORS check",
        "2",
        lambda _, response: not response.lines("access-control-allow-origin"),
    ),
    Step(
        Rule.ALLOW_ORIGIN_SEVERAL,
        "CORS check",
        "4",
        lambda _, response: bool(_SEPARATOR.search(_allow_origin(response))),
    ),
    Step(
        Rule.ALLOW_ORIGIN_ANY_WITH_CREDENTIALS,
        "CORS check",
        "4",
        lambda request, response: request.credentials and _allow_origin(response) == "*",
    ),
    Step(
        Rule.ALLOW_ORIGIN_OTHER,
        "CORS check",
        "4",
        lambda request, response: _allow_origin(response) not in ("*", request.origin),
    ),
    Step(
        Rule.CREDENTIALS_NOT_ALLOWED,
        "CORS check",
        "8",
        lambda request, response: (
            request.credentials and combined(response, "access-control-allow-credentials") != "true"
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
        lambda _, response: response.is_redirect,
    ),
    *CORS_CHECK,
    Step(
        Rule.PREFLIGHT_STATUS,
        _PREFLIGHT_FETCH,
        "7",
        lambda _, response: not response.is_ok,
    ),
    Step(
        Rule.ALLOW_METHODS_MALFORMED,
        _PREFLIGHT_FETCH,
        "7.3",
        lambda _, response: is_malformed(response, "access-control-allow-methods"),
    ),
    Step(
        Rule.ALLOW_HEADERS_MALFORMED,
        _PREFLIGHT_FETCH,
        "7.3",
        lambda _, response: is_malformed(response, "access-control-allow-headers"),
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
        lambda request, _: urlsplit(request.url).port in BAD_PORTS,
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
    Rule.REDIRECT_NOT_HTTP, _REDIRECT_FETCH, "6", lambda _, response: response.is_redirect
)
_TOO_MANY: Final = Step(
    Rule.REDIRECT_LOOP, _REDIRECT_FETCH, "7", lambda request, _: request.redirects >= MAX_REDIRECTS
)
_WITH_CREDENTIALS: Final = Step(
    Rule.REDIRECT_WITH_CREDENTIALS, _REDIRECT_FETCH, "10", lambda _, response: response.is_redirect
)


def _first(steps: Iterable[Step], request: Request, response: Response) -> Step | None:
    return next((step for step in steps if step.fails(request, response)), None)


def judge_request(request: Request) -> Step | None:
    """Return the step at which the request itself is stopped; None if it goes out."""
    return _first(BEFORE, request, Response(0))


def judge_preflight(request: Request, response: Response) -> Step | None:
    """Return the step at which the preflight's response stops the request; None if it goes out."""
    return _first(PREFLIGHT, request, response)


def judge(request: Request, response: Response) -> Step | None:
    """Return the step that keeps the response from the page; None if it can read it.

    A redirect is judged as any response, before it is followed ("HTTP fetch").
    """
    return _first(CORS_CHECK, request, response) if request.is_cross_origin else None


def follow(request: Request, response: Response) -> Request | Step | None:
    """Return the request to which a redirect leads, or the step that forbids to follow it.

    None if the response is no redirect. "HTTP-redirect fetch".
    """
    if not response.is_redirect:
        return None
    try:
        url = urljoin(request.url, response.lines("location")[0])
        parts = urlsplit(url)
        there = origin_of(url)
    except ValueError:
        return _NOT_HTTP
    if parts.scheme not in DEFAULT_PORTS or not parts.hostname:
        return _NOT_HTTP
    if _TOO_MANY.fails(request, response):
        return _TOO_MANY
    here = origin_of(request.url)
    if (parts.username or parts.password) and (request.is_cross_origin or there != request.origin):
        return _WITH_CREDENTIALS
    method = request.method
    dropped: set[str] = set()
    if (response.status in (301, 302) and method == "POST") or (
        response.status == 303 and method not in ("GET", "HEAD")
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


def lacking_names(request: Request, response: Response) -> tuple[str, ...]:
    """Return the names for which a preflight asks and that its response does not allow.

    Raises ValueError if Access-Control-Allow-Headers is no list of names.
    """
    allowed = _allowed_names(response)
    return tuple(
        name
        for name in request.unsafe_names
        if name not in allowed and (name == _NON_WILDCARD or not _covers(request, allowed, name))
    )


def max_age(response: Response) -> int:
    """Return the seconds for which a granted preflight may be kept, before a browser's own limit.

    "CORS-preflight fetch", steps 7.8 and 7.9: 5 if there are none that can be read.
    """
    lines = response.lines("access-control-max-age")
    if len(lines) != 1 or not _SECONDS.fullmatch(lines[0]):
        return DEFAULT_MAX_AGE
    digits = lines[0].lstrip("0")
    # Python refuses to convert more than 4300 digits.
    if len(digits) > _MAX_SECONDS_DIGITS:
        return MAX_SECONDS
    return min(int(digits or "0"), MAX_SECONDS)


def exposes(request: Request, response: Response, name: str) -> bool:
    """Return whether a page can read the header `name`, in lower case, if the response has it.

    "CORS-safelisted response-header name"; "main fetch", step 14.
    """
    if name in FORBIDDEN_RESPONSE_HEADERS:
        return False
    if not request.is_cross_origin or name in SAFELISTED_RESPONSE_HEADERS:
        return True
    if is_malformed(response, "access-control-expose-headers"):
        return False
    names = {item.lower() for item in _lists(response, "access-control-expose-headers")}
    return _covers(request, names, name)
