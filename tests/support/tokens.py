"""An identity provider that does as it is told, and the tokens that it signs."""

from __future__ import annotations

import base64
import json
import time
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import timedelta
from functools import cache
from typing import TYPE_CHECKING, Any

from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from jwt.algorithms import get_default_algorithms

from tests.support.sockets import Archive, Head, Wire, answer, archive

if TYPE_CHECKING:
    import asyncio
    from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
    from ssl import SSLContext

AUDIENCE = "dicomweb"
SUBJECT = "subject-of-the-token"


@dataclass(frozen=True)
class SigningKey:
    """A key of the provider: its ID, its algorithm, and the private part."""

    kid: str
    algorithm: str
    private: Any

    @property
    def jwk(self) -> dict[str, Any]:
        public = self.private.public_key()
        jwk = get_default_algorithms()[self.algorithm].to_jwk(public, as_dict=True)
        return {**jwk, "kid": self.kid, "use": "sig"}


@cache
def signing_key(kid: str = "one", algorithm: str = "RS256") -> SigningKey:
    """The key with this ID, made once."""
    curves: dict[str, Callable[[], ec.EllipticCurve]] = {
        "ES256": ec.SECP256R1,
        "ES384": ec.SECP384R1,
        "ES512": ec.SECP521R1,
    }
    if algorithm == "EdDSA":
        private: Any = ed25519.Ed25519PrivateKey.generate()
    elif algorithm in curves:
        private = ec.generate_private_key(curves[algorithm]())
    else:
        private = rsa.generate_private_key(65537, 2048)
    return SigningKey(kid, algorithm, private)


def segment(content: Mapping[str, Any] | bytes) -> str:
    raw = content if isinstance(content, bytes) else json.dumps(content).encode()
    return base64.urlsafe_b64encode(raw).rstrip(b"=").decode()


def signed(key: SigningKey, header: Mapping[str, Any], claims: Mapping[str, Any] | bytes) -> str:
    """A token with just this header and these claims, whatever they are."""
    content = f"{segment(header)}.{segment(claims)}"
    signature = get_default_algorithms()[key.algorithm].sign(content.encode(), key.private)
    return f"{content}.{segment(signature)}"


@dataclass
class Provider:
    """Publishes `keys`, and signs tokens with the first one.

    Attributes:
        script: send the next responses in its place, the first first.
        gate: if set, it is waited for before every response.
        fetched: the paths that were asked for.
        issuer: None to name itself.
    """

    keys: list[SigningKey] = field(default_factory=lambda: [signing_key()])
    script: list[Callable[[Wire], Awaitable[None]]] = field(default_factory=list)
    gate: asyncio.Event | None = None
    fetched: list[str] = field(default_factory=list)
    metadata: dict[str, Any] = field(default_factory=dict)
    server: Archive = field(init=False)

    @property
    def url(self) -> str:
        return f"{self.server.scheme}://127.0.0.1:{self.server.port}/realms/hospital"

    def auth(self, **more: object) -> dict[str, Any]:
        """The settings under `access.auth`."""
        return {"type": "jwt", "issuer": self.url, "audience": [AUDIENCE], **more}

    def claims(self, **changes: object) -> dict[str, Any]:
        """Claims that hold. None leaves one out; a timedelta is a time from now."""
        now = int(time.time())
        claims: dict[str, Any] = {
            "iss": self.url,
            "aud": AUDIENCE,
            "exp": now + 300,
            "nbf": now - 5,
            "iat": now - 5,
            "sub": SUBJECT,
            "scope": "openid dicom.read",
        }
        claims |= changes
        return {
            name: now + int(value.total_seconds()) if isinstance(value, timedelta) else value
            for name, value in claims.items()
            if value is not None
        }

    def token(
        self,
        key: SigningKey | None = None,
        *,
        headers: Mapping[str, Any] | None = None,
        **claims: object,
    ) -> str:
        """A token; `headers` are added to its header, and `claims` change it."""
        key = key or self.keys[0]
        header = {"alg": key.algorithm, "kid": key.kid, "typ": "at+jwt", **(headers or {})}
        header = {name: value for name, value in header.items() if value is not None}
        return signed(key, header, self.claims(**claims))

    @property
    def key_fetches(self) -> int:
        return self.fetched.count("/realms/hospital/keys")

    async def handle(self, wire: Wire, head: Head) -> None:
        path = head.first_line.split()[1].decode()
        self.fetched.append(path)
        if self.gate is not None:
            await self.gate.wait()
        if self.script:
            await self.script.pop(0)(wire)
        elif path == "/realms/hospital/.well-known/openid-configuration":
            document = {"issuer": self.url, "jwks_uri": f"{self.url}/keys", **self.metadata}
            await wire.send(answer(json.dumps(document).encode()))
        elif path == "/realms/hospital/keys":
            await wire.send(answer(json.dumps({"keys": [key.jwk for key in self.keys]}).encode()))
        else:
            await wire.send(answer(status=b"404 Not Found"))


@asynccontextmanager
async def provider(*, tls: SSLContext | None = None, **how: Any) -> AsyncIterator[Provider]:  # noqa: ANN401
    there = Provider(**how)
    async with archive(there.handle, tls=tls) as server:
        there.server = server
        yield there


def bearer(token: str) -> str:
    return f"Authorization: Bearer {token}"
