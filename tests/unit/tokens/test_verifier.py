"""Which tokens are valid, and for how long that is remembered."""

from __future__ import annotations

import time
from contextlib import asynccontextmanager
from datetime import timedelta
from typing import TYPE_CHECKING, Any

import pytest

from dicomweb_cors_proxy.tokens import verifier
from dicomweb_cors_proxy.tokens.provider import IdentityProvider
from dicomweb_cors_proxy.tokens.verifier import MAX_TOKEN_BYTES, TokenRejected, TokenVerifier
from tests.support.tokens import AUDIENCE, provider, signing_key

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from tests.support.tokens import Provider


class Clock:
    ahead = 0.0

    def __call__(self) -> float:
        return time.time() + self.ahead


def verifying(there: Provider, **how: Any) -> TokenVerifier:  # noqa: ANN401
    defaults: dict[str, Any] = {
        "issuer": there.url,
        "audience": [AUDIENCE, "other"],
        "required_scopes": [],
        "algorithms": ["RS256", "PS256", "ES256", "EdDSA"],
        "leeway": 60,
    }
    return TokenVerifier(IdentityProvider(there.url, None), **defaults | how)


@asynccontextmanager
async def setting(**how: Any) -> AsyncIterator[tuple[Provider, TokenVerifier]]:  # noqa: ANN401
    async with provider() as there:
        yield there, verifying(there, **how)


async def rejection(v: TokenVerifier, token: str | bytes) -> str:
    raw = token.encode() if isinstance(token, str) else token
    with pytest.raises(TokenRejected) as rejected:
        await v.verify(raw)
    assert not v.find(raw)
    return str(rejected.value)


@pytest.mark.parametrize(
    "claims",
    [
        {},
        {"aud": ["elsewhere", "other"]},
        {"nbf": None, "iat": None, "sub": None, "scope": None},
        {"sub": 5, "jti": 5},
        {"exp": 2**33 + 0.5},  # a fraction, in the year 2242
        {"exp": 10**30},
        {"exp": timedelta(seconds=-30)},  # within the leeway
        {"nbf": timedelta(seconds=30)},
    ],
)
async def test_a_token_that_holds_is_accepted(claims: dict[str, Any]) -> None:
    async with setting() as (there, v):
        token = there.token(**claims).encode()
        assert not v.find(token)
        await v.verify(token)
        assert v.find(token)
        assert not v.find(token[:-1])


@pytest.mark.parametrize("algorithm", ["RS256", "PS256", "ES256", "EdDSA"])
async def test_every_algorithm_verifies(algorithm: str) -> None:
    async with setting() as (there, v):
        there.keys = [signing_key("other"), signing_key("mine", algorithm)]
        await v.verify(there.token(there.keys[1]).encode())


@pytest.mark.parametrize("kind", ["at+jwt", "AT+JWT", "application/at+jwt", "JWT", "jwt"])
async def test_types_of_access_tokens(kind: str) -> None:
    async with setting() as (there, v):
        await v.verify(there.token(headers={"typ": kind}).encode())


async def test_a_token_without_a_type_and_key_id_is_accepted() -> None:
    async with setting() as (there, v):
        await v.verify(there.token(headers={"typ": None, "kid": None}).encode())


@pytest.mark.parametrize(
    ("claims", "reason"),
    [
        ({"exp": timedelta(seconds=-3600)}, "has expired"),
        ({"nbf": timedelta(seconds=3600)}, "is not valid yet"),
        ({"iat": timedelta(seconds=3600)}, "is not valid yet"),
        ({"aud": "elsewhere"}, "for another audience"),
        ({"aud": ["elsewhere"]}, "for another audience"),
        ({"aud": [5, AUDIENCE]}, "for another audience"),
        ({"aud": {AUDIENCE: 1}}, "for another audience"),
        ({"aud": AUDIENCE + "x"}, "for another audience"),
        ({"aud": None}, "lacks one of the claims"),
        ({"aud": []}, "lacks one of the claims"),
        ({"iss": "https://elsewhere.example"}, "has another issuer"),
        ({"iss": None}, "lacks one of the claims"),
        ({"iss": ["x"]}, "has another issuer"),
        ({"exp": None}, "lacks one of the claims"),
        ({"exp": "soon"}, "not a well-formed"),
        ({"exp": [1]}, "not a well-formed"),
        ({"nbf": "x"}, "not a well-formed"),
    ],
)
async def test_a_token_whose_claims_do_not_hold_is_rejected(
    claims: dict[str, Any], reason: str
) -> None:
    async with setting() as (there, v):
        assert reason in await rejection(v, there.token(**claims))


async def test_without_an_issuer_any_is_accepted() -> None:
    async with setting(issuer=None) as (there, v):
        await v.verify(there.token(iss=None).encode())
        await v.verify(there.token(iss="https://elsewhere.example").encode())


async def test_no_other_length_and_form_is_read() -> None:
    async with setting() as (there, v):
        token = there.token(filler="x" * MAX_TOKEN_BYTES)
        assert "longer than" in await rejection(v, token)
        assert not v.find(token.encode())
        for malformed in ("", "a.b", "a.b.c.d.e", "a.b.", "..", "a b.c.d", "e30.e30.AA"):
            await rejection(v, malformed)
        deep = b"W1tb" * 4000 + b".e30.AA"
        assert "well-formed" in await rejection(v, deep)
        assert there.fetched == []


SCOPES: list[tuple[dict[str, Any], bool]] = [
    ({"scope": "dicom.read patient"}, True),
    ({"scope": "patient dicom.read dicom.write"}, True),
    ({"scope": None, "scp": "patient dicom.read"}, True),
    ({"scope": None, "scp": ["patient", "dicom.read", 5]}, True),
    ({"scope": "patient", "scp": ["dicom.read"]}, True),
    ({"scope": ["patient", "dicom.read"]}, True),
    ({"scope": "dicom.read"}, False),
    ({"scope": "dicom.readpatient"}, False),
    ({"scope": None}, False),
    ({"scope": {"patient": 1, "dicom.read": 1}}, False),
]


@pytest.mark.parametrize(("claims", "enough"), SCOPES)
async def test_all_required_scopes_have_to_be_there(claims: dict[str, Any], enough: bool) -> None:
    async with setting(required_scopes=["dicom.read", "patient"]) as (there, v):
        token = there.token(**claims).encode()
        if enough:
            await v.verify(token)
            return
        with pytest.raises(TokenRejected, match="lacks a scope") as rejected:
            await v.verify(token)
        assert rejected.value.lacks_scope
        assert not v.find(token)


# The cache


async def test_a_cached_token_expires() -> None:
    clock = Clock()
    async with setting(clock=clock) as (there, v):
        token = there.token(exp=timedelta(seconds=100)).encode()
        await v.verify(token)
        clock.ahead = 155  # within the leeway
        assert v.find(token)
        clock.ahead = 161
        assert not v.find(token)


async def test_the_cache_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(verifier, "MAX_ACCEPTED", 2)
    async with setting() as (there, v):
        tokens = [there.token(jti=f"{number}").encode() for number in range(3)]
        for token in tokens:
            await v.verify(token)
        assert [v.find(token) is not None for token in tokens] == [False, True, True]


async def test_the_cache_is_emptied_when_the_keys_change() -> None:
    async with setting() as (there, v):
        old, new = signing_key("old"), signing_key("new")
        there.keys = [old]
        token = there.token(old).encode()
        await v.verify(token)
        there.keys = [new]
        await v.verify(there.token(new).encode())
        assert not v.find(token)
        assert "not the issuer's" in await rejection(v, token)


async def test_another_key_under_the_same_id_is_a_change() -> None:
    async with setting() as (there, v):
        first = signing_key("replaced", "ES256")
        there.keys = [first]
        token = there.token(first).encode()
        await v.verify(token)
        replacement = signing_key("x", "ES256").private
        there.keys = [type(first)("replaced", "ES256", replacement), signing_key("new")]
        await v.verify(there.token(there.keys[1]).encode())
        assert "invalid signature" in await rejection(v, token)
