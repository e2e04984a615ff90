"""Choose the policy of an origin, decide on requests, and cache the decisions."""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING, Final

from dicomweb_cors_proxy.cors.origins import MAX_ORIGIN_BYTES, Origin, is_hostless
from dicomweb_cors_proxy.cors.policy import Decision, PreflightDecision, refused

if TYPE_CHECKING:
    from collections.abc import Sequence

    from dicomweb_cors_proxy.cors.policy import CompiledPolicy

__all__ = ["CORSEngine"]

MAX_PREFLIGHT_BYTES: Final = 8192  # origin, method and header names together
CACHED_ORIGINS: Final = 1024
CACHED_PREFLIGHTS: Final = 256

_OVERSIZED: Final = refused(
    f"Origin and Access-Control-Request-* have more than {MAX_PREFLIGHT_BYTES} bytes. Send fewer "
    "headers."
)
_MALFORMED_ORIGIN: Final = "Origin is malformed. Send it as browsers do: scheme://host:port."
_NULL_ORIGIN: Final = (
    "This page's origin is null, as in a sandboxed frame or a local file, which cannot be listed: "
    "serve the page over http or https and list its origin in cors.allow_origins. Without cookies, "
    "a plain * there allows it too."
)
_HOSTLESS_ORIGIN: Final = (
    "This page's origin has no host, as in some apps, and cannot be listed: give the app's pages a "
    "host, or serve them over https, and list that origin in cors.allow_origins. Without cookies, "
    "a plain * there allows it too."
)


class CORSEngine:
    """The decisions on requests, by the first policy that allows their origin."""

    def __init__(
        self, policies: Sequence[CompiledPolicy], *, own_origin: str | None = None
    ) -> None:
        """Take the policies of `cors.per_origin` in order, and last that of `cors` itself.

        Requests of `own_origin`, where browsers reach the proxy, need no CORS and are not refused.
        """
        self._policies = tuple(policies)
        self._own_origin = None if own_origin is None else own_origin.encode()
        # The same headers for all origins can be cached, and fit requests without an origin.
        same_for_all = policies[0].any_origin
        vary = () if same_for_all else (b"Origin",)
        headers = policies[0].actual_headers(b"*") if same_for_all else ()
        self._none = Decision("none", headers, vary)
        self._decide_cached = lru_cache(CACHED_ORIGINS)(self._decide)
        self._judge_cached = lru_cache(CACHED_PREFLIGHTS)(self._judge)

    def decide(self, origin: bytes | None) -> Decision:
        """Decide on an actual request by the value of its Origin header, None or b"" for none."""
        if not origin:
            return self._none
        # Cut where no origin can match any more: the cache's keys stay small.
        return self._decide_cached(origin[: MAX_ORIGIN_BYTES + 1])

    def preflight(
        self, origin: bytes, method: bytes, request_headers: Sequence[bytes]
    ) -> PreflightDecision:
        """Judge a preflight by Origin, Access-Control-Request-Method and the lines of -Headers."""
        names = b",".join(request_headers)  # RFC 9110 §5.3
        if len(origin) + len(method) + len(names) > MAX_PREFLIGHT_BYTES:
            return _OVERSIZED
        return self._judge_cached(origin, method, names)

    def _decide(self, origin: bytes) -> Decision:
        for policy in self._policies:
            if policy.allows_origin(origin):
                return Decision("allowed", policy.actual_headers(origin), self._none.vary)
        if origin == self._own_origin:
            return self._none
        return Decision("refused", (), self._none.vary, _origin_refusal(origin))

    def _judge(self, origin: bytes, method: bytes, names: bytes) -> PreflightDecision:
        for policy in self._policies:
            if policy.allows_origin(origin):
                return policy.judge_preflight(origin, method, names)
        return refused(_origin_refusal(origin))


def _origin_refusal(origin: bytes) -> str:
    """Return why an origin that no policy covers is rejected."""
    if origin == b"null":
        return _NULL_ORIGIN
    if is_hostless(origin):
        return _HOSTLESS_ORIGIN
    if Origin.parse(origin) is None:
        return _MALFORMED_ORIGIN
    return f"cors.allow_origins does not list {origin.decode()}."
