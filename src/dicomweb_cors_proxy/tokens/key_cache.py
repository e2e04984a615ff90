"""A cache of an identity provider's keys."""

from __future__ import annotations

import asyncio
import logging
import math
import time
from typing import TYPE_CHECKING, Final

from dicomweb_cors_proxy.tokens.keys import find_key
from dicomweb_cors_proxy.tokens.provider import ProviderProblem

if TYPE_CHECKING:
    from collections.abc import Callable

    from dicomweb_cors_proxy.tokens.keys import VerificationKey
    from dicomweb_cors_proxy.tokens.provider import IdentityProvider

__all__ = ["KeyCache", "KeysUnavailable"]

logger = logging.getLogger(__name__)

# Seconds between two fetches because of unknown keys, however many tokens name some, and between
# two attempts to renew old keys.
REFRESH_INTERVAL_SECONDS: Final = 30.0

# The same while there is no key at all, and so every request fails.
RETRY_SECONDS: Final = 5.0

# Age in seconds at which keys are fetched again, so that a revoked key stops being used.
MAX_AGE_SECONDS: Final = 600.0

# Requests that may wait for one fetch; a slow provider must not let them pile up.
MAX_WAITING: Final = 100


class KeysUnavailable(Exception):  # noqa: N818  (its text is a sentence for the operator)
    """No token can be verified now; the text says why, and what to check."""


class KeyCache:
    """A cache of the provider's keys.

    Keys are fetched at first need, when a token names an unknown one, and when they are old. At
    most one fetch runs at a time. Keys stay in use while the provider does not respond.

    Args:
        provider: fetches the keys.
        on_change: called when a fetch brought other keys than before.
        clock: returns a time in seconds.

    Attributes:
        provider: as given.
    """

    def __init__(
        self,
        provider: IdentityProvider,
        *,
        on_change: Callable[[], object],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.provider = provider
        self._on_change = on_change
        self._clock = clock
        self._keys: tuple[VerificationKey, ...] = ()
        self._fetching: asyncio.Task[None] | None = None
        self._waiting = 0
        self._may_fetch_at = -math.inf
        self._may_look_at = -math.inf
        self._stale_at = -math.inf
        self._problem = ""

    def adopt(self, other: KeyCache) -> None:
        """Begin with the keys of another cache for the same provider; they count as old."""
        self._keys = other._keys

    async def find(self, kid: str | None, algorithm: str) -> VerificationKey | None:
        """Return the key that a token names, None if there is none. Raise `KeysUnavailable`."""
        key = find_key(self._keys, kid, algorithm)
        if key is not None:
            self.refresh_if_old()
            return key
        if self._fetching is not None:
            await self._wait(self._fetching)
            key = find_key(self._keys, kid, algorithm)
        if key is None:
            await self._look()
            key = find_key(self._keys, kid, algorithm)
        if not self._keys:
            raise KeysUnavailable(self._problem)
        return key

    async def _look(self) -> None:
        """Fetch the keys because one is unknown, unless that happened a short time ago."""
        now = self._clock()
        if self._fetching is None and now >= (
            self._may_look_at if self._keys else self._may_fetch_at
        ):
            if self._keys:
                self._may_look_at = now + REFRESH_INTERVAL_SECONDS
            self._start()
        if self._fetching is not None:
            await self._wait(self._fetching)

    def refresh_if_old(self) -> None:
        """Fetch the keys in the background if they are old."""
        if self._fetching is None and self._clock() >= max(self._stale_at, self._may_fetch_at):
            self._start()

    async def _wait(self, fetching: asyncio.Task[None]) -> None:
        if self._waiting >= MAX_WAITING:
            raise KeysUnavailable("the identity provider is slow, and too many requests wait.")
        self._waiting += 1
        try:
            # A request that is cancelled must not end the fetch for the others.
            await asyncio.shield(fetching)
        finally:
            self._waiting -= 1

    def _start(self) -> None:
        self._fetching = asyncio.create_task(self._fetch())

    async def _fetch(self) -> None:
        try:
            keys = await self.provider.fetch_keys()
        except ProviderProblem as problem:
            self._problem = str(problem)
            logger.warning("no keys from %s: %s", self.provider.origin, problem)
        else:
            self._stale_at = self._clock() + MAX_AGE_SECONDS
            if _identities(keys) != _identities(self._keys):
                self._keys = keys
                self._on_change()
                logger.info("%d keys from %s", len(keys), self.provider.origin)
        finally:
            self._fetching = None
            pause = REFRESH_INTERVAL_SECONDS if self._keys else RETRY_SECONDS
            self._may_fetch_at = self._clock() + pause

    async def aclose(self) -> None:
        """Cancel a fetch that runs."""
        if self._fetching is not None:
            self._fetching.cancel()
            await asyncio.gather(self._fetching, return_exceptions=True)


def _identities(keys: tuple[VerificationKey, ...]) -> list[tuple[object, ...]]:
    return [(key.kid, key.algorithms, key.members) for key in keys]
