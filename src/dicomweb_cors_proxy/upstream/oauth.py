"""Access tokens for the archive by OAuth 2.0's client credentials grant (RFC 6749 §4.4).

No library is used, because only one POST is needed. httpx-auth fetches tokens with a blocking
client, and Authlib's client is an `httpx.AsyncClient`, which adds headers and cookies.
"""

from __future__ import annotations

import asyncio
import base64
import math
import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final, NamedTuple
from urllib.parse import quote_plus, urlencode

import httpx

from dicomweb_cors_proxy.upstream.json_endpoint import failure_reason, request_json
from dicomweb_cors_proxy.upstream.native import NativeTransport
from dicomweb_cors_proxy.upstream.token_cache import Token

if TYPE_CHECKING:
    import ssl
    from collections.abc import Callable, Mapping


__all__ = ["ClientCredentials", "TokenEndpoint"]

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


@dataclass(frozen=True, slots=True)
class ClientCredentials:
    """The proxy's credentials for the token endpoint at `url`; without `scope`, its default.

    Some servers want to know the audience of the token (Auth0).
    """

    url: str
    id: str
    secret: str = field(repr=False)
    scope: str | None = None
    audience: str | None = None


class TokenEndpoint:
    """A token endpoint, as a source of tokens.

    Args:
        client: credentials for it.
        ssl_context: for an https endpoint.
        timeout: seconds for it to respond.
    """

    def __init__(
        self,
        client: ClientCredentials,
        *,
        ssl_context: ssl.SSLContext | None = None,
        timeout: float = TIMEOUT_SECONDS,
    ) -> None:
        self._client = client
        self._url = httpx.URL(client.url)
        # It outlives its connections, because it caches the addresses of the endpoint.
        self._transport = NativeTransport(max_connections=1, ssl_context=ssl_context)
        self._timeout = timeout
        self._in_body = False

    @property
    def name(self) -> str:
        return f"{self._url.scheme}://{self._url.netloc.decode('ascii')}"

    async def fetch(self, clock: Callable[[], float]) -> Token | str:
        try:
            async with asyncio.timeout(self._timeout):
                asked = clock()
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
        if client.audience is not None:
            form["audience"] = client.audience
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
        return Token.lasting(value.encode("ascii"), since=asked, life=life)

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
