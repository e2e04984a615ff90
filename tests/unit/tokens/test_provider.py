"""Discovery and key sets over loopback sockets."""

from __future__ import annotations

import json
import ssl
from typing import Any

import pytest
import trustme

from dicomweb_cors_proxy.tokens.provider import IdentityProvider, ProviderProblem
from tests.support.login import saying
from tests.support.servers import free_port
from tests.support.sockets import answer
from tests.support.tokens import provider

CA = trustme.CA()


def server_context() -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    CA.issue_cert("127.0.0.1").configure_cert(context)
    return context


def trusting() -> ssl.SSLContext:
    context = ssl.create_default_context()
    CA.configure_trust(context)
    return context


async def kids(there: IdentityProvider) -> list[str | None]:
    return [key.kid for key in await there.fetch_keys()]


async def test_keys_are_found_by_discovery() -> None:
    async with provider() as there:
        assert await kids(IdentityProvider(there.url, None)) == ["one"]
        assert there.fetched == [
            "/realms/hospital/.well-known/openid-configuration",
            "/realms/hospital/keys",
        ]


async def test_keys_are_fetched_from_their_url() -> None:
    async with provider() as there:
        found = IdentityProvider("https://elsewhere.example", f"{there.url}/keys")
        assert await kids(found) == ["one"]
        assert there.fetched == ["/realms/hospital/keys"]
        assert found.origin == f"http://127.0.0.1:{there.server.port}"


async def test_the_certificate_is_verified() -> None:
    async with provider(tls=server_context()) as there:
        assert await kids(IdentityProvider(there.url, None, ssl_context=trusting())) == ["one"]
        with pytest.raises(
            ProviderProblem, match=r"TLS with the identity provider failed.*ca_file"
        ):
            await kids(IdentityProvider(there.url, None))


async def test_an_issuer_with_a_slash_at_its_end_is_kept() -> None:
    async with provider() as there:
        there.metadata["issuer"] = f"{there.url}/"
        assert await kids(IdentityProvider(f"{there.url}/", None)) == ["one"]
        with pytest.raises(ProviderProblem, match="names another issuer"):
            await kids(IdentityProvider(there.url, None))


@pytest.mark.parametrize(
    "url",
    [
        None, 5, "", "keys", "/realms/hospital/keys", "file:///etc/passwd", "ftp://id.example/keys",
        "https://", "https://id.example:port/keys", "https://ïd.example/keys", "https://a b/keys",
        "https://[::1/keys",
    ],
)  # fmt: skip
async def test_a_lying_jwks_uri_is_not_followed(url: object) -> None:
    async with provider() as there:
        there.metadata["jwks_uri"] = url
        with pytest.raises(ProviderProblem, match="names no usable jwks_uri"):
            await kids(IdentityProvider(there.url, None))


async def test_https_is_not_given_up() -> None:
    async with provider(tls=server_context()) as there, provider() as plain:
        there.metadata["jwks_uri"] = f"{plain.url}/keys"
        with pytest.raises(ProviderProblem, match="names no usable jwks_uri"):
            await kids(IdentityProvider(there.url, None, ssl_context=trusting()))
        assert plain.fetched == []


KEYS: dict[str, Any] = {"keys": []}


@pytest.mark.parametrize(
    ("response", "problem"),
    [
        (answer(b"no", status=b"500 Oops"), "responded 500 to the request for its keys"),
        (answer(b"no", status=b"404 Not Found"), "responded 404"),
        (answer(b"", b"Location: http://127.0.0.1:1/", status=b"302 Found"), "responded 302"),
        (answer(b"<html>"), "has no key"),
        (answer(b"[" * 100_000), "has no key"),
        (answer(b'["keys"]'), "has no key"),
        (answer(json.dumps(KEYS).encode()), "has no key"),
        (answer(b" " * 1_000_001), "sent something that is not HTTP"),
        (b"SSH-2.0-OpenSSH\r\n", "sent something that is not HTTP"),
    ],
)
async def test_a_useless_key_set_is_a_problem(response: bytes, problem: str) -> None:
    async with provider(script=[saying(response)]) as there:
        with pytest.raises(ProviderProblem, match=problem):
            await kids(IdentityProvider(None, f"{there.url}/keys"))


async def test_a_slow_provider_is_a_problem() -> None:
    async with provider() as there:
        there.script = [hang]
        with pytest.raises(ProviderProblem, match=r"did not respond within 0\.05 s.*auth\.issuer"):
            await kids(IdentityProvider(there.url, None, timeout=0.05))


async def hang(wire: Any) -> None:  # noqa: ANN401
    await wire.closed()


async def test_a_provider_that_is_down_is_a_problem() -> None:
    with pytest.raises(ProviderProblem, match=r"could not be reached.*access\.auth\.issuer"):
        await kids(IdentityProvider(f"http://127.0.0.1:{free_port()}", None))
    with pytest.raises(ProviderProblem, match=r"does not resolve.*access\.auth\.jwks_url"):
        await kids(IdentityProvider(None, "http://no-such-host.invalid/keys"))


async def test_a_fetch_shares_no_connection_with_the_next() -> None:
    async with provider() as there:
        found = IdentityProvider(there.url, None)
        await kids(found)
        await kids(found)
        assert len(there.server.connections) == 4
