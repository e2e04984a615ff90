"""The memory of a serving process while one side is slow, or is gone."""

from __future__ import annotations

import asyncio
import ssl
from contextlib import AsyncExitStack
from typing import TYPE_CHECKING

import pytest

from tests.support import proxy as process
from tests.support.back_pressure import GIB, PIECE, connect, send_while_taken
from tests.support.memory import Memory, measured
from tests.support.sockets import ORIGIN, Wire, answer, archive, request

if TYPE_CHECKING:
    from pathlib import Path

    from tests.support.sockets import Head

READ_WRITE = {"mode": "read-write"}
MEMORY = 32 * 2**20


@measured
@pytest.mark.native_only("anyio, below httpx, holds megabytes for a reader that stalls")
async def test_twenty_readers_that_stall_cost_no_memory(tmp_path: Path) -> None:
    stalled = asyncio.Semaphore(0)
    go_on = asyncio.Event()

    async def handle(wire: Wire, _: Head) -> None:
        await wire.send(answer(length=GIB))
        rest = await send_while_taken(wire, GIB)
        assert rest
        stalled.release()
        await go_on.wait()
        while rest:
            await wire.send(PIECE[:rest])
            rest -= len(PIECE[:rest])

    async with archive(handle) as a:
        with process.serving(process.fronting(a.url, ORIGIN.decode()), tmp_path) as p:
            memory = Memory(p.child.pid)
            async with AsyncExitStack() as clients:
                readers = [
                    await clients.enter_async_context(await connect(p.root)) for _ in range(20)
                ]
                for reader in readers:
                    await reader.send(request())
                    assert (await reader.head()).status == 200
                for _ in readers:
                    await stalled.acquire()
                assert memory.growth < MEMORY
                go_on.set()
                rest = GIB
                while rest:
                    rest -= len(await readers[0].reader.read(len(PIECE)))
                assert memory.growth < MEMORY


@measured
async def test_half_a_gigabyte_of_metadata_is_rewritten_in_no_memory(tmp_path: Path) -> None:
    total = 500 * 2**20
    first_is_here = asyncio.Event()

    async def handle(wire: Wire, head: Head) -> None:
        url = b"http://%b/pacs/studies/1" % (head.get(b"host") or b"")
        dataset = b'{"00081190":{"vr":"UR","Value":["%b"]},"00204000":"%b"},' % (url, b"x" * 4000)
        piece = dataset * (len(PIECE) // len(dataset))
        lines = (b"Content-Type: application/dicom+json", b"Connection: close")
        await wire.send(b"HTTP/1.1 200 OK\r\n%b\r\n%b\r\n\r\n" % lines, piece)
        await first_is_here.wait()
        for _ in range(total // len(piece)):
            await wire.send(piece)
        wire.writer.close()

    async with archive(handle) as a:
        with process.serving(process.fronting(a.url, ORIGIN.decode()), tmp_path) as p:
            memory = Memory(p.child.pid)
            async with await connect(p.root) as client:
                await client.send(request("GET", "/dicom-web/studies/1/metadata"))
                await client.head()
                received = len(await client.chunk())
                first_is_here.set()
                while data := await client.reader.read(len(PIECE)):
                    received += len(data)
                    assert b"/pacs/" not in data
                    if data.endswith(b"\r\n0\r\n\r\n"):
                        break
                assert memory.growth < MEMORY
    assert received > total * 0.9


@measured
async def test_an_upload_that_the_archive_does_not_take_costs_no_memory(tmp_path: Path) -> None:
    stalled = asyncio.Event()

    async def handle(wire: Wire, _: Head) -> None:
        await stalled.wait()
        rest = GIB
        while rest:
            rest -= len(await wire.reader.read(len(PIECE)))
        await wire.send(answer(b"stored"))

    async with archive(handle) as a:
        configuration = process.fronting(a.url, ORIGIN.decode()) | {"access": READ_WRITE}
        with process.serving(configuration, tmp_path) as p:
            memory = Memory(p.child.pid)
            async with await connect(p.root) as client:
                await client.send(request("POST", "/dicom-web/studies", f"Content-Length: {GIB}"))
                rest = await send_while_taken(client, GIB)
                assert rest
                assert memory.growth < MEMORY
                stalled.set()
                while rest:
                    await client.send(PIECE[:rest])
                    rest -= len(PIECE[:rest])
                assert await client.body(await client.head()) == b"stored"
                assert memory.growth < MEMORY


@measured
async def test_connections_over_tls_that_are_gone_hold_no_memory(tmp_path: Path) -> None:
    async def handle(wire: Wire, _: Head) -> None:
        await wire.send(answer(bytes(600_000), length=1_200_000))
        await wire.closed()
        gone.release()

    gone = asyncio.Semaphore(0)
    trust = ssl.create_default_context()
    trust.check_hostname, trust.verify_mode = False, ssl.CERT_NONE
    async with archive(handle) as a:
        configuration = process.fronting(a.url, ORIGIN.decode())
        env = {"XDG_STATE_HOME": str(tmp_path)}
        with process.serving(configuration, tmp_path, "--tls-self-signed", env=env) as p:
            port = int(p.root.rpartition(":")[2])
            memory = Memory(p.child.pid)
            for _ in range(500):
                client = Wire(*await asyncio.open_connection("127.0.0.1", port, ssl=trust))
                await client.send(request())
                await client.head()
                client.writer.transport.abort()
                await gone.acquire()
            assert memory.growth < 5 * MEMORY  # half a megabyte each would be 250 MB
