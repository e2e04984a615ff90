"""A policy compiled for fast decisions, and the decisions."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Literal, Self

from dicomweb_cors_proxy.cors.fetch_names import ANY, SAFELISTED_METHODS
from dicomweb_cors_proxy.cors.origins import Origin, OriginPattern
from dicomweb_cors_proxy.cors.problems import PolicyError, listed
from dicomweb_cors_proxy.cors.validation import policy_problems
from dicomweb_cors_proxy.http.headers import merge_vary
from dicomweb_cors_proxy.http.messages import TOKEN, Header

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from dicomweb_cors_proxy.cors.options import PolicyOptions

__all__ = ["CompiledPolicy", "Decision", "PreflightDecision", "refused"]

MAX_REQUEST_HEADERS: Final = 256
MAX_EMPTY_ELEMENTS: Final = 16  # RFC 9110 §5.6.1.2: enough for mistakes, too few for an attack

# A reason goes to the log, so it repeats only names that cannot be an ID, a UID or a token.
_PRINTABLE_NAME: Final = re.compile(rb"(?=.{1,40}\Z)[A-Za-z]+(?:-[A-Za-z]+)*")
_MAX_PRINTED_NAMES: Final = 8

_PREFLIGHT_VARY: Final[Header] = (
    b"vary",
    b"Origin, Access-Control-Request-Method, Access-Control-Request-Headers",
)


@dataclass(frozen=True, slots=True)
class Decision:
    """The CORS headers for the response to an actual request, of whatever status.

    `none` is a request without Origin, or from the proxy's own. `vary` names the request headers
    that the response depends on, to be merged with the archive's Vary. `reason` says for the log
    why an origin is refused.
    """

    outcome: Literal["allowed", "refused", "none"]
    headers: tuple[Header, ...]
    vary: tuple[bytes, ...]
    reason: str = ""

    def added_to(self, headers: Iterable[Header]) -> list[Header]:
        """Return the headers of a response with these, and a Vary that covers `vary`."""
        return merge_vary([*headers, *self.headers], self.vary)


@dataclass(frozen=True, slots=True)
class PreflightDecision:
    """Status and all headers of the response to a preflight.

    403 hides the policy from origins that it does not know. An origin that it knows gets 204 and
    its lists, even if they lack what the page needs: the browser's console then names that.

    `reason` says which rule rejected the preflight and which setting to change. Of the request it
    repeats no more than a well-formed origin, and names that consist of letters and hyphens.
    """

    allowed: bool
    headers: tuple[Header, ...]
    reason: str = ""
    status: Literal[204, 403] = 204


def refused(reason: str) -> PreflightDecision:
    """Return the decision on a preflight of an origin that no policy knows."""
    return PreflightDecision(allowed=False, headers=(_PREFLIGHT_VARY,), reason=reason, status=403)


@dataclass(frozen=True, slots=True)
class CompiledPolicy:
    """A policy in the form that decides on requests; made by `compile`.

    `setting` is the key of its options, for reasons. `methods` hold the safelisted ones too; names
    of `headers` are in lower case.
    """

    setting: str
    any_origin: bool
    origins: frozenset[bytes]
    patterns: tuple[OriginPattern, ...]
    any_method: bool
    methods: frozenset[bytes]
    any_header: bool
    headers: frozenset[bytes]
    credentials: bool
    # The values of our response headers, b"" where one is left out.
    allow_methods: bytes
    allow_headers: bytes
    expose_headers: bytes
    max_age: bytes

    @classmethod
    def compile(cls, options: PolicyOptions, setting: str) -> Self:
        """Compile the options that the key `setting` holds; raise PolicyError with all problems."""
        if problems := policy_problems(options):
            raise PolicyError(problems)
        origins, methods = options.allow_origins, options.allow_methods
        patterns = [OriginPattern.parse(text) for text in origins if text != ANY]
        headers = [name.lower() for name in options.allow_headers]
        exposed = [name.lower() for name in options.expose_headers]
        beside_any = ["authorization"] if "authorization" in headers else []
        return cls(
            setting=setting,
            any_origin=ANY in origins,
            origins=frozenset(str(p).encode() for p in patterns if not p.has_wildcard),
            patterns=tuple(p for p in patterns if p.has_wildcard),
            any_method=ANY in methods,
            methods=SAFELISTED_METHODS.union(name.encode() for name in methods),
            any_header=ANY in headers,
            headers=frozenset(name.encode() for name in headers),
            credentials=options.allow_credentials,
            allow_methods=_list_value([ANY] if ANY in methods else methods),
            allow_headers=_list_value([ANY, *beside_any] if ANY in headers else headers),
            expose_headers=_list_value([ANY] if ANY in exposed else exposed),
            # delta-seconds have no sign, and browsers take what they cannot read for 5 seconds.
            max_age=b"%d" % max(options.max_age, 0),
        )

    def allows_origin(self, origin: bytes) -> bool:
        """Return whether the policy covers pages of `origin`, the value of an Origin header."""
        if self.any_origin or origin in self.origins:
            return True
        parsed = Origin.parse(origin) if self.patterns else None
        return parsed is not None and any(pattern.matches(parsed) for pattern in self.patterns)

    def actual_headers(self, origin: bytes) -> tuple[Header, ...]:
        """Return the CORS headers of the response to an actual request of an allowed origin."""
        headers = self._origin_headers(origin)
        if self.expose_headers:
            headers.append((b"access-control-expose-headers", self.expose_headers))
        return tuple(headers)

    def judge_preflight(self, origin: bytes, method: bytes, names: bytes) -> PreflightDecision:
        """Judge a preflight of an origin that is allowed (Fetch, "CORS-preflight fetch", step 7).

        `names` is the list in Access-Control-Request-Headers.
        """
        method_reason = self._method_refusal(method)
        requested = _requested_headers(names)
        reason = method_reason or self._header_refusal(requested)

        allow_methods, allow_headers = self.allow_methods, self.allow_headers
        # With credentials browsers read * as a name. What * covers is listed in its place, so that
        # the console names the one thing that is lacking.
        if self.any_method and (self.credentials or method_reason):
            allow_methods = b"" if method_reason else method
        if self.any_header and (self.credentials or requested is None):
            allow_headers = b", ".join(requested or ())
        headers = self._origin_headers(origin)
        if allow_methods:
            headers.append((b"access-control-allow-methods", allow_methods))
        if allow_headers:
            headers.append((b"access-control-allow-headers", allow_headers))
        max_age = b"0" if reason else self.max_age
        headers += [(b"access-control-max-age", max_age), _PREFLIGHT_VARY]
        return PreflightDecision(allowed=not reason, headers=tuple(headers), reason=reason)

    def _origin_headers(self, origin: bytes) -> list[Header]:
        headers = [(b"access-control-allow-origin", b"*" if self.any_origin else origin)]
        if self.credentials:
            headers.append((b"access-control-allow-credentials", b"true"))
        return headers

    def _allows_header(self, name: bytes) -> bool:
        if name in self.headers:
            return True
        return self.any_header and (self.credentials or name != b"authorization")

    def _method_refusal(self, method: bytes) -> str:
        """Return why a method is not allowed, otherwise an empty string."""
        if method in self.methods:
            return ""
        if not TOKEN.fullmatch(method):
            return "Access-Control-Request-Method is not a method. Send one, such as GET."
        if self.any_method:
            return ""
        if method.upper() in self.methods:
            return f"Methods are case-sensitive: the page must send {method.upper().decode()}."
        named = method.decode() if _PRINTABLE_NAME.fullmatch(method) else "the page's method"
        return f"{self.setting}.allow_methods does not list {named}."

    def _header_refusal(self, requested: Sequence[bytes] | None) -> str:
        """Return why the request headers are not allowed, otherwise an empty string."""
        if requested is None:
            return (
                "Access-Control-Request-Headers is malformed, or has more than "
                f"{MAX_REQUEST_HEADERS} names or {MAX_EMPTY_ELEMENTS} empty elements."
            )
        lacking = [name for name in requested if not self._allows_header(name)]
        if not lacking:
            return ""
        if self.any_header:
            return (
                f"In {self.setting}.allow_headers * does not cover authorization; list it as well."
            )
        printable = sorted(name.decode() for name in lacking if _PRINTABLE_NAME.fullmatch(name))
        named = printable[:_MAX_PRINTED_NAMES]
        if unnamed := len(lacking) - len(named):
            more = " more" if named else ""
            named.append(f"{unnamed}{more}, which the browser's network panel shows")
        return f"{self.setting}.allow_headers does not list these headers: {listed(named)}."


def _list_value(names: Iterable[str]) -> bytes:
    return ", ".join(dict.fromkeys(names)).encode()


def _requested_headers(value: bytes) -> list[bytes] | None:
    """Return the names asked for, once each and in lower case; None if the list is malformed.

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
