"""Clients that send bodies in tiny chunks, pipeline or send long lines: what they cost."""

from __future__ import annotations

import asyncio
import time
from contextlib import AsyncExitStack
from typing import TYPE_CHECKING, NamedTuple

import pytest

from tests.support.attacks import PATIENCE, Front, standing
from tests.support.memory import Memory, measured
from tests.support.sockets import Head, Wire, answer, request

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

CLIENTS = 200
SENT = 256 * 1024  # bytes by each
MOST_A_CLIENT = 128 * 1024

# Seconds for a response of /healthz meanwhile. When every chunk was an object, it took 1.5 s.
MOST_SECONDS = 1.0

TINY = b"2\r\nab\r\n" * (SENT // 7)
CHUNKED = "Transfer-Encoding: chunked"
STUDIES = "/dicom-web/studies"


class Attack(NamedTuple):
    """A request that every client sends, in front of a proxy in a mode."""

    raw: bytes
    mode: str = "read-only"


ATTACKS: Mapping[str, Attack] = {
    "rejected": Attack(request("POST", "/nowhere", CHUNKED) + TINY),
    "method not allowed": Attack(request("POST", STUDIES, CHUNKED) + TINY),
    "rejected GET": Attack(request("GET", STUDIES, CHUNKED) + TINY),
    "waiting for a slot": Attack(request("POST", STUDIES, CHUNKED) + TINY, "read-write"),
    "rejected, of known length": Attack(
        request("POST", "/nowhere", f"Content-Length: {2 * SENT}") + TINY
    ),
    "pipelined": Attack(request("GET", STUDIES) * (SENT // 100)),
    "pipelined long heads": Attack(request("GET", STUDIES, "A: " + "b" * 15_000) * 8),
    "endless line": Attack(request("GET", STUDIES)[:-2] + b"A: " + b"b" * SENT),
}


async def ignore(_: Wire, __: Head) -> None:
    """Answer nothing, and read nothing of the body."""
    await asyncio.Event().wait()


async def healthz(front: Front) -> float:
    began = time.perf_counter()
    head, _ = await front.ask(request("GET", "/healthz"))
    assert head.status == 200
    return time.perf_counter() - began


@measured
@pytest.mark.parametrize("attack", ATTACKS.values(), ids=ATTACKS)
async def test_a_client_costs_little_memory_and_no_stall(tmp_path: Path, attack: Attack) -> None:
    async with (
        standing(
            tmp_path,
            ignore,
            access={"mode": attack.mode},
            upstream={"max_connections": 1, "pool_timeout": 60},
        ) as front,
        asyncio.timeout(6 * PATIENCE),
        AsyncExitStack() as stack,
    ):
        await healthz(front)
        memory = Memory(front.process.child.pid)
        slowest = 0.0
        for number in range(CLIENTS):
            wire = await stack.enter_async_context(await front.connect())
            stack.callback(wire.reset)
            wire.writer.write(attack.raw)
            if number % 20 == 0:
                slowest = max(slowest, await healthz(front))
        for _ in range(10):
            slowest = max(slowest, await healthz(front))
        assert memory.growth < CLIENTS * MOST_A_CLIENT
        assert slowest < MOST_SECONDS


async def test_uploads_in_tiny_chunks_leave_others_their_turn(tmp_path: Path) -> None:
    async def store(wire: Wire, head: Head) -> None:
        await wire.body(head)
        await wire.send(answer(b"stored"))

    async def upload(front: Front) -> bytes:
        async with await front.connect() as wire:
            await wire.send(request("POST", STUDIES, CHUNKED) + TINY + b"0\r\n\r\n")
            return await wire.body(await wire.head())

    async with (
        standing(tmp_path, store, access={"mode": "read-write"}) as front,
        asyncio.timeout(6 * PATIENCE),
    ):
        uploads = [asyncio.create_task(upload(front)) for _ in range(20)]
        while not front.archive.requests:  # noqa: ASYNC110  (no event tells)
            await asyncio.sleep(0.01)
        assert await healthz(front) < MOST_SECONDS
        assert set(await asyncio.gather(*uploads)) == {b"stored"}


@pytest.mark.parametrize("method", ["GET", "HEAD", "OPTIONS"])
async def test_an_empty_chunked_body_is_not_forwarded(tmp_path: Path, method: str) -> None:
    async with standing(tmp_path) as front, asyncio.timeout(PATIENCE):
        for pieces in ([b"0\r\n\r\n"], [b"", b"0\r\n", b"\r\n"], [b"0;a=b\r\nA: b\r\n\r\n"]):
            front.archive.requests.clear()
            async with await front.connect() as wire:
                await wire.send(request(method, STUDIES, CHUNKED))
                for piece in pieces:
                    await wire.send(piece)
                    await healthz(front)  # the pieces before arrive alone
                assert (await wire.head()).status == 200
            (sent,) = front.archive.requests
            assert sent.get(b"transfer-encoding") is sent.get(b"content-length") is None


@pytest.mark.parametrize("method", ["GET", "HEAD", "OPTIONS"])
async def test_a_chunked_body_with_content_is_a_400(tmp_path: Path, method: str) -> None:
    async with standing(tmp_path) as front, asyncio.timeout(PATIENCE):
        async with await front.connect() as wire:
            await wire.send(request(method, STUDIES, CHUNKED))
            await healthz(front)
            await wire.send(b"1\r\n")
            await wire.send(b"a")
            assert (await wire.head()).status == 400
        assert front.archive.requests == []


async def test_an_empty_body_that_does_not_end_is_a_408(tmp_path: Path) -> None:
    async with standing(tmp_path, server={"body_timeout": 0.2}) as front:
        head, _ = await front.ask(request("GET", STUDIES, CHUNKED))
        assert head.status == 408
        assert front.archive.requests == []
