"""A cache of the proxy's own access token, and the upstream whose requests carry it.

The modules oauth and cloud have sources of tokens, and token_file tokens that need no cache.
"""

from __future__ import annotations

import asyncio
import logging
import math
import time
from typing import TYPE_CHECKING, Final, NamedTuple, Protocol, Self

from dicomweb_cors_proxy.upstream.failures import UpstreamProblem

if TYPE_CHECKING:
    from collections.abc import AsyncIterable, Callable, Mapping

    from dicomweb_cors_proxy.upstream.interface import Request, Timeouts, Upstream, UpstreamResponse

__all__ = ["Token", "TokenCache", "TokenSource", "TokenUpstream", "Tokens", "no_token"]

logger = logging.getLogger(__name__)

# A token is renewed when a quarter of its lifetime is left, or this much if that is less.
MAX_RENEWAL_LEAD_SECONDS: Final = 60.0

# Seconds between two attempts after one failed, or after the archive rejected its token. Otherwise
# a viewer's hundred requests would become a hundred at the token endpoint, which may lock the
# client out. The pause after a rejection doubles, because a new token may be rejected, too.
RETRY_INTERVAL: Final = 1.0
MAX_RETRY_INTERVAL: Final = 60.0


class Tokens(Protocol):
    """The tokens of the proxy; `TokenCache` and `token_file.TokenFile` are some."""

    async def get(self) -> bytes: ...

    async def replacement_for(self, value: bytes) -> bytes | None: ...


class TokenUpstream:
    """An upstream whose requests carry an access token (RFC 6750 §2.1).

    A request without a body that gets a 401 is sent again, once, with another token.

    Args:
        upstream: sends the requests; closed by `aclose`.
        tokens: gives each request its token.
    """

    def __init__(self, upstream: Upstream, tokens: Tokens) -> None:
        self._upstream = upstream
        self._tokens = tokens

    async def send(
        self, request: Request, body: AsyncIterable[bytes] | None, timeouts: Timeouts
    ) -> UpstreamResponse:
        """Send a request with a token. Raise as the upstream does, and a 502 without a token."""
        token = await self._tokens.get()
        response = await self._upstream.send(_authorized(request, token), body, timeouts)
        if response.status != 401:
            return response
        try:
            other = await self._tokens.replacement_for(token)
        except BaseException:
            await response.aclose()
            raise
        if other is None or body is not None:
            return response
        await response.aclose()
        return await self._upstream.send(_authorized(request, other), None, timeouts)

    def connections(self) -> Mapping[str, int]:
        return self._upstream.connections()

    async def aclose(self) -> None:
        await self._upstream.aclose()


def _authorized(request: Request, token: bytes) -> Request:
    return request._replace(headers=[*request.headers, (b"authorization", b"Bearer " + token)])


class Token(NamedTuple):
    """An access token. `renewal` and `end` are clock readings; infinite without a lifetime."""

    value: bytes
    renewal: float
    end: float

    @classmethod
    def lasting(cls, value: bytes, *, since: float, life: float) -> Self:
        """Return a token that expires `life` seconds after `since`, a clock reading."""
        end = since + life
        return cls(value, end - min(MAX_RENEWAL_LEAD_SECONDS, life / 4), end)


class TokenSource(Protocol):
    """A source of tokens. `name` is how the log names it, without a secret."""

    @property
    def name(self) -> str: ...

    async def fetch(self, clock: Callable[[], float]) -> Token | str:
        """Return a token that uses `clock`, or the reason why there is none, and what to do."""


class TokenCache:
    """A cache of the proxy's own access token, fetched at first need and renewed before it expires.

    One fetch runs at a time; all callers that need a token await it.

    Args:
        source: fetches tokens.
        clock: returns a time in seconds.
    """

    def __init__(self, source: TokenSource, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._source = source
        self._clock = clock
        self._token: Token | None = None
        self._fetching: asyncio.Task[Token | str] | None = None
        self._last_error = ""
        self._may_try_at = -math.inf
        self._may_replace_at = -math.inf
        self._pause = RETRY_INTERVAL

    async def get(self) -> bytes:
        """Return the token, or raise `UpstreamProblem` 502, which says why there is none."""
        token = self._token
        if token is not None:
            now = self._clock()
            if now >= token.renewal and self._fetching is None and now >= self._may_try_at:
                self._fetch()
            if now < token.end:
                return token.value
        if self._fetching is None and self._clock() < self._may_try_at:
            raise no_token(self._last_error)
        return await self._next()

    async def replacement_for(self, value: bytes) -> bytes | None:
        """Return a token to replace one that the archive rejected; None if it is too early.

        Until then other requests use the rejected token, because the archive may reject it for
        one resource only. Raise `UpstreamProblem` 502, as `get` does.
        """
        if self._token is None or self._token.value != value:
            return await self.get()
        if self._fetching is None:
            now = self._clock()
            if now < max(self._may_replace_at, self._may_try_at):
                return None
            # An archive that rejects every token must not cause requests without end.
            is_again = now < self._may_replace_at + MAX_RETRY_INTERVAL
            self._pause = min(2 * self._pause, MAX_RETRY_INTERVAL) if is_again else RETRY_INTERVAL
            self._may_replace_at = now + self._pause
        other = await self._next()
        return None if other == value else other

    async def _next(self) -> bytes:
        """Return the token that is being fetched. Raise `UpstreamProblem` 502 if that fails."""
        # A request that is cancelled must not take the token from the others.
        outcome = await asyncio.shield(self._fetching or self._fetch())
        if isinstance(outcome, str):
            raise no_token(outcome)
        return outcome.value

    def _fetch(self) -> asyncio.Task[Token | str]:
        self._fetching = asyncio.create_task(self._fetched())
        return self._fetching

    async def _fetched(self) -> Token | str:
        """Fetch a token and use it from now on. Return it, or the reason why there is none."""
        try:
            outcome = await self._source.fetch(self._clock)
        finally:
            self._fetching = None
        if isinstance(outcome, str):
            self._last_error = outcome
            self._may_try_at = self._clock() + RETRY_INTERVAL
            logger.warning("no token from %s: %s", self._source.name, outcome)
        else:
            former, self._token = self._token, outcome
            if former is not None and former.value == outcome.value:
                return outcome
            life = outcome.end - self._clock()
            until = f"for {life:.0f} s" if math.isfinite(life) else "until the archive rejects it"
            logger.info("a token from %s, good %s", self._source.name, until)
        return outcome


def no_token(reason: str) -> UpstreamProblem:
    """Return the 502 for a request that needs a token while there is none."""
    return UpstreamProblem("token", 502, f"The proxy has no token for the archive: {reason}")
