"""Streaming, back-pressure, clients that leave, archives that break off: over real sockets."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, NamedTuple

import httpx
import pytest

from tests.support.back_pressure import GIB, connect, send_while_taken
from tests.support.sockets import Wire, answer, archive, proxy, request, settings

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable

    from tests.support.sockets import Head

    Handler = Callable[[Wire, Head], Awaitable[None]]

READ_WRITE = {"mode": "read-write"}
STUDIES = "/dicom-web/studies"

CHUNKED = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
UNTIL_CLOSE = b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n"
LAST_CHUNK = b"0\r\n\r\n"

full_duplex = pytest.mark.native_only("httpx reads no answer before the upload has ended")


def chunk(data: bytes) -> bytes:
    return b"%x\r\n%b\r\n" % (len(data), data)


def store(*lines: str) -> bytes:
    return request("POST", STUDIES, *lines)


# Streaming


@pytest.mark.parametrize("framing", ["Content-Length: 9", "Transfer-Encoding: chunked"])
async def test_an_upload_reaches_the_archive_before_the_client_has_finished(framing: str) -> None:
    is_chunked = "chunked" in framing
    arrived = asyncio.Event()

    async def handle(wire: Wire, head: Head) -> None:
        name, _, value = framing.lower().encode().partition(b": ")
        assert head.get(name) == value
        assert await (wire.chunk() if is_chunked else wire.reader.readexactly(5)) == b"first"
        arrived.set()
        assert await (wire.chunk() if is_chunked else wire.reader.readexactly(4)) == b"last"
        if is_chunked:
            assert await wire.chunk() == b""
        await wire.send(answer(b"stored"))

    async with (
        archive(handle) as a,
        proxy(settings(a.url, access=READ_WRITE)) as p,
        await p.connect() as wire,
    ):
        await wire.send(store(framing), chunk(b"first") if is_chunked else b"first")
        await arrived.wait()
        await wire.send(chunk(b"last") + LAST_CHUNK if is_chunked else b"last")
        assert await wire.body(await wire.head()) == b"stored"


@pytest.mark.parametrize(
    ("first", "last"),
    [
        (answer(b"first", length=9), b"last"),
        (CHUNKED + chunk(b"first"), chunk(b"last") + LAST_CHUNK),
        (UNTIL_CLOSE + b"first", b"last"),
    ],
    ids=["length", "chunked", "until close"],
)
async def test_a_response_reaches_the_client_before_the_archive_has_finished(
    first: bytes, last: bytes
) -> None:
    arrived = asyncio.Event()

    async def handle(wire: Wire, _: Head) -> None:
        await wire.send(first)
        await arrived.wait()
        await wire.send(last)
        wire.writer.close()

    async with archive(handle) as a, proxy(settings(a.url)) as p, await p.connect() as wire:
        await wire.send(request())
        head = await wire.head()
        if head.get(b"content-length"):
            assert await wire.reader.readexactly(5) == b"first"
            arrived.set()
            assert await wire.reader.readexactly(4) == b"last"
        else:
            assert await wire.chunk() == b"first"
            arrived.set()
            assert await wire.body(head) == b"last"


@full_duplex
async def test_an_archive_may_answer_in_the_middle_of_an_upload() -> None:
    async def handle(wire: Wire, _: Head) -> None:
        assert await wire.reader.readexactly(5) == b"first"
        await wire.send(answer(b"full", status=b"413 Content Too Large"))
        wire.writer.close()

    async with (
        archive(handle) as a,
        proxy(settings(a.url, access=READ_WRITE)) as p,
        await p.connect() as wire,
    ):
        await wire.send(store("Content-Length: 1000000"), b"first")
        head = await wire.head()
        assert (head.status, await wire.body(head)) == (413, b"full")


# Clients that leave


class Departure(NamedTuple):
    request: bytes
    answer: bytes  # what the archive has sent by then
    body: bytes = b""  # what has come of the upload by then


DEPARTURES = {
    "before the head": Departure(request(), b""),
    "mid-body": Departure(request(), answer(b"half", length=8)),
    "mid-body, chunked": Departure(request(), CHUNKED + chunk(b"half")),
    "mid-upload": Departure(store("Content-Length: 8"), b"", b"half"),
    "after the upload": Departure(store("Content-Length: 4"), b"", b"half"),
    "mid-upload, answered": Departure(
        store("Content-Length: 8"), answer(b"half", length=8), b"half"
    ),
}


async def depart(departure: Departure, client: Wire, asked: asyncio.Queue[None]) -> None:
    await client.send(departure.request, departure.body)
    await asked.get()
    if departure.answer:
        await client.head()
        await client.reader.readuntil(b"half")
    client.writer.close()


@pytest.mark.parametrize(
    "departure",
    [
        pytest.param(
            departure, id=name, marks=[full_duplex] if departure.answer and departure.body else []
        )
        for name, departure in DEPARTURES.items()
    ],
)
async def test_a_client_that_leaves_cancels_the_archives_request(departure: Departure) -> None:
    asked: asyncio.Queue[None] = asyncio.Queue()
    cancelled = asyncio.Event()

    async def handle(wire: Wire, _: Head) -> None:
        await wire.reader.readexactly(len(departure.body))
        asked.put_nowait(None)
        await wire.send(departure.answer)
        assert await wire.closed()
        cancelled.set()

    async with archive(handle) as a, proxy(settings(a.url, access=READ_WRITE)) as p:
        await depart(departure, await p.connect(), asked)
        async with asyncio.timeout(1):
            await cancelled.wait()


@full_duplex
async def test_a_client_whose_upload_nobody_wants_may_leave_too() -> None:
    cancelled = asyncio.Event()

    async def handle(wire: Wire, _: Head) -> None:
        await wire.send(answer(b"half", length=8, status=b"413 Content Too Large"))
        await wire.closed()
        cancelled.set()

    async with archive(handle) as a, proxy(settings(a.url, access=READ_WRITE)) as p:
        async with await p.connect() as client:
            await client.send(store("Transfer-Encoding: chunked"), chunk(b"half"))
            await client.head()
            await client.reader.readexactly(4)
            await client.send(chunk(bytes(2**20)))
        async with asyncio.timeout(1):
            await cancelled.wait()


async def test_a_reader_that_stalls_may_leave_too() -> None:
    stalled = asyncio.Event()
    cancelled = asyncio.Event()

    async def handle(wire: Wire, _: Head) -> None:
        await wire.send(answer(length=GIB))
        assert await send_while_taken(wire, GIB)
        stalled.set()
        assert await wire.closed()
        cancelled.set()

    async with archive(handle) as a, proxy(settings(a.url)) as p:
        client = await connect(f"http://127.0.0.1:{p.port}")
        await client.send(request())
        await stalled.wait()
        client.writer.close()
        async with asyncio.timeout(1):
            await cancelled.wait()


@full_duplex
async def test_two_hundred_clients_that_leave_cost_no_connection() -> None:
    asked: asyncio.Queue[None] = asyncio.Queue()
    together = asyncio.Barrier(3)
    ways = list(DEPARTURES.values())

    async def handle(wire: Wire, head: Head) -> None:
        number = int(head.first_line.split()[1].rpartition(b"=")[2])
        if number == 200:
            await together.wait()
            await wire.send(answer(b"good"))
            return
        departure = ways[number % len(ways)]
        await wire.reader.readexactly(len(departure.body))
        asked.put_nowait(None)
        await wire.send(departure.answer)
        assert await wire.closed()

    def numbered(data: bytes, number: int) -> bytes:
        return data.replace(b"/studies", b"/studies?limit=%d" % number, 1)

    async with (
        archive(handle) as a,
        proxy(settings(a.url, access=READ_WRITE, upstream={"max_connections": 3})) as p,
    ):
        for number in range(200):
            way = ways[number % len(ways)]
            way = way._replace(request=numbered(way.request, number))
            await depart(way, await p.connect(), asked)
        good = await asyncio.gather(*(p.ask(numbered(request(), 200)) for _ in range(3)))
        assert [body for _, body in good] == [b"good"] * 3


async def test_who_waits_for_a_connection_may_leave() -> None:
    asked: asyncio.Queue[None] = asyncio.Queue()
    release = asyncio.Event()

    async def handle(wire: Wire, _: Head) -> None:
        asked.put_nowait(None)
        await release.wait()
        await wire.send(answer(b"good"))

    async with (
        archive(handle) as a,
        proxy(settings(a.url, upstream={"max_connections": 1})) as p,
        asyncio.TaskGroup() as tasks,
    ):
        first = tasks.create_task(p.ask(request()))
        await asked.get()
        waiting = [await p.connect() for _ in range(3)]
        for client in waiting:
            await client.send(request())
        # The proxy reads connections in turn, so it has read these when it answers this.
        assert (await p.ask(request("GET", "/elsewhere")))[0].status == 404
        for client in waiting:
            client.writer.close()
        release.set()
        assert (await first)[1] == b"good"
        assert (await p.ask(request()))[1] == b"good"
        assert len(a.requests) == 2


async def test_whoever_is_served_or_has_left_makes_room() -> None:
    asked: asyncio.Queue[None] = asyncio.Queue()
    cancelled = asyncio.Event()

    async def handle(wire: Wire, head: Head) -> None:
        if head.first_line.startswith(b"HEAD"):
            await wire.send(answer())
        else:
            asked.put_nowait(None)
            await wire.closed()
            cancelled.set()

    async with (
        archive(handle) as a,
        proxy(settings(a.url, server={"max_concurrent_requests": 1})) as p,
    ):
        assert (await p.ask(request("HEAD")))[0].status == 200
        await depart(DEPARTURES["before the head"], await p.connect(), asked)
        await cancelled.wait()
        assert (await p.ask(request("HEAD")))[0].status == 200


class Lingering(httpx.AsyncByteStream):
    """A response whose connection takes a while to be given back."""

    def __init__(self) -> None:
        self.is_closed = asyncio.Event()

    async def __aiter__(self) -> AsyncIterator[bytes]:
        yield b"whole"

    async def aclose(self) -> None:
        for _ in range(100):
            await asyncio.sleep(0)
        self.is_closed.set()


async def test_the_end_of_a_response_is_no_departure() -> None:
    stream = Lingering()
    transport = httpx.MockTransport(lambda _: httpx.Response(200, stream=stream))
    async with proxy(settings("http://archive.example"), transport=transport) as p:
        assert (await p.ask(request()))[1] == b"whole"
        await stream.is_closed.wait()


# Responses that break off


class Cut(NamedTuple):
    start: bytes
    end: str


CUTS = {
    "length, closed": Cut(answer(b"half", length=8), "close"),
    "length, reset": Cut(answer(b"half", length=8), "reset"),
    "length, silent": Cut(answer(b"half", length=8), "silence"),
    "chunked, closed": Cut(CHUNKED + chunk(b"half"), "close"),
    "chunked, reset": Cut(CHUNKED + chunk(b"half"), "reset"),
    "chunked, silent": Cut(CHUNKED + chunk(b"half"), "silence"),
    "chunked, garbage": Cut(CHUNKED + chunk(b"half"), "garbage"),
    "until close, reset": Cut(UNTIL_CLOSE + b"half", "reset"),
    "until close, silent": Cut(UNTIL_CLOSE + b"half", "silence"),
}


@pytest.mark.parametrize("version", ["1.0", "1.1"])
@pytest.mark.parametrize("cut", CUTS.values(), ids=CUTS)
async def test_a_cut_response_is_seen_as_cut(
    cut: Cut, version: str, caplog: pytest.LogCaptureFixture
) -> None:
    seen = asyncio.Event()

    async def handle(wire: Wire, _: Head) -> None:
        await wire.send(cut.start)
        await seen.wait()
        match cut.end:
            case "close":
                wire.writer.close()
            case "reset":
                wire.reset()
            case "garbage":
                await wire.send(b"no chunk\r\n")
            case "silence":
                assert await wire.closed()

    configuration = {"read_timeout": 0.2} if cut.end == "silence" else {}
    async with (
        archive(handle) as a,
        proxy(settings(a.url, upstream=configuration)) as p,
        await p.connect() as client,
    ):
        await client.send(request().replace(b"HTTP/1.1", b"HTTP/" + version.encode()))
        head = await client.head()
        if head.get(b"transfer-encoding"):
            assert version == "1.1"
            assert await client.chunk() == b"half"
        else:
            assert await client.reader.readexactly(4) == b"half"
        seen.set()
        if head.get(b"content-length"):
            assert await client.reader.read() == b""  # 4 of 8 bytes
        elif version == "1.1":
            assert await client.reader.read() == b""  # no last chunk
        else:  # an orderly close would be the end
            with pytest.raises(ConnectionResetError):
                await client.reader.read()
    assert "bug" not in caplog.text


@full_duplex
async def test_an_upload_that_fails_under_a_response_cuts_it() -> None:
    async def handle(wire: Wire, _: Head) -> None:
        await wire.send(answer(b"half", length=8))
        assert await wire.chunk() == b"few"
        await wire.closed()

    async with (
        archive(handle) as a,
        proxy(settings(a.url, access=READ_WRITE, server={"max_body_bytes": 4})) as p,
        await p.connect() as client,
    ):
        await client.send(store("Transfer-Encoding: chunked"), chunk(b"few"))
        await client.head()
        assert await client.reader.readexactly(4) == b"half"
        await client.send(chunk(b"too many"))
        assert await client.reader.read() == b""


class Broken(httpx.AsyncByteStream):
    async def __aiter__(self) -> AsyncIterator[bytes]:
        yield b"half"
        raise ValueError("Doe^Jane")


async def test_a_bug_in_the_middle_of_a_response_cuts_it(caplog: pytest.LogCaptureFixture) -> None:
    transport = httpx.MockTransport(lambda _: httpx.Response(200, stream=Broken()))
    async with (
        proxy(settings("http://archive.example"), transport=transport) as p,
        await p.connect() as client,
    ):
        await client.send(request())
        await client.head()
        assert await client.chunk() == b"half"
        assert await client.reader.read() == b""
    assert "bug: ValueError" in caplog.text
    assert "Doe" not in caplog.text


# Connections that the archive has closed in the meantime


async def test_a_read_that_meets_a_closed_connection_is_sent_again() -> None:
    served: list[Wire] = []

    async def handle(wire: Wire, _: Head) -> None:
        if wire in served:
            wire.writer.close()
        else:
            served.append(wire)
            await wire.send(answer(b"hello"))

    async with archive(handle) as a, proxy(settings(a.url)) as p:
        for _ in range(2):
            assert (await p.ask(request()))[1] == b"hello"
        assert (len(a.connections), len(a.requests)) == (2, 3)


@pytest.mark.parametrize("method", ["POST", "DELETE"])
async def test_a_write_is_sent_once(method: str) -> None:
    async def handle(wire: Wire, head: Head) -> None:
        if head.first_line.startswith(b"GET"):
            await wire.send(answer(b"hello"))
        else:
            wire.writer.close()

    async with archive(handle) as a, proxy(settings(a.url, access=READ_WRITE)) as p:
        await p.ask(request())  # leaves a connection that a write must not trust
        head, _ = await p.ask(request(method, "/dicom-web/studies/1", body=b"x"))
        assert head.status == 502
        assert [h.first_line.split()[0].decode() for h in a.requests] == ["GET", method]
