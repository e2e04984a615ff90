"""Check the lists of a policy: origins, methods and headers."""

from __future__ import annotations

from typing import TYPE_CHECKING

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
from dicomweb_cors_proxy.cors.origins import OriginPattern
from dicomweb_cors_proxy.cors.problems import PolicyError, PolicyIssue
from dicomweb_cors_proxy.http.messages import TOKEN

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

__all__ = ["exposed_header_problems", "method_problems", "read_origins", "request_header_problems"]


def read_origins(
    texts: Sequence[str], *, credentials: bool, insecure: bool
) -> tuple[list[OriginPattern], list[PolicyIssue]]:
    """Read the patterns of `allow_origins`, and the problems with them."""
    patterns: list[OriginPattern] = []
    problems: list[PolicyIssue] = []

    def refuse(text: str, reason: str) -> None:
        problems.append(PolicyIssue("allow_origins", text, reason))

    if not texts:
        refuse("[]", "holds no origin; list the viewer's, such as https://viewer.example")
    for text in dict.fromkeys(texts):
        if text == ANY:
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


def method_problems(methods: Iterable[str]) -> Iterator[PolicyIssue]:
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


def request_header_problems(names: Iterable[str]) -> Iterator[PolicyIssue]:
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


def exposed_header_problems(names: Iterable[str], *, credentials: bool) -> Iterator[PolicyIssue]:
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
