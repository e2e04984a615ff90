"""Forged, stolen and malformed access tokens: none reaches the archive.

The proxy runs in a process of its own. The provider and the archive note all that comes.
"""

from __future__ import annotations

import asyncio
import base64
import hashlib
import hmac
import json
import os
import signal
from contextlib import asynccontextmanager
from datetime import timedelta
from typing import TYPE_CHECKING, Any, NamedTuple

import pytest
import pytest_asyncio
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from tests.support.attacks import Front, standing
from tests.support.login import saying
from tests.support.sockets import ORIGIN, answer, request
from tests.support.tokens import (
    AUDIENCE,
    Provider,
    SigningKey,
    bearer,
    provider,
    segment,
    signed,
    signing_key,
)

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable
    from pathlib import Path

    from tests.support.sockets import Head

pytestmark = pytest.mark.asyncio(loop_scope="module")

STUDIES = "/dicom-web/studies"
PUBLISHED = [signing_key(), signing_key("curve", "ES256")]
FOREIGN = signing_key("foreign")
HOUR = timedelta(hours=1)


class Setting(NamedTuple):
    provider: Provider
    front: Front

    async def ask(self, *lines: str, target: str = STUDIES) -> tuple[Head, bytes]:
        return await self.front.ask(request("GET", target, *lines))


@asynccontextmanager
async def locked(
    directory: Path,
    auth: dict[str, Any] | None = None,
    **how: Any,  # noqa: ANN401
) -> AsyncIterator[Setting]:
    async with provider(**{"keys": PUBLISHED, **how}) as there:
        access = {"auth": there.auth(**(auth or {})), "mode": "read-write"}
        server = {"max_header_bytes": 400_000}
        async with standing(directory, access=access, server=server) as front:
            yield Setting(there, front)


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def setting(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Setting]:
    async with locked(tmp_path_factory.mktemp("serve"), {"required_scopes": ["dicom.read"]}) as s:
        yield s


def with_header(p: Provider, key: SigningKey = FOREIGN, **changes: object) -> str:
    return p.token(key, headers={"kid": "one", **changes})


def hmac_signed(p: Provider, secret: bytes, algorithm: str = "HS256") -> str:
    content = f"{segment({'alg': algorithm, 'kid': 'one'})}.{segment(p.claims())}"
    digest = hmac.new(secret, content.encode(), hashlib.sha256).digest()
    return f"{content}.{segment(digest)}"


def public_key(encoding: Encoding, form: PublicFormat) -> bytes:
    return bytes(PUBLISHED[0].private.public_key().public_bytes(encoding, form))


def unsigned(p: Provider, algorithm: str, signature: str = "") -> str:
    return f"{segment({'alg': algorithm})}.{segment(p.claims())}.{signature}"


def changed(p: Provider, **claims: object) -> str:
    """A valid token with other claims under its signature."""
    head, _, signature = p.token().split(".")
    return f"{head}.{segment(p.claims(**claims))}.{signature}"


def swapped_case(text: str) -> str:
    at = next(i for i, character in enumerate(text) if character.isalpha())
    return text[:at] + text[at].swapcase() + text[at + 1 :]


def resigned(p: Provider, **header: object) -> str:
    """A token with a header that the key's owner has signed."""
    return signed(PUBLISHED[0], {"alg": "RS256", "kid": "one", **header}, p.claims())


def psychic(p: Provider) -> str:
    """An ECDSA signature of zeros, which Java accepted (CVE-2022-21449)."""
    return f"{segment({'alg': 'ES256', 'kid': 'curve'})}.{segment(p.claims())}.{segment(bytes(64))}"


PEM = (Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
DER = (Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
PKCS1 = (Encoding.PEM, PublicFormat.PKCS1)

FORGED: dict[str, Callable[[Provider], str]] = {
    "wrong audience": lambda p: p.token(aud="another-service"),
    "no audience": lambda p: p.token(aud=None),
    "audience in part": lambda p: p.token(aud=AUDIENCE[:-1]),
    "audience in another case": lambda p: p.token(aud=AUDIENCE.upper()),
    "wrong issuer": lambda p: p.token(iss="https://id.attacker.example"),
    "issuer with a slash": lambda p: p.token(iss=f"{p.url}/"),
    "no issuer": lambda p: p.token(iss=None),
    "expired": lambda p: p.token(exp=-HOUR),
    "without an end": lambda p: p.token(exp=None),
    "not yet valid": lambda p: p.token(nbf=HOUR),
    "alg none": lambda p: unsigned(p, "none"),
    "alg None": lambda p: unsigned(p, "None", "AA"),
    "alg NONE with a signature": lambda p: unsigned(p, "NONE", p.token().split(".")[2]),
    "alg empty": lambda p: unsigned(p, "", "AA"),
    "HS256 with the public key, PEM": lambda p: hmac_signed(p, public_key(*PEM)),
    "HS256 with the public key, PEM without newline": lambda p: hmac_signed(
        p, public_key(*PEM).strip()
    ),
    "HS256 with the public key, DER": lambda p: hmac_signed(p, public_key(*DER)),
    "HS256 with the public key, PKCS1": lambda p: hmac_signed(p, public_key(*PKCS1)),
    "HS256 with the JWK": lambda p: hmac_signed(p, json.dumps(PUBLISHED[0].jwk).encode()),
    "HS256 with the modulus": lambda p: hmac_signed(p, PUBLISHED[0].jwk["n"].encode()),
    "HS256 without a secret": lambda p: hmac_signed(p, b""),
    "HMAC under an asymmetric name": lambda p: hmac_signed(p, public_key(*PEM), "RS256"),
    "unknown kid": lambda p: p.token(FOREIGN),
    "known kid, foreign key": with_header,
    "kid of another algorithm": lambda p: p.token(headers={"kid": "curve"}),
    "kid as a path": lambda p: with_header(p, kid="../../../../dev/null"),
    "kid as SQL": lambda p: with_header(p, kid="x' UNION SELECT 'key'"),
    "no kid": lambda p: with_header(p, kid=None),
    "kid not a text": lambda p: resigned(p, kid=1),
    "jku": lambda p: with_header(p, jku="http://127.0.0.1:9/keys"),
    "x5u": lambda p: with_header(p, x5u="http://127.0.0.1:9/cert.pem"),
    "embedded jwk": lambda p: with_header(p, jwk=FOREIGN.jwk),
    "embedded jwk, no kid": lambda p: with_header(p, jwk=FOREIGN.jwk, kid=None),
    "x5c": lambda p: with_header(p, x5c=[base64.b64encode(b"certificate").decode()]),
    "crit": lambda p: resigned(p, crit=["exp"]),
    "crit b64": lambda p: resigned(p, crit=["b64"], b64=True),
    "detached": lambda p: resigned(p, b64=False),
    "algorithm that is not configured": lambda p: p.token(
        SigningKey("one", "RS512", PUBLISHED[0].private)
    ),
    "an ID token by its type": lambda p: p.token(headers={"typ": "id+jwt"}),
    "a logout token": lambda p: p.token(headers={"typ": "logout+jwt"}),
    "a DPoP proof": lambda p: p.token(headers={"typ": "dpop+jwt"}),
    "changed claims": lambda p: changed(p, scope="dicom.read admin"),
    "another signature": lambda p: ".".join([*p.token().split(".")[:2], "AAAA"]),
    "no signature": lambda p: p.token().rpartition(".")[0] + ".",
    "two segments": lambda p: p.token().rpartition(".")[0],
    "an encrypted token": lambda p: f"{p.token()}.AA.AA",
    "a signature of zeros": psychic,
    "padded": lambda p: f"{p.token()}==",
    "plain base64": lambda p: p.token().replace("_", "/").replace("-", "+") + "+",
    "header in another case": lambda p: swapped_case(p.token()),
    "claims that are a list": lambda _: signed(PUBLISHED[0], {"alg": "RS256", "kid": "one"}, b"[]"),
    "a header that is a list": lambda p: f"{segment(b'[]')}.{segment(p.claims())}.AA",
    "deep nesting": lambda p: f"{segment(b'[' * 9000)}.{segment(p.claims())}.AA",
    "100 KB": lambda p: p.token(filler="x" * 75_000),
    "100 KB of dots": lambda _: "." * 100_000,
    "no token at all": lambda _: "",
}  # fmt: skip


@pytest.mark.parametrize("name", FORGED)
async def test_a_forged_token_does_not_reach_the_archive(setting: Setting, name: str) -> None:
    setting.front.recorder.seen.clear()
    token = FORGED[name](setting.provider)
    head, body = await setting.ask(bearer(token))
    assert head.status == 401
    assert (head.get(b"www-authenticate") or b"").startswith(b"Bearer ")
    assert head.get(b"access-control-allow-origin") == ORIGIN
    assert json.loads(body)["status"] == 401
    assert setting.front.recorder.seen == []


def both(p: Provider) -> list[str]:
    return [bearer(p.token()), bearer(p.token())]


ELSEWHERE: dict[str, Callable[[Provider], tuple[list[str], str]]] = {
    "in the query": lambda p: ([], f"{STUDIES}?access_token={p.token()}"),
    "in the query, as the header": lambda p: ([], f"{STUDIES}?authorization=Bearer%20{p.token()}"),
    "in a cookie": lambda p: ([f"Cookie: access_token={p.token()}"], STUDIES),
    "twice": lambda p: (both(p), STUDIES),
    "valid first, then forged": lambda p: ([bearer(p.token()), bearer("x")], STUDIES),
    "forged first, then valid": lambda p: ([bearer("x"), bearer(p.token())], STUDIES),
    "with basic credentials": lambda p: ([bearer(p.token()), "Authorization: Basic eDp5"], STUDIES),
    "two in one line": lambda p: ([f"{bearer(p.token())}, Bearer {p.token()}"], STUDIES),
    "with parameters": lambda p: ([f'{bearer(p.token())}, realm="x"'], STUDIES),
    "under another scheme": lambda p: ([f"Authorization: DPoP {p.token()}"], STUDIES),
    "without a scheme": lambda p: ([f"Authorization: {p.token()}"], STUDIES),
    "with a tab": lambda p: ([f"Authorization: Bearer\t{p.token()}"], STUDIES),
    "as X-Authorization": lambda p: ([f"X-Authorization: Bearer {p.token()}"], STUDIES),
    "with an underscore": lambda p: ([f"Authorization_: Bearer {p.token()}"], STUDIES),
    "as a proxy's": lambda p: ([f"Proxy-Authorization: Bearer {p.token()}"], STUDIES),
    "as another user's name": lambda _: (["X-Remote-User: admin", "Remote-User: admin"], STUDIES),
    "as X-Original-URL": lambda _: (["X-Original-URL: /healthz"], STUDIES),
    "at an endpoint without a login": lambda _: ([], f"/healthz/..{STUDIES}"),
    "as a preflight that is none": lambda _: (["Access-Control-Request-Method: GET"], STUDIES),
}


@pytest.mark.parametrize("name", ELSEWHERE)
async def test_a_token_counts_only_in_one_authorization(setting: Setting, name: str) -> None:
    setting.front.recorder.seen.clear()
    lines, target = ELSEWHERE[name](setting.provider)
    head, _ = await setting.ask(*lines, target=target)
    assert head.status == (400 if ".." in target else 401)
    assert setting.front.recorder.seen == []


async def test_an_upload_without_a_token_is_not_read(setting: Setting) -> None:
    setting.front.recorder.seen.clear()
    head, _ = await setting.front.ask(request("POST", STUDIES, body=b"x" * 1000))
    assert head.status == 401
    assert setting.front.recorder.seen == []


async def test_a_valid_token_reaches_it(setting: Setting) -> None:
    """Otherwise the tables above would prove nothing."""
    setting.front.recorder.seen.clear()
    head, _ = await setting.ask(bearer(setting.provider.token()))
    assert head.status == 200
    assert setting.front.recorder.seen == ["GET /pacs/studies"]


async def test_tokens_of_another_session_do_not_mix(setting: Setting) -> None:
    """A request head that was accepted says nothing about one that differs in its token."""
    good = bearer(setting.provider.token())
    bad = bearer(setting.provider.token(exp=-HOUR))
    for _ in range(3):
        assert (await setting.ask(good))[0].status == 200
        assert (await setting.ask(bad))[0].status == 401
        assert (await setting.ask())[0].status == 401


# The keys


async def test_a_flood_of_bad_tokens_causes_no_flood_of_fetches(tmp_path: Path) -> None:
    async with locked(tmp_path) as s:
        assert (await s.ask(bearer(s.provider.token())))[0].status == 200
        fetched = s.provider.key_fetches
        async with await s.front.connect() as wire:
            for number in range(500):
                forged = s.provider.token(
                    SigningKey(f"kid-{number}", "ES256", PUBLISHED[1].private), jti=str(number)
                )
                await wire.send(request("GET", STUDIES, bearer(forged)))
                head = await wire.head()
                await wire.body(head)
                assert head.status == 401
        assert s.provider.key_fetches <= fetched + 1
        assert (await s.ask(bearer(s.provider.token())))[0].status == 200


async def test_a_key_that_was_rotated_out_is_rejected(tmp_path: Path) -> None:
    old, new = signing_key("old"), signing_key("new")
    async with locked(tmp_path, keys=[old]) as s:
        stolen = bearer(s.provider.token(old))
        assert (await s.ask(stolen))[0].status == 200
        s.provider.keys = [new]
        os.kill(s.front.process.child.pid, signal.SIGHUP)  # 10 minutes would do as well
        await until(lambda: s.provider.key_fetches == 2)
        assert (await s.ask(bearer(s.provider.token(new))))[0].status == 200
        s.front.recorder.seen.clear()
        assert (await s.ask(stolen))[0].status == 401
        assert s.front.recorder.seen == []


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(10):
        while not condition():  # noqa: ASYNC110  (another process does it)
            await asyncio.sleep(0.01)


async def test_a_slow_key_endpoint_holds_up_only_who_needs_it(tmp_path: Path) -> None:
    async with locked(tmp_path) as s:
        good = bearer(s.provider.token())
        assert (await s.ask(good))[0].status == 200
        s.provider.gate = asyncio.Event()
        waiting = [
            asyncio.create_task(s.ask(bearer(s.provider.token(FOREIGN, jti=str(number)))))
            for number in range(20)
        ]
        for _ in range(5):
            assert (await s.ask(good))[0].status == 200
            other = bearer(s.provider.token(jti="another session"))
            assert (await s.ask(other))[0].status == 200
        s.provider.gate.set()
        assert {(await task)[0].status for task in waiting} == {401}


LIES = {
    "a page": answer(b"<html>log in</html>"),
    "nothing": answer(b""),
    "a symmetric key": answer(
        json.dumps({"keys": [{"kty": "oct", "kid": "one", "k": segment(b"secret")}]}).encode()
    ),
    "another issuer": answer(json.dumps({"issuer": "https://id.attacker.example"}).encode()),
    "a redirect": answer(b"", b"Location: http://127.0.0.1:9/", status=b"302 Found"),
    "an error": answer(b"", status=b"500 Internal Server Error"),
    "no HTTP": b"SSH-2.0-OpenSSH_9.2\r\n",
    "a flood": answer(b"[" * 2_000_000),
}


@pytest.mark.parametrize("lie", LIES)
async def test_a_lying_key_endpoint_opens_nothing(tmp_path: Path, lie: str) -> None:
    async with locked(tmp_path, script=[saying(LIES[lie])] * 50) as s:
        for token in (s.provider.token(), hmac_signed(s.provider, b"secret")):
            head, _ = await s.ask(bearer(token))
            assert head.status in (401, 503)
        assert (await s.front.ask(preflight()))[0].status == 204
        assert s.front.recorder.seen == []


def preflight() -> bytes:
    lines = ("Access-Control-Request-Method: GET", "Access-Control-Request-Headers: authorization")
    return request("OPTIONS", STUDIES, *lines)
