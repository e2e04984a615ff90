"""The bodies of requests: alike whether the server pushes them or the application asks for them."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, NamedTuple

import pytest

from dicomweb_cors_proxy.server.exchange import Exchange
from tests.support.sockets import Head, Wire, answer, archive, proxy, request, settings

if TYPE_CHECKING:
    from collections.abc import Sequence

CHUNKED = "Transfer-Encoding: chunked"


class Upload(NamedTuple):
    """What a client sends, and what becomes of it.

    Attributes:
        received: by the archive; None if that does not get the whole body.
    """

    framing: str
    parts: Sequence[bytes]
    status: int
    received: bytes | None = None


def chunks(*contents: bytes) -> bytes:
    return b"".join(b"%x\r\n%b\r\n" % (len(content), content) for content in contents)


LONG = bytes(range(256)) * 4096
UPLOADS = {
    "with a length": Upload("Content-Length: 10", [b"hello", b"world"], 200, b"helloworld"),
    "chunked": Upload(CHUNKED, [chunks(b"hello"), chunks(b"world", b"")], 200, b"helloworld"),
    "empty": Upload("Content-Length: 0", [], 200, b""),
    "empty and chunked": Upload(CHUNKED, [b"0\r\n\r\n"], 200, b""),
    "long": Upload(f"Content-Length: {len(LONG)}", [LONG], 200, LONG),
    "long and chunked": Upload(CHUNKED, [chunks(LONG, LONG, b"")], 200, LONG * 2),
    "in tiny chunks": Upload(CHUNKED, [chunks(*[b"ab"] * 5000, b"")], 200, b"ab" * 5000),
    "with trailers": Upload(CHUNKED, [chunks(b"a"), b"0\r\na: b\r\n\r\n"], 200, b"a"),
    "malformed": Upload(CHUNKED, [chunks(b"hello"), b"x\r\n"], 400),
    "too long": Upload(CHUNKED, [chunks(LONG, LONG), chunks(LONG)], 413),
    "stalled": Upload("Content-Length: 10", [b"hello"], 408),
}


@pytest.fixture(params=["pushed", "asked for"])
def way(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    if request.param == "asked for":
        monkeypatch.setattr(Exchange, "offer_push", lambda _: None)


@pytest.mark.usefixtures("way")
@pytest.mark.parametrize("name", UPLOADS)
async def test_a_body_is_handled_alike_pushed_or_asked_for(name: str) -> None:
    upload = UPLOADS[name]
    received: list[bytes] = []

    async def handle(wire: Wire, head: Head) -> None:
        received.append(await wire.body(head))
        await wire.send(answer(b"stored"))

    timeout = 0.2 if upload.status == 408 else 60
    limits = {"body_timeout": timeout, "max_body_bytes": 2 * len(LONG)}
    async with (
        archive(handle) as a,
        proxy(settings(a.url, access={"mode": "read-write"}, server=limits)) as p,
        await p.connect() as client,
    ):
        await client.send(request("POST", "/dicom-web/studies", upload.framing))
        for part in upload.parts:
            await client.send(part)
        head = await client.head()
        await client.body(head)
    assert head.status == upload.status
    assert received == ([] if upload.received is None else [upload.received])


@pytest.mark.native_only("httpx iterates over bodies")
async def test_a_pushed_body_needs_no_receive(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Exchange, "receive", None)

    async def handle(wire: Wire, head: Head) -> None:
        await wire.send(answer(await wire.body(head)))

    configuration = {"access": {"mode": "read-write"}}
    async with archive(handle) as a, proxy(settings(a.url, **configuration)) as p:
        head, body = await p.ask(
            request("POST", "/dicom-web/studies", CHUNKED) + chunks(b"hello", b"")
        )
    assert head.status == 200
    assert body == b"hello"


@pytest.mark.usefixtures("way")
async def test_the_client_is_asked_to_continue_and_the_next_request_is_served() -> None:
    async def handle(wire: Wire, head: Head) -> None:
        await wire.send(answer(await wire.body(head)))

    async with (
        archive(handle) as a,
        proxy(settings(a.url, access={"mode": "read-write"})) as p,
        await p.connect() as client,
    ):
        for number in (b"1", b"2"):
            lines = ("Content-Length: 1", "Expect: 100-continue")
            await client.send(request("POST", "/dicom-web/studies", *lines))
            assert (await client.reader.readuntil(b"\r\n\r\n")).startswith(b"HTTP/1.1 100 ")
            await client.send(number)
            assert await client.body(await client.head()) == number


@pytest.mark.usefixtures("way")
async def test_a_client_that_disconnects_in_the_middle_ends_the_archives_request() -> None:
    began, ended = asyncio.Event(), asyncio.Event()

    async def handle(wire: Wire, _: Head) -> None:
        assert await wire.reader.readexactly(5) == b"hello"
        began.set()
        assert await wire.reader.read() == b""
        ended.set()

    async with (
        archive(handle) as a,
        proxy(settings(a.url, access={"mode": "read-write"})) as p,
    ):
        async with await p.connect() as client:
            await client.send(request("POST", "/dicom-web/studies", "Content-Length: 10"), b"hello")
            await began.wait()
        async with asyncio.timeout(5):
            await ended.wait()


@pytest.mark.native_only("httpx reads no answer before the upload has ended")
@pytest.mark.usefixtures("way")
async def test_the_rest_of_a_body_that_the_archive_rejects_is_not_sent() -> None:
    async def handle(wire: Wire, _: Head) -> None:
        await wire.reader.readexactly(5)
        await wire.send(answer(b"no", status=b"413 Content Too Large"))
        assert await wire.reader.read() == b""

    async with (
        archive(handle) as a,
        proxy(settings(a.url, access={"mode": "read-write"})) as p,
        await p.connect() as client,
    ):
        await client.send(request("POST", "/dicom-web/studies", "Content-Length: 10"), b"hello")
        head = await client.head()
        assert head.status == 413
        assert await client.body(head) == b"no"
