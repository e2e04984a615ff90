"""Access tokens for the archive by OAuth 2.0's client credentials grant (RFC 6749 §4.4).

No library is used, because only one POST is needed. httpx-auth fetches tokens with a blocking
client, and Authlib's client is an `httpx.AsyncClient`, which adds headers and cookies.
"""

from __future__ import annotations

import asyncio
import base64
import logging
import math
import re
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final, NamedTuple
from urllib.parse import quote_plus, urlencode

import httpx

from dicomweb_cors_proxy.upstream.failures import UpstreamProblem
from dicomweb_cors_proxy.upstream.json_endpoint import failure_reason, request_json
from dicomweb_cors_proxy.upstream.native import NativeTransport

if TYPE_CHECKING:
    import ssl
    from collections.abc import AsyncIterable, Callable, Mapping

    from dicomweb_cors_proxy.upstream.interface import Request, Timeouts, Upstream, UpstreamResponse

__all__ = ["ClientCredentials", "OAuthUpstream", "TokenCache"]

logger = logging.getLogger(__name__)

# A token is renewed when a quarter of its lifetime is left, or this much if that is less.
MAX_RENEWAL_LEAD_SECONDS: Final = 60.0

# Seconds between two attempts after one failed, or after the archive rejected its token. Otherwise
# a viewer's hundred requests would become a hundred at the token endpoint, which may lock the
# client out. The pause after a rejection doubles, because a new token may be rejected, too.
RETRY_INTERVAL: Final = 1.0
MAX_RETRY_INTERVAL: Final = 60.0

# Seconds for one exchange with the token endpoint.
TIMEOUT_SECONDS: Final = 10.0

# Error codes of RFC 6749 §5.2, each with what to check. No other text of the endpoint is logged.
_ERRORS: Final = {
    "invalid_client": "upstream.auth.client_id and client_secret",
    "invalid_request": "upstream.auth",
    "invalid_grant": "upstream.auth.client_id and client_secret",
    "invalid_scope": "upstream.auth.scope",
    "unauthorized_client": "whether the client may use the grant client_credentials",
    "unsupported_grant_type": "whether the server grants client_credentials",
}


class OAuthUpstream:
    """An upstream whose requests carry an access token (RFC 6750 §2.1).

    A request without a body that gets a 401 is sent again, once, with another token.

    Args:
        upstream: sends the requests; closed by `aclose`.
        tokens: gives each request its token.
    """

    def __init__(self, upstream: Upstream, tokens: TokenCache) -> None:
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


@dataclass(frozen=True, slots=True)
class ClientCredentials:
    """The proxy's credentials for the token endpoint at `url`; without `scope`, its default."""

    url: str
    id: str
    secret: str = field(repr=False)
    scope: str | None = None


class TokenCache:
    """A cache of the proxy's own access token, fetched at first need and renewed before it expires.

    One request at a time goes to the token endpoint; all callers that need a token await it.

    Args:
        client: credentials for the token endpoint.
        ssl_context: for an https endpoint.
        timeout: seconds for the endpoint to respond.
        clock: returns a time in seconds.
    """

    def __init__(
        self,
        client: ClientCredentials,
        *,
        ssl_context: ssl.SSLContext | None = None,
        timeout: float = TIMEOUT_SECONDS,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._client = client
        self._url = httpx.URL(client.url)
        # It outlives its connections, because it caches the addresses of the endpoint.
        self._transport = NativeTransport(max_connections=1, ssl_context=ssl_context)
        self._timeout = timeout
        self._clock = clock
        self._token: Token | None = None
        self._fetching: asyncio.Task[Token | str] | None = None
        self._last_error = ""
        self._may_try_at = -math.inf
        self._may_replace_at = -math.inf
        self._pause = RETRY_INTERVAL
        self._in_body = False

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
            raise _problem(self._last_error)
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
            raise _problem(outcome)
        return outcome.value

    def _fetch(self) -> asyncio.Task[Token | str]:
        self._fetching = asyncio.create_task(self._fetched())
        return self._fetching

    async def _fetched(self) -> Token | str:
        """Fetch a token and use it from now on. Return it, or the reason why there is none."""
        try:
            outcome = await self._ask()
        finally:
            self._fetching = None
        if isinstance(outcome, str):
            self._last_error = outcome
            self._may_try_at = self._clock() + RETRY_INTERVAL
            logger.warning("no token from %s: %s", self._origin, outcome)
        else:
            self._token = outcome
            life = outcome.end - self._clock()
            until = f"for {life:.0f} s" if math.isfinite(life) else "until the archive rejects it"
            logger.info("a token from %s, good %s", self._origin, until)
        return outcome

    @property
    def _origin(self) -> str:
        return f"{self._url.scheme}://{self._url.netloc.decode('ascii')}"

    async def _ask(self) -> Token | str:
        try:
            async with asyncio.timeout(self._timeout):
                asked = self._clock()
                response = await self._post(in_body=self._in_body)
                # Some servers support only one of the two ways, or don't decode the first (§2.3.1).
                if response.rejects_client:
                    other = await self._post(in_body=not self._in_body)
                    if not other.rejects_client:
                        self._in_body = not self._in_body
                        response = other
        except TimeoutError:
            return (
                f"the token endpoint did not respond within {self._timeout:g} s. Check that it is "
                "running, and upstream.auth.token_url."
            )
        except httpx.HTTPError as error:
            return failure_reason(
                error, endpoint="token endpoint", setting="upstream.auth.token_url"
            )
        return response.token(asked)

    async def _post(self, *, in_body: bool) -> _TokenResponse:
        headers = {"Accept": "application/json", "User-Agent": "dicomweb-cors-proxy"}
        client = self._client
        form = {"grant_type": "client_credentials"}
        if client.scope is not None:
            form["scope"] = client.scope
        if in_body:
            form |= {"client_id": client.id, "client_secret": client.secret}
        else:
            pair = f"{quote_plus(client.id)}:{quote_plus(client.secret)}"
            headers["Authorization"] = f"Basic {base64.b64encode(pair.encode()).decode()}"
        headers["Content-Type"] = "application/x-www-form-urlencoded"
        # An AsyncClient would add cookies, and log the URL.
        request = httpx.Request("POST", self._url, headers=headers, content=urlencode(form))
        return _TokenResponse(*await request_json(self._transport, request))


class _TokenResponse(NamedTuple):
    """A response of the token endpoint: its status, and the members of its JSON object."""

    status: int
    members: Mapping[str, object]

    @property
    def error(self) -> str:
        """The error code, if RFC 6749 defines it; otherwise ""."""
        error = self.members.get("error")
        return error if isinstance(error, str) and error in _ERRORS else ""

    @property
    def rejects_client(self) -> bool:
        return self.status in (400, 401) and self.error in ("", "invalid_client", "invalid_request")

    def token(self, asked: float) -> Token | str:
        """Return the token (RFC 6749 §5.1), or a reason; `asked` is a clock reading."""
        if self.status != 200:
            return self._rejection()
        value, kind = self.members.get("access_token"), self.members.get("token_type")
        if (
            not isinstance(value, str)
            or not re.fullmatch("[!-~]+", value)
            or not isinstance(kind, str)
            or kind.lower() != "bearer"
        ):
            return (
                "the token endpoint's response is not a bearer token. Check "
                "upstream.auth.token_url."
            )
        life = _seconds(self.members.get("expires_in"))
        end = asked + life
        return Token(value.encode("ascii"), end - min(MAX_RENEWAL_LEAD_SECONDS, life / 4), end)

    def _rejection(self) -> str:
        status, error = self.status, self.error
        if error:
            return f"the token endpoint responded {status} ({error}). Check {_ERRORS[error]}."
        if status == 401:
            return f"the token endpoint responded 401. Check {_ERRORS['invalid_client']}."
        if status >= 500 or status == 429:
            return f"the token endpoint responded {status}. See its log."
        return f"the token endpoint responded {status}. Check upstream.auth.token_url."


def _seconds(life: object) -> float:
    """Return the lifetime of a token in seconds, from a number or digits; otherwise infinity."""
    if isinstance(life, str) and re.fullmatch("[0-9]{1,9}", life):
        return float(life)
    if isinstance(life, bool) or not isinstance(life, (int, float)):
        return math.inf
    return max(0.0, float(min(life, 10**9)))  # in this order NaN is 0


def _problem(reason: str) -> UpstreamProblem:
    return UpstreamProblem("token", 502, f"The proxy has no token for the archive: {reason}")
