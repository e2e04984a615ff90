"""Flow control of HTTP/2 in both directions: nobody gets more than the windows allow, and whoever
does not take what he asked for holds up his own streams alone."""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager, suppress
from functools import partial
from typing import TYPE_CHECKING

import pytest

from tests.support.attacks import PATIENCE
from tests.support.certificates import Pair
from tests.support.http2 import Client, connected, name_of
from tests.support.http2_frames import (
    FRAME_BYTES,
    WINDOW,
    Setting,
    data,
    request,
    rst_stream,
    settings,
    window_update,
)
from tests.support.sockets import Head, Wire, answer, archive, proxy
from tests.support.sockets import settings as configuration

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
    from pathlib import Path

STUDIES = b"/dicom-web/studies"
READ_WRITE = {"access": {"mode": "read-write"}}
MIB = 2**20

# Bytes that may be on their way between the archive and a client that takes nothing: the buffers
# of four sockets and of the proxy.
UNDERWAY_BYTES = 16 * MIB


def of_size(size: int) -> Callable[[Wire, Head], Awaitable[None]]:
    async def handle(wire: Wire, _: Head) -> None:
        await wire.send(answer(b"x" * size))

    return handle


def body_size(client: Client, stream: int) -> int:
    return client.responses[stream].size


def has_taken(client: Client, stream: int, size: int) -> bool:
    return body_size(client, stream) == size


@asynccontextmanager
async def standing(
    handle: Callable[[Wire, Head], Awaitable[None]],
    *options: tuple[int, int],
    takes: bool = False,
    server: Mapping[str, object] | None = None,
) -> AsyncIterator[Client]:
    """Connect to a proxy in front of `handle`."""
    async with (
        archive(handle) as a,
        proxy(configuration(a.url, server=server or {}, **READ_WRITE)) as p,
        connected(p.port, *options, tls=bool(server), takes=takes) as client,
    ):
        yield client


async def test_window_of_one_byte_lets_one_byte_through() -> None:
    narrow = (Setting.INITIAL_WINDOW_SIZE, 1)
    async with standing(of_size(3), narrow) as client:
        client.ask(1)
        for size in (1, 2):
            await client.until(partial(has_taken, client, 1, size))
            await client.step()
            assert not client.responses[1].is_ended
            client.send(window_update(1, 1))
        assert (await client.answer(1)).body == b"xxx"


async def test_window_that_fits_exactly_ends_the_response() -> None:
    narrow = (Setting.INITIAL_WINDOW_SIZE, 3)
    async with standing(of_size(3), narrow) as client:
        client.ask(1)
        assert (await client.answer(1)).body == b"xxx"


async def test_window_of_zero_lets_heads_and_empty_bodies_through() -> None:
    async def handle(wire: Wire, head: Head) -> None:
        await wire.send(answer(b"" if b"?empty" in head.first_line else b"x"))

    shut = (Setting.INITIAL_WINDOW_SIZE, 0)
    async with standing(handle, shut) as client:
        client.ask(1, STUDIES + b"?empty")
        client.ask(3)
        assert (await client.answer(1)).status == 200
        await client.until(lambda: client.responses[3].status == 200)
        await client.step()
        assert not client.responses[3].is_ended
        client.send(window_update(3, 1))
        assert (await client.answer(3)).body == b"x"


async def test_last_value_of_a_setting_counts() -> None:
    sizes = [(Setting.INITIAL_WINDOW_SIZE, size) for size in (100, 1)]
    async with standing(of_size(3), *sizes) as client:
        client.ask(1)
        await client.until(lambda: body_size(client, 1))
        await client.step()
        assert body_size(client, 1) == 1


async def test_window_becomes_negative() -> None:
    async with standing(of_size(5), (Setting.INITIAL_WINDOW_SIZE, 3)) as client:
        client.ask(1)
        await client.until(lambda: body_size(client, 1) == 3)
        client.send(settings((Setting.INITIAL_WINDOW_SIZE, 1)))  # now -2
        client.send(window_update(1, 2))  # now 0
        await client.step()
        assert body_size(client, 1) == 3
        client.send(window_update(1, 1))
        await client.until(lambda: body_size(client, 1) == 4)
        client.send(settings((Setting.INITIAL_WINDOW_SIZE, 2)))
        assert (await client.answer(1)).body == b"xxxxx"


async def test_window_of_the_connection_is_shared() -> None:
    wide = (Setting.INITIAL_WINDOW_SIZE, 2 * WINDOW)
    async with standing(of_size(WINDOW), wide) as client:
        client.ask(1)
        client.ask(3)
        await client.until(lambda: body_size(client, 1) + body_size(client, 3) == WINDOW)
        client.ask(5, b"/dicom-web/elsewhere")  # a head needs no window
        await client.until(lambda: client.responses[5].status == 404)
        client.send(window_update(0, WINDOW))
        client.send(window_update(0, WINDOW))
        for response in await client.done(1, 3, 5):
            assert response.is_ended


async def test_streams_share_the_connection() -> None:
    """A large response does not keep a small one waiting until its end."""

    async def handle(wire: Wire, head: Head) -> None:
        await wire.send(answer(b"x" * (10 if b"?small" in head.first_line else 64 * MIB)))

    async with standing(handle, takes=True) as client:
        client.ask(1)
        await client.until(lambda: body_size(client, 1))
        client.ask(3, STUDIES + b"?small")
        assert (await client.answer(3)).status == 200
        assert not client.responses[1].is_ended


@pytest.mark.parametrize(
    ("priorities", "first"),
    [((b"", b""), 1), ((b"u=3", b"u=1"), 3), ((b"u=1", b"u=3"), 1), ((b"x", b"u=3, i"), 1)],
)
async def test_urgent_streams_go_first_then_older_ones(
    priorities: tuple[bytes, bytes], first: int
) -> None:
    """RFC 9218; so that the images that were asked for first are shown first."""
    size = 20_000  # so little that the proxy has all of it

    async def handle(wire: Wire, asked: Head) -> None:
        await wire.send(answer(b"x" * (WINDOW if b"?fill" in asked.first_line else size)))

    async with standing(handle) as client:
        client.ask(99, STUDIES + b"?fill")  # takes the window of the connection
        assert (await client.answer(99)).status == 200
        for stream, priority in zip((101, 103), priorities, strict=True):
            client.ask(stream, STUDIES, (b"priority", priority))
        await client.until(lambda: client.responses[101].status and client.responses[103].status)
        for _ in range(5):
            await client.step()
        client.send(window_update(0, size))
        assert (await client.answer(100 + first)).size == size
        assert not body_size(client, 104 - first)


# What the archive sends


class Endless:
    """An archive that counts what it has sent of an endless response."""

    def __init__(self) -> None:
        self.sent = 0
        self.left = asyncio.Event()

    async def __call__(self, wire: Wire, head: Head) -> None:
        if b"?small" in head.first_line:
            await wire.send(answer(b"small"))
            return
        with suppress(ConnectionError):
            await wire.send(answer(length=2**40))
            while True:
                await wire.send(bytes(FRAME_BYTES))
                self.sent += FRAME_BYTES
        self.left.set()
        raise ConnectionError


async def standstill(sent: Callable[[], int], client: Client) -> int:
    """Wait until a count no longer grows while the connection makes progress."""
    same = 0
    last = -1
    async with asyncio.timeout(PATIENCE):
        while same < 50:
            await client.step()
            same = same + 1 if sent() == last else 0
            last = sent()
    return last


@pytest.mark.parametrize("tls", [False, True], ids=["h2c", "tls"])
async def test_unread_stream_pauses_its_archive_connection(tls: bool, tmp_path: Path) -> None:
    there = Endless()
    server = Pair(tmp_path).server if tls else {}
    async with standing(there, server=server) as client:
        client.ask(1)
        await client.until(lambda: body_size(client, 1) == WINDOW)
        sent = await standstill(lambda: there.sent, client)
        assert sent < UNDERWAY_BYTES
        client.send(window_update(0, WINDOW))
        client.ask(3, STUDIES + b"?small")
        assert (await client.answer(3)).body == b"small"
        assert body_size(client, 1) == WINDOW
        client.send(window_update(0, 64 * MIB))
        client.send(window_update(1, 64 * MIB))
        await client.until(lambda: body_size(client, 1) == WINDOW + 64 * MIB)
        assert there.sent > sent


async def test_reset_reaches_the_archive() -> None:
    there = Endless()
    async with standing(there) as client:
        client.ask(1)
        await client.until(lambda: body_size(client, 1) == WINDOW)
        client.send(rst_stream(1))
        async with asyncio.timeout(PATIENCE):
            await there.left.wait()
        client.send(window_update(0, WINDOW))
        client.ask(3, STUDIES + b"?small")
        assert (await client.answer(3)).body == b"small"


async def test_reset_before_the_head_reaches_the_archive() -> None:
    asked, left = asyncio.Event(), asyncio.Event()

    async def handle(wire: Wire, _: Head) -> None:
        asked.set()
        await wire.closed()
        left.set()

    async with standing(handle, takes=True) as client, asyncio.timeout(PATIENCE):
        client.ask(1)
        await asked.wait()
        client.send(rst_stream(1))
        await left.wait()


async def test_closed_connection_reaches_the_archive() -> None:
    there = Endless()
    async with standing(there) as client:
        client.ask(1)
        await client.until(lambda: body_size(client, 1) == WINDOW)
        client.writer.close()
        async with asyncio.timeout(PATIENCE):
            await there.left.wait()


async def test_reset_stream_gives_its_window_back() -> None:
    """Bytes that were queued for a stream, and never sent, are no debt of the connection."""
    there = Endless()
    async with standing(there, (Setting.INITIAL_WINDOW_SIZE, 100)) as client:
        for stream in range(1, 200, 2):
            client.ask(stream)
            await client.until(partial(has_taken, client, stream, 100))
            client.send(rst_stream(stream))
        client.ask(201, STUDIES + b"?small")
        assert (await client.answer(201)).body == b"small"
        assert client.window == WINDOW - 100 * 100 - 5


# What a client sends


class Slow:
    """An archive that reads a body only as it is told to."""

    def __init__(self) -> None:
        self.asked = asyncio.Event()
        self.go_on = asyncio.Event()
        self.received = 0

    async def __call__(self, wire: Wire, head: Head) -> None:
        transport = wire.writer.transport
        assert isinstance(transport, asyncio.Transport)
        transport.pause_reading()
        self.asked.set()
        await self.go_on.wait()
        transport.resume_reading()
        assert head.get(b"transfer-encoding") == b"chunked"
        while chunk := await wire.chunk():
            self.received += len(chunk)
        await wire.send(answer(b"stored"))


async def test_window_of_an_upload_opens_as_the_archive_takes_it() -> None:
    there = Slow()
    size = 64 * MIB
    sent = 0

    async def upload(client: Client) -> None:
        nonlocal sent
        while sent < size:
            await client.until(lambda: client.room(1) > 0)
            part = min(client.room(1), FRAME_BYTES, size - sent)
            sent += part
            await client.push(data(1, bytes(part), end=sent == size))

    async with standing(there, takes=True) as client:
        client.send(request(1, b"POST", STUDIES, end=False))
        uploading = asyncio.create_task(upload(client))
        await there.asked.wait()
        assert await standstill(lambda: sent, client) < UNDERWAY_BYTES
        client.ask(3, b"/dicom-web/elsewhere")
        assert (await client.answer(3)).status == 404
        there.go_on.set()
        await uploading
        assert (await client.answer(1)).body == b"stored"
        assert there.received == size


async def fill(client: Client, stream: int) -> int:
    """Send a body until its window stays shut; return how much was sent."""
    sent = 0

    async def upload() -> None:
        nonlocal sent
        while True:
            await client.until(lambda: client.room(stream) > 0)
            part = min(client.room(stream), FRAME_BYTES)
            sent += part
            await client.push(data(stream, bytes(part)))

    client.send(request(stream, b"POST", STUDIES, end=False))
    uploading = asyncio.create_task(upload())
    await standstill(lambda: sent, client)
    uploading.cancel()
    await asyncio.gather(uploading, return_exceptions=True)
    return sent


async def test_upload_beyond_the_window_is_an_error() -> None:
    there = Slow()
    async with standing(there, takes=True) as client:
        await fill(client, 1)
        assert client.room(1) <= 0
        client.send(data(1, b"x"))
        await client.until(lambda: client.is_closed or client.responses[1].reset is not None)
        code = client.goaways[-1][1] if client.goaways else client.responses[1].reset
        assert name_of(code) == "FLOW_CONTROL_ERROR"
        there.go_on.set()


async def test_uploads_share_the_window_of_the_connection() -> None:
    """What all streams together may have in the proxy is bounded too."""
    there = Slow()
    async with standing(there, takes=True) as client:
        streams = range(1, 80, 2)
        for stream in streams:
            await fill(client, stream)
            if client.upload_window <= 0:
                break
        assert client.upload_window <= 0
        client.send(request(101, b"POST", STUDIES, end=False))
        client.send(data(101, b"x"))
        assert name_of(await client.closed()) == "FLOW_CONTROL_ERROR"
        there.go_on.set()


async def test_rejected_uploads_give_the_window_of_the_connection_back() -> None:
    """Bytes that nobody reads must not shut the connection for other uploads."""

    async def handle(wire: Wire, head: Head) -> None:
        await wire.send(answer(b"%d" % len(await wire.body(head))))

    async with standing(handle, takes=True) as client:
        for stream in range(1, 100, 2):
            client.send(request(stream, b"POST", b"/dicom-web/elsewhere", end=False))
            await client.until(lambda: client.upload_window > 0, "window")
            part = min(client.room(stream), FRAME_BYTES)
            client.send(data(stream, bytes(part), end=True))
            assert (await client.done(stream))[0].status == 404
        client.send(request(101, b"POST", STUDIES, end=False))
        await client.upload(101, bytes(MIB))
        assert (await client.answer(101)).body == b"%d" % MIB
