"""An identity provider's keys, fetched from its JWK Set (OpenID Connect Discovery 1.0, §4)."""

from __future__ import annotations

import asyncio
import re
from typing import TYPE_CHECKING, Final
from urllib.parse import urlsplit

import httpx

from dicomweb_cors_proxy.tokens.keys import parse_keys
from dicomweb_cors_proxy.upstream.json_endpoint import failure_reason, request_json
from dicomweb_cors_proxy.upstream.native import NativeTransport

if TYPE_CHECKING:
    import ssl
    from collections.abc import Mapping

    from dicomweb_cors_proxy.tokens.keys import VerificationKey

__all__ = ["IdentityProvider", "ProviderProblem"]

# For discovery and keys together.
TIMEOUT_SECONDS: Final = 10.0

_HEADERS: Final = {"Accept": "application/json", "User-Agent": "dicomweb-cors-proxy"}


class ProviderProblem(Exception):  # noqa: N818  (its text is a sentence for the operator)
    """The provider's keys could not be fetched; the text says why, and what to check."""


class IdentityProvider:
    """The identity provider that issues the clients' tokens.

    Args:
        issuer: its URL, for discovery; None only with `jwks_url`.
        jwks_url: of its keys; None: by discovery.
        ssl_context: for https URLs.
        timeout: seconds for discovery and keys together.
    """

    def __init__(
        self,
        issuer: str | None,
        jwks_url: str | None,
        *,
        ssl_context: ssl.SSLContext | None = None,
        timeout: float = TIMEOUT_SECONDS,
    ) -> None:
        self._issuer = issuer
        self._jwks_url = jwks_url
        self._setting = "access.auth.jwks_url" if jwks_url else "access.auth.issuer"
        self._timeout = timeout
        # It outlives its connections, because it caches the addresses of the provider.
        self._transport = NativeTransport(max_connections=1, ssl_context=ssl_context)

    @property
    def origin(self) -> str:
        """The provider as the log names it."""
        parts = urlsplit(self._jwks_url or self._issuer or "")
        return f"{parts.scheme}://{parts.netloc}"

    async def fetch_keys(self) -> tuple[VerificationKey, ...]:
        """Return at least one key, or raise `ProviderProblem`."""
        try:
            async with asyncio.timeout(self._timeout):
                url = self._jwks_url or await self._discover()
                keys = parse_keys(await self._get(url, "its keys"))
        except TimeoutError:
            raise ProviderProblem(
                f"the identity provider did not respond within {self._timeout:g} s. Check that it "
                f"is running, and {self._setting}."
            ) from None
        except httpx.HTTPError as error:
            raise ProviderProblem(
                failure_reason(error, endpoint="identity provider", setting=self._setting)
            ) from None
        if not keys:
            raise ProviderProblem(
                "the identity provider's key set has no key for signatures that the proxy can "
                f"use. Check {self._setting}."
            )
        return keys

    async def _discover(self) -> str:
        """Return the URL of the keys that the provider's metadata names."""
        issuer = self._issuer or ""
        metadata = await self._get(
            f"{issuer.rstrip('/')}/.well-known/openid-configuration", "its metadata"
        )
        # OpenID Connect Discovery §4.3: otherwise one tenant could speak for another.
        if metadata.get("issuer") != issuer:
            raise ProviderProblem(
                "the identity provider's metadata names another issuer than access.auth.issuer. "
                "Write the issuer exactly as the provider does, with or without a slash at its end."
            )
        url = metadata.get("jwks_uri")
        # Keys over plain http could be replaced on the way, so https is not given up.
        if not isinstance(url, str) or not _is_url(url, {"https", urlsplit(issuer).scheme}):
            raise ProviderProblem(
                "the identity provider's metadata names no usable jwks_uri. Check "
                "access.auth.issuer, or set access.auth.jwks_url."
            )
        return url

    async def _get(self, url: str, name: str) -> Mapping[str, object]:
        request = httpx.Request("GET", url, headers=_HEADERS)
        response = await request_json(self._transport, request)
        if response.status != 200:
            raise ProviderProblem(
                f"the identity provider responded {response.status} to the request for {name}. "
                f"Check {self._setting}."
            )
        return response.members


def _is_url(url: str, schemes: set[str]) -> bool:
    try:
        parts = urlsplit(url)
        httpx.URL(url)
        return bool(re.fullmatch("[!-~]+", url) and parts.scheme in schemes and parts.hostname)
    except (ValueError, httpx.InvalidURL):
        return False
