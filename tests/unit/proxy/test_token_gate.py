"""Requests with and without a valid access token, in front of an archive."""

from __future__ import annotations

import json
import re
from contextlib import asynccontextmanager
from datetime import timedelta
from typing import TYPE_CHECKING, Any, NamedTuple

import pytest

from tests.support.sockets import ORIGIN, Archive, Proxy, answer, archive, proxy, request, settings
from tests.support.tokens import SUBJECT, Provider, bearer, provider, signing_key

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from tests.support.sockets import Head, Wire

BASIC = {"type": "basic", "username": "proxy", "password": "hunter2"}
NO_ERROR = b'Bearer realm="DICOMweb"'


class Setting(NamedTuple):
    provider: Provider
    archive: Archive
    proxy: Proxy

    async def ask(self, *lines: str, **how: Any) -> tuple[Head, bytes]:  # noqa: ANN401
        return await self.proxy.ask(request("GET", "/dicom-web/studies", *lines, **how))

    async def counted(self, outcome: str) -> int:
        _, metrics = await self.proxy.ask(request("GET", "/metrics"))
        pattern = rf'dicomweb_proxy_access_tokens_total{{outcome="{outcome}"}} (\d+)'
        match = re.search(pattern, metrics.decode())
        assert match
        return int(match[1])


async def hello(wire: Wire, head: Head) -> None:
    if head.get(b"content-length"):
        await wire.body(head)
    await wire.send(answer(b"hello", b"Cache-Control: public, max-age=60"))


@asynccontextmanager
async def locked(auth: dict[str, Any] | None = None, **changes: object) -> AsyncIterator[Setting]:
    async with provider() as there, archive(hello) as a:
        access = {"auth": there.auth(**(auth or {})), "mode": "read-write"}
        configuration = settings(a.url, access=access, **changes)
        async with proxy(configuration) as p:
            yield Setting(there, a, p)


def readable(head: Head, body: bytes) -> str:
    """The detail of a problem that the page may read."""
    assert head.get(b"access-control-allow-origin") == ORIGIN
    assert b"www-authenticate" in (head.get(b"access-control-expose-headers") or b"")
    assert head.get(b"content-type") == b"application/problem+json"
    problem = json.loads(body)
    assert problem["status"] == head.status
    return str(problem["detail"])


async def test_a_valid_token_opens_the_archive() -> None:
    async with locked() as s:
        line = bearer(s.provider.token())
        for _ in range(3):
            head, body = await s.ask(line)
            assert (head.status, body) == (200, b"hello")
        for other in (line.replace("Bearer", "bearer"), line.replace("Bearer ", "BEARER  ")):
            assert (await s.ask(other))[0].status == 200
        assert await s.counted("accepted") == 5


async def test_a_cache_keeps_responses_apart_by_token() -> None:
    async with locked() as s:
        head, _ = await s.ask(bearer(s.provider.token()))
        assert (head.get(b"vary") or b"").lower().split(b", ") == [b"authorization", b"origin"]
        head, _ = await s.ask()
        assert head.get(b"cache-control") == b"no-store"


async def test_without_a_token_is_a_401() -> None:
    async with locked() as s:
        for lines in ((), ("Authorization: Basic eDp5",), ("Authorization: Bearer",)):
            head, body = await s.ask(*lines)
            assert head.status == 401
            assert head.get(b"www-authenticate") == NO_ERROR
            assert "has no access token" in readable(head, body)
        assert await s.counted("missing") == 3
        assert s.archive.requests == []


async def test_an_expired_token_is_a_401_that_says_so() -> None:
    async with locked() as s:
        head, body = await s.ask(bearer(s.provider.token(exp=timedelta(seconds=-3600))))
        assert head.status == 401
        assert readable(head, body) == "The access token has expired."
        assert head.get(b"www-authenticate") == (
            b'Bearer realm="DICOMweb", error="invalid_token", '
            b'error_description="The access token has expired."'
        )
        assert await s.counted("invalid") == 1
        assert s.archive.requests == []


async def test_a_missing_scope_is_a_403() -> None:
    async with locked({"required_scopes": ["dicom.read", "dicom.all"]}) as s:
        head, body = await s.ask(bearer(s.provider.token()))
        assert head.status == 403
        assert "lacks a scope" in readable(head, body)
        challenge = head.get(b"www-authenticate") or b""
        assert b'error="insufficient_scope"' in challenge
        assert challenge.endswith(b'scope="dicom.read dicom.all"')
        assert await s.counted("insufficient_scope") == 1
        assert s.archive.requests == []


async def test_without_keys_nothing_passes() -> None:
    async with locked() as s:
        s.provider.metadata["issuer"] = "https://elsewhere.example"
        head, body = await s.ask(bearer(s.provider.token()))
        assert head.status == 503
        assert head.get(b"retry-after") == b"5"
        assert "access.auth.issuer" in readable(head, body)
        assert await s.counted("unverifiable") == 1
        assert s.archive.requests == []


PREFLIGHT = ("Access-Control-Request-Method: GET", "Access-Control-Request-Headers: authorization")


async def test_preflights_and_the_operators_endpoints_need_none() -> None:
    async with locked() as s:
        head, _ = await s.proxy.ask(request("OPTIONS", "/dicom-web/studies", *PREFLIGHT))
        assert head.status == 204
        for path in ("/healthz", "/readyz", "/metrics"):
            assert (await s.proxy.ask(request("GET", path)))[0].status == 200
        head, _ = await s.proxy.ask(request("OPTIONS", "/dicom-web/studies"))
        assert head.status == 401


@pytest.mark.parametrize(
    ("raw", "status"),
    [
        (request("GET", "/dicom-web/../studies"), 400),
        (request("GET", "/dicom-web/studies", "Via: 1.1 dicomweb-cors-proxy"), 508),
        (request("GET", "/nowhere"), 401),
        (request("PUT", "/dicom-web/studies/1/metadata"), 401),
        (request("DELETE", "/dicom-web/studies/1", origin=b"https://stranger.example"), 401),
        (request("POST", "/dicom-web/studies", body=b"x" * 100), 401),
    ],
)
async def test_the_order_of_checks(raw: bytes, status: int) -> None:
    async with locked(server={"port": 0, "max_body_bytes": 10}) as s:
        head, _ = await s.proxy.ask(raw)
        assert head.status == status
        assert s.archive.requests == []


async def test_after_the_token_the_other_checks_follow() -> None:
    async with locked() as s:
        line = bearer(s.provider.token())
        assert (await s.proxy.ask(request("GET", "/nowhere", line)))[0].status == 404
        raw = request("PUT", "/dicom-web/studies/1/metadata", line)
        assert (await s.proxy.ask(raw))[0].status == 405
        raw = request("POST", "/dicom-web/studies", line, body=b"x" * 100)
        assert (await s.proxy.ask(raw))[0].status == 200


@pytest.mark.parametrize("forward", [False, True])
async def test_the_token_goes_on_only_if_it_is_to(forward: bool) -> None:
    async with locked({"forward": forward}) as s:
        line = bearer(s.provider.token())
        await s.ask(line)
        shown = s.archive.requests[0].all(b"authorization")
        assert [f"Authorization: {value.decode()}" for value in shown] == [line] * forward


async def test_the_archive_is_shown_the_proxys_own_credentials() -> None:
    async with locked(upstream={"auth": BASIC}) as s:
        await s.ask(bearer(s.provider.token()))
        assert s.archive.requests[0].all(b"authorization") == [b"Basic cHJveHk6aHVudGVyMg=="]


async def test_a_reload_keeps_the_keys() -> None:
    async with locked() as s:
        line = bearer(s.provider.token())
        assert (await s.ask(line))[0].status == 200
        s.provider.script = [drop] * 10
        app: Any = s.proxy.server.config.app
        same = settings(s.archive.url, access={"auth": s.provider.auth()}, compress=False)
        await app.reload(same)
        assert (await s.ask(line))[0].status == 200
        other = settings(s.archive.url, access={"auth": s.provider.auth(audience=["other"])})
        await app.reload(other)
        assert (await s.ask(line))[0].status == 503


async def drop(wire: Wire) -> None:
    wire.reset()


async def test_keys_are_fetched_before_the_first_request() -> None:
    async with locked() as s:
        assert (await s.proxy.ask(request("GET", "/healthz")))[0].status == 200
        await s.ask(bearer(s.provider.token()))
        assert s.provider.key_fetches == 1


async def test_nothing_of_a_token_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("DEBUG")
    async with locked() as s:
        good, bad = s.provider.token(), s.provider.token(signing_key("forged"))
        for token in (good, bad, s.provider.token(exp=1), s.provider.token(aud="secret-audience")):
            head, body = await s.ask(bearer(token))
            for text in (caplog.text, head.raw.decode(), body.decode()):
                assert SUBJECT not in text
                assert "secret-audience" not in text
                assert not any(part in text for part in token.split("."))
