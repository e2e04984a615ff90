"""When keys are fetched, and what stays when they cannot be."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import pytest

from dicomweb_cors_proxy.tokens import key_cache
from dicomweb_cors_proxy.tokens.key_cache import KeyCache, KeysUnavailable
from dicomweb_cors_proxy.tokens.keys import parse_keys
from dicomweb_cors_proxy.tokens.provider import IdentityProvider, ProviderProblem
from tests.support.tokens import signing_key
from tests.support.upstream import turns

if TYPE_CHECKING:
    from dicomweb_cors_proxy.tokens.keys import VerificationKey

ALGORITHM = "RS256"


class Scripted(IdentityProvider):
    """A provider that publishes the keys with these IDs; with none it fails."""

    def __init__(self, *kids: str) -> None:
        super().__init__("https://id.example", None)
        self.kids = kids
        self.fetches = 0
        self.gate = asyncio.Event()
        self.gate.set()

    async def fetch_keys(self) -> tuple[VerificationKey, ...]:
        self.fetches += 1
        await self.gate.wait()
        if not self.kids:
            raise ProviderProblem("it is down.")
        return parse_keys({"keys": [signing_key(kid).jwk for kid in self.kids]})


class Fixture:
    def __init__(self, *kids: str) -> None:
        self.now = 1000.0
        self.changes = 0
        self.provider = Scripted(*kids)
        self.cache = KeyCache(self.provider, on_change=self.changed, clock=lambda: self.now)

    def changed(self) -> None:
        self.changes += 1

    async def has(self, kid: str) -> bool:
        return await self.cache.find(kid, ALGORITHM) is not None


async def test_keys_are_fetched_once() -> None:
    f = Fixture("one", "two")
    assert await f.has("one")
    assert await f.has("two")
    assert (f.provider.fetches, f.changes) == (1, 1)


async def test_requests_share_one_fetch() -> None:
    f = Fixture("one")
    f.provider.gate.clear()
    asking = [asyncio.create_task(f.has("one")) for _ in range(5)]
    await turns(3)
    asking[0].cancel()
    f.provider.gate.set()
    assert await asyncio.gather(*asking[1:]) == [True] * 4
    assert f.provider.fetches == 1


async def test_an_unknown_key_is_looked_for_every_30_seconds() -> None:
    f = Fixture("one")
    assert await f.has("one")
    f.provider.kids = ("one", "two")
    assert await f.has("two")
    for number in range(100):
        assert not await f.has(f"unknown {number}")
    assert (f.provider.fetches, f.changes) == (2, 2)
    f.now += key_cache.REFRESH_INTERVAL_SECONDS
    f.provider.kids = ("one", "two", "three")
    assert await f.has("three")
    for number in range(100):
        assert not await f.has(f"unknown {number}")
    assert (f.provider.fetches, f.changes) == (3, 3)


async def test_a_key_that_a_running_fetch_lacks_is_looked_for() -> None:
    f = Fixture("one")
    f.provider.gate.clear()
    f.cache.refresh_if_old()
    asking = [asyncio.create_task(f.has("two")) for _ in range(5)]
    await turns(3)
    f.provider.gate.set()
    assert await asyncio.gather(*asking) == [False] * 5
    assert f.provider.fetches == 2


async def test_old_keys_are_fetched_again_in_the_background() -> None:
    f = Fixture("one")
    assert await f.has("one")
    f.now += key_cache.MAX_AGE_SECONDS
    f.provider.kids = ("two",)
    assert await f.has("one")
    await turns(3)
    assert f.provider.fetches == 2
    assert await f.has("two")
    assert f.provider.fetches == 2
    assert not await f.has("one")


async def test_keys_stay_while_the_provider_is_down() -> None:
    f = Fixture("one")
    assert await f.has("one")
    f.provider.kids = ()
    for _ in range(10):
        f.now += key_cache.MAX_AGE_SECONDS
        assert await f.has("one")
        assert not await f.has("two")
    assert f.changes == 1


async def test_without_keys_nothing_is_verified(caplog: pytest.LogCaptureFixture) -> None:
    f = Fixture()
    for _ in range(3):
        with pytest.raises(KeysUnavailable, match="it is down"):
            await f.has("one")
    assert f.provider.fetches == 1
    assert caplog.messages == ["no keys from https://id.example: it is down."]
    f.now += key_cache.RETRY_SECONDS
    f.provider.kids = ("one",)
    assert await f.has("one")


async def test_the_number_of_waiting_requests_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(key_cache, "MAX_WAITING", 2)
    f = Fixture("one")
    f.provider.gate.clear()
    asking = [asyncio.create_task(f.has("one")) for _ in range(2)]
    await turns(3)
    with pytest.raises(KeysUnavailable, match="too many requests wait"):
        await f.has("one")
    f.provider.gate.set()
    assert await asyncio.gather(*asking) == [True, True]
    assert await f.has("one")


async def test_adopted_keys_count_as_old() -> None:
    f, other = Fixture("one"), Fixture()
    assert await f.has("one")
    other.cache.adopt(f.cache)
    assert await other.has("one")
    await turns(3)
    assert other.provider.fetches == 1
    assert await other.has("one")


async def test_closing_cancels_a_fetch() -> None:
    f = Fixture("one")
    await f.cache.aclose()
    f.provider.gate.clear()
    f.cache.refresh_if_old()
    await turns(3)
    await f.cache.aclose()
    assert f.provider.fetches == 1
