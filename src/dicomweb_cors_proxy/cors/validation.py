"""Find what is wrong with a policy's options, and what is probably a mistake."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from dicomweb_cors_proxy.cors.fetch_names import (
    ANY,
    FORBIDDEN_METHODS,
    FORBIDDEN_REQUEST_HEADERS,
    FORBIDDEN_REQUEST_PREFIXES,
    FORBIDDEN_RESPONSE_HEADERS,
    KNOWN_METHODS,
    OWN_RESPONSE_HEADERS,
    RESPONSE_HEADERS,
)
from dicomweb_cors_proxy.cors.origins import APP_SCHEMES, OriginPattern
from dicomweb_cors_proxy.cors.problems import PolicyError, PolicyIssue
from dicomweb_cors_proxy.http.hosts import DEFAULT_PORTS
from dicomweb_cors_proxy.http.messages import TOKEN

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from dicomweb_cors_proxy.cors.options import PolicyOptions

__all__ = ["policy_problems", "policy_warnings"]

_MAX_AGE: Final = range(-1, 86400 + 1)
_CHROMIUM_MAX_AGE: Final = 7200


def policy_problems(options: PolicyOptions) -> list[PolicyIssue]:
    """Return every reason why the options cannot become a policy."""
    problems = list(_origin_problems(options))
    problems += _method_problems(options.allow_methods)
    problems += _request_header_problems(options.allow_headers)
    problems += _exposed_header_problems(
        options.expose_headers, credentials=options.allow_credentials
    )
    if options.max_age not in _MAX_AGE:
        reason = f"is outside {_MAX_AGE[0]}..{_MAX_AGE[-1]}, in seconds; the default is 7200"
        problems.append(PolicyIssue("max_age", str(options.max_age), reason))
    return problems


def policy_warnings(options: PolicyOptions) -> Iterator[PolicyIssue]:
    """Yield what valid options permit although it is probably a mistake."""
    origins = dict.fromkeys(options.allow_origins)
    if ANY in origins:
        reason = "lets any page on the web read the responses; list the viewers' origins"
        yield PolicyIssue("allow_origins", ANY, reason)
    for origin in origins:
        scheme, separator, _ = origin.partition("://")
        if separator and scheme not in DEFAULT_PORTS.keys() | APP_SCHEMES:
            reason = "is the origin of no web page and no common app; check its scheme"
            yield PolicyIssue("allow_origins", origin, reason)
    if options.max_age > _CHROMIUM_MAX_AGE:
        reason = f"is more than Chromium ({_CHROMIUM_MAX_AGE}) and Safari (600) keep; lower it"
        yield PolicyIssue("max_age", str(options.max_age), reason)
    headers = {name.lower() for name in options.allow_headers}
    exposed = {name.lower() for name in options.expose_headers}
    if ANY in headers:
        if not options.allow_credentials and "authorization" not in headers:
            reason = "does not cover authorization; if pages send that, list it as well"
            yield PolicyIssue("allow_headers", ANY, reason)
    elif "accept" not in headers:
        reason = "is not listed, so pages cannot ask for a quoted media type; add it"
        yield PolicyIssue("allow_headers", "accept", reason)
    if headers & {ANY, "range"} and not exposed & {ANY, "content-range"}:
        reason = "is not listed, so viewers that use range take a part for the whole; add it"
        yield PolicyIssue("expose_headers", "content-range", reason)


def _origin_problems(options: PolicyOptions) -> Iterator[PolicyIssue]:
    if not options.allow_origins:
        reason = "has no origin; list the viewer's, such as https://viewer.example"
        yield PolicyIssue("allow_origins", "[]", reason)
    for text in dict.fromkeys(options.allow_origins):
        if text != ANY:
            try:
                pattern = OriginPattern.parse(text)
            except PolicyError as error:
                yield from error.problems
                continue
            reasons = _credentials_faults(pattern, options) if options.allow_credentials else ()
            for reason in reasons:
                yield PolicyIssue("allow_origins", text, reason)
        elif options.allow_credentials:
            reason = "cannot be used with allow_credentials; list the viewers' origins"
            yield PolicyIssue("allow_origins", text, reason)


def _credentials_faults(pattern: OriginPattern, options: PolicyOptions) -> Iterator[str]:
    if not (pattern.is_secure or options.dangerously_allow_insecure_origins):
        yield (
            "is plain http, so anyone on the network's path can act with a user's credentials; "
            "use https, leave allow_credentials off, or set dangerously_allow_insecure_origins"
        )
    if pattern.covers_public_suffix():
        yield (
            f"allows everyone who gets a name below {pattern.host}, a public suffix, to use a "
            "user's credentials; name a domain of your own, or leave allow_credentials off"
        )


def _method_problems(methods: Iterable[str]) -> Iterator[PolicyIssue]:
    """Yield the problems with the names in `allow_methods`."""
    for method in dict.fromkeys(methods):
        if not _is_token(method):
            yield PolicyIssue(
                "allow_methods", method, "is not a method; write a name such as DELETE"
            )
        elif method.upper() in FORBIDDEN_METHODS:
            reason = "is a method that browsers never let a page send; leave it out"
            yield PolicyIssue("allow_methods", method, reason)
        elif method not in KNOWN_METHODS and method.upper() in KNOWN_METHODS:
            reason = f"is never sent, because methods are case-sensitive; write {method.upper()}"
            yield PolicyIssue("allow_methods", method, reason)


def _request_header_problems(names: Iterable[str]) -> Iterator[PolicyIssue]:
    """Yield the problems with the names in `allow_headers`."""
    for name in dict.fromkeys(names):
        lowered = name.lower()
        if not _is_token(name):
            reason = "is not a header name; write one such as content-type"
        elif lowered in FORBIDDEN_REQUEST_HEADERS or lowered.startswith(FORBIDDEN_REQUEST_PREFIXES):
            reason = "is a header that browsers do not let pages set; leave it out"
        elif lowered in OWN_RESPONSE_HEADERS:
            reason = "is a response header, and the proxy sends it by itself; leave it out"
        elif lowered in RESPONSE_HEADERS:
            reason = "is a response header; if pages are to read it, move it to expose_headers"
        else:
            continue
        yield PolicyIssue("allow_headers", name, reason)


def _exposed_header_problems(names: Iterable[str], *, credentials: bool) -> Iterator[PolicyIssue]:
    """Yield the problems with the names in `expose_headers`."""
    for name in dict.fromkeys(names):
        if not _is_token(name):
            reason = "is not a header name; write one such as content-range"
        elif name.lower() in FORBIDDEN_RESPONSE_HEADERS:
            reason = "is a header that browsers never show to a page; leave it out"
        elif name == ANY and credentials:
            reason = "has no effect in browsers with allow_credentials; list the headers by name"
        else:
            continue
        yield PolicyIssue("expose_headers", name, reason)


def _is_token(name: str) -> bool:
    return name.isascii() and TOKEN.fullmatch(name.encode()) is not None
