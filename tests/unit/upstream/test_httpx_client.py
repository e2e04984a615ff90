"""httpx's own transport as the proxy uses it (`upstream.transport: httpx`)."""

from __future__ import annotations

import ssl
from typing import TYPE_CHECKING

import httpx
import pytest
import trustme

from dicomweb_cors_proxy.upstream.httpx_client import HTTPXTransport
from tests.support.sockets import answer, archive
from tests.support.upstream import CHUNKED, Source, request, turns

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from tests.support.sockets import Head, Wire

FORGED = answer(b"forged")

# With a second response behind it.
SURPLUS = {
    "a length": ("GET", answer(b"hello") + FORGED),
    "chunked": (
        "GET",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n" + FORGED,
    ),
    "HEAD": ("HEAD", answer(length=5) + FORGED),
    "204": ("GET", b"HTTP/1.1 204 No Content\r\n\r\n" + FORGED),
}


@pytest.fixture(scope="module")
def authority() -> trustme.CA:
    return trustme.CA()


@pytest.fixture
async def transport(authority: trustme.CA) -> AsyncIterator[HTTPXTransport]:
    trust = ssl.create_default_context()
    trust.options |= ssl.OP_IGNORE_UNEXPECTED_EOF  # the default of Python 3.11.2
    authority.configure_trust(trust)
    transport = HTTPXTransport(max_connections=3, ssl_context=trust)
    yield transport
    assert transport.connections()["active"] == 0
    await transport.aclose()


async def ask(transport: HTTPXTransport, outgoing: httpx.Request) -> bytes:
    response = await transport.handle_async_request(outgoing)
    body = await response.aread()
    await response.aclose()
    return body


@pytest.mark.parametrize("tls", [False, True])
@pytest.mark.parametrize(("method", "first"), SURPLUS.values(), ids=SURPLUS)
async def test_bytes_after_a_response_are_nobodys_response(
    method: str, first: bytes, tls: bool, transport: HTTPXTransport, authority: trustme.CA
) -> None:
    async def handle(wire: Wire, head: Head) -> None:
        await wire.send(first if b"/first" in head.first_line else answer(b"right"))

    server = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    authority.issue_cert("127.0.0.1").configure_cert(server)
    async with archive(handle, tls=server if tls else None) as upstream:
        await ask(transport, request(upstream.url, method, target=b"/first"))
        assert await ask(transport, request(upstream.url)) == b"right"
    assert len(upstream.connections) == 2


@pytest.mark.parametrize(
    ("method", "status"),
    [("HEAD", b"200 OK"), ("GET", b"204 No Content"), ("GET", b"304 Not Modified")],
)
async def test_what_comes_late_is_nobodys_response(
    method: str, status: bytes, transport: HTTPXTransport
) -> None:
    async def handle(wire: Wire, head: Head) -> None:
        if b"/first" in head.first_line:
            await wire.send(b"HTTP/1.1 %b\r\nContent-Length: 5\r\n\r\n" % status)
            await wire.head()  # of the next request, if it comes here
            await wire.send(FORGED)
        else:
            await wire.send(answer(b"right"))

    async with archive(handle) as upstream:
        await ask(transport, request(upstream.url, method, target=b"/first"))
        assert await ask(transport, request(upstream.url)) == b"right"


async def test_a_write_behind_such_bytes_is_not_sent(transport: HTTPXTransport) -> None:
    async def handle(wire: Wire, _: Head) -> None:
        await wire.send(answer(b"hello") + FORGED)

    async with archive(handle) as upstream:
        await ask(transport, request(upstream.url))
        store = request(upstream.url, "POST", CHUNKED, body=Source(b"x", None))
        with pytest.raises(httpx.RemoteProtocolError, match="after the end"):
            await ask(transport, store)
    assert len(upstream.requests) == 1


@pytest.mark.parametrize("method", ["GET", "POST"])
async def test_a_stale_connection_is_replaced_for_what_can_be_repeated(
    method: str, transport: HTTPXTransport
) -> None:
    async def handle(wire: Wire, _: Head) -> None:
        if len(upstream.requests) == 2:
            wire.writer.close()
        else:
            await wire.send(answer(b"hello"))

    async with archive(handle) as upstream:
        await ask(transport, request(upstream.url))
        if method == "GET":
            assert await ask(transport, request(upstream.url)) == b"hello"
        else:
            with pytest.raises(httpx.RemoteProtocolError):
                await ask(transport, request(upstream.url, "POST", (b"Content-Length", b"0")))
    assert len(upstream.requests) == (3 if method == "GET" else 2)


@pytest.mark.parametrize("notified", [True, False])
async def test_the_end_of_tls_without_a_close_notify_is_a_cut(
    notified: bool, transport: HTTPXTransport, authority: trustme.CA
) -> None:
    async def handle(wire: Wire, _: Head) -> None:
        await wire.send(b"HTTP/1.1 200 OK\r\n\r\nhello")
        if notified:
            wire.writer.close()
            return
        await turns(5)
        wire.end_without_close_notify()
        await wire.closed()

    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    authority.issue_cert("127.0.0.1").configure_cert(context)
    async with archive(handle, tls=context) as upstream:
        if notified:
            assert await ask(transport, request(upstream.url)) == b"hello"
        else:
            with pytest.raises(httpx.ReadError):
                await ask(transport, request(upstream.url))
