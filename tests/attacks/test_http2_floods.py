"""Clients that use HTTP/2 to make the server work, wait or hold memory for little of their own.

Each is stopped, or bounded, while others are served. The names of known attacks stand beside the
rows.
"""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack, suppress
from itertools import count
from typing import TYPE_CHECKING, Any, Final, NamedTuple

import pytest
import pytest_asyncio

from tests.support.attacks import PATIENCE, Front, standing
from tests.support.http2 import Client, bare, connected, name_of
from tests.support.http2_archive import ENDLESS, HOLD, STUCK, STUDIES, Script
from tests.support.http2_frames import (
    ACK,
    FRAME_BYTES,
    MAX_WINDOW,
    PADDED,
    PREFACE,
    Code,
    Kind,
    Setting,
    block,
    continuation,
    data,
    frame,
    goaway,
    head,
    headers,
    indexed,
    indexing,
    ping,
    priority,
    request,
    rst_stream,
    settings,
    window_update,
)
from tests.support.memory import Memory, measured
from tests.support.sockets import ORIGIN

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterator, Mapping
    from pathlib import Path

    from tests.support.http2 import Response

pytestmark = pytest.mark.asyncio(loop_scope="module")

ELSEWHERE: Final = b"/dicom-web/elsewhere"
MIB: Final = 2**20

MOST: Final = 20_000  # frames after which a flood has not been stopped
BATCH: Final = 50

# Memory that one connection may cost at its worst. What it would cost without a bound is more by
# far: each test could make the server hold hundreds of MiB.
CONNECTION_BYTES: Final = 48 * MIB

# So few that one client could take all of them.
UPSTREAM_CONNECTIONS: Final = 20
SHORT: Final = 0.5  # seconds


def settings_of(**server: object) -> dict[str, dict[str, Any]]:
    return {
        "access": {"mode": "read-write"},
        "upstream": {"max_connections": UPSTREAM_CONNECTIONS, "pool_timeout": 2 * SHORT},
        "server": server,
    }


@pytest_asyncio.fixture(loop_scope="module")
async def script() -> Script:
    return Script()


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def front(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Front]:
    async with standing(tmp_path_factory.mktemp("serve"), Script(), **settings_of()) as running:
        yield running


async def is_served(front: Front) -> bool:
    """Return whether another client gets a response of the archive."""
    async with connected(front.port) as other:
        other.ask(1)
        return (await other.answer(1)).status == 200


def readable(response: Response) -> bool:
    return response.get(b"access-control-allow-origin") == ORIGIN


async def flood(client: Client, frames: Iterator[bytes], most: int = MOST) -> None:
    """Send frames until the connection ends."""
    sent = 0
    with suppress(ConnectionError):
        while sent < most and not client.is_closed:
            batch = [next(frames) for _ in range(BATCH)]
            client.writer.write(b"".join(batch))
            sent += BATCH
            async with asyncio.timeout(PATIENCE):
                await client.writer.drain()
            await asyncio.sleep(0)


# Frames that cost the client nothing


def on_each_stream(*make: Callable[[int], bytes]) -> Iterator[bytes]:
    """Yield what each stream is sent."""
    for stream in count(1, 2):
        yield b"".join(each(stream) for each in make)


def held(stream: int) -> bytes:
    return request(stream, path=HOLD)


def in_pieces(stream: int, encoded: bytes) -> list[bytes]:
    """Return the frames of a header block of any size."""
    parts = [encoded[at : at + FRAME_BYTES] for at in range(0, len(encoded), FRAME_BYTES)]
    last = len(parts) - 1
    return [
        headers(stream, part, whole=last == 0)
        if number == 0
        else continuation(stream, part, whole=number == last)
        for number, part in enumerate(parts)
    ]


def posted(stream: int) -> bytes:
    return request(stream, b"POST", STUDIES, end=False)


def malformed(stream: int) -> bytes:
    return headers(stream, block(head(b"GET", STUDIES, (b"X", b"y"))))


def forever(*frames: bytes) -> Iterator[bytes]:
    while True:
        yield from frames


def after(first: bytes, *frames: bytes) -> Iterator[bytes]:
    yield first
    yield from forever(*frames)


UPLOAD: Final = request(1, b"POST", STUCK, end=False)

FLOODS: dict[str, Callable[[], Iterator[bytes]]] = {
    "reset at once (CVE-2023-44487)": lambda: on_each_stream(held, rst_stream),
    "reset of uploads": lambda: on_each_stream(posted, rst_stream),
    "reset of what needs no archive": lambda: on_each_stream(
        lambda stream: request(stream, path=ELSEWHERE), rst_stream
    ),
    "made to reset: WINDOW_UPDATE of 0 (CVE-2025-8671)": lambda: on_each_stream(
        held, lambda stream: window_update(stream, 0)
    ),
    "made to reset: a window that overflows": lambda: on_each_stream(
        held, lambda stream: window_update(stream, MAX_WINDOW)
    ),
    "made to reset: DATA after END_STREAM": lambda: on_each_stream(
        held, lambda stream: data(stream, b"x")
    ),
    "made to reset: HEADERS after END_STREAM": lambda: on_each_stream(held, held),
    "made to reset: PRIORITY of a wrong size": lambda: on_each_stream(
        held, lambda stream: frame(Kind.PRIORITY, 0, stream, b"")
    ),
    "made to reset: a head in capitals": lambda: on_each_stream(malformed),
    "made to reset: a body of a wrong length": lambda: on_each_stream(
        lambda stream: request(stream, b"POST", HOLD, (b"content-length", b"1"), end=False),
        lambda stream: data(stream, b"xy", end=True),
    ),
    "made to reset: more streams than allowed": lambda: on_each_stream(held),
    "empty CONTINUATION (CVE-2024-27316)": lambda: after(
        headers(1, block(head()), whole=False), continuation(1, whole=False)
    ),
    "CONTINUATION of a byte each": lambda: after(
        headers(1, block(head()) + b"\x00\x01x\x7f\xff\xff\x03", whole=False),
        continuation(1, b"y", whole=False),
    ),
    "CONTINUATION of the largest size": lambda: after(
        headers(1, block(head()), whole=False),
        continuation(1, indexed(2) * FRAME_BYTES, whole=False),
    ),
    "SETTINGS (CVE-2019-9515)": lambda: forever(settings()),
    "SETTINGS that change": lambda: forever(
        settings((Setting.INITIAL_WINDOW_SIZE, 1)), settings((Setting.INITIAL_WINDOW_SIZE, 2))
    ),
    "acknowledgements of SETTINGS": lambda: forever(frame(Kind.SETTINGS, ACK, 0)),
    "PING (CVE-2019-9512)": lambda: forever(ping()),
    "acknowledgements of PING": lambda: forever(ping(bytes(8), ACK)),
    "empty DATA (CVE-2019-9518)": lambda: after(UPLOAD, data(1)),
    "DATA of padding alone": lambda: after(
        UPLOAD, frame(Kind.DATA, PADDED, 1, b"\x00"), frame(Kind.DATA, PADDED, 1, b"\x03\0\0\0")
    ),
    "WINDOW_UPDATE of the connection": lambda: forever(window_update(0, 1)),
    "WINDOW_UPDATE of a stream": lambda: after(held(1), window_update(1, 1)),
    "WINDOW_UPDATE of a stream that ended": lambda: after(
        held(1) + rst_stream(1), window_update(1, 1)
    ),
    "PRIORITY (CVE-2019-9513)": lambda: forever(priority(1, 3), priority(3, 1)),
    "PRIORITY_UPDATE": lambda: after(held(1), frame(16, 0, 0, b"\0\0\0\x01u=1")),
    "an unknown type": lambda: forever(frame(Kind.UNKNOWN, 0, 0)),
    "RST_STREAM of a stream that ended": lambda: after(held(1), rst_stream(1)),
    "GOAWAY": lambda: forever(goaway()),
    "empty names (CVE-2019-9516)": lambda: on_each_stream(
        lambda stream: headers(stream, block(head(b"GET", STUDIES, (b"", b""))))
    ),
}


@measured
@pytest.mark.parametrize("frames", FLOODS.values(), ids=FLOODS)
async def test_flood_is_stopped(front: Front, frames: Callable[[], Iterator[bytes]]) -> None:
    asked = len(front.archive.requests)
    memory = Memory(front.process.child.pid)
    async with connected(front.port) as client:
        client.judges = False  # what comes after the end of a stream is not followed
        flooding = asyncio.create_task(flood(client, frames()))
        assert await is_served(front)
        await flooding
        assert name_of(await client.closed()) == "ENHANCE_YOUR_CALM"
    assert await is_served(front)
    assert memory.growth < CONNECTION_BYTES
    assert len(front.archive.requests) - asked < 1000


async def test_viewer_that_scrolls_is_not_a_flood(front: Front) -> None:
    """As many requests are cancelled as a browser has open, several times, each time for others."""
    async with connected(front.port) as client:
        for first in range(1, 1000, 200):
            for stream in range(first, first + 200, 2):
                client.ask(stream, HOLD if stream % 4 == 1 else STUDIES)
            for stream in range(first, first + 200, 4):
                client.send(rst_stream(stream))
            for response in await client.done(*range(first + 2, first + 200, 4)):
                assert response.status == 200
        assert not client.goaways


async def test_small_windows_are_not_a_flood(front: Front) -> None:
    """A slow reader that widens its windows for each piece is served to the end."""
    async with connected(front.port, (Setting.INITIAL_WINDOW_SIZE, 200)) as client:
        client.ask(1, ENDLESS)
        await client.until(lambda: client.responses[1].size > 200_000)
        assert not client.goaways
        client.send(rst_stream(1))


# More than the server has


async def test_streams_beyond_the_limit_are_refused(front: Front) -> None:
    async with connected(front.port) as client:
        assert client.settings is not None
        most = client.settings[Setting.MAX_CONCURRENT_STREAMS]
        streams = range(1, 2 * most + 6, 2)
        for stream in streams:
            client.ask(stream, HOLD)
        refused = [client.responses[stream] for stream in streams[most:]]
        await client.until(lambda: all(each.is_done for each in refused))
        assert {each.reset for each in refused} == {Code.REFUSED_STREAM}
        assert not any(client.responses[stream].is_done for stream in streams[:most])
        client.send(*map(rst_stream, streams[:most]))
        client.ask(1001)
        assert (await client.answer(1001)).status == 200


@measured
async def test_shut_windows_leave_connections_for_others(front: Front) -> None:
    """One client asks for more than the pool has, and takes nothing."""
    memory = Memory(front.process.child.pid)
    async with connected(front.port, (Setting.INITIAL_WINDOW_SIZE, 0), takes=False) as client:
        for stream in range(1, 601, 2):
            client.ask(stream, ENDLESS)
        await client.until(lambda: any(each.status for each in client.responses.values()))
        await client.step()
        for _ in range(3):
            assert await is_served(front)
        client.ask(1001, ELSEWHERE)
        assert not client.goaways
        assert memory.growth < CONNECTION_BYTES


@measured
async def test_windows_without_reading_cost_little_memory(front: Front) -> None:
    """The windows of HTTP/2 are open, that of TCP is shut (CVE-2019-9517)."""
    memory = Memory(front.process.child.pid)
    async with connected(front.port, (Setting.INITIAL_WINDOW_SIZE, MAX_WINDOW)) as client:
        client.send(window_update(0, MAX_WINDOW - 65_535))
        client.judges = False
        transport = client.writer.transport
        assert isinstance(transport, asyncio.Transport)
        transport.pause_reading()
        for stream in range(1, 201, 2):
            client.ask(stream, ENDLESS)
        for _ in range(10):
            assert await is_served(front)
    assert memory.growth < CONNECTION_BYTES


@measured
async def test_replies_that_nobody_reads_are_bounded(front: Front) -> None:
    """Preflights, errors and acknowledgements cost the server more bytes than the client."""
    memory = Memory(front.process.child.pid)
    preflight = [(b"access-control-request-method", b"GET")]
    async with connected(front.port) as client:
        client.judges = False
        transport = client.writer.transport
        assert isinstance(transport, asyncio.Transport)
        transport.pause_reading()
        frames = on_each_stream(lambda stream: request(stream, b"OPTIONS", STUDIES, *preflight))
        with suppress(TimeoutError):
            async with asyncio.timeout(2 * SHORT):
                await flood(client, frames, 500_000)
        assert await is_served(front)
    assert memory.growth < CONNECTION_BYTES


@measured
async def test_stalled_uploads_cost_little_memory(front: Front) -> None:
    memory = Memory(front.process.child.pid)
    async with connected(front.port) as client:
        for stream in range(1, 31, 2):
            client.send(request(stream, b"POST", STUCK, end=False))
            with suppress(TimeoutError):
                async with asyncio.timeout(SHORT / 5):
                    await client.upload(stream, bytes(8 * MIB))
        await client.step()
        assert await is_served(front)
        assert not client.goaways
    assert memory.growth < CONNECTION_BYTES


@measured
async def test_stalled_uploads_in_tiny_frames_cost_little_memory(front: Front) -> None:
    """A part of a body that is kept as it came costs more than its bytes."""
    memory = Memory(front.process.child.pid)
    async with connected(front.port) as client:
        streams = range(1, 51, 2)  # the first of them run, the others wait
        for stream in streams:
            client.send(request(stream, b"POST", STUCK, end=False))
            await client.step()
            for _ in range(max(0, client.room(stream)) // 2 // 1000):
                client.send(*[data(stream, b"xy")] * 1000)
                await client.push()
        await client.step()
        assert await is_served(front)
        assert not client.goaways
    assert memory.growth < 12 * MIB


@measured
async def test_cancelled_requests_that_waited_cost_no_memory(front: Front) -> None:
    """All that one client may have running is held, and others are opened and cancelled."""
    lines = [(b"x%d" % number, b"y" * 2000) for number in range(25)]
    async with connected(front.port, (Setting.INITIAL_WINDOW_SIZE, 0), takes=False) as client:
        for stream in range(1, 2 * UPSTREAM_CONNECTIONS, 2):
            client.ask(stream, ENDLESS)
        await client.until(lambda: client.responses[1].status)
        memory = Memory(front.process.child.pid)
        encoded = block(head(b"GET", STUDIES, *lines))
        for stream in range(1001, 1801, 2):
            await client.push(*in_pieces(stream, encoded), rst_stream(stream))
        await client.step()
        assert not client.goaways
        assert await is_served(front)
    assert memory.growth < 8 * MIB


# Header blocks that are larger decoded than encoded


class Bomb(NamedTuple):
    """A first block, and one that repeats what it has put into the table."""

    first: bytes
    then: bytes


BOMBS = {
    "one large entry, often": Bomb(indexing(b"x", b"y" * 4000), indexed(62) * 16_000),
    "many small entries, often": Bomb(
        b"".join(indexing(b"x%d" % number, b"y") for number in range(100)),
        bytes(range(0xBE, 0xBE + 60)) * 260,
    ),
    "cookies": Bomb(indexing(b"cookie", b"a=" + b"y" * 3990), indexed(62) * 16_000),
    "the empty line": Bomb(indexing(b"x", b""), indexed(62) * 16_000),
    "a line of the static table": Bomb(b"", indexed(0x10) * 16_000),
}


@measured
@pytest.mark.parametrize("bomb", BOMBS.values(), ids=BOMBS)
async def test_header_bomb_is_a_431(front: Front, bomb: Bomb) -> None:
    memory = Memory(front.process.child.pid)
    async with connected(front.port) as client:
        lines = block(head())
        client.send(headers(1, lines + bomb.first))
        await client.done(1)
        streams = range(3, 43, 2)
        for stream in streams:
            size = FRAME_BYTES - len(lines)
            client.send(headers(stream, lines + bomb.then[:size]))
        for response in await client.done(*streams):
            assert (response.status, readable(response)) == (431, True)
        client.ask(101)
        assert (await client.answer(101)).status == 200
    assert memory.growth < CONNECTION_BYTES


# Deadlines


@pytest_asyncio.fixture(loop_scope="module")
async def brief(tmp_path_factory: pytest.TempPathFactory, script: Script) -> AsyncIterator[Front]:
    short = settings_of(header_timeout=SHORT, body_timeout=SHORT, write_timeout=SHORT)
    async with standing(tmp_path_factory.mktemp("serve"), script, **short) as running:
        yield running


@pytest.mark.parametrize("shut", ["stream", "connection", "TCP"])
async def test_shut_window_is_a_stalled_client(brief: Front, script: Script, shut: str) -> None:
    """PING does not keep a response alive that nobody takes."""
    size = 0 if shut == "stream" else MAX_WINDOW
    async with connected(brief.port, (Setting.INITIAL_WINDOW_SIZE, size), takes=False) as client:
        client.judges = False
        if shut == "TCP":
            client.send(window_update(0, MAX_WINDOW - 65_535))
            transport = client.writer.transport
            assert isinstance(transport, asyncio.Transport)
            transport.pause_reading()
        client.ask(1, ENDLESS)
        leaving = asyncio.create_task(script.until_left(1))
        while not leaving.done():
            client.send(ping())
            await asyncio.wait([leaving], timeout=SHORT / 5)
        await leaving


async def drip(client: Client, frames: Iterator[bytes]) -> None:
    with suppress(ConnectionError):
        while not client.is_closed:
            client.writer.write(next(frames))
            await client.writer.drain()
            await asyncio.sleep(SHORT / 10)


DRIPS: Mapping[str, tuple[bytes, bytes]] = {
    "HEADERS without their end": (headers(201, block(head()), whole=False), b""),
    "CONTINUATION now and then": (
        headers(201, block(head()), whole=False),
        continuation(201, b"", whole=False),
    ),
    "half a frame": (request(201)[:-1], b""),
    "half the head of a frame": (request(201)[:5], b""),
    "HEADERS byte by byte": (request(201)[:9], b"\x00"),
}


@pytest.mark.parametrize("has_stream", [False, True], ids=["alone", "beside a stream"])
@pytest.mark.parametrize(("first", "then"), DRIPS.values(), ids=DRIPS)
async def test_head_block_has_a_deadline(
    brief: Front, first: bytes, then: bytes, has_stream: bool
) -> None:
    async with connected(brief.port) as client:
        client.judges = False
        if has_stream:
            client.send(held(101))
            await client.step()
        dripping = asyncio.create_task(drip(client, after(first, then)))
        await client.closed()
        await dripping


@pytest.mark.parametrize("raw", [b"", PREFACE[:10]])
async def test_beginning_has_a_deadline(brief: Front, raw: bytes) -> None:
    async with bare(brief.port) as client:
        client.judges = False  # half a preface may have a response of HTTP/1.1
        client.send(raw)
        await client.closed()


async def test_idle_connection_is_closed_whatever_it_sends(tmp_path: Path) -> None:
    idle = settings_of(keepalive_timeout=SHORT)
    async with standing(tmp_path, Script(), **idle) as front, connected(front.port) as client:
        client.ask(1)
        assert (await client.answer(1)).status == 200
        dripping = asyncio.create_task(drip(client, forever(ping())))
        assert await client.closed() == Code.NO_ERROR
        await dripping


async def test_stalled_upload_is_a_408(brief: Front) -> None:
    async with connected(brief.port) as client:
        client.send(request(1, b"POST", STUDIES, end=False), data(1, b"x"))
        await client.until(lambda: client.responses[1].is_ended)
        assert (client.responses[1].status, readable(client.responses[1])) == (408, True)


async def test_upload_in_drips_is_taken(brief: Front) -> None:
    async with connected(brief.port) as client:
        client.send(request(1, b"POST", STUDIES, end=False))
        for _ in range(20):
            client.send(data(1, b"x"))
            await asyncio.sleep(SHORT / 10)
        client.send(data(1, end=True))
        assert (await client.answer(1)).status == 200


# Many connections


async def test_half_a_frame_holds_no_connection(tmp_path: Path) -> None:
    """A client with nothing open is closed for others, whatever it has begun to send."""
    few = settings_of(max_connections=3)
    async with standing(tmp_path, Script(), **few) as front, AsyncExitStack() as stack:
        for _ in range(10):
            client = await stack.enter_async_context(connected(front.port))
            client.send(ping()[:-1])
        assert await is_served(front)


@measured
async def test_idle_connections_cost_little_memory(front: Front) -> None:
    async with AsyncExitStack() as stack:

        async def attack() -> None:
            client = await stack.enter_async_context(connected(front.port))
            client.ask(1)
            assert (await client.answer(1)).status == 200

        for _ in range(5):
            await attack()
        memory = Memory(front.process.child.pid)
        for _ in range(10):
            await asyncio.gather(*(attack() for _ in range(10)))
        assert memory.growth < 100 * 128 * 1024
