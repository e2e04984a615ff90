"""Tokens of the proxy in Google's cloud and in Azure, by the vendors' own libraries.

The libraries know all ways to log in there: keys, metadata servers, workload identity. They block
and retry, so they run in a thread. They are extras, and are imported only when they are needed.
"""

from __future__ import annotations

import asyncio
import math
import os
import threading
import time
from concurrent.futures import Future
from datetime import UTC
from functools import partial
from typing import TYPE_CHECKING, Any, Final

from dicomweb_cors_proxy.upstream.token_cache import Token

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["AZURE_SCOPE", "GOOGLE_SCOPE", "CloudTokens", "azure_tokens", "google_tokens"]

GOOGLE_SCOPE: Final = "https://www.googleapis.com/auth/cloud-healthcare"
AZURE_SCOPE: Final = "https://dicom.healthcareapis.azure.com/.default"

# The libraries try several times, with pauses.
TIMEOUT_SECONDS: Final = 30.0

# For one request of Google's library, whose default is two minutes.
REQUEST_SECONDS: Final = 10.0

_GOOGLE_MISSING: Final = (
    "Google's library found no credentials. Set GOOGLE_APPLICATION_CREDENTIALS to the file of a "
    "service account's key or of a workload identity, or run on Google Cloud with a service "
    "account."
)
_GOOGLE_REJECTED: Final = (
    "Google did not issue a token. Check that the service account exists and its key is active, "
    "that this machine's clock is right, and the workload identity's configuration."
)
_GOOGLE_UNREACHABLE: Final = (
    "Google's token endpoint or metadata server could not be reached. Check the network, and any "
    "URL in the credentials file."
)
_AZURE_MISSING: Final = (
    "Azure's library found no managed identity. Assign one to this machine, or set up workload "
    "identity (AZURE_FEDERATED_TOKEN_FILE, AZURE_TENANT_ID, AZURE_CLIENT_ID). For one of several "
    "identities set upstream.auth.client_id."
)
_AZURE_REJECTED: Final = (
    "Entra ID did not issue a token. Check upstream.auth.client_id and upstream.auth.scope, and "
    "the federated credential of a workload identity."
)
_AZURE_UNREACHABLE: Final = (
    "Azure's identity endpoint could not be reached, or failed. Check the network, and the state "
    "of the service."
)


class CloudTokens:
    """A source of tokens that a vendor's library gets.

    Args:
        name: of the vendor, for the log.
        get: returns a token and the time at which it expires, as `time.time` has it, or the reason
            why there is none; runs in a thread.
        timeout: seconds to wait for it. It is waited for again next time, so only one runs.
    """

    def __init__(
        self,
        name: str,
        get: Callable[[], tuple[str, float] | str],
        *,
        timeout: float = TIMEOUT_SECONDS,
    ) -> None:
        self.name = name
        self._get = get
        self._timeout = timeout
        self._running: Future[tuple[str, float] | str] | None = None

    async def fetch(self, clock: Callable[[], float]) -> Token | str:
        """Return a token, or the reason why there is none; see `TokenSource`."""
        if self._running is None:
            self._running = _in_thread(self._get)
        try:
            async with asyncio.timeout(self._timeout):
                outcome = await asyncio.shield(asyncio.wrap_future(self._running))
        except TimeoutError:
            return f"{self.name} did not respond within {self._timeout:g} s. Check the network."
        self._running = None
        if isinstance(outcome, str):
            return outcome
        value, expires = outcome
        return Token.lasting(value.encode("ascii"), since=clock(), life=expires - time.time())


def _in_thread(function: Callable[[], Any]) -> Future[Any]:
    """Run a function in a thread that does not keep the process from ending."""
    future: Future[Any] = Future()

    def run() -> None:
        try:
            future.set_result(function())
        except Exception as error:  # noqa: BLE001  (its text may quote a secret)
            future.set_result(f"the library failed ({type(error).__name__}). Please report it.")

    threading.Thread(target=run, daemon=True).start()
    return future


def google_tokens(scope: str | None) -> CloudTokens:
    """Return the tokens of Google's Application Default Credentials."""
    return CloudTokens("Google", _Google(scope or GOOGLE_SCOPE).get)


class _Google:
    """A caller of google-auth."""

    def __init__(self, scope: str) -> None:
        self._scope = scope
        self._credentials: Any = None

    def get(self) -> tuple[str, float] | str:
        import google.auth  # noqa: PLC0415  (an extra)
        from google.auth import exceptions  # noqa: PLC0415
        from google.auth.transport.requests import Request  # noqa: PLC0415

        try:
            if self._credentials is None:
                self._credentials, _ = google.auth.default(scopes=[self._scope])
            self._credentials.refresh(partial(Request(), timeout=REQUEST_SECONDS))
        except exceptions.DefaultCredentialsError:
            return _GOOGLE_MISSING
        except exceptions.TransportError:
            return _GOOGLE_UNREACHABLE
        except exceptions.GoogleAuthError:
            return _GOOGLE_REJECTED
        expiry = self._credentials.expiry
        expires = math.inf if expiry is None else expiry.replace(tzinfo=UTC).timestamp()
        return self._credentials.token, expires


def azure_tokens(client_id: str | None, scope: str | None) -> CloudTokens:
    """Return the tokens of a workload identity if the environment has one, else a managed one."""
    return CloudTokens("Azure", _Azure(client_id, scope or AZURE_SCOPE).get)


class _Azure:
    """A caller of azure-identity."""

    def __init__(self, client_id: str | None, scope: str) -> None:
        self._client_id = client_id
        self._scope = scope
        self._credential: Any = None

    def get(self) -> tuple[str, float] | str:
        from azure.core import exceptions  # noqa: PLC0415  (an extra)
        from azure.identity import (  # noqa: PLC0415
            CredentialUnavailableError,
            ManagedIdentityCredential,
            WorkloadIdentityCredential,
        )

        try:
            if self._credential is None:
                if "AZURE_FEDERATED_TOKEN_FILE" in os.environ:
                    client = self._client_id or os.environ.get("AZURE_CLIENT_ID")
                    self._credential = WorkloadIdentityCredential(client_id=client)
                else:
                    self._credential = ManagedIdentityCredential(client_id=self._client_id)
            token = self._credential.get_token(self._scope)
        except (CredentialUnavailableError, ValueError):
            return _AZURE_MISSING
        except exceptions.ClientAuthenticationError:
            return _AZURE_REJECTED
        except exceptions.AzureError:
            return _AZURE_UNREACHABLE
        return token.token, float(token.expires_on)
