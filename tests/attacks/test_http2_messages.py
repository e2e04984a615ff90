"""Requests and responses over HTTP/2, and how the protocol is chosen."""

from __future__ import annotations

import asyncio
import json
from typing import TYPE_CHECKING

import pytest
import pytest_asyncio

from tests.support.attacks import PATIENCE
from tests.support.certificates import Pair
from tests.support.http2 import Client, bare, connected, offering
from tests.support.http2_frames import (
    FRAME_BYTES,
    PREFACE,
    Code,
    block,
    continuation,
    data,
    head,
    headers,
    request,
    settings,
)
from tests.support.sockets import ORIGIN, Archive, Head, Proxy, Wire, answer, archive, proxy
from tests.support.sockets import settings as configuration

if TYPE_CHECKING:
    import ssl
    from collections.abc import AsyncIterator
    from pathlib import Path

    from tests.support.http2 import Response

pytestmark = pytest.mark.asyncio(loop_scope="module")

STUDIES = b"/dicom-web/studies"
ELSEWHERE = b"/dicom-web/elsewhere"
PREFLIGHT = (b"access-control-request-method", b"GET")
NARROW = {"max_header_bytes": 1000, "max_headers": 10, "max_target_bytes": 200}


class Script:
    """An archive that responds as the query says, and keeps the last body it was sent."""

    def __init__(self) -> None:
        self.body = b""

    async def __call__(self, wire: Wire, asked: Head) -> None:
        method, target, _ = asked.first_line.split()
        query = target.partition(b"?")[2]
        if query == b"refuse":
            await wire.send(answer(b"too large", status=b"413 Content Too Large"))
            wire.writer.close()
            return
        if asked.get(b"content-length") or asked.get(b"transfer-encoding"):
            self.body = await wire.body(asked)
        match query:
            case b"trailers":
                await wire.send(
                    b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nTrailer: X-Sum\r\n\r\n"
                    b"5\r\nhello\r\n0\r\nX-Sum: 1\r\n\r\n"
                )
            case b"interim":
                await wire.send(b"HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n" + answer(b"hi"))
            case b"204":
                await wire.send(b"HTTP/1.1 204 No Content\r\n\r\n")
            case b"304":
                await wire.send(b"HTTP/1.1 304 Not Modified\r\nContent-Length: 5\r\n\r\n")
            case b"connection":
                lines = b"Keep-Alive: timeout=5", b"Connection: keep-alive, X-Hop", b"X-Hop: 1"
                await wire.send(answer(b"hello", *lines, b"Upgrade: h2c", b"X-Name: y"))
            case b"cut":
                await wire.send(answer(b"half", length=8))
                wire.writer.close()
            case b"chunked":
                await wire.send(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
                await wire.send(b"5\r\nhello\r\n0\r\n\r\n")
            case _:
                await wire.send(answer(b"" if method == b"HEAD" else b"hello", length=5))


class Front:
    """A proxy, its archive, and a client of it."""

    def __init__(self, running: Proxy, there: Archive, script: Script) -> None:
        self.proxy = running
        self.archive = there
        self.script = script

    @property
    def last(self) -> Head:
        return self.archive.requests[-1]


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def front() -> AsyncIterator[Front]:
    script = Script()
    access = {"mode": "read-write"}
    async with archive(script) as a, proxy(configuration(a.url, access=access)) as p:
        yield Front(p, a, script)


@pytest_asyncio.fixture(loop_scope="module")
async def client(front: Front) -> AsyncIterator[Client]:
    async with connected(front.proxy.port) as connection:
        yield connection


def readable(response: Response) -> bool:
    """Return whether a page of `ORIGIN` may read a response."""
    return response.get(b"access-control-allow-origin") == ORIGIN


# Responses


async def test_response_has_headers_and_body(front: Front, client: Client) -> None:
    client.ask(1)
    response = await client.answer(1)
    assert (response.status, response.body, readable(response)) == (200, b"hello", True)
    assert response.get(b"content-length") == b"5"
    assert response.get(b"date")
    assert front.last.first_line == b"GET /pacs/studies HTTP/1.1"
    assert front.last.get(b"via") == b"2 dicomweb-cors-proxy"


async def test_chunked_response_has_no_framing_of_http_1(client: Client) -> None:
    client.ask(1, STUDIES + b"?chunked")
    response = await client.answer(1)
    assert (response.body, response.get(b"transfer-encoding")) == (b"hello", None)


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        (b"HEAD", STUDIES, 200),
        (b"HEAD", ELSEWHERE, 404),
        (b"HEAD", b"/healthz", 200),
        (b"GET", STUDIES + b"?204", 204),
        (b"GET", STUDIES + b"?304", 304),
    ],
)
async def test_response_without_a_body(
    client: Client, method: bytes, path: bytes, status: int
) -> None:
    client.ask(1, path, method=method)
    response = await client.answer(1)
    assert (response.status, bytes(response.body)) == (status, b"")


async def test_preflight(front: Front, client: Client) -> None:
    before = len(front.archive.requests)
    client.ask(1, STUDIES, PREFLIGHT, method=b"OPTIONS")
    response = await client.answer(1)
    assert (response.status, readable(response)) == (204, True)
    assert response.get(b"content-length") is None
    assert len(front.archive.requests) == before


async def test_trailers_of_a_response_are_dropped(client: Client) -> None:
    client.ask(1, STUDIES + b"?trailers")  # the client's faults show trailers
    assert (await client.answer(1)).body == b"hello"


async def test_interim_responses_are_not_forwarded(client: Client) -> None:
    client.ask(1, STUDIES + b"?interim")
    assert (await client.answer(1)).body == b"hi"


async def test_connection_headers_of_the_archive_are_dropped(client: Client) -> None:
    client.ask(1, STUDIES + b"?connection")
    response = await client.answer(1)
    assert response.get(b"x-name") == b"y"
    assert response.get(b"x-hop") is None


async def test_cut_response_resets_its_stream_alone(client: Client) -> None:
    client.ask(1, STUDIES + b"?cut")
    [response] = await client.done(1)
    assert (response.status, response.body, response.is_ended) == (200, b"half", False)
    assert response.reset == Code.INTERNAL_ERROR
    client.ask(3)
    assert (await client.answer(3)).status == 200


async def test_many_streams_at_once(client: Client) -> None:
    streams = range(1, 200, 2)
    for stream in streams:
        client.ask(stream, STUDIES + b"?%d" % stream)
    for response in await client.done(*streams):
        assert (response.status, response.body) == (200, b"hello")


# Requests


async def test_cookie_crumbs_are_joined(front: Front, client: Client) -> None:
    client.ask(1, STUDIES, (b"cookie", b"a=1"), (b"x", b"y"), (b"cookie", b"b=2"))
    await client.answer(1)
    assert front.last.all(b"cookie") == [b"a=1; b=2"]


async def test_authority_is_the_host(front: Front, client: Client) -> None:
    client.ask(1)
    await client.answer(1)
    assert front.last.get(b"x-forwarded-host") == b"proxy.example"
    assert front.last.all(b":authority") == []


async def test_other_host_than_the_authority_is_a_400(front: Front, client: Client) -> None:
    before = len(front.archive.requests)
    client.ask(1, STUDIES, (b"host", b"else.example"))
    response = await client.answer(1)
    assert (response.status, readable(response)) == (400, True)
    client.ask(3)
    assert (await client.answer(3)).status == 200
    assert len(front.archive.requests) == before + 1


async def test_te_and_priority_do_not_break_a_request(front: Front, client: Client) -> None:
    client.ask(1, STUDIES, (b"te", b"trailers"), (b"priority", b"u=1, i"))
    assert (await client.answer(1)).status == 200
    assert front.last.get(b"te") is None


async def test_upload_is_forwarded(front: Front, client: Client) -> None:
    content = bytes(range(256)) * 4000
    client.send(request(1, b"POST", STUDIES, end=False))
    await client.upload(1, content)
    assert (await client.answer(1)).status == 200
    assert front.script.body == content
    assert front.last.get(b"transfer-encoding") == b"chunked"


async def test_upload_with_a_length_is_forwarded_with_it(front: Front, client: Client) -> None:
    client.send(request(1, b"POST", STUDIES, (b"content-length", b"5"), end=False))
    await client.upload(1, b"hello")
    assert (await client.answer(1)).status == 200
    assert (front.script.body, front.last.get(b"content-length")) == (b"hello", b"5")


async def test_trailers_of_a_request_are_dropped(front: Front, client: Client) -> None:
    client.send(request(1, b"POST", STUDIES, end=False), data(1, b"content"))
    client.send(headers(1, block([(b"x-trailer", b"y")])))
    assert (await client.answer(1)).status == 200
    assert front.script.body == b"content"
    assert front.last.get(b"x-trailer") is None


async def test_get_with_a_body_is_a_400(client: Client) -> None:
    client.send(request(1, end=False), data(1, b"x", end=True))
    [response] = await client.done(1)
    assert (response.status, readable(response)) == (400, True)


async def test_get_with_an_empty_body_is_served(client: Client) -> None:
    client.send(request(1, end=False), data(1, end=True))
    assert (await client.answer(1)).status == 200


async def test_expected_100_is_sent_before_the_response(client: Client) -> None:
    client.send(request(1, b"POST", STUDIES, (b"expect", b"100-continue"), end=False))
    await client.until(lambda: client.responses[1].status == 100)
    client.send(data(1, b"hello", end=True))
    assert (await client.answer(1)).status == 200


# Early responses: the response is complete, then the rest of the upload is declined.


@pytest.mark.parametrize(
    ("path", "status"),
    [(ELSEWHERE, 404), (STUDIES + b"?refuse", 413)],
    ids=["of the proxy", "of the archive"],
)
async def test_early_response_is_whole(client: Client, path: bytes, status: int) -> None:
    client.send(request(1, b"POST", path, (b"content-length", b"3000000"), end=False))
    for _ in range(3):  # what the client sends before it hears
        client.send(data(1, bytes(FRAME_BYTES)))
    await client.until(lambda: client.responses[1].reset is not None)
    response = client.responses[1]
    assert response.is_ended
    assert (response.status, response.reset, readable(response)) == (status, Code.NO_ERROR, True)
    client.send(data(1, b"still on its way"))
    client.ask(3)
    assert (await client.answer(3)).status == 200


@pytest.mark.parametrize("length", [b"2000", None], ids=["announced", "unannounced"])
async def test_upload_beyond_its_limit_is_a_413(length: bytes | None) -> None:
    options = {"server": {"max_body_bytes": 1000}, "access": {"mode": "read-write"}}
    lines = [] if length is None else [(b"content-length", length)]
    async with (
        archive(Script()) as a,
        proxy(configuration(a.url, **options)) as p,
        connected(p.port) as client,
    ):
        client.send(request(1, b"POST", STUDIES, *lines, end=False), data(1, bytes(1500)))
        await client.until(lambda: client.responses[1].reset is not None)
        response = client.responses[1]
        assert (response.status, response.reset, readable(response)) == (413, Code.NO_ERROR, True)
        assert "max_body_bytes" in json.loads(response.body)["detail"]


# Limits, each as a response on its stream


def padded_head(size: int) -> bytes:
    """Return a header block that decodes to more than so many bytes."""
    return block(head(b"GET", STUDIES, (b"x", b"y" * size)))


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def narrow() -> AsyncIterator[Front]:
    script = Script()
    async with archive(script) as a, proxy(configuration(a.url, server=NARROW)) as p:
        yield Front(p, a, script)


LIMITS = {
    "a value": (block(head(b"GET", STUDIES, (b"x", b"y" * 1000))), 431, "max_header_bytes"),
    "a value far beyond": (block(head(b"GET", STUDIES, (b"x", b"y" * 9000))), 431, "max_header"),
    "a name": (block(head(b"GET", STUDIES, (b"x" * 1000, b"y"))), 431, "max_header_bytes"),
    "lines": (block(head(b"GET", STUDIES, *[(b"x", b"y")] * 10)), 431, "max_headers"),
    "cookies": (block(head(b"GET", STUDIES, *[(b"cookie", b"a=b")] * 300)), 431, "max_header"),
    "a target": (block(head(b"GET", STUDIES + b"?" + b"x" * 200)), 414, "max_target_bytes"),
    "a target far beyond": (block(head(b"GET", STUDIES + b"?" + b"x" * 9000)), 414, "max_target"),
}


@pytest.mark.parametrize(("encoded", "status", "word"), LIMITS.values(), ids=LIMITS)
async def test_head_beyond_a_limit_gets_a_response(
    narrow: Front, encoded: bytes, status: int, word: str
) -> None:
    async with connected(narrow.proxy.port) as client:
        client.send(headers(1, encoded))
        response = await client.answer(1)
        assert (response.status, readable(response)) == (status, True)
        assert word in json.loads(response.body)["detail"]
        client.ask(3)
        assert (await client.answer(3)).status == 200


async def test_head_in_pieces_beyond_a_limit_gets_a_response(narrow: Front) -> None:
    encoded = padded_head(4000)
    async with connected(narrow.proxy.port) as client:
        client.send(
            headers(1, encoded[:1000], whole=False),
            continuation(1, encoded[1000:2000], whole=False),
            continuation(1, encoded[2000:]),
        )
        response = await client.answer(1)
        assert (response.status, readable(response)) == (431, True)
        client.ask(3)
        assert (await client.answer(3)).status == 200


async def test_head_far_beyond_a_limit_ends_the_connection(narrow: Front) -> None:
    encoded = padded_head(30_000)
    async with connected(narrow.proxy.port) as client:
        client.send(
            headers(1, encoded[:FRAME_BYTES], whole=False), continuation(1, encoded[FRAME_BYTES:])
        )
        assert await client.closed() == Code.ENHANCE_YOUR_CALM


async def test_head_at_the_limit_is_served(narrow: Front) -> None:
    async with connected(narrow.proxy.port) as client:
        client.ask(1, STUDIES + b"?" + b"x" * (199 - len(STUDIES)))
        client.ask(3, STUDIES, *[(b"x", b"y")] * 7)
        for response in await client.done(1, 3):
            assert response.status == 200


# How the protocol is chosen


@pytest.fixture
def certified(tmp_path: Path) -> dict[str, str]:
    return Pair(tmp_path).server


async def chosen(port: int, *offered: str) -> str | None:
    context = offering(*offered)
    async with asyncio.timeout(PATIENCE):
        _, writer = await asyncio.open_connection("127.0.0.1", port, ssl=context)
    tunnel: ssl.SSLObject = writer.get_extra_info("ssl_object")
    protocol = tunnel.selected_alpn_protocol()
    writer.transport.abort()
    return protocol


async def test_protocol_is_chosen_in_the_handshake(certified: dict[str, str]) -> None:
    async with archive(Script()) as a, proxy(configuration(a.url, server=certified)) as p:
        assert await chosen(p.port, "h2", "http/1.1") == "h2"
        assert await chosen(p.port, "http/1.1", "h2") == "h2"
        assert await chosen(p.port, "http/1.1") == "http/1.1"
        assert await chosen(p.port) is None
        async with connected(p.port, tls=True) as client:
            for stream in (1, 3, 5):
                client.send(headers(stream, block(head(scheme=b"https"))))
                assert (await client.answer(stream)).status == 200


async def test_http2_can_be_switched_off(certified: dict[str, str]) -> None:
    server = certified | {"http2": False}
    async with archive(Script()) as a, proxy(configuration(a.url, server=server)) as p:
        assert await chosen(p.port, "h2", "http/1.1") == "http/1.1"


async def test_prior_knowledge_can_be_switched_off() -> None:
    async with archive(Script()) as a, proxy(configuration(a.url, server={"http2": False})) as p:
        wire = await p.connect()
        async with wire, asyncio.timeout(PATIENCE):
            await wire.send(PREFACE + settings())
            assert (await wire.reader.readline()).startswith(b"HTTP/1.1 400")


async def test_preface_may_come_byte_by_byte(front: Front) -> None:
    async with bare(front.proxy.port) as client:
        client.acknowledges = False  # it would stand within the preface
        client.expect(settings(), request(1))
        for byte in PREFACE + settings() + request(1):
            await client.push(bytes((byte,)))
            await asyncio.sleep(0)
        assert (await client.answer(1)).status == 200


async def test_http_1_is_served_on_the_same_port(front: Front) -> None:
    head_, body = await front.proxy.ask(b"GET /healthz HTTP/1.1\r\nHost: proxy.example\r\n\r\n")
    assert head_.status == 200
    assert body
