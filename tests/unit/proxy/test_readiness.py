"""Liveness and readiness."""

from __future__ import annotations

import asyncio
import json
from typing import TYPE_CHECKING

import pytest

from dicomweb_cors_proxy.proxy import readiness
from tests.support.servers import free_port
from tests.support.sockets import Wire, answer, archive, proxy, request, settings

if TYPE_CHECKING:
    from tests.support.sockets import Head

LIVE = request("GET", "/healthz")
READY = request("GET", "/readyz")
AUTH = {"type": "bearer", "token": "ours"}


async def hello(wire: Wire, _: Head) -> None:
    await wire.send(answer(b"hello"))


async def test_liveness_does_not_ask_the_archive() -> None:
    async with archive(hello) as a, proxy(settings(a.url)) as p:
        head, body = await p.ask(LIVE)
        assert (head.status, body) == (200, b"ok\n")
        assert not a.connections


@pytest.mark.parametrize("path", ["/healthz", "/readyz", "/metrics"])
async def test_the_absolute_form_is_the_same(path: str) -> None:
    async with archive(hello) as a, proxy(settings(a.url)) as p:
        head, _ = await p.ask(request("GET", f"http://proxy.example{path}"))
    assert head.status == 200


@pytest.mark.parametrize("path", ["/healthz", "/readyz"])
async def test_monitoring_gets_no_cors_headers_and_any_host_may_ask(path: str) -> None:
    server = {"allowed_hosts": ["pacs.example"], "max_concurrent_requests": 1}
    async with archive(hello) as a, proxy(settings(a.url, server=server)) as p:
        head, _ = await p.ask(request("GET", path))
    assert head.status == 200
    assert not [name for name, _ in head.headers if b"access-control" in name or name == b"vary"]


@pytest.mark.parametrize("path", ["/healthz", "/readyz"])
async def test_monitoring_is_for_reading(path: str) -> None:
    async with archive(hello) as a, proxy(settings(a.url)) as p:
        assert (await p.ask(request("HEAD", path)))[0].status == 200
        head, body = await p.ask(request("POST", path))
    assert (head.status, head.get(b"allow")) == (405, b"GET, HEAD")
    assert json.loads(body)["status"] == 405


@pytest.mark.parametrize(
    ("auth", "status", "expected"),
    [
        (None, 200, 200),
        (None, 307, 200),
        (None, 401, 200),
        (None, 403, 200),
        (None, 404, 200),
        (None, 405, 200),
        (None, 500, 503),
        (None, 599, 503),
        (AUTH, 404, 200),
        (AUTH, 401, 503),
        (AUTH, 403, 503),
    ],
)
async def test_readiness_is_what_the_archive_answers(
    auth: dict[str, str] | None, status: int, expected: int
) -> None:
    async def handle(wire: Wire, _: Head) -> None:
        await wire.send(b"HTTP/1.1 %d Any\r\nContent-Length: 5\r\n\r\nhello" % status)

    upstream = {"auth": auth} if auth else {}
    async with archive(handle) as a, proxy(settings(a.url, upstream=upstream)) as p:
        head, body = await p.ask(READY)
    assert head.status == expected
    if expected == 503:
        assert head.get(b"content-type") == b"application/problem+json"
        problem = json.loads(body)
        assert problem["status"] == 503
        assert ("upstream.auth" if auth else str(status)) in problem["detail"]


async def test_every_service_is_asked_once() -> None:
    async with archive(hello) as a:
        root = f"http://127.0.0.1:{a.port}"
        upstream = {
            "url": f"{root}/root",
            "qido_url": f"{root}/q/",
            "wado_url": f"{root}/w",
            "stow_url": f"{root}/w",
            "wado_uri_url": root,
            "auth": AUTH,
        }
        async with proxy(settings(a.url, upstream=upstream)) as p:
            assert (await p.ask(READY))[0].status == 200
    assert sorted(head.first_line for head in a.requests) == [
        b"OPTIONS / HTTP/1.1",
        b"OPTIONS /q/ HTTP/1.1",
        b"OPTIONS /root HTTP/1.1",
        b"OPTIONS /w HTTP/1.1",
    ]
    for head in a.requests:
        assert head.headers == [
            (b"host", b"127.0.0.1:%d" % a.port),
            (b"authorization", b"Bearer ours"),
            (b"via", b"1.1 dicomweb-cors-proxy"),
        ]


async def test_one_service_down_is_not_ready() -> None:
    async with archive(hello) as a:
        upstream = {"stow_url": f"http://127.0.0.1:{free_port()}/s", "read_timeout": 1}
        async with proxy(settings(a.url, upstream=upstream)) as p:
            head, body = await p.ask(READY)
    assert head.status == 503
    assert "upstream.url" in json.loads(body)["detail"]


@pytest.mark.parametrize(("seconds", "asked"), [(readiness.CACHE_TTL, 1), (0.0, 3)])
async def test_a_result_is_kept_for_a_while(
    seconds: float, asked: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(readiness, "CACHE_TTL", seconds)
    async with archive(hello) as a, proxy(settings(a.url)) as p:
        await asyncio.gather(p.ask(READY), p.ask(READY))
        await p.ask(READY)
        assert len(a.requests) == asked


async def test_an_archive_that_hangs_is_not_waited_for_long(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(readiness, "READ_TIMEOUT_MAX", 0.1)

    async def handle(wire: Wire, _: Head) -> None:
        await wire.closed()

    async with archive(handle) as a, proxy(settings(a.url)) as p:
        head, body = await p.ask(READY)
    assert head.status == 503
    assert "did not respond within 0.1 s" in json.loads(body)["detail"]


async def test_a_proxy_that_asks_itself_is_not_ready() -> None:
    async with proxy(settings("http://archive.example")) as outer:
        own = f"http://127.0.0.1:{outer.port}/dicom-web"
        async with proxy(settings(own)) as inner:
            assert (await inner.ask(READY))[0].status == 503
